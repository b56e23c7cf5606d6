package pool_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestDialMakesSizeConnectionsToEachAddress(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1", "b:1")
		p := w.dial(t, w.dialer(), 3, "a:1", "b:1")
		synctest.Wait()
		require.Equal(t, []int{3, 3}, w.connections("a:1", "b:1"))
		require.Equal(t, []string{"a:1", "a:1", "a:1", "b:1", "b:1", "b:1"}, connectedTo(p))
		require.NoError(t, p.Close())
	})
}

func TestDialMakesTheFirstAttemptsAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1", "b:1", "c:1")
		d := w.dialer()
		d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			time.Sleep(time.Second)
			if address == "b:1" {
				time.Sleep(time.Second)
			}
			return w.network.DialContext(ctx, network, address)
		}
		began := time.Now()
		p := w.dial(t, d, 4, "a:1", "b:1", "c:1")
		require.Equal(t, 2*time.Second, time.Since(began), "it returns when the last has ended")
		require.NotContains(t, connectedTo(p), "")
		require.NoError(t, p.Close())
	})
}

func TestDialFails(t *testing.T) {
	t.Run("with the errors of all addresses if no connection is made", func(t *testing.T) { // P9
		inWorld(t, func(t *testing.T, w *world) {
			d := w.dialer()
			d.DialContext = w.failing(map[string]error{"a:1": errTurnedAway})
			d.Timeout = time.Second
			p, err := pool.Dial(t.Context(), d, "tcp", 2, "a:1", "b:1")
			require.Nil(t, p)
			require.EqualError(t, err, "tcpclient: dial a:1, b:1: dial a:1: turned away; dial b:1: dial tcp b:1: connect: connection refused")
			require.ErrorIs(t, err, errTurnedAway)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.Equal(t, "dial", testkit.OpError(t, err).Op)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
		})
	})

	t.Run("permanently if all errors are", func(t *testing.T) { // P9
		inWorld(t, func(t *testing.T, w *world) {
			d := w.dialer()
			d.DialContext = w.failing(map[string]error{"a:1": tcpclient.Permanent(errTurnedAway), "b:1": tcpclient.Permanent(errTurnedAway)})
			_, err := pool.Dial(t.Context(), d, "tcp", 2, "a:1", "b:1")
			require.ErrorIs(t, err, errTurnedAway)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			_, err = pool.Dial(t.Context(), d, "tcp", 2, "a:1", "c:1")
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), "c:1 may come")
		})
	})

	t.Run("when its context ends and there is no connection", func(t *testing.T) { // P2
		inWorld(t, func(t *testing.T, w *world) {
			w.network.Partition()
			began := time.Now()
			_, err := pool.Dial(within(t, time.Second), w.dialer(), "tcp", 2, "a:1", "b:1")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(began))
		})
	})

	for name, test := range map[string]struct {
		change    func(d *tcpclient.Dialer)
		size      int
		addresses []string
		says      string
	}{
		"with no size":         {nil, 0, []string{"a:1"}, "tcpclient: dial a:1: size 0 is below 1"},
		"with a negative size": {nil, -1, []string{"a:1"}, "tcpclient: dial a:1: size -1 is below 1"},
		"without an address":   {nil, 1, nil, "tcpclient: dial: no address"},
		"with a wrong setting": {func(d *tcpclient.Dialer) { d.Inbox = -1 }, 2, []string{"a:1", "a:2"},
			"tcpclient: dial a:1, a:2: dial a:1: Dialer.Inbox -1 is negative; dial a:2: Dialer.Inbox -1 is negative"},
		"with one address that cannot be one": {func(d *tcpclient.Dialer) { d.DialContext = nil }, 2, []string{"127.0.0.1:1", ""},
			"an address is empty"},
		"on demand": {func(d *tcpclient.Dialer) { d.Reconnect = &tcpclient.Backoff{OnDemand: true} }, 2, []string{"a:1"},
			"tcpclient: dial a:1: Dialer.Reconnect.OnDemand is set: a Pool chooses among the connections that there are"},
	} {
		t.Run(name, func(t *testing.T) {
			d := new(tcpclient.Dialer)
			d.DialContext = func(context.Context, string, string) (net.Conn, error) { panic("no attempt is made") }
			if test.change != nil {
				test.change(d)
			}
			_, err := pool.Dial(t.Context(), d, "tcp", test.size, test.addresses...)
			require.ErrorContains(t, err, test.says)
			if len(test.addresses) < 2 || test.addresses[1] != "" {
				require.EqualError(t, err, test.says)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			}
		})
	}
}

func TestDialRefusesAnAddressThatIsNoneThoughOthersAnswer(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	_, err := pool.Dial(t.Context(), nil, "tcp", 2, "", server.Addr)
	require.ErrorContains(t, err, "an address is empty")
	require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	require.NoError(t, server.Close())
	testkit.RequireNoGoroutines(t)
}

