package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

	t.Run("above Inbox counts ReplyTimeout from the last reply", func(t *testing.T) { // P5
		inDialogue(t, tcpclient.Dialer{Inbox: 1000, ReplyTimeout: 10 * time.Second}, func(t *testing.T, d *dialogue) {
			call := startCall(t, t.Context(), d.c, d.id+"search")
			d.receive()
			row := strings.Repeat("r", 600)
			d.send(row)
			time.Sleep(9 * time.Second)
			d.send(row)
			_, err := call()
			require.ErrorIs(t, err, tcpclient.ErrInboxFull)
			time.Sleep(9 * time.Second)
			d.send(row)
			time.Sleep(9 * time.Second)
			require.Equal(t, 1, d.c.Stats().InFlight)
			d.send("end")
			require.Zero(t, d.c.Stats().InFlight)
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

// rows begins a loop over the replies to request, which was sent when it returns. The loop takes the first
// row as soon as that comes. next returns
// a row without its id, or in the end an error; nil after the last row. stop breaks out of the loop.
func (d *dialogue) rows(t *testing.T, ctx context.Context, request string) (next func() (string, error), stop func()) {
	t.Helper()
	type step struct {
		row string
		err error
	}
	steps, goOn := make(chan step), make(chan bool)
	mayGoOn := func() bool {
		select {
		case ok := <-goOn:
			return ok
		case <-t.Context().Done(): // the test has failed
			return false
		}
	}
	go func() {
		defer close(steps)
		for row, err := range d.c.Replies(ctx, []byte(d.id+request)) {
			if !mayGoOn() {
				return
			}
			if err != nil {
				row = []byte(d.id)
			}
			steps <- step{string(row[len(d.id):]), err}
		}
		mayGoOn()
	}()
	synctest.Wait()
	next = func() (string, error) {
		select {
		case goOn <- true:
		case <-steps: // the loop is over
		}
		s := <-steps
		return s.row, s.err
	}
	stop = func() {
		goOn <- false
		synctest.Wait()
	}
	return next, stop
}

// requireRows reads rows with next.
func requireRows(t *testing.T, next func() (string, error), rows ...string) {
	t.Helper()
	for _, want := range rows {
		if row, err := next(); err != nil || row != want {
			require.NoError(t, err)
			require.Equal(t, want, row)
		}
	}
}

// requireLast reads the end of a loop with next, which is that of a request that was sent.
func requireLast(t *testing.T, next func() (string, error), want error) {
	t.Helper()
	row, err := next()
	require.Empty(t, row)
	require.ErrorIs(t, err, want)
	require.Equal(t, "call", testkit.OpError(t, err).Op)
	require.False(t, testkit.OpError(t, err).Unsent)
	row, err = next()
	require.NoError(t, err, "an error is the last")
	require.Empty(t, row)
}

func TestReplies(t *testing.T) {
	t.Run("yields each reply, until More says that there is no other", func(t *testing.T) { // B3
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			call := startCall(t, t.Context(), d.c, d.id+"call")
			other, _ := d.rows(t, t.Context(), "other")
			require.Equal(t, "search", d.receive())
			d.send("row 1", "", "row 2", "end")
			require.Equal(t, 2, d.c.Stats().InFlight)
			require.Equal(t, 3*(64+len(d.id))+8, d.c.Stats().InboxBytes, "the loop has row 1 in hand")
			require.Equal(t, "call", d.receive())
			d.send("row 3", "end")
			require.Equal(t, "other", d.receive())
			d.send("end")
			requireRows(t, other, "end")
			_, err := call()
			require.NoError(t, err)
			requireRows(t, next, "row 1", "", "row 2", "end", "")
			requireRows(t, other, "")
			require.Zero(t, d.c.Stats().InboxBytes)
			require.Zero(t, d.c.Stats().InFlight)
			require.EqualValues(t, 7, d.c.Stats().MessagesReceived)
		})
	})

	t.Run("yields one reply without More", func(t *testing.T) {
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k})
			go p.Echo()
			n := 0
			for reply, err := range c.Replies(t.Context(), []byte(header+"request")) {
				require.NoError(t, err)
				require.Equal(t, "request", string(reply[len(header):]))
				n++
			}
			require.Equal(t, 1, n)
		})
	})

	t.Run("yields an empty reply that is not nil", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		go p.Echo()
		for reply, err := range c.Replies(t.Context(), nil) {
			require.NoError(t, err)
			require.Equal(t, []byte{}, reply)
		}
	}))

	t.Run("each loop sends the request once", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		replies := c.Replies(t.Context(), []byte("request"))
		p.RequireSilence(time.Second)
		go p.Echo()
		for i := range 3 {
			for _, err := range replies {
				require.NoError(t, err)
			}
			synctest.Wait() // the reply may come before the helper has counted the request
			require.EqualValues(t, i+1, c.Stats().MessagesSent)
		}
	}))

	t.Run("breaking out gives the request up: its replies are late, and its place is free after the last", func(t *testing.T) { // B4
		rec := testkit.NewRecorder()
		inDialogue(t, tcpclient.Dialer{MaxInFlight: 1, Trace: rec.Trace()}, func(t *testing.T, d *dialogue) {
			before := len(lateReplies(rec))
			next, stop := d.rows(t, t.Context(), "search")
			d.receive()
			d.send("row 1", "row 2", "row 3", "row 4")
			requireRows(t, next, "row 1")
			stop()
			require.Zero(t, d.c.Stats().InboxBytes)
			require.Zero(t, d.c.Stats().LateReplies, "what was not read had come in time")
			call := startCall(t, t.Context(), d.c, d.id+"next")
			d.send("row 5", "row 6")
			require.EqualValues(t, 1, d.c.Stats().MessagesSent)
			d.send("end")
			require.Equal(t, "next", d.receive())
			d.send("end")
			_, err := call()
			require.NoError(t, err)
			require.Len(t, lateReplies(rec), before+3)
			require.EqualValues(t, 3, d.c.Stats().LateReplies)
		})
	})

	t.Run("a panic in the loop gives the request up", func(t *testing.T) {
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			go func() {
				d.receive()
				d.p.Send(d.last[:len(d.id)]+"row", d.last[:len(d.id)]+"row", d.last[:len(d.id)]+"end")
			}()
			require.PanicsWithValue(t, "in the loop", func() {
				for range d.c.Replies(t.Context(), []byte(d.id+"search")) {
					panic("in the loop")
				}
			})
			synctest.Wait()
			require.Zero(t, d.c.Stats().InboxBytes)
			require.Zero(t, d.c.Stats().InFlight)
			down := testkit.Start(t, func() error { return d.c.Shutdown(t.Context()) })
			d.p.All()
			d.p.Close()
			require.NoError(t, down())
		})
	})

	t.Run("the end of its context is the last, at once, and gives the request up", func(t *testing.T) { // P2
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			for _, read := range []int{0, 1, 3} { // of three rows
				ctx, cancel := context.WithCancel(t.Context())
				next, _ := d.rows(t, ctx, "search")
				d.receive()
				d.send("row", "row", "row")
				for range read {
					requireRows(t, next, "row")
				}
				synctest.Wait() // and waits for a fourth
				cancel()
				if read < 3 {
					requireRows(t, next, "row") // which the loop had in hand
				}
				requireLast(t, next, context.Canceled)
				require.Zero(t, d.c.Stats().InboxBytes)
				require.Equal(t, 1, d.c.Stats().InFlight)
				d.send("end")
				require.Zero(t, d.c.Stats().InFlight)
			}
			require.EqualValues(t, 3, d.c.Stats().LateReplies)
		})
	})

	t.Run("with a context that is done sends nothing", testkit.InBubble(func(t *testing.T) { // P2
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		n := 0
		for reply, err := range c.Replies(testkit.Canceled(t), []byte("request")) {
			require.Nil(t, reply)
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, testkit.OpError(t, err).Unsent)
			n++
		}
		require.Equal(t, 1, n)
		p.RequireSilence(time.Second)
	}))

	t.Run("the end of its connection comes after what has arrived", func(t *testing.T) { // P1, P4
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			d.send("row 1", "row 2", "row 3")
			requireRows(t, next, "row 1")
			d.p.Close()
			time.Sleep(time.Minute)
			requireRows(t, next, "row 2", "row 3")
			requireLast(t, next, tcpclient.ErrDisconnected)
			require.Zero(t, d.c.Stats().InboxBytes)
		})
	})

	t.Run("is not Unsent once a reply has come, whatever was written", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectNarrow(t, 100, tcpclient.Dialer{More: more})
		d := &dialogue{c: c, p: p}
		send := testkit.Start(t, func() error { return c.Send(t.Context(), make([]byte, 10000)) }) // is stuck
		synctest.Wait()
		next, _ := d.rows(t, t.Context(), "search")
		call := startCall(t, t.Context(), c, "other")
		d.send("row")
		requireRows(t, next, "row")
		p.Reset()
		requireLast(t, next, tcpclient.ErrDisconnected)
		_, err := call()
		require.True(t, testkit.OpError(t, err).Unsent)
		require.Error(t, send())
	}))

	t.Run("a request that is refused has one error", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: 10}})
		for _, err := range c.Replies(t.Context(), make([]byte, 11)) {
			require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError))
			require.True(t, testkit.OpError(t, err).Unsent)
		}
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("each reply has ReplyTimeout, in which time for the Inbox does not count", func(t *testing.T) { // P5
		inDialogue(t, tcpclient.Dialer{ReplyTimeout: 10 * time.Second, Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			row := strings.Repeat("r", 600)
			d.send(row, row, row) // the first is in the loop's hands
			time.Sleep(time.Hour) // the third has no room
			requireRows(t, next, row, row, row)
			time.Sleep(9 * time.Second)
			d.send(row)
			requireRows(t, next, row)
			began := time.Now()
			requireLast(t, next, tcpclient.ErrReplyTimeout)
			require.InDelta(t, 10*time.Second, time.Since(began), float64(time.Second))
		})
	})

	t.Run("of a Session ends with its connection", testkit.InBubble(func(t *testing.T) { // B7
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{More: more, Reconnect: &tcpclient.Backoff{}})
		s, err := c.Session()
		require.NoError(t, err)
		go func() { p.Receive(); p.Send("row", "end"); p.Receive(); p.Send("row"); p.Close() }()
		var got []string
		for range 3 {
			for row, err := range s.Replies(t.Context(), []byte("FETCH")) {
				if err != nil {
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
					row = []byte("lost")
				}
				got = append(got, string(row))
			}
		}
		require.Equal(t, []string{"row", "end", "row", "lost", "lost"}, got)
	}))
}

