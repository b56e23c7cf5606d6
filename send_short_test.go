package tcpclient_test

import (
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// waysToSend are the two ways through Send: frames of LengthPrefix{} take the short one, those of
// a user's Framer, of which the bytes are the same here, the long one.
var waysToSend = map[string]tcpclient.Framer{
	"the short way": tcpclient.LengthPrefix{},
	"the long way":  testkit.FuncFramer{},
}

// sendWays runs test in virtual time for each way through Send.
func sendWays(t *testing.T, test func(t *testing.T, d tcpclient.Dialer)) {
	for name, framer := range waysToSend {
		t.Run(name, testkit.InBubble(func(t *testing.T) { test(t, tcpclient.Dialer{Framer: framer}) }))
	}
}

func TestUnsentOnBothWays(t *testing.T) {
	t.Run("is exact for who leads behind messages of Writes", func(t *testing.T) { // P4
		before := len(testkit.Frame("written"))
		sendWays(t, func(t *testing.T, d tcpclient.Dialer) {
			for cut := range before + len(testkit.Frame("sent")) {
				c, _, w := testkit.ConnectHooked(t, d, nil)
				w.OnWrite = func(p []byte) (int, error) { return cut, syscall.ECONNRESET }
				require.NoError(t, c.Write(t.Context(), []byte("written")))
				err := c.Send(t.Context(), []byte("sent"))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.Equal(t, cut <= before, testkit.OpError(t, err).Unsent, "cut at %d", cut)
				c.Close()
			}
		})
	})

	t.Run("is exact for each who follows", func(t *testing.T) { // P4
		msgs := []string{"one", "two", "three"}
		sendWays(t, func(t *testing.T, d tcpclient.Dialer) {
			for cut := range len(testkit.Frames(msgs...)) {
				c, _, w := testkit.ConnectHooked(t, d, nil)
				gate, calls := make(chan struct{}), 0
				w.OnWrite = func(p []byte) (int, error) {
					if calls++; calls > 1 {
						return cut, syscall.ECONNRESET
					}
					<-gate
					return len(p), nil
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				var results []func() error
				for _, msg := range msgs {
					results = append(results, testkit.Start(t, func() error { return c.Send(t.Context(), []byte(msg)) }))
					synctest.Wait() // in this order
				}
				close(gate)
				require.NoError(t, first())
				at := 0
				for i, msg := range msgs {
					err := results[i]()
					require.ErrorIs(t, err, syscall.ECONNRESET, msg)
					require.Equal(t, cut <= at, testkit.OpError(t, err).Unsent, "%s at %d, cut at %d", msg, at, cut)
					at += len(testkit.Frame(msg))
				}
				c.Close()
			}
		})
	})
}

// A ping that is under way has no batch of which a Send could be taken for a part.
func TestSendThatMeetsAPing(t *testing.T) {
	t.Run("returns when its own message was written", func(t *testing.T) { // P4
		sendWays(t, func(t *testing.T, d tcpclient.Dialer) {
			d.Heartbeat = testkit.Pinging()
			gate, inside := make(chan struct{}), make(chan struct{})
			open := sync.OnceFunc(func() { close(gate) })
			defer open()
			calls := 0
			c, p, _ := testkit.ConnectHooked(t, d, func(w *testkit.HookedConn) {
				w.OnWrite = func(b []byte) (int, error) {
					if calls++; calls == 1 {
						close(inside)
						<-gate
					}
					return w.Conn.Write(b)
				}
			})
			<-inside
			sent := make(chan error, 1)
			go func() { sent <- c.Send(t.Context(), []byte("behind it")) }()
			synctest.Wait()
			require.Empty(t, sent, "nothing was written")
			open()
			require.NoError(t, <-sent)
			require.Equal(t, "ping", p.Receive())
			require.Equal(t, "behind it", p.Receive())
			require.NoError(t, c.Close())
			rest, _ := p.All()
			require.Empty(t, rest)
		})
	})
}
