package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// What it costs, and what it can be made to cost.

// inUse returns the bytes of the heap and of stacks that are in use.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// boundFaults are the rows B of FAULTS.md that need no reconnecting.
var boundFaults = map[string]func(t *testing.T){
	"B1 memory under lengths that are only announced": faultAnnounced,
	"B1 memory under a line that does not end":        faultEndless,
	"B6 allocations in a steady state":                TestAllocations,
	"F11 delimiter that trickles":                     faultTrickledLine,
}

func faultEndless(t *testing.T) {
	c, p := connectMemory(t, tcpclient.Dialer{Framer: tcpclient.Lines{MaxSize: 100_000}})
	before := inUse()
	sent := start(t, func() (n int) {
		chunk := bytes.Repeat([]byte("a"), 10_000)
		for {
			k, err := p.Write(chunk)
			if n += k; err != nil {
				return n
			}
		}
	})
	_, err := c.Receive(t.Context())
	var tooLarge *tcpclient.FrameTooLargeError
	require.ErrorAs(t, err, &tooLarge)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.Less(t, sent(), 100_000+2*(64<<10)+64<<10, "it stops at MaxSize and what buffers hold")
	require.Less(t, inUse()-before, int64(1<<20))
}

func faultTrickledLine(t *testing.T) {
	// One byte per read: searching must go on where it stopped.
	if raceEnabled {
		t.Skip("the race detector makes the reads so slow that the search could hide behind them")
	}
	took := func(size int) time.Duration {
		stream := append(bytes.Repeat([]byte("a"), size), '\n')
		c, _, _ := connectWrapped(t, tcpclient.Dialer{Framer: tcpclient.Delimiter{Delim: []byte("\r\n\n"), MaxSize: 8 << 20}}, func(w *wrapper) {
			source := iotest.OneByteReader(io.MultiReader(bytes.NewReader(stream[:size]), strings.NewReader("\r\n\n"), iotest.ErrReader(io.EOF)))
			w.read = source.Read
		})
		began := time.Now()
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Len(t, msg, size)
		return time.Since(began)
	}
	small, large := time.Hour, time.Hour
	for range 5 {
		small, large = min(small, took(128<<10)), min(large, took(1<<20))
		if large < 16*small {
			return
		}
	}
	require.Less(t, large, 16*small, "8 times as many bytes")
}

func faultAnnounced(t *testing.T) {
	const conns = 200
	l := listenTCP(t)
	peers := make([]net.Conn, conns)
	clients := make([]*tcpclient.Client, conns)
	before := inUse()
	for i := range conns {
		done := make(chan struct{})
		go func() { defer close(done); peers[i], _ = l.Accept() }()
		var err error
		clients[i], err = tcpclient.Dial(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		<-done
		defer peers[i].Close()
		defer clients[i].Close()
		peers[i].Write(append(binary.BigEndian.AppendUint32(nil, 4<<20), 'x'))
	}
	ctx := within(t, 100*time.Millisecond)
	for _, c := range clients {
		_, err := c.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	each := (inUse() - before) / conns
	t.Logf("%d bytes per connection", each)
	require.Less(t, each, int64(64<<10))
	runtime.KeepAlive(clients)
}

func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	t.Run("of an idle Client is small", func(t *testing.T) { // section 5: ≤ 13 KiB
		const conns = 200
		n := tcpclienttest.NewNetwork()
		l := listenNetwork(t, n)
		clients := make([]*tcpclient.Client, conns)
		var peers []net.Conn
		for range conns {
			near, far := net.Pipe()
			peers = append(peers, near, far)
		}
		next := 0
		before := inUse()
		for i := range clients {
			c, err := (&tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
				next += 2
				return peers[next-2], nil
			}}).Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			clients[i] = c
			defer c.Close()
		}
		each := (inUse() - before) / conns
		t.Logf("%d bytes per idle Client", each)
		limit := int64(13 << 10)
		if runtime.GOOS == "windows" {
			limit += 8 << 10 // stacks begin with 8 KiB there: 11 for each Client as measured, 5 elsewhere
		}
		require.Less(t, each, limit)
		runtime.KeepAlive(clients)
	})

	t.Run("of a Client that was busy once comes back", func(t *testing.T) { // P6
		const conns = 50
		n := tcpclienttest.NewNetwork()
		l := listenNetwork(t, n)
		clients := make([]*tcpclient.Client, conns)
		var wg sync.WaitGroup
		for i := range clients {
			c, p := l.connect(t, tcpclient.Dialer{})
			clients[i] = c
			wg.Go(p.echo)
		}
		before := inUse()
		big := pattern(1 << 20)
		for _, c := range clients {
			require.NoError(t, c.Send(t.Context(), big))
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
			for range 200 { // back to normal
				require.NoError(t, c.Send(t.Context(), []byte("small")))
				_, err := c.Receive(t.Context())
				require.NoError(t, err)
			}
		}
		each := (inUse() - before) / conns
		t.Logf("%d bytes per Client that has sent and received 1 MiB", each)
		require.Less(t, each, int64(512<<10))
		for _, c := range clients {
			c.Close()
		}
		wg.Wait()
	})
}