func TestRepliesBackPressure(t *testing.T) {
	t.Run("replies that are not read fill the Inbox, push back, and are all read in the end", func(t *testing.T) { // P6
		inDialogue(t, tcpclient.Dialer{Inbox: 10000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			id := d.last[:len(d.id)]
			rows := testkit.Numbered(500, 200)
			sent := testkit.Start(t, func() error {
				for _, row := range rows {
					if _, err := d.p.Write(testkit.Frame(id + row)); err != nil {
						return err
					}
				}
				_, err := d.p.Write(testkit.Frame(id + "end"))
				return err
			})
			for i, row := range rows {
				switch {
				case i == 50:
					time.Sleep(time.Hour)
				case i%100 == 50:
					time.Sleep(time.Minute) // the reader looks for room all the time
				}
				synctest.Wait()
				held := d.c.Stats().InboxBytes
				require.LessOrEqual(t, held, 10000)
				if i < 400 {
					require.Greater(t, held, 10000-2*(200+len(d.id)+64))
				}
				requireRows(t, next, row)
			}
			requireRows(t, next, "end", "")
			require.NoError(t, sent())
			require.Zero(t, d.c.Stats().InboxBytes)
		})
	})

	t.Run("a reply above the Inbox fits when that is empty", func(t *testing.T) {
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			large := strings.Repeat("r", 100000)
			d.send("row", large, large+"end")
			requireRows(t, next, "row", large, large+"end", "")
		})
	})

	t.Run("a loop that does not read ends others after a second, and not itself", func(t *testing.T) { // P5
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			call := startCall(t, t.Context(), d.c, d.id+"call")
			waits, _ := d.rows(t, t.Context(), "waits")
			began := time.Now()
			for range 6 {
				d.send(strings.Repeat("r", 300))
			}
			_, err := call()
			require.ErrorIs(t, err, tcpclient.ErrInboxFull)
			require.Equal(t, time.Second, time.Since(began))
			requireLast(t, waits, tcpclient.ErrInboxFull)
			time.Sleep(time.Hour)
			for range 6 {
				requireRows(t, next, strings.Repeat("r", 300))
			}
			d.send("end")
			requireRows(t, next, "end", "")
		})
	})

	t.Run("a loop that waits ends when nobody receives the pushes", testkit.InBubble(func(t *testing.T) { // B8
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 1000, IsPush: isPush, More: more})
		d := &dialogue{c: c, p: p}
		next, _ := d.rows(t, t.Context(), "search")
		d.send("row")
		requireRows(t, next, "row")
		began := time.Now()
		for range 20 {
			d.send("> " + strings.Repeat("p", 100))
		}
		requireLast(t, next, tcpclient.ErrInboxFull)
		require.Equal(t, time.Second, time.Since(began))
	}))

	t.Run("messages and replies share the Inbox", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 1000, IsPush: isPush, More: more})
		d := &dialogue{c: c, p: p}
		next, _ := d.rows(t, t.Context(), "search")
		large := strings.Repeat("r", 400)
		d.send("row", ">"+large, large, ">"+large, large) // the last two have no room
		require.Equal(t, 2*(400+64)+1, c.Stats().InboxBytes)
		requireRows(t, next, "row") // which the loop had in hand
		requireRows(t, next, large)
		synctest.Wait()
		require.Equal(t, 2*(400+64)+2, c.Stats().InboxBytes)
		for range 2 {
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
		d.send("end")
		requireRows(t, next, large, "end", "")
		require.Zero(t, c.Stats().InboxBytes)
	}))

	t.Run("given up while its reply waits for room leaves nothing behind", func(t *testing.T) {
		rec := testkit.NewRecorder()
		inDialogue(t, tcpclient.Dialer{Inbox: 1000, Trace: rec.Trace()}, func(t *testing.T, d *dialogue) {
			before := len(lateReplies(rec))
			next, stop := d.rows(t, t.Context(), "search")
			d.receive()
			d.send("first", "second", strings.Repeat("r", 600), strings.Repeat("r", 600), "end")
			requireRows(t, next, "first")
			synctest.Wait() // the loop has the second in hand, the fourth waits
			require.Equal(t, 1, d.c.Stats().InFlight)
			require.Empty(t, lateReplies(rec)[before:])
			stop()
			require.Len(t, lateReplies(rec)[before:], 2)
			require.Zero(t, d.c.Stats().InboxBytes)
			require.Zero(t, d.c.Stats().InFlight)
		})
	})

	t.Run("replies of a connection that ends while one waits for room are all read", func(t *testing.T) { // P1
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			row := strings.Repeat("r", 600)
			d.send(row, row, row)
			d.p.Close()
			time.Sleep(time.Minute)
			requireRows(t, next, row, row, row)
			requireLast(t, next, tcpclient.ErrDisconnected)
		})
	})
}

