package liveness

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The Monitor by arithmetic: no connection, no clock, no goroutine.

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// since0 is the inverse of at, for messages that can be read.
func since0(t time.Time) time.Duration { return t.Sub(epoch) }

func newMonitor(interval, timeout, frameTimeout time.Duration, pings bool) *Monitor {
	m := New(Settings{Interval: interval, Timeout: timeout, FrameTimeout: frameTimeout, Pings: pings}, at(0), time.Time{})
	return &m
}

// newTalking returns the Monitor of a connection on which we are never silent: what it wants is about
// the silence of the peer.
func newTalking(interval, timeout, frameTimeout time.Duration) *Monitor {
	m := newMonitor(interval, timeout, frameTimeout, true)
	m.speak(at(1000 * time.Hour))
	return m
}

// waits begins to wait for the socket, and returns when that is to end.
func (m *Monitor) waits(now time.Duration, inFrame bool) (due time.Duration) {
	m.Resume(at(now), inFrame)
	return since0(m.Next())
}

// arrives is a whole message, read at now and dispatched by then.
func (m *Monitor) arrives(now time.Duration) {
	m.Arrived(at(now))
	m.Message()
}

// wakes checks at now, after a wait that was to end when Next said.
func (m *Monitor) wakes(now time.Duration, out Outbound) Action {
	return m.Check(at(now), m.Next(), out)
}

const sec, ms = time.Second, time.Millisecond

func TestMonitor(t *testing.T) {
	t.Run("pings after the interval and gives up after the timeout", func(t *testing.T) { // P5
		m := newMonitor(10*sec, 25*sec, 0, true)
		require.Equal(t, 10*sec, m.waits(0, false))
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		require.Equal(t, 25*sec, since0(m.Next()))
		require.Equal(t, Wait, m.wakes(25*sec-1, Outbound{}))
		require.Equal(t, HeartbeatExpired, m.wakes(25*sec, Outbound{}))
	})

	t.Run("without a ping only watches the silence", func(t *testing.T) {
		m := newMonitor(10*sec, 25*sec, 0, false)
		require.Equal(t, 25*sec, m.waits(0, false))
		require.Equal(t, HeartbeatExpired, m.wakes(25*sec, Outbound{}))
	})

	t.Run("without an interval watches nothing between frames", func(t *testing.T) {
		m := newMonitor(0, 0, 30*sec, true)
		require.False(t, m.Watches(false))
		require.True(t, m.Watches(true))
		require.True(t, m.Next().IsZero())
		m = newMonitor(0, 0, 0, true)
		require.False(t, m.Watches(true))
	})

	t.Run("any message is life, an answered ping as well", func(t *testing.T) { // H2, H4
		m := newTalking(10*sec, 25*sec, 0)
		m.waits(0, false)
		m.arrives(7 * sec)
		require.Equal(t, 17*sec, m.waits(7*sec, false))
		require.Equal(t, SendPing, m.wakes(17*sec, Outbound{}))
		m.arrives(20 * sec)
		require.Equal(t, 30*sec, m.waits(20*sec, false), "the next ping is due an interval after the last message")
		require.Equal(t, SendPing, m.wakes(30*sec, Outbound{}))
	})

	t.Run("measures the round trip up to the bytes of the pong", func(t *testing.T) { // H1
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		m.arrives(10*sec + 700*ms)
		rtt, ok := m.Pong()
		require.True(t, ok)
		require.Equal(t, 700*ms, rtt)
		_, ok = m.Pong()
		require.False(t, ok, "a second pong answers no ping")
	})

	t.Run("takes the answer to a ping after another message", func(t *testing.T) { // H1
		m := newTalking(10*sec, 25*sec, 0)
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{Acked: 7, Queued: true, Behind: true}))
		m.arrives(11 * sec)
		require.Equal(t, 21*sec, m.waits(11*sec, false), "a ping that waits after our own data is not looked for any more")
		m.arrives(13 * sec)
		rtt, ok := m.Pong()
		require.True(t, ok)
		require.Equal(t, 3*sec, rtt)
		require.Equal(t, 23*sec, m.waits(13*sec, false))
	})

	t.Run("takes no message for an answer where no ping was sent", func(t *testing.T) { // H1
		m := newTalking(10*sec, 25*sec, 0)
		m.waits(0, false)
		m.arrives(5 * sec)
		_, ok := m.Pong()
		require.False(t, ok)
		require.Equal(t, 15*sec, m.waits(5*sec, false))
	})

	t.Run("counts no silence while no goroutine reads", func(t *testing.T) { // P5, H6
		m := newTalking(10*sec, 25*sec, 0)
		m.waits(0, false)
		m.arrives(1 * sec)
		// The application does not receive for an hour: the reader is stuck with the message.
		require.Equal(t, time.Hour+10*sec, m.waits(time.Hour, false))
	})

	t.Run("counts no silence between a part of a frame and the next read", func(t *testing.T) { // P5
		m := newTalking(10*sec, 25*sec, 0)
		m.waits(0, false)
		m.Arrived(at(4 * sec))
		m.waits(14*sec, true) // the reader was held for 10 s
		m.Arrived(at(15 * sec))
		require.Equal(t, 20*sec, m.waits(15*sec, false), "4 s and 1 s of silence are counted, although the rest was no message")
	})

	t.Run("forgives a late ping and gives the peer all the time to answer", func(t *testing.T) { // P5
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(time.Hour, Outbound{}))
		require.Equal(t, time.Hour+15*sec, since0(m.Next()))
		require.Equal(t, Wait, m.wakes(time.Hour+15*sec-1, Outbound{}))
		require.Equal(t, HeartbeatExpired, m.wakes(time.Hour+15*sec, Outbound{}))
	})

	for name, pings := range map[string]bool{"with a ping out": true, "without pings": false} {
		for _, late := range []time.Duration{lateBy + 1, 5 * ms, 12 * ms, 300 * ms, 3 * sec, 15 * sec, time.Minute, time.Hour} {
			t.Run(fmt.Sprintf("a verdict that is %v late %s is put off for one fresh read", late, name), func(t *testing.T) { // P5, Y1
				m := newMonitor(10*sec, 25*sec, 0, pings)
				m.waits(0, false)
				if pings {
					require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
				}
				now := 25*sec + late
				require.Equal(t, Wait, m.wakes(now, Outbound{}))
				// The runtime does not even try to read once the deadline has passed.
				due := since0(m.Next())
				require.Greater(t, due, now, "the next read has no time to find what is in the socket")
				require.GreaterOrEqual(t, due, now+minGrace)
				require.LessOrEqual(t, due, now+15*sec, "the grace is longer than the peer ever had to answer")
				require.Equal(t, HeartbeatExpired, m.wakes(due, Outbound{}))
			})
		}
	}

	t.Run("a ping is not repeated while it is out, whatever grace was granted", func(t *testing.T) {
		m := newMonitor(1*sec, 10*sec, 0, true)
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(1*sec, Outbound{}))
		for _, now := range []time.Duration{60 * sec, 61 * sec, 62 * sec, 69 * sec} {
			require.NotEqual(t, SendPing, m.wakes(now, Outbound{}), "at %v", now)
		}
	})

	t.Run("forgives again after a message", func(t *testing.T) {
		m := newMonitor(10*sec, 25*sec, 0, false)
		m.waits(0, false)
		require.Equal(t, Wait, m.wakes(time.Minute, Outbound{}))
		m.arrives(time.Minute)
		m.waits(time.Minute, false)
		require.Equal(t, Wait, m.wakes(2*time.Minute, Outbound{}))
	})

	t.Run("a timer that is a little late is on time", func(t *testing.T) {
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(10*sec+lateBy, Outbound{}))
		require.Equal(t, 25*sec, since0(m.Next()))
		require.Equal(t, HeartbeatExpired, m.wakes(25*sec+lateBy, Outbound{}))
	})
}

