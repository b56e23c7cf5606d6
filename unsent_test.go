package tcpclient_test

import (
	"bufio"
	"context"
	"net"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestWritingToTheDead(t *testing.T) {
	for name, call := range map[string]func(c *tcpclient.Client) error{
		"Send": func(c *tcpclient.Client) error { return c.Send(context.Background(), []byte("lost")) },
		"Call": func(c *tcpclient.Client) error {
			_, err := c.Call(context.Background(), []byte("lost"))
			return err
		},
		"Write and Flush": func(c *tcpclient.Client) error {
			if err := c.Write(context.Background(), []byte("lost")); err != nil {
				return err
			}
			return c.Flush(context.Background())
		},
		"Write and Close": func(c *tcpclient.Client) error {
			if err := c.Write(context.Background(), []byte("lost")); err != nil {
				return err
			}
			return c.Close()
		},
		"Write and Shutdown": func(c *tcpclient.Client) error {
			if err := c.Write(context.Background(), []byte("lost")); err != nil {
				return err
			}
			return c.Shutdown(context.Background())
		},
	} {
		t.Run("is no success when the end came during the call: "+name, testkit.InBubble(func(t *testing.T) { // P4
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			closed, first := make(chan struct{}), true
			var p *testkit.Peer
			d := tcpclient.Dialer{
				Framer: testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
					if first {
						first = false
						p.Close() // the peer's FIN comes in the middle of the call,
						<-closed  // and the reader has seen it
					}
					return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
				}},
				DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					return &testkit.HookedConn{Conn: conn, OnClose: sync.OnceFunc(func() { close(closed) })}
				}),
			}
			c := l.Dial(t, d)
			p = l.AcceptPeer(t)
			err := call(c)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			if name == "Send" || name == "Call" {
				require.True(t, testkit.OpError(t, err).Unsent)
			}
		}))
	}
}

func TestErrClosedOfOthers(t *testing.T) {
	t.Run("is the end of a connection, not our own Close", testkit.InBubble(func(t *testing.T) { // P9
		// Such as a tunnel through another Client may return.
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			if _, err := r.ReadByte(); err != nil {
				return dst, err
			}
			return dst, tcpclient.ErrClosed
		}}})
		p.Send("x")
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
	}))

	t.Run("in a write is the end of a connection too", testkit.InBubble(func(t *testing.T) { // P9
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, tcpclient.ErrClosed }
		})
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
	}))
}

func TestCorrelatorThatReturnsTheRequest(t *testing.T) {
	t.Run("makes no Call write into the memory of another", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: alternating{new(int)}})
		go p.All()
		request := []byte("the first request")
		c.Call(testkit.Within(t, 1), request)
		c.Call(testkit.Within(t, 1), []byte("THE SECOND"))
		require.Equal(t, "the first request", string(request))
	}))
}

// alternating breaks the contract of a Correlator first: what it returns is the request.
// Then it is IDPrefix.
type alternating struct{ calls *int }

func (k alternating) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if *k.calls++; *k.calls == 1 {
		return request, nil
	}
	return tcpclient.IDPrefix{}.AppendRequest(dst, id, request)
}

func (alternating) SplitReply(msg []byte) (uint64, []byte, bool) {
	return tcpclient.IDPrefix{}.SplitReply(msg)
}