func TestRepliesAllocations(t *testing.T) { // P12
	if testkit.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, k := range map[string]tcpclient.Correlator{"in order": nil, "by id": tcpclient.IDField{Width: 8}} {
		t.Run(name, func(t *testing.T) {
			const rows = 1000
			c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{
				Correlator:   k,
				More:         func(reply []byte) bool { return reply[len(reply)-1] != '.' },
				ReplyTimeout: time.Minute,
			})
			go func() {
				request, series := make([]byte, 100), []byte(nil)
				for {
					if _, err := io.ReadFull(p, request[:4+8+4]); err != nil {
						return
					}
					series = series[:0]
					for i := range rows {
						request[15] = ','
						if i == rows-1 {
							request[15] = '.'
						}
						series = append(series, request[:16]...)
					}
					if _, err := p.Write(series); err != nil {
						return
					}
				}
			}()
			request := []byte("\x00\x00\x00\x00\x00\x00\x00\x00rows")
			replies := c.Replies(t.Context(), request)
			loop := func() {
				n := 0
				for _, err := range replies {
					if err != nil {
						t.Fatal(err)
					}
					n++
				}
				if n != rows {
					t.Fatalf("%d rows", n)
				}
			}
			for range 20 {
				loop()
			}
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			perLoop := testing.AllocsPerRun(50, loop)
			t.Logf("a loop over %d replies allocates %v times", rows, perLoop)
			require.Less(t, perLoop, 10.0)
		})
	}
}

