package tcpclient

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The vigil by arithmetic: no connection, no clock, no goroutine.

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// since0 is the inverse of at, for messages that can be read.
func since0(t time.Time) time.Duration { return t.Sub(epoch) }

func newVigil(interval, timeout, frameTimeout time.Duration, pings bool) *vigil {
	v := &vigil{interval: interval, timeout: timeout, frameTimeout: frameTimeout, pings: pings}
	v.start(at(0))
	return v
}

// waits is what source.Read does, and what wire.Read asks then.
func (v *vigil) waits(t testing.TB, now time.Duration, midFrame bool) (due time.Duration) {
	t.Helper()
	v.resume(at(now), midFrame)
	return since0(v.next())
}

// arrives is a whole message, read at now and dispatched by then.
func (v *vigil) arrives(now time.Duration) {
	v.read(at(now))
	v.message()
}

// wakes judges at now, a wait having ended at the due time that next said before.
func (v *vigil) wakes(now time.Duration, out outbound) ruling {
	return v.judge(at(now), v.next(), out)
}

const sec, ms = time.Second, time.Millisecond

func (r ruling) String() string {
	return [...]string{"wait on", "send a ping", "silent", "trickled"}[r]
}

func TestVigil(t *testing.T) {
	t.Run("pings after the interval and gives up after the timeout", func(t *testing.T) { // P5
		v := newVigil(10*sec, 25*sec, 0, true)
		require.Equal(t, 10*sec, v.waits(t, 0, false))
		require.Equal(t, sendPing, v.wakes(10*sec, outbound{}))
		require.Equal(t, 25*sec, since0(v.next()))
		require.Equal(t, waitOn, v.wakes(25*sec-1, outbound{}))
		require.Equal(t, silent, v.wakes(25*sec, outbound{}))
	})

	t.Run("without a ping only watches the silence", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 0, false)
		require.Equal(t, 25*sec, v.waits(t, 0, false))
		require.Equal(t, silent, v.wakes(25*sec, outbound{}))
	})

	t.Run("without an interval watches nothing between frames", func(t *testing.T) {
		v := newVigil(0, 0, 30*sec, true)
		require.False(t, v.watches(false))
		require.True(t, v.watches(true))
		require.True(t, v.next().IsZero())
		v = newVigil(0, 0, 0, true)
		require.False(t, v.watches(true))
	})

	t.Run("any message is life, an answered ping as well", func(t *testing.T) { // H2, H4
		v := newVigil(10*sec, 25*sec, 0, true)
		v.waits(t, 0, false)
		v.arrives(7 * sec)
		require.Equal(t, 17*sec, v.waits(t, 7*sec, false))
		require.Equal(t, sendPing, v.wakes(17*sec, outbound{}))
		v.arrives(20 * sec)
		require.Equal(t, 30*sec, v.waits(t, 20*sec, false), "the next ping is due an interval after the last message")
		require.Equal(t, sendPing, v.wakes(30*sec, outbound{}))
	})

	t.Run("measures the round trip up to the bytes of the pong", func(t *testing.T) { // H1
		v := newVigil(10*sec, 25*sec, 0, true)
		v.waits(t, 0, false)
		require.Equal(t, sendPing, v.wakes(10*sec, outbound{}))
		v.arrives(10*sec + 700*ms)
		rtt, ok := v.pong()
		require.True(t, ok)
		require.Equal(t, 700*ms, rtt)
		_, ok = v.pong()
		require.False(t, ok, "a second pong answers no ping")
	})

	t.Run("counts no silence while nobody reads", func(t *testing.T) { // P5, H6
		v := newVigil(10*sec, 25*sec, 0, true)
		v.waits(t, 0, false)
		v.arrives(1 * sec)
		// The application does not receive for an hour: the reader is stuck with the message.
		require.Equal(t, time.Hour+10*sec, v.waits(t, time.Hour, false))
	})

	t.Run("counts no silence between a part of a frame and the next read", func(t *testing.T) { // P5
		v := newVigil(10*sec, 25*sec, 0, true)
		v.waits(t, 0, false)
		v.read(at(4 * sec))
		v.waits(t, 14*sec, true) // the reader was held for 10 s
		v.message()              // and the rest was in the buffer already
		v.heard = false          // were it no message, life would have moved on all the same
		require.Equal(t, 10*sec, since0(v.life))
	})

	t.Run("forgives a late ping and gives the peer all the time to answer", func(t *testing.T) { // P5
		v := newVigil(10*sec, 25*sec, 0, true)
		v.waits(t, 0, false)
		require.Equal(t, sendPing, v.wakes(time.Hour, outbound{}))
		require.Equal(t, time.Hour+15*sec, since0(v.next()))
		require.Equal(t, waitOn, v.wakes(time.Hour+15*sec-1, outbound{}))
		require.Equal(t, silent, v.wakes(time.Hour+15*sec, outbound{}))
	})

	for name, pings := range map[string]bool{"with a ping out": true, "without pings": false} {
		for _, late := range []time.Duration{lateBy + 1, 5 * ms, 12 * ms, 300 * ms, 3 * sec, 15 * sec, time.Minute, time.Hour} {
			t.Run(fmt.Sprintf("a verdict that is %v late %s is put off for one fresh read", late, name), func(t *testing.T) { // P5, Y1
				v := newVigil(10*sec, 25*sec, 0, pings)
				v.waits(t, 0, false)
				if pings {
					require.Equal(t, sendPing, v.wakes(10*sec, outbound{}))
				}
				now := 25*sec + late
				require.Equal(t, waitOn, v.wakes(now, outbound{}))
				// The runtime does not even try to read once the deadline has passed.
				due := since0(v.next())
				require.Greater(t, due, now, "the next read has no time to find what is in the socket")
				require.GreaterOrEqual(t, due, now+minLease)
				require.LessOrEqual(t, due, now+15*sec, "the lease is longer than the peer ever had to answer")
				require.Equal(t, silent, v.wakes(due, outbound{}))
			})
		}
	}

	t.Run("a ping is not repeated while it is out, whatever lease was granted", func(t *testing.T) {
		v := newVigil(1*sec, 10*sec, 0, true)
		v.waits(t, 0, false)
		require.Equal(t, sendPing, v.wakes(1*sec, outbound{}))
		for _, now := range []time.Duration{60 * sec, 61 * sec, 62 * sec, 69 * sec} {
			require.NotEqual(t, sendPing, v.wakes(now, outbound{}), "at %v", now)
		}
	})

	t.Run("forgives again after a message", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 0, false)
		v.waits(t, 0, false)
		require.Equal(t, waitOn, v.wakes(time.Minute, outbound{}))
		v.arrives(time.Minute)
		v.waits(t, time.Minute, false)
		require.Equal(t, waitOn, v.wakes(2*time.Minute, outbound{}))
	})

	t.Run("a timer that is a little late is on time", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 0, true)
		v.waits(t, 0, false)
		require.Equal(t, sendPing, v.wakes(10*sec+lateBy, outbound{}))
		require.Equal(t, silent, v.wakes(25*sec+lateBy, outbound{}))
	})
}

