package faults

import (
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// heartbeatFaults are the rows H of FAULTS.md.
var heartbeatFaults = map[string]func(t *testing.T){
	"H1 pong late but in budget": testkit.InBubble(func(t *testing.T) {
		var seen atomic.Int32
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging(), Trace: &tcpclient.Trace{Pong: func(rtt time.Duration) {
			assert.Equal(t, 13500*time.Millisecond, rtt)
			seen.Add(1)
		}}})
		for range 100 {
			require.Equal(t, "ping", p.Receive())
			time.Sleep(13500 * time.Millisecond) // 0.9 of what is left of Timeout
			p.Send("pong")
		}
		synctest.Wait()
		require.EqualValues(t, 100, seen.Load())
		require.Equal(t, 13500*time.Millisecond, c.Stats().RTT)
		require.Equal(t, "ping", p.Receive(), "we had been silent for longer than Interval")
		testkit.RequireAlive(t, c, p)
	}),

	"H2 pong lost once but other traffic flows": testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		require.Equal(t, "ping", p.Receive())
		time.Sleep(14 * time.Second)
		p.Send("data")
		require.Equal(t, "ping", p.Receive())
		p.Send("pong")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "data", string(msg))
		require.Equal(t, "ping", p.Receive())
		p.Send("pong")
		testkit.RequireAlive(t, c, p)
	}),

	"H3 all pongs lost": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Heartbeat: testkit.Pinging(), Reconnect: &tcpclient.Backoff{}})
		start := time.Now()
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 25*time.Second, time.Since(start))
		require.Equal(t, "ping", p.Receive())
		_, end := p.Next()
		require.Equal(t, io.EOF, end, "closed raw")
		again := l.AcceptPeer(t)
		require.LessOrEqual(t, time.Since(start), 25*time.Second+100*time.Millisecond)
		testkit.RequireAlive(t, c, again)
	}),

	"H4 peer sends data but never a pong": testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		go io.Copy(io.Discard, p)
		for range 200 {
			p.Send("data")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "data", string(msg))
			time.Sleep(24 * time.Second)
		}
	}),

	"H6 application does not receive": testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging(), Inbox: 1000})
		go io.Copy(io.Discard, p)
		const n = 3000 // more than Inbox, read buffer and network hold
		go func() {
			for _, msg := range testkit.Numbered(n, 50) {
				if _, err := p.Write(testkit.Frame(msg)); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Hour)
		for _, want := range testkit.Numbered(n, 50) {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err) // and now it is the peer that is silent
	}),

	"H7 queue full and the pong behind data": testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging(), Inbox: 200})
		go func() {
			for {
				msg, err := p.Next()
				if err != nil {
					return
				}
				p.Write(testkit.Frames(append(testkit.Numbered(10, 50), map[string]string{"ping": "pong"}[msg])...))
			}
		}()
		require.NoError(t, c.Send(t.Context(), []byte("go")))
		for range 300 {
			time.Sleep(17 * time.Second)
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
	}),

	"H8 ping behind a huge flush": testkit.InBubble(func(t *testing.T) {
		for _, tt := range []struct {
			write time.Duration
			want  error
			after time.Duration
		}{
			{write: -1, want: tcpclient.ErrHeartbeatTimeout, after: 25 * time.Second},
			{write: time.Minute, want: tcpclient.ErrHeartbeatTimeout, after: 25 * time.Second},
			{write: 5 * time.Second, want: tcpclient.ErrWriteTimeout, after: 5 * time.Second},
		} {
			l := testkit.ListenMemory(t)
			c, p := l.Connect(t, tcpclient.Dialer{Heartbeat: testkit.Pinging(), WriteTimeout: tt.write, Reconnect: &tcpclient.Backoff{}})
			start := time.Now()
			err := c.Send(t.Context(), make([]byte, 1<<20))
			require.ErrorIs(t, err, tt.want)
			require.False(t, testkit.OpError(t, err).Unsent)
			require.InDelta(t, tt.after.Seconds(), time.Since(start).Seconds(), 0.01)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tt.want)
			testkit.HangUp(p)
			again := l.AcceptPeer(t)
			testkit.RequireAlive(t, c, again) // the message of 1 MiB is not sent again, and the loss was told
			require.NoError(t, c.Close())
		}
	}),

	"H9 ping inside a half-written frame": testkit.InBubble(func(t *testing.T) { // P3
		h := testkit.Pinging()
		h.Interval, h.Timeout = 20*time.Millisecond, time.Hour
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
		const n = 60
		go func() {
			for _, msg := range testkit.Numbered(n, 100_000) {
				if c.Send(t.Context(), []byte(msg)) != nil {
					return
				}
			}
		}()
		pings, want := 0, testkit.Numbered(n, 100_000)
		for i := 0; i < n; {
			msg := p.Receive()
			time.Sleep(30 * time.Millisecond)
			if msg == "ping" {
				pings++
				p.Send("pong")
				continue
			}
			require.True(t, want[i] == msg, "frame %d is torn: %.60q", i, msg)
			i++
		}
		require.Greater(t, pings, 20)
	}),

	"H10 ping of the server while our writes are blocked": testkit.InBubble(func(t *testing.T) {
		h := testkit.Pinging()
		h.Answer = func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" }
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h, WriteTimeout: -1})
		sent := make(chan error, 1)
		go func() { sent <- c.Send(t.Context(), make([]byte, 1<<20)) }()
		synctest.Wait()
		for i := range 3000 { // far more than urgent answers are kept
			p.Send("PING", "data")
			_, err := c.Receive(t.Context())
			require.NoError(t, err, "round %d", i)
			time.Sleep(time.Second)
		}
		require.Len(t, p.Receive(), 1<<20)
		require.NoError(t, <-sent)
		pongs := 0
		require.NoError(t, c.Send(t.Context(), []byte("end")))
		for {
			msg := p.Receive()
			if msg == "end" {
				break
			}
			require.Contains(t, []string{"PONG", "ping"}, msg)
			pongs++
		}
		require.Greater(t, pongs, 0)
		require.LessOrEqual(t, pongs, 16<<10/8+2, "answers for a peer that does not read are bounded")
	}),

	"H11 timers while disconnected": testkit.InBubble(func(t *testing.T) {
		var pings atomic.Int32
		h := testkit.Pinging()
		h.Ping = func() []byte { pings.Add(1); return []byte("ping") }
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Heartbeat: h, Reconnect: &tcpclient.Backoff{}})
		l.Close()
		testkit.HangUp(p)
		time.Sleep(time.Hour)
		require.Zero(t, pings.Load())
		require.NoError(t, c.Close())
		time.Sleep(time.Hour)
		require.Zero(t, pings.Load())

		c, p = testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
		require.Equal(t, "ping", p.Receive())
		require.NoError(t, c.Close())
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, pings.Load())
	}),

	"H12 heartbeat frame collides with a user frame": testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		p.Send("pong", "pong ", "Pong", "", "pong", "ponG", "apong")
		for _, want := range []string{"pong ", "Pong", "", "ponG", "apong"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
		h := testkit.Pinging()
		h.IsPong = nil
		c, p = testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
		p.Send("pong")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "pong", string(msg), "without IsPong there are no pongs")
	}),

	"H13 interval below the round trip": testkit.InBubble(func(t *testing.T) {
		h := testkit.Pinging()
		h.Interval, h.Timeout = 500*time.Millisecond, 3*time.Second
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: h})
		go func() {
			for {
				if _, err := p.Next(); err != nil {
					return
				}
				time.AfterFunc(1400*time.Millisecond, func() { p.Write(testkit.Frame("pong")) })
			}
		}()
		time.Sleep(time.Hour)
		require.True(t, c.Stats().Connected)
		require.Equal(t, 1400*time.Millisecond, c.Stats().RTT)
		testkit.HangUp(p)
		time.Sleep(2 * time.Second)
	}),

	"H15 clock step": func(t *testing.T) {
		// The wall clock cannot be stepped here. What strips the monotonic clock from a
		// time.Time, or measures by the wall clock, must not occur.
		var paths []string
		for _, dir := range testkit.GoList(t, "-deps", "-f", "{{if not .Standard}}{{.Dir}}{{end}}", "../..") {
			found, err := filepath.Glob(filepath.Join(dir, "*.go"))
			require.NoError(t, err)
			paths = append(paths, found...)
		}
		read := 0
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			read++
			source := testkit.ReadFile(t, path)
			for _, forbidden := range []string{".Round(0)", ".Truncate(", ".Unix(", ".UnixNano", ".UnixMilli", ".UTC()", ".Local()", ".In(time", "time.Date(", "time.Parse(", ".MarshalBinary"} {
				require.NotContains(t, source, forbidden, path)
			}
		}
		require.Greater(t, read, 10)
	},
}
