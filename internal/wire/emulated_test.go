package wire_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// A layer is a connection on top of another, as a *tls.Conn is. Its deadlines would work,
// but must not be used.
type layer struct {
	net.Conn
	t testing.TB
}

func (l layer) NetConn() net.Conn { return l.Conn }

func (l layer) SetDeadline(time.Time) error      { l.t.Error("a deadline"); return nil }
func (l layer) SetReadDeadline(time.Time) error  { l.t.Error("a deadline"); return nil }
func (l layer) SetWriteDeadline(time.Time) error { l.t.Error("a deadline"); return nil }
func (l layer) Close() error                     { l.t.Error("a good-bye that may block"); return nil }

func TestEmulatedDeadline(t *testing.T) {
	t.Run("is there for a connection that refuses them, and for one on top of another", func(t *testing.T) { // P5
		for name, kind := range map[string]func(t *testing.T, c net.Conn) net.Conn{
			"refused": func(t *testing.T, c net.Conn) net.Conn { return bare{c} },
			"layered": func(t *testing.T, c net.Conn) net.Conn { return layer{c, t} },
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near, _ := inMemory(t, 1000)
					began := time.Now()
					m := &monitor{
						next:    func() time.Time { return began.Add(time.Second) },
						expired: func(now, due time.Time) error { return io.ErrNoProgress },
					}
					c := wire.New(kind(t, near), 2*time.Second, 64<<10, m)
					read := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
					write := begin(func() (int, error) { return c.Write(pattern(2000)) })
					require.Equal(t, outcome{0, io.ErrNoProgress, time.Second}, <-read)
					o := <-write
					require.ErrorIs(t, o.err, wire.ErrWriteTimeout)
					require.Equal(t, 2*time.Second, o.took)
					<-c.Left()
					_, err := near.Read(nil)
					require.ErrorIs(t, err, net.ErrClosed)
				})
			})
		}
	})

	t.Run("of a read loses nothing that comes later", func(t *testing.T) { // P1
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 10_000)
			began := time.Now()
			due := began
			m := &monitor{next: func() time.Time { return due }}
			m.expired = func(now, then time.Time) error { due = due.Add(70 * time.Millisecond); return nil }
			c := wire.New(bare{near}, 0, 64<<10, m)
			defer requireEnds(t, c)
			p := pattern(5000)
			go func() {
				for rest := p; len(rest) > 0; rest = rest[100:] {
					time.Sleep(30 * time.Millisecond)
					far.Write(rest[:100])
				}
				far.Close()
			}()
			got := make([]byte, 0, len(p))
			for {
				n, err := c.Read(got[len(got):min(len(got)+33, cap(got))])
				got = got[:len(got)+n]
				if len(got) == cap(got) {
					break
				}
				require.NoError(t, err)
			}
			require.Equal(t, p, got)
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		})
	})

	t.Run("of a read keeps an error for after the bytes that came with it", func(t *testing.T) { // P1
		f := newFake()
		f.read = func(p []byte) (int, error) { return copy(p, "hello"), io.ErrUnexpectedEOF }
		c := newConn(t, bare{f}, 0)
		p := make([]byte, 3)
		n, err := c.Read(p)
		require.NoError(t, err)
		require.Equal(t, "hel", string(p[:n]))
		n, err = c.Read(p)
		require.Equal(t, io.ErrUnexpectedEOF, err)
		require.Equal(t, "lo", string(p[:n]))
	})

	t.Run("of a read notices a connection that claims what cannot be", func(t *testing.T) { // P1
		for _, claim := range []int{-1, 1 << 20} {
			f := newFake()
			f.read = func(p []byte) (int, error) { return claim, nil }
			_, err := newConn(t, bare{f}, 0).Read(make([]byte, 10))
			require.ErrorContains(t, err, "claims to have read")
		}
	})

	t.Run("of a write counts its bytes as handed over while it goes on", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, bare{near}, time.Second)
			p := pattern(2000)
			done := begin(func() (int, error) { return c.Write(p) })
			time.Sleep(500 * time.Millisecond)
			require.Equal(t, int64(2000), c.Handed(), "1000 of them have left, and others may at any time")
			all := readAll(far, len(p))
			require.Equal(t, outcome{2000, nil, 500 * time.Millisecond}, <-done)
			require.Equal(t, int64(2000), c.Handed())
			c.Kill(wire.ErrClosed)
			require.Equal(t, p, <-all)
		})
	})

	t.Run("of a write shows that a slow peer takes a big message", func(t *testing.T) { // P1, P5
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			largest := &largestWrite{Conn: bare{near}}
			c := newConn(t, largest, 10*time.Second)
			p := pattern(4 << 20)
			done := begin(func() (int, error) { return c.Write(p) })
			got := make([]byte, len(p))
			for rest := got; len(rest) > 0; {
				time.Sleep(9 * time.Second) // the peer's pace
				n, err := io.ReadFull(far, rest[:min(64<<10, len(rest))])
				require.NoError(t, err)
				rest = rest[n:]
			}
			o := <-done
			require.NoError(t, o.err)
			require.Equal(t, len(p), o.n)
			require.Equal(t, 64*9*time.Second, o.took)
			require.Equal(t, int64(len(p)), c.Handed())
			require.True(t, string(p) == string(got), "the peer got other bytes")
			require.Equal(t, 64<<10, largest.size)
		})
	})

	t.Run("of a write begins anew with each 64 KiB that the peer takes", func(t *testing.T) { // P4, P5
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, bare{near}, 10*time.Second)
			done := begin(func() (int, error) { return c.Write(pattern(1 << 20)) })
			time.Sleep(9 * time.Second) // the peer's pace
			_, err := io.ReadFull(far, make([]byte, 128<<10))
			require.NoError(t, err)
			synctest.Wait()
			require.Equal(t, time.Now(), c.Progress())
			require.Equal(t, int64(192<<10), c.Handed(), "1000 bytes of the last 64 KiB have left, and others may at any time")
			o := <-done
			require.ErrorIs(t, o.err, wire.ErrWriteTimeout)
			require.Equal(t, 19*time.Second, o.took)
			require.Equal(t, 128<<10, o.n)
			require.Equal(t, int64(192<<10), c.Handed())
		})
	})

	t.Run("of a write counts all bytes of one that fails as handed over, whatever it says", func(t *testing.T) { // P4, D2
		synctest.Test(t, func(t *testing.T) {
			for _, says := range []int{0, 3} {
				f := newFake()
				f.write = func([]byte) (int, error) { return says, io.ErrClosedPipe }
				c := newConn(t, bare{f}, time.Second)
				n, err := c.Write([]byte("hello"))
				require.ErrorIs(t, err, io.ErrClosedPipe)
				require.Equal(t, 5, n)
				require.Equal(t, int64(5), c.Handed())
			}
		})
	})

	t.Run("of a write keeps the bytes of a dead connection that may have left", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := newConn(t, bare{near}, 300*time.Millisecond)
			n, err := c.Write(pattern(2000))
			require.ErrorIs(t, err, wire.ErrWriteTimeout)
			require.Zero(t, n)
			require.Equal(t, int64(2000), c.Handed())
			<-c.Left()
			require.Equal(t, int64(2000), c.Handed())
		})
	})

	t.Run("of a write does not touch the caller's bytes after it", func(t *testing.T) { // P1
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			goOn, wrote := make(chan struct{}), make(chan string, 1)
			f.write = func(p []byte) (int, error) { <-goOn; wrote <- string(p); return len(p), nil }
			c := newConn(t, bare{f}, time.Second)
			p := []byte("hello")
			_, err := c.Write(p)
			require.ErrorIs(t, err, wire.ErrWriteTimeout)
			copy(p, "*****")
			close(goOn)
			require.Equal(t, "hello", <-wrote)
		})
	})

	t.Run("holds CloseWrite for 100 ms", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			f := &stuckCloser{newFake()}
			c := newConn(t, bareCloser{bare{f}, f}, 0)
			began := time.Now()
			require.ErrorIs(t, c.CloseWrite(), wire.ErrWriteTimeout)
			require.Equal(t, 100*time.Millisecond, time.Since(began))
		})
	})

	t.Run("lets CloseWrite through", func(t *testing.T) { // P7
		near, far := onTCP(t)
		c := newConn(t, bareCloser{bare{near}, near}, 0)
		require.NoError(t, c.CloseWrite())
		_, err := far.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.ErrorIs(t, newConn(t, bare{near}, 0).CloseWrite(), errors.ErrUnsupported)
	})
}