func TestMonitorInsideFrame(t *testing.T) {
	t.Run("FrameTimeout rules while bytes come", func(t *testing.T) { // P5, S17
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		for now := 5 * sec; now < 35*sec; now += sec {
			m.Arrived(at(now))
			require.Equal(t, min(35*sec, now+25*sec), m.waits(now, true))
			require.Equal(t, Wait, m.Check(at(now+sec/2), at(now+sec/2), Outbound{}))
		}
		require.Equal(t, FrameExpired, m.wakes(35*sec, Outbound{}))
	})

	t.Run("the heartbeat rules when bytes stop", func(t *testing.T) { // P5
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		m.Arrived(at(3 * sec))
		require.Equal(t, 28*sec, m.waits(3*sec, true))
		require.Equal(t, HeartbeatExpired, m.wakes(28*sec, Outbound{}))
	})

	t.Run("FrameTimeout rules when it is sooner", func(t *testing.T) {
		m := newTalking(10*sec, 25*sec, 2*sec)
		m.waits(0, false)
		m.Arrived(at(3 * sec))
		require.Equal(t, 5*sec, m.waits(3*sec, true))
		require.Equal(t, FrameExpired, m.wakes(5*sec, Outbound{}))
	})

	t.Run("FrameTimeout works without a heartbeat", func(t *testing.T) {
		m := newMonitor(0, 0, 2*sec, false)
		m.waits(3*sec, true)
		require.Equal(t, FrameExpired, m.wakes(5*sec, Outbound{}))
	})

	t.Run("without FrameTimeout bytes are life", func(t *testing.T) {
		m := newTalking(10*sec, 25*sec, 0)
		for now := time.Duration(0); now < time.Hour; now += 24 * sec {
			m.Arrived(at(now))
			require.Equal(t, now+25*sec, m.waits(now, true))
			require.Equal(t, Wait, m.Check(at(now+24*sec), at(now+24*sec), Outbound{}))
		}
	})

	t.Run("no ping is sent for the silence of the peer", func(t *testing.T) {
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		m.Arrived(at(9 * sec))
		m.waits(9*sec, true)
		for now := 9 * sec; now < 34*sec; now += 100 * ms {
			require.Equal(t, Wait, m.Check(at(now), at(now), Outbound{}))
		}
	})

	t.Run("the frame's end is life, and the next frame has a time of its own", func(t *testing.T) {
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		m.Arrived(at(5 * sec))
		m.waits(5*sec, true)
		m.arrives(34 * sec)
		require.Equal(t, 59*sec, m.waits(34*sec, true)) // silence
		m.Arrived(at(58 * sec))
		require.Equal(t, 64*sec, m.waits(58*sec, true)) // the frame that began at 34
		m.arrives(63 * sec)
		require.Equal(t, 73*sec, m.waits(63*sec, false))
	})

	t.Run("time in which no goroutine reads is not counted", func(t *testing.T) {
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		m.arrives(5 * sec)
		require.Equal(t, time.Hour+25*sec, m.waits(time.Hour, true), "the frame began while a full Inbox held the reader")
	})

	for _, late := range []time.Duration{5 * ms, 300 * ms, 3 * sec, 30 * sec, time.Hour} {
		for _, frameTimeout := range []time.Duration{20 * sec, 40 * sec} { // which of the two verdicts is the first
			t.Run(fmt.Sprintf("a verdict after %v that is %v late is put off for one fresh read", frameTimeout, late), func(t *testing.T) { // P5
				m := newTalking(10*sec, 25*sec, frameTimeout)
				m.waits(0, false)
				m.Arrived(at(0))
				now := m.waits(0, true) + late
				require.Equal(t, Wait, m.wakes(now, Outbound{}))
				due := since0(m.Next())
				require.GreaterOrEqual(t, due, now+minGrace, "the next read has no time to find what is in the socket")
				require.LessOrEqual(t, due, now+40*sec)
				require.Contains(t, []Action{HeartbeatExpired, FrameExpired}, m.wakes(due, Outbound{}))
			})
		}
	}
}

