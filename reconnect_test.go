package tcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReconnect(t *testing.T) {
	testkit.EachTransport(t, transporttest.Reconnect)

	t.Run("off unless asked for", func(t *testing.T) { // P8
		l := testkit.ListenTCP(t)
		c, p := l.Connect(t, tcpclient.Dialer{})
		testkit.HangUp(p)
		for range 3 {
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorIs(t, err, io.EOF)
		}
		for _, err := range []error{c.Send(t.Context(), nil), c.Write(t.Context(), nil), c.Flush(t.Context())} {
			require.ErrorIs(t, err, io.EOF, "the first error is final for every method")
		}
		require.EqualValues(t, 1, c.Stats().Connects)
	})

	t.Run("the first attempt of Dial is the only one, unless FirstDial", testkit.InBubble(func(t *testing.T) { // P8
		n := tcpclienttest.NewNetwork()
		dials := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return n.DialContext(ctx, network, address)
		}}
		_, err := d.Dial(t.Context(), "tcp", "server:1")
		require.ErrorIs(t, err, testkit.ErrRefused)
		require.Equal(t, 1, dials)

		d.Reconnect = &tcpclient.Backoff{FirstDial: true}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = d.Dial(ctx, "tcp", "server:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		require.Equal(t, "dial", testkit.OpError(t, err).Op)
		require.Greater(t, dials, 5)

		d.Reconnect = &tcpclient.Backoff{FirstDial: true, MaxAttempts: 3}
		dials = 0
		_, err = d.Dial(t.Context(), "tcp", "server:1")
		require.ErrorIs(t, err, testkit.ErrRefused)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Equal(t, 3, dials)

		d.Reconnect = &tcpclient.Backoff{FirstDial: true}
		var l *testkit.Listener
		time.AfterFunc(time.Minute, func() { l = testkit.ListenNetwork(t, n); assert.Equal(t, "server:1", l.Addr().String()) })
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		testkit.RequireAlive(t, c, l.AcceptPeer(t))
		require.NoError(t, c.Close())
	}))

	t.Run("FirstDial: a cancelled Dial ends at once, in a wait or in an attempt", testkit.InBubble(func(t *testing.T) { // P8: cancellable
		n := tcpclienttest.NewNetwork()
		for _, partition := range []bool{false, true} {
			if partition {
				n.Partition() // every attempt hangs
			}
			for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Second, 11 * time.Second} {
				d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FirstDial: true}, DialContext: n.DialContext}
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				time.AfterFunc(after, cancel)
				_, err := d.Dial(ctx, "tcp", "server:1")
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, after, time.Since(start))
				synctest.Wait()
			}
		}
	}))

	t.Run("Dial's context is forgotten once it has returned", testkit.InBubble(func(t *testing.T) { // P2
		l := testkit.ListenMemory(t)
		ctx, cancel := context.WithCancel(t.Context())
		wait := l.StartDial(t, ctx, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		p := l.AcceptPeer(t)
		c := wait()
		cancel()
		testkit.RequireAlive(t, c, p)
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("a connection that lasted is followed by a first attempt, one that did not by a further one", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		rec := testkit.NewRecorder()
		_, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace()})
		for _, lives := range []time.Duration{0, 0, time.Second - 1, 0, time.Second, 0, time.Hour, 0} {
			time.Sleep(lives)
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
		}
		synctest.Wait()
		var attempts []int
		for _, e := range rec.All("Connected") {
			attempts = append(attempts, e.Attempt)
		}
		require.Equal(t, []int{1, 2, 3, 4, 5, 1, 2, 1, 2}, attempts)
		row := 0
		for i, e := range rec.All("Waiting") {
			if row++; attempts[i+1] == 1 {
				row = 1
			}
			require.LessOrEqual(t, e.Delay, 50*time.Millisecond<<row, "wait %d", i)
			require.Equal(t, attempts[i+1], e.Attempt)
		}
	}))

	t.Run("neither a handshake nor a message makes a connection last", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		l.Each(func(conn net.Conn) {
			conn.Write(testkit.Frames("welcome", "too many connections"))
			conn.Close()
		})
		attempts := 0
		c := l.Dial(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				attempts++
				msg, err := conn.Receive(ctx)
				if err == nil && string(msg) != "welcome" {
					err = errors.New("no welcome")
				}
				return err
			},
		})
		time.Sleep(10 * time.Minute)
		require.NoError(t, c.Close())
		require.Less(t, attempts, 100, "10 minutes at 15 s each, and the beginning")
		require.Greater(t, attempts, 15)
	}))

	t.Run("Send, Write, Flush and Call wait for the next connection", testkit.InBubble(func(t *testing.T) {
		for name, op := range map[string]func(c *tcpclient.Client) error{
			"send": func(c *tcpclient.Client) error { return c.Send(t.Context(), []byte("hello")) },
			"write": func(c *tcpclient.Client) error {
				return errors.Join(c.Write(t.Context(), []byte("hello")), c.Flush(t.Context()))
			},
			"call": func(c *tcpclient.Client) error { _, err := c.Call(t.Context(), []byte("hello")); return err },
		} {
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
			l.Close()
			testkit.HangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			done := make(chan error, 1)
			go func() { done <- op(c) }()
			time.Sleep(time.Hour)
			require.Empty(t, done, "%s does not wait", name)
			again, err := n.Listen(l.Addr().String())
			require.NoError(t, err)
			conn, err := again.Accept()
			require.NoError(t, err)
			p = testkit.NewPeer(t, conn)
			require.Equal(t, "hello", p.Receive())
			p.Send("reply")
			require.NoError(t, <-done, name)
			require.NoError(t, c.Close())
			again.Close()
		}
	}))

	t.Run("a context ends the wait for a connection, Unsent", testkit.InBubble(func(t *testing.T) { // P2, P4
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		l.Close()
		testkit.HangUp(p)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		for name, op := range map[string]func(ctx context.Context) error{
			"send":    func(ctx context.Context) error { return c.Send(ctx, []byte("hello")) },
			"write":   func(ctx context.Context) error { return c.Write(ctx, []byte("hello")) },
			"flush":   c.Flush,
			"call":    func(ctx context.Context) error { _, err := c.Call(ctx, []byte("hello")); return err },
			"receive": func(ctx context.Context) error { _, err := c.Receive(ctx); return err },
		} {
			start := time.Now()
			err := op(testkit.Within(t, time.Minute))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Minute, time.Since(start))
			require.Equal(t, name, testkit.OpError(t, err).Op)
			require.Equal(t, name == "send" || name == "write" || name == "call", testkit.OpError(t, err).Unsent, name)
			require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
		}
	}))

	t.Run("losses are merged once 16 wait, and hold nothing up", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: time.Millisecond}})
		for range 100 {
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
		}
		p.Send("here")
		synctest.Wait()
		losses := 0
		for {
			msg, err := c.Receive(t.Context())
			if err == nil {
				require.Equal(t, "here", string(msg))
				break
			}
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			losses++
		}
		require.Equal(t, 16, losses)
	}))

	t.Run("a permanent error ends the Client, after the loss", testkit.InBubble(func(t *testing.T) { // P8, R14
		l := testkit.ListenMemory(t)
		closed := errors.New("account closed")
		n := 0
		rec := testkit.NewRecorder()
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace(), Handshake: func(context.Context, *tcpclient.Conn) error {
			if n++; n == 1 {
				return nil
			}
			return tcpclient.Permanent(closed)
		}})
		p.Send("bye")
		testkit.HangUp(p)
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "bye", string(msg))
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		for range 3 {
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, closed)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		}
		for _, err := range []error{c.Send(t.Context(), nil), c.Write(t.Context(), nil), c.Flush(t.Context())} {
			require.ErrorIs(t, err, closed)
		}
		require.True(t, testkit.OpError(t, c.Send(t.Context(), nil)).Unsent)
		require.NoError(t, c.Close())
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, closed, "the first error stays, also after Close")
		rec.RequireOrder(t, 1)
		require.Equal(t, 2, n)
	}))

	t.Run("an inbound frame that is too large is a lost connection like others", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		p.Raw([]byte("HTTP/1.1 503 Service Unavailable\r\n"))
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		var tooLarge *tcpclient.FrameTooLargeError
		require.ErrorAs(t, err, &tooLarge)
		testkit.RequireAlive(t, c, l.AcceptPeer(t))
	}))

	t.Run("a server that answers the handshake with something else is tried again", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		wait := l.StartDial(t, t.Context(), tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Handshake: testkit.Login})
		p := l.AcceptPeer(t)
		p.Send("welcome")
		c := wait()
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		p.Raw([]byte("HTTP/1.1 503 Service Unavailable\r\n"))
		p = l.AcceptPeer(t)
		p.Send("welcome")
		require.Equal(t, "login", p.Receive())
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("an Inbox that is full stays bounded over many connections", testkit.InBubble(func(t *testing.T) { // P6
		l := testkit.ListenMemory(t)
		const size = 1 << 20
		var received atomic.Int64
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: time.Millisecond}, Inbox: 1000})
		big := testkit.Frame(strings.Repeat("x", size))
		flood := func(p *testkit.Peer) {
			p.Write(big) // blocks until the client has read it, or reads no more
		}
		connections := 0
		for range 100 {
			wrote := make(chan struct{})
			go func() { defer close(wrote); flood(p) }()
			synctest.Wait()
			// No call receives. Only a failing write tells the client of the end.
			p.Reset()
			<-wrote
			var err error
			for range 10 {
				if err = c.Send(t.Context(), []byte("x")); err != nil {
					break
				}
				synctest.Wait()
			}
			received.Store(int64(c.Stats().BytesReceived))
			accepted := make(chan *testkit.Peer, 1)
			go func() {
				if conn, err := l.Accept(); err == nil {
					accepted <- testkit.NewPeer(t, conn)
				}
			}()
			time.Sleep(3 * time.Second) // the last words of the peer have a second
			if len(accepted) == 0 {
				break // held up: that would be a bound as well
			}
			p = <-accepted
			connections++
		}
		require.LessOrEqual(t, received.Load(), int64(10*size), "%d connections: an Inbox of 1000 bytes holds what is not received", connections)
		require.NoError(t, c.Close())
		l.Close()
		synctest.Wait()
	}))
}

