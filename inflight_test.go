package tcpclient_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// Requests that are outstanding: how many there may be, and what becomes of replies that come
// late or never.

// giveUp makes a Call in a bubble that gives up as soon as its request was sent.
func giveUp(t *testing.T, c *tcpclient.Client, request string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	call := startCall(t, ctx, c, request)
	cancel()
	_, err := call()
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, testkit.OpError(t, err).Unsent)
}

// inEachOrder runs test in virtual time, once for replies in order and once by id. header is in
// front of what the test is about, in requests and replies.
func inEachOrder(t *testing.T, test func(t *testing.T, k tcpclient.Correlator, header string)) {
	t.Helper()
	for _, k := range []struct {
		name       string
		correlator tcpclient.Correlator
		header     string
	}{
		{"in order", nil, ""},
		{"by id", tcpclient.IDField{Width: 8}, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"by one of 255 ids", tcpclient.IDField{Width: 1}, "\x00"},
	} {
		t.Run(k.name, testkit.InBubble(func(t *testing.T) { test(t, k.correlator, k.header) }))
	}
}

func TestMaxInFlight(t *testing.T) {
	t.Run("limits the requests that the server has", func(t *testing.T) { // B2
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, MaxInFlight: 3})
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					request := fmt.Sprint(header, "request ", i)
					reply, err := c.Call(t.Context(), []byte(request))
					if assert.NoError(t, err) {
						assert.Equal(t, request[len(header):], string(reply[len(header):]))
					}
				})
			}
			for answered := range 20 {
				synctest.Wait()
				require.Equal(t, min(3, 20-answered), c.Stats().InFlight)
				require.EqualValues(t, min(answered+3, 20), c.Stats().MessagesSent)
				p.Send(p.Receive())
			}
			wg.Wait()
			require.Zero(t, c.Stats().InFlight)
		})
	})

	t.Run("counts a request whose Call gave up until its late reply", func(t *testing.T) { // B2
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, MaxInFlight: 1})
			giveUp(t, c, header+"first")
			require.Equal(t, 1, c.Stats().InFlight)
			_, err := c.Call(testkit.Within(t, time.Second), []byte(header+"second"))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.True(t, testkit.OpError(t, err).Unsent)
			third := startCall(t, t.Context(), c, header+"third")
			require.EqualValues(t, 1, c.Stats().MessagesSent)
			p.Send(p.Receive()) // late
			request := p.Receive()
			require.Equal(t, "third", request[len(header):])
			p.Send(request)
			reply, err := third()
			require.NoError(t, err)
			require.Equal(t, request, reply)
			require.Zero(t, c.Stats().InFlight)
		})
	})

	t.Run("above the number of ids changes nothing", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDField{Width: 1}, MaxInFlight: 1000})
		go p.All()
		for range 255 {
			giveUp(t, c, "\x00")
		}
		_, err := c.Call(testkit.Within(t, time.Second), []byte("\x00"))
		require.True(t, testkit.OpError(t, err).Unsent)
		require.Equal(t, 255, c.Stats().InFlight)
	}))

	t.Run("a Call that waits for a place moves to the next connection", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{MaxInFlight: 1, Reconnect: &tcpclient.Backoff{}})
		giveUp(t, c, "lost")
		waits := startCall(t, t.Context(), c, "waits")
		require.NoError(t, p.Close())
		go l.AcceptPeer(t).Echo()
		reply, err := waits()
		require.NoError(t, err)
		require.Equal(t, "waits", reply)
		require.Zero(t, c.Stats().InFlight, "the lost request went with its connection")
	}))

	t.Run("Shutdown does not wait for what was given up", testkit.InBubble(func(t *testing.T) { // P7
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{MaxInFlight: 1})
		giveUp(t, c, "lost")
		waits := startCall(t, t.Context(), c, "waits")
		began := time.Now()
		down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		require.Equal(t, "lost", p.Receive())
		_, err := p.Next()
		require.Error(t, err, "FIN")
		p.Close()
		require.NoError(t, down())
		require.Zero(t, time.Since(began))
		_, err = waits()
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.Zero(t, c.Stats().InFlight)
	}))

	t.Run("a negative one is refused by Dial", func(t *testing.T) {
		_, err := (&tcpclient.Dialer{MaxInFlight: -1}).Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "Dialer.MaxInFlight -1 is negative")
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
}