// hands tells the Monitor at now that bytes were handed to the network then.
func (m *Monitor) hands(now, then time.Duration) Action {
	return m.Check(at(now), m.Next(), Outbound{Handed: at(then)})
}

func TestMonitorOwnSilence(t *testing.T) {
	t.Run("pings after the interval of our silence, however much arrives", func(t *testing.T) { // P5, A1
		m := newMonitor(10*sec, 25*sec, 0, true)
		last := time.Duration(0)
		for now := time.Duration(0); now < time.Hour; now += sec {
			require.Equal(t, last+10*sec, m.waits(now, false))
			if now == last+10*sec {
				require.Equal(t, SendPing, m.wakes(now, Outbound{}))
				last = now
			}
			m.arrives(now + sec)
		}
	})

	t.Run("what was handed over postpones the ping for our silence only", func(t *testing.T) { // P5, A1
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		m.arrives(7 * sec)
		require.Equal(t, 10*sec, m.waits(7*sec, false))
		require.Equal(t, Wait, m.hands(10*sec, 9*sec))
		require.Equal(t, 17*sec, since0(m.Next()), "the peer's silence")
		m.arrives(11 * sec)
		require.Equal(t, 19*sec, m.waits(11*sec, false), "ours")
		require.Equal(t, SendPing, m.hands(19*sec, 9*sec))
	})

	t.Run("our silence begins with what was handed over before the Monitor was made", func(t *testing.T) { // P5, A1
		m := New(Settings{Interval: 10 * sec, Timeout: 25 * sec, Pings: true}, at(8*sec), at(0))
		require.Equal(t, 10*sec, m.waits(8*sec, false))
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		require.Equal(t, 33*sec, since0(m.Next()), "and the peer's with the Monitor")
	})

	t.Run("the ping for our silence is that for the peer's as well", func(t *testing.T) { // P5
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		m.arrives(7 * sec)
		require.Equal(t, 10*sec, m.waits(7*sec, false))
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		require.Equal(t, 32*sec, since0(m.Next()), "one ping is outstanding")
		require.Equal(t, HeartbeatExpired, m.wakes(32*sec, Outbound{}))
	})

	t.Run("there is another while one is unanswered if something has arrived", func(t *testing.T) { // P5, A1
		m := newMonitor(10*sec, 55*sec, 0, true)
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		require.Equal(t, 55*sec, since0(m.Next()), "a slow peer is not buried in pings")
		m.arrives(12 * sec)
		require.Equal(t, 20*sec, m.waits(12*sec, false))
		require.Equal(t, SendPing, m.wakes(20*sec, Outbound{}))
		require.Equal(t, 67*sec, since0(m.Next()), "a slow peer is not buried in pings")
		m.arrives(50 * sec)
		require.Equal(t, 30*sec, m.waits(50*sec, false), "it is late already")
		require.Equal(t, SendPing, m.wakes(50*sec, Outbound{}))
		require.Equal(t, 105*sec, since0(m.Next()))
	})

	t.Run("another ping in the same silence gives the peer no time, and takes none", func(t *testing.T) { // P5, A1
		m := newMonitor(10*sec, 26*sec, 30*sec, true) // looks every 2 s
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{Acked: 1, Queued: true, Behind: true}))
		require.Equal(t, Wait, m.wakes(12*sec, Outbound{Acked: 2, Queued: true, Behind: true}))
		m.Arrived(at(13 * sec))
		m.RecordBegan(at(13 * sec))
		require.Equal(t, 20*sec, since0(m.Next()))
		require.Equal(t, SendPing, m.wakes(20*sec, Outbound{Acked: 2, Queued: true, Behind: true}))
		require.Equal(t, 39*sec, since0(m.Next()), "the bytes stopped at 13 s")
		m.RecordEnded() // it was no frame
		require.Equal(t, 28*sec, since0(m.deadline()), "16 s after the last acknowledgement")
	})

	t.Run("no ping is sent where there is none to send", func(t *testing.T) {
		for _, m := range []*Monitor{newMonitor(10*sec, 25*sec, 0, false), newMonitor(0, 0, 30*sec, true)} {
			require.True(t, m.NextUnread().IsZero())
			require.Equal(t, Wait, m.CheckUnread(at(time.Hour), Outbound{}))
			m.waits(0, false)
			m.arrives(20 * sec)
			m.waits(20*sec, false)
			require.Equal(t, Wait, m.Check(at(40*sec), at(40*sec), Outbound{}))
		}
	})
}

