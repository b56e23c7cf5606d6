package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCallIsSentElsewhereIfItIsUnsent(t *testing.T) { // P4
	t.Run("because its connection cannot write", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			d := w.dialer()
			var writes atomic.Int32
			d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := w.network.DialContext(ctx, network, address)
				if err == nil && address == "a:1" {
					conn = &testkit.HookedConn{Conn: conn, OnWrite: func([]byte) (int, error) {
						writes.Add(1)
						return 0, syscall.EPIPE
					}}
				}
				return conn, err
			}
			d.Reconnect = &tcpclient.Backoff{Max: 10 * time.Millisecond}
			p := w.dial(t, d, 2, "a:1", "b:1")
			for i := range 100 {
				require.Equal(t, "b:1", call(t, p, numbered(i)))
				require.Equal(t, []string{"b:1"}, w.executedAt(numbered(i)))
				time.Sleep(100 * time.Millisecond)
			}
			require.Greater(t, writes.Load(), int32(10))
			require.NoError(t, p.Close())
		})
	})

	t.Run("because it waits for room on a connection that ends", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			release := make(chan struct{})
			w.work = func(address, request string) { <-release }
			d := w.dialer()
			d.MaxInFlight = 1
			p := w.dial(t, d, 1, "a:1", "b:1")
			const n = 20
			var calls sync.WaitGroup
			var lost atomic.Int32
			for i := range n {
				calls.Go(func() {
					reply, err := p.Call(t.Context(), []byte(numbered(i)))
					if err != nil {
						assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
						assert.False(t, testkit.OpError(t, err).Unsent, "request %d", i)
						assert.Equal(t, []string{"a:1"}, w.executedAt(numbered(i)))
						lost.Add(1)
						return
					}
					assert.Equal(t, "b:1", string(reply))
					assert.Equal(t, []string{"b:1"}, w.executedAt(numbered(i)))
				})
				synctest.Wait()
			}
			go w.kill("a:1")
			synctest.Wait()
			close(release)
			calls.Wait()
			require.Equal(t, int32(1), lost.Load(), "one was on its way to a:1")
			require.NoError(t, p.Close())
		})
	})

	t.Run("also from a Client that was closed by itself", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			p := w.dial(t, w.dialer(), 1, "a:1", "b:1")
			require.NoError(t, p.Clients()[0].Close())
			for i := range 10 {
				require.Equal(t, "b:1", call(t, p, numbered(i)))
			}
			require.NoError(t, p.Shutdown(t.Context()))
		})
	})
}

func TestCallTakesAConnectionThatHasAPlace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const connections = 20
		w.start("a:1")
		release := make(chan struct{})
		w.work = func(address, request string) { <-release }
		d := w.dialer()
		d.MaxInFlight = 1
		p := w.dial(t, d, connections, "a:1")
		var calls sync.WaitGroup
		for i := range connections {
			calls.Go(func() {
				_, err := p.Call(t.Context(), []byte(numbered(i)))
				assert.NoError(t, err)
			})
			synctest.Wait()
			require.Len(t, w.executedAt(numbered(i)), 1, "request %d waits although there is a connection without one", i)
		}
		close(release)
		calls.Wait()
		require.NoError(t, p.Close())
	})
}

func TestCallIsNotRepeatedIfTheServerMayHaveSeenIt(t *testing.T) { // P4
	inWorld(t, func(t *testing.T, w *world) {
		addresses := []string{"a:1", "b:1", "c:1"}
		w.start(addresses...)
		w.work = func(address, request string) { w.server(address).ResetConnections() }
		d := w.dialer()
		d.Reconnect = &tcpclient.Backoff{Max: 10 * time.Millisecond}
		p := w.dial(t, d, 2, addresses...)
		for i := range 100 {
			_, err := p.Call(t.Context(), []byte(numbered(i)))
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, testkit.OpError(t, err).Unsent)
			require.Len(t, w.executedAt(numbered(i)), 1)
		}
		require.NoError(t, p.Close())
	})
}

