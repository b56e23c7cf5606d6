package tcpclient_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// The floor is what one goroutine writes by hand with net.Conn and bufio, without locks
// and contexts. It runs beside the Client, so that results can be compared in one run:
//
//	go test -run '^$' -bench . -count 10 | tee new.txt
//	benchstat -col /impl new.txt
//
// Servers are goroutines of this process here, which share its processors.
// internal/bench measures with another process and pins both.

// benchBuffer is the size of the floor's buffers and of the server's.
const benchBuffer = 64 << 10

// benchWindow is what the server's sockets take in. A system that may choose settles on one of
// several sizes, by chance, and the copies out of a large one miss the caches.
const benchWindow = 192 << 10

// benchEcho is a server that returns what it gets, length prefixes and all.
func benchEcho(b *testing.B) string {
	return benchServe(b, func(conn net.Conn) {
		io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, make([]byte, benchBuffer))
	})
}

// benchSource is a server that sends messages of size bytes for ever.
func benchSource(b *testing.B, size int) string {
	frame := make([]byte, 4+size)
	binary.BigEndian.PutUint32(frame, uint32(size))
	var block []byte
	for len(block) < benchBuffer {
		block = append(block, frame...)
	}
	return benchServe(b, func(conn net.Conn) {
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
}

// benchSink is a server that reads.
func benchSink(b *testing.B) string {
	return benchServe(b, func(conn net.Conn) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 4*benchBuffer))
	})
}

// benchServe serves every connection with handle, until the benchmark is over.
func benchServe(b *testing.B, handle func(net.Conn)) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				if err := conn.(*net.TCPConn).SetReadBuffer(benchWindow); err != nil {
					b.Error(err)
				}
				handle(conn)
			})
		}
	})
	b.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

// benchDial returns a Client, closed before its server.
func benchDial(b *testing.B, d tcpclient.Dialer, addr string) *tcpclient.Client {
	b.Helper()
	c, err := d.Dial(b.Context(), "tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// A floor is the hand-written client.
type floor struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
}

func dialFloor(b *testing.B, addr string) *floor {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return &floor{conn, bufio.NewReaderSize(conn, benchBuffer), bufio.NewWriterSize(conn, benchBuffer)}
}

func (f *floor) write(msg []byte) error {
	f.w.Write(binary.BigEndian.AppendUint32(f.w.AvailableBuffer(), uint32(len(msg))))
	_, err := f.w.Write(msg)
	return err
}

// read returns the next message, which is valid until the next call, in buf if it is
// larger than the buffer.
func (f *floor) read(buf []byte) ([]byte, error) {
	header, err := f.r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(header))
	f.r.Discard(4)
	if size > f.r.Size() {
		_, err := io.ReadFull(f.r, buf[:size])
		return buf[:size], err
	}
	msg, err := f.r.Peek(size)
	f.r.Discard(len(msg))
	return msg, err
}

func (f *floor) send(msg []byte) error {
	if err := f.write(msg); err != nil {
		return err
	}
	return f.w.Flush()
}