func TestMonitorWhileNothingIsRead(t *testing.T) {
	t.Run("pings go on, and there is no verdict", func(t *testing.T) { // P5, A2
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		m.arrives(5 * sec)
		for now := 10 * sec; now < time.Hour; now += 10 * sec {
			require.Equal(t, now, since0(m.NextUnread()))
			require.Equal(t, Wait, m.CheckUnread(at(now-1), Outbound{}))
			require.Equal(t, SendPing, m.CheckUnread(at(now), Outbound{}))
		}
		require.Equal(t, time.Hour+10*sec, m.waits(time.Hour, false), "and the peer has all its time")
		require.Equal(t, SendPing, m.wakes(time.Hour+10*sec, Outbound{}))
		require.Equal(t, time.Hour+25*sec, since0(m.Next()))
	})

	t.Run("what is handed over postpones the ping", func(t *testing.T) { // P5, A2
		m := newMonitor(10*sec, 25*sec, 0, true)
		require.Equal(t, Wait, m.CheckUnread(at(10*sec), Outbound{Handed: at(4 * sec)}))
		require.Equal(t, 14*sec, since0(m.NextUnread()))
		require.Equal(t, SendPing, m.CheckUnread(at(14*sec), Outbound{Handed: at(4 * sec)}))
	})
}

func TestMonitorPongs(t *testing.T) {
	// pinging has sent a ping each 10 s from 10 s on.
	pinging := func(n int) *Monitor {
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		for i := range n {
			m.CheckUnread(at(time.Duration(i+1)*10*sec), Outbound{})
		}
		return m
	}

	t.Run("each answers the oldest ping that has no answer", func(t *testing.T) { // P5, A2
		m := pinging(30)
		m.arrives(301 * sec)
		for i := range 30 {
			rtt, ok := m.Pong()
			require.True(t, ok)
			require.Equal(t, 301*sec-time.Duration(i+1)*10*sec, rtt)
		}
		_, ok := m.Pong()
		require.False(t, ok)
	})

	t.Run("none answers a ping that was dropped", func(t *testing.T) {
		for _, n := range []int{1, 2, maxTimed, maxTimed + 1, maxTimed + 2} {
			m, want := pinging(n), pinging(n-1)
			m.PingDropped()
			require.Equal(t, len(want.unanswered.sent), len(m.unanswered.sent), n)
			require.Equal(t, want.unanswered.untimed, m.unanswered.untimed, n)
		}
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.PingDropped()
		require.Empty(t, m.unanswered.sent)
	})

	t.Run("none answers a ping that was sent after it had come", func(t *testing.T) {
		m := pinging(1)
		m.arrives(9 * sec)
		_, ok := m.Pong()
		require.False(t, ok)
		m.arrives(11 * sec)
		rtt, ok := m.Pong()
		require.True(t, ok)
		require.Equal(t, sec, rtt)
	})

	t.Run("a peer that answers none costs bounded memory, and no other ping is taken for an answered one", func(t *testing.T) { // P6
		m := pinging(maxTimed + 100)
		require.Len(t, m.unanswered.sent, maxTimed)
		now := time.Duration(maxTimed+100)*10*sec + sec
		m.arrives(now)
		for i := range maxTimed + 100 {
			rtt, ok := m.Pong()
			require.Equal(t, i < maxTimed, ok, "pong %d", i)
			if ok {
				require.Equal(t, now-time.Duration(i+1)*10*sec, rtt)
			}
		}
		require.Equal(t, SendPing, m.CheckUnread(at(now+10*sec), Outbound{}))
		m.arrives(now + 11*sec)
		rtt, ok := m.Pong()
		require.True(t, ok, "all before it are answered")
		require.Equal(t, sec, rtt)
	})
}

