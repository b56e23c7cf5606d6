package wire_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

func TestTryWrite(t *testing.T) {
	for name, kind := range map[string]func(net.Conn) net.Conn{
		"with deadlines":    func(c net.Conn) net.Conn { return c },
		"without deadlines": func(c net.Conn) net.Conn { return bare{c} },
	} {
		t.Run("of a connection "+name+" that would have to wait takes nothing", func(t *testing.T) { // P2
			f := newFake()
			f.write = func([]byte) (int, error) { t.Error("a write that may wait"); return 0, io.EOF }
			c := newConn(t, kind(f), time.Second)
			require.False(t, c.CanTryWrite())
			n, err := c.TryWrite([]byte("hello"))
			require.NoError(t, err)
			require.Zero(t, n)
			require.Zero(t, c.Handed())
			require.Empty(t, f.writeDeadline, "only Write has a deadline")
			cause := c.Kill(io.ErrNoProgress)
			n, err = c.TryWrite([]byte("hello"))
			require.Equal(t, cause, err)
			require.Zero(t, n)
		})
	}
}

func TestWrite(t *testing.T) {
	t.Run("blocks until the network has taken all, however slow that is", func(t *testing.T) { // P1, P5
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, near, time.Second)
			p := pattern(100_000)
			done := begin(func() (int, error) { return c.Write(p) })
			got := make([]byte, 0, len(p))
			for len(got) < len(p) {
				time.Sleep(900 * time.Millisecond) // the peer's pace
				n, err := far.Read(got[len(got) : len(got)+500])
				require.NoError(t, err)
				got = got[:len(got)+n]
			}
			o := <-done
			require.NoError(t, o.err)
			require.Equal(t, len(p), o.n)
			require.Equal(t, p, got)
			require.Equal(t, int64(len(p)), c.Handed())
		})
	})

	t.Run("kills the connection after WriteTimeout without progress", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := newConn(t, near, time.Second)
			began := time.Now()
			n, err := c.Write(pattern(4000))
			require.Equal(t, 1000, n)
			require.ErrorIs(t, err, wire.ErrWriteTimeout)
			require.ErrorIs(t, err, wire.ErrDisconnected)
			// The network says only after the first slice that it has taken bytes.
			require.Equal(t, 1002*time.Millisecond, time.Since(began))
			require.Equal(t, began.Add(2*time.Millisecond), c.Progress())
			require.Zero(t, c.ReadUntil(), "the reader was to stop")
			c.Join()
			_, err = near.Write(nil)
			require.ErrorIs(t, err, net.ErrClosed)
		})
	})

	t.Run("notes at once what the network takes at once", func(t *testing.T) { // P5, S15
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := newConn(t, near, 10*time.Second)
			o := <-begin(func() (int, error) { return c.Write(pattern(5000)) })
			require.ErrorIs(t, o.err, wire.ErrWriteTimeout)
			require.Equal(t, 1000, o.n)
			require.InDelta(t, 10*time.Second, o.took, float64(10*time.Millisecond))
		})
	})

	t.Run("without a timeout waits until the connection is killed", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := newConn(t, near, 0)
			done := begin(func() (int, error) { return c.Write(pattern(4000)) })
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			require.Empty(t, done)
			require.Equal(t, int64(1000), c.Handed())
			c.Kill(wire.ErrClosed)
			o := <-done
			require.Equal(t, wire.ErrClosed, o.err)
			require.Equal(t, 1000, o.n)
			require.Equal(t, 10*time.Minute, o.took)
		})
	})

	t.Run("has the whole WriteTimeout before it, however long ago the last one was", func(t *testing.T) { // P5, FAULTS Y13
		synctest.Test(t, func(t *testing.T) {
			near, _ := inMemory(t, 1000)
			c := newConn(t, near, time.Second)
			_, err := c.Write(pattern(1000))
			require.NoError(t, err)
			time.Sleep(time.Hour)
			began := time.Now()
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, wire.ErrWriteTimeout)
			require.Equal(t, time.Second, time.Since(began))
			require.Equal(t, began, c.Progress(), "when that Write began")
		})
	})

	t.Run("takes its deadline back", func(t *testing.T) {
		f := newFake()
		f.write = func(p []byte) (int, error) { return len(p), nil }
		c := newConn(t, f, time.Second)
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		require.Zero(t, f.lastWriteDeadline())
	})

	t.Run("of nothing is nothing", func(t *testing.T) {
		f := newFake()
		c := newConn(t, f, time.Second)
		n, err := c.Write(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		c.Kill(io.EOF)
		_, err = c.Write(nil)
		require.ErrorIs(t, err, io.EOF)
	})

	t.Run("that has handed over all is no failure if the connection ends meanwhile", func(t *testing.T) { // P4
		f := newFake()
		c := newConn(t, f, 0)
		f.write = func(p []byte) (int, error) { c.Kill(wire.ErrClosed); return len(p), nil }
		n, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		require.Equal(t, 5, n)
	})

	t.Run("notices a connection that claims what cannot be, and takes all for handed over", func(t *testing.T) { // P4
		for _, claim := range []int{-1, 6} {
			f := newFake()
			f.write = func(p []byte) (int, error) { return claim, nil }
			c := newConn(t, f, 0)
			_, err := c.Write([]byte("hello"))
			require.ErrorIs(t, err, wire.ErrDisconnected)
			require.Equal(t, int64(5), c.Handed())
		}
	})

	t.Run("takes a short write without a reason for an error", func(t *testing.T) { // P1
		f := newFake()
		f.write = func(p []byte) (int, error) { return 3, nil }
		_, err := newConn(t, f, 0).Write([]byte("hello"))
		require.ErrorIs(t, err, io.ErrShortWrite)
	})

	t.Run("fails with what the connection says", func(t *testing.T) { // P4, P9
		f := newFake()
		f.write = func(p []byte) (int, error) { return 2, io.ErrClosedPipe }
		c := newConn(t, f, time.Second)
		n, err := c.Write([]byte("hello"))
		require.Equal(t, 2, n)
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.Equal(t, int64(2), c.Handed())
		require.False(t, c.ReadUntil().IsZero(), "the reader was to go on for the last words")
	})

	t.Run("calls ErrClosed of a connection by its name", func(t *testing.T) { // P9
		f := newFake()
		f.write = func(p []byte) (int, error) { return 0, wire.ErrClosed }
		c := newConn(t, f, time.Second)
		_, err := c.Write([]byte("hello"))
		require.ErrorIs(t, err, wire.ErrDisconnected, "the connection's word, not ours")
	})
}

