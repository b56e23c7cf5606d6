package tcpclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pinging is a heartbeat with a 10 s Interval and a 25 s Timeout.
func pinging() tcpclient.Heartbeat {
	return tcpclient.Heartbeat{
		Interval: 10 * time.Second,
		Timeout:  25 * time.Second,
		Ping:     func() []byte { return []byte("ping") },
		IsPong:   func(msg []byte) bool { return string(msg) == "pong" },
	}
}

// inBubble runs test in virtual time.
func inBubble(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

// requireTimeout wants err to be the heartbeat's verdict and nothing else.
func requireHeartbeatTimeout(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.True(t, opError(t, err).Timeout())
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
}

func TestHeartbeat(t *testing.T) {
	t.Run("pings after Interval of silence, and gives up at Timeout", inBubble(func(t *testing.T) { // P5
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		start := time.Now()
		require.Equal(t, "ping", p.receive())
		require.Equal(t, 10*time.Second, time.Since(start))
		_, err := c.Receive(t.Context())
		requireHeartbeatTimeout(t, err)
		require.Equal(t, 25*time.Second, time.Since(start))
		msgs, end := p.all()
		require.Empty(t, msgs, "one ping is outstanding")
		require.Equal(t, io.EOF, end, "the connection is closed")
	}))

	t.Run("the timeout is twice the interval by default", inBubble(func(t *testing.T) {
		c, _ := connectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 10 * time.Second}})
		start := time.Now()
		_, err := c.Receive(t.Context())
		requireHeartbeatTimeout(t, err)
		require.Equal(t, 20*time.Second, time.Since(start))
	}))

	t.Run("without Ping nothing is sent", inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 10 * time.Second}})
		msgs, end := p.all()
		require.Empty(t, msgs)
		require.Equal(t, io.EOF, end)
		_, err := c.Receive(t.Context())
		requireHeartbeatTimeout(t, err)
	}))

	t.Run("what we send is no proof of life and postpones no ping", inBubble(func(t *testing.T) { // P5
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		start := time.Now()
		pinged := time.Duration(0)
		go func() {
			for {
				msg, err := p.next()
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
		requireHeartbeatTimeout(t, err)
		require.Equal(t, 10*time.Second, pinged)
		require.Equal(t, 25500*time.Millisecond, time.Since(start))
	}))

	t.Run("every whole message is proof of life, half of one is not", inBubble(func(t *testing.T) { // P5
		h := pinging()
		h.Ping = nil
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h})
		start := time.Now()
		time.Sleep(24 * time.Second)
		p.send("alive")
		time.Sleep(24 * time.Second)
		p.send("alive", "alive")
		for range 3 {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alive", string(msg))
		}
		time.Sleep(20 * time.Second)
		p.raw(frame("never whole")[:5])
		_, err := c.Receive(t.Context())
		requireHeartbeatTimeout(t, err)
		require.Equal(t, (48+20+25)*time.Second, time.Since(start), "while bytes come, FrameTimeout rules; they stopped at 68 s")
	}))

	t.Run("trickling bytes are not life", inBubble(func(t *testing.T) { // P5
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			big := frame(strings.Repeat("x", 1000))
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

	t.Run("finds the dead peer though nobody receives, writes or waits", inBubble(func(t *testing.T) { // P5
		c, _ := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		time.Sleep(25*time.Second + time.Millisecond)
		synctest.Wait()
		require.False(t, c.Stats().Connected)
		requireHeartbeatTimeout(t, c.Flush(t.Context()))
	}))

	t.Run("a peer that vanishes from the network is found, also mid-frame", inBubble(func(t *testing.T) { // P5, S12
		for _, half := range []int{0, 2, 6} {
			n := tcpclienttest.NewNetwork()
			c, p := listenNetwork(t, n).connect(t, tcpclient.Dialer{Heartbeat: pinging()})
			p.raw(frame("half a frame")[:half])
			synctest.Wait()
			start := time.Now()
			n.Partition()
			_, err := c.Receive(t.Context())
			requireHeartbeatTimeout(t, err)
			require.Equal(t, 25*time.Second, time.Since(start))
			n.Heal()
		}
	}))

	t.Run("an outage shorter than what is left of Timeout is survived", inBubble(func(t *testing.T) { // S14, Y5
		n := tcpclienttest.NewNetwork()
		c, p := listenNetwork(t, n).connect(t, tcpclient.Dialer{Heartbeat: pinging()})
		go p.echo()
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
		onTransports(t, func(t *testing.T, tr transport) {
			h := pinging()
			h.Interval, h.Timeout = time.Hour, 2*time.Hour
			h.Answer = func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" }
			for range 50 {
				c, p := tr.connect(t, tcpclient.Dialer{Heartbeat: h})
				p.finish("one", "PING")
				msg, err := p.next()
				require.NoError(t, err)
				require.Equal(t, "PONG", msg)
				got, err := receiveAll(t, c)
				require.Equal(t, []string{"one"}, got)
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, c.Close())
			}
		})
	})

	t.Run("answers the pings of the peer, which Receive does not see", inBubble(func(t *testing.T) {
		h := pinging()
		h.Answer = func(msg []byte) ([]byte, bool) {
			switch string(msg) {
			case "PING":
				return []byte("PONG"), true
			case "MUTE":
				return nil, true
			}
			return []byte("not to be sent"), false
		}
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h})
		p.send("PING", "MUTE", "data", "PING")
		require.Equal(t, "PONG", p.receive())
		require.Equal(t, "PONG", p.receive())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "data", string(msg))
		require.Equal(t, "ping", p.receive(), "the next message is ours, at 10 s")
	}))

	t.Run("Answer alone works without Interval", inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Answer: func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" },
		}})
		p.send("PING", "data")
		require.Equal(t, "PONG", p.receive())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "data", string(msg))
		time.Sleep(time.Hour)
		requireAlive(t, c, p)
	}))

	t.Run("a panic in a hook ends the connection with an error that shows it", inBubble(func(t *testing.T) { // L17
		for _, h := range []tcpclient.Heartbeat{
			{Interval: time.Second, Ping: func() []byte { panic("boo") }},
			{Interval: time.Second, IsPong: func([]byte) bool { panic("boo") }},
			{Interval: time.Second, Answer: func([]byte) ([]byte, bool) { panic("boo") }},
		} {
			c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h})
			if h.Ping == nil {
				p.send("look at this")
			}
			_, err := c.Receive(t.Context())
			require.ErrorContains(t, err, "panic: boo")
			require.ErrorContains(t, err, "heartbeat_test.go")
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("a ping that the Framer refuses ends the connection with that error", inBubble(func(t *testing.T) {
		c, _ := connectMemory(t, tcpclient.Dialer{
			Framer:    tcpclient.LengthPrefix{MaxSize: 3},
			Heartbeat: pinging(),
		})
		_, err := c.Receive(t.Context())
		var tooLarge *tcpclient.FrameTooLargeError
		require.ErrorAs(t, err, &tooLarge)
	}))

	t.Run("never means never", inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 1<<63 - 1}})
		time.Sleep(time.Hour)
		requireAlive(t, c, p)
	}))

	t.Run("counts pings in Stats, and the round trip", inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		require.Zero(t, c.Stats().RTT)
		require.Equal(t, "ping", p.receive())
		time.Sleep(123 * time.Millisecond)
		p.send("pong")
		synctest.Wait()
		s := c.Stats()
		require.Equal(t, 123*time.Millisecond, s.RTT)
		require.EqualValues(t, 1, s.MessagesSent)
		require.EqualValues(t, 0, s.MessagesReceived, "a pong is not a message")
	}))

	t.Run("works over TLS and on connections without deadlines", func(t *testing.T) { // Y14
		for _, name := range []string{"tcp", "tls", "unix"} {
			t.Run(name, func(t *testing.T) {
				c, p := transportNamed(name).connect(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
					Interval: 50 * time.Millisecond, Timeout: 250 * time.Millisecond,
					Ping: func() []byte { return []byte("ping") }, IsPong: func(msg []byte) bool { return string(msg) == "pong" },
				}})
				for range 3 {
					require.Equal(t, "ping", p.receive())
					p.send("pong")
				}
				start := time.Now()
				_, err := c.Receive(t.Context())
				requireHeartbeatTimeout(t, err)
				require.Greater(t, time.Since(start), 200*time.Millisecond)
				require.Less(t, time.Since(start), 2*time.Second)
			})
		}
		synctest.Test(t, func(t *testing.T) {
			c, p, _ := connectWrapped(t, tcpclient.Dialer{Heartbeat: pinging()}, func(w *wrapper) {
				w.deadline = func() error { return errors.ErrUnsupported }
			})
			start := time.Now()
			for range 3 {
				require.Equal(t, "ping", p.receive())
				p.send("pong")
			}
			_, err := c.Receive(t.Context())
			requireHeartbeatTimeout(t, err)
			require.Equal(t, 55*time.Second, time.Since(start))
		})
	})
}

