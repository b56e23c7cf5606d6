package tcpclient_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// How a Client comes back: after which end, when, where, on whose demand.

// A healthyServer answers each request with itself, and closes connections that were idle for so
// long, or each after so many answers.
type healthyServer struct {
	idle    time.Duration // 0: for ever
	answers int           // 0: any number
	banner  string
	count   *atomic.Int32 // set by serve
}

// serve answers on the connections of l, until that is closed.
func (s *healthyServer) serve(l *testkit.Listener) {
	s.count = new(atomic.Int32)
	l.Each(func(conn net.Conn) {
		s.count.Add(1)
		defer conn.Close()
		if s.banner != "" {
			conn.Write(testkit.Frame(s.banner))
		}
		for n := 0; s.answers == 0 || n < s.answers; n++ {
			if s.idle > 0 {
				conn.SetReadDeadline(time.Now().Add(s.idle))
			}
			msg, err := readFrame(conn)
			if err != nil {
				return
			}
			conn.Write(testkit.Frame(msg))
		}
	})
}

// counts returns how many connections each server had.
func counts(servers []healthyServer) (n []int) {
	for _, s := range servers {
		n = append(n, int(s.count.Load()))
	}
	return n
}

func readFrame(conn net.Conn) (string, error) {
	header := make([]byte, 4)
	if _, err := io.ReadFull(conn, header); err != nil {
		return "", err
	}
	body := make([]byte, int(header[3])|int(header[2])<<8)
	_, err := io.ReadFull(conn, body)
	return string(body), err
}

// callEvery makes n Calls, one each interval, and returns how long each took; those that failed
// are missing.
func callEvery(t *testing.T, c *tcpclient.Client, interval time.Duration, n int) (waits []time.Duration) {
	for range n {
		began := time.Now()
		ctx, cancel := context.WithDeadline(t.Context(), began.Add(interval))
		if _, err := c.Call(ctx, []byte("x")); err == nil {
			waits = append(waits, time.Since(began))
		}
		cancel()
		time.Sleep(time.Until(began.Add(interval)))
	}
	return waits
}

func TestHealthyServerThatHangsUp(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		name := ""
		if onDemand {
			name = ", on demand"
		}
		for _, interval := range []time.Duration{20 * time.Second, time.Minute} {
			t.Run("idle connections, a Call each "+interval.String()+name+": no Call waits longer than Min", testkit.InBubble(func(t *testing.T) { // P8, C1, C2
				l := testkit.ListenMemory(t)
				s := healthyServer{idle: 5 * time.Second}
				s.serve(l)
				c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: onDemand, MaxAttempts: 10}})
				waits := callEvery(t, c, interval, 60)
				require.Len(t, waits, 60)
				require.LessOrEqual(t, slices.Max(waits), 100*time.Millisecond)
				if onDemand {
					require.EqualValues(t, 60, s.count.Load(), "one connection a Call")
					require.Zero(t, slices.Max(waits))
				} else {
					require.Less(t, int(s.count.Load()), int(60*interval/(5*time.Second))+2)
				}
				require.NoError(t, c.Close())
			}))
		}

		t.Run("each connection after its answer, a Call a second"+name+": nearly all are answered", testkit.InBubble(func(t *testing.T) { // P8, C3
			l := testkit.ListenMemory(t)
			s := healthyServer{answers: 1}
			s.serve(l)
			c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: onDemand, MaxAttempts: 3}})
			waits := callEvery(t, c, time.Second, 600)
			require.Len(t, waits, 600)
			require.LessOrEqual(t, slices.Max(waits), 100*time.Millisecond)
			require.NoError(t, c.Close())
		}))

		t.Run("each connection after its answer, and Calls without a pause"+name+": it never uses up MaxAttempts, and waits are bounded", testkit.InBubble(func(t *testing.T) { // P8
			l := testkit.ListenMemory(t)
			s := healthyServer{answers: 1}
			s.serve(l)
			c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: onDemand, MaxAttempts: 3}})
			for range 100 {
				began := time.Now()
				_, err := c.Call(t.Context(), []byte("x"))
				if err != nil { // it met the end of the last one
					require.ErrorIs(t, err, io.EOF)
				}
				require.Less(t, time.Since(began), 5*time.Second)
			}
			require.NoError(t, c.Close())
		}))
	}
}

