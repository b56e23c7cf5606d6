package wire

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStallWatch(t *testing.T) {
	const sec, ms = time.Second, time.Millisecond
	epoch := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	at := epoch.Add
	begun := func(timeout time.Duration, unacked int) *stallWatch {
		s := &stallWatch{timeout: timeout}
		s.begin(at(0), unacked)
		return s
	}
	// lasts repeats looks on time, at which nothing has moved, and returns when s expires.
	lasts := func(s *stallWatch, now time.Duration) time.Duration {
		for {
			due := s.due(at(now), writeSlice)
			now = due.Sub(epoch)
			if s.note(due, due, 0, s.unacked) {
				return now
			}
		}
	}

	t.Run("looks every slice, and in time for the verdict", func(t *testing.T) { // P5
		s := begun(120*ms, 0)
		require.Equal(t, at(2*ms), s.due(at(0), firstSlice))
		require.Equal(t, at(50*ms), s.due(at(0), writeSlice))
		require.Equal(t, at(100*ms), s.due(at(50*ms), writeSlice))
		require.Equal(t, at(120*ms), s.due(at(100*ms), writeSlice))
		require.Equal(t, 120*ms, lasts(s, 0))
		require.Equal(t, at(ms), begun(ms, 0).due(at(0), firstSlice))
	})

	t.Run("without a timeout never expires", func(t *testing.T) {
		s := begun(0, 0)
		require.False(t, s.note(at(time.Hour), at(time.Hour), 0, 0))
		require.Equal(t, at(time.Hour+50*ms), s.due(at(time.Hour), writeSlice))
	})

	t.Run("takes bytes of the write for progress", func(t *testing.T) { // P5
		s := begun(sec, 0)
		require.False(t, s.note(at(900*ms), at(900*ms), 1, 0))
		require.Equal(t, 1900*ms, lasts(s, 900*ms))
	})

	t.Run("takes an acknowledgement for progress, but none that is missing", func(t *testing.T) { // P5
		s := begun(sec, 5000)
		require.False(t, s.note(at(900*ms), at(900*ms), 0, 4000))
		require.True(t, s.note(at(1900*ms), at(1900*ms), 0, 4000))
		s = begun(sec, 5000)
		require.False(t, s.note(at(900*ms), at(900*ms), 0, 6000))
		require.True(t, s.note(at(1000*ms), at(1000*ms), 0, 6000))
	})

	for _, late := range []time.Duration{lateBy + 1, 20 * ms, 3 * sec, time.Hour} {
		t.Run("forgives a look that is "+late.String()+" late, for one more slice", func(t *testing.T) { // P5, Y13
			s := begun(sec, 0)
			require.False(t, s.note(at(sec+late), at(sec), 0, 0))
			require.Equal(t, sec+late+50*ms, lasts(s, sec+late))
		})
	}

	t.Run("a look that is a little late is on time", func(t *testing.T) {
		require.True(t, begun(sec, 0).note(at(sec+lateBy), at(sec), 0, 0))
	})

	t.Run("forgives less and less where every look is late", func(t *testing.T) { // P5
		s := begun(sec, 0)
		now, looks := time.Duration(0), 0
		for expired := false; !expired; looks++ {
			due := s.due(at(now), writeSlice)
			now = due.Sub(epoch) + 100*ms
			expired = s.note(at(now), due, 0, 0)
		}
		require.Less(t, now, 5*sec)
		require.Greater(t, looks, 3)
	})

	t.Run("forgives again after progress", func(t *testing.T) {
		s := begun(sec, 0)
		require.False(t, s.note(at(sec+3*ms), at(sec), 0, 0))
		require.False(t, s.note(at(sec+20*ms), at(sec+20*ms), 1, 0))
		require.False(t, s.note(at(2*sec+23*ms), at(2*sec+20*ms), 0, 0), "3 ms late")
	})
}

// A slowPeer is a connection whose buffer is full, and whose peer acknowledges a byte with each
// look until it stops. It has no half-close, and its deadlines hold.
type slowPeer struct {
	deadlineConn
	due     time.Time
	unacked int
}

func (p *slowPeer) Write([]byte) (int, error) {
	time.Sleep(time.Until(p.due))
	return 0, errExpired
}

func (p *slowPeer) SetWriteDeadline(t time.Time) error {
	p.due = t
	return nil
}

func (p *slowPeer) unacknowledged() int {
	p.unacked = max(p.unacked-1, 0)
	return p.unacked
}

func (p *slowPeer) inFlight() int { return 0 }
func (p *slowPeer) Close() error  { return nil }

func TestWriteProgress(t *testing.T) {
	t.Run("is also that the peer's TCP acknowledges", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			c := New(near, time.Second, 64<<10, nil)
			c.conn = &slowPeer{unacked: 100}
			began := time.Now()
			_, err := c.Write([]byte("hello"))
			require.ErrorIs(t, err, ErrWriteTimeout)
			// 99 looks saw an acknowledgement, the first after 2 ms: one was before the first write.
			acknowledged := began.Add((2 + 98*50) * time.Millisecond)
			require.Equal(t, acknowledged.Add(time.Second), time.Now())
			require.Equal(t, acknowledged, c.Progress())
			c.Join()
		})
	})
}
