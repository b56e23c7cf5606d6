package transporttest

import (
	"context"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Session is for Client.Session.
func Session(t *testing.T, tr testkit.Transport) {
	t.Run("writes, flushes, sends and calls as its Client does", func(t *testing.T) { // P3
		c, p := tr.Connect(t, tcpclient.Dialer{})
		s := testkit.Session(t, c)
		require.NoError(t, s.Write(t.Context(), []byte("one")))
		require.NoError(t, s.Write(t.Context(), []byte("two")))
		require.NoError(t, s.Flush(t.Context()))
		require.NoError(t, s.Send(t.Context(), []byte("three")))
		for _, want := range []string{"one", "two", "three"} {
			require.Equal(t, want, p.Receive())
		}
		reply := testkit.Start(t, func() string {
			reply, _ := s.Call(t.Context(), []byte("question"))
			return string(reply)
		})
		require.Equal(t, "question", p.Receive())
		p.Send("answer")
		require.Equal(t, "answer", reply())
	})

	t.Run("fails for good when its connection has ended, and the next has nothing of it", func(t *testing.T) { // P4, B7
		l := tr.Listen(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
		s := testkit.Session(t, c)
		testkit.HangUp(p)
		next := l.AcceptPeer(t)
		testkit.RequireAliveAfterLoss(t, c, next)
		for method, err := range SessionMethods(t.Context(), s) {
			require.ErrorIs(t, err, tcpclient.ErrDisconnected, method)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), method)
			require.True(t, testkit.OpError(t, err).Unsent, method)
		}
		require.NoError(t, c.Send(t.Context(), []byte("of the Client")))
		require.Equal(t, "of the Client", next.Receive())
		require.NoError(t, testkit.Session(t, c).Send(t.Context(), []byte("of another Session")))
		require.Equal(t, "of another Session", next.Receive())
	})
}

// SessionMethods calls each method of s that talks, and returns their errors.
func SessionMethods(ctx context.Context, s *tcpclient.Session) map[string]error {
	_, call := s.Call(ctx, []byte("call"))
	return map[string]error{
		"Write": s.Write(ctx, []byte("write")),
		"Flush": s.Flush(ctx),
		"Send":  s.Send(ctx, []byte("send")),
		"Call":  call,
	}
}
