package liveness

import "time"

// A ReplyClock decides when a reply is overdue. It is the time in which the peer could be
// heard: it stands still while the reader waits for something else than the socket, and is
// put back by the time that a late timer has cost. It needs no call while all goes well, and
// reads no clock itself. Its user guards it with a lock.
type ReplyClock struct {
	stopped    time.Time     // since when it stands still; zero: it goes
	behind     time.Duration // how much it has stood still, or was put back
	graceCount int           // how often a late verdict was put off since the last reply
}

// At returns what the clock shows at now.
func (c *ReplyClock) At(now time.Time) time.Time {
	if !c.stopped.IsZero() {
		now = c.stopped
	}
	return now.Add(-c.behind)
}

// Due returns the time at which the clock will show at, if it goes on.
func (c *ReplyClock) Due(at time.Time) time.Time { return at.Add(c.behind) }

// Stop makes the clock stand still until Go.
func (c *ReplyClock) Stop(now time.Time) {
	if c.stopped.IsZero() {
		c.stopped = now
	}
}

// Go makes the clock go on, if it stands still.
func (c *ReplyClock) Go(now time.Time) {
	if !c.stopped.IsZero() {
		c.behind += now.Sub(c.stopped)
		c.stopped = time.Time{}
	}
}

// Reply records that a reply has come.
func (c *ReplyClock) Reply() { c.graceCount = 0 }

// Check reports whether a reply that was due when the clock shows at is overdue at now, after
// a wait that was to end at due. timeout is the time that it had.
//
// As in Monitor.Check, a timer that fires late tells that this process did not run for a while:
// the verdict is put off, so that the socket is read afresh. Each time it takes twice as much
// to be put off again.
func (c *ReplyClock) Check(now, due, at time.Time, timeout time.Duration) bool {
	over := now.Sub(c.Due(at))
	if over < 0 {
		return false
	}
	late := now.Sub(due)
	if late <= lateBy<<min(c.graceCount, 20) {
		return true
	}
	c.graceCount++
	c.behind += over + min(max(late, minGrace), timeout)
	return false
}