func TestCallThatIsRefusedIsNotTriedElsewhere(t *testing.T) { // P9
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1", "b:1")
		d := w.dialer()
		var framed atomic.Int32
		d.Correlator = refusing{&framed}
		p := w.dial(t, d, 2, "a:1", "b:1")
		_, err := p.Call(t.Context(), []byte("hello"))
		require.ErrorIs(t, err, errTurnedAway)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.True(t, testkit.OpError(t, err).Unsent)
		require.Equal(t, int32(1), framed.Load())
		require.NoError(t, p.Close())
	})
}

// refusing is a Correlator that refuses all requests.
type refusing struct{ asked *atomic.Int32 }

func (c refusing) AppendRequest([]byte, uint64, []byte) ([]byte, error) {
	c.asked.Add(1)
	return nil, errTurnedAway
}

func (refusing) SplitReply([]byte) (uint64, []byte, bool) { return 0, nil, false }

func TestCallWhoseConnectionsTakeNoRequests(t *testing.T) { // P5
	inWorld(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		for _, address := range []string{"a:1", "b:1"} {
			w.serve(address, func(conn *tcpclienttest.Conn) { // floods, and answers nothing
				for conn.Context().Err() == nil && conn.Send(make([]byte, 1000)) == nil {
				}
			})
		}
		d := w.dialer()
		d.MaxInFlight = 1
		p := w.dial(t, d, 1, "a:1", "b:1")
		var calls sync.WaitGroup
		for range 2 { // these take the places, and are seen
			calls.Go(func() {
				_, err := p.Call(t.Context(), []byte("first"))
				assert.ErrorIs(t, err, tcpclient.ErrInboxFull)
				assert.False(t, testkit.OpError(t, err).Unsent)
			})
			synctest.Wait()
		}
		calls.Wait()
		_, err := p.Call(t.Context(), []byte("second"))
		require.ErrorIs(t, err, tcpclient.ErrInboxFull, "on either")
		require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
		require.True(t, testkit.OpError(t, err).Unsent)
		close(release)
		require.NoError(t, p.Close())
	})
}

func TestCallWithoutAConnection(t *testing.T) {
	t.Run("waits for one", func(t *testing.T) { // P8
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{Max: 100 * time.Millisecond}
			p := w.dial(t, d, 2, "a:1", "b:1")
			for round := range 3 {
				w.kill("a:1")
				w.kill("b:1")
				synctest.Wait()
				var calls sync.WaitGroup
				for i := range 50 {
					calls.Go(func() {
						reply, err := p.Call(t.Context(), []byte(fmt.Sprint(round, i)))
						assert.NoError(t, err)
						assert.Equal(t, "b:1", string(reply))
					})
				}
				time.Sleep(20 * time.Second) // each attempt that fails wakes them all
				w.start("b:1")
				began := time.Now()
				calls.Wait()
				require.Less(t, time.Since(began), 250*time.Millisecond)
				w.start("a:1")
				time.Sleep(time.Second)
				require.NotContains(t, connectedTo(p), "")
			}
			require.NoError(t, p.Close())
		})
	})

	t.Run("says why when its context ends", func(t *testing.T) { // P2, C10
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			p := w.dial(t, w.dialer(), 2, "a:1", "b:1")
			w.kill("a:1")
			synctest.Wait()
			w.kill("b:1")
			synctest.Wait()
			began := time.Now()
			_, err := p.Call(within(t, time.Minute), []byte("hello"))
			require.Equal(t, time.Minute, time.Since(began))
			require.EqualError(t, err, "tcpclient: call a:1, b:1: context deadline exceeded; no connection; Call waits for one; "+
				"dial a:1: dial tcp a:1: connect: connection refused; dial b:1: dial tcp b:1: connect: connection refused")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, pool.ErrNoConnection)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.True(t, testkit.OpError(t, err).Timeout())
			require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
			require.NoError(t, p.Close())
		})
	})

	t.Run("looks for one no longer than it waits", func(t *testing.T) { // P6
		server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
		p, err := pool.Dial(t.Context(), nil, "tcp", 2, server.Addr)
		require.NoError(t, err)
		require.NoError(t, server.Close())
		testkit.Eventually(t, "all have lost their connection", func() bool {
			_, err := p.Pick()
			return err != nil
		})
		_, err = p.Call(within(t, 50*time.Millisecond), []byte("hello"))
		require.ErrorIs(t, err, pool.ErrNoConnection)
		testkit.Eventually(t, "no goroutine looks", func() bool { return !strings.Contains(testkit.Stacks(), "pool.(*Pool).look(") })
		require.NoError(t, p.Close())
	})

	t.Run("does no I/O if its context has ended", func(t *testing.T) { // P2
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			p := w.dial(t, w.dialer(), 2, "a:1")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := p.Call(ctx, []byte("hello"))
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.NoError(t, p.Shutdown(t.Context()))
			require.Empty(t, w.executedAt("hello"))
		})
	})

	t.Run("ends when the last Client ends for good", func(t *testing.T) { // P9
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			var closed atomic.Bool
			d := w.dialer()
			d.Handshake = func(context.Context, *tcpclient.Conn) error {
				if closed.Load() {
					return tcpclient.Permanent(errTurnedAway)
				}
				return nil
			}
			p := w.dial(t, d, 2, "a:1", "b:1")
			closed.Store(true)
			synctest.Wait()
			w.server("a:1").ResetConnections()
			w.server("b:1").ResetConnections()
			synctest.Wait()
			for range 2 { // the first waits, the second need not
				_, err := p.Call(t.Context(), []byte("hello"))
				require.ErrorIs(t, err, errTurnedAway)
				require.ErrorIs(t, err, pool.ErrNoConnection)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			}
			_, err := p.Pick()
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.NoError(t, p.Shutdown(t.Context()), "that they have ended is no failure of Shutdown")
		})
	})

	t.Run("ends with its context while it waits for a reply", func(t *testing.T) { // P2
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			w.work = func(string, string) { time.Sleep(time.Hour) }
			p := w.dial(t, w.dialer(), 1, "a:1")
			began := time.Now()
			_, err := p.Call(within(t, time.Second), []byte("hello"))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, pool.ErrNoConnection)
			require.Equal(t, time.Second, time.Since(began))
			require.NoError(t, p.Close())
			time.Sleep(time.Hour)
		})
	})
}