func TestDialWithANilDialerUsesTheZeroDialer(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	p, err := pool.Dial(t.Context(), nil, "tcp", 2, server.Addr)
	require.NoError(t, err)
	require.Equal(t, "hello", call(t, p, "hello"))
	require.NoError(t, p.Close())
	require.NoError(t, server.Close())
}

func TestClientsWithoutAConnectionGoOnTrying(t *testing.T) { // P8
	t.Run("until the server comes, and comes back", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{Max: time.Second}
			var recorder testkit.Recorder
			d.Trace = recorder.Trace()
			p := w.dial(t, d, 2, "a:1", "b:1")
			require.Equal(t, []string{"a:1", "a:1", "", ""}, connectedTo(p))
			clients := p.Clients()
			time.Sleep(time.Minute)
			require.Greater(t, len(recorder.All("ConnectFailed")), 2*60)
			require.Less(t, len(recorder.All("ConnectFailed")), 2*60*4)

			for range 3 { // no one calls meanwhile
				w.start("b:1")
				time.Sleep(2 * time.Second)
				require.Equal(t, []string{"a:1", "a:1", "b:1", "b:1"}, connectedTo(p))
				require.Equal(t, clients, p.Clients())
				w.kill("b:1")
				time.Sleep(time.Minute)
				require.Equal(t, []string{"a:1", "a:1", "", ""}, connectedTo(p))
			}
			require.Len(t, recorder.All("Disconnected"), 2*3)
			require.NoError(t, p.Close())
		})
	})

	t.Run("also if a function of the Trace has blocked for long", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("b:1")
			d := w.dialer()
			release := make(chan struct{})
			d.Trace = &tcpclient.Trace{Pong: func(time.Duration) { <-release }}
			ping, err := tcpclient.IDPrefix{}.AppendRequest(nil, 0, nil)
			require.NoError(t, err)
			d.Heartbeat = tcpclient.Heartbeat{
				Interval: 10 * time.Millisecond,
				Ping:     func() []byte { return ping },
				IsPong: func(msg []byte) bool {
					id, _, ok := tcpclient.IDPrefix{}.SplitReply(msg)
					return ok && id == 0
				},
			}
			p := w.dial(t, d, 1, "a:1", "b:1")
			w.start("a:1")
			time.Sleep(time.Minute)
			require.Positive(t, p.Clients()[0].Stats().TraceDropped)

			w.kill("a:1") // of which it hears late, and then not of the end of the next one
			w.kill("b:1")
			w.start("a:1", "b:1")
			synctest.Wait()
			for range 100 {
				call(t, p, "passes by those without a connection")
			}
			time.Sleep(10 * time.Second)
			require.Equal(t, []string{"a:1", "b:1"}, connectedTo(p))
			close(release)
			synctest.Wait()
			w.server("a:1").ResetConnections()
			synctest.Wait()
			for range 100 {
				call(t, p, "and again")
			}
			time.Sleep(10 * time.Second)
			require.Equal(t, []string{"a:1", "b:1"}, connectedTo(p))
			require.NoError(t, p.Close())
		})
	})

	t.Run("with waits from the first attempt on", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			for b, most := range map[tcpclient.Backoff]time.Duration{
				{}:                               100 * time.Millisecond,
				{Max: 10 * time.Millisecond}:     10 * time.Millisecond,
				{Min: time.Second, Max: 1 << 40}: time.Second,
			} {
				const n = 50
				sum := time.Duration(0)
				for range n {
					var attempts atomic.Int32
					second := make(chan struct{})
					d := w.dialer()
					d.Reconnect = &b
					d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
						if address == "b:1" && attempts.Add(1) == 2 {
							close(second)
						}
						return w.network.DialContext(ctx, network, address)
					}
					began := time.Now()
					p := w.dial(t, d, 1, "a:1", "b:1")
					<-second
					require.Less(t, time.Since(began), most)
					sum += time.Since(began)
					require.NoError(t, p.Close())
				}
				require.Greater(t, sum/n, most/4)
			}
		})
	})

	t.Run("unless their error is permanent", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1", "b:1")
			var attempts atomic.Int32
			d := w.dialer()
			d.Handshake = func(_ context.Context, conn *tcpclient.Conn) error {
				if conn.NetConn().RemoteAddr().String() == "b:1" {
					attempts.Add(1)
					return tcpclient.Permanent(errTurnedAway)
				}
				return nil
			}
			p := w.dial(t, d, 1, "a:1", "b:1")
			time.Sleep(time.Minute)
			require.Equal(t, int32(1), attempts.Load(), "no second login with a wrong password")
			require.Equal(t, []string{"a:1", ""}, connectedTo(p))
			_, err := p.Clients()[1].Call(t.Context(), []byte("hello"))
			require.ErrorIs(t, err, errTurnedAway)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.Equal(t, int32(1), attempts.Load(), "nor for a Call")
			require.Equal(t, "a:1", call(t, p, "hello"))
			require.NoError(t, p.Shutdown(t.Context()))

			for range 20 {
				p = w.dial(t, d, 1, "a:1", "b:1")
				require.NoError(t, p.Shutdown(t.Context()), "not to have a connection is no failure of Shutdown")
			}
		})
	})

	t.Run("until the Backoff's attempts are used up", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{MaxAttempts: 3, Max: time.Second}
			p := w.dial(t, d, 1, "a:1", "b:1")
			time.Sleep(time.Minute)
			_, err := p.Clients()[1].Call(t.Context(), []byte("hello"))
			require.ErrorContains(t, err, "gave up after 3 attempts")
			require.NoError(t, p.Close())
		})
	})

	t.Run("though Dial's context has ended", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			held := make(chan struct{})
			var values atomic.Int32
			d := w.dialer()
			d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if ctx.Value(key{}) == "value" {
					values.Add(1)
				}
				if address == "b:1" {
					select {
					case <-held:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				return w.network.DialContext(ctx, network, address)
			}
			ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), time.Second)
			defer cancel()
			began := time.Now()
			p, err := pool.Dial(ctx, d, "tcp", 1, "a:1", "b:1")
			require.NoError(t, err)
			require.Equal(t, time.Second, time.Since(began))
			w.start("b:1")
			close(held)
			time.Sleep(time.Second)
			require.Equal(t, []string{"a:1", "b:1"}, connectedTo(p))
			require.Equal(t, int32(3), values.Load(), "the values of the context are there in later attempts")
			require.NoError(t, p.Close())
		})
	})
}