func TestInbox(t *testing.T) {
	t.Run("is bounded and pushes back", func(t *testing.T) { // P6
		for _, size := range []int{1, 164, 10_000, 100_000} {
			for _, msg := range []int{0, 100, 3000, 50_000} {
				synctest.Test(t, func(t *testing.T) {
					const readBuffer = 4096
					n := &tcpclienttest.Network{Buffer: 4096}
					c, p := listenNetwork(t, n).connect(t, tcpclient.Dialer{Inbox: size, ReadBuffer: readBuffer})
					sent := 0
					go func() {
						for range 400_000/(msg+64) + 3 {
							if _, err := p.Write(frame(string(pattern(msg)))); err != nil {
								return
							}
							sent++
						}
						p.Close()
					}()
					synctest.Wait()
					// Beside the Inbox there are one message that waits for room, the
					// read buffer, the socket and the frame that is being written.
					inside := size/(msg+64) + 2 + (2*readBuffer+4096)/(msg+4)
					require.LessOrEqual(t, sent, inside+1, "Inbox %d, messages of %d", size, msg)
					require.LessOrEqual(t, int(c.Stats().MessagesReceived), max(1, size/(msg+64)), "Inbox %d, messages of %d", size, msg)
					if msg+64 <= size {
						require.Positive(t, c.Stats().MessagesReceived, "Inbox %d, messages of %d, %d sent", size, msg, sent)
					}
					got, err := receiveAll(t, c)
					require.ErrorIs(t, err, io.EOF)
					require.Len(t, got, 400_000/(msg+64)+3)
				})
			}
		}
	})

	t.Run("takes one message of any size", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			c, p := connectMemory(t, tcpclient.Dialer{Inbox: 1})
			want := string(pattern(1 << 20))
			go p.Write(frames(want, want))
			time.Sleep(time.Second)
			require.Equal(t, uint64(1), c.Stats().MessagesReceived)
			for range 2 {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.True(t, want == string(msg))
			}
		})
	})
}

func TestWriteBuffer(t *testing.T) {
	t.Run("is bounded and pushes back on Write", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			c, _ := connectNarrow(t, 1000, tcpclient.Dialer{WriteBuffer: 5000, WriteTimeout: -1})
			written := 0
			var err error
			for err == nil {
				if err = c.Write(within(t, time.Second), pattern(96)); err == nil {
					written += 100
				}
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.True(t, opError(t, err).Unsent)
			// One buffer waits, one is under way.
			require.LessOrEqual(t, written, 1000+2*(5000+100))
		})
	})

	t.Run("is bounded and pushes back on Send", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			// Each Send that gives up leaves a frame in the buffer, but not for ever.
			c, p := connectNarrow(t, 500, tcpclient.Dialer{WriteBuffer: 5000, WriteTimeout: -1})
			left := 0
			for range 1000 {
				err := c.Send(within(t, time.Millisecond), pattern(996))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				if !opError(t, err).Unsent {
					left++
				}
			}
			require.LessOrEqual(t, left, 20, "1000 Sends in vain fill the buffer with as many frames")
			go p.echo()
			for range left {
				_, err := c.Receive(t.Context())
				require.NoError(t, err)
			}
		})
	})

	t.Run("does not grow under many who Send and give up", func(t *testing.T) { // P6
		c, p := transportNamed("tcp").connect(t, tcpclient.Dialer{WriteTimeout: -1})
		stall(t, c)
		before := inUse()
		big := pattern(64 << 10)
		for range 1000 {
			c.Send(within(t, 10*time.Microsecond), big)
			c.Send(canceledSoon(t), big)
		}
		require.Less(t, inUse()-before, int64(4<<20))
		hangUp(p.Conn)
	})
}

// canceledSoon returns a context that is canceled by another goroutine.
func canceledSoon(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	return ctx
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	// TLS has allocations of its own.
	for _, name := range []string{"tcp", "unix"} {
		for _, size := range []int{0, 64, 1000, 5000, 100_000} {
			t.Run(fmt.Sprintf("%s, messages of %d bytes", name, size), func(t *testing.T) { // P12, FAULTS B6
				tr := transportNamed(name)
				for what, ctx := range map[string]context.Context{
					"background":  context.Background(),
					"cancellable": t.Context(),
					"deadline":    within(t, time.Hour),
				} {
					t.Run(what, func(t *testing.T) { testAllocations(t, ctx, tr, pattern(size)) })
				}
			})
		}
	}
}