func TestVigilInsideFrame(t *testing.T) {
	t.Run("FrameTimeout rules while bytes come", func(t *testing.T) { // P5, S17
		v := newVigil(10*sec, 25*sec, 30*sec, true)
		v.waits(t, 0, false)
		for now := 5 * sec; now < 35*sec; now += sec {
			v.read(at(now))
			require.Equal(t, min(35*sec, now+25*sec), v.waits(t, now, true))
			require.Equal(t, waitOn, v.judge(at(now+sec/2), at(now+sec/2), outbound{}))
		}
		require.Equal(t, trickled, v.wakes(35*sec, outbound{}))
	})

	t.Run("the heartbeat rules when bytes stop", func(t *testing.T) { // P5
		v := newVigil(10*sec, 25*sec, 30*sec, true)
		v.waits(t, 0, false)
		v.read(at(3 * sec))
		require.Equal(t, 28*sec, v.waits(t, 3*sec, true))
		require.Equal(t, silent, v.wakes(28*sec, outbound{}))
	})

	t.Run("FrameTimeout rules when it is sooner", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 2*sec, true)
		v.waits(t, 0, false)
		v.read(at(3 * sec))
		require.Equal(t, 5*sec, v.waits(t, 3*sec, true))
		require.Equal(t, trickled, v.wakes(5*sec, outbound{}))
	})

	t.Run("FrameTimeout works without a heartbeat", func(t *testing.T) {
		v := newVigil(0, 0, 2*sec, false)
		v.waits(t, 3*sec, true)
		require.Equal(t, trickled, v.wakes(5*sec, outbound{}))
	})

	t.Run("without FrameTimeout bytes are life", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 0, true)
		for now := time.Duration(0); now < time.Hour; now += 24 * sec {
			v.read(at(now))
			require.Equal(t, now+25*sec, v.waits(t, now, true))
			require.Equal(t, waitOn, v.judge(at(now+24*sec), at(now+24*sec), outbound{}))
		}
	})

	t.Run("no ping is sent", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 30*sec, true)
		v.waits(t, 0, false)
		v.read(at(9 * sec))
		v.waits(t, 9*sec, true)
		for now := 9 * sec; now < 34*sec; now += 100 * ms {
			require.Equal(t, waitOn, v.judge(at(now), at(now), outbound{}))
		}
	})

	t.Run("the frame's end is life, and the next frame has a time of its own", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 30*sec, true)
		v.waits(t, 0, false)
		v.read(at(5 * sec))
		v.waits(t, 5*sec, true)
		v.arrives(34 * sec)
		require.Equal(t, 59*sec, v.waits(t, 34*sec, true)) // silence
		v.read(at(58 * sec))
		require.Equal(t, 64*sec, v.waits(t, 58*sec, true)) // the frame that began at 34
		v.arrives(63 * sec)
		require.Equal(t, 73*sec, v.waits(t, 63*sec, false))
	})

	t.Run("time in which nobody reads belongs to nobody", func(t *testing.T) {
		v := newVigil(10*sec, 25*sec, 30*sec, true)
		v.waits(t, 0, false)
		v.arrives(5 * sec)
		require.Equal(t, time.Hour+25*sec, v.waits(t, time.Hour, true), "the frame began while a full Inbox held the reader")
	})

	for _, late := range []time.Duration{5 * ms, 300 * ms, 3 * sec, 30 * sec, time.Hour} {
		for _, frameTimeout := range []time.Duration{20 * sec, 40 * sec} { // trickled, silent
			t.Run(fmt.Sprintf("a verdict after %v that is %v late is put off for one fresh read", frameTimeout, late), func(t *testing.T) { // P5
				v := newVigil(10*sec, 25*sec, frameTimeout, true)
				v.waits(t, 0, false)
				v.read(at(0))
				now := v.waits(t, 0, true) + late
				require.Equal(t, waitOn, v.wakes(now, outbound{}))
				due := since0(v.next())
				require.GreaterOrEqual(t, due, now+minLease, "the next read has no time to find what is in the socket")
				require.LessOrEqual(t, due, now+40*sec)
				require.Contains(t, []ruling{silent, trickled}, v.wakes(due, outbound{}))
			})
		}
	}
}

