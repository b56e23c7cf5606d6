package tcpclient_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// What is left by code of the user that panics, or that ends its goroutine.

// panicsOn is LengthPrefix{} whose WriteFrame panics on one message.
func panicsOn(bad string) tcpclient.Framer {
	return testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
		if string(msg) == bad {
			panic("boom")
		}
		return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
	}}
}

func TestPanicOfWriteFrame(t *testing.T) {
	for _, test := range []struct {
		name      string
		heartbeat tcpclient.Heartbeat
	}{
		{"on a ping", tcpclient.Heartbeat{Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { return []byte("bad") }}},
		{"on an answer", tcpclient.Heartbeat{Answer: func(msg []byte) ([]byte, bool) { return []byte("bad"), string(msg) == "ping" }}},
	} {
		t.Run(test.name+" ends the connection and leaves nothing locked", testkit.InBubble(func(t *testing.T) { // P7, FAULTS L17
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: panicsOn("bad"), Heartbeat: test.heartbeat})
			p.Send("ping")
			if test.heartbeat.Ping != nil {
				_, err := c.Receive(t.Context())
				require.NoError(t, err, "this ping is a message to it")
			}
			_, err := c.Receive(testkit.Within(t, time.Minute))
			require.ErrorContains(t, err, "panic: boom")
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorIs(t, c.Send(testkit.Within(t, time.Minute), []byte("x")), tcpclient.ErrDisconnected)
			require.NoError(t, c.Close())
		}))

		t.Run(test.name+" does not keep a Client from reconnecting", testkit.InBubble(func(t *testing.T) { // P8
			l := testkit.ListenMemory(t)
			c, p := l.Connect(t, tcpclient.Dialer{
				Framer: panicsOn("bad"), Heartbeat: test.heartbeat,
				Reconnect: &tcpclient.Backoff{Min: time.Second, Max: time.Second},
			})
			p.Send("ping")
			if test.heartbeat.Ping != nil {
				_, err := c.Receive(t.Context())
				require.NoError(t, err, "this ping is a message to it")
			}
			p = l.AcceptPeer(t)
			_, err := c.Receive(t.Context())
			require.ErrorContains(t, err, "panic: boom")
			testkit.RequireAlive(t, c, p)
		}))
	}
}

func TestPanicInAHandshakeThatGoesOn(t *testing.T) {
	t.Run("is not the end of the connection when the context of the Handshake ends", testkit.InBubble(func(t *testing.T) { // P2
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Framer: panicsOn("bad"),
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				defer func() { require.Equal(t, "boom", recover()) }()
				return conn.Send(ctx, []byte("bad"))
			},
		})
		synctest.Wait()
		testkit.RequireAlive(t, c, p)
	}))
}

// goexit reads a byte and ends its goroutine, as t.FailNow does.
var goexit = testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
	if _, err := r.ReadByte(); err != nil {
		return dst, err
	}
	runtime.Goexit()
	panic("unreachable")
}}

// A lateContext is one whose Err panics from the nth call on.
type lateContext struct {
	context.Context
	calls atomic.Int32
	n     int32
}

func (c *lateContext) Err() error {
	if c.calls.Add(1) >= c.n {
		panic("boom")
	}
	return nil
}

func TestPanicOfAContext(t *testing.T) {
	for n := range int32(5) {
		t.Run(fmt.Sprintf("in call %d of its Err leaves nothing locked, and no one the writer", 1+n), func(t *testing.T) { // P2, P7
			c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{})
			go io.Copy(io.Discard, p)
			func() {
				defer func() { recover() }()
				c.Send(&lateContext{Context: t.Context(), n: 1 + n}, make([]byte, 4<<20-8))
			}()
			require.NoError(t, c.Send(testkit.Within(t, testkit.Patience), []byte("x")))
			require.NoError(t, c.Close())
		})
	}
}