func TestMonitorInsideRecord(t *testing.T) {
	// begins is the beginning of a TLS record, whose rest is waited for from now on.
	begins := func(m *Monitor, now time.Duration) (due time.Duration) {
		m.Arrived(at(now))
		m.RecordBegan(at(now))
		return since0(m.Next())
	}
	// ends is the end of one that has brought nothing to read.
	ends := func(m *Monitor, now time.Duration) (due time.Duration) {
		m.Arrived(at(now))
		m.RecordEnded()
		return since0(m.Next())
	}

	t.Run("FrameTimeout rules while bytes come", func(t *testing.T) { // P5, F1
		m := newTalking(1*sec, 3*sec, 30*sec)
		m.waits(0, false)
		begins(m, 2*sec)
		for now := 2 * sec; now < 31*sec; now += 100 * ms {
			m.Arrived(at(now))
			require.Equal(t, min(32*sec, now+3*sec), since0(m.Next()))
			require.Equal(t, Wait, m.wakes(now+50*ms, Outbound{}))
		}
		m.Arrived(at(31 * sec))
		require.Equal(t, FrameExpired, m.wakes(32*sec, Outbound{}))
	})

	t.Run("the heartbeat rules when bytes stop", func(t *testing.T) { // P5, F2
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		require.Equal(t, 28*sec, begins(m, 3*sec))
		require.Equal(t, HeartbeatExpired, m.wakes(28*sec, Outbound{}))
	})

	t.Run("FrameTimeout works without a heartbeat", func(t *testing.T) { // P5, F2
		m := newMonitor(0, 0, 2*sec, false)
		m.RecordBegan(at(3 * sec))
		require.Equal(t, 5*sec, since0(m.Next()))
		require.Equal(t, FrameExpired, m.wakes(5*sec, Outbound{}))
	})

	t.Run("one that has brought nothing to read was no frame, and no life", func(t *testing.T) { // P5, F1
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		begins(m, 2*sec)
		require.Equal(t, 10*sec, ends(m, 4*sec))
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		require.Equal(t, HeartbeatExpired, m.wakes(25*sec, Outbound{}))

		m = newMonitor(0, 0, 30*sec, false)
		m.RecordBegan(at(2 * sec))
		m.RecordEnded()
		require.True(t, m.Next().IsZero(), "a ticket is no reason to wait for more")
	})

	t.Run("a frame that spans records keeps the time of its first byte", func(t *testing.T) { // P5, F1
		m := newTalking(10*sec, 25*sec, 30*sec)
		m.waits(0, false)
		begins(m, 2*sec)
		m.Arrived(at(20 * sec))
		m.waits(20*sec, true) // the first record was whole
		require.Equal(t, 32*sec, begins(m, 20*sec))
		m.Arrived(at(31 * sec))
		require.Equal(t, 32*sec, m.waits(31*sec, true)) // and so was the second
		require.Equal(t, FrameExpired, m.wakes(32*sec, Outbound{}))
	})

	t.Run("a frame that begins in a record after a message has a time of its own", func(t *testing.T) { // P5, F1
		m := newTalking(10*sec, 55*sec, 30*sec)
		m.waits(0, false)
		begins(m, 2*sec)
		m.arrives(20 * sec)
		require.Equal(t, 50*sec, m.waits(20*sec, true))
	})

	t.Run("a record after one that was whole has a time of its own", func(t *testing.T) { // P5, F1
		m := newTalking(10*sec, 55*sec, 30*sec)
		m.waits(0, false)
		begins(m, 2*sec)
		m.arrives(20 * sec)
		m.waits(20*sec, false)
		m.RecordBegan(at(21 * sec)) // of which a part came with that
		require.Equal(t, 51*sec, since0(m.Next()))
		require.Equal(t, 60*sec, begins(m, 30*sec), "several records that bring nothing to read")
	})

	t.Run("a verdict that is late is put off for one fresh read", func(t *testing.T) { // P5, F1
		m := newTalking(10*sec, 25*sec, 20*sec)
		m.waits(0, false)
		due := begins(m, 2*sec)
		require.Equal(t, 22*sec, due)
		require.Equal(t, Wait, m.wakes(due+time.Minute, Outbound{}))
		require.Greater(t, since0(m.Next()), due+time.Minute)
		require.Equal(t, FrameExpired, m.wakes(since0(m.Next()), Outbound{}))
	})
}