// heartbeatFaults are the rows H of FAULTS.md.
var heartbeatFaults = map[string]func(t *testing.T){
	"H1 pong late but in budget": inBubble(func(t *testing.T) {
		var seen atomic.Int32
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging(), Trace: &tcpclient.Trace{Pong: func(rtt time.Duration) {
			assert.Equal(t, 13500*time.Millisecond, rtt)
			seen.Add(1)
		}}})
		for range 100 {
			require.Equal(t, "ping", p.receive())
			time.Sleep(13500 * time.Millisecond) // 0.9 of what is left of Timeout
			p.send("pong")
		}
		synctest.Wait()
		require.EqualValues(t, 100, seen.Load())
		require.Equal(t, 13500*time.Millisecond, c.Stats().RTT)
		requireAlive(t, c, p)
	}),

	"H2 pong lost once but other traffic flows": inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		require.Equal(t, "ping", p.receive())
		time.Sleep(14 * time.Second)
		p.send("data")
		require.Equal(t, "ping", p.receive())
		p.send("pong")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "data", string(msg))
		require.Equal(t, "ping", p.receive())
		p.send("pong")
		requireAlive(t, c, p)
	}),

	"H3 all pongs lost": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Heartbeat: pinging(), Reconnect: &tcpclient.Backoff{}})
		start := time.Now()
		_, err := c.Receive(t.Context())
		requireHeartbeatTimeout(t, err)
		require.Equal(t, 25*time.Second, time.Since(start))
		require.Equal(t, "ping", p.receive())
		_, end := p.next()
		require.Equal(t, io.EOF, end, "closed raw")
		again := l.accept(t)
		require.LessOrEqual(t, time.Since(start), 25*time.Second+100*time.Millisecond)
		requireAlive(t, c, again)
	}),

	"H4 peer sends data but never a pong": inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		go io.Copy(io.Discard, p)
		for range 200 {
			p.send("data")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "data", string(msg))
			time.Sleep(24 * time.Second)
		}
	}),

	"H6 application does not receive": inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging(), Inbox: 1000})
		go io.Copy(io.Discard, p)
		const n = 3000 // more than Inbox, read buffer and network hold
		go func() {
			for _, msg := range numbered(n, 50) {
				if _, err := p.Write(frame(msg)); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Hour)
		for _, want := range numbered(n, 50) {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
		_, err := c.Receive(t.Context())
		requireHeartbeatTimeout(t, err) // and now it is the peer that is silent
	}),

	"H7 queue full and the pong behind data": inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging(), Inbox: 200})
		go func() {
			for {
				msg, err := p.next()
				if err != nil {
					return
				}
				p.Write(frames(append(numbered(10, 50), map[string]string{"ping": "pong"}[msg])...))
			}
		}()
		require.NoError(t, c.Send(t.Context(), []byte("go")))
		for range 300 {
			time.Sleep(17 * time.Second)
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
	}),

	"H8 ping behind a huge flush": inBubble(func(t *testing.T) {
		for _, tt := range []struct {
			write time.Duration
			want  error
			after time.Duration
		}{
			{write: -1, want: tcpclient.ErrHeartbeatTimeout, after: 25 * time.Second},
			{write: time.Minute, want: tcpclient.ErrHeartbeatTimeout, after: 25 * time.Second},
			{write: 5 * time.Second, want: tcpclient.ErrWriteTimeout, after: 5 * time.Second},
		} {
			l := listenMemory(t)
			c, p := l.connect(t, tcpclient.Dialer{Heartbeat: pinging(), WriteTimeout: tt.write, Reconnect: &tcpclient.Backoff{}})
			start := time.Now()
			err := c.Send(t.Context(), make([]byte, 1<<20))
			require.ErrorIs(t, err, tt.want)
			require.False(t, opError(t, err).Unsent)
			require.InDelta(t, tt.after.Seconds(), time.Since(start).Seconds(), 0.01)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tt.want)
			hangUp(p)
			again := l.accept(t)
			requireAlive(t, c, again) // the message of 1 MiB is not sent again, and the loss was told
			require.NoError(t, c.Close())
		}
	}),

	"H9 ping inside a half-written frame": inBubble(func(t *testing.T) { // P3
		h := pinging()
		h.Interval, h.Timeout = 20*time.Millisecond, time.Hour
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h})
		const n = 60
		go func() {
			for _, msg := range numbered(n, 100_000) {
				if c.Send(t.Context(), []byte(msg)) != nil {
					return
				}
			}
		}()
		pings, want := 0, numbered(n, 100_000)
		for i := 0; i < n; {
			msg := p.receive()
			time.Sleep(30 * time.Millisecond)
			if msg == "ping" {
				pings++
				p.send("pong")
				continue
			}
			require.True(t, want[i] == msg, "frame %d is torn: %.60q", i, msg)
			i++
		}
		require.Greater(t, pings, 20)
	}),

	"H10 ping of the server while our writes are blocked": inBubble(func(t *testing.T) {
		h := pinging()
		h.Answer = func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" }
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h, WriteTimeout: -1})
		sent := make(chan error, 1)
		go func() { sent <- c.Send(t.Context(), make([]byte, 1<<20)) }()
		synctest.Wait()
		for i := range 3000 { // far more than urgent answers are kept
			p.send("PING", "data")
			_, err := c.Receive(t.Context())
			require.NoError(t, err, "round %d", i)
			time.Sleep(time.Second)
		}
		require.Len(t, p.receive(), 1<<20)
		require.NoError(t, <-sent)
		pongs := 0
		require.NoError(t, c.Send(t.Context(), []byte("end")))
		for {
			msg := p.receive()
			if msg == "end" {
				break
			}
			require.Contains(t, []string{"PONG", "ping"}, msg)
			pongs++
		}
		require.Greater(t, pongs, 0)
		require.LessOrEqual(t, pongs, 16<<10/8+2, "answers for a peer that does not read are bounded")
	}),

	"H11 timers while disconnected": inBubble(func(t *testing.T) {
		var pings atomic.Int32
		h := pinging()
		h.Ping = func() []byte { pings.Add(1); return []byte("ping") }
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Heartbeat: h, Reconnect: &tcpclient.Backoff{}})
		l.Close()
		hangUp(p)
		time.Sleep(time.Hour)
		require.Zero(t, pings.Load())
		require.NoError(t, c.Close())
		time.Sleep(time.Hour)
		require.Zero(t, pings.Load())

		c, p = connectMemory(t, tcpclient.Dialer{Heartbeat: h})
		require.Equal(t, "ping", p.receive())
		require.NoError(t, c.Close())
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, pings.Load())
	}),

	"H12 heartbeat frame collides with a user frame": inBubble(func(t *testing.T) {
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: pinging()})
		p.send("pong", "pong ", "Pong", "", "pong", "ponG", "apong")
		for _, want := range []string{"pong ", "Pong", "", "ponG", "apong"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
		h := pinging()
		h.IsPong = nil
		c, p = connectMemory(t, tcpclient.Dialer{Heartbeat: h})
		p.send("pong")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "pong", string(msg), "without IsPong there are no pongs")
	}),

	"H13 interval below the round trip": inBubble(func(t *testing.T) {
		h := pinging()
		h.Interval, h.Timeout = 500*time.Millisecond, 3*time.Second
		c, p := connectMemory(t, tcpclient.Dialer{Heartbeat: h})
		go func() {
			for {
				if _, err := p.next(); err != nil {
					return
				}
				time.AfterFunc(1400*time.Millisecond, func() { p.Write(frame("pong")) })
			}
		}()
		time.Sleep(time.Hour)
		require.True(t, c.Stats().Connected)
		require.Equal(t, 1400*time.Millisecond, c.Stats().RTT)
		hangUp(p)
		time.Sleep(2 * time.Second)
	}),

	"H15 clock step": func(t *testing.T) {
		// The wall clock cannot be stepped here. What strips the monotonic clock from a
		// time.Time, or measures by the wall clock, must not occur.
		entries, err := os.ReadDir(".")
		require.NoError(t, err)
		read := 0
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			read++
			source := readFile(t, e.Name())
			for _, forbidden := range []string{".Round(0)", ".Truncate(", ".Unix(", ".UnixNano", ".UnixMilli", ".UTC()", ".Local()", ".In(time", "time.Date(", "time.Parse(", ".MarshalBinary"} {
				require.NotContains(t, source, forbidden, e.Name())
			}
		}
		require.Greater(t, read, 10)
	},
}

var _ net.Conn = (*peer)(nil)
