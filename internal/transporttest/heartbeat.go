package transporttest

import (
	"io"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// PingsKeepTheirPlace is for pings among messages.
func PingsKeepTheirPlace(t *testing.T, tr testkit.Transport) {
	written := make(chan struct{})
	c, p := tr.Connect(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
		Interval: 20 * time.Millisecond, Timeout: time.Hour,
		Ping: func() []byte { <-written; return []byte("2") },
	}})
	require.NoError(t, c.Write(t.Context(), []byte("1")))
	close(written)
	require.Equal(t, "1", p.Receive())
	require.Equal(t, "2", p.Receive())
}

// AnswersKeepTheirPlace is for answers to pings among messages.
func AnswersKeepTheirPlace(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{Heartbeat: testkit.AnsweringPings([]byte("2"))})
	for range 20 {
		require.NoError(t, c.Write(t.Context(), []byte("1")))
		p.Send("ping?")
		require.Equal(t, "1", p.Receive())
		require.Equal(t, "2", p.Receive())
	}
	require.NoError(t, c.Close())
	rest, _ := p.All()
	require.Empty(t, rest)
}

// AnswersBeforeFIN is for a ping that the peer's FIN follows.
func AnswersBeforeFIN(t *testing.T, tr testkit.Transport) {
	h := testkit.Pinging()
	h.Interval, h.Timeout = time.Hour, 2*time.Hour
	h.Answer = func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" }
	for range 50 {
		c, p := tr.Connect(t, tcpclient.Dialer{Heartbeat: h})
		p.Finish("one", "PING")
		msg, err := p.Next()
		require.NoError(t, err)
		require.Equal(t, "PONG", msg)
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"one"}, got)
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, c.Close())
	}
}

// PingsWhilePeerTalks is for pings to a peer that sends all the time.
func PingsWhilePeerTalks(t *testing.T, tr testkit.Transport) { // A1
	c, p := tr.Connect(t, tcpclient.Dialer{Heartbeat: testkit.RealHeartbeat(50*time.Millisecond, time.Minute)})
	p.SetReadDeadline(time.Now().Add(testkit.Patience))
	p.PushEvery(t, 5*time.Millisecond)
	go testkit.ReceiveAll(t, c)
	for range 5 {
		require.Equal(t, "ping", p.Receive())
	}
}