func TestVigilBehindBulkData(t *testing.T) {
	// bulk is a ping at 10 s that lies behind our own data.
	bulk := func(t *testing.T) *vigil {
		v := newVigil(10*sec, 26*sec, 0, true) // looks every 2 s
		v.waits(t, 0, false)
		require.Equal(t, sendPing, v.wakes(10*sec, outbound{acked: 1000, queued: true, behind: true}))
		return v
	}

	t.Run("the peer has its time from when its TCP last took something", func(t *testing.T) { // P5, H8
		v := bulk(t)
		acked := int64(1000)
		now := since0(v.next())
		for ; now < 3600*sec; now = since0(v.next()) {
			acked++
			require.Equal(t, waitOn, v.wakes(now, outbound{acked: acked, queued: true, behind: true}), "at %v", now)
		}
		moved := since0(v.moved)
		for ; ; now = since0(v.next()) {
			if r := v.wakes(now, outbound{acked: acked, queued: true, behind: true}); r != waitOn {
				require.Equal(t, silent, r)
				break
			}
		}
		require.Equal(t, moved+16*sec, now, "16 s after the last acknowledgement")
	})

	t.Run("of a peer that takes nothing the timeout is as ever", func(t *testing.T) { // P5
		v := bulk(t)
		now := since0(v.next())
		for ; ; now = since0(v.next()) {
			if r := v.wakes(now, outbound{acked: 1000, queued: true, behind: true}); r != waitOn {
				require.Equal(t, silent, r)
				break
			}
		}
		require.Equal(t, 26*sec, now)
	})

	t.Run("a ping that left at once has no more time than any", func(t *testing.T) {
		v := bulk(t)
		now := since0(v.next())
		require.Equal(t, 12*sec, now)
		require.Equal(t, waitOn, v.wakes(now, outbound{acked: 1009}))
		require.Equal(t, 26*sec, since0(v.next()))
		require.Equal(t, silent, v.wakes(26*sec, outbound{acked: 1009}))
	})

	t.Run("once the ping is through the time runs", func(t *testing.T) {
		v := bulk(t)
		require.Equal(t, waitOn, v.wakes(12*sec, outbound{acked: 1500, queued: true, behind: true}))
		require.Equal(t, waitOn, v.wakes(14*sec, outbound{acked: 2000, queued: true}))
		require.Equal(t, 30*sec, since0(v.next()))
		require.Equal(t, silent, v.wakes(30*sec, outbound{acked: 9999, queued: true}))
	})

	t.Run("an acknowledgement of a former ping is none of this one", func(t *testing.T) {
		v := bulk(t)
		v.wakes(12*sec, outbound{acked: 1500, behind: true})
		v.arrives(13 * sec)
		v.waits(t, 13*sec, false)
		require.Equal(t, sendPing, v.wakes(23*sec, outbound{}))
		require.Equal(t, 39*sec, since0(v.next()))
	})
}

