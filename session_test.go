package tcpclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
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

func TestSession(t *testing.T) {
	testkit.EachTransport(t, transporttest.Session)

	t.Run("reports what it has written and lost, once", testkit.InBubble(func(t *testing.T) { // P4
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
		s := testkit.Session(t, c)
		require.NoError(t, s.Write(t.Context(), []byte("BEGIN")))
		require.NoError(t, s.Write(t.Context(), []byte("UPDATE")))
		testkit.HangUp(p)
		next := l.AcceptPeer(t)
		synctest.Wait()
		err := s.Send(t.Context(), []byte("COMMIT"))
		var loss *tcpclient.LossError
		require.ErrorAs(t, err, &loss)
		require.Equal(t, 2, loss.Messages)
		require.True(t, testkit.OpError(t, err).Unsent, "the COMMIT")
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		err = s.Send(t.Context(), []byte("COMMIT"))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.False(t, errors.As(err, &loss))
		require.NoError(t, c.Send(t.Context(), []byte("alive")))
		require.Equal(t, "alive", next.Receive())
	}))

	t.Run("a Flush whose context is done does not say that nothing was written", testkit.InBubble(func(t *testing.T) { // P4
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
		s := testkit.Session(t, c)
		require.NoError(t, s.Write(t.Context(), []byte("UPDATE")))
		testkit.HangUp(p)
		synctest.Wait()
		err := s.Flush(testkit.Canceled(t))
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.False(t, testkit.OpError(t, err).Unsent)
		require.ErrorAs(t, s.Flush(t.Context()), new(*tcpclient.LossError))
		err = s.Flush(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.True(t, testkit.OpError(t, err).Unsent, "the loss was told")
	}))

	t.Run("of a Call that waits, ends with its connection", testkit.InBubble(func(t *testing.T) { // P4
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff(), MaxInFlight: 1})
		s := testkit.Session(t, c)
		first := testkit.Start(t, func() error { _, err := s.Call(t.Context(), []byte("in flight")); return err })
		require.Equal(t, "in flight", p.Receive())
		second := testkit.Start(t, func() error { _, err := s.Call(t.Context(), []byte("waits for room")); return err })
		synctest.Wait()
		p.Reset()
		next := l.AcceptPeer(t)
		for want, end := range map[bool]func() error{false: first, true: second} {
			err := end()
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.Equal(t, want, testkit.OpError(t, err).Unsent)
		}
		next.RequireSilence(time.Minute)
	}))

	t.Run("does nothing with a context that is done", func(t *testing.T) { // P2
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		for method, err := range transporttest.SessionMethods(testkit.Canceled(t), testkit.Session(t, c)) {
			require.ErrorIs(t, err, context.Canceled, method)
		}
		testkit.RequireAlive(t, c, p)
	})

	for name, end := range map[string]func(c *tcpclient.Client) error{
		"Close":    (*tcpclient.Client).Close,
		"Shutdown": func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
	} {
		t.Run("is closed with its Client, by "+name, func(t *testing.T) { // P7
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
			echoed := make(chan struct{})
			go func() {
				defer close(echoed)
				p.Echo()
			}()
			s := testkit.Session(t, c)
			ended := testkit.Start(t, func() error { return end(c) })
			testkit.Eventually(t, "the Client takes no more", func() bool { return errors.Is(s.Send(t.Context(), nil), tcpclient.ErrClosed) })
			_, err := c.Session()
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			<-echoed // FIN has come: if the peer hung up before, that would be how the connection has ended
			p.Close()
			require.NoError(t, ended())
			for method, err := range transporttest.SessionMethods(t.Context(), s) {
				require.ErrorIs(t, err, tcpclient.ErrClosed, method)
			}
			_, err = c.Session()
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		})
	}

	t.Run("of a connection that ended without Reconnect tells that end", func(t *testing.T) { // P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		testkit.HangUp(p)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
		_, err = c.Session()
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	})
}

func TestSessionWithoutConnection(t *testing.T) {
	refused := errors.New("the power is off")

	t.Run("fails at once, and says why there is none", testkit.InBubble(func(t *testing.T) { // P2, P9
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		down := new(atomic.Bool)
		c, p := l.Connect(t, tcpclient.Dialer{
			Reconnect:   &tcpclient.Backoff{Min: time.Hour, Max: time.Hour},
			DialContext: unlessDown(n, down, refused),
		})
		down.Store(true)
		testkit.HangUp(p)
		time.Sleep(24 * time.Hour)
		began := time.Now()
		_, err := c.Session()
		require.Zero(t, time.Since(began))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, refused)
		require.True(t, testkit.OpError(t, err).Unsent)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	}))

	t.Run("on demand, asks for one connection, and no other when that has ended", testkit.InBubble(func(t *testing.T) { // P8, C1
		l := testkit.ListenMemory(t)
		var connections atomic.Int32
		l.Each(func(conn net.Conn) {
			connections.Add(1)
			time.Sleep(time.Minute)
			conn.Close()
		})
		c := l.Dial(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{OnDemand: true},
			Handshake: func(context.Context, *tcpclient.Conn) error { time.Sleep(2 * time.Second); return nil },
		})
		time.Sleep(time.Hour)
		require.Zero(t, connections.Load())
		for range 2 { // before the attempt, and in its middle
			_, err := c.Session()
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		testkit.Session(t, c)
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, connections.Load())
	}))

	t.Run("fails for good when the attempts are used up", testkit.InBubble(func(t *testing.T) { // P8
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		down := new(atomic.Bool)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{MaxAttempts: 2}, DialContext: unlessDown(n, down, refused)})
		down.Store(true)
		testkit.HangUp(p)
		time.Sleep(time.Hour)
		_, err := c.Session()
		require.ErrorIs(t, err, refused)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	}))

	t.Run("is not begun on a connection that has ended, while code of the user holds up the next", testkit.InBubble(func(t *testing.T) { // P9
		goOn := make(chan struct{})
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Reconnect: testkit.FastBackoff(),
			Heartbeat: tcpclient.Heartbeat{Answer: func([]byte) ([]byte, bool) { <-goOn; return nil, false }},
		})
		p.Send("a push")
		synctest.Wait()
		c.Disconnect(refused)
		_, err := c.Session()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, refused)
		close(goOn)
	}))

	t.Run("on demand, one attempt that fails is all", testkit.InBubble(func(t *testing.T) { // P8
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		rec := testkit.NewRecorder()
		down := new(atomic.Bool)
		down.Store(true)
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{OnDemand: true}, DialContext: unlessDown(n, down, refused), Trace: rec.Trace()})
		_, err := c.Session()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		time.Sleep(time.Hour)
		require.Len(t, rec.All("Connecting"), 1)
		down.Store(false)
		_, err = c.Session()
		require.ErrorIs(t, err, refused)
		time.Sleep(time.Minute)
		testkit.Session(t, c)
	}))
}