// What becomes of messages when their connection does not last.
func TestFateOverReconnects(t *testing.T) {
	t.Parallel() // it waits for real time

	t.Run("frames that die in the buffer are reported once, and not sent again", testkit.InBubble(func(t *testing.T) { // P4
		for name, report := range map[string]func(c *tcpclient.Client) error{
			"write":    func(c *tcpclient.Client) error { return c.Write(t.Context(), []byte("not taken")) },
			"flush":    func(c *tcpclient.Client) error { return c.Flush(t.Context()) },
			"send":     func(c *tcpclient.Client) error { return c.Send(t.Context(), []byte("not taken")) },
			"call":     func(c *tcpclient.Client) error { _, err := c.Call(t.Context(), []byte("not taken")); return err },
			"close":    func(c *tcpclient.Client) error { return c.Close() },
			"shutdown": func(c *tcpclient.Client) error { return c.Shutdown(t.Context()) },
		} {
			for _, moment := range []string{"at once", "while disconnected", "on the next connection", "three connections later"} {
				l := testkit.ListenMemory(t)
				c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Second}})
				for range 3 {
					require.NoError(t, c.Write(t.Context(), []byte("lost")))
				}
				testkit.HangUp(p)
				synctest.Wait()
				next := func() *testkit.Peer { p := l.AcceptPeer(t); synctest.Wait(); return p }
				switch moment {
				case "while disconnected":
					time.Sleep(time.Microsecond)
				case "on the next connection":
					p = next()
				case "three connections later":
					for range 3 {
						p = next()
						testkit.HangUp(p)
					}
					p = next()
				}
				connected := c.Stats().Connected
				if name == "shutdown" && connected {
					go func() { p.All(); testkit.HangUp(p) }()
				}
				err := report(c)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, "%s %s", name, moment)
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, name == "write" || name == "send" || name == "call", testkit.OpError(t, err).Unsent, "%s %s", name, moment)
				if name == "close" || name == "shutdown" {
					require.NoError(t, c.Close())
				} else {
					if !connected {
						p = next()
					}
					require.NoError(t, c.Send(t.Context(), []byte("after")), "%s %s: reported once", name, moment)
					require.Equal(t, "after", p.Receive(), "%s %s", name, moment)
					require.NoError(t, c.Close(), "%s %s: reported once", name, moment)
				}
				msgs, _ := p.All()
				require.Empty(t, msgs)
				testkit.HangUp(p)
			}
		}
	}))

	t.Run("a Flush that fails has told of the loss", testkit.InBubble(func(t *testing.T) { // P4
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, WriteTimeout: -1})
		require.NoError(t, c.Write(t.Context(), make([]byte, 1<<20)))
		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		require.NoError(t, c.Write(t.Context(), []byte("after it")))
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		p.Reset()
		for range 2 {
			err := <-flushed
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.False(t, testkit.OpError(t, err).Unsent)
		}
		testkit.RequireAliveAfterLoss(t, c, l.AcceptPeer(t))
	}))

	t.Run("every Send learns its own fate, and nothing is sent twice", func(t *testing.T) { // P4
		testkit.SkipIfShort(t)
		l := testkit.ListenTCP(t)
		var mu sync.Mutex
		seen := make(map[string]int)
		l.Each(func(conn net.Conn) {
			p := testkit.NewPeer(t, conn)
			for range 20 {
				msg, err := p.Next()
				if err != nil {
					break
				}
				mu.Lock()
				seen[msg]++
				mu.Unlock()
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		})
		c := l.Dial(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
		var wg sync.WaitGroup
		var ok, failed, unsent atomic.Int32
		for g := range 8 {
			wg.Go(func() {
				for i := 0; c.Stats().Connects < 100; i++ {
					msg := fmt.Sprintf("%d/%d", g, i)
					err := c.Send(t.Context(), []byte(msg))
					switch {
					case err == nil:
						ok.Add(1)
						continue
					case !errors.Is(err, tcpclient.ErrDisconnected):
						assert.NoError(t, err)
					}
					failed.Add(1)
					var e *tcpclient.OpError
					if assert.ErrorAs(t, err, &e); e.Unsent {
						unsent.Add(1)
						mu.Lock()
						if seen[msg] > 0 {
							t.Errorf("%s was seen, and is said to be Unsent", msg)
						}
						seen[msg] = -1000
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, c.Close())
		mu.Lock()
		defer mu.Unlock()
		for msg, n := range seen {
			if n != 1 && n != -1000 {
				t.Errorf("%s arrived %d times", msg, n)
			}
		}
		t.Logf("%d sent, %d failed, of these %d unsent, %d connections", ok.Load(), failed.Load(), unsent.Load(), c.Stats().Connects)
		require.Greater(t, failed.Load(), int32(50))
	})
}