func TestRepliesEnd(t *testing.T) {
	t.Run("Close drops what was not read", func(t *testing.T) { // P7
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			row := strings.Repeat("r", 300)
			d.send("first", row, row, row, row)
			whole, _ := d.rows(t, t.Context(), "whole")
			require.NoError(t, d.c.Close())
			require.Zero(t, d.c.Stats().InboxBytes)
			requireRows(t, next, "first") // which the loop had in hand
			requireLast(t, next, tcpclient.ErrClosed)
			requireLast(t, whole, tcpclient.ErrClosed)
			require.Zero(t, d.c.Stats().InboxBytes)
		})
	})

	t.Run("Close drops the rest of a series that is complete", func(t *testing.T) { // P7
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			d.send("first", "row", "end")
			require.NoError(t, d.c.Close())
			requireRows(t, next, "first")
			requireLast(t, next, tcpclient.ErrClosed)
		})
	})

	t.Run("Close says that it has dropped replies of a connection that was lost", func(t *testing.T) { // P1, P7
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			part, _ := d.rows(t, t.Context(), "part")
			d.receive()
			d.send("first", "row")
			all, _ := d.rows(t, t.Context(), "all")
			d.receive()
			if d.id != "" { // in order these are replies to the one before
				d.send("only")
				requireRows(t, all, "only")
			}
			d.p.Close()
			synctest.Wait()
			require.NoError(t, d.c.Close())
			requireRows(t, part, "first")
			requireLast(t, part, tcpclient.ErrClosed)
			requireLast(t, all, io.EOF)
		})
	})

	t.Run("Shutdown waits for the last reply, and not for the loop", func(t *testing.T) { // P7
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			row := strings.Repeat("r", 600)
			d.send(row, row, row)
			down := testkit.Start(t, func() error { return d.c.Shutdown(t.Context()) })
			time.Sleep(time.Minute)
			d.send(row, "end")
			_, err := d.p.Next()
			require.Error(t, err, "FIN")
			d.p.Close()
			require.NoError(t, down())
			requireRows(t, next, row, row, row, row, "end", "")
		})
	})

	t.Run("Shutdown is bounded all the same: a loop that does not read ends it with ErrInboxFull", func(t *testing.T) { // P6, P7
		testkit.SkipIfShort(t)
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			down := testkit.Start(t, func() error { return d.c.Shutdown(t.Context()) })
			synctest.Wait()
			row := testkit.Frame(d.last[:len(d.id)] + strings.Repeat("r", 1<<20))
			for range 20 {
				if _, err := d.p.Write(row); err != nil {
					break
				}
			}
			require.ErrorIs(t, down(), tcpclient.ErrInboxFull)
			read := 0
			for {
				row, err := next()
				if err != nil {
					require.ErrorIs(t, err, tcpclient.ErrInboxFull)
					break
				}
				require.Len(t, row, 1<<20)
				read++
			}
			require.InDelta(t, 17, read, 1)
		})
	})

	t.Run("Shutdown does not wait for a series that was given up", func(t *testing.T) { // P7
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			next, stop := d.rows(t, t.Context(), "search")
			d.receive()
			d.send("row", "row")
			requireRows(t, next, "row")
			stop()
			down := testkit.Start(t, func() error { return d.c.Shutdown(t.Context()) })
			_, err := d.p.Next()
			require.Error(t, err, "FIN")
			d.p.Close()
			require.NoError(t, down())
		})
	})
}

// A rowServer answers requests with so many rows as they ask for, in order or at random, pushes in
// between, and hangs up now and then.
type rowServer struct {
	header int // bytes of the id
	mu     sync.Mutex
	random *rand.Rand
}