// unlessDown dials on n unless down is set, which is refused.
func unlessDown(n *tcpclienttest.Network, down *atomic.Bool, refused error) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if down.Load() {
			return nil, refused
		}
		return n.DialContext(ctx, network, address)
	}
}

// While connections come and go, whatever a Session sends is received on its connection.
func TestSessionNeverMoves(t *testing.T) { // P4, B7
	testkit.SkipIfShort(t)
	l := testkit.ListenTCP(t)
	var number atomic.Int32
	var wrong atomic.Int32
	l.Each(func(conn net.Conn) {
		defer conn.Close()
		name := string('a' + number.Add(1)%26)
		conn.Write(testkit.Frame(name))
		for range 30 {
			msg, err := readFrame(conn)
			if err != nil {
				return
			}
			if msg != "who" && msg != name {
				wrong.Add(1)
			}
			conn.Write(testkit.Frame(name))
		}
	})
	c := l.Dial(t, tcpclient.Dialer{
		Reconnect: testkit.FastBackoff(),
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			_, err := conn.Receive(ctx)
			return err
		},
	})
	var wg sync.WaitGroup
	var done atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range testkit.Rounds(200) {
				s, err := c.Session()
				if err != nil {
					_, _ = c.Call(t.Context(), []byte("who")) // waits for a connection
					continue
				}
				name, err := s.Call(t.Context(), []byte("who"))
				for n := 0; err == nil && n < 5; n++ {
					_, err = s.Call(t.Context(), name)
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, wrong.Load(), "requests of a Session on another connection")
	require.Greater(t, number.Load(), int32(2))
	require.Positive(t, done.Load())
}

func TestSessionAndItsClient(t *testing.T) {
	t.Run("a context that is done does not hide that the connection of a Session has ended", testkit.InBubble(func(t *testing.T) { // P2, P9
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Hour, Max: time.Hour}})
		s := testkit.Session(t, c)
		p.Reset()
		synctest.Wait()
		ctx := testkit.Canceled(t)
		for name, call := range map[string]func() error{
			"Client":  func() error { _, err := c.Call(ctx, nil); return err },
			"Session": func() error { _, err := s.Call(ctx, nil); return err },
		} {
			err := call()
			require.ErrorIs(t, err, context.Canceled, name)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
		}
	}))

	t.Run("on demand with FailFast, each Session asks for one attempt", testkit.InBubble(func(t *testing.T) { // P8
		refused := errors.New("refused")
		var attempts atomic.Int32
		d := tcpclient.Dialer{
			Reconnect:   &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond, OnDemand: true, FailFast: true},
			DialContext: func(context.Context, string, string) (net.Conn, error) { attempts.Add(1); return nil, refused },
		}
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		defer c.Close()
		for i := range 5 {
			_, err := c.Session()
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			time.Sleep(time.Minute)
			require.EqualValues(t, i+1, attempts.Load())
		}
		for _, err := range c.Replies(t.Context(), nil) {
			require.ErrorIs(t, err, refused)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
		}
	}))
}

func TestSessionAndDisconnect(t *testing.T) {
	t.Run("in the body of a loop, with the Inbox full: the rest, then the cause", func(t *testing.T) { // P1
		cause := errors.New("enough")
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			go func() {
				d.receive()
				for range 5 {
					d.p.Send(d.last[:len(d.id)] + strings.Repeat("r", 400))
				}
			}()
			n := 0
			var last error
			for _, err := range d.c.Replies(t.Context(), []byte(d.id+"search")) {
				if last = err; err != nil {
					break
				}
				if n++; n == 1 {
					synctest.Wait()
					d.c.Disconnect(cause)
					time.Sleep(time.Second)
				}
			}
			require.ErrorIs(t, last, cause)
			require.ErrorIs(t, last, tcpclient.ErrDisconnected)
			require.GreaterOrEqual(t, n, 3)
			require.Zero(t, d.c.Stats().InboxBytes)
		})
	})
}
