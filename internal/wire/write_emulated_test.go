package wire_test

import (
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// connectForgetful returns the two ends of a connection in memory, the first as a socket on
// Windows is.
func connectForgetful(t *testing.T, writeTimeout time.Duration, m *monitor) (c *wire.Conn, near, far net.Conn) {
	near, far = inMemory(t, 1000)
	c = wire.NewWithoutWriteDeadlines(forgetful{near}, writeTimeout, m)
	c.Watch(m, false)
	t.Cleanup(func() { requireEnds(t, c) })
	return c, near, far
}

func TestSocketWithoutWriteDeadlines(t *testing.T) {
	t.Run("writes no byte twice", func(t *testing.T) { // P1, P4, D2
		synctest.Test(t, func(t *testing.T) {
			c, _, far := connectForgetful(t, 10*time.Second, new(monitor))
			p := pattern(200_000)
			done := begin(func() (int, error) { return c.Write(p) })
			time.Sleep(time.Second) // the buffer is full, and deadlines would have passed
			got := readAll(far, len(p))
			o := <-done
			require.NoError(t, o.err)
			c.Kill(wire.ErrClosed)
			require.True(t, string(p) == string(<-got), "the peer got other bytes")
		})
	})

	t.Run("is left at once when it is closed and nothing is written", func(t *testing.T) { // P7, D2
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := connectForgetful(t, 0, new(monitor))
			c.Kill(wire.ErrClosed)
			c.Join()
			select {
			case <-c.Left():
			default:
				require.Fail(t, "a call is said to be under way")
			}
		})
	})

	t.Run("ends a write that makes no progress", func(t *testing.T) { // P5, D2
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := connectForgetful(t, time.Second, new(monitor))
			began := time.Now()
			_, err := c.Write(pattern(5000))
			require.ErrorIs(t, err, wire.ErrWriteTimeout)
			require.Equal(t, time.Second, time.Since(began))
			require.EqualValues(t, 5000, c.Handed(), "all of them may have left")
		})
	})

	t.Run("reads by the deadlines of its own", func(t *testing.T) { // P5, D2
		synctest.Test(t, func(t *testing.T) {
			due := time.Now().Add(time.Second)
			c, _, far := connectForgetful(t, 0, &monitor{
				next:    func() time.Time { return due },
				expired: func(now, due time.Time) error { return io.ErrNoProgress },
			})
			read := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
			require.Equal(t, outcome{0, io.ErrNoProgress, time.Second}, <-read)
			due = time.Time{}
			far.Write([]byte("x"))
			n, err := c.Read(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 1, n)
		})
	})

	t.Run("counts all of a write as handed over in which it is closed", func(t *testing.T) { // P4, P7, D2
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := wire.NewWithoutWriteDeadlines(near, 0, new(monitor))
			done := begin(func() (int, error) { return c.Write(pattern(5000)) })
			synctest.Wait()
			c.Kill(wire.ErrClosed)
			o := <-done
			require.Equal(t, wire.ErrClosed, o.err)
			require.Zero(t, o.took)
			<-c.Left()
			require.EqualValues(t, 5000, c.Handed())
		})
	})

	t.Run("ends with a deadline that is not ours", func(t *testing.T) { // P4, D2
		// A Handshake has set one on its NetConn, and has forgotten it.
		synctest.Test(t, func(t *testing.T) {
			c, near, _ := connectForgetful(t, 0, new(monitor))
			near.SetWriteDeadline(time.Now().Add(time.Second))
			_, err := c.Write(pattern(5000))
			require.ErrorIs(t, err, wire.ErrDisconnected)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	})

	t.Run("sends FIN", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := wire.NewWithoutWriteDeadlines(near, 0, new(monitor))
			defer requireEnds(t, c)
			require.False(t, c.CanTryWrite())
			require.NoError(t, c.CloseWrite())
			_, err := far.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		})
	})
}
