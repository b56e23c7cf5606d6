package tcpclient_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
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

// loseReplies makes p take requests and answer none. If interval is not 0, it sends an empty message
// as often. wait returns when the stream has ended.
func loseReplies(p *testkit.Peer, interval time.Duration) (wait func()) {
	var running sync.WaitGroup
	if interval > 0 {
		running.Go(func() {
			for {
				time.Sleep(interval)
				if _, err := p.Write(testkit.Frame("")); err != nil {
					return
				}
			}
		})
	}
	running.Go(func() {
		p.All()
		p.Close()
	})
	return running.Wait
}

// drain receives until the Client has ended, and returns why it has.
func drain(t *testing.T, c *tcpclient.Client) (end func() error) {
	return testkit.Start(t, func() error { _, err := testkit.ReceiveAll(t, c); return err })
}

func TestReplyTimeout(t *testing.T) {
	const timeout = 5 * time.Second

	t.Run("ends the connection when a reply has not come for so long", func(t *testing.T) { // P5, B2
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			for _, interval := range []time.Duration{0, 70 * time.Millisecond} {
				c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, ReplyTimeout: timeout})
				if k == nil {
					interval = 0 // there are no pushes
				}
				lost := loseReplies(p, interval)
				ended := drain(t, c)
				time.Sleep(time.Minute) // nothing is owed
				began := time.Now()
				_, err := c.Call(t.Context(), []byte(header+"request"))
				testkit.RequireReplyTimeout(t, err)
				require.False(t, testkit.OpError(t, err).Unsent)
				require.Equal(t, timeout, time.Since(began))
				testkit.RequireReplyTimeout(t, ended())
				lost()
			}
		})
	})

	t.Run("counts from the oldest request, also one that was given up", func(t *testing.T) { // P5, B1
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, ReplyTimeout: timeout})
			began := time.Now()
			giveUp(t, c, header+"lost")
			p.Receive()
			if k != nil {
				go p.Echo() // the others are answered
			}
			for i := range 4 {
				time.Sleep(time.Second)
				if k != nil {
					_, err := c.Call(t.Context(), fmt.Append(nil, header, i))
					require.NoError(t, err)
				}
			}
			_, err := c.Receive(t.Context())
			testkit.RequireReplyTimeout(t, err)
			require.Equal(t, timeout, time.Since(began))
		})
	})

	t.Run("in order counts for a pipelined request from the reply before it", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{ReplyTimeout: timeout})
		began := time.Now()
		var calls []func() (string, error)
		for i := range 4 {
			calls = append(calls, startCall(t, t.Context(), c, fmt.Sprint(i)))
		}
		for i, wait := range calls[:3] {
			time.Sleep(4 * time.Second)
			p.Send(p.Receive())
			reply, err := wait()
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), reply)
		}
		_, err := calls[3]()
		testkit.RequireReplyTimeout(t, err)
		require.Equal(t, 12*time.Second+timeout, time.Since(began))
	}))

	t.Run("with ids counts for each from its request", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, ReplyTimeout: timeout})
		began := time.Now()
		first := startCall(t, t.Context(), c, "first")
		time.Sleep(time.Second)
		second := startCall(t, t.Context(), c, "second")
		time.Sleep(time.Second)
		third := startCall(t, t.Context(), c, "third")
		p.Send(p.Receive())
		_, err := first()
		require.NoError(t, err)
		p.Receive()
		p.Send(p.Receive())
		_, err = third()
		require.NoError(t, err)
		_, err = second()
		testkit.RequireReplyTimeout(t, err)
		require.Equal(t, time.Second+timeout, time.Since(began))
	}))

	t.Run("never ends a connection whose replies come in time", func(t *testing.T) { // P5
		inEachOrder(t, func(t *testing.T, k tcpclient.Correlator, header string) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, ReplyTimeout: timeout})
			go func() {
				for {
					msg, err := p.Next()
					if err != nil {
						return
					}
					time.Sleep(timeout - 1)
					p.Write(testkit.Frame(msg))
				}
			}()
			for range 20 {
				_, err := c.Call(t.Context(), []byte(header+"request"))
				require.NoError(t, err)
				time.Sleep(3 * time.Second)
			}
			time.Sleep(time.Hour)
			require.True(t, c.Stats().Connected)
		})
	})

	t.Run("does not count while the reader waits for room in the Inbox", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, ReplyTimeout: timeout, Inbox: 1})
		giveUp(t, c, "lost")
		began := time.Now()
		time.Sleep(2 * time.Second)
		p.Send(withID(0, "push"), withID(0, "push"))
		time.Sleep(time.Minute)
		for range 2 {
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
		_, err := c.Receive(t.Context())
		testkit.RequireReplyTimeout(t, err)
		require.Equal(t, time.Minute+timeout, time.Since(began))
	}))

	t.Run("waits for the rest of a reply that is arriving", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{ReplyTimeout: timeout, FrameTimeout: 18 * time.Second})
		call := startCall(t, t.Context(), c, "request")
		for _, b := range testkit.Frame("a long reply") {
			time.Sleep(time.Second)
			p.Raw([]byte{b})
		}
		reply, err := call()
		require.NoError(t, err)
		require.Equal(t, "a long reply", reply)
		call = startCall(t, t.Context(), c, "request")
		p.Raw([]byte{0})
		_, err = call()
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
	}))

	t.Run("is not put off by a stream whose parts all end inside a frame", testkit.InBubble(func(t *testing.T) { // P5
		const frameTimeout = 3 * time.Second
		for _, interval := range []time.Duration{0, time.Second} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
				Correlator: tcpclient.IDPrefix{}, ReplyTimeout: timeout, FrameTimeout: frameTimeout, Heartbeat: tcpclient.Heartbeat{Interval: interval},
			})
			began := time.Now()
			call := startCall(t, t.Context(), c, "lost")
			ended := drain(t, c)
			p.Receive()
			push := testkit.Frame(withID(0, "push"))
			half := len(push) / 2
			for _, err := p.Write(push[:half]); err == nil; _, err = p.Write(slices.Concat(push[half:], push[:half])) {
				time.Sleep(100 * time.Millisecond)
			}
			_, err := call()
			testkit.RequireReplyTimeout(t, err)
			require.WithinRange(t, time.Now(), began.Add(timeout), began.Add(timeout+frameTimeout+time.Second/5))
			testkit.RequireReplyTimeout(t, ended())
		}
	}))

	t.Run("holds on every transport", func(t *testing.T) {
		testkit.SkipIfShort(t)
		testkit.EachTransportParallel(t, transporttest.ReplyTimeout)
	})

	t.Run("a negative one is refused by Dial", func(t *testing.T) {
		_, err := (&tcpclient.Dialer{ReplyTimeout: -time.Second}).Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "Dialer.ReplyTimeout -1s is negative")
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
}

