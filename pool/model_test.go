package pool_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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

// A model knows what may have become of each request.
type model struct {
	answered, lost, unsent, timedOut atomic.Int32
}

// check compares the end of a Call with what the servers have recorded. It is called when no server
// executes anything any more.
func (m *model) check(t *testing.T, w *world, request, reply string, err error) {
	at := w.executedAt(request)
	if !assert.LessOrEqual(t, len(at), 1, "%s was executed at %v", request, at) {
		return
	}
	var op *tcpclient.OpError
	switch {
	case err == nil:
		m.answered.Add(1)
		assert.Equal(t, []string{reply}, at, "%s was answered where it was executed", request)
	case !errors.As(err, &op):
		assert.Fail(t, "no OpError", "%v", err)
	case op.Unsent:
		m.unsent.Add(1)
		assert.Empty(t, at, "%s was not sent: %v", request, err)
		assert.ErrorIs(t, err, context.DeadlineExceeded, "otherwise it is sent elsewhere")
	case errors.Is(err, context.DeadlineExceeded):
		m.timedOut.Add(1)
	default:
		m.lost.Add(1)
		assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
	}
}

// run has callers call p so many times each, some of them in a hurry, while disturb goes on, and
// checks all that has come of it once settle has returned.
func (m *model) run(t *testing.T, w *world, p *pool.Pool, callers, times int, disturb func(ctx context.Context), settle func()) {
	type result struct {
		request, reply string
		err            error
	}
	results := make([][]result, callers)
	ctx, stop := context.WithCancel(t.Context())
	var disturbing, calls sync.WaitGroup
	disturbing.Go(func() { disturb(ctx) })
	for i := range callers {
		calls.Go(func() {
			for j := range times {
				request := fmt.Sprint(i, "/", j)
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(10) == 0 {
					ctx, cancel = context.WithTimeout(t.Context(), rand.N(20*time.Millisecond))
				}
				reply, err := p.Call(ctx, []byte(request))
				cancel()
				results[i] = append(results[i], result{request, string(reply), err})
			}
		})
	}
	calls.Wait()
	stop()
	disturbing.Wait()
	settle()
	for _, results := range results {
		for _, r := range results {
			m.check(t, w, r.request, r.reply, r.err)
		}
	}
}

// disturb kills and restarts servers, and cuts connections, until ctx is done.
func (w *world) disturb(ctx context.Context, addresses []string) {
	down := make(map[string]bool)
	for ctx.Err() == nil {
		time.Sleep(rand.N(30 * time.Millisecond))
		switch address := addresses[rand.IntN(len(addresses))]; {
		case down[address]:
			w.start(address)
			down[address] = false
		case rand.IntN(3) == 0:
			w.kill(address)
			down[address] = true
		case rand.IntN(2) == 0:
			w.server(address).ResetConnections()
		default:
			w.server(address).CloseConnections()
		}
	}
	for address := range down {
		if down[address] {
			w.start(address)
		}
	}
}

func TestModel(t *testing.T) { // P4, P8
	rounds := 8
	switch {
	case testing.Short():
		rounds = 2
	case testkit.RaceEnabled:
		rounds = 4
	}
	var m model
	for range rounds {
		inWorld(t, func(t *testing.T, w *world) {
			addresses := []string{"a:1", "b:1", "c:1"}
			w.start(addresses...)
			w.work = func(string, string) { time.Sleep(rand.N(5 * time.Millisecond)) }
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{Max: 20 * time.Millisecond}
			if rand.IntN(2) == 0 {
				d.MaxInFlight = 2
			}
			p := w.dial(t, d, 1+rand.IntN(3), addresses...)
			m.run(t, w, p, 16, 50,
				func(ctx context.Context) { w.disturb(ctx, addresses) },
				func() { time.Sleep(10 * time.Second) }) // the servers have come to the end of what they received
			require.NotContains(t, connectedTo(p), "", "all are back")
			require.NoError(t, p.Shutdown(t.Context()))
		})
	}
	t.Logf("%d answered, %d lost, %d unsent, %d timed out", m.answered.Load(), m.lost.Load(), m.unsent.Load(), m.timedOut.Load())
	require.NotZero(t, m.answered.Load())
	require.NotZero(t, m.lost.Load())
	require.NotZero(t, m.timedOut.Load())
}

