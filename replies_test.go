package tcpclient_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// Which message is for whom: pushes, ids of the application, several replies to one request.

// isPush takes messages with a ">" for pushes, as those of RESP3 have.
func isPush(msg []byte) bool { return strings.Contains(string(msg), ">") }

func TestIsPush(t *testing.T) {
	t.Run("sends a message to Receive although a request waits", func(t *testing.T) { // B6
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, IsPush: isPush})
			call := startCall(t, t.Context(), c, header+"SET")
			request := p.Receive()
			push := strings.Replace(request, "SET", ">invalidate", 1) // by id it has that of the request
			p.Send(push, request, push)
			reply, err := call()
			require.NoError(t, err)
			require.Equal(t, request, reply)
			for range 2 {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, push, string(msg))
			}
			require.Zero(t, c.Stats().InFlight)
			require.Zero(t, c.Stats().LateReplies)
		})
	})

	t.Run("does not see pings and pongs", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Heartbeat: tcpclient.Heartbeat{Interval: 1e9, IsPong: func(msg []byte) bool { return string(msg) == "> pong" }},
			IsPush:    isPush,
		})
		call := startCall(t, t.Context(), c, "request")
		p.Send("> pong", "reply")
		reply, err := call()
		require.NoError(t, err)
		require.Equal(t, "reply", reply)
		_, err = c.Receive(testkit.Within(t, 1e6))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}))

	t.Run("a panic in it ends the connection", testkit.InBubble(func(t *testing.T) { // P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{IsPush: func([]byte) bool { panic("in IsPush") }})
		call := startCall(t, t.Context(), c, "request")
		p.Send("reply")
		_, err := call()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorContains(t, err, "in IsPush")
	}))
}

// stans is IDField with the ids that requests have already; 0 has the library choose.
type stans struct{ tcpclient.IDField }

func (s stans) RequestID(request []byte) (id uint64, ok bool) {
	id, _, _ = s.SplitReply(request)
	return id, id != 0
}

func TestRequestIdentifier(t *testing.T) {
	t.Run("sends requests with their own ids, and each gets its reply", testkit.InBubble(func(t *testing.T) { // B5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: stans{tcpclient.IDField{Width: 1}}})
		chosen := startCall(t, t.Context(), c, "\x07 purchase")
		ours := startCall(t, t.Context(), c, "\x00 echo")
		require.Equal(t, "\x07 purchase", p.Receive())
		require.Equal(t, "\x01 echo", p.Receive())
		p.Send("\x01 echoed", "\x07 approved")
		reply, err := chosen()
		require.NoError(t, err)
		require.Equal(t, "\x07 approved", reply)
		reply, err = ours()
		require.NoError(t, err)
		require.Equal(t, "\x01 echoed", reply)
	}))

	t.Run("an id in flight is refused at once, Unsent, and named", testkit.InBubble(func(t *testing.T) { // B5, P4
		rec := testkit.NewRecorder()
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: stans{tcpclient.IDField{Width: 1}}, MaxInFlight: 1, Trace: rec.Trace()})
		giveUp(t, c, "\x07 purchase")
		_, err := c.Call(t.Context(), []byte("\x07 reversal"))
		require.ErrorContains(t, err, "request id 7 is in flight")
		require.True(t, testkit.OpError(t, err).Unsent)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Equal(t, "\x07 purchase", p.Receive())
		p.Send("\x07 approved")
		synctest.Wait()
		require.Equal(t, []string{"\x07 approved"}, lateReplies(rec))
		go p.Echo()
		_, err = c.Call(t.Context(), []byte("\x07 reversal"))
		require.NoError(t, err)
	}))

	t.Run("a panic in it reaches the caller, and no lock stays held", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: explosiveID{}})
		require.Panics(t, func() { c.Call(t.Context(), []byte("boom")) })
		testkit.RequireAlive(t, c, p)
		require.Zero(t, c.Stats().InFlight)
	}))
}

// explosiveID panics when it is asked for the id of a request.
type explosiveID struct{ tcpclient.IDPrefix }

func (explosiveID) RequestID([]byte) (uint64, bool) { panic("in RequestID") }