func TestMonitorBehindBulkData(t *testing.T) {
	// bulk is a ping at 10 s that lies behind our own data.
	bulk := func(t *testing.T) *Monitor {
		m := newMonitor(10*sec, 26*sec, 0, true) // looks every 2 s
		m.waits(0, false)
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{Acked: 1000, Queued: true, Behind: true}))
		return m
	}

	t.Run("the peer has its time from when its TCP last took something", func(t *testing.T) { // P5, H8
		m := bulk(t)
		acked := int64(1000)
		now := since0(m.Next())
		moved := now
		for ; now < 3600*sec; now = since0(m.Next()) {
			acked++
			moved = now
			require.Equal(t, Wait, m.wakes(now, Outbound{Acked: acked, Queued: true, Behind: true}), "at %v", now)
		}
		for ; ; now = since0(m.Next()) {
			if r := m.wakes(now, Outbound{Acked: acked, Queued: true, Behind: true}); r != Wait {
				require.Equal(t, HeartbeatExpired, r)
				break
			}
		}
		require.Equal(t, moved+16*sec, now, "16 s after the last acknowledgement")
	})

	t.Run("of a peer that takes nothing the timeout is as ever", func(t *testing.T) { // P5
		m := bulk(t)
		now := since0(m.Next())
		for ; ; now = since0(m.Next()) {
			if r := m.wakes(now, Outbound{Acked: 1000, Queued: true, Behind: true}); r != Wait {
				require.Equal(t, HeartbeatExpired, r)
				break
			}
		}
		require.Equal(t, 26*sec, now)
	})

	t.Run("a ping that left at once has no more time than any", func(t *testing.T) {
		m := bulk(t)
		now := since0(m.Next())
		require.Equal(t, 12*sec, now)
		require.Equal(t, Wait, m.wakes(now, Outbound{Acked: 1009}))
		require.Equal(t, 26*sec, since0(m.Next()))
		require.Equal(t, HeartbeatExpired, m.wakes(26*sec, Outbound{Acked: 1009}))
	})

	t.Run("once the ping is through the time runs", func(t *testing.T) {
		m := bulk(t)
		require.Equal(t, Wait, m.wakes(12*sec, Outbound{Acked: 1500, Queued: true, Behind: true}))
		require.Equal(t, Wait, m.wakes(14*sec, Outbound{Acked: 2000, Queued: true}))
		require.Equal(t, 30*sec, since0(m.Next()))
		require.Equal(t, HeartbeatExpired, m.wakes(30*sec, Outbound{Acked: 9999, Queued: true}))
	})

	for _, late := range []time.Duration{lateBy + 1, 5 * ms, 12 * ms, 300 * ms, 3 * sec, time.Minute, time.Hour} {
		t.Run(fmt.Sprintf("a verdict that is %v late is put off for one fresh read", late), func(t *testing.T) { // P5, Y1
			m := bulk(t)
			acked := int64(1000)
			for now := since0(m.Next()); now < 60*sec; now = since0(m.Next()) {
				acked++
				require.Equal(t, Wait, m.wakes(now, Outbound{Acked: acked, Queued: true, Behind: now < 58*sec}))
			}
			now := since0(m.Next()) + late
			require.Equal(t, Wait, m.wakes(now, Outbound{Acked: acked}))
			due := since0(m.Next())
			require.GreaterOrEqual(t, due, now+minGrace, "the next read has no time to find what is in the socket")
			require.LessOrEqual(t, due, now+16*sec, "the grace is longer than the peer ever had to answer")
			require.Equal(t, HeartbeatExpired, m.wakes(due, Outbound{Acked: acked}))
		})
	}

	t.Run("an acknowledgement of a former ping is none of this one", func(t *testing.T) {
		m := bulk(t)
		m.wakes(12*sec, Outbound{Acked: 1500, Behind: true})
		m.arrives(13 * sec)
		m.waits(13*sec, false)
		require.Equal(t, SendPing, m.wakes(23*sec, Outbound{}))
		require.Equal(t, 39*sec, since0(m.Next()))
	})
}

// A peerModel is a peer of a Monitor, and the goroutine that reads from it, with the semantics
// of the runtime: a read whose deadline has passed fails without looking into the socket, and
// when both have come during a suspension the deadline wins.
type peerModel struct {
	monitor *Monitor
	now     time.Duration
	arrival []time.Duration // of messages from the peer, in order
	pinged  []time.Duration
	handed  []time.Duration // what we send but for pings, in order
	backlog time.Duration   // how long a ping waits behind our own data
	// Suspensions of this process: at from, for. In order.
	stops [][2]time.Duration
	// The same for waits of the reader for something else than the socket, which begin with a
	// message.
	holds [][2]time.Duration
}

