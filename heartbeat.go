package tcpclient

import (
	"math"
	"time"
)

const (
	// lateBy is from when on a timer counts as late: then we were slow, not the peer.
	lateBy = 2 * time.Millisecond

	// minLease is long enough for a read of the socket to reach the kernel on a busy
	// machine: one turn of the scheduler.
	minLease = 10 * time.Millisecond
)

// A Heartbeat finds a peer that has gone although TCP has not noticed: a pulled cable, a
// forgotten NAT entry, a hung process.
//
// Any whole message from the peer is proof of life. What we send is not, and neither are
// the bytes of an unfinished frame (see [Dialer].FrameTimeout). Silence counts only while
// the Client waits for the socket, so a slow application, a full Inbox or a suspended
// process is never taken for a dead peer.
//
// The functions are called on the Client's reading goroutine, one at a time. They must
// not block and must not keep msg.
type Heartbeat struct {
	// Interval is the silence of the peer after which it is pinged. 0: no heartbeat.
	Interval time.Duration

	// Timeout is the silence of the peer after which the connection ends with
	// ErrHeartbeatTimeout. It must exceed Interval. 0: twice Interval.
	Timeout time.Duration

	// Ping returns the message to send, which the Client copies. nil: send nothing, only
	// watch the silence.
	Ping func() []byte

	// IsPong recognises the answers to Ping. The Client swallows them, even while a Call
	// waits: its reply must not look like a pong. nil: there are none.
	IsPong func(msg []byte) bool

	// Answer recognises the pings of the peer, which the Client swallows. It returns the
	// message to answer with, which the Client copies, or nil for no answer. A nil Answer
	// recognises none.
	Answer func(msg []byte) (reply []byte, ok bool)
}

func (h *Heartbeat) timeout() time.Duration {
	switch {
	case h.Timeout != 0:
		return h.Timeout
	case h.Interval > math.MaxInt64/2:
		return math.MaxInt64
	}
	return 2 * h.Interval
}

// A vigil decides when the peer is to be pinged and when it is dead. It does no I/O and
// reads no clock: all it knows are the points in time that the reading goroutine, its
// only user, tells it.
//
// Silence counts from life. Outside of resume … read, when no read of the socket is
// pending, it does not grow.
type vigil struct {
	interval, timeout time.Duration // of the heartbeat; 0: none
	frameTimeout      time.Duration // 0: none
	pings             bool          // there is a message to ping with

	life     time.Time // the last whole message, moved on by what does not count
	heard    bool      // a message has been completed since the last resume
	bytes    time.Time // when the last bytes came
	quiet    time.Time // since when no byte has come, moved on likewise
	frame    time.Time // when the rest of a frame was first waited for; zero: between frames
	asked    bool      // a ping was sent in this silence
	pinged   time.Time // when that was
	awaiting bool      // its answer has not come
	behind   bool      // it waits behind our own data
	acked    int64     // how much of that the peer's TCP had taken when it last moved
	moved    time.Time // when that was
	look     time.Time // when to look again
	forgiven int       // how often a late verdict was put off in this silence
}

// A ruling is what a vigil wants done.
type ruling int

const (
	waitOn ruling = iota
	sendPing
	silent   // ErrHeartbeatTimeout
	trickled // ErrFrameTimeout
)

// start begins the watch on a new connection.
func (v *vigil) start(now time.Time) { v.life, v.bytes, v.quiet = now, now, now }

// watches reports whether resume and read have a use for the time.
func (v *vigil) watches(midFrame bool) bool {
	return v.interval > 0 || midFrame && v.frameTimeout > 0
}

// resume begins to wait for the socket. midFrame says that bytes of an unfinished frame
// are already here.
func (v *vigil) resume(now time.Time, midFrame bool) {
	switch {
	case !midFrame:
		v.frame = time.Time{}
	case v.frame.IsZero():
		v.frame = now
	}
	if v.heard {
		v.life, v.heard, v.asked = now, false, false
	} else {
		v.life = v.life.Add(now.Sub(v.bytes))
	}
	v.quiet = now
}

// read ends the wait: bytes have come.
func (v *vigil) read(now time.Time) { v.bytes = now }