func TestCallAfterALossIsSentElsewhere(t *testing.T) { // P4
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1")
		d := w.dialer()
		d.Reconnect = &tcpclient.Backoff{Max: time.Millisecond}
		p := w.dial(t, d, 1, "a:1")
		c := p.Clients()[0]
		for i := range 10 {
			require.NoError(t, c.Write(t.Context(), []byte("never flushed")))
			synctest.Wait()
			w.server("a:1").ResetConnections()
			if i%2 == 0 {
				time.Sleep(time.Second) // the next connection has the loss to report
			} else {
				synctest.Wait()
			}
			require.Equal(t, "a:1", call(t, p, numbered(i)))
			require.Equal(t, uint64(i+1), c.Stats().MessagesLost)
		}
		require.NoError(t, p.Close())
	})
}

func TestPick(t *testing.T) {
	t.Run("returns a connected Client", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "c:1")
			p := w.dial(t, w.dialer(), 2, "a:1", "b:1", "c:1")
			picked := make(map[*tcpclient.Client]int)
			const n = 12_000
			for range n {
				c, err := p.Pick()
				require.NoError(t, err)
				picked[c]++
			}
			require.Len(t, picked, 4)
			for c, times := range picked {
				require.True(t, c.Stats().Connected)
				require.InDelta(t, n/4, times, n/40, "all alike, also beside those that are not connected")
			}
			require.NoError(t, p.Close())
		})
	})

	t.Run("never waits", func(t *testing.T) { // P9
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			p := w.dial(t, w.dialer(), 1, "a:1", "b:1")
			w.kill("a:1")
			time.Sleep(time.Second)
			began := time.Now()
			c, err := p.Pick()
			require.Nil(t, c)
			require.Equal(t, began, time.Now())
			require.EqualError(t, err, "tcpclient: pick a:1, b:1: no connection; Call waits for one; "+
				"dial a:1: dial tcp a:1: connect: connection refused; dial b:1: dial tcp b:1: connect: connection refused")
			require.ErrorIs(t, err, pool.ErrNoConnection)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(pool.ErrNoConnection))
			require.NoError(t, p.Close())
		})
	})
}

