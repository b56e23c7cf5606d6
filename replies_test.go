package tcpclient_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// more says that a row follows, until "end".
func more(reply []byte) bool { return !strings.HasSuffix(string(reply), "end") }

// A dialogue is that of a Client and a server that answers with rows.
type dialogue struct {
	c    *tcpclient.Client
	p    *testkit.Peer
	id   string // in front of each message
	last string // what the server was asked last
}

// send sends rows to the last request.
func (d *dialogue) send(rows ...string) {
	for _, row := range rows {
		d.p.Send(d.last[:len(d.id)] + row)
	}
	synctest.Wait()
}

// receive takes the next request.
func (d *dialogue) receive() string {
	d.last = d.p.Receive()
	return d.last[len(d.id):]
}

// inDialogue runs test in virtual time, in order and by id, with rows for replies.
func inDialogue(t *testing.T, settings tcpclient.Dialer, test func(t *testing.T, d *dialogue)) {
	t.Helper()
	inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
		settings := settings
		settings.Correlator, settings.More = k, more
		c, p := testkit.ConnectMemory(t, settings)
		test(t, &dialogue{c: c, p: p, id: header})
	})
}

func TestCallWithMore(t *testing.T) {
	t.Run("returns all replies, one after the other", func(t *testing.T) { // B3
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			first := startCall(t, t.Context(), d.c, d.id+"search")
			second := startCall(t, t.Context(), d.c, d.id+"other")
			require.Equal(t, "search", d.receive())
			id := d.last[:len(d.id)]
			d.send("row 1,", "", "row 2,")
			require.Equal(t, 2, d.c.Stats().InFlight)
			d.send("end")
			reply, err := first()
			require.NoError(t, err)
			require.Equal(t, id+"row 1,"+id+id+"row 2,"+id+"end", reply)
			require.Equal(t, "other", d.receive())
			d.send("end")
			reply, err = second()
			require.NoError(t, err)
			require.Equal(t, d.last[:len(d.id)]+"end", reply)
			require.Zero(t, d.c.Stats().InFlight)
			require.EqualValues(t, 5, d.c.Stats().MessagesReceived)
		})
	})

	t.Run("above Inbox ends with ErrInboxFull, the rest is late, and the connection lives", func(t *testing.T) { // P6
		rec := testkit.NewRecorder()
		inDialogue(t, tcpclient.Dialer{Inbox: 1000, MaxInFlight: 1, Trace: rec.Trace()}, func(t *testing.T, d *dialogue) {
			before := len(lateReplies(rec))
			call := startCall(t, t.Context(), d.c, d.id+"search")
			d.receive()
			row := strings.Repeat("r", 400-len(d.id))
			d.send(row, row)
			d.send(strings.Repeat("r", 201-len(d.id)))
			_, err := call()
			require.ErrorIs(t, err, tcpclient.ErrInboxFull)
			require.ErrorContains(t, err, "the replies to one Call")
			require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
			require.False(t, testkit.OpError(t, err).Unsent)
			next := startCall(t, t.Context(), d.c, d.id+"next")
			require.Equal(t, 1, d.c.Stats().InFlight, "the rest of the first is to come")
			d.send("row", "end")
			require.Len(t, lateReplies(rec), before+2)
			require.EqualValues(t, 2, d.c.Stats().LateReplies)
			require.Equal(t, "next", d.receive())
			d.send("row", "end")
			_, err = next()
			require.NoError(t, err)
		})
	})

	t.Run("takes a single reply above Inbox, and several of just so much", func(t *testing.T) {
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			for _, rows := range [][]string{
				{strings.Repeat("r", 5000) + "end"},
				{strings.Repeat("r", 400), strings.Repeat("r", 600-2*len(d.id)-3) + "end"},
				{"", strings.Repeat("r", 1000-2*len(d.id)-3) + "end"},
			} {
				call := startCall(t, t.Context(), d.c, d.id+"search")
				d.receive()
				d.send(rows...)
				_, err := call()
				require.NoError(t, err)
			}
		})
	})

	t.Run("given up in the middle keeps its place until the last reply, each of which is late", func(t *testing.T) { // B2, B4
		rec := testkit.NewRecorder()
		inDialogue(t, tcpclient.Dialer{MaxInFlight: 1, Trace: rec.Trace()}, func(t *testing.T, d *dialogue) {
			before := len(lateReplies(rec))
			ctx, cancel := context.WithCancel(t.Context())
			call := startCall(t, ctx, d.c, d.id+"search")
			d.receive()
			d.send("row 1")
			cancel()
			_, err := call()
			require.ErrorIs(t, err, context.Canceled)
			require.False(t, testkit.OpError(t, err).Unsent)
			next := startCall(t, t.Context(), d.c, d.id+"next")
			d.send("row 2", "row 3")
			require.EqualValues(t, 1, d.c.Stats().MessagesSent, "next waits for its place")
			d.send("end")
			require.Len(t, lateReplies(rec), before+3)
			require.Equal(t, "next", d.receive())
			d.send("end")
			_, err = next()
			require.NoError(t, err)
		})
	})

	t.Run("lost in the middle is no reply, and not Unsent", func(t *testing.T) { // P4
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			call := startCall(t, t.Context(), d.c, d.id+"search")
			d.receive()
			d.send("row")
			d.p.Close()
			reply, err := call()
			require.Empty(t, reply)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, testkit.OpError(t, err).Unsent)
		})
	})

	t.Run("each reply gives the request all of ReplyTimeout again", func(t *testing.T) { // P5
		inDialogue(t, tcpclient.Dialer{ReplyTimeout: 10 * time.Second}, func(t *testing.T, d *dialogue) {
			call := startCall(t, t.Context(), d.c, d.id+"search")
			d.receive()
			for range 5 {
				time.Sleep(9 * time.Second)
				d.send("row")
			}
			began := time.Now()
			_, err := call()
			require.ErrorIs(t, err, tcpclient.ErrReplyTimeout)
			require.Equal(t, 10*time.Second, time.Since(began))
		})
	})

	t.Run("so it does for one that was given up", func(t *testing.T) { // P5, B1
		for _, timeout := range []time.Duration{0, 10 * time.Second} { // 0: the rule of 10 s
			inDialogue(t, tcpclient.Dialer{ReplyTimeout: timeout, MaxInFlight: 1}, func(t *testing.T, d *dialogue) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				call := startCall(t, ctx, d.c, d.id+"search")
				d.receive()
				for i := range 10 {
					time.Sleep(9 * time.Second)
					d.send("row")
					if i == 5 {
						cancel()
						call()
					}
				}
				began := time.Now()
				_, err := d.c.Receive(t.Context())
				require.ErrorIs(t, err, tcpclient.ErrReplyTimeout)
				require.Equal(t, 10*time.Second, time.Since(began))
			})
		}
	})

	t.Run("Shutdown waits for all of them", func(t *testing.T) { // P7
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			call := startCall(t, t.Context(), d.c, d.id+"search")
			d.receive()
			d.send("row")
			down := testkit.Start(t, func() error { return d.c.Shutdown(t.Context()) })
			time.Sleep(time.Minute)
			d.send("row", "end")
			_, err := call()
			require.NoError(t, err)
			_, err = d.p.Next()
			require.Error(t, err, "FIN")
			d.p.Close()
			require.NoError(t, down())
		})
	})
}