// A suspended is a connection that takes nothing while its deadlines pass. After some time
// the process, and with it a write, sleeps through one of them; then all is taken.
type suspended struct {
	*fake
	from time.Time // when the process is suspended
	over bool
}

func (s *suspended) Write(p []byte) (int, error) {
	if s.over {
		return len(p), nil
	}
	time.Sleep(time.Until(s.lastWriteDeadline()))
	if time.Now().After(s.from) {
		time.Sleep(time.Hour)
		s.over = true
	}
	return 0, os.ErrDeadlineExceeded
}

// A sluggish takes nothing, and is late with each deadline.
type sluggish struct{ *fake }

func (s *sluggish) Write(p []byte) (int, error) {
	time.Sleep(10 * time.Second)
	return 0, os.ErrDeadlineExceeded
}

func TestWriteTimeoutOfSuspendedProcess(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 50 * time.Millisecond, 10 * time.Millisecond} {
		for _, from := range []time.Duration{0, timeout / 2, timeout - 5*time.Millisecond} {
			t.Run("is no verdict without another try: "+from.String()+" of "+timeout.String(), func(t *testing.T) { // P5
				synctest.Test(t, func(t *testing.T) {
					c := newConn(t, &suspended{fake: newFake(), from: time.Now().Add(from)}, timeout)
					n, err := c.Write([]byte("hello"))
					require.NoError(t, err)
					require.Equal(t, 5, n)
				})
			})
		}
	}

	t.Run("that is always late is bounded all the same", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			c := newConn(t, &sluggish{newFake()}, time.Second)
			_, err := c.Write([]byte("hello"))
			require.ErrorIs(t, err, wire.ErrWriteTimeout)
		})
	})
}

