package tcpclienttest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bufferSize is that of the in-memory transports, small enough to be filled at once.
const bufferSize = 4 << 10

// A transport makes pairs of connected connections. What they have in common with TCP
// is tested on TCP too.
type transport struct {
	name   string
	bubble bool // tested in a synctest bubble
	tcp    bool
	pair   func(t *testing.T) (near, far net.Conn)
}

var transports = []transport{
	{name: "tcp", tcp: true, pair: tcpPair},
	{name: "memory", pair: memoryPair},
	{name: "memory in a bubble", bubble: true, pair: memoryPair},
	{name: "no faults", pair: faultlessPair},
	{name: "no faults in a bubble", bubble: true, pair: faultlessPair},
}

func tcpPair(t *testing.T) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	return near, far
}

func memoryPair(t *testing.T) (near, far net.Conn) {
	network := &tcpclienttest.Network{Buffer: bufferSize}
	l, err := network.Listen("server:1")
	require.NoError(t, err)
	defer l.Close()
	near, err = network.DialContext(context.Background(), "tcp", "server:1")
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	return near, far
}

func faultlessPair(t *testing.T) (near, far net.Conn) {
	near, far = memoryPair(t)
	return tcpclienttest.Faults{}.Wrap(near), tcpclienttest.Faults{}.Wrap(far)
}

// onEach runs test on a fresh pair of each transport. settle gives other goroutines the
// occasion to block.
func onEach(t *testing.T, test func(t *testing.T, tr transport, near, far net.Conn, settle func())) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			run := func(t *testing.T, settle func()) {
				near, far := tr.pair(t)
				defer near.Close()
				defer far.Close()
				test(t, tr, near, far, settle)
			}
			if tr.bubble {
				synctest.Test(t, func(t *testing.T) { run(t, synctest.Wait) })
				return
			}
			run(t, func() {
				for range 20 {
					runtime.Gosched()
				}
			})
		})
	}
}

type result struct {
	n   int
	err error
}

// async calls f on a goroutine of its own.
func async(f func() (int, error)) <-chan result {
	done := make(chan result, 1)
	go func() {
		n, err := f()
		done <- result{n, err}
	}()
	return done
}

func read(conn net.Conn, size int) func() (int, error) {
	return func() (int, error) { return conn.Read(make([]byte, size)) }
}

func write(conn net.Conn, size int) func() (int, error) {
	return func() (int, error) { return conn.Write(make([]byte, size)) }
}

// plenty is more than any transport keeps in its buffers.
var plenty = make([]byte, 32<<20)