// intN returns a random number.
func (s *rowServer) intN(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

// An asked is a request of which next rows were sent.
type asked struct {
	header     string
	req, n     int
	next, size int
}

// serve answers the requests on conn until the client has hung up, or there were enough.
func (s *rowServer) serve(conn net.Conn) {
	requests := make(chan asked, 1000)
	go func() {
		defer close(requests)
		in := bufio.NewReader(conn)
		for {
			msg, err := (tcpclient.LengthPrefix{}).ReadFrame(in, nil)
			if err != nil {
				return
			}
			a := asked{header: string(msg[:s.header])}
			fmt.Sscanf(string(msg[s.header:]), "%d %d %d", &a.req, &a.n, &a.size)
			requests <- a
		}
	}()
	defer conn.Close()
	var open []asked
	for left := 100 + s.intN(1500); left > 0; left-- {
		for len(open) == 0 || len(requests) > 0 {
			a, ok := <-requests
			if !ok && len(open) == 0 {
				return
			}
			if !ok {
				break
			}
			open = append(open, a)
		}
		i := 0
		if s.header > 0 {
			i = s.intN(len(open))
		}
		a := &open[i]
		out := testkit.Frame(fmt.Sprintf("%s%d/%d/%d/%s;", a.header, a.req, a.next, a.n, strings.Repeat("r", s.intN(a.size+1))))
		if s.intN(10) == 0 {
			out = testkit.AppendFrame(out, a.header+"> push")
		}
		if a.next++; a.next == a.n {
			open = append(open[:i], open[i+1:]...)
		}
		if s.intN(20) == 0 {
			time.Sleep(time.Duration(s.intN(50)) * time.Millisecond)
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// moreRows is what More is for a rowServer.
func moreRows(reply []byte) bool {
	_, i, n := parseRow(reply)
	return i+1 < n
}

// parseRow returns the request of a row, its number, and how many there are.
func parseRow(row []byte) (req, i, n int) {
	text := string(row)
	if at := strings.IndexByte(text, ';'); at != len(text)-1 {
		return -1, 0, 0 // torn, or more than one
	}
	var numbers [3]int
	for i := range numbers {
		digits, rest, whole := strings.Cut(text, "/")
		number, err := strconv.Atoi(digits)
		if !whole || err != nil {
			return -1, 0, 0
		}
		numbers[i], text = number, rest
	}
	return numbers[0], numbers[1], numbers[2]
}

// A rowModel knows what became of each request.
type rowModel struct {
	mu   sync.Mutex
	read map[int]int // rows read of those that were given up
}

func (m *rowModel) gaveUp(req, read int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read[req] = read
}

// work makes requests, and checks that each gets its own rows, all of them and in order.
func (m *rowModel) work(t *testing.T, c *tcpclient.Client, requests []int, random *rand.Rand) {
	for _, req := range requests {
		n := 1 + random.IntN(1<<random.IntN(6))
		request := fmt.Appendf(nil, "%d %d %d", req, n, random.IntN(500))
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+random.IntN(3000))*time.Millisecond)
		next := 0
		check := func(row []byte) {
			gotReq, i, gotN := parseRow(row)
			assert.Equal(t, []int{req, next, n}, []int{gotReq, i, gotN})
			next++
		}
		var end error
		if random.IntN(4) == 0 {
			var reply []byte
			reply, end = c.Call(ctx, request)
			for _, row := range bytes.SplitAfter(reply, []byte(";")) {
				if len(row) > 0 {
					check(row)
				}
			}
		} else {
			stop := -1
			if random.IntN(4) == 0 {
				stop = random.IntN(n)
			}
			for row, err := range c.Replies(ctx, request) {
				if end = err; err != nil {
					break
				}
				check(row)
				if next == stop {
					end = errors.New("had enough")
					break
				}
				if random.IntN(10) == 0 {
					time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				}
			}
		}
		cancel()
		if end == nil {
			assert.Equal(t, n, next, "rows of request %d", req)
		} else {
			m.gaveUp(req, next)
		}
	}
}

// Random series interleaved among many requests, given up in the middle, connections lost in the
// middle: what a loop reads are the rows of its own request, each once and in order. What comes for
// one that was given up is late, and nothing stays behind.
func TestRepliesModel(t *testing.T) { // P1, P4, P6, B3, B4
	for seed := range uint64(testkit.Rounds(8)) {
		for name, k := range map[string]tcpclient.Correlator{"in order": nil, "by id": tcpclient.IDPrefix{}} {
			t.Run(fmt.Sprint(name, " seed ", seed), testkit.InBubble(func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 14))
				rec := testkit.NewRecorder()
				server := &rowServer{random: rand.New(rand.NewPCG(seed, 15))}
				if k != nil {
					server.header = 8
				}
				l := testkit.ListenMemory(t)
				l.Each(server.serve)
				c := l.Dial(t, tcpclient.Dialer{
					Correlator: k, IsPush: isPush, More: moreRows, Trace: rec.Trace(),
					Inbox: 1000 << random.IntN(8), MaxInFlight: []int{0, 1, 3}[random.IntN(3)],
					Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
				})
				received := testkit.Start(t, func() error {
					for {
						msg, err := c.Receive(t.Context())
						switch {
						case err != nil && !errors.Is(err, tcpclient.ErrDisconnected):
							return err
						case err == nil && !isPush(msg):
							return fmt.Errorf("received %.40q", msg)
						}
					}
				})
				m := &rowModel{read: make(map[int]int)}
				var workers sync.WaitGroup
				for w := range 10 {
					own := rand.New(rand.NewPCG(seed, uint64(w)))
					workers.Go(func() {
						requests := make([]int, 20)
						for i := range requests {
							requests[i] = 100*w + i
						}
						m.work(t, c, requests, own)
					})
				}
				workers.Wait()
				if err := c.Shutdown(testkit.Within(t, time.Minute)); err != nil {
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				}
				require.ErrorIs(t, received(), tcpclient.ErrClosed)
				stats := c.Stats()
				require.Zero(t, stats.InboxBytes)
				require.Zero(t, stats.InFlight)
				late := lateReplies(rec)
				require.EqualValues(t, stats.LateReplies, len(late))
				m.requireLate(t, late)
			}))
		}
	}
}

