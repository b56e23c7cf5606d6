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

func TestRead(t *testing.T) {
	t.Run("asks the monitor when it is due, and reads on", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			began := time.Now()
			due := began.Add(time.Second)
			m := &monitor{next: func() time.Time { return due }}
			asked := 0
			m.expired = func(now, then time.Time) error {
				require.Equal(t, due, then)
				require.Equal(t, due, now)
				asked++
				due = due.Add(time.Second)
				return nil
			}
			c := wire.New(near, 0, 64<<10, m)
			defer requireEnds(t, c)
			go func() {
				time.Sleep(2500 * time.Millisecond)
				far.Write([]byte("hello"))
			}()
			n, err := c.Read(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 5, n)
			require.Equal(t, 2500*time.Millisecond, time.Since(began))
			require.Equal(t, 2, asked)
			require.Equal(t, 1, m.arrived)
		})
	})

	t.Run("ends with what the monitor says", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			began := time.Now()
			m := &monitor{
				next:    func() time.Time { return began.Add(time.Second) },
				expired: func(now, due time.Time) error { return io.ErrNoProgress },
			}
			c := wire.New(near, 0, 64<<10, m)
			defer requireEnds(t, c)
			_, err := c.Read(make([]byte, 10))
			require.Equal(t, io.ErrNoProgress, err)
			require.Equal(t, time.Second, time.Since(began))
			require.Zero(t, m.arrived)
		})
	})

	t.Run("does not ask a monitor that is due later than a deadline that was left", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			began := time.Now()
			due := began.Add(time.Second)
			m := &monitor{next: func() time.Time { return due }}
			m.expired = func(now, then time.Time) error {
				require.Equal(t, began.Add(5*time.Second), now)
				return io.ErrNoProgress
			}
			c := wire.New(near, 0, 64<<10, m)
			defer requireEnds(t, c)
			far.Write([]byte("x"))
			_, err := c.Read(make([]byte, 10)) // leaves the deadline in a second
			require.NoError(t, err)
			due = began.Add(5 * time.Second)
			_, err = c.Read(make([]byte, 10))
			require.Equal(t, io.ErrNoProgress, err)
		})
	})

	t.Run("asks the monitor it was last given", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			due := time.Now().Add(time.Second)
			c := wire.New(near, 0, 64<<10, &monitor{next: func() time.Time { panic("the one of the handshake") }})
			defer requireEnds(t, c)
			c.Watch(&monitor{
				next:    func() time.Time { return due },
				expired: func(now, due time.Time) error { return io.ErrNoProgress },
			}, false)
			_, err := c.Read(make([]byte, 10))
			require.Equal(t, io.ErrNoProgress, err)
		})
	})

	t.Run("returns bytes that come with a deadline as if they came without", func(t *testing.T) { // P1
		f := newFake()
		f.read = func(p []byte) (int, error) { return copy(p, "hello"), os.ErrDeadlineExceeded }
		n, err := newConn(t, f, 0).Read(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 5, n)
	})

	t.Run("returns bytes with the error that comes with them", func(t *testing.T) { // P1
		f := newFake()
		f.read = func(p []byte) (int, error) { return copy(p, "hello"), io.ErrUnexpectedEOF }
		n, err := newConn(t, f, 0).Read(make([]byte, 10))
		require.Equal(t, io.ErrUnexpectedEOF, err)
		require.Equal(t, 5, n)
	})

	t.Run("does not turn in circles where neither bytes nor an error come", func(t *testing.T) { // P6
		f := newFake()
		reads := 0
		f.read = func(p []byte) (int, error) { reads++; return 0, nil }
		_, err := newConn(t, f, 0).Read(make([]byte, 10))
		require.Equal(t, io.ErrNoProgress, err)
		require.Equal(t, 100, reads)
	})

	t.Run("notices a connection that claims what cannot be", func(t *testing.T) { // P1
		for _, claim := range []int{-1, 11} {
			f := newFake()
			f.read = func(p []byte) (int, error) { return claim, nil }
			_, err := newConn(t, f, 0).Read(make([]byte, 10))
			require.ErrorContains(t, err, "claims to have read")
		}
	})

	t.Run("sets a deadline once for many reads", func(t *testing.T) { // P12
		f := newFake()
		f.read = func(p []byte) (int, error) { return 1, nil }
		due := time.Now().Add(time.Hour)
		c := wire.New(f, 0, 64<<10, &monitor{next: func() time.Time { due = due.Add(time.Second); return due }})
		defer requireEnds(t, c)
		for range 1000 {
			_, err := c.Read(make([]byte, 10))
			require.NoError(t, err)
		}
		require.Len(t, f.readDeadline, 1)
	})
}

func TestReadOn(t *testing.T) {
	t.Run("after a failed write brings the last words of the peer, for a second", func(t *testing.T) { // P1
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, near, 0)
			began := time.Now()
			done := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
			synctest.Wait()
			c.FailWrite(io.ErrClosedPipe)
			require.True(t, c.IsDead())
			require.Equal(t, began.Add(time.Second), c.ReadUntil())
			time.Sleep(500 * time.Millisecond)
			far.Write([]byte("bye"))
			require.Equal(t, outcome{3, nil, 500 * time.Millisecond}, <-done)
			_, err := c.Read(make([]byte, 10))
			require.Equal(t, c.Cause(), err)
			require.ErrorIs(t, err, io.ErrClosedPipe)
			require.Equal(t, time.Second, time.Since(began))
		})
	})

	t.Run("does not go past the monitor's time", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			began := time.Now()
			c := wire.New(near, 0, 64<<10, &monitor{
				next:    func() time.Time { return began.Add(300 * time.Millisecond) },
				expired: func(now, due time.Time) error { return io.ErrNoProgress },
			})
			defer requireEnds(t, c)
			done := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
			synctest.Wait()
			c.FailWrite(io.ErrClosedPipe)
			require.Equal(t, outcome{0, io.ErrNoProgress, 300 * time.Millisecond}, <-done)
		})
	})

	for name, kind := range map[string]func(net.Conn) net.Conn{
		"with deadlines":    func(c net.Conn) net.Conn { return c },
		"without deadlines": func(c net.Conn) net.Conn { return bare{c} },
	} {
		t.Run("on a connection "+name+" ends sooner than the monitor's time", func(t *testing.T) { // P7
			synctest.Test(t, func(t *testing.T) {
				near, _ := inMemory(t, 1000)
				due := time.Now().Add(time.Hour)
				c := wire.New(kind(near), 0, 64<<10, &monitor{next: func() time.Time { return due }})
				defer requireEnds(t, c)
				done := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
				synctest.Wait()
				c.FailWrite(io.ErrClosedPipe)
				o := <-done
				require.ErrorIs(t, o.err, io.ErrClosedPipe)
				require.Equal(t, time.Second, o.took)
			})
		})
	}

	t.Run("ends in time also after a monitor that gave more", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			began := time.Now()
			due := began.Add(300 * time.Millisecond)
			c := wire.New(near, 0, 64<<10, &monitor{
				next:    func() time.Time { return due },
				expired: func(now, then time.Time) error { due = began.Add(time.Hour); return nil },
			})
			defer requireEnds(t, c)
			c.FailWrite(io.ErrClosedPipe)
			_, err := c.Read(make([]byte, 10))
			require.ErrorIs(t, err, io.ErrClosedPipe)
			require.Equal(t, time.Second, time.Since(began))
		})
	})
}