type key struct{}

func TestTraceOfAClientWhoseFirstAttemptFailedIsToldAll(t *testing.T) { // P10
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1")
		var recorder testkit.Recorder
		d := w.dialer()
		d.Trace = recorder.Trace()
		p := w.dial(t, d, 1, "a:1", "b:1")
		synctest.Wait()
		w.start("b:1")
		time.Sleep(time.Second)
		w.server("b:1").ResetConnections()
		time.Sleep(time.Second)
		require.NoError(t, p.Close())
		kinds := make(map[string]int)
		for _, e := range recorder.All() {
			if e.Address == "b:1" {
				kinds[e.Kind]++
			}
		}
		require.Equal(t, kinds["Connecting"], kinds["ConnectFailed"]+kinds["Connected"])
		require.Equal(t, 2, kinds["Connected"])
		require.Equal(t, 2, kinds["Disconnected"])
		require.NotZero(t, kinds["ConnectFailed"])
	})
}

func TestDialLeavesTheCallersSettingsAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("a:1")
		d := w.dialer()
		d.Reconnect = &tcpclient.Backoff{FirstDial: true, Max: time.Second}
		d.Trace = &tcpclient.Trace{}
		p := w.dial(t, d, 1, "a:1", "b:1")
		require.Equal(t, tcpclient.Backoff{FirstDial: true, Max: time.Second}, *d.Reconnect)
		require.Equal(t, tcpclient.Trace{}, *d.Trace)
		require.NoError(t, p.Close())
	})
}

func TestFirstDial(t *testing.T) {
	t.Run("waits for the first connection", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{FirstDial: true, Max: time.Second}
			time.AfterFunc(time.Minute, func() { w.start("b:1") })
			began := time.Now()
			p := w.dial(t, d, 1, "a:1", "b:1")
			require.GreaterOrEqual(t, time.Since(began), time.Minute)
			require.Less(t, time.Since(began), time.Minute+2*time.Second)
			require.Equal(t, []string{"", "b:1"}, connectedTo(p))
			require.NoError(t, p.Close())
		})
	})

	t.Run("does not wait for the others", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.start("a:1")
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{FirstDial: true}
			began := time.Now()
			p := w.dial(t, d, 1, "a:1", "b:1")
			require.Equal(t, began, time.Now())
			require.NoError(t, p.Close())
		})
	})

	t.Run("ends with its context", func(t *testing.T) { // P2
		inWorld(t, func(t *testing.T, w *world) {
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{FirstDial: true}
			began := time.Now()
			p, err := pool.Dial(within(t, time.Minute), d, "tcp", 2, "a:1", "b:1")
			require.Nil(t, p)
			require.Equal(t, time.Minute, time.Since(began))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, syscall.ECONNREFUSED, "it says why there was none")
			require.Equal(t, "dial", testkit.OpError(t, err).Op)
		})
	})

	t.Run("ends when all errors are permanent", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			d := w.dialer()
			d.Reconnect = &tcpclient.Backoff{FirstDial: true}
			var attempts atomic.Int32
			d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if attempts.Add(1) > 4 {
					return nil, tcpclient.Permanent(errTurnedAway)
				}
				return nil, errors.New("not yet")
			}
			_, err := pool.Dial(t.Context(), d, "tcp", 2, "a:1")
			require.ErrorIs(t, err, errTurnedAway)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		})
	})
}