func TestCallsThatLostReplies(t *testing.T) {
	// How long after the last id was used up by a lost reply the first Call is answered.
	for timeout, want := range map[time.Duration]time.Duration{0: 10 * time.Second, 3 * time.Second: 3 * time.Second} {
		for width, ids := range map[int]int{1: 255, 2: 65_535} {
			t.Run(fmt.Sprintf("starve no one: %d ids, ReplyTimeout %v", ids, timeout), testkit.InBubble(func(t *testing.T) { // P5, B1
				if width > 1 {
					testkit.SkipUnlessSlow(t)
				}
				l := testkit.ListenMemory(t)
				c, p := l.Connect(t, tcpclient.Dialer{
					Correlator: tcpclient.IDField{Width: width}, ReplyTimeout: timeout, Reconnect: &tcpclient.Backoff{Max: time.Millisecond},
				})
				loseReplies(p, 0)
				ctx, cancel := context.WithCancel(t.Context())
				var callers sync.WaitGroup
				for range ids {
					callers.Go(func() { c.Call(ctx, []byte("\x00\x00lost")) })
				}
				synctest.Wait()
				began := time.Now()
				cancel()
				callers.Wait()
				require.Equal(t, ids, c.Stats().InFlight)
				go func() { l.AcceptPeer(t).Echo() }()
				var answered time.Duration
				for answered == 0 { // callers who give up after half a second
					ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
					if _, err := c.Call(ctx, []byte("\x00\x00again")); err == nil {
						answered = time.Since(began)
					}
					cancel()
				}
				t.Logf("answered %v after the last id was taken", answered)
				require.InDelta(t, want, answered, float64(10*time.Millisecond))
				_, err := c.Receive(t.Context())
				testkit.RequireReplyTimeout(t, err)
			}))
		}
	}

	t.Run("end the connection in order, too, once all places are given up and 10 s have passed since the last request", testkit.InBubble(func(t *testing.T) { // P5, B2
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{MaxInFlight: 2})
		go p.All()
		giveUp(t, c, "lost")
		time.Sleep(time.Minute) // there is a place
		began := time.Now()
		_, err := c.Call(testkit.Within(t, 4*time.Second), []byte("lost, too"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.Receive(t.Context())
		testkit.RequireReplyTimeout(t, err)
		require.Equal(t, 10*time.Second, time.Since(began))
	}))

	t.Run("end the connection after one look if the last gives up after more than 10 s", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{MaxInFlight: 1})
		go p.All()
		began := time.Now()
		_, err := c.Call(testkit.Within(t, time.Minute), []byte("lost"))
		require.ErrorIs(t, err, context.DeadlineExceeded, "as long as a Call waits nothing ends it")
		_, err = c.Receive(t.Context())
		testkit.RequireReplyTimeout(t, err)
		require.Equal(t, time.Minute+10*time.Millisecond, time.Since(began))
	}))

	t.Run("end nothing if a reply is here by then: it is we who were suspended", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{MaxInFlight: 1})
		_, err := c.Call(testkit.Within(t, time.Minute), []byte("late"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(5 * time.Millisecond)
		p.Send("reply")
		time.Sleep(time.Minute)
		require.True(t, c.Stats().Connected)
		require.EqualValues(t, 1, c.Stats().LateReplies)
		require.Zero(t, c.Stats().InFlight)
	}))

	t.Run("end nothing while late replies come, or a Call waits", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{MaxInFlight: 3})
		for range 3 {
			giveUp(t, c, "late")
		}
		for range 5 {
			time.Sleep(9 * time.Second)
			p.Send(p.Receive())
			synctest.Wait()
			giveUp(t, c, "late")
		}
		time.Sleep(9 * time.Second)
		p.Send(p.Receive())
		waits := startCall(t, t.Context(), c, "waits")
		time.Sleep(time.Hour)
		for range 3 {
			p.Send(p.Receive())
		}
		_, err := waits()
		require.NoError(t, err)
		require.EqualValues(t, 8, c.Stats().LateReplies)
	}))

	t.Run("end nothing while the reader waits for room in the Inbox", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, MaxInFlight: 1, Inbox: 1})
		p.Send(withID(0, "push"), withID(0, "push"))
		synctest.Wait()
		_, err := c.Call(t.Context(), []byte("request"))
		require.ErrorIs(t, err, tcpclient.ErrInboxFull)
		time.Sleep(time.Minute)
		for range 2 {
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
		p.Receive()
		time.Sleep(9500 * time.Millisecond)
		p.Send(withID(1, "late"))
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().LateReplies)
		time.Sleep(time.Minute)
		require.True(t, c.Stats().Connected)
	}))
}