// outbound is what was handed over by now.
func (sim *peerModel) outbound() (out Outbound) {
	for len(sim.handed) > 1 && sim.handed[1] <= sim.now {
		sim.handed = sim.handed[1:]
	}
	if len(sim.handed) > 0 && sim.handed[0] <= sim.now {
		out.Handed = at(sim.handed[0])
	}
	if sim.backlog > 0 {
		acked := sim.now
		if n := len(sim.pinged); n > 0 {
			leaves := sim.pinged[n-1] + sim.backlog
			acked, out.Behind = min(acked, leaves), sim.now < leaves
		}
		out.Acked, out.Queued = int64(acked), true
	}
	return out
}

// hold lets the time pass in which the socket is not read, if there is such now.
func (sim *peerModel) hold(onPing func(now time.Duration)) {
	for len(sim.holds) > 0 && sim.holds[0][0] <= sim.now {
		end := sim.now + sim.holds[0][1]
		sim.holds = sim.holds[1:]
		for {
			next := max(sim.now, since0(sim.monitor.NextUnread()))
			if next >= end {
				break
			}
			sim.now = next
			if sim.monitor.CheckUnread(at(sim.now), sim.outbound()) == SendPing {
				sim.pinged = append(sim.pinged, sim.now)
				onPing(sim.now)
			}
		}
		sim.now = end
	}
}

// pass lets the time pass until then, and through suspensions that begin before.
func (sim *peerModel) pass(then time.Duration) {
	sim.now = max(sim.now, then)
	for len(sim.stops) > 0 && sim.stops[0][0] <= sim.now {
		sim.now = max(sim.now, sim.stops[0][0]+sim.stops[0][1])
		sim.stops = sim.stops[1:]
	}
}

// run reads until a verdict or the end. onPing tells when the answer to a ping arrives.
func (sim *peerModel) run(until time.Duration, onPing func(now time.Duration)) Action {
	for sim.now < until {
		sim.monitor.Resume(at(sim.now), false)
		for {
			due := sim.monitor.Next()
			data := time.Duration(1 << 62)
			if len(sim.arrival) > 0 {
				data = sim.arrival[0]
			}
			if at(sim.now).Before(due) || due.IsZero() {
				if data <= sim.now {
					break
				}
				sim.pass(min(data, since0(due)))
				if late := at(sim.now).Sub(due); late > 0 && late <= lateBy {
					sim.now += lateBy // a suspension that ends just there would be taken for none
				}
				if data <= sim.now && at(sim.now).Before(due) {
					break
				}
			}
			if sim.now >= until {
				return Wait
			}
			switch r := sim.monitor.Check(at(sim.now), due, sim.outbound()); r {
			case SendPing:
				sim.pinged = append(sim.pinged, sim.now)
				onPing(sim.now)
			case HeartbeatExpired, FrameExpired:
				return r
			}
		}
		sim.monitor.arrives(sim.now)
		sim.arrival = sim.arrival[1:]
		sim.hold(onPing)
	}
	return Wait
}