func TestStatsInboxBytes(t *testing.T) {
	t.Run("is what Receive has not taken, each message its length + 64", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		require.Zero(t, c.Stats().InboxBytes)
		p.Send("12345", "", "123")
		synctest.Wait()
		require.Equal(t, 3*64+8, c.Stats().InboxBytes)
		_, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2*64+3, c.Stats().InboxBytes)
		p.Send("1234")
		synctest.Wait()
		n := 0
		for _, err := range c.Messages(t.Context()) {
			require.NoError(t, err)
			n++
			require.Equal(t, []int{3*64 + 7, 2*64 + 7, 64 + 4, 0}[n], c.Stats().InboxBytes, "after message %d of the loop", n)
			if n == 3 {
				break
			}
		}
		p.Send("dropped")
		synctest.Wait()
		require.NoError(t, c.Close())
		require.Zero(t, c.Stats().InboxBytes)
	}))
}

// lateReplies returns what rec was told of late replies.
func lateReplies(rec *testkit.Recorder) (replies []string) {
	for _, e := range rec.All("LateReply") {
		replies = append(replies, e.Reply)
	}
	return replies
}

func TestTraceLateReply(t *testing.T) {
	t.Run("tells of the reply to a Call that gave up", func(t *testing.T) { // B4
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			rec := testkit.NewRecorder()
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, Trace: rec.Trace()})
			giveUp(t, c, header+"payment")
			request := p.Receive()
			time.Sleep(time.Minute)
			p.Send(request)
			synctest.Wait()
			require.Equal(t, []string{request}, lateReplies(rec), "as SplitReply returned it")
			require.EqualValues(t, 1, c.Stats().LateReplies)
			go p.Echo()
			_, err := c.Call(t.Context(), []byte(header+"another"))
			require.NoError(t, err)
			require.EqualValues(t, 1, c.Stats().LateReplies, "a reply in time is not late")
			require.Len(t, lateReplies(rec), 1)
		})
	})

	t.Run("tells of each reply after the first to one id", testkit.InBubble(func(t *testing.T) { // B3
		rec := testkit.NewRecorder()
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, Trace: rec.Trace()})
		search := startCall(t, t.Context(), c, "search")
		p.Receive()
		p.Send(withID(1, "entry"), withID(1, "another"), withID(1, ""), withID(0, "push"))
		reply, err := search()
		require.NoError(t, err)
		require.Equal(t, "entry", reply)
		synctest.Wait()
		require.Equal(t, []string{"another", ""}, lateReplies(rec))
		require.EqualValues(t, 2, c.Stats().LateReplies)
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, withID(0, "push"), string(msg), "what is no reply is not late")
	}))

	t.Run("gives a copy that may be kept", testkit.InBubble(func(t *testing.T) {
		var kept [][]byte
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{LateReply: func(reply []byte) { kept = append(kept, reply) }}})
		for i := range 3 {
			giveUp(t, c, fmt.Sprint(i))
			p.Send(p.Receive())
			synctest.Wait()
		}
		require.NoError(t, c.Close())
		require.Equal(t, [][]byte{[]byte("0"), []byte("1"), []byte("2")}, kept)
	}))

	t.Run("is counted without a Trace", testkit.InBubble(func(t *testing.T) { // B4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		giveUp(t, c, "payment")
		p.Send(p.Receive())
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().LateReplies)
		require.EqualValues(t, 1, c.Stats().MessagesReceived)
	}))
}