// fill writes until nothing more fits.
func fill(t *testing.T, conn net.Conn) {
	for n := 1; n > 0; {
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		var err error
		n, err = conn.Write(plenty)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.NoError(t, conn.SetWriteDeadline(time.Time{}))
}

func TestConn(t *testing.T) {
	t.Run("carries every byte in order, both ways at once", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			var group sync.WaitGroup
			transfer := func(from, to net.Conn, seed uint64) {
				random := rand.New(rand.NewPCG(seed, 0))
				sent := make([]byte, 200_000)
				for i := range sent {
					sent[i] = byte(random.Uint32())
				}
				sizes := make([]int, 0, 1000)
				for left := len(sent); left > 0; {
					n := min(left, 1+random.IntN(3*bufferSize))
					sizes, left = append(sizes, n), left-n
				}
				group.Go(func() {
					for rest := sent; len(sizes) > 0; sizes = sizes[1:] {
						n, err := from.Write(rest[:sizes[0]])
						assert.NoError(t, err)
						assert.Equal(t, sizes[0], n)
						rest = rest[n:]
					}
					assert.NoError(t, from.(interface{ CloseWrite() error }).CloseWrite())
				})
				group.Go(func() {
					var got bytes.Buffer
					_, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{to}, make([]byte, 1+random.IntN(3000)))
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(sent, got.Bytes()))
				})
			}
			transfer(near, far, 1)
			transfer(far, near, 2)
			group.Wait()
		})
	})

	t.Run("Write returns before the peer reads", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			n, err := near.Write([]byte("hello"))
			require.NoError(t, err)
			require.Equal(t, 5, n)
			got := make([]byte, 3)
			n, err = io.ReadFull(far, got)
			require.NoError(t, err)
			require.Equal(t, "hel", string(got[:n]))
			n, err = far.Read(got)
			require.NoError(t, err)
			require.Equal(t, "lo", string(got[:n]))
		})
	})

	t.Run("Write blocks when the buffer is full, until there is room", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, settle func()) {
			size := 2*bufferSize + 1
			if tr.tcp {
				size = 16 << 20
			}
			done := async(write(near, size))
			settle()
			select {
			case r := <-done:
				require.Fail(t, "Write did not wait", "%+v", r)
			default:
			}
			_, err := io.ReadFull(far, make([]byte, size))
			require.NoError(t, err)
			require.Equal(t, result{size, nil}, <-done)
		})
	})

	t.Run("a past deadline fails at once, also when there is something to read", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			_, err := far.Write([]byte("hello"))
			require.NoError(t, err)
			require.NoError(t, near.SetDeadline(time.Now().Add(-time.Hour)))
			n, err := near.Read(make([]byte, 5))
			requireTimeout(t, err)
			require.Zero(t, n)
			n, err = near.Write([]byte("hello"))
			requireTimeout(t, err)
			require.Zero(t, n)

			require.NoError(t, near.SetDeadline(time.Time{}))
			n, err = near.Read(make([]byte, 5))
			require.NoError(t, err)
			require.Equal(t, 5, n)
			_, err = near.Write([]byte("x"))
			require.NoError(t, err)
		})
	})

	t.Run("a deadline wakes a blocked Read when it comes, and not before", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, _ net.Conn, _ func()) {
			for range 3 {
				began := time.Now()
				require.NoError(t, near.SetReadDeadline(began.Add(20*time.Millisecond)))
				_, err := near.Read(make([]byte, 1))
				requireTimeout(t, err)
				if took := time.Since(began); tr.bubble {
					require.Equal(t, 20*time.Millisecond, took)
				} else {
					require.GreaterOrEqual(t, took, 20*time.Millisecond)
				}
			}
		})
	})

	t.Run("a deadline wakes a blocked Write, which says how much it wrote", func(t *testing.T) {
		testkit.SkipIfShort(t)
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, _ func()) {
			require.NoError(t, near.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
			n, err := near.Write(plenty)
			requireTimeout(t, err)
			require.Positive(t, n)
			if !tr.tcp {
				require.Equal(t, bufferSize, n)
			}
			require.NoError(t, near.Close())
			got, err := io.Copy(io.Discard, far)
			require.NoError(t, err)
			require.EqualValues(t, n, got)
		})
	})

	t.Run("a deadline set meanwhile wakes a blocked call", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, _ net.Conn, settle func()) {
			reading, writing := async(read(near, 1)), async(func() (int, error) { return near.Write(plenty) })
			settle()
			require.NoError(t, near.SetDeadline(time.Unix(1, 0)))
			requireTimeout(t, (<-reading).err)
			requireTimeout(t, (<-writing).err)
		})
	})

	t.Run("a deadline put off does not wake a blocked call", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, settle func()) {
			require.NoError(t, near.SetReadDeadline(time.Now().Add(time.Hour)))
			reading := async(read(near, 1))
			settle()
			require.NoError(t, near.SetReadDeadline(time.Now().Add(2*time.Hour)))
			require.NoError(t, near.SetReadDeadline(time.Time{}))
			settle()
			_, err := far.Write([]byte("x"))
			require.NoError(t, err)
			require.Equal(t, result{1, nil}, <-reading)
		})
	})

	t.Run("CloseWrite ends one direction", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			_, err := near.Write([]byte("last"))
			require.NoError(t, err)
			require.NoError(t, near.(interface{ CloseWrite() error }).CloseWrite())
			_, err = near.Write([]byte("more"))
			testkit.RequireErrno(t, err, syscall.EPIPE)
			requireOpError(t, "write", err)
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "last", string(got))
			_, err = far.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)

			_, err = far.Write([]byte("answer"))
			require.NoError(t, err)
			require.NoError(t, far.Close())
			got, err = io.ReadAll(near)
			require.NoError(t, err)
			require.Equal(t, "answer", string(got))
		})
	})

	t.Run("after Close the peer reads the rest, then io.EOF, and cannot write", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, settle func()) {
			_, err := near.Write([]byte("last"))
			require.NoError(t, err)
			require.NoError(t, near.Close())
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "last", string(got))
			_, err = far.Write([]byte("x"))
			if tr.tcp { // finds out with the answer to the first one
				for err == nil {
					_, err = far.Write([]byte("x"))
				}
			}
			if err = requireOpError(t, "write", err); !errors.Is(err, syscall.ECONNRESET) {
				require.Equal(t, syscall.EPIPE, err)
			}
		})
	})

	t.Run("Close wakes the peer's blocked calls", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, settle func()) {
			if tr.tcp {
				t.Skip("unread data makes it a reset")
			}
			reading, writing := async(read(far, 1)), async(func() (int, error) { return far.Write(plenty) })
			settle()
			require.NoError(t, near.Close())
			require.Equal(t, result{0, io.EOF}, <-reading)
			require.ErrorIs(t, (<-writing).err, syscall.EPIPE)
		})
	})

	t.Run("Close wakes its own blocked calls", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, _ net.Conn, settle func()) {
			reading, writing := async(read(near, 1)), async(func() (int, error) { return near.Write(plenty) })
			settle()
			require.NoError(t, near.Close())
			require.ErrorIs(t, (<-reading).err, net.ErrClosed)
			require.ErrorIs(t, (<-writing).err, net.ErrClosed)
		})
	})

	t.Run("after Close every method says so", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			_, err := far.Write([]byte("unread"))
			require.NoError(t, err)
			require.NoError(t, near.Close())
			for op, call := range map[string]func() error{
				"read":  func() error { _, err := near.Read(make([]byte, 1)); return err },
				"write": func() error { _, err := near.Write(make([]byte, 1)); return err },
				"close": near.Close,
				"set":   func() error { return near.SetDeadline(time.Now()) },
			} {
				err := call()
				require.ErrorIs(t, err, net.ErrClosed, op)
				requireOpError(t, op, err)
			}
			require.ErrorIs(t, near.(interface{ CloseWrite() error }).CloseWrite(), net.ErrClosed)
			require.ErrorIs(t, near.SetReadDeadline(time.Time{}), net.ErrClosed)
			require.ErrorIs(t, near.SetWriteDeadline(time.Time{}), net.ErrClosed)
		})
	})

	t.Run("a reset peer reads the rest, ECONNRESET once, then io.EOF", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, settle func()) {
			if tr.tcp && runtime.GOOS != "linux" {
				t.Skip("other kernels drop the rest")
			}
			_, err := near.Write([]byte("last"))
			require.NoError(t, err)
			_, err = io.ReadFull(far, make([]byte, 3)) // one more has arrived
			require.NoError(t, err)
			abort(t, near)
			_, err = io.ReadFull(far, make([]byte, 1))
			require.NoError(t, err)
			n, err := far.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Equal(t, syscall.ECONNRESET, requireOpError(t, "read", err))
			_, err = far.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			_, err = far.Write([]byte("x"))
			require.Equal(t, syscall.EPIPE, requireOpError(t, "write", err))
		})
	})

	t.Run("a reset wakes the peer's blocked calls", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, settle func()) {
			if tr.tcp { // settle is no certainty that the Read waits
				testkit.SkipUnderWine(t, "the error of a reset that no Read waits for")
			}
			reading := async(read(far, 1))
			settle()
			abort(t, near)
			require.Equal(t, syscall.ECONNRESET, requireOpError(t, "read", (<-reading).err))
		})
	})

	t.Run("empty reads and writes do not block", func(t *testing.T) {
		onEach(t, func(t *testing.T, tr transport, near, far net.Conn, _ func()) {
			if tr.tcp && runtime.GOOS == "windows" {
				t.Skip("package net gives them to the kernel there, where they wait their turn")
			}
			fill(t, near)
			n, err := near.Read(nil)
			require.NoError(t, err)
			require.Zero(t, n)
			n, err = near.Write(nil)
			require.NoError(t, err)
			require.Zero(t, n)
		})
	})

	t.Run("writes do not interleave", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			const writers, each, size = 4, 10, 10_000
			var group sync.WaitGroup
			for w := range writers {
				group.Go(func() {
					msg := bytes.Repeat([]byte{byte(w)}, size)
					for range each {
						n, err := near.Write(msg)
						assert.NoError(t, err)
						assert.Equal(t, size, n)
					}
				})
			}
			got := make([]byte, size)
			for range writers * each {
				_, err := io.ReadFull(far, got)
				require.NoError(t, err)
				require.Equal(t, size, bytes.Count(got, got[:1]))
			}
			group.Wait()
		})
	})

	t.Run("all methods may be called at once", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			var group sync.WaitGroup
			for range 2 {
				for _, conn := range []net.Conn{near, far} {
					group.Go(func() { io.Copy(io.Discard, conn) })
					group.Go(func() {
						for range 200 {
							conn.Write(make([]byte, 100))
						}
					})
					group.Go(func() {
						for range 200 {
							conn.SetDeadline(time.Now().Add(time.Minute))
							conn.SetReadDeadline(time.Time{})
							conn.SetWriteDeadline(time.Now().Add(time.Minute))
							conn.LocalAddr()
							conn.RemoteAddr()
						}
						conn.Close()
					})
				}
			}
			group.Wait()
		})
	})

	t.Run("addresses mirror and differ", func(t *testing.T) {
		onEach(t, func(t *testing.T, _ transport, near, far net.Conn, _ func()) {
			require.Equal(t, near.LocalAddr().String(), far.RemoteAddr().String())
			require.Equal(t, far.LocalAddr().String(), near.RemoteAddr().String())
			require.NotEqual(t, near.LocalAddr().String(), near.RemoteAddr().String())
			require.NotEmpty(t, near.LocalAddr().Network())
		})
	})
}