// requireLate checks that late rows are of requests that were given up, and none of them was read.
func (m *rowModel) requireLate(t *testing.T, late []string) {
	t.Helper()
	last := make(map[int]int)
	for _, row := range late {
		req, i, _ := parseRow([]byte(row))
		read, gaveUp := m.read[req]
		require.True(t, gaveUp, "late row %.40q", row)
		require.GreaterOrEqual(t, i, max(read, last[req]), "late row %.40q", row)
		last[req] = i + 1
	}
}

func TestRepliesThatAreAllRead(t *testing.T) {
	for name, end := range map[string]func(c *tcpclient.Client, cancel func()){
		"Close":                  func(c *tcpclient.Client, _ func()) { c.Close() },
		"the end of its context": func(_ *tcpclient.Client, cancel func()) { cancel() },
	} {
		t.Run("a loop that has read all replies ends without an error after "+name, func(t *testing.T) { // P2, P7
			inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { d.receive(); d.p.Send(d.last[:len(d.id)]+"row", d.last[:len(d.id)]+"end") }()
				var got []string
				for row, err := range d.c.Replies(ctx, []byte(d.id+"search")) {
					require.NoError(t, err, "after %q", got)
					got = append(got, string(row[len(d.id):]))
					if len(got) == 2 {
						end(d.c, cancel)
					}
				}
				require.Equal(t, []string{"row", "end"}, got)
			})
		})
	}
}

func TestCallWithMoreGivenUp(t *testing.T) {
	t.Run("a Call that was given up in the middle returns no part of the reply", func(t *testing.T) { // P2, B3
		inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
			ctx, cancel := context.WithCancel(t.Context())
			call := startCall(t, ctx, d.c, d.id+"search")
			d.receive()
			d.send("row 1")
			cancel()
			reply, err := call()
			require.ErrorIs(t, err, context.Canceled)
			require.Empty(t, reply)
		})
	})
}

func TestRepliesToARefusedRequest(t *testing.T) {
	t.Run("a request that is refused after a reply to it came leaves nothing in the Inbox", testkit.InBubble(func(t *testing.T) { // P6
		inWrite, goOn := make(chan struct{}), make(chan struct{})
		framer := testkit.FuncFramer{
			Read: tcpclient.LengthPrefix{}.ReadFrame,
			Write: func(w *bufio.Writer, msg []byte) error {
				if string(msg) == "bad" {
					close(inWrite)
					<-goOn
					return errors.New("refused")
				}
				return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
			},
		}
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: framer, Inbox: 1000})
		loop := testkit.Start(t, func() (last error) {
			for _, err := range c.Replies(t.Context(), []byte("bad")) {
				last = err
			}
			return last
		})
		<-inWrite
		p.Send("not asked for")
		synctest.Wait()
		close(goOn)
		require.ErrorContains(t, loop(), "refused")
		synctest.Wait()
		require.Zero(t, c.Stats().InboxBytes)
		require.Zero(t, c.Stats().InFlight)
	}))
}

func TestRepliesGivenUpHoldNobodyUp(t *testing.T) {
	t.Run("a reply that no loop waits for any more does not wait for room", func(t *testing.T) { // B3
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, Inbox: 1000, IsPush: isPush, More: more})
			d := &dialogue{c: c, p: p, id: header}
			ctx, cancel := context.WithCancel(t.Context())
			next, _ := d.rows(t, ctx, "search")
			d.receive()
			d.send("> " + strings.Repeat("p", 600)) // there is room for it
			d.send(strings.Repeat("r", 600))        // and not for this
			cancel()
			requireLast(t, next, context.Canceled)
			go func() { // the server goes on
				p.Send(d.last[:len(d.id)] + "end")
				d.receive()
				p.Send(d.last[:len(d.id)] + "end")
			}()
			_, err := c.Call(t.Context(), []byte(header+"call"))
			require.NoError(t, err, "there is room for all that anybody waits for")
		})
	})

	t.Run("nor after ErrInboxFull", func(t *testing.T) { // B3
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, Inbox: 1000, IsPush: isPush, More: more})
			d := &dialogue{c: c, p: p, id: header}
			next, _ := d.rows(t, t.Context(), "search")
			d.receive()
			d.send("> " + strings.Repeat("p", 600)) // there is room for it
			d.send(strings.Repeat("r", 600))        // and not for this
			requireLast(t, next, tcpclient.ErrInboxFull)
			go func() {
				p.Send(d.last[:len(d.id)] + "end")
				d.receive()
				p.Send(d.last[:len(d.id)] + "end")
			}()
			_, err := c.Call(t.Context(), []byte(header+"call"))
			require.NoError(t, err, "there is room for all that anybody waits for")
		})
	})
}

func TestStarvationInASeries(t *testing.T) {
	t.Run("the 10 s count from the last reply, not from when the request was given up", func(t *testing.T) { // P5, B1
		inDialogue(t, tcpclient.Dialer{MaxInFlight: 1}, func(t *testing.T, d *dialogue) {
			ctx, cancel := context.WithCancel(t.Context())
			call := startCall(t, ctx, d.c, d.id+"search")
			d.receive()
			time.Sleep(5 * time.Second)
			d.send("row")
			began := time.Now()
			time.Sleep(8 * time.Second)
			cancel()
			call()
			_, err := d.c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrReplyTimeout)
			require.Equal(t, 10*time.Second, time.Since(began))
		})
	})
}