// P8: a server that turns us away is not hammered, however it says so.
func TestServerThatTurnsAwayIsNotHammered(t *testing.T) {
	testkit.SkipIfShort(t)
	for name, s := range map[string]healthyServer{
		"accepts and hangs up":                    {answers: -1},
		"sends a banner and hangs up":             {answers: -1, banner: "too many connections"},
		"answers a Call with an error":            {answers: 1},
		"sends a banner, answers, and hangs up":   {answers: 1, banner: "hello"},
		"says it in a second answer and hangs up": {answers: 2},
	} {
		for _, onDemand := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", on demand"}[onDemand], func(t *testing.T) {
				rounds := 100
				if testkit.RaceEnabled {
					rounds = 30 // it has seen them all in the first
				}
				var attempts []int
				for range rounds {
					testkit.InBubble(func(t *testing.T) {
						l := testkit.ListenMemory(t)
						s := s
						s.serve(l)
						c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: onDemand}})
						ctx := testkit.Within(t, 10*time.Second)
						for ctx.Err() == nil {
							c.Call(ctx, []byte("x"))
						}
						attempts = append(attempts, int(s.count.Load()))
						require.NoError(t, c.Close())
					})(t)
				}
				slices.Sort(attempts)
				require.LessOrEqual(t, attempts[rounds-1], 20, "attempts in 10 s: %v", attempts)
				require.LessOrEqual(t, attempts[rounds/2], 10, "attempts in 10 s: %v", attempts)
			})
		}
	}
}

func TestServerThatTurnsAwayAfterAnHourOfSilenceIsNotHammered(t *testing.T) {
	testkit.InBubble(func(t *testing.T) { // P8, C3: the silence counts for one connection
		l := testkit.ListenMemory(t)
		s := healthyServer{answers: 1}
		s.serve(l)
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}})
		time.Sleep(time.Hour)
		ctx := testkit.Within(t, time.Minute)
		for ctx.Err() == nil {
			c.Call(ctx, []byte("x"))
			time.Sleep(10 * time.Millisecond)
		}
		require.LessOrEqual(t, s.count.Load(), int32(60), "connections in a minute")
		require.NoError(t, c.Close())
	})(t)
}

func TestServerThatHangsUpOwingIsNotHealthy(t *testing.T) {
	for name, op := range map[string]func(ctx context.Context, c *tcpclient.Client) error{
		"a reply": func(ctx context.Context, c *tcpclient.Client) error { _, err := c.Call(ctx, []byte("x")); return err },
		"the rest of what was written": func(ctx context.Context, c *tcpclient.Client) error {
			err := c.Write(ctx, []byte("x"))
			time.Sleep(time.Second)
			return err
		},
	} {
		t.Run(name+", and its connections use up MaxAttempts", testkit.InBubble(func(t *testing.T) { // P8
			l := testkit.ListenMemory(t)
			l.Each(func(conn net.Conn) {
				time.Sleep(2 * time.Second)
				conn.(interface{ CloseWrite() error }).CloseWrite()
				io.Copy(io.Discard, conn)
			})
			c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{MaxAttempts: 4}})
			ctx := testkit.Within(t, time.Hour)
			var err error
			for ctx.Err() == nil && tcpclient.Classify(err) != tcpclient.ClassPermanent {
				err = op(ctx, c)
			}
			require.NoError(t, ctx.Err())
			require.ErrorContains(t, err, "gave up after 4 attempts")
		}))
	}
}

