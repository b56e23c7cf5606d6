package wire_test

import (
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// The kernel gives the reason of a reset once, to the reader or to the writer. Then it says
// EOF to the one and EPIPE to the other.

// A gate is a write, or a read, that returns when the test says so, and what it says.
type gate struct {
	inside chan struct{} // closed when a goroutine has come to the gate
	open   chan error
}

func newGate() *gate { return &gate{inside: make(chan struct{}), open: make(chan error, 1)} }

func (g *gate) pass([]byte) (int, error) {
	close(g.inside)
	return 0, <-g.open
}

func TestBrokenPipe(t *testing.T) {
	t.Run("of a connection that has ended is not waited for", func(t *testing.T) { // P7, P9
		synctest.Test(t, func(t *testing.T) {
			f, g := newFake(), newGate()
			f.write = g.pass
			c := newConn(t, f, 0)
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			<-g.inside
			c.Kill(wire.ErrClosed)
			g.open <- syscall.EPIPE
			require.Equal(t, outcome{0, wire.ErrClosed, 0}, <-wrote)
		})
	})

	t.Run("is not waited for by a reader when there is a reason", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f, g := newFake(), newGate()
			f.write = g.pass
			f.read = func([]byte) (int, error) { return 0, io.EOF }
			c := newConn(t, f, 0)
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			<-g.inside
			c.FailWrite(io.ErrNoProgress)
			require.Equal(t, outcome{0, io.EOF, 0}, <-begin(func() (int, error) { return c.Read(make([]byte, 1)) }))
			g.open <- syscall.EPIPE
			require.ErrorIs(t, (<-wrote).err, io.ErrNoProgress)
		})
	})

	t.Run("fails a handshake at once, which reads on the same goroutine", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.write = func([]byte) (int, error) { return 0, syscall.EPIPE }
			c := wire.New(f, 0, 64<<10, new(monitor))
			defer requireEnds(t, c)
			began := time.Now()
			_, err := c.Write([]byte("hello"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.Zero(t, time.Since(began))
		})
	})

	t.Run("is not the cause when the reader was told the reason", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f, g := newFake(), newGate()
			f.read = g.pass
			f.write = func([]byte) (int, error) { return 0, syscall.EPIPE }
			c := newConn(t, f, 0)
			go func() {
				_, err := c.Read(make([]byte, 1))
				c.Kill(err)
			}()
			<-g.inside
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			time.Sleep(30 * time.Millisecond) // a reader that finds no processor
			g.open <- syscall.ECONNRESET
			o := <-wrote
			require.ErrorIs(t, o.err, syscall.ECONNRESET)
			require.Equal(t, 30*time.Millisecond, o.took)
		})
	})

	t.Run("is the cause when the reader has no better one", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.write = func([]byte) (int, error) { return 0, syscall.EPIPE }
			c := newConn(t, f, 0)
			began := time.Now()
			_, err := c.Write([]byte("hello"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.Equal(t, 100*time.Millisecond, time.Since(began))
			require.False(t, c.ReadUntil().IsZero(), "the last words are still to be read")
		})
	})
}

func TestEOF(t *testing.T) {
	// reads returns when, and with what, a Read ends that learns EOF while a write is under way,
	// and the reason of the connection by then.
	reads := func(c *wire.Conn) (outcome, error) {
		o := <-begin(func() (int, error) { return c.Read(make([]byte, 1)) })
		return o, c.Kill(o.err)
	}

	t.Run("waits for the reason that a Write was told", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f, g := newFake(), newGate()
			f.write = g.pass
			f.read = func([]byte) (int, error) { return 0, io.EOF }
			c := newConn(t, f, 0)
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			<-g.inside
			time.AfterFunc(20*time.Millisecond, func() { g.open <- syscall.ECONNRESET })
			o, cause := reads(c)
			require.Equal(t, outcome{0, io.EOF, 20 * time.Millisecond}, o)
			require.ErrorIs(t, cause, syscall.ECONNRESET)
			require.Equal(t, cause, (<-wrote).err)
		})
	})

	t.Run("is the cause when no write is under way", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.write = func(p []byte) (int, error) { return len(p), nil }
			f.read = func([]byte) (int, error) { return 0, io.EOF }
			c := newConn(t, f, 0)
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
			o, cause := reads(c)
			require.Equal(t, outcome{0, io.EOF, 0}, o)
			require.ErrorIs(t, cause, io.EOF)
		})
	})

	t.Run("is the cause when the write that is under way only waits for the peer", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, near, 0)
			wrote := begin(func() (int, error) { return c.Write(pattern(2000)) })
			time.Sleep(2 * time.Millisecond) // the first slice
			synctest.Wait()
			require.NoError(t, far.(interface{ CloseWrite() error }).CloseWrite())
			o, cause := reads(c)
			require.Equal(t, outcome{0, io.EOF, 50 * time.Millisecond}, o, "a slice of the write")
			require.ErrorIs(t, cause, io.EOF)
			require.Equal(t, cause, (<-wrote).err)
		})
	})

	t.Run("is waited with for no longer than 100 ms, where a Write cannot be interrupted", func(t *testing.T) { // P5, P9
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, bare{near}, 0)
			wrote := begin(func() (int, error) { return c.Write(pattern(2000)) })
			synctest.Wait()
			require.NoError(t, far.(interface{ CloseWrite() error }).CloseWrite())
			o, cause := reads(c)
			require.Equal(t, outcome{0, io.EOF, 100 * time.Millisecond}, o)
			require.ErrorIs(t, cause, io.EOF)
			<-wrote
		})
	})

	t.Run("is not waited with for a write that was told EPIPE", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.write = func([]byte) (int, error) { return 0, syscall.EPIPE }
			f.read = func([]byte) (int, error) { return 0, io.EOF }
			c := newConn(t, f, 0)
			wrote := begin(func() (int, error) { return c.Write([]byte("hello")) })
			synctest.Wait()
			o, cause := reads(c)
			require.Equal(t, outcome{0, io.EOF, 0}, o)
			require.ErrorIs(t, cause, io.EOF)
			require.Equal(t, outcome{0, cause, 0}, <-wrote)
		})
	})
}