func TestCallInALoopOverReplies(t *testing.T) {
	t.Run("a Call in the body of a loop, with MaxInFlight 1", func(t *testing.T) {
		inDialogue(t, tcpclient.Dialer{MaxInFlight: 1, Inbox: 1000}, func(t *testing.T, d *dialogue) {
			go func() {
				d.receive()
				id := d.last[:len(d.id)]
				for range 10 {
					d.p.Send(id + strings.Repeat("r", 300))
				}
				d.p.Send(id + "end")
				d.receive()
				d.p.Send(d.last[:len(d.id)] + "end")
			}()
			n := 0
			for _, err := range d.c.Replies(t.Context(), []byte(d.id+"search")) {
				require.NoError(t, err)
				if n++; n == 1 {
					began := time.Now()
					_, err := d.c.Call(t.Context(), []byte(d.id+"nested"))
					require.ErrorIs(t, err, tcpclient.ErrInboxFull)
					require.True(t, testkit.OpError(t, err).Unsent)
					require.InDelta(t, time.Second, time.Since(began), float64(300*time.Millisecond))
				}
				if n == 11 {
					_, err := d.c.Call(t.Context(), []byte(d.id+"nested"))
					require.NoError(t, err)
				}
			}
			require.Equal(t, 11, n)
			require.Zero(t, d.c.Stats().InboxBytes)
		})
	})
}

func TestRepliesOnASmallInbox(t *testing.T) { // P1, P6
	for seed := range uint64(testkit.Rounds(60)) {
		t.Run(fmt.Sprint("seed ", seed), testkit.InBubble(func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 77))
			l := testkit.ListenMemory(t)
			server := &rowServer{random: rand.New(rand.NewPCG(seed, 78)), header: 8}
			l.Each(server.serve)
			d := tcpclient.Dialer{
				Correlator: tcpclient.IDPrefix{}, IsPush: isPush, More: moreRows, ReplyTimeout: time.Duration(random.IntN(2)) * 5 * time.Second,
				Inbox: 100 + random.IntN(1000), MaxInFlight: []int{0, 1, 2, 5}[random.IntN(4)],
				Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
			}
			if random.IntN(2) == 0 {
				d.Correlator, server.header = nil, 0
			}
			c := l.Dial(t, d)
			stop, cancelReceive := context.WithCancel(t.Context())
			received := testkit.Start(t, func() error {
				for {
					if _, err := c.Receive(stop); err != nil && !errors.Is(err, tcpclient.ErrDisconnected) {
						return err
					}
					time.Sleep(time.Duration(rand.IntN(3)*rand.IntN(700)) * time.Millisecond)
				}
			})
			var workers sync.WaitGroup
			for w := range 8 {
				own := rand.New(rand.NewPCG(seed, uint64(w)))
				workers.Go(func() {
					for i := range 15 {
						req := 100*w + i
						n := 1 + own.IntN(30)
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+own.IntN(4000))*time.Millisecond)
						next, stopAt := 0, own.IntN(60)
						for row, err := range c.Replies(ctx, fmt.Appendf(nil, "%d %d %d", req, n, 1500)) {
							if b := c.Stats().InboxBytes; b < 0 {
								t.Errorf("InboxBytes %d", b)
							}
							if err != nil {
								break
							}
							gotReq, at, gotN := parseRow(row)
							if gotReq != req || at != next || gotN != n {
								assert.Equal(t, []int{req, next, n}, []int{gotReq, at, gotN})
							}
							if next++; next == stopAt {
								break
							}
							if own.IntN(8) == 0 {
								time.Sleep(time.Duration(own.IntN(1500)) * time.Millisecond)
							}
							if own.IntN(10) == 0 {
								c.Call(ctx, fmt.Appendf(nil, "%d %d %d", req, 3, 1500))
							}
						}
						cancel()
					}
				})
			}
			workers.Wait()
			cancelReceive()
			received()
			end := testkit.Start(t, func() error { return c.Shutdown(testkit.Within(t, time.Minute)) })
			for err := error(nil); !errors.Is(err, tcpclient.ErrClosed); {
				_, err = c.Receive(t.Context())
			}
			end()
			require.Zero(t, c.Stats().InboxBytes)
			require.Zero(t, c.Stats().InFlight)
		}))
	}
}

func TestRepliesAndGoexit(t *testing.T) {
	inDialogue(t, tcpclient.Dialer{}, func(t *testing.T, d *dialogue) {
		go func() {
			for range d.c.Replies(t.Context(), []byte(d.id+"search")) {
				runtime.Goexit()
			}
		}()
		d.receive()
		d.send("row")
		d.send("row")
		require.Zero(t, d.c.Stats().InboxBytes)
		require.Equal(t, 1, d.c.Stats().InFlight)
		d.send("end")
		require.Zero(t, d.c.Stats().InFlight)
		require.EqualValues(t, 2, d.c.Stats().LateReplies)
	})
}

