package tcpclient_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"strings"
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

// narrowly connects over a network that takes 100 bytes ahead of the peer.
func narrowly(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer) {
	t.Helper()
	return testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 100}).Connect(t, d)
}

func TestShutdownAndFIN(t *testing.T) {
	shutdown := func(t *testing.T, c *tcpclient.Client) (wait func() error) {
		return testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
	}

	t.Run("one before ours ends Calls as any end of the connection", testkit.InBubble(func(t *testing.T) { // P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		call := testkit.Start(t, func() error { _, err := c.Call(context.Background(), []byte("?")); return err })
		require.Equal(t, "?", p.Receive())
		down := shutdown(t, c)
		synctest.Wait()
		p.HalfClose()
		err := call()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		require.NotErrorIs(t, err, tcpclient.ErrClosed)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
		require.ErrorIs(t, down(), tcpclient.ErrDisconnected)
	}))

	t.Run("is not what a Framer's error about invalid bytes is, after ours", testkit.InBubble(func(t *testing.T) { // P9
		size := func(p []byte) (int, error) {
			if p[0] == 'x' {
				return 0, io.EOF
			}
			return 1, nil
		}
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: tcpclient.Sized{Size: size}})
		down := shutdown(t, c)
		synctest.Wait()
		p.Raw([]byte("x"))
		err := down()
		require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	}))

	t.Run("one before ours ends Sends as any end of the connection", testkit.InBubble(func(t *testing.T) { // P4, P9
		c, p := narrowly(t, tcpclient.Dialer{})
		send := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(1000)) })
		synctest.Wait()
		down := shutdown(t, c)
		synctest.Wait()
		p.HalfClose()
		err := send()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, down(), tcpclient.ErrDisconnected)
	}))

	for name, d := range map[string]tcpclient.Dialer{
		"a ping": {WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { return testkit.Pattern(1000) },
		}},
		"an answer": {Heartbeat: tcpclient.Heartbeat{Answer: func(msg []byte) ([]byte, bool) { return testkit.Pattern(1000), string(msg) == "ping?" }}},
	} {
		t.Run("ours comes after "+name+" that is under way, not inside", testkit.InBubble(func(t *testing.T) { // P1
			c, p := narrowly(t, d)
			p.Send("ping?")
			time.Sleep(1500 * time.Millisecond) // a tenth of it has left
			down := shutdown(t, c)
			synctest.Wait()
			msgs, end := p.All()
			require.Equal(t, []string{testkit.PatternText(1000)}, msgs)
			require.Equal(t, io.EOF, end)
			p.Send("last words")
			p.HalfClose()
			require.NoError(t, down())
			got, end := testkit.ReceiveAll(t, c)
			require.Contains(t, got, "last words")
			require.ErrorIs(t, end, tcpclient.ErrClosed)
		}))

		t.Run("Close too sends "+name+" whole that is under way", testkit.InBubble(func(t *testing.T) { // P1
			c, p := narrowly(t, d)
			p.Send("ping?")
			time.Sleep(1500 * time.Millisecond)
			closed := testkit.Start(t, c.Close)
			synctest.Wait()
			msgs, end := p.All()
			require.Equal(t, []string{testkit.PatternText(1000)}, msgs)
			require.Equal(t, io.EOF, end)
			p.HalfClose()
			require.NoError(t, closed())
		}))
	}

	t.Run("ours comes after messages and pings together", testkit.InBubble(func(t *testing.T) { // P1, P3
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { return testkit.Pattern(300) },
		}})
		send := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(1000)) })
		time.Sleep(2500 * time.Millisecond) // the pings wait for it
		require.NoError(t, c.Write(t.Context(), []byte("after")))
		down := shutdown(t, c)
		synctest.Wait()
		msgs, end := p.All()
		require.Equal(t, testkit.PatternText(1000), msgs[0])
		require.Contains(t, msgs, testkit.PatternText(300))
		require.Contains(t, msgs, "after")
		require.Equal(t, io.EOF, end)
		p.HalfClose()
		require.NoError(t, send())
		require.NoError(t, down())
	}))
}

func TestShutdownWithLargeInbox(t *testing.T) {
	t.Run("does not lower its limit", testkit.InBubble(func(t *testing.T) { // P6
		for _, size := range []int{math.MaxInt, math.MaxInt/8 + 1} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: size})
			big := testkit.Frame(testkit.PatternText(1 << 20))
			go func() {
				for range 17 { // more than the 16 MiB to which a small Inbox is lifted
					p.Write(big)
				}
				p.HalfClose()
			}()
			require.NoError(t, c.Shutdown(testkit.Within(t, time.Minute)))
		}
	}))
}