// dialMemory connects to addresses in n, one for each listener.
func dialMemory(t *testing.T, n *tcpclienttest.Network, d tcpclient.Dialer, listeners ...*testkit.Listener) *tcpclient.Client {
	t.Helper()
	var addresses []string
	for _, l := range listeners {
		addresses = append(addresses, l.Addr().String())
	}
	d.DialContext = n.DialContext
	c, err := d.Dial(t.Context(), "tcp", addresses...)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// P8: which address comes next.
func TestAddressAfterTheEndOfAConnection(t *testing.T) {
	setup := func(t *testing.T, servers ...healthyServer) (*tcpclienttest.Network, []*testkit.Listener, []healthyServer) {
		n := tcpclienttest.NewNetwork()
		listeners := make([]*testkit.Listener, len(servers))
		for i := range servers {
			listeners[i] = testkit.ListenNetwork(t, n)
			servers[i].serve(listeners[i])
		}
		return n, listeners, servers
	}

	t.Run("the one after an address that hangs up at once", testkit.InBubble(func(t *testing.T) { // C4
		n, l, s := setup(t, healthyServer{answers: -1}, healthyServer{answers: -1}, healthyServer{})
		c := dialMemory(t, n, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l...)
		time.Sleep(10 * time.Minute)
		require.Equal(t, []int{1, 1, 1}, counts(s))
		require.True(t, c.Stats().Connected)
		require.NoError(t, c.Close())
	}))

	t.Run("the same after an orderly end of a healthy server", testkit.InBubble(func(t *testing.T) {
		n, l, s := setup(t, healthyServer{answers: -1}, healthyServer{idle: 5 * time.Second})
		c := dialMemory(t, n, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l...)
		time.Sleep(time.Second)
		require.Len(t, callEvery(t, c, 6*time.Second, 10), 10)
		require.EqualValues(t, 1, s[0].count.Load())
		require.Greater(t, s[1].count.Load(), int32(9))
		require.NoError(t, c.Close())
	}))

	t.Run("the one after an address that only holds connections for a while", testkit.InBubble(func(t *testing.T) { // C4
		n, l, s := setup(t, healthyServer{idle: 1100 * time.Millisecond}, healthyServer{})
		c := dialMemory(t, n, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l...)
		time.Sleep(time.Minute)
		require.Equal(t, []int{1, 1}, counts(s))
		require.NoError(t, c.Close())
	}))

	t.Run("the first after a connection that lasted", testkit.InBubble(func(t *testing.T) {
		n, l, s := setup(t, healthyServer{answers: -1}, healthyServer{idle: time.Hour})
		c := dialMemory(t, n, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l...)
		time.Sleep(time.Hour + time.Minute)
		require.Equal(t, []int{2, 2}, counts(s))
		require.NoError(t, c.Close())
	}))

	t.Run("another after Disconnect", testkit.InBubble(func(t *testing.T) { // C11
		n, l, s := setup(t, healthyServer{}, healthyServer{})
		c := dialMemory(t, n, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l...)
		time.Sleep(time.Minute)
		c.Disconnect(errors.New("READONLY"))
		synctest.Wait()
		require.Equal(t, []int{1, 1}, counts(s))
		require.NoError(t, c.Close())
	}))
}

// P2, C5: the time of Dial's context is shared among the addresses.
func TestDialSharesTheTimeAmongAddresses(t *testing.T) {
	blackHole := func(dials *[]string, good func() (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, _, address string) (net.Conn, error) {
			*dials = append(*dials, address)
			if address == "good:1" {
				return good()
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}

	t.Run("a black hole leaves time for the next", testkit.InBubble(func(t *testing.T) {
		var dials []string
		here, there := net.Pipe()
		defer there.Close()
		began := time.Now()
		d := tcpclient.Dialer{DialContext: blackHole(&dials, func() (net.Conn, error) { return here, nil })}
		c, err := d.Dial(testkit.Within(t, 5*time.Second), "tcp", "hole:1", "good:1")
		require.NoError(t, err)
		require.Equal(t, 2500*time.Millisecond, time.Since(began))
		require.NoError(t, c.Close())
	}))

	t.Run("without a deadline each address has the Timeout", testkit.InBubble(func(t *testing.T) {
		var dials []string
		here, there := net.Pipe()
		defer there.Close()
		began := time.Now()
		d := tcpclient.Dialer{DialContext: blackHole(&dials, func() (net.Conn, error) { return here, nil })}
		c, err := d.Dial(testkit.Within(t, time.Hour), "tcp", "hole:1", "hole:2", "good:1")
		require.NoError(t, err)
		require.Equal(t, 20*time.Second, time.Since(began))
		require.NoError(t, c.Close())
	}))

	t.Run("the error names what was tried, and why each failed", testkit.InBubble(func(t *testing.T) {
		var dials []string
		d := tcpclient.Dialer{DialContext: blackHole(&dials, nil)}
		_, err := d.Dial(testkit.Within(t, 5*time.Second), "tcp", "hole:1", "hole:2")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, "hole:1, hole:2", testkit.OpError(t, err).Addr)
		require.ErrorContains(t, err, "timeout while connecting", "of the first")
		require.Equal(t, []string{"hole:1", "hole:2"}, dials)

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = d.Dial(ctx, "tcp", "hole:1", "hole:2")
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "hole:1", testkit.OpError(t, err).Addr)
		require.NotContains(t, err.Error(), "hole:2")
	}))
}

// ask is what calls a Client, one by one.
var ask = map[string]func(ctx context.Context, c *tcpclient.Client) error{
	"write": func(ctx context.Context, c *tcpclient.Client) error { return c.Write(ctx, []byte("x")) },
	"flush": func(ctx context.Context, c *tcpclient.Client) error { return c.Flush(ctx) },
	"send":  func(ctx context.Context, c *tcpclient.Client) error { return c.Send(ctx, []byte("x")) },
	"call":  func(ctx context.Context, c *tcpclient.Client) error { _, err := c.Call(ctx, []byte("x")); return err },
}

// P8, C12
func TestOnDemand(t *testing.T) {
	t.Run("a Send after a large message that a Receive has waited for is given a connection", testkit.InBubble(func(t *testing.T) { // P8, FIELD C12
		l := testkit.ListenMemory(t)
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}})
		for _, size := range []int{10 << 10, 100 << 10} { // of either, more is published while the receiver wakes
			received := testkit.Start(t, func() int {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				return len(msg)
			})
			p := l.AcceptPeer(t)
			synctest.Wait()
			p.Send(strings.Repeat("a", size))
			require.Equal(t, size, received())
			testkit.HangUp(p)
			synctest.Wait()
			_, err := c.Receive(testkit.Within(t, time.Millisecond))
			require.ErrorIs(t, err, io.EOF)

			time.Sleep(time.Minute)
			require.NoError(t, c.Send(testkit.Within(t, time.Minute), []byte("b")))
			p = l.AcceptPeer(t)
			require.Equal(t, "b", p.Receive())
			testkit.HangUp(p)
			synctest.Wait()
			_, err = c.Receive(testkit.Within(t, time.Millisecond))
			require.ErrorIs(t, err, io.EOF)
			time.Sleep(time.Minute)
		}
	}))

	t.Run("Dial returns at once and connects nothing; wrong settings are refused", testkit.InBubble(func(t *testing.T) {
		began := time.Now()
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true, FirstDial: true}, DialContext: func(context.Context, string, string) (net.Conn, error) {
			t.Error("dialed")
			return nil, errors.ErrUnsupported
		}}
		ctx, cancel := context.WithCancel(t.Context())
		c, err := d.Dial(ctx, "tcp", "server:1")
		require.NoError(t, err)
		cancel()
		require.Nil(t, c.LocalAddr())
		require.Nil(t, c.RemoteAddr())
		require.False(t, c.Stats().Connected)
		time.Sleep(time.Hour)
		c.Disconnect(nil)
		require.NoError(t, c.Shutdown(t.Context()))
		require.NoError(t, c.Close())
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.Equal(t, time.Hour, time.Since(began))

		d.Timeout, d.WriteBuffer = time.Second, -1
		_, err = d.Dial(t.Context(), "tcp", "server:1")
		require.ErrorContains(t, err, "WriteBuffer")
	}))

	for name, op := range ask {
		t.Run(name+" makes the connection, with the values of Dial's context, though that has ended", testkit.InBubble(func(t *testing.T) {
			l := testkit.ListenMemory(t)
			type key struct{}
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
			handshakes := 0
			c, err := l.TryDial(ctx, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}, Handshake: func(ctx context.Context, _ *tcpclient.Conn) error {
				handshakes++
				if ctx.Value(key{}) != "value" {
					return errors.New("no value")
				}
				return nil
			}})
			require.NoError(t, err)
			cancel()
			l.Each(func(conn net.Conn) { testkit.NewPeer(t, conn).Echo() })
			require.NoError(t, op(t.Context(), c))
			require.Equal(t, 1, handshakes)
			require.NotNil(t, c.RemoteAddr())
			require.NoError(t, c.Close())
		}))
	}

	t.Run("a Receive that waits makes each connection, one that finds a message does not", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}})
		msg := testkit.Start(t, func() string { msg, _ := c.Receive(t.Context()); return string(msg) })
		p := l.AcceptPeer(t)
		p.Send("a", "b")
		require.Equal(t, "a", msg())
		testkit.HangUp(p)
		time.Sleep(time.Minute)
		got, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "b", string(got))
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, c.Stats().Connects)
		loop := testkit.Start(t, func() error {
			for _, err := range c.Messages(t.Context()) {
				return err
			}
			return nil
		})
		l.AcceptPeer(t).Send("c")
		require.NoError(t, loop())
		require.EqualValues(t, 2, c.Stats().Connects)
		require.NoError(t, c.Close())
	}))

	t.Run("attempts stop when no call waits, and a Call after the delay needs none", testkit.InBubble(func(t *testing.T) {
		attempts := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}, DialContext: func(context.Context, string, string) (net.Conn, error) {
			attempts++
			return nil, testkit.ErrRefused
		}}
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		_, err = c.Call(testkit.Within(t, time.Minute), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, testkit.ErrRefused)
		tried := attempts
		require.Greater(t, tried, 5)
		time.Sleep(time.Hour)
		require.Equal(t, tried, attempts)
		_, err = c.Call(testkit.Within(t, time.Nanosecond), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.Equal(t, tried+1, attempts, "at once")
		require.NoError(t, c.Close())
	}))

	t.Run("a permanent failure ends the Client", testkit.InBubble(func(t *testing.T) {
		closed := errors.New("account closed")
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, tcpclient.Permanent(closed)
		}}
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		for range 2 {
			for _, err := range testkit.EveryMethod(t, t.Context(), c) {
				require.ErrorIs(t, err, closed)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			}
		}
	}))
}