func TestRepliesMemory(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Run("a loop that waits does not keep what large replies have needed", testkit.InBubble(func(t *testing.T) { // P6, E2
		const size = 2 << 20
		loops := 20
		if testkit.RaceEnabled { // which takes its time with each byte
			loops = 10 // the least that would be too much, of 256 KiB each
		}
		large := make([]byte, 4+8+size)
		binary.BigEndian.PutUint32(large, 8+size)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, More: more, Inbox: 256 << 10})
		before := testkit.MemoryInUse()
		for range loops {
			go func() {
				for range c.Replies(t.Context(), []byte("search")) {
				}
			}()
			id := p.Receive()[:8]
			copy(large[4:], id)
			p.Raw(large)
			p.Raw(large)
			p.Send(id+"small", id+"small")
			synctest.Wait()
		}
		for range 10 {
			runtime.GC()
		}
		require.Zero(t, c.Stats().InboxBytes)
		require.Less(t, testkit.MemoryInUse()-before, int64(8*256<<10), "%d loops", loops)
		runtime.KeepAlive(large)
	}))

	t.Run("a few replies of 4 MiB, then 2000 small ones", testkit.InBubble(func(t *testing.T) { // P6, E2
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{More: more})
		large := testkit.Frame(strings.Repeat("r", 4<<20))
		before := testkit.MemoryInUse()
		go func() {
			for range c.Replies(t.Context(), []byte("search")) {
			}
		}()
		require.Equal(t, "search", p.Receive())
		for range 3 {
			p.Raw(large)
			synctest.Wait()
		}
		p.Send(testkit.Numbered(2000, 20)...)
		synctest.Wait()
		require.EqualValues(t, 2003, c.Stats().MessagesReceived)
		require.Less(t, testkit.MemoryInUse()-before, int64(1<<20))
		runtime.KeepAlive(large)
	}))
}

func TestCallWithTooManyReplies(t *testing.T) {
	t.Run("a Call with too many replies leaves ReplyTimeout to rule", func(t *testing.T) { // P5
		inDialogue(t, tcpclient.Dialer{Inbox: 1000, ReplyTimeout: 10 * time.Second}, func(t *testing.T, d *dialogue) {
			call := startCall(t, t.Context(), d.c, d.id+"search")
			d.receive()
			for range 3 {
				d.send(strings.Repeat("r", 400))
			}
			began := time.Now()
			_, err := call()
			require.ErrorIs(t, err, tcpclient.ErrInboxFull)
			_, err = d.c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrReplyTimeout)
			require.Equal(t, 10*time.Second, time.Since(began))
		})
	})
}

func TestRepliesGivenUpBeforeTheyAreWritten(t *testing.T) {
	t.Run("a loop that was given up before its request was written counts as lost", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectNarrow(t, 100, tcpclient.Dialer{More: more})
		send := testkit.Start(t, func() error { return c.Send(t.Context(), make([]byte, 10000)) }) // is stuck
		synctest.Wait()
		d := &dialogue{c: c, p: p}
		ctx, cancel := context.WithCancel(t.Context())
		next, _ := d.rows(t, ctx, "search")
		cancel()
		requireLast(t, next, context.Canceled)
		p.Reset()
		require.Error(t, send())
		synctest.Wait()
		err := c.Send(t.Context(), nil)
		var loss *tcpclient.LossError
		require.ErrorAs(t, err, &loss)
		require.Equal(t, 1, loss.Messages)
	}))
}

func TestManyChosenIDsGivenUp(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Run("no request with a chosen id is forgotten, however many are given up", testkit.InBubble(func(t *testing.T) { // B5
		d := tcpclient.Dialer{Correlator: numbered{tcpclient.IDField{Width: 8}}}
		places := 1 << 16
		if testkit.RaceEnabled { // which takes its time with each of them
			places = 1 << 12
			d.MaxInFlight = places
		}
		c, p := testkit.ConnectMemory(t, d)
		go func() {
			for {
				if _, err := p.Next(); err != nil {
					return
				}
			}
		}()
		request := func(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for id := range uint64(places) {
			all.Go(func() { c.Call(ctx, request(id+1)) })
		}
		synctest.Wait()
		require.Equal(t, places, c.Stats().InFlight)
		cancel()
		all.Wait()
		require.Equal(t, places, c.Stats().InFlight)

		const purchase = 1 << 20
		for range 2 {
			_, err := c.Call(testkit.Within(t, time.Second), request(purchase))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.True(t, testkit.OpError(t, err).Unsent, "it waits for a place, and for its id with that")
		}
	}))
}

func TestTwoLoopsOverReplies(t *testing.T) {
	t.Run("a slow loop does not hold up Calls for the reply to another that was given up", func(t *testing.T) { // B3
		inDialogue(t, tcpclient.Dialer{Inbox: 1000}, func(t *testing.T, d *dialogue) {
			slow, _ := d.rows(t, t.Context(), "slow")
			d.receive()
			d.send("row", strings.Repeat("r", 600)+"end") // complete, and not read yet
			ctx, cancel := context.WithCancel(t.Context())
			other, _ := d.rows(t, ctx, "other")
			d.receive()
			d.send(strings.Repeat("r", 600)) // has no room
			cancel()
			requireLast(t, other, context.Canceled)
			go func() {
				d.p.Send(d.last[:len(d.id)] + "end")
				d.receive()
				d.p.Send(d.last[:len(d.id)] + "end")
			}()
			_, err := d.c.Call(t.Context(), []byte(d.id+"call"))
			require.NoError(t, err, "there is room for all that anybody waits for")
			requireRows(t, slow, "row")
		})
	})
}

// A lateRefuser refuses a message, but only after "reply" has been taken in.

// shy has a RequestID that a value of it does not show.

type shy struct{ tcpclient.IDPrefix }

func (*shy) RequestID([]byte) (uint64, bool) { return 7, true }

// numbered takes the first 8 bytes of a request for its id.

type numbered struct{ tcpclient.IDField }

func (n numbered) RequestID(request []byte) (uint64, bool) {
	id, _, ok := n.SplitReply(request)
	return id, ok
}