func TestMonitorSimulation(t *testing.T) {
	runs := uint64(3000)
	if raceEnabled {
		runs = 500 // one goroutine and arithmetic: nothing for the race detector to find
	}

	t.Run("a peer that answers in time is never dead, however often we are suspended", func(t *testing.T) { // P5
		for seed := range runs {
			rng := rand.New(rand.NewPCG(seed, 1))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			sim := &peerModel{monitor: newMonitor(interval, timeout, 30*sec, true)}
			for now := time.Duration(0); now < 300*sec; {
				now += time.Duration(rng.Int64N(int64(30 * sec)))
				d := time.Duration(rng.Int64N(int64(40 * sec)))
				sim.stops = append(sim.stops, [2]time.Duration{now, d})
				now += d
			}
			patience := timeout - interval
			if seed%2 == 1 {
				sim.backlog = time.Duration(rng.Int64N(int64(60 * sec)))
				patience -= 2 * sim.monitor.pollInterval() // that much later it may be known that the ping has left
			}
			r := sim.run(300*sec, func(now time.Duration) {
				sim.arrival = append(sim.arrival, now+sim.backlog+time.Duration(rng.Int64N(int64(patience))))
				slices.Sort(sim.arrival)
			})
			require.Equal(t, Wait, r, "seed %d: interval %v, timeout %v, dead at %v, pinged at %v, answer at %v", seed, interval, timeout, sim.now, sim.pinged, sim.arrival)
		}
	})

	t.Run("a peer that talks on its own is never dead, however often we are suspended", func(t *testing.T) { // P5
		for seed := range runs {
			rng := rand.New(rand.NewPCG(seed, 2))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			sim := &peerModel{monitor: newMonitor(interval, timeout, 30*sec, false)}
			for now := time.Duration(0); now < 300*sec; {
				now += time.Duration(rng.Int64N(int64(30 * sec)))
				d := time.Duration(rng.Int64N(int64(40 * sec)))
				sim.stops = append(sim.stops, [2]time.Duration{now, d})
				now += d
			}
			for now := time.Duration(0); now < 400*sec; {
				now += time.Duration(rng.Int64N(int64(timeout - ms)))
				sim.arrival = append(sim.arrival, now)
			}
			r := sim.run(300*sec, func(time.Duration) {})
			require.Equal(t, Wait, r, "seed %d: interval %v, timeout %v, dead at %v, next message at %v", seed, interval, timeout, sim.now, sim.arrival)
		}
	})

	for name, answers := range map[string]bool{"answers": true, "only talks": false} {
		t.Run("a peer that "+name+", and watches us, is never left without a byte for longer than the interval", func(t *testing.T) { // P5, A1, A2
			for seed := range runs {
				rng := rand.New(rand.NewPCG(seed, 5))
				random := func(most time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(most))) }
				interval := 1*sec + random(10*sec)
				sim := &peerModel{monitor: newMonitor(interval, 3*interval, 30*sec, true)}
				for now := random(interval); now < 300*sec; now += 1 + random(20*sec) {
					sim.handed = append(sim.handed, now)
				}
				for now := random(30 * sec); now < 300*sec; now += random(60 * sec) {
					held := random(40 * sec)
					sim.holds = append(sim.holds, [2]time.Duration{now, held})
					now += held
				}
				if !answers {
					for now := time.Duration(0); now < 400*sec; now += 1 + random(interval/2) {
						sim.arrival = append(sim.arrival, now)
					}
				}
				heard := append([]time.Duration{0}, sim.handed...)
				r := sim.run(300*sec, func(now time.Duration) {
					heard = append(heard, now)
					if answers {
						sim.arrival = append(sim.arrival, now+random(interval/2))
						slices.Sort(sim.arrival)
					}
				})
				require.Equal(t, Wait, r, "seed %d: dead at %v", seed, sim.now)
				heard = append(heard, 300*sec)
				slices.Sort(heard)
				for i, now := range heard[1:] {
					if now-heard[i] > interval {
						require.Fail(t, "silent for longer than the interval", "seed %d: interval %v, from %v to %v", seed, interval, heard[i], now)
					}
				}
				require.LessOrEqual(t, len(sim.pinged), 2*int(300*sec/interval)+1, "seed %d: buried in pings", seed)
			}
		})
	}

	t.Run("a peer that falls silent is dead even if every timer is late", func(t *testing.T) { // Y1
		for _, late := range []time.Duration{lateBy + 1, 10 * ms, 25 * ms, 100 * ms} {
			m := newMonitor(1*sec, 3*sec, 30*sec, true)
			now := m.waits(0, false)
			for r := Wait; r != HeartbeatExpired; now = max(now, since0(m.Next())) {
				now += late
				r = m.wakes(now, Outbound{})
				require.Less(t, now, 5*sec, "timers late by %v", late)
			}
		}
	})

	t.Run("a peer that falls silent is dead within the timeout", func(t *testing.T) { // P5
		for seed := range runs {
			rng := rand.New(rand.NewPCG(seed, 3))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			sim := &peerModel{monitor: newMonitor(interval, timeout, 30*sec, seed%2 == 0)}
			last := time.Duration(0)
			for range rng.IntN(50) {
				last += time.Duration(rng.Int64N(int64(timeout - ms)))
				sim.arrival = append(sim.arrival, last)
			}
			require.Equal(t, HeartbeatExpired, sim.run(3600*sec, func(time.Duration) {}), "seed %d", seed)
			assert.Equal(t, last+timeout, sim.now, "seed %d", seed)
		}
	})

	t.Run("a peer that falls silent is dead soon after the last suspension", func(t *testing.T) { // P5
		for seed := range runs {
			rng := rand.New(rand.NewPCG(seed, 4))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			sim := &peerModel{monitor: newMonitor(interval, timeout, 30*sec, seed%2 == 0)}
			stop := time.Duration(rng.Int64N(int64(30 * sec)))
			sim.stops = [][2]time.Duration{{stop, time.Duration(rng.Int64N(int64(60 * sec)))}}
			resumed := stop + sim.stops[0][1]
			require.Equal(t, HeartbeatExpired, sim.run(3600*sec, func(time.Duration) {}), "seed %d", seed)
			require.LessOrEqual(t, sim.now, max(resumed+timeout, timeout+sim.stops0(resumed)), "seed %d", seed)
		}
	})
}

// stops0 is the latest that a verdict may come after a suspension that ended at resumed.
func (sim *peerModel) stops0(resumed time.Duration) time.Duration {
	return resumed + sim.monitor.grace()
}

func TestAction(t *testing.T) {
	names := map[Action]string{Wait: "wait", SendPing: "send a ping", HeartbeatExpired: "heartbeat expired", FrameExpired: "frame expired", 9: "action 9"}
	for action, name := range names {
		require.Equal(t, name, action.String())
	}
}