// BenchmarkPingPong sends a message, waits for its echo, and sends the next.
func BenchmarkPingPong(b *testing.B) {
	msg := make([]byte, 64)
	b.Run("impl=floor/size=64", func(b *testing.B) {
		f := dialFloor(b, benchEcho(b))
		b.SetBytes(64)
		b.ReportAllocs()
		for b.Loop() {
			if err := f.send(msg); err != nil {
				b.Fatal(err)
			}
			if _, err := f.read(nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("impl=tcpclient/size=64", func(b *testing.B) {
		c := benchDial(b, tcpclient.Dialer{}, benchEcho(b))
		ctx := b.Context() // can be cancelled, and is not
		var buf []byte
		b.SetBytes(64)
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Send(ctx, msg); err != nil {
				b.Fatal(err)
			}
			var err error
			if buf, err = c.ReceiveInto(ctx, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

var benchSizes = []int{64, 1 << 10, 64 << 10, 1 << 20}

// BenchmarkReceive takes in a stream.
func BenchmarkReceive(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("impl=floor/size=%d", size), func(b *testing.B) {
			f := dialFloor(b, benchSource(b, size))
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.read(buf); err != nil {
					b.Fatal(err)
				}
			}
			f.conn.Close()
		})
		b.Run(fmt.Sprintf("impl=Messages/size=%d", size), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{}, benchSource(b, size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for _, err := range c.Messages(b.Context()) {
				if err != nil {
					b.Fatal(err)
				}
				if !b.Loop() {
					break
				}
			}
		})
		b.Run(fmt.Sprintf("impl=ReceiveInto/size=%d", size), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{}, benchSource(b, size))
			ctx := b.Context()
			var buf []byte
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if buf, err = c.ReceiveInto(ctx, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("impl=Receive/size=%d", size), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{}, benchSource(b, size))
			ctx := b.Context()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Receive(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWrite writes a stream, which is flushed whenever the buffer is full.
func BenchmarkWrite(b *testing.B) {
	for _, size := range benchSizes {
		msg := make([]byte, size)
		b.Run(fmt.Sprintf("impl=floor/size=%d", size), func(b *testing.B) {
			f := dialFloor(b, benchSink(b))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := f.write(msg); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.w.Flush(); err != nil {
				b.Fatal(err)
			}
		})
		b.Run(fmt.Sprintf("impl=tcpclient/size=%d", size), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{}, benchSink(b))
			ctx := b.Context()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Write(ctx, msg); err != nil {
					b.Fatal(err)
				}
			}
			if err := c.Flush(ctx); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// benchShare runs f on conc goroutines, b.N times in all.
func benchShare(b *testing.B, conc int, f func() error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range conc {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

var benchConc = []int{1, 8, 64}

// BenchmarkSend has many goroutines send on one connection, each returning when its
// message was written. The floor is one goroutine that flushes once for as many. The
// mutex is what one writes first: a lock, and a flush for each message.
func BenchmarkSend(b *testing.B) {
	msg := make([]byte, 64)
	for _, conc := range benchConc {
		b.Run(fmt.Sprintf("impl=floor/size=64/conc=%d", conc), func(b *testing.B) {
			f := dialFloor(b, benchSink(b))
			b.SetBytes(64)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				err := f.write(msg)
				if err == nil && i%conc == 0 {
					err = f.w.Flush()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("impl=mutex/size=64/conc=%d", conc), func(b *testing.B) {
			f := dialFloor(b, benchSink(b))
			var mu sync.Mutex
			b.SetBytes(64)
			benchShare(b, conc, func() error {
				mu.Lock()
				defer mu.Unlock()
				return f.send(msg)
			})
		})
		b.Run(fmt.Sprintf("impl=tcpclient/size=64/conc=%d", conc), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{}, benchSink(b))
			ctx := b.Context()
			b.SetBytes(64)
			benchShare(b, conc, func() error { return c.Send(ctx, msg) })
		})
	}
}

// BenchmarkSendLarge has one goroutine send large messages. What one writes first, a bufio.Writer
// of the usual size and a flush, copies next to nothing of them.
func BenchmarkSendLarge(b *testing.B) {
	for _, size := range []int{16 << 10, 64 << 10, 1 << 20} {
		msg := make([]byte, size)
		run := func(impl string, dial func(b *testing.B) (send func() error)) {
			b.Run(fmt.Sprintf("impl=%s/size=%d", impl, size), func(b *testing.B) {
				send := dial(b)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := send(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("floor", func(b *testing.B) func() error {
			f := dialFloor(b, benchSink(b))
			f.w = bufio.NewWriter(f.conn)
			return func() error { return f.send(msg) }
		})
		run("tcpclient", func(b *testing.B) func() error {
			c := benchDial(b, tcpclient.Dialer{}, benchSink(b))
			ctx := b.Context()
			return func() error { return c.Send(ctx, msg) }
		})
	}
}

// BenchmarkCall has many goroutines make requests on one connection. The mutex is held
// from the request to its reply, around a hand-written write and read, or around Send and
// Receive of a Client; net/rpc is the standard library's answer.
func BenchmarkCall(b *testing.B) {
	msg := make([]byte, 64)
	for _, conc := range benchConc {
		b.Run(fmt.Sprintf("impl=mutex/size=64/conc=%d", conc), func(b *testing.B) {
			f := dialFloor(b, benchEcho(b))
			var mu sync.Mutex
			b.SetBytes(64)
			benchShare(b, conc, func() error {
				mu.Lock()
				defer mu.Unlock()
				if err := f.send(msg); err != nil {
					return err
				}
				_, err := f.read(nil)
				return err
			})
		})
		b.Run(fmt.Sprintf("impl=sendreceive/size=64/conc=%d", conc), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{}, benchEcho(b))
			ctx := b.Context()
			var mu sync.Mutex
			b.SetBytes(64)
			benchShare(b, conc, func() error {
				mu.Lock()
				defer mu.Unlock()
				if err := c.Send(ctx, msg); err != nil {
					return err
				}
				_, err := c.Receive(ctx)
				return err
			})
		})
		b.Run(fmt.Sprintf("impl=netrpc/size=64/conc=%d", conc), func(b *testing.B) {
			addr := benchServe(b, func(conn net.Conn) {
				s := rpc.NewServer()
				s.RegisterName("Echo", BenchEcho{})
				s.ServeConn(conn)
			})
			c, err := rpc.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { c.Close() })
			b.SetBytes(64)
			benchShare(b, conc, func() error {
				var reply []byte
				return c.Call("Echo.Echo", msg, &reply)
			})
		})
		b.Run(fmt.Sprintf("impl=tcpclient/size=64/conc=%d", conc), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}, benchEcho(b))
			ctx := b.Context()
			b.SetBytes(64)
			benchShare(b, conc, func() error {
				_, err := c.Call(ctx, msg)
				return err
			})
		})
		b.Run(fmt.Sprintf("impl=session/size=64/conc=%d", conc), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}, benchEcho(b))
			s, err := c.Session()
			if err != nil {
				b.Fatal(err)
			}
			ctx := b.Context()
			b.SetBytes(64)
			benchShare(b, conc, func() error {
				_, err := s.Call(ctx, msg)
				return err
			})
		})
		b.Run(fmt.Sprintf("impl=replies/size=64/conc=%d", conc), func(b *testing.B) {
			c := benchDial(b, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}, benchEcho(b))
			ctx := b.Context()
			b.SetBytes(64)
			benchShare(b, conc, func() (err error) {
				for _, err = range c.Replies(ctx, msg) {
				}
				return err
			})
		})
	}
}

// BenchEcho is the service for net/rpc, which wants it exported.
type BenchEcho struct{}

// Echo returns request.
func (BenchEcho) Echo(request []byte, reply *[]byte) error {
	*reply = request
	return nil
}

// BenchmarkIdle reports what a Client costs that does nothing, after one round trip: heap
// and stacks, those of the server's goroutine for it included in neither.
func BenchmarkIdle(b *testing.B) {
	const clients = 200
	addr := benchEcho(b)
	used := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	cost := func(b *testing.B, dial func() io.Closer) float64 {
		before := used()
		all := make([]io.Closer, clients)
		for i := range all {
			all[i] = dial()
		}
		after := used()
		for _, c := range all {
			c.Close()
		}
		return float64(after-before) / clients
	}
	// A bare connection costs the server as much as a Client does.
	bare := func(b *testing.B) float64 {
		return cost(b, func() io.Closer {
			f := dialBare(b, addr)
			frame := make([]byte, 4+64)
			binary.BigEndian.PutUint32(frame, 64)
			if _, err := f.Write(frame); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(f, frame); err != nil {
				b.Fatal(err)
			}
			return f
		})
	}
	for _, heartbeat := range []bool{false, true} {
		b.Run(fmt.Sprintf("impl=tcpclient/heartbeat=%t", heartbeat), func(b *testing.B) {
			var d tcpclient.Dialer
			if heartbeat {
				d.Heartbeat = tcpclient.Heartbeat{
					Interval: 1 << 40,
					Ping:     func() []byte { return []byte("ping") },
					IsPong:   func(msg []byte) bool { return string(msg) == "ping" },
				}
			}
			var sum float64
			for b.Loop() {
				sum += cost(b, func() io.Closer {
					c, err := d.Dial(b.Context(), "tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					if err := c.Send(b.Context(), make([]byte, 64)); err != nil {
						b.Fatal(err)
					}
					if _, err := c.Receive(b.Context()); err != nil {
						b.Fatal(err)
					}
					return c
				}) - bare(b)
			}
			b.ReportMetric(sum/float64(b.N), "B/client")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func dialBare(b *testing.B, addr string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}