func TestClientsFailFast(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1")
		p := w.dial(t, w.dialer(), 1, "a:1")
		w.kill("a:1")
		time.Sleep(time.Minute)
		began := time.Now()
		_, err := p.Clients()[0].Call(t.Context(), []byte("hello"))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.Equal(t, began, time.Now())

		p.Clients()[0] = nil
		require.NotNil(t, p.Clients()[0], "the slice is the caller's")
		require.NoError(t, p.Close())
	})
}

// Balance.

func TestCallsAreSharedAmongAll(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		addresses := []string{"a:1", "b:1", "c:1", "d:1"}
		w.start(addresses...)
		w.work = func(string, string) { time.Sleep(10 * time.Millisecond) }
		p := w.dial(t, w.dialer(), 1, addresses...)
		// So many that a twentieth is five standard deviations, even if all choose at the same moment.
		served := w.load(t, p, 64, 400)
		for _, address := range addresses {
			require.InDelta(t, 6400, served[address], 320)
		}
		require.NoError(t, p.Close())
	})
}

func TestSlowServerGetsLess(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		addresses := []string{"a:1", "b:1", "c:1", "slow:1"}
		w.start(addresses...)
		w.work = func(address, _ string) {
			if address == "slow:1" {
				time.Sleep(90 * time.Millisecond)
			}
			time.Sleep(10 * time.Millisecond)
		}
		p := w.dial(t, w.dialer(), 1, addresses...)
		served := w.load(t, p, 64, 100)
		require.Less(t, served["slow:1"], 1600/4, "a tenth of the speed, and less than a quarter of a share")
		for _, address := range addresses[:3] {
			require.InDelta(t, (6400-served["slow:1"])/3, served[address], 200)
		}
		require.NoError(t, p.Close())
	})
}

// load has callers call so many times each, and returns how many each server has served.
func (w *world) load(t *testing.T, p *pool.Pool, callers, times int) map[string]int {
	served := make(map[string]int)
	var mu sync.Mutex
	var calls sync.WaitGroup
	for i := range callers {
		calls.Go(func() {
			for j := range times {
				reply, err := p.Call(t.Context(), []byte(fmt.Sprint(i, "/", j)))
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				served[string(reply)]++
				mu.Unlock()
			}
		})
	}
	calls.Wait()
	return served
}

// The end.

func TestShutdown(t *testing.T) { // P7
	t.Run("waits for the replies to Calls in flight, on all connections at once", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			w.work = func(string, string) { time.Sleep(time.Second) }
			p := w.dial(t, w.dialer(), 2, "a:1", "b:1", "none:1")
			var calls sync.WaitGroup
			for i := range 100 {
				calls.Go(func() {
					_, err := p.Call(t.Context(), []byte(numbered(i)))
					assert.NoError(t, err)
				})
			}
			synctest.Wait()
			began := time.Now()
			require.NoError(t, p.Shutdown(t.Context()))
			require.Equal(t, time.Second, time.Since(began))
			calls.Wait()
			requireOver(t, p)
		})
	})

	t.Run("refuses further Calls, also those that wait for a connection", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			p := w.dial(t, w.dialer(), 2, "a:1")
			w.kill("a:1")
			synctest.Wait()
			waiting := make(chan error)
			go func() {
				_, err := p.Call(t.Context(), []byte("hello"))
				waiting <- err
			}()
			synctest.Wait()
			require.NoError(t, p.Shutdown(t.Context()))
			require.ErrorIs(t, <-waiting, tcpclient.ErrClosed)
			requireOver(t, p)
		})
	})

	t.Run("ends with its context", func(t *testing.T) { // P2
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			w.work = func(string, string) { time.Sleep(time.Hour) }
			p := w.dial(t, w.dialer(), 2, "a:1", "b:1")
			var calls sync.WaitGroup
			for i := range 20 {
				calls.Go(func() {
					_, err := p.Call(t.Context(), []byte(numbered(i)))
					assert.ErrorIs(t, err, tcpclient.ErrClosed)
				})
			}
			synctest.Wait()
			began := time.Now()
			err := p.Shutdown(within(t, time.Second))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.Equal(t, "close", testkit.OpError(t, err).Op)
			require.Equal(t, time.Second, time.Since(began))
			calls.Wait()
			requireOver(t, p)
			time.Sleep(time.Hour)
		})
	})

	t.Run("does nothing if its context has ended", func(t *testing.T) { // P2
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			p := w.dial(t, w.dialer(), 1, "a:1")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.ErrorIs(t, p.Shutdown(ctx), context.Canceled)
			require.Equal(t, "a:1", call(t, p, "hello"))
			require.NoError(t, p.Shutdown(t.Context()))
		})
	})
}