func testAllocations(t *testing.T, ctx context.Context, tr transport, msg []byte) {
	c, p := tr.connect(t, tcpclient.Dialer{})
	// The peer must not allocate either.
	echo := make([]byte, 1<<20)
	go func() {
		for {
			n, err := p.Read(echo)
			if err != nil {
				return
			}
			if _, err := p.Write(echo[:n]); err != nil {
				return
			}
		}
	}()
	var buf []byte
	var err error
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	receive := func() {
		buf, err = c.ReceiveInto(ctx, buf)
		check(err)
	}
	measure := func(what string, f func()) {
		t.Helper()
		for range 300 {
			f()
		}
		// A rare one, such as of a slice that grows for the last time, is not of each call.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		if n := testing.AllocsPerRun(300, f); n >= 1 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
	measure("Send and ReceiveInto", func() {
		check(c.Send(ctx, msg))
		receive()
	})
	batch := min(100, 200_000/(len(msg)+64)) // as many as the Inbox takes
	measure("Write, Flush and ReceiveInto", func() {
		for range batch {
			check(c.Write(ctx, msg))
		}
		check(c.Flush(ctx))
		for range batch {
			receive()
		}
	})
	measure("Write, Flush and Messages", func() {
		for range batch {
			check(c.Write(ctx, msg))
		}
		check(c.Flush(ctx))
		i := 0
		for _, err := range c.Messages(ctx) {
			check(err)
			if i++; i == batch {
				break
			}
		}
	})
	// One loop that goes on.
	var n float64
	i := 0
	check(c.Send(ctx, msg))
	for _, err := range c.Messages(ctx) {
		check(err)
		if i++; i == 300 {
			break
		}
		if i == 2 {
			n = mallocs()
		}
		check(c.Send(ctx, msg))
	}
	if per := (mallocs() - n) / 298; per >= 0.5 {
		t.Errorf("a loop over Messages allocates %v times per message", per)
	}
}

func mallocs() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Mallocs)
}

func TestSystemCalls(t *testing.T) {
	t.Run("of writing follow the flushes, not the messages", func(t *testing.T) { // P12
		synctest.Test(t, func(t *testing.T) {
			c, p, w := connectWrapped(t, tcpclient.Dialer{}, nil)
			go io.Copy(io.Discard, p)
			for range 1000 {
				require.NoError(t, c.Write(t.Context(), pattern(30)))
			}
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, 1, w.writes(), "one flush")
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, 1, w.writes(), "a flush of nothing")
			require.NoError(t, c.Send(t.Context(), pattern(30)))
			require.Equal(t, 2, w.writes(), "header and payload go together")
			require.NoError(t, c.Send(t.Context(), pattern(50_000)))
			require.LessOrEqual(t, w.writes(), 3, "also those of a large message")
			require.Equal(t, uint64(1002), c.Stats().MessagesSent)
			require.Equal(t, uint64(3), c.Stats().Flushes)
		})
	})

	t.Run("are shared by concurrent Sends", func(t *testing.T) { // P12
		synctest.Test(t, func(t *testing.T) {
			c, p, w := connectWrapped(t, tcpclient.Dialer{}, nil)
			gate := make(chan struct{})
			calls := 0
			w.write = func(b []byte) (int, error) {
				if calls++; calls == 1 {
					<-gate
				}
				return w.Conn.Write(b)
			}
			go io.Copy(io.Discard, p)
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() { c.Send(t.Context(), pattern(30)) })
			}
			synctest.Wait()
			close(gate)
			wg.Wait()
			require.LessOrEqual(t, w.writes(), 3)
		})
	})

	t.Run("of reading follow the bytes, not the messages", func(t *testing.T) { // P12
		c, p, w := connectWrapped(t, tcpclient.Dialer{}, nil)
		const n = 100_000
		go func() {
			b := bufio.NewWriterSize(p, 64<<10)
			for range n {
				b.Write(frame("0123456789"))
			}
			b.Flush()
			p.Close()
		}()
		count := 0
		for _, err := range c.Messages(t.Context()) {
			if err != nil {
				break
			}
			count++
		}
		require.Equal(t, n, count)
		require.Less(t, w.reads(), n/100)
	})
}

func TestCounters(t *testing.T) {
	c, p := connectMemory(t, tcpclient.Dialer{})
	require.Equal(t, tcpclient.Stats{Connects: 1, Connected: true}, c.Stats())
	require.NoError(t, c.Write(t.Context(), []byte("one")))
	require.Zero(t, c.Stats().MessagesSent, "not handed to the network yet")
	require.NoError(t, c.Send(t.Context(), []byte("three")))
	p.send("twelve bytes", "", "x")
	for range 3 {
		_, err := c.Receive(t.Context())
		require.NoError(t, err)
	}
	want := tcpclient.Stats{MessagesReceived: 3, BytesReceived: 13, MessagesSent: 2, BytesSent: 16, Flushes: 1, Connects: 1, Connected: true}
	require.Equal(t, want, c.Stats())
	require.NoError(t, c.Close())
	want.Connected = false
	require.Equal(t, want, c.Stats(), "the counters stay")
}
