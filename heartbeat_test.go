package tcpclient_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestHeartbeat(t *testing.T) {
	t.Run("pings after Interval of silence, and gives up at Timeout", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		start := time.Now()
		require.Equal(t, "ping", p.Receive())
		require.Equal(t, 10*time.Second, time.Since(start))
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 25*time.Second, time.Since(start))
		msgs, end := p.All()
		require.Empty(t, msgs, "one ping is outstanding")
		require.Equal(t, io.EOF, end, "the connection is closed")
	}))

	t.Run("the timeout is twice the interval by default", testkit.InBubble(func(t *testing.T) {
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 10 * time.Second}})
		start := time.Now()
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 20*time.Second, time.Since(start))
	}))

	t.Run("without Ping nothing is sent", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 10 * time.Second}})
		msgs, end := p.All()
		require.Empty(t, msgs)
		require.Equal(t, io.EOF, end)
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
	}))

	t.Run("what we send is no proof of life and postpones no ping", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		start := time.Now()
		pinged := time.Duration(0)
		go func() {
			for {
				msg, err := p.Next()
				if err != nil {
					return
				}
				if msg == "ping" {
					pinged = time.Since(start)
				}
			}
		}()
		time.Sleep(500 * time.Millisecond)
		var err error
		for err == nil {
			time.Sleep(time.Second)
			err = c.Send(t.Context(), []byte("data"))
		}
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 10*time.Second, pinged)
		require.Equal(t, 25500*time.Millisecond, time.Since(start))
	}))

	t.Run("pings after Interval of our own silence, whatever arrives", testkit.InBubble(func(t *testing.T) { // P5, A1
		for _, answer := range []string{"pong", "no pong"} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
			start := time.Now()
			p.SetReadDeadline(start.Add(time.Hour))
			p.PushEvery(t, time.Second)
			go func() {
				for range c.Messages(t.Context()) {
				}
			}()
			for i := range 20 {
				require.Equal(t, "ping", p.Receive())
				require.Equal(t, time.Duration(i+1)*10*time.Second, time.Since(start))
				p.Send(answer)
			}
			require.NoError(t, c.Close())
		}
	}))

	t.Run("a Write that is not flushed is silence, and leaves before the ping", testkit.InBubble(func(t *testing.T) { // P3, P5, A1, A4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		start := time.Now()
		time.Sleep(9 * time.Second)
		p.Send("push")
		require.NoError(t, c.Write(t.Context(), []byte("1")))
		require.Equal(t, "1", p.Receive())
		require.Equal(t, "ping", p.Receive())
		require.Equal(t, 10*time.Second, time.Since(start))
	}))

	t.Run("what we send postpones the ping for our own silence", testkit.InBubble(func(t *testing.T) { // P5, A1
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		start := time.Now()
		for range 6 {
			time.Sleep(9 * time.Second)
			p.Send("push")
			require.NoError(t, c.Send(t.Context(), []byte("data")))
			require.Equal(t, "data", p.Receive())
		}
		time.Sleep(9 * time.Second)
		p.Send("push")
		require.Equal(t, "ping", p.Receive())
		require.Equal(t, 64*time.Second, time.Since(start))
	}))

	t.Run("our silence begins with the last bytes of the Handshake", testkit.InBubble(func(t *testing.T) { // P5, A1
		l := testkit.ListenMemory(t)
		dialed := l.StartDial(t, t.Context(), tcpclient.Dialer{Heartbeat: testkit.Pinging(), Handshake: testkit.Login})
		p := l.AcceptPeer(t)
		require.Equal(t, "login", p.Receive())
		start := time.Now()
		time.Sleep(8 * time.Second)
		p.Send("welcome")
		dialed()
		require.Equal(t, "ping", p.Receive())
		require.Equal(t, 10*time.Second, time.Since(start))
	}))

	t.Run("our own silence is no reason to bury a slow peer in pings", testkit.InBubble(func(t *testing.T) { // P5, A1
		h := testkit.Pinging()
		h.Timeout = time.Minute
		rec := testkit.NewRecorder()
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h, Trace: rec.Trace()})
		start := time.Now()
		require.Equal(t, "ping", p.Receive())
		p.RequireSilence(25 * time.Second)
		p.Send("push")
		require.Equal(t, "ping", p.Receive(), "it lives, and we were silent for too long")
		require.Equal(t, 35*time.Second, time.Since(start))
		p.Send("pong")
		time.Sleep(time.Second)
		p.Send("pong")
		synctest.Wait()
		require.True(t, c.Stats().Connected)
		pongs := rec.All("Pong")
		require.Len(t, pongs, 2)
		require.Equal(t, 25*time.Second, pongs[0].Delay, "it answers the oldest ping")
		require.Equal(t, time.Second, pongs[1].Delay)
	}))

	t.Run("pings go on while the Inbox is full, and there is no verdict", testkit.InBubble(func(t *testing.T) { // P5, A2
		rec := testkit.NewRecorder()
		h := testkit.Pinging()
		h.Interval += 100 * time.Millisecond // else it is a multiple of what the reader looks around at
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h, Inbox: 64 << 10, Trace: rec.Trace()})
		start := time.Now()
		p.SetReadDeadline(start.Add(time.Hour))
		want := testkit.Numbered(5000, 50)
		toSend := make(chan string, len(want)+30)
		defer close(toSend)
		go func() {
			for msg := range toSend {
				p.Write(testkit.Frame(msg))
			}
		}()
		for _, msg := range want {
			toSend <- msg
		}
		for i := range 30 { // for five minutes the application is busy
			require.Equal(t, "ping", p.Receive())
			require.Equal(t, time.Duration(i+1)*h.Interval, time.Since(start))
			toSend <- "pong" // after the pushes
		}
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want[i], string(msg))
		}
		synctest.Wait()
		require.Equal(t, 30*h.Interval, time.Since(start))
		pongs := rec.All("Pong")
		require.Len(t, pongs, 30)
		for i, pong := range pongs {
			require.Equal(t, time.Duration(29-i)*h.Interval, pong.Delay, "pong %d waited for the application", i)
		}
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("no ping goes out while the Inbox is full and a request is outstanding in order", testkit.InBubble(func(t *testing.T) { // P5, A2, A3
		h := testkit.Pinging()
		h.Interval += 100 * time.Millisecond
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h, ReplyTimeout: time.Minute, Inbox: 1000})
		pushes := testkit.Numbered(9, 50)
		p.Send(pushes...)
		require.Equal(t, "ping", p.Receive(), "it goes on while the Inbox is full")
		time.Sleep(time.Second)
		giveUp(t, c, "a request")
		require.Equal(t, "a request", p.Receive())
		require.EqualValues(t, 8*(50+64), c.Stats().InboxBytes, "there is no room for the last push")
		p.RequireSilence(5 * time.Minute)
		require.Equal(t, 1, c.Stats().InFlight)

		p.Send("pong", "its reply")
		for _, want := range pushes {
			got, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(got))
		}
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().LateReplies)
		replied := time.Now()
		for i := range 3 {
			require.Equal(t, "ping", p.Receive())
			require.Equal(t, time.Duration(i)*h.Interval, time.Since(replied), "it makes up for our silence, and beats again")
			p.Send("pong")
		}
		testkit.RequireAlive(t, c, p)
	}))

	for name, fault := range map[string]func() []byte{
		"panics":                       func() []byte { panic("boo") },
		"is refused by the Framer":     func() []byte { return make([]byte, 1<<20) },
		"ends the goroutine it is for": func() []byte { runtime.Goexit(); return nil },
	} {
		t.Run("a ping that "+name+" while the Inbox is full ends the connection", testkit.InBubble(func(t *testing.T) { // P1, A2
			h := testkit.Pinging()
			h.Ping = fault
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h, Inbox: 1000, ReadBuffer: 1000, Framer: tcpclient.LengthPrefix{MaxSize: 1000}})
			go p.Write(testkit.Frames(testkit.Numbered(1000, 50)...))
			time.Sleep(10*time.Second + time.Millisecond)
			synctest.Wait()
			require.False(t, c.Stats().Connected)
			got, err := testkit.ReceiveAll(t, c)
			require.Error(t, err)
			require.GreaterOrEqual(t, len(got), 1000/(50+64))
			require.Equal(t, testkit.Numbered(len(got), 50), got)
			require.NoError(t, c.Close())
		}))
	}

	t.Run("pings go on while a large message arrives", testkit.InBubble(func(t *testing.T) { // P5, A1
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging(), FrameTimeout: time.Hour})
		start := time.Now()
		msg := strings.Repeat("x", 100)
		go func() {
			for _, b := range testkit.Frame(msg) {
				time.Sleep(time.Second)
				p.Write([]byte{b})
			}
		}()
		for i := range 10 {
			require.Equal(t, "ping", p.Receive())
			require.Equal(t, time.Duration(i+1)*10*time.Second, time.Since(start))
		}
		got, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, msg, string(got))
	}))

	t.Run("every whole message is proof of life, half of one is not", testkit.InBubble(func(t *testing.T) { // P5
		h := testkit.Pinging()
		h.Ping = nil
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
		start := time.Now()
		time.Sleep(24 * time.Second)
		p.Send("alive")
		time.Sleep(24 * time.Second)
		p.Send("alive", "alive")
		for range 3 {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alive", string(msg))
		}
		time.Sleep(20 * time.Second)
		p.Raw(testkit.Frame("never whole")[:5])
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, (48+20+25)*time.Second, time.Since(start), "while bytes come, FrameTimeout rules; they stopped at 68 s")
	}))

	t.Run("trickling bytes are not life", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			big := testkit.Frame(strings.Repeat("x", 1000))
			for i := 0; ; i++ {
				if _, err := p.Write(big[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.Equal(t, 30*time.Second, time.Since(start))
		<-done
	}))

	t.Run("a keep-alive between frames that ReadFrame returns is life, one that it skips begins a frame", testkit.InBubble(func(t *testing.T) { // P5, A5
		h := tcpclient.Heartbeat{Interval: 10 * time.Second, Timeout: 25 * time.Second, IsPong: isBeat}
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: beating{}, Heartbeat: h})
		for range 100 {
			time.Sleep(20 * time.Second)
			p.Raw([]byte("\n"))
		}
		p.Raw([]byte("alive\x00"))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "alive", string(msg))

		c, p = testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h, Framer: testkit.FuncFramer{
			Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
				for {
					if msg, err := (beating{}).ReadFrame(r, dst); err != nil || !isBeat(msg[len(dst):]) {
						return msg, err
					}
				}
			},
		}})
		start := time.Now()
		for range 3 {
			p.Raw([]byte("\n"))
			time.Sleep(10*time.Second - time.Millisecond)
		}
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.Equal(t, 30*time.Second, time.Since(start))
	}))

	t.Run("finds the dead peer though no goroutine receives, writes or waits", testkit.InBubble(func(t *testing.T) { // P5
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		time.Sleep(25*time.Second + time.Millisecond)
		synctest.Wait()
		require.False(t, c.Stats().Connected)
		testkit.RequireHeartbeatTimeout(t, c.Flush(t.Context()))
	}))

	t.Run("a peer that vanishes from the network is found, also mid-frame", testkit.InBubble(func(t *testing.T) { // P5, S12
		for _, half := range []int{0, 2, 6} {
			n := tcpclienttest.NewNetwork()
			c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
			p.Raw(testkit.Frame("half a frame")[:half])
			synctest.Wait()
			start := time.Now()
			n.Partition()
			_, err := c.Receive(t.Context())
			testkit.RequireHeartbeatTimeout(t, err)
			require.Equal(t, 25*time.Second, time.Since(start))
			n.Heal()
		}
	}))

	t.Run("an outage shorter than what is left of Timeout is survived", testkit.InBubble(func(t *testing.T) { // S14, Y5
		n := tcpclienttest.NewNetwork()
		c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		go p.Echo()
		n.Partition()
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		time.Sleep(24 * time.Second)
		n.Heal()
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.EqualValues(t, 1, c.Stats().Connects)
	}))

	t.Run("answers a ping that the peer's FIN follows", func(t *testing.T) { // P3
		testkit.EachTransport(t, transporttest.AnswersBeforeFIN)
	})

	t.Run("answers the pings of the peer, which Receive does not see", testkit.InBubble(func(t *testing.T) {
		h := testkit.Pinging()
		h.Answer = func(msg []byte) ([]byte, bool) {
			switch string(msg) {
			case "PING":
				return []byte("PONG"), true
			case "MUTE":
				return nil, true
			}
			return []byte("not to be sent"), false
		}
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
		p.Send("PING", "MUTE", "data", "PING")
		require.Equal(t, "PONG", p.Receive())
		require.Equal(t, "PONG", p.Receive())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "data", string(msg))
		require.Equal(t, "ping", p.Receive(), "the next message is ours, at 10 s")
	}))

	t.Run("Answer alone works without Interval", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Answer: func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" },
		}})
		p.Send("PING", "data")
		require.Equal(t, "PONG", p.Receive())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "data", string(msg))
		time.Sleep(time.Hour)
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("a hook that appends to a message does not write into the next", testkit.InBubble(func(t *testing.T) { // P1
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Answer: func(msg []byte) ([]byte, bool) { return append(msg, "!!!!!"...), string(msg) == "PING" },
		}})
		p.Send("PING", "one", "two")
		require.Equal(t, "PING!!!!!", p.Receive())
		for _, want := range []string{"one", "two"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
	}))

	t.Run("a panic in a hook ends the connection with an error that shows it", testkit.InBubble(func(t *testing.T) { // L17
		for _, h := range []tcpclient.Heartbeat{
			{Interval: time.Second, Ping: func() []byte { panic("boo") }},
			{Interval: time.Second, IsPong: func([]byte) bool { panic("boo") }},
			{Interval: time.Second, Answer: func([]byte) ([]byte, bool) { panic("boo") }},
		} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
			if h.Ping == nil {
				p.Send("look at this")
			}
			_, err := c.Receive(t.Context())
			require.ErrorContains(t, err, "panic: boo")
			require.ErrorContains(t, err, "heartbeat_test.go")
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("a ping that the Framer refuses ends the connection with that error", testkit.InBubble(func(t *testing.T) {
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{
			Framer:    tcpclient.LengthPrefix{MaxSize: 3},
			Heartbeat: testkit.Pinging(),
		})
		_, err := c.Receive(t.Context())
		var tooLarge *tcpclient.FrameTooLargeError
		require.ErrorAs(t, err, &tooLarge)
	}))

	t.Run("the longest Interval there is never ends", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 1<<63 - 1}})
		time.Sleep(time.Hour)
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("counts pings in Stats, and the round trip", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		require.Zero(t, c.Stats().RTT)
		require.Equal(t, "ping", p.Receive())
		time.Sleep(123 * time.Millisecond)
		p.Send("pong")
		synctest.Wait()
		s := c.Stats()
		require.Equal(t, 123*time.Millisecond, s.RTT)
		require.EqualValues(t, 1, s.MessagesSent)
		require.EqualValues(t, 0, s.MessagesReceived, "a pong is not a message")
	}))

	t.Run("works over TLS and on connections without deadlines", func(t *testing.T) { // Y14
		testkit.SkipIfShort(t)
		for _, name := range []string{"tcp", "tls", "unix"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, p := testkit.TransportNamed(name).Connect(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
					Interval: 50 * time.Millisecond, Timeout: 250 * time.Millisecond,
					Ping: func() []byte { return []byte("ping") }, IsPong: func(msg []byte) bool { return string(msg) == "pong" },
				}})
				var watch *testkit.Stopwatch // since the last pong
				for range 3 {
					require.Equal(t, "ping", p.Receive())
					watch = testkit.StartStopwatch(t)
					p.Send("pong")
				}
				_, err := c.Receive(t.Context())
				testkit.RequireHeartbeatTimeout(t, err)
				require.GreaterOrEqual(t, watch.Elapsed(), 250*time.Millisecond)
				require.Less(t, watch.Ran(), 2*time.Second)
			})
		}
		for _, tr := range testkit.Transports {
			t.Run(tr.Name+", while the peer talks", func(t *testing.T) {
				t.Parallel()
				transporttest.PingsWhilePeerTalks(t, tr)
			})
		}
		synctest.Test(t, func(t *testing.T) {
			c, p, _ := testkit.ConnectHooked(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()}, func(w *testkit.HookedConn) {
				w.OnDeadline = func() error { return errors.ErrUnsupported }
			})
			start := time.Now()
			for range 3 {
				require.Equal(t, "ping", p.Receive())
				p.Send("pong")
			}
			_, err := c.Receive(t.Context())
			testkit.RequireHeartbeatTimeout(t, err)
			require.Equal(t, 55*time.Second, time.Since(start))
		})
	})
}

var _ net.Conn = (*testkit.Peer)(nil)