func TestCloseWrite(t *testing.T) {
	t.Run("sends FIN, after which the peer can still be read", func(t *testing.T) { // P7
		near, far := onTCP(t)
		c := newConn(t, near, 0)
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		got, err := io.ReadAll(far)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		_, err = far.Write([]byte("bye"))
		require.NoError(t, err)
		p := make([]byte, 3)
		_, err = io.ReadFull(c, p)
		require.NoError(t, err)
		require.Equal(t, "bye", string(p))
	})

	t.Run("says so where there is no half-close", func(t *testing.T) {
		c := newConn(t, newFake(), 0)
		require.ErrorIs(t, c.CloseWrite(), errors.ErrUnsupported)
		require.False(t, c.IsDead())
	})

	t.Run("sends nothing on a connection that has ended", func(t *testing.T) { // P4
		near, far := inMemory(t, 1000)
		c := newConn(t, near, 0)
		c.FailWrite(io.ErrNoProgress)
		require.ErrorIs(t, c.CloseWrite(), io.ErrNoProgress)
		require.NoError(t, far.SetReadDeadline(time.Now()))
		_, err := far.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "FIN has come")
	})
}

func TestEveryByte(t *testing.T) {
	kinds := map[string]func(net.Conn) net.Conn{
		"of a connection with deadlines":    func(c net.Conn) net.Conn { return c },
		"of a connection without deadlines": func(c net.Conn) net.Conn { return bare{c} },
	}
	for name, kind := range kinds {
		t.Run(name+" arrives once and in order", func(t *testing.T) { // P1, P4
			for seed := range uint64(20) {
				synctest.Test(t, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(seed, 7))
					near, far := inMemory(t, 1+rng.IntN(5000))
					c := newConn(t, kind(near), time.Minute)
					p := pattern(rng.IntN(50_000))
					got := make(chan []byte)
					go func() {
						peer, all := rand.New(rand.NewPCG(seed, 8)), []byte(nil)
						for len(all) < len(p) {
							time.Sleep(time.Duration(peer.Int64N(int64(200 * time.Millisecond)))) // the peer's pace
							chunk := make([]byte, 1+peer.IntN(3000))
							n, err := far.Read(chunk)
							if err != nil {
								break
							}
							all = append(all, chunk[:n]...)
						}
						got <- all
					}()
					for rest := p; len(rest) > 0; {
						n, err := c.Write(rest[:min(1+rng.IntN(10_000), len(rest))])
						require.NoError(t, err, "seed %d", seed)
						rest = rest[n:]
						require.Equal(t, int64(len(p)-len(rest)), c.Handed(), "seed %d", seed)
					}
					require.True(t, string(p) == string(<-got), "seed %d", seed)
				})
			}
		})
	}
}

func TestHandedAt(t *testing.T) {
	t.Run("is when the connection last took bytes for a Write", func(t *testing.T) { // P5, A1
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 100)
			c := newConn(t, near, 0)
			require.True(t, c.HandedAt().IsZero())
			start := time.Now()
			time.Sleep(time.Second)
			_, err := c.Write(pattern(100))
			require.NoError(t, err)
			require.Equal(t, time.Second, c.HandedAt().Sub(start))
			written := begin(func() (int, error) { return c.Write(pattern(10)) })
			time.Sleep(time.Minute)
			require.Equal(t, time.Second, c.HandedAt().Sub(start), "it takes none")
			_, err = io.ReadFull(far, make([]byte, 100))
			require.NoError(t, err)
			require.NoError(t, (<-written).err)
			require.Equal(t, 61*time.Second, c.HandedAt().Sub(start))
		})
	})

	for _, asked := range []bool{false, true} {
		t.Run(fmt.Sprint("is noted by TryWrite if that was asked for: ", asked), func(t *testing.T) { // P5, P12, A1
			near, _ := onTCP(t)
			m := new(monitor)
			c := wire.New(near, 0, 64<<10, m)
			defer requireEnds(t, c)
			c.Watch(m, asked)
			if !c.CanTryWrite() {
				t.Skip("this system has no way to write without waiting")
			}
			before := time.Now()
			n, err := c.TryWrite([]byte("hello"))
			require.NoError(t, err)
			require.Equal(t, 5, n)
			require.Equal(t, asked, !c.HandedAt().Before(before))
			handedAt := c.HandedAt()
			_, err = c.TryWrite(nil)
			require.NoError(t, err)
			require.Equal(t, handedAt, c.HandedAt(), "nothing was handed over")
		})
	}
}