func TestGoexit(t *testing.T) {
	const gone = "a hook has ended its goroutine"

	for name, backoff := range map[string]*tcpclient.Backoff{"": nil, ", with Reconnect too": {}} {
		t.Run("of a Framer's ReadFrame ends the Client"+name, testkit.InBubble(func(t *testing.T) { // P5, P7
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: goexit, Reconnect: backoff})
			call := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("x")); return err })
			require.Equal(t, "x", p.Receive())
			p.Send("x")
			_, err := c.Receive(testkit.Within(t, time.Minute))
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorContains(t, err, gone)
			require.ErrorContains(t, call(), gone)
			require.ErrorContains(t, c.Send(testkit.Within(t, time.Minute), []byte("x")), gone)
			_, err = p.Next()
			require.Error(t, err, "the connection is closed")
			require.False(t, c.Stats().Connected)
			require.NoError(t, c.Close())
		}))
	}

	t.Run("of a Framer's ReadFrame during a Shutdown is one loss, and the end is ErrClosed", testkit.InBubble(func(t *testing.T) { // P7, P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: goexit, Reconnect: &tcpclient.Backoff{}})
		shutdown := testkit.Start(t, func() error { return c.Shutdown(testkit.Within(t, time.Minute)) })
		_, err := p.Next()
		require.ErrorIs(t, err, io.EOF)
		p.Send("x")
		require.Error(t, shutdown())
		_, err = c.Receive(t.Context())
		require.ErrorContains(t, err, gone)
		for range 2 {
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		}
	}))

	t.Run("of the hooks that look at messages ends the Client", testkit.InBubble(func(t *testing.T) {
		for _, h := range []tcpclient.Heartbeat{
			{Interval: time.Second, Ping: func() []byte { runtime.Goexit(); return nil }},
			{Interval: time.Second, IsPong: func([]byte) bool { runtime.Goexit(); return true }},
			{Answer: func([]byte) ([]byte, bool) { runtime.Goexit(); return nil, true }},
		} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
			if h.Ping == nil {
				p.Send("look at this")
			}
			_, err := c.Receive(testkit.Within(t, time.Minute))
			require.ErrorContains(t, err, gone)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("of a DialContext or Handshake is an OpError of Dial", testkit.InBubble(func(t *testing.T) { // P9
		l := testkit.ListenMemory(t)
		for _, d := range []tcpclient.Dialer{
			{DialContext: func(context.Context, string, string) (net.Conn, error) { runtime.Goexit(); return nil, nil }},
			{Handshake: func(context.Context, *tcpclient.Conn) error { runtime.Goexit(); return nil }},
		} {
			_, err := l.TryDial(t.Context(), d)
			require.ErrorContains(t, err, "tcpclient: ")
			require.ErrorContains(t, err, gone)
			require.Equal(t, l.Addr().String(), testkit.OpError(t, err).Addr)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		}
	}))

	t.Run("of a Trace function does not silence the Trace", testkit.InBubble(func(t *testing.T) {
		var events []string // by one goroutine after the other
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{
			Connecting:   func(string, int) { events = append(events, "connecting"); runtime.Goexit() },
			Connected:    func(string, int, time.Duration) { events = append(events, "connected"); runtime.Goexit() },
			Disconnected: func(string, error) { events = append(events, "disconnected"); runtime.Goexit() },
		}})
		testkit.RequireAlive(t, c, p)
		require.NoError(t, c.Close())
		require.Equal(t, []string{"connecting", "connected", "disconnected"}, events)
	}))
}

// A closing connection tells when it was closed.
type closing struct {
	net.Conn
	closed atomic.Bool
}

func (c *closing) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

func TestGoexitInTLS(t *testing.T) {
	t.Run("leaves no connection open", func(t *testing.T) { // P6
		l := testkit.ListenTLS(t)
		go func() {
			if conn, err := l.Accept(); err == nil {
				conn.(*tls.Conn).Handshake() // until the client hangs up
				conn.Close()
			}
		}()
		_, config := tcpclienttest.NewTLSConfig()
		config.VerifyConnection = func(tls.ConnectionState) error { runtime.Goexit(); return nil }
		var raw closing
		_, err := l.TryDial(t.Context(), tcpclient.Dialer{
			TLSConfig: config,
			DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
				raw.Conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return &raw, err
			},
		})
		require.Error(t, err)
		testkit.Eventually(t, "the connection is closed", raw.closed.Load)
	})
}

// With Reconnect, a Goexit in a Framer or a hook of the reader ends the Client with an error that
// the loop of the package documentation gives up on.
func TestGoexitEndsTheDocumentedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: goexit, Reconnect: &tcpclient.Backoff{}})
		p.Send("x")
		for range 100 {
			_, err := c.Receive(testkit.Within(t, time.Minute))
			require.Error(t, err)
			if tcpclient.Classify(err) != tcpclient.ClassDisconnected {
				return
			}
		}
		require.Fail(t, "Receive returns the end of the connection for ever, and there will be no other")
	})
}
