package soak

import (
	"sync"
	"time"
)

// A soakDebt is a reply that the server owes.
type soakDebt struct {
	since   time.Time
	excused time.Duration // by then
}

// soakDebts are the replies that the server owes on one connection. The server's view is a
// late one of what is due, and an early one of what is paid.
type soakDebts struct {
	s *soakCase

	mu      sync.Mutex // guards following
	owed    map[parcel]soakDebt
	paid    soakDebt      // the last reply; in order the time of the next counts from then
	longest time.Duration // that any of them was owed
	late    bool          // one was, for too long
}

// owe notes a request, before its reply can be given.
func (d *soakDebts) owe(p parcel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owed[p] = soakDebt{time.Now(), d.s.excused()}
	if most := d.s.dialer.MaxInFlight; most > 0 && len(d.owed) > most {
		d.s.fail("B1: %d requests are outstanding on a connection, MaxInFlight is %d", len(d.owed), most)
	}
}

// pay notes a reply to p, before the client can see it. If more follow, the time of the next counts
// from then.
func (d *soakDebts) pay(p parcel, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.owed[p]; !ok {
		return
	}
	d.measureLocked()
	d.paid = soakDebt{time.Now(), d.s.excused()}
	if more {
		d.owed[p] = d.paid
	} else {
		delete(d.owed, p)
	}
}

// crowded reports whether a frame may be arriving all the time, since what comes is read slowly. Then
// FrameTimeout rules, and not ReplyTimeout, and replies wait behind pushes in the socket.
func (s *soakCase) crowded() bool { return s.tunnel && s.pushes() }

// checkDue fails if a reply is owed for so long that the client must have ended the connection.
func (d *soakDebts) checkDue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	timeout := d.s.dialer.ReplyTimeout
	if over := d.measureLocked(); timeout > 0 && over > timeout+soakGrace && !d.late && !d.s.closing.Load() {
		d.late = true
		d.s.fail("P5: a reply is owed for %v on a connection that lives, ReplyTimeout is %v", over, timeout)
	}
}

// measureLocked returns how long the client has waited for the oldest reply, as far as
// that counts.
func (d *soakDebts) measureLocked() (oldest time.Duration) {
	now, excused := time.Now(), d.s.excused()
	for _, debt := range d.owed {
		if d.s.mode == soakInOrder && debt.since.Before(d.paid.since) {
			debt = d.paid
		}
		oldest = max(oldest, now.Sub(debt.since)-(excused-debt.excused))
		d.longest = max(d.longest, now.Sub(debt.since))
	}
	return oldest
}

// longestOwed returns for how long a reply was owed.
func (d *soakDebts) longestOwed() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.measureLocked()
	return d.longest
}