// A largestWrite is a connection that remembers the largest write it was given.
type largestWrite struct {
	net.Conn
	size int
}

func (l *largestWrite) Write(p []byte) (int, error) {
	l.size = max(l.size, len(p))
	return l.Conn.Write(p)
}

// A stuckCloser is a connection whose CloseWrite waits for the peer.
type stuckCloser struct{ *fake }

func (s *stuckCloser) CloseWrite() error {
	<-s.closed
	return net.ErrClosed
}

// A bareCloser is a bare connection with half-close.
type bareCloser struct {
	bare
	half interface{ CloseWrite() error }
}

func (b bareCloser) CloseWrite() error { return b.half.CloseWrite() }

// A stuck is a connection without real deadlines whose methods return only when a test lets them.
// Reading, closing and half-closing wait for go ahead, as on a stream of a stalled multiplexer.
type stuck struct {
	bare
	goOn  chan struct{}
	reads atomic.Int32 // that were begun
}

func newStuck() *stuck { return &stuck{bare: bare{newFake()}, goOn: make(chan struct{})} }

func (s *stuck) Read([]byte) (int, error)    { s.reads.Add(1); <-s.goOn; return 0, io.EOF }
func (s *stuck) Write(p []byte) (int, error) { <-s.goOn; return len(p), nil }
func (s *stuck) CloseWrite() error           { <-s.goOn; return nil }
func (s *stuck) Close() error                { <-s.goOn; return s.bare.Close() }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestCloseOfForeignConnection(t *testing.T) {
	t.Run("ends reads at once, and says when those of the connection have returned", func(t *testing.T) { // P7, D1
		synctest.Test(t, func(t *testing.T) {
			s := newStuck()
			m := new(monitor)
			c := wire.New(s, time.Second, 64<<10, m)
			c.Watch(m, false)
			read := begin(func() (int, error) { return c.Read(make([]byte, 1)) })
			synctest.Wait()
			c.Kill(wire.ErrClosed)
			c.Join()
			require.Equal(t, outcome{0, net.ErrClosed, 0}, <-read)
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, net.ErrClosed, err)
			time.Sleep(time.Hour)
			require.False(t, isClosed(c.Left()), "the connection is still in its Read and its Close")
			close(s.goOn)
			synctest.Wait()
			require.True(t, isClosed(c.Left()))
			for range 2 { // the first is told of the read that went on
				c.Read(make([]byte, 1))
			}
			synctest.Wait()
			require.EqualValues(t, 1, s.reads.Load(), "no other read is begun")
		})
	})

	t.Run("ends a write, whose bytes may have been handed over", func(t *testing.T) { // P4, P7, D1
		synctest.Test(t, func(t *testing.T) {
			s := newStuck()
			c := newConn(t, s, time.Minute)
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			time.Sleep(time.Second)
			c.Kill(io.ErrClosedPipe)
			o := <-wrote
			require.ErrorIs(t, o.err, io.ErrClosedPipe)
			require.Equal(t, time.Second, o.took)
			require.EqualValues(t, 5, c.Handed())
			close(s.goOn)
			<-c.Left()
			require.EqualValues(t, 5, c.Handed())
		})
	})

	t.Run("ends a CloseWrite", func(t *testing.T) { // P7, D1
		synctest.Test(t, func(t *testing.T) {
			s := newStuck()
			c := newConn(t, s, 0)
			finished := begin(func() (int, error) { return 0, c.CloseWrite() })
			synctest.Wait()
			c.Kill(wire.ErrClosed)
			require.Equal(t, outcome{0, net.ErrClosed, 0}, <-finished)
			close(s.goOn)
		})
	})

	t.Run("ends a Read that only a deadline ends", func(t *testing.T) { // P6, D1
		// As on a stream of yamux, which after Close reads on until the peer has closed it.
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := newConn(t, halfClosing{near}, 0)
			read := begin(func() (int, error) { return c.Read(make([]byte, 1)) })
			synctest.Wait()
			c.Kill(wire.ErrClosed)
			require.Equal(t, outcome{0, net.ErrClosed, 0}, <-read)
			synctest.Wait()
			require.True(t, isClosed(c.Left()))
		})
	})

	t.Run("is not waited for by the handshake of TLS", func(t *testing.T) { // P2, D1
		synctest.Test(t, func(t *testing.T) {
			s := newStuck()
			c := newConn(t, s, 0)
			require.NoError(t, c.Close())
			require.NoError(t, c.Close(), "which closes again when it fails")
			close(s.goOn)
		})
	})
}

