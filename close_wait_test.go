package tcpclient_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Close and Shutdown while code of the user does not return: they give up on it, and nobody
// else has to wait.

// A hook is code of the user that is inside until it is let go.
type hook struct{ inside, leave chan struct{} }

func newHook(t testing.TB) *hook {
	h := &hook{make(chan struct{}), make(chan struct{})}
	t.Cleanup(h.letGo)
	return h
}

// hang is what the hook does, once.
func (h *hook) hang() {
	close(h.inside)
	<-h.leave
}

func (h *hook) letGo() {
	select {
	case <-h.leave:
	default:
		close(h.leave)
	}
}

// reading is a Framer that hangs with the first byte it reads, and then says that the
// stream has ended.
func (h *hook) reading() tcpclient.Framer {
	return testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
		if _, err := r.ReadByte(); err != nil {
			return dst, err
		}
		h.hang()
		return dst, io.EOF
	}}
}

// requireTakes wants f to take so long on the clock of the bubble.
func requireTakes(t testing.TB, atMost time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	require.LessOrEqual(t, time.Since(began), atMost)
}

func TestCloseWakes(t *testing.T) {
	for name, end := range map[string]func(c *tcpclient.Client) error{
		"Close":    (*tcpclient.Client).Close,
		"Shutdown": func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
	} {
		t.Run("those who wait for a connection while a DialContext hangs: "+name, testkit.InBubble(func(t *testing.T) { // P7
			n, dials, hanging := tcpclienttest.NewNetwork(), 0, newHook(t)
			c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{Min: 1, Max: 1},
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					if dials++; dials == 1 {
						return n.DialContext(ctx, network, address)
					}
					hanging.hang()
					return nil, errors.New("late")
				},
			})
			testkit.HangUp(p.Conn)
			<-hanging.inside
			calls := map[string]func() error{
				"Send":  func() error { return c.Send(context.Background(), []byte("x")) },
				"Write": func() error { return c.Write(context.Background(), []byte("x")) },
				"Flush": func() error { return c.Flush(context.Background()) },
				"Call":  func() error { _, err := c.Call(context.Background(), []byte("x")); return err },
			}
			ended := make(chan error, len(calls))
			for name, call := range calls {
				go func() {
					err := call()
					assert.ErrorIs(t, err, tcpclient.ErrClosed, name)
					ended <- err
				}()
			}
			synctest.Wait()
			requireTakes(t, 0, func() {
				go end(c)
				for range calls {
					<-ended
				}
			})
			hanging.letGo()
		}))
	}

	t.Run("Calls that wait for an id while a Correlator hangs", testkit.InBubble(func(t *testing.T) { // P7
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: hangingReplies{tcpclient.IDField{Width: 1}, hanging}})
		errs := make(chan error, 3)
		for range cap(errs) {
			go func() {
				_, err := c.Call(context.Background(), []byte("?"))
				errs <- err
			}()
		}
		p.Receive() // the one that has got the id
		p.Send("!")
		<-hanging.inside
		synctest.Wait()
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
		for range cap(errs) {
			select {
			case err := <-errs:
				require.ErrorIs(t, err, tcpclient.ErrClosed)
			case <-time.After(time.Second):
				require.FailNow(t, "a Call still waits")
			}
		}
	}))
}

// hangingReplies has one id, and hangs when it looks at a reply.
type hangingReplies struct {
	tcpclient.IDField
	hook *hook
}

func (h hangingReplies) MaxID() uint64 { return 1 }

func (h hangingReplies) SplitReply(msg []byte) (uint64, []byte, bool) {
	h.hook.hang()
	return 0, nil, false
}

func TestCloseOfStuckReader(t *testing.T) {
	narrow := func(t testing.TB) *testkit.Listener {
		return testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 100})
	}

	t.Run("tells of the frames that are lost", testkit.InBubble(func(t *testing.T) { // P4, P7
		hanging := newHook(t)
		c, p := narrow(t).Connect(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		var err error
		requireTakes(t, time.Second, func() { err = c.Close() })
		require.Error(t, err)
		require.Equal(t, "close", testkit.OpError(t, err).Op)
	}))

	t.Run("returns nil when nothing is lost", testkit.InBubble(func(t *testing.T) { // P7
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		require.NoError(t, c.Write(t.Context(), []byte("whole")))
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
		require.Equal(t, "whole", p.Receive())
	}))

	t.Run("takes no longer when a Trace function hangs too", testkit.InBubble(func(t *testing.T) { // P7
		hanging, tracing := newHook(t), newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Framer: hanging.reading(),
			Trace:  &tcpclient.Trace{Connected: func(string, int, time.Duration) { tracing.hang() }},
		})
		p.Send("x")
		<-hanging.inside
		<-tracing.inside
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		select {
		case err := <-closed:
			require.NoError(t, err)
		case <-time.After(2 * time.Second):
			assert.Fail(t, "Close has not returned after two seconds")
			tracing.letGo()
			<-closed
		}
	}))
}