// requireOver wants p to have ended.
func requireOver(t *testing.T, p *pool.Pool) {
	t.Helper()
	_, err := p.Call(t.Context(), []byte("late"))
	require.ErrorIs(t, err, tcpclient.ErrClosed)
	require.True(t, testkit.OpError(t, err).Unsent)
	require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	_, err = p.Pick()
	require.ErrorIs(t, err, tcpclient.ErrClosed)
	require.ErrorIs(t, p.Shutdown(t.Context()), tcpclient.ErrClosed)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	for _, c := range p.Clients() {
		_, err := c.Session()
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	}
}

func TestClose(t *testing.T) { // P7
	t.Run("unblocks all, once", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			w.work = func(string, string) { time.Sleep(time.Hour) }
			p := w.dial(t, w.dialer(), 2, "a:1", "b:1", "none:1")
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					_, err := p.Call(t.Context(), []byte(numbered(i)))
					assert.ErrorIs(t, err, tcpclient.ErrClosed)
				})
			}
			synctest.Wait()
			all.Go(func() { assert.ErrorIs(t, p.Shutdown(t.Context()), tcpclient.ErrClosed) })
			synctest.Wait()
			began := time.Now()
			for range 3 {
				all.Go(func() { assert.NoError(t, p.Close()) })
			}
			all.Wait()
			require.Less(t, time.Since(began), time.Second)
			requireOver(t, p)
			time.Sleep(time.Hour)
		})
	})

	t.Run("unblocks Calls that wait for a connection", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			p := w.dial(t, w.dialer(), 1, "a:1")
			w.kill("a:1")
			synctest.Wait()
			waiting := make(chan error)
			go func() {
				_, err := p.Call(t.Context(), []byte("hello"))
				waiting <- err
			}()
			synctest.Wait()
			require.NoError(t, p.Close())
			require.ErrorIs(t, <-waiting, tcpclient.ErrClosed)
		})
	})

	t.Run("reports what is lost", func(t *testing.T) { // P4
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			p := w.dial(t, w.dialer(), 1, "a:1", "b:1")
			require.NoError(t, p.Clients()[1].Write(t.Context(), []byte("never flushed")))
			w.kill("b:1")
			synctest.Wait()
			err := p.Close()
			require.ErrorAs(t, err, new(*tcpclient.LossError))
			require.ErrorContains(t, err, "tcpclient: close a:1, b:1: close b:1: messages that were written are lost")
			require.NoError(t, p.Close())
		})
	})

	t.Run("may be called from a hook", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			made := make(chan *pool.Pool, 1)
			closed := make(chan struct{})
			var first atomic.Bool
			d := w.dialer()
			d.Trace = &tcpclient.Trace{Disconnected: func(string, error) {
				if first.CompareAndSwap(false, true) {
					assert.NoError(t, (<-made).Close())
					close(closed)
				}
			}}
			p := w.dial(t, d, 2, "a:1", "b:1")
			made <- p
			synctest.Wait()
			began := time.Now()
			w.server("a:1").ResetConnections()
			<-closed
			require.LessOrEqual(t, time.Since(began), time.Second)
			requireOver(t, p)
		})
	})

	t.Run("leaves no goroutine, whatever the Clients do", func(t *testing.T) { // P6
		w := newWorld(t)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(listener, nil, tcpclienttest.Echo)
		for range 20 {
			p := w.dial(t, w.dialer(), 2, server.Addr, "127.0.0.1:1")
			require.NoError(t, p.Close())
			testkit.RequireNoGoroutines(t)
		}
		require.NoError(t, server.Close())
	})
}

func TestErrorsAreToldOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		d := w.dialer()
		d.DialContext = w.failing(map[string]error{"a:1": errTurnedAway})
		_, err := pool.Dial(t.Context(), d, "tcp", 100, "a:1")
		require.EqualError(t, err, "tcpclient: dial a:1: dial a:1: turned away")
		var op *tcpclient.OpError
		require.True(t, errors.As(errors.Unwrap(err), &op))
	})
}
