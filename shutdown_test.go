package tcpclient_test

import (
	"context"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
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
		t.Run("ours comes behind "+name+" that is under way, not inside", testkit.InBubble(func(t *testing.T) { // P1
			c, p := narrowly(t, d)
			p.Send("ping?")
			time.Sleep(1500 * time.Millisecond) // a tenth of it has left
			down := shutdown(t, c)
			synctest.Wait()
			msgs, end := p.All()
			require.Equal(t, []string{string(testkit.Pattern(1000))}, msgs)
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
			require.Equal(t, []string{string(testkit.Pattern(1000))}, msgs)
			require.Equal(t, io.EOF, end)
			p.HalfClose()
			require.NoError(t, closed())
		}))
	}

	t.Run("ours comes behind messages and pings together", testkit.InBubble(func(t *testing.T) { // P1, P3
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { return testkit.Pattern(300) },
		}})
		send := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(1000)) })
		time.Sleep(2500 * time.Millisecond) // the pings wait behind it
		require.NoError(t, c.Write(t.Context(), []byte("behind")))
		down := shutdown(t, c)
		synctest.Wait()
		msgs, end := p.All()
		require.Equal(t, string(testkit.Pattern(1000)), msgs[0])
		require.Contains(t, msgs, string(testkit.Pattern(300)))
		require.Contains(t, msgs, "behind")
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
			big := testkit.Frame(string(testkit.Pattern(1 << 20)))
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