// A peerModel lives next to a vigil in a simulation of wire.Read, with the semantics of the
// runtime: a read whose deadline has passed fails without looking into the socket, and
// when both have come during a suspension the deadline wins.
type peerModel struct {
	v       *vigil
	now     time.Duration
	arrival []time.Duration // of messages from the peer, in order
	pinged  []time.Duration
	// Suspensions of this process: at from, for. In order.
	stops [][2]time.Duration
}

// pass lets the time pass until then, and through suspensions that begin before.
func (m *peerModel) pass(then time.Duration) {
	m.now = max(m.now, then)
	for len(m.stops) > 0 && m.stops[0][0] <= m.now {
		m.now = max(m.now, m.stops[0][0]+m.stops[0][1])
		m.stops = m.stops[1:]
	}
}

// run reads until a verdict or the end. onPing tells when the answer to a ping arrives.
func (m *peerModel) run(until time.Duration, onPing func(now time.Duration)) ruling {
	for m.now < until {
		m.v.resume(at(m.now), false)
		for read := false; !read; {
			due := m.v.next()
			data := time.Duration(1 << 62)
			if len(m.arrival) > 0 {
				data = m.arrival[0]
			}
			if at(m.now).Before(due) || due.IsZero() {
				if data <= m.now {
					read = true
					break
				}
				m.pass(min(data, since0(due)))
				if late := at(m.now).Sub(due); late > 0 && late <= lateBy {
					m.now += lateBy // a suspension that ends just there would be taken for none
				}
				if data <= m.now && at(m.now).Before(due) {
					read = true
					break
				}
			}
			if m.now >= until {
				return waitOn
			}
			switch r := m.v.judge(at(m.now), due, outbound{}); r {
			case sendPing:
				m.pinged = append(m.pinged, m.now)
				onPing(m.now)
			case silent, trickled:
				return r
			}
		}
		m.v.arrives(m.now)
		m.arrival = m.arrival[1:]
	}
	return waitOn
}