func TestModelOverTCP(t *testing.T) { // P4, P8
	w := newWorld(t)
	var addresses []string
	for range 3 {
		listener, err := w.listen("127.0.0.1:0")
		require.NoError(t, err)
		address := listener.Addr().String()
		addresses = append(addresses, address)
		w.serveOn(listener, func(conn *tcpclienttest.Conn) { w.answer(address, conn) })
	}
	w.work = func(string, string) { time.Sleep(rand.N(2 * time.Millisecond)) }
	d := w.dialer()
	d.Reconnect = testkit.FastBackoff()
	p := w.dial(t, d, 2, addresses...)
	var m model
	m.run(t, w, p, 16, 50, func(ctx context.Context) {
		for ctx.Err() == nil {
			time.Sleep(rand.N(10 * time.Millisecond))
			w.server(addresses[rand.IntN(len(addresses))]).ResetConnections()
		}
	}, func() {
		require.NoError(t, p.Close())
		w.stopAll()
	})
	t.Logf("%d answered, %d lost, %d unsent, %d timed out", m.answered.Load(), m.lost.Load(), m.unsent.Load(), m.timedOut.Load())
	require.NotZero(t, m.answered.Load())
	testkit.RequireNoGoroutines(t)
}

func TestServersThatDieAndReturnHaveTheirShareAgain(t *testing.T) { // P8
	inWorld(t, func(t *testing.T, w *world) {
		addresses := []string{"a:1", "b:1", "c:1"}
		w.start(addresses...)
		w.work = func(string, string) { time.Sleep(time.Millisecond) }
		d := w.dialer()
		d.Reconnect = &tcpclient.Backoff{Max: time.Second}
		p := w.dial(t, d, 2, addresses...)
		for _, address := range addresses {
			w.kill(address)
			synctest.Wait()
			served := w.load(t, p, 30, 20)
			require.Zero(t, served[address])
			require.Len(t, served, 2)
			w.start(address)
			time.Sleep(2 * time.Second)
			served = w.load(t, p, 30, 20)
			for _, address := range addresses {
				require.InDelta(t, 200, served[address], 60)
			}
		}
		require.NoError(t, p.Close())
	})
}

func TestShutdownUnderLoadLosesNothing(t *testing.T) { // P7
	for range 10 {
		inWorld(t, func(t *testing.T, w *world) {
			addresses := []string{"a:1", "b:1"}
			w.start(addresses...)
			w.work = func(string, string) { time.Sleep(rand.N(5 * time.Millisecond)) }
			d := w.dialer()
			d.MaxInFlight = 4 * rand.IntN(2)
			p := w.dial(t, d, 2, addresses...)
			var calls sync.WaitGroup
			var answered, refused atomic.Int32
			for i := range 32 {
				calls.Go(func() {
					for j := 0; ; j++ {
						request := fmt.Sprint(i, "/", j)
						reply, err := p.Call(t.Context(), []byte(request))
						if err != nil {
							assert.ErrorIs(t, err, tcpclient.ErrClosed)
							assert.True(t, testkit.OpError(t, err).Unsent)
							assert.Empty(t, w.executedAt(request))
							refused.Add(1)
							return
						}
						assert.Equal(t, []string{string(reply)}, w.executedAt(request))
						answered.Add(1)
					}
				})
			}
			time.Sleep(rand.N(50 * time.Millisecond))
			require.NoError(t, p.Shutdown(t.Context()))
			calls.Wait()
			require.Equal(t, int32(32), refused.Load())
			require.NotZero(t, answered.Load())
		})
	}
}