// A halfClosing is a connection whose Close is a half-close.
type halfClosing struct{ net.Conn }

func (h halfClosing) Close() error { return h.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// A forgetful is a connection as a socket on Windows is: a Write that has ended at its deadline
// says that it has written nothing, although bytes have left. Its reads do not heed deadlines.
type forgetful struct{ net.Conn }

func (f forgetful) Write(p []byte) (int, error) {
	n, err := f.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return n, err
}

func TestConnectionThatForgetsWhatItHasWritten(t *testing.T) {
	t.Run("gives the peer no byte twice", func(t *testing.T) { // P1, P4, D2
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, forgetful{near}, 10*time.Second)
			p := pattern(300_000)
			done := begin(func() (int, error) { return c.Write(p) })
			time.Sleep(time.Second) // the buffer is full, and deadlines would have passed
			got := readAll(far, len(p))
			o := <-done
			require.NoError(t, o.err)
			c.Kill(wire.ErrClosed)
			require.True(t, bytes.Equal(p, <-got), "the peer got other bytes")
		})
	})

	t.Run("is given nothing more when its own deadline has passed", func(t *testing.T) { // P1, P4, D2
		// Nobody has set one here: a multiplexer has, for the connection that it is on.
		f := newFake()
		writes := 0
		f.write = func([]byte) (int, error) { writes++; return 0, os.ErrDeadlineExceeded }
		c := newConn(t, bare{f}, time.Minute)
		_, err := c.Write([]byte("hello"))
		require.ErrorIs(t, err, wire.ErrDisconnected)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 1, writes)
	})

	t.Run("ends when a read says so of its own accord", func(t *testing.T) { // P5, D1
		f := newFake()
		f.read = func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
		_, err := newConn(t, bare{f}, 0).Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestEmulatedRead(t *testing.T) {
	// sizes returns the sizes of the reads of a connection that fills each of them.
	sizes := func(t *testing.T, maxRead int) (got []int) {
		f := newFake()
		f.read = func(p []byte) (int, error) {
			got = append(got, len(p))
			return len(p), nil
		}
		m := new(monitor)
		c := wire.New(bare{f}, 0, maxRead, m)
		defer requireEnds(t, c)
		for range 200 {
			_, err := c.Read(make([]byte, maxRead))
			require.NoError(t, err)
		}
		return got
	}

	t.Run("becomes as large as ReadBuffer while more is waiting", func(t *testing.T) { // P12, D4
		require.Equal(t, []int{512, 2048, 8192, 32768, 100_000, 100_000}, sizes(t, 100_000)[:6])
	})

	t.Run("is never larger", func(t *testing.T) { // P6, D4
		require.Equal(t, []int{300, 300}, sizes(t, 300)[:2])
	})

	t.Run("stays small while little comes", func(t *testing.T) { // P6, D4
		f := newFake()
		largest := 0
		f.read = func(p []byte) (int, error) {
			largest = max(largest, len(p))
			return copy(p, pattern(511)), nil
		}
		c := newConn(t, bare{f}, 0)
		for range 10 {
			_, err := c.Read(make([]byte, 64<<10))
			require.NoError(t, err)
		}
		require.Equal(t, 512, largest)
	})

	t.Run("that outlives its deadline keeps its buffer, though it has become larger before", func(t *testing.T) { // P1, D1
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 10_000)
			var due time.Time
			c := wire.New(bare{near}, 0, 64<<10, &monitor{
				next:    func() time.Time { return due },
				expired: func(now, due time.Time) error { return io.ErrNoProgress },
			})
			defer requireEnds(t, c)
			p, got := pattern(1000), make([]byte, 1000)
			far.Write(p[:512]) // as much as its buffer holds
			_, err := io.ReadFull(c, got[:512])
			require.NoError(t, err)
			due = time.Now().Add(time.Second)
			_, err = c.Read(got[512:])
			require.ErrorIs(t, err, io.ErrNoProgress)
			due = time.Time{}
			far.Write(p[512:])
			_, err = io.ReadFull(c, got[512:])
			require.NoError(t, err)
			require.True(t, string(p) == string(got), "the peer has sent other bytes")
		})
	})
}

