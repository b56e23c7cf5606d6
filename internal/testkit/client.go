package testkit

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// OpError returns the OpError in err.
func OpError(t testing.TB, err error) *tcpclient.OpError {
	t.Helper()
	var e *tcpclient.OpError
	require.ErrorAs(t, err, &e)
	return e
}

// Session begins one.
func Session(t testing.TB, c *tcpclient.Client) *tcpclient.Session {
	t.Helper()
	s, err := c.Session()
	require.NoError(t, err)
	return s
}

// ReceiveAll returns the messages until the error that ends them.
func ReceiveAll(t testing.TB, c *tcpclient.Client) (msgs []string, end error) {
	for {
		msg, err := c.Receive(t.Context())
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, string(msg))
	}
}

// RequireAlive sends a message each way and wants them to arrive next.
func RequireAlive(t testing.TB, c *tcpclient.Client, p *Peer) {
	t.Helper()
	require.NoError(t, c.Send(t.Context(), []byte("there?")))
	require.Equal(t, "there?", p.Receive())
	p.Send("here")
	msg, err := c.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, "here", string(msg))
}

// RequireAliveAfterLoss is requireAlive, once Receive has told of the loss.
func RequireAliveAfterLoss(t testing.TB, c *tcpclient.Client, p *Peer) {
	t.Helper()
	_, err := c.Receive(t.Context())
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	RequireAlive(t, c, p)
}

// EveryMethod calls all methods that talk to the network, and returns their errors.
func EveryMethod(t testing.TB, ctx context.Context, c *tcpclient.Client) map[string]error {
	t.Helper()
	errs := make(map[string]error)
	check := func(op string, err error) {
		t.Helper()
		require.Error(t, err, op)
		require.Equal(t, op, OpError(t, err).Op)
		errs[op] = err
	}
	check("write", c.Write(ctx, []byte("w")))
	require.True(t, OpError(t, errs["write"]).Unsent, "write")
	check("flush", c.Flush(ctx))
	check("send", c.Send(ctx, []byte("s")))
	require.True(t, OpError(t, errs["send"]).Unsent, "send")
	_, err := c.Call(ctx, []byte("c"))
	check("call", err)
	require.True(t, OpError(t, errs["call"]).Unsent, "call")
	msg, err := c.Receive(ctx)
	require.Nil(t, msg)
	check("receive", err)
	msg, err = c.ReceiveInto(ctx, make([]byte, 3, 10))
	require.Empty(t, msg)
	require.Equal(t, 10, cap(msg))
	check("receive", err)
	n := 0
	for msg, err := range c.Messages(ctx) {
		n++
		require.Nil(t, msg)
		check("receive", err)
	}
	require.Equal(t, 1, n, "Messages yields a final error once")
	return errs
}

// Stall sends to a peer that does not read until nothing goes any more. It returns what
// was sent, the last of which is under way. The connection is made by ConnectSmall: a
// message is larger than all the room that its buffers may still find.
func Stall(t testing.TB, c *tcpclient.Client) (sent []string) {
	t.Helper()
	filling := PatternText(8 * smallBuffer)
	for i := range 1000 {
		msg := fmt.Sprint(i, "/") + filling
		err := c.Send(Within(t, 20*time.Millisecond), []byte(msg))
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if OpError(t, err).Unsent {
				continue // its time was over before it began
			}
		}
		sent = append(sent, msg)
		if err != nil && c.Flush(Within(t, 100*time.Millisecond)) != nil {
			self := goroutineID(string(debug.Stack()))
			Eventually(t, "the last message is under way, and leaves room for others", func() bool {
				return isBlocked(self, "wire.(*Conn).Write") || !c.Stats().Connected
			})
			return sent
		}
	}
	require.FailNow(t, "the peer does not read, but nothing stalls")
	return nil
}

// CloseTime is the second that Close may take (P7) on a [Stopwatch], with what many goroutines add.
const CloseTime = 1500 * time.Millisecond

// Login is a Handshake.
func Login(ctx context.Context, conn *tcpclient.Conn) error {
	if err := conn.Send(ctx, []byte("login")); err != nil {
		return err
	}
	msg, err := conn.Receive(ctx)
	if err == nil && string(msg) != "welcome" {
		err = fmt.Errorf("refused: %s", msg)
	}
	return err
}

// FastBackoff is a Backoff for real time.
func FastBackoff() *tcpclient.Backoff {
	return &tcpclient.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond}
}

// ErrRefused is how dialing fails where no program listens.
var ErrRefused = syscall.ECONNREFUSED

// Pinging is a heartbeat with a 10 s Interval and a 25 s Timeout.
func Pinging() tcpclient.Heartbeat {
	return tcpclient.Heartbeat{
		Interval: 10 * time.Second,
		Timeout:  25 * time.Second,
		Ping:     func() []byte { return []byte("ping") },
		IsPong:   func(msg []byte) bool { return string(msg) == "pong" },
	}
}

// RealHeartbeat is a heartbeat in real time.
func RealHeartbeat(interval, timeout time.Duration) tcpclient.Heartbeat {
	h := Pinging()
	h.Interval, h.Timeout = interval, timeout
	return h
}

// RequireReplyTimeout wants err to be that of a connection that ended because no reply had come.
func RequireReplyTimeout(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, tcpclient.ErrReplyTimeout)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, OpError(t, err).Timeout())
	require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
}

// RequireHeartbeatTimeout wants err to be the heartbeat's verdict and nothing else.
func RequireHeartbeatTimeout(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.True(t, OpError(t, err).Timeout())
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
}

// AnsweringPings is a Heartbeat that answers each "ping?" with reply.
func AnsweringPings(reply []byte) tcpclient.Heartbeat {
	return tcpclient.Heartbeat{Answer: func(msg []byte) ([]byte, bool) { return reply, string(msg) == "ping?" }}
}
