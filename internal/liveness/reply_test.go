package liveness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReplyClock(t *testing.T) {
	t.Run("gives the verdict on time", func(t *testing.T) { // P5
		var c ReplyClock
		since := c.At(at(3 * sec))
		due := c.Due(since.Add(5 * sec))
		require.Equal(t, at(8*sec), due)
		require.False(t, c.Check(at(8*sec-1), at(8*sec-1), since.Add(5*sec), 5*sec))
		require.True(t, c.Check(at(8*sec), due, since.Add(5*sec), 5*sec))
	})

	t.Run("stands still while the reader waits for something else", func(t *testing.T) { // P5
		var c ReplyClock
		before := c.At(at(0))
		c.Stop(at(2 * sec))
		c.Stop(at(4 * sec)) // of no effect: it stands still
		within := c.At(at(5 * sec))
		require.Equal(t, at(2*sec), within)
		c.Go(at(10 * sec))
		c.Go(at(11 * sec)) // of no effect: it goes
		require.Equal(t, at(13*sec), c.Due(before.Add(5*sec)))
		require.Equal(t, at(15*sec), c.Due(within.Add(5*sec)), "all its time is to come")
		require.Equal(t, at(17*sec), c.Due(c.At(at(12*sec)).Add(5*sec)))
	})

	t.Run("after a late timer has the socket read afresh, and there is a verdict in the end", func(t *testing.T) { // P5
		for _, late := range []time.Duration{3 * ms, 100 * ms, time.Minute} {
			var c ReplyClock
			last := at(0).Add(5 * sec)
			now := at(5*sec + late)
			rounds := 0
			for !c.Check(now, c.Due(last), last, 5*sec) {
				grace := c.Due(last).Sub(now)
				require.GreaterOrEqual(t, grace, minGrace)
				require.LessOrEqual(t, grace, 5*sec)
				now = c.Due(last).Add(late) // always late
				rounds++
				require.Less(t, rounds, 30)
			}
			require.Positive(t, rounds)
			c.Reply()
			require.False(t, c.Check(now, now.Add(-late), last, 5*sec), "after a reply it is put off again")
		}
	})
}

func TestMonitorRests(t *testing.T) {
	t.Run("pings nothing and gives no verdict but that on a frame", func(t *testing.T) { // P5, A3
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		m.Rest(true)
		require.True(t, m.Next().IsZero())
		require.Equal(t, Wait, m.Check(at(time.Hour), at(10*sec), Outbound{}))
		require.True(t, m.NextUnread().IsZero(), "nor while nothing is read")
		require.Equal(t, Wait, m.CheckUnread(at(time.Hour), Outbound{}))
		m.Resume(at(time.Hour), true)
		require.Equal(t, time.Hour+30*sec, since0(m.Next()), "silence within a frame is none of a heartbeat's")
		require.Equal(t, FrameExpired, m.wakes(time.Hour+30*sec, Outbound{}))
	})

	t.Run("keeps FrameTimeout inside a TLS record, too", func(t *testing.T) { // P5, A3, F1
		m := newMonitor(10*sec, 25*sec, 30*sec, true)
		m.waits(0, false)
		require.False(t, m.InFrame())
		m.RecordBegan(at(60 * sec))
		m.Rest(true)
		require.True(t, m.InFrame())
		require.Equal(t, 90*sec, since0(m.Next()))
		require.Equal(t, FrameExpired, m.wakes(90*sec, Outbound{}))
	})

	t.Run("watches nothing without a FrameTimeout", func(t *testing.T) { // P5, A3
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, true)
		require.Equal(t, 10*sec, since0(m.Next()), "our silence")
		require.Equal(t, SendPing, m.wakes(10*sec, Outbound{}))
		require.Equal(t, 25*sec, since0(m.Next()))
		m.Rest(true)
		require.True(t, m.Next().IsZero())
		require.Equal(t, Wait, m.Check(at(time.Hour), at(25*sec), Outbound{}))
	})

	t.Run("beats again after the message that has ended its rest", func(t *testing.T) { // P5, A3
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		m.Rest(true)
		m.arrives(60 * sec)
		m.Rest(false)
		require.Equal(t, 10*sec, m.waits(60*sec, false), "our silence went on")
		spoke := Outbound{Handed: at(60 * sec)}
		require.Equal(t, Wait, m.Check(at(60*sec), at(10*sec), spoke))
		require.Equal(t, 70*sec, since0(m.Next()))
		require.Equal(t, SendPing, m.wakes(70*sec, spoke))
	})

	t.Run("makes up for our silence when its rest has ended", func(t *testing.T) { // P5, A1, A3
		m := newMonitor(10*sec, 25*sec, 0, true)
		m.waits(0, false)
		m.Rest(true)
		m.arrives(60 * sec)
		m.Rest(false)
		m.waits(60*sec, false)
		require.Equal(t, SendPing, m.Check(at(60*sec), at(10*sec), Outbound{}))
		require.Equal(t, 85*sec, since0(m.Next()), "all the peer's time is left")
	})
}
