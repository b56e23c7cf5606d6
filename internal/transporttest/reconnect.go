package transporttest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Reconnect is for the next connection.
func Reconnect(t *testing.T, tr testkit.Transport) {
	t.Run("goes on with the next connection, after one ErrDisconnected in its place", func(t *testing.T) { // P8
		l := tr.Listen(t)
		rec := testkit.NewRecorder()
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff(), Trace: rec.Trace()})
		for i := range 5 {
			p.Send(fmt.Sprint("last words ", i))
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
			p.Send(fmt.Sprint("first words ", i+1))
		}
		for i := range 5 {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("last words ", i), string(msg))
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			require.Equal(t, "receive", testkit.OpError(t, err).Op)
			msg, err = c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("first words ", i+1), string(msg))
		}
		testkit.RequireAlive(t, c, p)
		require.EqualValues(t, 6, c.Stats().Connects)
		require.NoError(t, c.Close())
		rec.RequireOrder(t, 1)
		require.Len(t, rec.All("Connected"), 6)
		require.Len(t, rec.All("Disconnected"), 6)
		last := rec.All("Disconnected")[5].Err
		require.True(t, last == tcpclient.ErrClosed, "our own Close: %v", last)
	})

	t.Run("Messages ends at each lost connection and can go on", func(t *testing.T) {
		l := tr.Listen(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
		for i := range 3 {
			p.Send("a", "b")
			testkit.HangUp(p)
			if i < 2 {
				p = l.AcceptPeer(t)
			}
		}
		for range 3 {
			var got []string
			for msg, err := range c.Messages(t.Context()) {
				if err != nil {
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
					continue
				}
				got = append(got, string(msg))
			}
			require.Equal(t, []string{"a", "b"}, got)
		}
	})
}

// Disconnect is for Client.Disconnect.
func Disconnect(t *testing.T, tr testkit.Transport) {
	readOnly := errors.New("READONLY")

	t.Run("is a loss with its cause, and the next connection is dialed", func(t *testing.T) { // P4, P8, P9
		l := tr.Listen(t)
		rec := testkit.NewRecorder()
		c, _ := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Hour, Max: time.Hour}, Trace: rec.Trace()})
		for range 5 { // of a wait of an hour there would be no end
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			c.Disconnect(readOnly)
			p := l.AcceptPeer(t)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, readOnly)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			err = c.Flush(t.Context())
			require.ErrorIs(t, err, readOnly)
			require.ErrorAs(t, err, new(*tcpclient.LossError))
			testkit.RequireAlive(t, c, p)
		}
		require.NoError(t, c.Close())
		require.ErrorIs(t, rec.All("Disconnected")[0].Err, readOnly)
		rec.RequireOrder(t, 1)
	})

	for name, ask := range map[string]func(c *tcpclient.Client) error{
		"Call": func(c *tcpclient.Client) error {
			_, err := c.Call(t.Context(), []byte("again"))
			return err
		},
		"Send":          func(c *tcpclient.Client) error { return c.Send(t.Context(), []byte("again")) },
		"Send of 1 MiB": func(c *tcpclient.Client) error { return c.Send(t.Context(), make([]byte, 1<<20)) },
		"Write and Flush": func(c *tcpclient.Client) error {
			if err := c.Write(t.Context(), []byte("again")); err != nil {
				return err
			}
			return c.Flush(t.Context())
		},
	} {
		t.Run("and a "+name+" right after it is for the next connection", func(t *testing.T) { // P8, FIELD C11
			l := tr.Listen(t)
			l.Each(func(conn net.Conn) {
				io.CopyN(conn, conn, int64(len(testkit.Frame("again"))))
				io.Copy(io.Discard, conn)
			})
			c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Hour, Max: time.Hour}})
			for range 20 {
				c.Disconnect(readOnly)
				require.NoError(t, ask(c))
			}
			require.EqualValues(t, 21, c.Stats().Connects)
			require.NoError(t, c.Close())
		})
	}
}