func TestHeartbeatRests(t *testing.T) {
	// PostgreSQL in a long query, beanstalkd in a reserve: one request at a time, pings too.
	oneAtATime := func(p *testkit.Peer, work time.Duration) (pings *atomic.Int32) {
		pings = new(atomic.Int32)
		go func() {
			for {
				msg, err := p.Next()
				switch {
				case err != nil:
					return
				case msg == "ping":
					pings.Add(1)
					msg = "pong"
				default:
					time.Sleep(work)
				}
				p.Write(testkit.Frame(msg))
			}
		}()
		return pings
	}
	beat := testkit.RealHeartbeat(500*time.Millisecond, 1500*time.Millisecond)

	t.Run("in order, with ReplyTimeout, while a request is outstanding", testkit.InBubble(func(t *testing.T) { // P5, A3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, ReplyTimeout: 10 * time.Second})
		pings := oneAtATime(p, 3*time.Second)
		time.Sleep(5200 * time.Millisecond)
		require.InDelta(t, 10, pings.Load(), 1)
		before := pings.Load()
		for range 3 {
			began := time.Now()
			reply, err := c.Call(t.Context(), []byte("select pg_sleep(3)"))
			require.NoError(t, err)
			require.Equal(t, "select pg_sleep(3)", string(reply))
			require.Equal(t, 3*time.Second, time.Since(began))
		}
		require.LessOrEqual(t, pings.Load(), before+3, "we were silent for longer than Interval: between two requests there may be one")
		synctest.Wait()
		before = pings.Load()
		time.Sleep(5 * time.Second)
		require.InDelta(t, 10, pings.Load()-before, 1, "it beats again")
		giveUp(t, c, "select pg_sleep(3)")
		time.Sleep(5 * time.Second)
		require.True(t, c.Stats().Connected, "also for a request that was given up")
	}))

	t.Run("and no ping goes out until the reply", testkit.InBubble(func(t *testing.T) { // P5, A3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, ReplyTimeout: 10 * time.Second})
		call := startCall(t, t.Context(), c, "select pg_sleep(3)")
		require.Equal(t, "select pg_sleep(3)", p.Receive())
		p.RequireSilence(9 * time.Second)
		p.Send("reply")
		reply, err := call()
		require.NoError(t, err)
		require.Equal(t, "reply", reply)
		require.Equal(t, "ping", p.Receive())
	}))

	// beatsAgain wants pings, the first at once, and the verdict when they are not answered any more.
	beatsAgain := func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
		t.Helper()
		began := time.Now()
		for i := range 3 {
			require.Equal(t, "ping", p.Receive())
			require.Equal(t, time.Duration(i)*beat.Interval, time.Since(began))
			p.Send("pong")
		}
		answered := time.Now()
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, beat.Timeout, time.Since(answered))
	}

	t.Run("and between the replies to one request, until the last", testkit.InBubble(func(t *testing.T) { // P5, A3, B3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, ReplyTimeout: 10 * time.Second, More: more})
		d := &dialogue{c: c, p: p}
		next, _ := d.rows(t, t.Context(), "search")
		require.Equal(t, "search", d.receive())
		for range 3 {
			p.RequireSilence(9 * time.Second)
			d.send("row")
			requireRows(t, next, "row")
		}
		p.RequireSilence(9 * time.Second)
		d.send("end")
		beatsAgain(t, c, p)
		requireRows(t, next, "end", "")
	}))

	t.Run("and until the last has come to a loop that was left", testkit.InBubble(func(t *testing.T) { // P5, A3, B4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, ReplyTimeout: 10 * time.Second, More: more})
		d := &dialogue{c: c, p: p}
		next, stop := d.rows(t, t.Context(), "search")
		require.Equal(t, "search", d.receive())
		d.send("row", "row")
		requireRows(t, next, "row")
		stop()
		for range 3 {
			p.RequireSilence(9 * time.Second)
			d.send("row")
		}
		p.RequireSilence(9 * time.Second)
		d.send("end")
		require.EqualValues(t, 4, c.Stats().LateReplies)
		beatsAgain(t, c, p)
	}))

	t.Run("and ReplyTimeout finds the peer that has gone", testkit.InBubble(func(t *testing.T) { // P5, A3
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, ReplyTimeout: 10 * time.Second})
		began := time.Now()
		_, err := c.Call(t.Context(), []byte("?"))
		testkit.RequireReplyTimeout(t, err)
		require.Equal(t, 10*time.Second, time.Since(began))
	}))

	t.Run("and FrameTimeout the rest of a frame", testkit.InBubble(func(t *testing.T) { // P5, A3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, ReplyTimeout: 10 * time.Second, FrameTimeout: 4 * time.Second})
		call := startCall(t, t.Context(), c, "?")
		began := time.Now()
		p.Raw([]byte{0})
		_, err := call()
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.Equal(t, 4*time.Second, time.Since(began))
	}))

	t.Run("not without ReplyTimeout", testkit.InBubble(func(t *testing.T) { // P5, A3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat})
		oneAtATime(p, 3*time.Second)
		_, err := c.Call(t.Context(), []byte("select pg_sleep(3)"))
		testkit.RequireHeartbeatTimeout(t, err)
		time.Sleep(3 * time.Second) // the server's work
	}))

	t.Run("not with ids, whose server may answer at any time", testkit.InBubble(func(t *testing.T) { // P5
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, Correlator: tcpclient.IDPrefix{}, ReplyTimeout: 10 * time.Second})
		began := time.Now()
		_, err := c.Call(t.Context(), []byte("?"))
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 1500*time.Millisecond, time.Since(began))
	}))

	t.Run("not with ids between the replies to one request, and a pong is none of them", testkit.InBubble(func(t *testing.T) { // P5, B3
		beat := beat
		beat.IsPong = func(msg []byte) bool { return bytes.HasSuffix(msg, []byte("pong")) }
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: beat, Correlator: tcpclient.IDField{Width: 8}, ReplyTimeout: 10 * time.Second, More: more})
		d := &dialogue{c: c, p: p, id: withID(0, "")}
		next, _ := d.rows(t, t.Context(), "search")
		require.Equal(t, "search", d.receive())
		for range 3 {
			for began := time.Now(); time.Since(began) < 2*beat.Timeout; {
				require.Equal(t, "ping", p.Receive())
				d.send("pong") // with the id of the request
			}
			d.send("row")
			requireRows(t, next, "row")
		}
		require.EqualValues(t, 3, c.Stats().MessagesReceived)
		d.send("end")
		requireRows(t, next, "end", "")
		require.Zero(t, c.Stats().InFlight)
		require.Equal(t, "ping", p.Receive())
	}))

	t.Run("not for a request that was refused", testkit.InBubble(func(t *testing.T) { // P5
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{
			Heartbeat: beat, ReplyTimeout: 10 * time.Second, Framer: tcpclient.LengthPrefix{MaxSize: 10},
		})
		time.Sleep(time.Second)
		_, err := c.Call(t.Context(), make([]byte, 11))
		require.True(t, testkit.OpError(t, err).Unsent)
		_, err = c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Zero(t, c.Stats().InFlight)
	}))
}