// Shutdown waits for no one to receive, and yet memory is bounded.
func TestShutdownOfAConnectionThatFloods(t *testing.T) {
	t.Run("ends it with ErrInboxFull at 16 MiB, and what came before is there", testkit.InBubble(func(t *testing.T) { // P6
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		const size, fit = 1 << 20, 15 // messages of 1 MiB and 64 bytes in 16 MiB
		big := testkit.Frame(testkit.PatternText(size))
		go func() {
			for {
				if _, err := p.Write(big); err != nil {
					return
				}
			}
		}()
		began := time.Now()
		err := c.Shutdown(testkit.Within(t, time.Hour))
		require.ErrorIs(t, err, tcpclient.ErrInboxFull)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.Less(t, time.Since(began), time.Second)
		for range fit {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Len(t, msg, size)
		}
		left, err := testkit.ReceiveAll(t, c)
		require.LessOrEqual(t, len(left), 1, "the one that did not fit is here already")
		require.ErrorIs(t, err, tcpclient.ErrInboxFull)
	}))
}

func TestShutdownWhoseContextEnds(t *testing.T) {
	t.Run("is permanent: the connection is closed hard", testkit.InBubble(func(t *testing.T) {
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{})
		err := c.Shutdown(testkit.Within(t, time.Second))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	}))

	for name, d := range map[string]func(h *hook) tcpclient.Dialer{
		"a Trace function": func(h *hook) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{Connected: func(string, int, time.Duration) { h.hang() }}}
		},
		"a Framer": func(h *hook) tcpclient.Dialer { return tcpclient.Dialer{Framer: h.reading()} },
	} {
		t.Run("does not wait for "+name+" that hangs", testkit.InBubble(func(t *testing.T) { // P2
			hanging := newHook(t)
			c, p := testkit.ConnectMemory(t, d(hanging))
			p.Send("x")
			<-hanging.inside
			requireTakes(t, 200*time.Millisecond, func() {
				require.ErrorIs(t, c.Shutdown(testkit.Within(t, 10*time.Millisecond)), context.DeadlineExceeded)
			})
		}))
	}

	t.Run("tells of a loss all the same", testkit.InBubble(func(t *testing.T) { // P4
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside // and so the Client cannot end before its context
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		p.Reset()
		err := c.Shutdown(testkit.Within(t, time.Second))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
		assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	}))
}

func TestShutdownAndHeartbeat(t *testing.T) {
	t.Run("pings and is answered while Calls are in flight", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Interval: 5 * time.Second,
			Ping:     func() []byte { return []byte("ping") },
			IsPong:   func(msg []byte) bool { return string(msg) == "pong" },
		}})
		go func() {
			for {
				msg, err := p.Next()
				switch {
				case err != nil:
					p.Close()
					return
				case msg == "ping":
					p.Write(testkit.Frame("pong"))
				default:
					time.AfterFunc(30*time.Second, func() { p.Write(testkit.Frame("reply")) })
				}
			}
		}()
		call := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("slow")); return err })
		synctest.Wait()
		require.NoError(t, c.Shutdown(t.Context()))
		require.NoError(t, call())
	}))
}

func TestShutdownAndReconnect(t *testing.T) {
	t.Run("a connection that is lost meanwhile is told once, and then that we have closed", testkit.InBubble(func(t *testing.T) { // P8, P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		call := testkit.Start(t, func() error { _, err := c.Call(context.Background(), []byte("?")); return err })
		require.Equal(t, "?", p.Receive())
		down := testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
		synctest.Wait()
		p.HalfClose()
		require.ErrorIs(t, call(), io.EOF)
		require.ErrorIs(t, down(), io.EOF)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		for range 2 {
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			require.NotErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorIs(t, c.Send(t.Context(), nil), tcpclient.ErrClosed)
		}
	}))
}

