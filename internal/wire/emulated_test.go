package wire_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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
					c := wire.New(kind(t, near), 2*time.Second, m)
					read := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
					write := begin(func() (int, error) { return c.Write(pattern(2000)) })
					require.Equal(t, outcome{0, io.ErrNoProgress, time.Second}, <-read)
					o := <-write
					require.ErrorIs(t, o.err, wire.ErrWriteTimeout)
					require.Equal(t, 2*time.Second, o.took)
					c.Join()
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
			c := wire.New(bare{near}, 0, m)
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
			all := readAll(far)
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

	t.Run("of a write takes its bytes back that were not handed over", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.write = func([]byte) (int, error) { return 3, io.ErrClosedPipe }
			c := newConn(t, bare{f}, time.Second)
			n, err := c.Write([]byte("hello"))
			require.ErrorIs(t, err, io.ErrClosedPipe)
			require.Equal(t, 3, n)
			require.Equal(t, int64(3), c.Handed())
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
			c.Join()
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

func TestJoin(t *testing.T) {
	t.Run("waits for reads and writes that go on, and begins none after that", func(t *testing.T) { // P6, P7
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			slow := func([]byte) (int, error) {
				<-f.closed
				time.Sleep(time.Minute) // a tunnel that takes its time
				return 0, os.ErrClosed
			}
			f.read, f.write = slow, slow
			c := wire.New(bare{f}, time.Second, &monitor{
				next:    time.Now,
				expired: func(now, due time.Time) error { return io.ErrNoProgress },
			})
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.ErrNoProgress, err)
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			synctest.Wait()
			began := time.Now()
			cause := c.Kill(err)
			c.Join()
			require.Equal(t, time.Minute, time.Since(began))
			require.Equal(t, cause, (<-wrote).err)
			// The read that went on is told; the next is not begun.
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrClosed)
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
		})
	})
}