// P8
func TestFailFast(t *testing.T) {
	t.Run("calls fail at once with the last failure, Unsent; Receive waits", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FailFast: true, Min: time.Minute, Max: time.Hour}})
		l.Close()
		testkit.HangUp(p)
		synctest.Wait()
		check := func(reason error) {
			t.Helper()
			for name, op := range ask {
				began := time.Now()
				err := op(t.Context(), c)
				require.ErrorIs(t, err, reason, name)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
				require.True(t, testkit.OpError(t, err).Unsent, name)
				require.Zero(t, time.Since(began), name)
			}
		}
		check(io.EOF) // the loss, before an attempt has failed
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		_, err = c.Receive(testkit.Within(t, 5*time.Minute))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, testkit.ErrRefused)
		require.NotErrorIs(t, err, tcpclient.ErrDisconnected, "the loss is reported once")
		check(testkit.ErrRefused)
		require.NoError(t, c.Close())
	}))

	t.Run("a loss of messages comes first, once", testkit.InBubble(func(t *testing.T) { // P4
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FailFast: true, Min: time.Minute}})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		testkit.HangUp(p)
		synctest.Wait()
		var loss *tcpclient.LossError
		require.ErrorAs(t, c.Flush(t.Context()), &loss)
		err := c.Flush(t.Context())
		require.ErrorIs(t, err, io.EOF)
		require.False(t, errors.As(err, &loss))
		require.NoError(t, c.Close())
	}))

	t.Run("a failure before the last connection is no reason any more", testkit.InBubble(func(t *testing.T) { // P9
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		dials := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FailFast: true, Min: time.Second, Max: time.Hour}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials == 2 {
				return nil, testkit.ErrRefused
			}
			return n.DialContext(ctx, network, address)
		}}
		c, p := l.Connect(t, d)
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		synctest.Wait()
		testkit.HangUp(p)
		synctest.Wait()
		require.Equal(t, 3, dials)
		err := c.Send(t.Context(), nil)
		require.ErrorIs(t, err, io.EOF)
		require.NotErrorIs(t, err, testkit.ErrRefused)
		require.NoError(t, c.Close())
	}))

	t.Run("on demand a call waits for one attempt", testkit.InBubble(func(t *testing.T) {
		attempts, takes := 0, time.Second
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true, FailFast: true}, DialContext: func(context.Context, string, string) (net.Conn, error) {
			attempts++
			time.Sleep(takes)
			return nil, testkit.ErrRefused
		}}
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		began := time.Now()
		results := make(chan error, 2)
		go func() { results <- ask["send"](t.Context(), c) }()
		time.Sleep(takes / 2)
		go func() { results <- ask["call"](t.Context(), c) }() // joins the attempt that is under way
		for range 2 {
			err = <-results
			require.ErrorIs(t, err, testkit.ErrRefused)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			require.True(t, testkit.OpError(t, err).Unsent)
		}
		require.Equal(t, takes, time.Since(began))
		require.Equal(t, 1, attempts)
		require.ErrorIs(t, c.Flush(t.Context()), testkit.ErrRefused)
		require.Equal(t, 2, attempts)
		require.NoError(t, c.Close())
	}))
}