func TestShutdown(t *testing.T) {
	testkit.EachTransportParallel(t, transporttest.Shutdown)

	t.Run("over TLS waits as long as its context for room for the close_notify", func(t *testing.T) { // P4
		testkit.SkipIfShort(t)
		// The messages just fit the peer's buffer, what TLS says at the end does not.
		n := &tcpclienttest.Network{Buffer: 4 << 10}
		l := testkit.ListenNetwork(t, n)
		testkit.Secure(l)
		filled := make(chan struct{})
		var w *testkit.HookedConn
		d := tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
			w = &testkit.HookedConn{Conn: conn}
			return w
		})}
		l.Setup(&d)
		d.TLSConfig.DynamicRecordSizingDisabled = true
		c, p := l.Connect(t, d)
		full := 0
		w.SetOnWrite(func(b []byte) (int, error) {
			n, err := w.Conn.Write(b)
			if full += n; err != nil {
				select {
				case <-filled:
				default:
					close(filled)
				}
			}
			return n, err
		})
		// A record of n bytes costs 22 more.
		require.NoError(t, c.Send(t.Context(), testkit.Pattern(4<<10-22-4)))
		require.Equal(t, 4<<10, full, "the buffer is exactly full")
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		<-filled
		time.Sleep(300 * time.Millisecond) // the peer's: it is slow
		msgs, err := p.All()
		require.Equal(t, []string{testkit.PatternText(4<<10 - 26)}, msgs)
		require.Equal(t, io.EOF, err)
		p.Send("answer")
		p.HalfClose()
		require.NoError(t, wait())
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"answer"}, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})
}

// An unwilling connection says that it has no half to close in words of its own.
type unwilling struct {
	net.Conn
	err error
}

var errNoHalf = errors.New("half-close: not here")

func (u unwilling) CloseWrite() error { return u.err }

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// While Shutdown flushes to a slow peer pings go on, or it would be declared dead that takes
// bytes all the time. Flush is the control.
func TestShutdownFlushesToASlowPeer(t *testing.T) {
	for name, flush := range map[string]bool{"after a Flush": true, "by itself": false} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P5
			c, p := narrowly(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
				Interval: 5 * time.Second, Timeout: 10 * time.Second,
				Ping:   func() []byte { return []byte("ping") },
				IsPong: func(msg []byte) bool { return string(msg) == "pong" },
			}})
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2996)))
			slow := testkit.Start(t, func() bool { p.ReadSlowly(3000); return true })
			defer slow()
			if flush {
				require.NoError(t, c.Flush(t.Context()))
			}
			assert.NoError(t, c.Shutdown(testkit.Within(t, time.Hour)))
			testkit.HangUp(p.Conn)
		}))
	}
}

// That its context has ended does not keep Shutdown from telling of a loss.
func TestShutdownWhoseContextEndsTellsOfALoss(t *testing.T) {
	t.Run("that was there before", testkit.InBubble(func(t *testing.T) { // P4
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{FlushDelay: time.Millisecond}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, syscall.ECONNRESET }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		time.Sleep(10 * time.Millisecond) // the write has failed; the reader waits for last words
		down := c.Shutdown(testkit.Within(t, 100*time.Millisecond))
		require.ErrorIs(t, down, context.DeadlineExceeded)
		closed := c.Close()
		assert.True(t, errors.Is(down, syscall.ECONNRESET) || errors.Is(closed, syscall.ECONNRESET),
			"no caller is told of the loss: Shutdown %v, Close %v", down, closed)
	}))

	t.Run("that it causes", testkit.InBubble(func(t *testing.T) { // P4
		c, _ := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		down := c.Shutdown(testkit.Within(t, 100*time.Millisecond))
		require.ErrorIs(t, down, context.DeadlineExceeded)
		closed := c.Close()
		assert.Contains(t, down.Error()+errorText(closed), "messages that were written are lost")
	}))
}

// Shutdown's context bounds the wait for the Trace, too.
func TestShutdownReturnsWithItsContextWhileATraceHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P2
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{Disconnected: func(string, error) { hanging.hang() }}})
		p.HalfClose()
		began := time.Now()
		c.Shutdown(testkit.Within(t, 10*time.Millisecond))
		require.Less(t, time.Since(began), 200*time.Millisecond)
	})
}

// Shutdown's own goroutine may be the one that writes to a connection whose deadlines do nothing.
func TestShutdownReturnsWithItsContextWhenDeadlinesDoNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P2
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnDeadline = func() error { return nil }
		})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(60<<10)))
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(60<<10)))
		down := make(chan error, 1)
		go func() { down <- c.Shutdown(testkit.Within(t, time.Second)) }()
		select {
		case err := <-down:
			require.ErrorIs(t, err, context.DeadlineExceeded)
		case <-time.After(10 * time.Second):
			c.Close()
			require.Fail(t, "Shutdown does not return with its context", "%v", <-down)
		}
	})
}

// A connection whose CloseWrite fails, in whatever words, cannot be half-closed: Shutdown does
// not wait for the answer to a FIN that was not sent.
func TestShutdownWaitsForNoAnswerToAFINThatWasNotSent(t *testing.T) {
	for _, err := range []error{errNoHalf, os.NewSyscallError("shutdown", syscall.EINVAL)} {
		t.Run(err.Error(), testkit.InBubble(func(t *testing.T) {
			n := tcpclienttest.NewNetwork()
			c, _ := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
				DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return unwilling{conn, err} }),
			})
			require.NoError(t, c.Shutdown(testkit.Within(t, time.Hour)))
		}))
	}
}

