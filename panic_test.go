package tcpclient_test

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// What is left behind by code of the user that panics, or that ends its goroutine.

// panicsOn is LengthPrefix{} whose WriteFrame panics on one message.
func panicsOn(bad string) tcpclient.Framer {
	return funcFramer{write: func(w *bufioWriter, msg []byte) error {
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
		t.Run(test.name+" ends the connection and leaves nothing locked", inBubble(func(t *testing.T) { // P7, FAULTS L17
			c, p := connectMemory(t, tcpclient.Dialer{Framer: panicsOn("bad"), Heartbeat: test.heartbeat})
			p.send("ping")
			if test.heartbeat.Ping != nil {
				_, err := c.Receive(t.Context())
				require.NoError(t, err, "this ping is a message to it")
			}
			_, err := c.Receive(within(t, time.Minute))
			require.ErrorContains(t, err, "panic: boom")
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorIs(t, c.Send(within(t, time.Minute), []byte("x")), tcpclient.ErrDisconnected)
			require.NoError(t, c.Close())
		}))

		t.Run(test.name+" does not keep a Client from reconnecting", inBubble(func(t *testing.T) { // P8
			l := listenMemory(t)
			c, p := l.connect(t, tcpclient.Dialer{
				Framer: panicsOn("bad"), Heartbeat: test.heartbeat,
				Reconnect: &tcpclient.Backoff{Min: time.Second, Max: time.Second},
			})
			p.send("ping")
			if test.heartbeat.Ping != nil {
				_, err := c.Receive(t.Context())
				require.NoError(t, err, "this ping is a message to it")
			}
			p = l.accept(t)
			_, err := c.Receive(t.Context())
			require.ErrorContains(t, err, "panic: boom")
			requireAlive(t, c, p)
		}))
	}
}

// goexit reads a byte and ends its goroutine, as t.FailNow does.
var goexit = funcFramer{read: func(r *bufioReader, dst []byte) ([]byte, error) {
	if _, err := r.ReadByte(); err != nil {
		return dst, err
	}
	runtime.Goexit()
	panic("unreachable")
}}

func TestGoexit(t *testing.T) {
	const gone = "a hook has ended its goroutine"

	for name, backoff := range map[string]*tcpclient.Backoff{"": nil, ", with Reconnect too": {}} {
		t.Run("of a Framer's ReadFrame ends the Client"+name, inBubble(func(t *testing.T) { // P5, P7
			c, p := connectMemory(t, tcpclient.Dialer{Framer: goexit, Reconnect: backoff})
			call := start(t, func() error { _, err := c.Call(t.Context(), []byte("x")); return err })
			require.Equal(t, "x", p.receive())
			p.send("x")
			_, err := c.Receive(within(t, time.Minute))
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorContains(t, err, gone)
			require.ErrorContains(t, call(), gone)
			require.ErrorContains(t, c.Send(within(t, time.Minute), []byte("x")), gone)
			_, err = p.next()
			require.Error(t, err, "the connection is closed")
			require.False(t, c.Stats().Connected)
			require.NoError(t, c.Close())
		}))
	}

	t.Run("of the hooks that look at messages ends the Client", inBubble(func(t *testing.T) {
		for _, h := range []tcpclient.Heartbeat{
			{Interval: time.Second, Ping: func() []byte { runtime.Goexit(); return nil }},
			{Interval: time.Second, IsPong: func([]byte) bool { runtime.Goexit(); return true }},
			{Answer: func([]byte) ([]byte, bool) { runtime.Goexit(); return nil, true }},
		} {
			c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h})
			if h.Ping == nil {
				p.send("look at this")
			}
			_, err := c.Receive(within(t, time.Minute))
			require.ErrorContains(t, err, gone)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("of a DialContext or Handshake is an OpError of Dial", inBubble(func(t *testing.T) { // P9
		l := listenMemory(t)
		for _, d := range []tcpclient.Dialer{
			{DialContext: func(context.Context, string, string) (net.Conn, error) { runtime.Goexit(); return nil, nil }},
			{Handshake: func(context.Context, *tcpclient.Conn) error { runtime.Goexit(); return nil }},
		} {
			_, err := l.tryDial(t.Context(), d)
			require.ErrorContains(t, err, "tcpclient: ")
			require.ErrorContains(t, err, gone)
			require.Equal(t, l.Addr().String(), opError(t, err).Addr)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		}
	}))

	t.Run("of a Trace function does not silence the Trace", inBubble(func(t *testing.T) {
		var events []string // by one goroutine after the other
		c, p := connectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{
			Connecting:   func(string, int) { events = append(events, "connecting"); runtime.Goexit() },
			Connected:    func(string, int, time.Duration) { events = append(events, "connected"); runtime.Goexit() },
			Disconnected: func(string, error) { events = append(events, "disconnected"); runtime.Goexit() },
		}})
		requireAlive(t, c, p)
		require.NoError(t, c.Close())
		require.Equal(t, []string{"connecting", "connected", "disconnected"}, events)
	}))
}

func TestDialError(t *testing.T) {
	t.Run("of attempts that are used up is an OpError", inBubble(func(t *testing.T) { // P9
		l := listenMemory(t)
		address := l.Addr().String()
		l.Close()
		_, err := l.tryDial(t.Context(), tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{Min: time.Second, Max: time.Second, FirstDial: true, MaxAttempts: 3},
		})
		var op *tcpclient.OpError
		require.IsType(t, op, err)
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
		require.Equal(t, address, op.Addr)
		require.Regexp(t, `^tcpclient: dial \S+: gave up after 3 attempts: dial [^\n]+$`, err.Error())
		require.NotRegexp(t, "tcpclient: .*tcpclient: ", err.Error())
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
		l := listenTLS(t)
		go func() {
			if conn, err := l.Accept(); err == nil {
				conn.(*tls.Conn).Handshake() // until the client hangs up
				conn.Close()
			}
		}()
		_, config := tcpclienttest.NewTLSConfig()
		config.VerifyConnection = func(tls.ConnectionState) error { runtime.Goexit(); return nil }
		var raw closing
		_, err := l.tryDial(t.Context(), tcpclient.Dialer{
			TLSConfig: config,
			DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
				raw.Conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return &raw, err
			},
		})
		require.Error(t, err)
		eventually(t, "the connection is closed", raw.closed.Load)
	})
}