// P8: a server that accepts and hangs up has had its one attempt.
func TestFailFastOnDemandServerThatHangsUp(t *testing.T) {
	testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		s := healthyServer{answers: -1}
		s.serve(l)
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true, FailFast: true}, Handshake: func(context.Context, *tcpclient.Conn) error {
			time.Sleep(time.Millisecond) // the FIN is here already
			return nil
		}})
		_, err := c.Call(testkit.Within(t, time.Hour), nil)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, io.EOF)
		require.EqualValues(t, 1, s.count.Load())
		require.NoError(t, c.Close())
	})(t)
}

// P2, C10
func TestContextThatEndsOnADyingConnectionSaysWhy(t *testing.T) {
	testkit.InBubble(func(t *testing.T) {
		c, _, w := testkit.ConnectHooked(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, nil)
		w.SetOnWrite(func([]byte) (int, error) { return 0, io.ErrClosedPipe })
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), io.ErrClosedPipe)
		err := c.Send(testkit.Within(t, 100*time.Millisecond), []byte("x")) // its last words are still read
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.NoError(t, c.Close())
	})(t)
}

// P4, P8, P9: C11
func TestDisconnect(t *testing.T) {
	readOnly := errors.New("READONLY")

	testkit.EachTransport(t, transporttest.Disconnect)

	t.Run("a Call in flight ends with the cause", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		reply := testkit.Start(t, func() error { return ask["call"](t.Context(), c) })
		require.Equal(t, "x", p.Receive())
		c.Disconnect(readOnly)
		err := reply()
		require.ErrorIs(t, err, readOnly)
		require.False(t, testkit.OpError(t, err).Unsent)
		require.NoError(t, c.Close())
	}))

	for name, backoff := range map[string]tcpclient.Backoff{
		"waits for the next connection":                    {},
		"has it made on demand":                            {OnDemand: true},
		"has it made on demand, and FailFast makes it try": {OnDemand: true, FailFast: true},
	} {
		t.Run("a call right after it "+name, testkit.InBubble(func(t *testing.T) { // P8
			first := ask["call"]
			for name, ask := range ask {
				if name == "flush" && backoff.FailFast {
					continue // there is nothing to flush
				}
				l := testkit.ListenMemory(t)
				l.Each(func(conn net.Conn) { io.Copy(conn, conn) })
				c := l.Dial(t, tcpclient.Dialer{Reconnect: &backoff})
				require.NoError(t, first(t.Context(), c))
				c.Disconnect(readOnly)
				require.NoError(t, ask(testkit.Within(t, time.Minute), c), name)
				c.Close()
			}
		}))
	}

	t.Run("a call right after it fails with FailFast", testkit.InBubble(func(t *testing.T) { // P4, P8
		for name, ask := range ask {
			made := 0
			c, _ := testkit.ListenMemory(t).Connect(t, tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{FailFast: true},
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					if made++; made > 1 {
						<-ctx.Done()
					}
					return nil
				},
			})
			c.Disconnect(readOnly)
			err := ask(t.Context(), c)
			require.ErrorIs(t, err, readOnly, name)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
			require.True(t, testkit.OpError(t, err).Unsent, name)
			c.Close()
		}
	}))

	t.Run("with nil is ErrDisconnected alone", testkit.InBubble(func(t *testing.T) {
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{})
		c.Disconnect(nil)
		_, err := c.Receive(t.Context())
		require.Equal(t, tcpclient.ErrDisconnected, testkit.OpError(t, err).Err)
		c.Disconnect(readOnly) // of no effect any more
		_, err = c.Receive(t.Context())
		require.NotErrorIs(t, err, readOnly)
		require.NoError(t, c.Close())
		c.Disconnect(readOnly)
	}))

	t.Run("with a Permanent cause ends the Client", testkit.InBubble(func(t *testing.T) {
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		c.Disconnect(tcpclient.Permanent(readOnly))
		synctest.Wait()
		for range 2 {
			for _, err := range testkit.EveryMethod(t, t.Context(), c) {
				require.ErrorIs(t, err, readOnly)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			}
		}
		require.EqualValues(t, 1, c.Stats().Connects)
		require.NoError(t, c.Close())
	}))

	t.Run("with ErrClosed is no Close of ours", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, _ := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		c.Disconnect(tcpclient.ErrClosed)
		p := l.AcceptPeer(t)
		testkit.RequireAliveAfterLoss(t, c, p)
		require.NoError(t, c.Close())
	}))

	t.Run("with a Permanent cause ends the Client also where there is no connection", testkit.InBubble(func(t *testing.T) {
		for name, prepare := range map[string]func(l *testkit.Listener) *tcpclient.Client{
			"in a wait": func(l *testkit.Listener) *tcpclient.Client {
				c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Second}})
				l.Close()
				testkit.HangUp(p)
				synctest.Wait()
				_, err := c.Receive(t.Context())
				require.ErrorIs(t, err, io.EOF)
				return c
			},
			"on demand": func(l *testkit.Listener) *tcpclient.Client {
				return l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}})
			},
		} {
			c := prepare(testkit.ListenMemory(t))
			c.Disconnect(tcpclient.Permanent(readOnly))
			for _, err := range testkit.EveryMethod(t, testkit.Within(t, time.Minute), c) {
				require.ErrorIs(t, err, readOnly, name)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), name)
			}
			require.NoError(t, c.Close())
		}
	}))

	t.Run("with io.EOF is no orderly end of the peer's", testkit.InBubble(func(t *testing.T) {
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{})
		shutdown := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		synctest.Wait()
		c.Disconnect(io.EOF)
		require.ErrorIs(t, shutdown(), io.EOF)
	}))

	t.Run("makes the waits after other ends no longer", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		for range 12 {
			time.Sleep(2 * time.Second)
			c.Disconnect(readOnly)
			p = l.AcceptPeer(t)
		}
		time.Sleep(900 * time.Millisecond)
		testkit.HangUp(p)
		began := time.Now()
		l.AcceptPeer(t)
		require.LessOrEqual(t, time.Since(began), 200*time.Millisecond)
		require.NoError(t, c.Close())
	}))

	t.Run("that is permanent ends a Client that has just been connected", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		l.Each(func(conn net.Conn) { io.Copy(io.Discard, conn) })
		var c *tcpclient.Client
		c = l.Dial(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{OnDemand: true},
			Correlator: askedForMaxID{asked: func() { // between the attempt and the use of its connection
				c.Disconnect(tcpclient.Permanent(readOnly))
			}},
		})
		_, err := c.Call(testkit.Within(t, time.Minute), []byte("x"))
		require.ErrorIs(t, err, readOnly)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, readOnly)
		require.EqualValues(t, 1, c.Stats().Connects)
	}))

	t.Run("while idle on demand cuts no later wait short, and dials nothing", testkit.InBubble(func(t *testing.T) {
		attempts := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true, Min: time.Hour, Max: time.Hour}, DialContext: func(context.Context, string, string) (net.Conn, error) {
			attempts++
			return nil, testkit.ErrRefused
		}}
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		c.Disconnect(nil)
		time.Sleep(time.Hour)
		require.Zero(t, attempts)
		require.Error(t, c.Send(testkit.Within(t, time.Millisecond), nil)) // it still waits
		require.Equal(t, 1, attempts)
		require.NoError(t, c.Close())
	}))

	t.Run("on demand is no reason to connect for who hears of it", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}})
		loss := testkit.Start(t, func() error { _, err := c.Receive(t.Context()); return err })
		synctest.Wait()
		c.Disconnect(nil)
		require.ErrorIs(t, loss(), tcpclient.ErrDisconnected)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, c.Stats().Connects)
		require.NoError(t, c.Close())
	}))

	t.Run("cuts a wait short, and uses up no attempts", testkit.InBubble(func(t *testing.T) {
		attempts := 0
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Hour, Max: time.Hour, MaxAttempts: 2}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if attempts++; attempts%2 == 0 {
				return nil, testkit.ErrRefused
			}
			return n.DialContext(ctx, network, address)
		}}
		c := l.Dial(t, d)
		for i := range 10 {
			c.Disconnect(readOnly) // the next attempt is made at once, and fails
			synctest.Wait()
			require.Equal(t, 2*i+2, attempts)
			require.False(t, c.Stats().Connected)
			c.Disconnect(readOnly) // no wait
			synctest.Wait()
			require.Equal(t, 2*i+3, attempts)
			require.True(t, c.Stats().Connected)
		}
		require.NoError(t, c.Close())
	}))

	t.Run("is forgotten when there is a connection", testkit.InBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		dials, goOn := 0, make(chan struct{})
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Hour, Max: time.Hour}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials == 2 {
				<-goOn
			}
			return n.DialContext(ctx, network, address)
		}}
		c, _ := l.Connect(t, d)
		c.Disconnect(nil)
		synctest.Wait()
		c.Disconnect(nil) // during the attempt, which succeeds
		close(goOn)
		p := l.AcceptPeer(t)
		synctest.Wait()
		testkit.HangUp(p)
		synctest.Wait()
		require.False(t, c.Stats().Connected, "this end has the wait of any other")
		require.NoError(t, c.Close())
	}))
}

// P2, C10
func TestContextThatEndsWithoutAConnectionSaysWhy(t *testing.T) {
	testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		l.Close()
		testkit.HangUp(p)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		time.Sleep(time.Minute)
		for name, ctx := range map[string]context.Context{"deadline": testkit.Within(t, time.Minute), "canceled": testkit.Canceled(t)} {
			for op, err := range testkit.EveryMethod(t, ctx, c) {
				require.ErrorIs(t, err, ctx.Err(), "%s, %s", op, name)
				require.ErrorIs(t, err, testkit.ErrRefused, "%s, %s", op, name)
				require.ErrorContains(t, err, ctx.Err().Error())
				require.ErrorContains(t, err, "connection refused")
				require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err), op)
			}
		}
		require.NoError(t, c.Close())
		err = c.Send(testkit.Canceled(t), []byte("x"))
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, testkit.ErrRefused, "that is not why")
	})(t)
}

// askedForMaxID tells when it is asked for its MaxID.
type askedForMaxID struct {
	tcpclient.IDPrefix
	asked func()
}

func (k askedForMaxID) MaxID() uint64 {
	k.asked()
	return math.MaxUint64
}
