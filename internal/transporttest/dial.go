package transporttest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Dial is for a Client that has just been made.
func Dial(t *testing.T, tr testkit.Transport) {
	t.Run("returns a Client that talks both ways", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		testkit.RequireAlive(t, c, p)
		require.NotNil(t, c.LocalAddr())
		require.NotNil(t, c.RemoteAddr())
	})

	t.Run("is bounded by its context, the Client is not", func(t *testing.T) { // P2
		l := tr.Listen(t)
		ctx, cancel := context.WithCancel(t.Context())
		c := l.StartDial(t, ctx, tcpclient.Dialer{})
		p := l.AcceptPeer(t)
		client := c()
		cancel()
		testkit.RequireAlive(t, client, p)
	})

	t.Run("with a context that is done makes no connection", func(t *testing.T) { // P2
		l := tr.Listen(t)
		_, err := l.TryDial(testkit.Canceled(t), tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
			t.Error("dialed")
			return nil, errors.ErrUnsupported
		}})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "dial", testkit.OpError(t, err).Op)
		require.Equal(t, l.Addr().String(), testkit.OpError(t, err).Addr)
	})

	t.Run("copies the settings", func(t *testing.T) {
		l := tr.Listen(t)
		d := tcpclient.Dialer{}
		l.Setup(&d)
		wait := testkit.Start(t, func() *tcpclient.Client {
			c, err := d.Dial(t.Context(), l.Network, l.Addr().String())
			assert.NoError(t, err)
			return c
		})
		p := l.AcceptPeer(t)
		c := wait()
		defer c.Close()
		d.Framer, d.WriteBuffer, d.Inbox = tcpclient.LengthPrefix{Width: 1}, -1, -1
		testkit.RequireAlive(t, c, p)
	})
}

// Handshake is for Dialer.Handshake.
func Handshake(t *testing.T, tr testkit.Transport) {
	t.Run("talks in whole messages before any caller does", func(t *testing.T) { // P8
		began := time.Now()
		d := tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			_, isTLS := conn.NetConn().(*tls.Conn)
			assert.Equal(t, tr.Secure, isTLS)
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.WithinRange(t, deadline, began.Add(10*time.Second), time.Now().Add(10*time.Second))
			return testkit.Login(ctx, conn)
		}}
		c, err := tr.ShakeHands(t, d, func(p *testkit.Peer) {
			assert.Equal(t, "login", p.Receive())
			p.Send("welcome")
			p.Echo()
		})
		require.NoError(t, err)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.NoError(t, c.Close())
	})

	t.Run("sees the end of the stream as io.EOF", func(t *testing.T) {
		d := tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			_, err := conn.Receive(ctx)
			assert.ErrorIs(t, err, io.EOF)
			assert.Equal(t, "receive", testkit.OpError(t, err).Op)
			return err
		}}
		_, err := tr.ShakeHands(t, d, func(p *testkit.Peer) { p.Close() })
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, "handshake", testkit.OpError(t, err).Op)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	})

	t.Run("a context of its own that ends closes the connection", func(t *testing.T) { // P2
		d := tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, err := conn.Receive(short)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			err = conn.Send(ctx, []byte("too late"))
			assert.Error(t, err)
			return nil // as if nothing had happened
		}}
		_, err := tr.ShakeHands(t, d, func(p *testkit.Peer) { io.Copy(io.Discard, p) })
		require.Error(t, err, "the connection is gone")
		require.NotErrorIs(t, err, context.DeadlineExceeded, "that was not Dial's")
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	})

	t.Run("large messages go both ways", func(t *testing.T) {
		big := strings.Repeat("0123456789abcdef", 1<<16)
		d := tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			for range 3 {
				if err := conn.Send(ctx, []byte(big)); err != nil {
					return err
				}
				msg, err := conn.Receive(ctx)
				if err != nil {
					return err
				}
				assert.True(t, string(msg) == big)
			}
			return nil
		}}
		c, err := tr.ShakeHands(t, d, func(p *testkit.Peer) {
			for {
				msg, err := p.Next() // whole, or both would write at once and neither read
				if err != nil {
					return
				}
				p.Send(msg)
			}
		})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})
}
