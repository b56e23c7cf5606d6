package wire

import (
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A willing is a connection that can write without waiting, and whose peer has hung up.
type willing struct {
	deadlineConn
	try, write func(p []byte) (int, error)
}

func (w *willing) tryWrite(p, _ []byte) (int, error) { return w.try(p) }
func (w *willing) Write(p []byte) (int, error)       { return w.write(p) }
func (w *willing) Read([]byte) (int, error)          { return 0, io.EOF }
func (w *willing) SetReadDeadline(time.Time) error   { return nil }
func (w *willing) SetWriteDeadline(time.Time) error  { return nil }
func (w *willing) inFlight() int                     { return 0 }
func (w *willing) unacknowledged() int               { return 0 }
func (w *willing) Close() error                      { return nil }

// A silent is a Monitor that never says a word.
type silent struct{}

func (silent) Next() time.Time                  { return time.Time{} }
func (silent) Arrived()                         {}
func (silent) Expired(now, due time.Time) error { panic("it is never due") }

// newWilling returns a Conn in use that writes, with and without waiting, by write.
func newWilling(t *testing.T, write func(c *Conn, p []byte) (int, error)) *Conn {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	c := New(near, time.Second, 64<<10, silent{})
	each := func(p []byte) (int, error) { return write(c, p) }
	w := &willing{try: each, write: each}
	c.conn, c.try = w, w
	c.Watch(silent{}, false)
	t.Cleanup(func() { c.Kill(ErrClosed); c.Join() })
	return c
}

func TestTryWriteEnds(t *testing.T) {
	t.Run("the writing side with any error but EPIPE", func(t *testing.T) { // P4, P9
		calls := 0
		c := newWilling(t, func(_ *Conn, p []byte) (int, error) { calls++; return 2, io.ErrClosedPipe })
		require.True(t, c.CanTryWrite())
		n, err := c.TryWrite([]byte("hello"))
		require.Equal(t, 2, n)
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.ErrorIs(t, err, ErrDisconnected)
		require.Equal(t, err, c.Cause())
		require.True(t, c.IsDead())
		require.Equal(t, int64(2), c.Handed())
		for _, write := range []func([]byte) (int, error){c.TryWrite, c.Write} {
			n, again := write([]byte("llo"))
			require.Zero(t, n)
			require.Equal(t, err, again)
		}
		require.Equal(t, 1, calls, "a connection whose write failed was given another byte")
	})

	t.Run("nothing with EPIPE, which it leaves to Write", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			c := newWilling(t, func(*Conn, []byte) (int, error) { return 0, syscall.EPIPE })
			began := time.Now()
			n, err := c.TryWrite([]byte("hello"))
			require.NoError(t, err)
			require.Zero(t, n)
			require.Zero(t, time.Since(began))
			require.False(t, c.IsDead())
			_, err = c.Write([]byte("hello"))
			require.ErrorIs(t, err, syscall.EPIPE)
		})
	})

	t.Run("with the cause of a connection that ends meanwhile", func(t *testing.T) { // P9
		c := newWilling(t, func(c *Conn, _ []byte) (int, error) { c.Kill(ErrClosed); return 0, syscall.EPIPE })
		n, err := c.TryWrite([]byte("hello"))
		require.Zero(t, n)
		require.Equal(t, ErrClosed, err)
	})

	t.Run("without one if all was handed over", func(t *testing.T) { // P4
		c := newWilling(t, func(c *Conn, p []byte) (int, error) { c.Kill(ErrClosed); return len(p), nil })
		n, err := c.TryWrite([]byte("hello"))
		require.NoError(t, err)
		require.Equal(t, 5, n)
	})
}

func TestTryWriteUnderWay(t *testing.T) {
	t.Run("is waited for by a reader that learns EOF", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			reset := make(chan error)
			c := newWilling(t, func(*Conn, []byte) (int, error) { return 0, <-reset })
			wrote := make(chan error, 1)
			go func() {
				_, err := c.TryWrite([]byte("hello"))
				wrote <- err
			}()
			synctest.Wait()
			time.AfterFunc(20*time.Millisecond, func() { reset <- syscall.ECONNRESET })
			began := time.Now()
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			require.Equal(t, 20*time.Millisecond, time.Since(began))
			cause := c.Kill(err)
			require.ErrorIs(t, cause, syscall.ECONNRESET)
			require.Equal(t, cause, <-wrote)
		})
	})

	t.Run("is not waited for once it has returned", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			c := newWilling(t, func(_ *Conn, p []byte) (int, error) { return len(p), nil })
			_, err := c.TryWrite([]byte("hello"))
			require.NoError(t, err)
			began := time.Now()
			_, err = c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			require.Zero(t, time.Since(began))
		})
	})
}