func TestVigilSimulation(t *testing.T) {
	const runs = 3000

	t.Run("a peer that answers in time is never dead, however often we are suspended", func(t *testing.T) { // P5
		for seed := range uint64(runs) {
			rng := rand.New(rand.NewPCG(seed, 1))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			m := &peerModel{v: newVigil(interval, timeout, 30*sec, true)}
			for now := time.Duration(0); now < 300*sec; {
				now += time.Duration(rng.Int64N(int64(30 * sec)))
				d := time.Duration(rng.Int64N(int64(40 * sec)))
				m.stops = append(m.stops, [2]time.Duration{now, d})
				now += d
			}
			r := m.run(300*sec, func(now time.Duration) {
				m.arrival = append(m.arrival, now+time.Duration(rng.Int64N(int64(timeout-interval))))
			})
			require.Equal(t, waitOn, r, "seed %d: interval %v, timeout %v, dead at %v, pinged at %v, answer at %v", seed, interval, timeout, m.now, m.pinged, m.arrival)
		}
	})

	t.Run("a peer that talks on its own is never dead, however often we are suspended", func(t *testing.T) { // P5
		for seed := range uint64(runs) {
			rng := rand.New(rand.NewPCG(seed, 2))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			m := &peerModel{v: newVigil(interval, timeout, 30*sec, false)}
			for now := time.Duration(0); now < 300*sec; {
				now += time.Duration(rng.Int64N(int64(30 * sec)))
				d := time.Duration(rng.Int64N(int64(40 * sec)))
				m.stops = append(m.stops, [2]time.Duration{now, d})
				now += d
			}
			for now := time.Duration(0); now < 400*sec; {
				now += time.Duration(rng.Int64N(int64(timeout - ms)))
				m.arrival = append(m.arrival, now)
			}
			r := m.run(300*sec, func(time.Duration) {})
			require.Equal(t, waitOn, r, "seed %d: interval %v, timeout %v, dead at %v, next message at %v", seed, interval, timeout, m.now, m.arrival)
		}
	})

	t.Run("a peer that falls silent is dead even if every timer is late", func(t *testing.T) { // Y1
		for _, late := range []time.Duration{lateBy + 1, 10 * ms, 25 * ms, 100 * ms} {
			v := newVigil(1*sec, 3*sec, 30*sec, true)
			now := v.waits(t, 0, false)
			for r := waitOn; r != silent; now = max(now, since0(v.next())) {
				now += late
				r = v.wakes(now, outbound{})
				require.Less(t, now, 5*sec, "timers late by %v", late)
			}
		}
	})

	t.Run("a peer that falls silent is dead within the timeout", func(t *testing.T) { // P5
		for seed := range uint64(runs) {
			rng := rand.New(rand.NewPCG(seed, 3))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			m := &peerModel{v: newVigil(interval, timeout, 30*sec, seed%2 == 0)}
			last := time.Duration(0)
			for range rng.IntN(50) {
				last += time.Duration(rng.Int64N(int64(timeout - ms)))
				m.arrival = append(m.arrival, last)
			}
			require.Equal(t, silent, m.run(3600*sec, func(time.Duration) {}), "seed %d", seed)
			assert.Equal(t, last+timeout, m.now, "seed %d", seed)
		}
	})

	t.Run("a peer that falls silent is dead soon after the last suspension", func(t *testing.T) { // P5
		for seed := range uint64(runs) {
			rng := rand.New(rand.NewPCG(seed, 4))
			interval := 1*sec + time.Duration(rng.Int64N(int64(10*sec)))
			timeout := interval + 500*ms + time.Duration(rng.Int64N(int64(20*sec)))
			m := &peerModel{v: newVigil(interval, timeout, 30*sec, seed%2 == 0)}
			stop := time.Duration(rng.Int64N(int64(30 * sec)))
			m.stops = [][2]time.Duration{{stop, time.Duration(rng.Int64N(int64(60 * sec)))}}
			resumed := stop + m.stops[0][1]
			require.Equal(t, silent, m.run(3600*sec, func(time.Duration) {}), "seed %d", seed)
			require.LessOrEqual(t, m.now, max(resumed+timeout, timeout+m.stops0(resumed)), "seed %d", seed)
		}
	})
}

// stops0 is the latest that a verdict may come after a suspension that ended at resumed.
func (m *peerModel) stops0(resumed time.Duration) time.Duration { return resumed + m.v.patience() }

func TestHeartbeatTimeout(t *testing.T) {
	require.Equal(t, 20*sec, (&Heartbeat{Interval: 10 * sec}).timeout(), "twice the interval")
	require.Equal(t, 11*sec, (&Heartbeat{Interval: 10 * sec, Timeout: 11 * sec}).timeout())
	require.Greater(t, (&Heartbeat{Interval: 1<<63 - 1}).timeout(), time.Duration(0), "never must not become at once")
}