// P12 is measured on these connections: they must not allocate themselves.
func TestConn_does_not_allocate_in_a_steady_state(t *testing.T) {
	if testkit.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, tr := range transports {
		if tr.tcp || tr.bubble {
			continue
		}
		t.Run(tr.name, func(t *testing.T) {
			near, far := tr.pair(t)
			defer near.Close()
			defer far.Close()
			go io.Copy(far, struct{ io.Reader }{far})
			msg := make([]byte, 3000)
			round := func() {
				deadline := time.Now().Add(time.Minute)
				near.SetWriteDeadline(deadline)
				near.Write(msg)
				near.SetReadDeadline(deadline)
				io.ReadFull(near, msg)
			}
			for range 10 {
				round()
			}
			require.Zero(t, testing.AllocsPerRun(200, round))
		})
	}
}

func requireTimeout(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}

// requireOpError takes err apart as package net has built it and returns the reason.
func requireOpError(t *testing.T, op string, err error) error {
	t.Helper()
	var outer *net.OpError
	require.ErrorAs(t, err, &outer)
	require.Equal(t, op, outer.Op)
	require.NotNil(t, outer.Addr)
	var inner *os.SyscallError
	if errors.As(outer.Err, &inner) {
		if runtime.GOOS == "windows" && inner.Syscall == map[string]string{"read": "wsarecv", "write": "wsasend"}[op] {
			return testkit.PortableErrno(inner.Err)
		}
		require.Equal(t, op, inner.Syscall)
		return inner.Err
	}
	return outer.Err
}

// abort closes conn with RST.
func abort(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.(interface{ SetLinger(int) error }).SetLinger(0))
	require.NoError(t, conn.Close())
}

func BenchmarkConn(b *testing.B) {
	for _, kind := range []string{"memory", "tcp"} {
		b.Run("impl="+kind+"/size=64", func(b *testing.B) {
			var near, far net.Conn
			if t := new(testing.T); kind == "tcp" {
				near, far = tcpPair(t)
			} else {
				near, far = memoryPair(t)
			}
			defer near.Close()
			defer far.Close()
			go io.Copy(far, struct{ io.Reader }{far})
			msg := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				near.Write(msg)
				io.ReadFull(near, msg)
			}
		})
	}
}