// A connection that is closed with unread bytes on a socket below it resets that, and what was
// flushed may be lost. So Shutdown reads on for a moment where there is no FIN to wait for.
func TestShutdownWithoutHalfCloseReadsOn(t *testing.T) {
	for name, row := range map[string]struct {
		meanwhile func(p *testkit.Peer, cancel context.CancelFunc) // after 30 ms
		took      time.Duration
		arrives   []string
		end       error // of Receive
	}{
		"for 100 ms":                  {func(p *testkit.Peer, _ context.CancelFunc) { p.Send("late") }, 100 * time.Millisecond, []string{"late"}, tcpclient.ErrClosed},
		"until the peer hangs up":     {func(p *testkit.Peer, _ context.CancelFunc) { testkit.HangUp(p) }, 30 * time.Millisecond, nil, tcpclient.ErrClosed},
		"until the peer resets":       {func(p *testkit.Peer, _ context.CancelFunc) { p.Reset() }, 30 * time.Millisecond, nil, syscall.ECONNRESET},
		"until its context has ended": {func(_ *testkit.Peer, cancel context.CancelFunc) { cancel() }, 30 * time.Millisecond, nil, tcpclient.ErrClosed},
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P2, P4, D1
			n := tcpclienttest.NewNetwork()
			c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
				DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return unwilling{conn, errNoHalf} }),
			})
			require.NoError(t, c.Write(t.Context(), []byte("last")))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			began := time.Now()
			down := testkit.Start(t, func() error { return c.Shutdown(ctx) })
			require.Equal(t, "last", p.Receive())
			time.Sleep(30 * time.Millisecond)
			row.meanwhile(p, cancel)
			require.NoError(t, down())
			require.Equal(t, row.took, time.Since(began))
			msgs, end := testkit.ReceiveAll(t, c)
			require.Equal(t, row.arrives, msgs)
			require.ErrorIs(t, end, row.end)
		}))
	}
}

// A tardyContext ends for those who wait for it a little after it has ended, as on a busy machine.
type tardyContext struct{ context.Context }

func (c tardyContext) Done() <-chan struct{} {
	if c.Err() != nil {
		time.Sleep(time.Millisecond)
	}
	return c.Context.Done()
}

func (c tardyContext) AfterFunc(f func()) (stop func() bool) {
	return context.AfterFunc(c.Context, func() { time.Sleep(time.Millisecond); f() })
}

func (c tardyContext) Value(any) any { return nil }

// A resetConn is a socket that was reset. Its reader learns that late.
type resetConn struct {
	net.Conn
	asked chan struct{}
}

func (r resetConn) CloseWrite() error {
	close(r.asked)
	return &net.OpError{Op: "close", Err: os.NewSyscallError("shutdown", syscall.ENOTCONN)}
}

func (resetConn) RealDeadlines() bool { return true }

func (r resetConn) Read([]byte) (int, error) {
	<-r.asked
	return 0, syscall.ECONNRESET
}