// message records that a whole message has arrived.
func (v *vigil) message() {
	v.heard, v.forgiven = true, 0
	v.frame = time.Time{}
}

// pong records the answer to a ping and returns the round-trip time, false if no ping
// was waiting for one.
func (v *vigil) pong() (rtt time.Duration, ok bool) {
	ok = v.awaiting
	v.awaiting = false
	return v.bytes.Sub(v.pinged), ok
}

// next returns when judge has something to say; zero: never, as things stand.
func (v *vigil) next() time.Time {
	if !v.frame.IsZero() {
		due := v.frame.Add(v.frameTimeout)
		if dead := v.quiet.Add(v.timeout); v.interval > 0 && (v.frameTimeout == 0 || dead.Before(due)) {
			due = dead
		}
		return due
	}
	switch {
	case v.interval == 0:
		return time.Time{}
	case v.pingDue():
		return v.life.Add(v.interval)
	}
	due := v.deadline()
	if v.behind && v.look.Before(due) {
		due = v.look
	}
	return due
}

// pingDue reports whether no ping was sent in this silence yet.
func (v *vigil) pingDue() bool { return v.pings && !v.asked }

// deadline is when the peer is dead, between frames. A ping that has to queue behind
// our own data gives the peer its time to answer from when the network last took
// something of that.
func (v *vigil) deadline() time.Time {
	due := v.life.Add(v.timeout)
	if v.asked && v.moved.After(v.pinged) {
		if due2 := v.moved.Add(v.timeout - v.interval); due2.After(due) {
			due = due2
		}
	}
	return due
}

// An outbound is how far the network is with what we send.
type outbound struct {
	acked  int64 // bytes that the peer's TCP has taken, as far as this system tells
	queued bool  // there are others
	behind bool  // the last ping is among them
}

// judge says what is to be done at now, when a wait that was to end at due has ended
// without a byte.
//
// A timer that fires late tells that this process did not run for a while, and what the
// peer said meanwhile may lie in the socket. So the verdict is put off by the time that
// was lost, and the socket is read afresh. Each time it takes twice as much to be put off
// again, so that on a machine that is always late there is a verdict in the end. A late
// ping gives the peer all the time to answer that it would have had.
func (v *vigil) judge(now, due time.Time, out outbound) ruling {
	late := now.Sub(due)
	mid := !v.frame.IsZero()
	if !mid && v.pingDue() && !now.Before(v.next()) {
		if late > lateBy {
			v.life = now.Add(-v.interval)
		}
		v.asked, v.pinged, v.awaiting = true, now, true
		v.moved, v.acked, v.behind = now, out.acked, out.queued
		v.look = now.Add(v.peek())
		return sendPing
	}
	if v.behind {
		v.follow(now, out)
	}
	if now.Before(v.next()) {
		return waitOn
	}
	if late > lateBy<<min(v.forgiven, 20) {
		v.forgiven++
		v.lease(now.Sub(v.next()) + min(max(late, minLease), v.patience()))
		return waitOn
	}
	if mid && v.frameTimeout > 0 && !now.Before(v.frame.Add(v.frameTimeout)) {
		return trickled
	}
	return silent
}

// follow watches the ping on its way through what was queued before it.
func (v *vigil) follow(now time.Time, out outbound) {
	first := !v.moved.After(v.pinged) && now.Sub(v.pinged) <= 2*v.peek()
	if out.acked > v.acked && !(first && !out.behind) {
		v.acked, v.moved = out.acked, now
	}
	v.behind = out.behind
	v.look = now.Add(v.peek())
}

// peek is how often follow looks.
func (v *vigil) peek() time.Duration { return (v.timeout - v.interval) / 8 }

// patience is the longest lease: the time that the peer has to answer a ping, or to go
// on with a frame.
func (v *vigil) patience() time.Duration {
	if v.interval == 0 {
		return v.frameTimeout
	}
	return v.timeout - v.interval
}

// lease puts off all verdicts by d.
func (v *vigil) lease(d time.Duration) {
	v.life, v.quiet = v.life.Add(d), v.quiet.Add(d)
	if !v.frame.IsZero() {
		v.frame = v.frame.Add(d)
	}
}
