package liveness

import (
	"fmt"
	"math/rand/v2"
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
	m := New(Settings{Interval: interval, Timeout: timeout, FrameTimeout: frameTimeout, Pings: pings}, at(0))
	return &m
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
		m := newMonitor(10*sec, 25*sec, 0, true)
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
		m := newMonitor(10*sec, 25*sec, 0, true)
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
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		m.arrives(5 * sec)
		_, ok := m.Pong()
		require.False(t, ok)
		require.Equal(t, 15*sec, m.waits(5*sec, false))
	})

	t.Run("counts no silence while no goroutine reads", func(t *testing.T) { // P5, H6
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		m.arrives(1 * sec)
		// The application does not receive for an hour: the reader is stuck with the message.
		require.Equal(t, time.Hour+10*sec, m.waits(time.Hour, false))
	})

	t.Run("counts no silence between a part of a frame and the next read", func(t *testing.T) { // P5
		m := newMonitor(10*sec, 25*sec, 0, true)
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
				require.LessOrEqual(t, due, now+15*sec, "the lease is longer than the peer ever had to answer")
				require.Equal(t, HeartbeatExpired, m.wakes(due, Outbound{}))
			})
		}
	}

	t.Run("a ping is not repeated while it is out, whatever lease was granted", func(t *testing.T) {
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
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		for now := 5 * sec; now < 35*sec; now += sec {
			m.Arrived(at(now))
			require.Equal(t, min(35*sec, now+25*sec), m.waits(now, true))
			require.Equal(t, Wait, m.Check(at(now+sec/2), at(now+sec/2), Outbound{}))
		}
		require.Equal(t, FrameExpired, m.wakes(35*sec, Outbound{}))
	})

	t.Run("the heartbeat rules when bytes stop", func(t *testing.T) { // P5
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		m.Arrived(at(3 * sec))
		require.Equal(t, 28*sec, m.waits(3*sec, true))
		require.Equal(t, HeartbeatExpired, m.wakes(28*sec, Outbound{}))
	})

	t.Run("FrameTimeout rules when it is sooner", func(t *testing.T) {
		m := newMonitor(10*sec, 25*sec, 2*sec, true)
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
		m := newMonitor(10*sec, 25*sec, 0, true)
		for now := time.Duration(0); now < time.Hour; now += 24 * sec {
			m.Arrived(at(now))
			require.Equal(t, now+25*sec, m.waits(now, true))
			require.Equal(t, Wait, m.Check(at(now+24*sec), at(now+24*sec), Outbound{}))
		}
	})

	t.Run("no ping is sent", func(t *testing.T) {
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		m.Arrived(at(9 * sec))
		m.waits(9*sec, true)
		for now := 9 * sec; now < 34*sec; now += 100 * ms {
			require.Equal(t, Wait, m.Check(at(now), at(now), Outbound{}))
		}
	})

	t.Run("the frame's end is life, and the next frame has a time of its own", func(t *testing.T) {
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
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
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		m.arrives(5 * sec)
		require.Equal(t, time.Hour+25*sec, m.waits(time.Hour, true), "the frame began while a full Inbox held the reader")
	})

	for _, late := range []time.Duration{5 * ms, 300 * ms, 3 * sec, 30 * sec, time.Hour} {
		for _, frameTimeout := range []time.Duration{20 * sec, 40 * sec} { // which of the two verdicts is the first
			t.Run(fmt.Sprintf("a verdict after %v that is %v late is put off for one fresh read", frameTimeout, late), func(t *testing.T) { // P5
				m := newMonitor(10*sec, 25*sec, frameTimeout, true)
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
	// Suspensions of this process: at from, for. In order.
	stops [][2]time.Duration
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
			switch r := sim.monitor.Check(at(sim.now), due, Outbound{}); r {
			case SendPing:
				sim.pinged = append(sim.pinged, sim.now)
				onPing(sim.now)
			case HeartbeatExpired, FrameExpired:
				return r
			}
		}
		sim.monitor.arrives(sim.now)
		sim.arrival = sim.arrival[1:]
	}
	return Wait
}

func TestMonitorSimulation(t *testing.T) {
	const runs = 3000

	t.Run("a peer that answers in time is never dead, however often we are suspended", func(t *testing.T) { // P5
		for seed := range uint64(runs) {
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
			r := sim.run(300*sec, func(now time.Duration) {
				sim.arrival = append(sim.arrival, now+time.Duration(rng.Int64N(int64(timeout-interval))))
			})
			require.Equal(t, Wait, r, "seed %d: interval %v, timeout %v, dead at %v, pinged at %v, answer at %v", seed, interval, timeout, sim.now, sim.pinged, sim.arrival)
		}
	})

	t.Run("a peer that talks on its own is never dead, however often we are suspended", func(t *testing.T) { // P5
		for seed := range uint64(runs) {
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
		for seed := range uint64(runs) {
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
		for seed := range uint64(runs) {
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