// That there is no FIN to wait for is no reason to be content with less.
func TestShutdownWithoutHalfCloseFails(t *testing.T) {
	connect := func(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer) {
		n := tcpclienttest.NewNetwork()
		d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return unwilling{conn, errNoHalf} })
		return testkit.ListenNetwork(t, n).Connect(t, d)
	}
	call := func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) (wait func() error) {
		wait = testkit.Start(t, func() error {
			_, err := c.Call(t.Context(), []byte("never answered"))
			return err
		})
		require.Equal(t, "never answered", p.Receive())
		return wait
	}

	t.Run("when its context cuts a Call", testkit.InBubble(func(t *testing.T) { // P2, P4
		c, p := connect(t, tcpclient.Dialer{})
		called := call(t, c, p)
		require.ErrorIs(t, c.Shutdown(tardyContext{testkit.Within(t, time.Second)}), context.DeadlineExceeded)
		require.Error(t, called())
	}))

	t.Run("when its context cuts a Call, and then the peer hangs up", testkit.InBubble(func(t *testing.T) { // P2, P4
		c, p := connect(t, tcpclient.Dialer{})
		called := call(t, c, p)
		hungUp := testkit.Start(t, func() error {
			time.Sleep(time.Second + time.Millisecond/2)
			return p.Close()
		})
		require.ErrorIs(t, c.Shutdown(tardyContext{testkit.Within(t, time.Second)}), context.DeadlineExceeded)
		require.Error(t, called())
		require.NoError(t, hungUp())
	}))

	t.Run("when Close cuts a Call", testkit.InBubble(func(t *testing.T) { // P4
		c, p := connect(t, tcpclient.Dialer{})
		called := call(t, c, p)
		require.NoError(t, c.Write(t.Context(), []byte("unflushed")))
		down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, down(), tcpclient.ErrClosed)
		require.ErrorIs(t, called(), tcpclient.ErrClosed)
	}))

	t.Run("when the connection was reset before", testkit.InBubble(func(t *testing.T) { // P2, P9
		n := tcpclienttest.NewNetwork()
		c, _ := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return resetConn{conn, make(chan struct{})} }),
		})
		require.ErrorIs(t, c.Shutdown(testkit.Within(t, time.Hour)), syscall.ECONNRESET)
	}))

	t.Run("not when its end makes another call Close", testkit.InBubble(func(t *testing.T) { // P2, P7
		var c *tcpclient.Client
		c, _ = connect(t, tcpclient.Dialer{Trace: &tcpclient.Trace{Disconnected: func(string, error) { c.Close() }}})
		require.NoError(t, c.Shutdown(t.Context()))
	}))

	t.Run("when the reader hangs until its context ends", testkit.InBubble(func(t *testing.T) { // P2, P7
		hanging := newHook(t)
		c, p := connect(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		require.ErrorIs(t, c.Shutdown(testkit.Within(t, 10*time.Second)), context.DeadlineExceeded)
	}))

	t.Run("not with the verdict of a Heartbeat in the time after the flush", testkit.InBubble(func(t *testing.T) { // P5
		c, p := connect(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Interval: 20 * time.Millisecond, Timeout: 50 * time.Millisecond,
		}})
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		require.Equal(t, "last", p.Receive())
		require.NoError(t, down())
	}))
}

// The peer's own pings are answered, too, while Shutdown flushes.
func TestShutdownAnswersPingsWhileItFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P5
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Answer: func(msg []byte) ([]byte, bool) { return []byte("pong"), string(msg) == "ping" },
		}})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		down := testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
		synctest.Wait()
		p.Send("ping")
		synctest.Wait()
		msgs, _ := p.All()
		p.HalfClose()
		require.NoError(t, down())
		require.Equal(t, []string{testkit.PatternText(1000), "pong"}, msgs)
	})
}

// The peer's FIN is what Shutdown waits for, and may have come before.
func TestShutdownReturnsNilAfterThePeersFIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []bool{false, true} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			bye := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("quit")); return err })
			require.Equal(t, "quit", p.Receive())
			p.Finish("bye")
			require.NoError(t, bye())
			if wait {
				synctest.Wait()
			}
			require.NoError(t, c.Shutdown(t.Context()))
		}
	})
}

// What Shutdown says of one loss it says once.
func TestShutdownSaysALossOnce(t *testing.T) {
	for i := range 60 {
		synctest.Test(t, func(t *testing.T) { // P9
			c, _ := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
			down := c.Shutdown(testkit.Within(t, 100*time.Millisecond))
			require.ErrorIs(t, down, context.DeadlineExceeded)
			require.Equal(t, 1, strings.Count(down.Error(), "are lost"), "%d: %v", i, down)
		})
	}
}

// Where a Call fails because the peer hangs up, Shutdown is not fine.
func TestShutdownFailsWhenACallIsNotAnswered(t *testing.T) {
	for i := range 60 {
		synctest.Test(t, func(t *testing.T) { // P4
			c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
			call := testkit.Start(t, func() error {
				_, err := c.Call(t.Context(), testkit.Pattern(1000)) // of which a tenth is sent
				return err
			})
			synctest.Wait()
			down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			synctest.Wait()
			p.HalfClose()
			require.Error(t, call())
			require.Error(t, down(), "%d", i)
		})
	}
}

// A Shutdown that Close cuts off has not ended in an orderly way.
func TestShutdownThatCloseCutsOffWhileACallWaitsReturnsErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4, P7
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		call := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("never answered")); return err })
		require.Equal(t, "never answered", p.Receive())
		down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, call(), tcpclient.ErrClosed)
		require.ErrorIs(t, down(), tcpclient.ErrClosed)
	})
}

// That the loss Is the end of Shutdown's context, too, does not hide it.
func TestShutdownTellsOfALossThatIsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, context.DeadlineExceeded }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		down := c.Shutdown(testkit.Within(t, 100*time.Millisecond)) // the reader waits for last words
		require.ErrorIs(t, down, context.DeadlineExceeded)
		require.Contains(t, down.Error()+errorText(c.Close()), "are lost")
	})
}