func TestCloseInTrace(t *testing.T) {
	t.Run("of the end of the connection does not hold up the owner's Close", testkit.InBubble(func(t *testing.T) { // P7
		var c *tcpclient.Client
		in := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{Disconnected: func(string, error) {
			in.hang()
			assert.NoError(t, c.Close())
		}}})
		testkit.RequireAlive(t, c, p)
		closed := testkit.Start(t, c.Close)
		<-in.inside
		synctest.Wait()
		in.letGo()
		requireTakes(t, 200*time.Millisecond, func() { require.NoError(t, closed()) })
	}))
}

// slowClose is a connection whose Close waits, such as a stream of a stalled multiplexer.
type slowClose struct {
	net.Conn
	free <-chan struct{}
}

func (s slowClose) Close() error {
	<-s.free
	return s.Conn.Close()
}

func TestConnectionWithSlowClose(t *testing.T) {
	// connect returns a Client on such a connection.
	connect := func(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer) {
		free := make(chan struct{})
		n := tcpclienttest.NewNetwork()
		d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return slowClose{conn, free} })
		c, p := testkit.ListenNetwork(t, n).Connect(t, d)
		t.Cleanup(func() { close(free) })
		return c, p
	}

	t.Run("does not hold up Close", testkit.InBubble(func(t *testing.T) { // P7
		c, _ := connect(t, tcpclient.Dialer{})
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
	}))

	t.Run("does not hold up a Shutdown whose context ends", testkit.InBubble(func(t *testing.T) { // P2
		c, _ := connect(t, tcpclient.Dialer{})
		requireTakes(t, 500*time.Millisecond, func() {
			require.ErrorIs(t, c.Shutdown(testkit.Within(t, 100*time.Millisecond)), context.DeadlineExceeded)
		})
	}))

	t.Run("does not hold up the verdict of a heartbeat", testkit.InBubble(func(t *testing.T) { // P5
		c, _ := connect(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: time.Second}, Correlator: tcpclient.IDPrefix{}})
		requireTakes(t, 3*time.Second, func() {
			require.ErrorIs(t, c.Send(t.Context(), []byte("x")), nil)
			_, err := c.Call(testkit.Within(t, time.Minute), []byte("x"))
			require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
		})
	}))
}

func TestCloseOfDying(t *testing.T) {
	t.Run("leaves the first error to everybody", func(t *testing.T) { // P9
		// The reader waits behind a full Inbox, a write has found the reset.
		c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Inbox: 1})
		p.Send("one", "two", "three", "four")
		testkit.Eventually(t, "the Inbox is full", func() bool { return c.Stats().MessagesReceived >= 1 })
		p.Reset()
		var first error
		testkit.Eventually(t, "a write fails", func() bool { first = c.Send(t.Context(), []byte("x")); return first != nil })
		require.ErrorIs(t, first, tcpclient.ErrDisconnected)
		c.Close()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
	})
}

func TestCloseThatWrites(t *testing.T) {
	t.Run("ends though the connection's deadlines do nothing and the peer takes nothing", testkit.InBubble(func(t *testing.T) { // P7
		closed := make(chan struct{})
		var once sync.Once
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnDeadline = func() error { return nil }
			w.OnClose = func() { once.Do(func() { close(closed) }) }
			w.OnWrite = func([]byte) (int, error) { <-closed; return 0, io.ErrClosedPipe }
		})
		require.NoError(t, c.Write(t.Context(), []byte("x")))
		began := time.Now()
		require.Error(t, c.Close())
		require.LessOrEqual(t, time.Since(began), time.Second)
	}))
}

func TestCloseOfStalledPeer(t *testing.T) {
	t.Run("takes no more than its second, to the tick", testkit.InBubble(func(t *testing.T) { // P4, P7
		c, _ := narrowly(t, tcpclient.Dialer{})
		sent := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(1000)) })
		synctest.Wait()
		require.NoError(t, c.Write(t.Context(), []byte("never")))
		began := time.Now()
		require.Error(t, c.Close(), "what was written could not be flushed")
		require.LessOrEqual(t, time.Since(began), time.Second)
		require.Error(t, sent())
	}))
}