func TestAllocationsOfForeignConnection(t *testing.T) {
	t.Run("are none, to read and to write", func(t *testing.T) { // P12, D2, D4
		if testkit.RaceEnabled {
			t.Skip("the race detector allocates")
		}
		f := newFake()
		f.read = func(p []byte) (int, error) { return len(p), nil }
		f.write = func(p []byte) (int, error) { return len(p), nil }
		due := time.Now().Add(time.Hour)
		m := &monitor{next: func() time.Time { return due }}
		c := wire.New(bare{f}, time.Second, 4<<10, m)
		defer requireEnds(t, c)
		p := make([]byte, 16<<10)
		allocs := testing.AllocsPerRun(200, func() {
			c.Read(p)
			c.Write(p)
		})
		require.Zero(t, allocs)
	})
}

func TestPanicOfForeignConnection(t *testing.T) {
	broken := errors.New("broken")
	for name, fail := range map[string]func(){
		"a panic":         func() { panic(broken) },
		"a Goexit":        runtime.Goexit,
		"another's panic": func() { var none []int; none[0] = 1 },
	} {
		t.Run("is the end of the connection: "+name, func(t *testing.T) { // P1, P4
			f := newFake()
			f.read = func([]byte) (int, error) { fail(); return 0, nil }
			f.write = func([]byte) (int, error) { fail(); return 0, nil }
			c := newConn(t, bare{f}, 0)
			_, err := c.Read(make([]byte, 1))
			require.Error(t, err)
			if name == "a panic" {
				require.ErrorIs(t, err, broken)
				require.ErrorContains(t, err, "emulated_test.go", "where it was")
			}
			_, err = c.Write([]byte("hello"))
			require.ErrorIs(t, err, wire.ErrDisconnected)
			require.EqualValues(t, 5, c.Handed(), "how many have left cannot be known")
		})
	}

	t.Run("in its Close is dropped", func(t *testing.T) {
		f := newFake()
		f.close = func() { panic(broken) }
		c := wire.New(bare{f}, 0, 64<<10, new(monitor))
		c.Kill(wire.ErrClosed)
		<-c.Left()
	})
}

func TestAheadOfEmulated(t *testing.T) {
	t.Run("is what a read has brought and Read has not returned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, bare{near}, 0)
			_, err := far.Write([]byte("hello, world"))
			require.NoError(t, err)
			require.Empty(t, c.Ahead(), "it has read")
			p := make([]byte, 5)
			n, err := c.Read(p)
			require.NoError(t, err)
			require.Equal(t, "hello", string(p[:n]))
			ahead := c.Ahead()
			require.Equal(t, ", world", string(ahead))
			clear(ahead) // it is the caller's
			rest := make([]byte, 20)
			n, err = c.Read(rest)
			require.NoError(t, err)
			require.Equal(t, ", world", string(rest[:n]))
			require.Empty(t, c.Ahead())
		})
	})
}
