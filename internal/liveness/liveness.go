// Package liveness decides when a peer is to be pinged and when it is dead. It does no I/O
// and reads no clock: all it knows are the points in time that its user tells it.
package liveness

import (
	"strconv"
	"time"
)

const (
	// lateBy is how late a timer may fire and still be on time. Beyond that we were slow,
	// not the peer.
	lateBy = 2 * time.Millisecond

	// minGrace is long enough for a read of the socket to reach the kernel on a busy
	// machine: one turn of the scheduler.
	minGrace = 10 * time.Millisecond
)

// Settings are the times that a Monitor keeps. Its user has checked them: with an Interval
// there is a Timeout that exceeds it.
type Settings struct {
	Interval     time.Duration // the silence after which the peer is pinged; 0: no heartbeat
	Timeout      time.Duration // the silence after which it is dead
	FrameTimeout time.Duration // how long the rest of a frame may take; 0: without bound
	Pings        bool          // there is a message to ping with; else silence is only watched
}

// A Monitor watches one connection, for the one goroutine that reads from it. That
// goroutine calls Resume when it begins to wait for the socket, Arrived when the wait has
// brought bytes, and Check when a wait until Next has brought none.
//
// The silence of the peer only grows between Resume and Arrived, while a read of the socket is
// pending: an application that does not receive is back-pressure, not a dead peer.
type Monitor struct {
	settings   Settings
	silence    silence
	frameSince time.Time // when the rest of a frame was first waited for; zero: between frames
	ping       ping
	graceCount int // how often a late verdict was put off in this silence
	resting    bool
}

// A silence is how long the peer has said nothing. Its times are moved on by what does not
// count against the peer.
type silence struct {
	since      time.Time // the last whole message
	bytesSince time.Time // the last byte, or the last resume
	arrived    time.Time // when bytes last came; this one is never moved on
	broken     bool      // a whole message has come since the last resume
}

// resume begins to count, at now. It reports whether a message has ended the silence before.
func (s *silence) resume(now time.Time) (ended bool) {
	ended = s.broken
	if ended {
		s.since, s.broken = now, false
	} else {
		s.since = s.since.Add(now.Sub(s.arrived)) // from the last byte until now no read was pending
	}
	s.bytesSince = now
	return ended
}

// arrive records bytes.
func (s *silence) arrive(now time.Time) { s.arrived = now }

// end records a whole message.
func (s *silence) end() { s.broken = true }

// restart makes the silence as long as if it had begun at since.
func (s *silence) restart(since time.Time) { s.since = since }

// extend moves the silence on by d.
func (s *silence) extend(d time.Duration) {
	s.since, s.bytesSince = s.since.Add(d), s.bytesSince.Add(d)
}

// A pingState is how far the last ping has come.
type pingState int

const (
	pingNone      pingState = iota // there was none, or it was answered
	pingQueued                     // sent in this silence, and waits after our own data
	pingSent                       // sent in this silence
	pingOvertaken                  // another message has ended its silence; its answer may come yet
)

// A ping is the last one.
type ping struct {
	state    pingState
	sent     time.Time
	acked    int64     // how much the peer's TCP had taken when that last grew
	moved    time.Time // when that was
	nextPoll time.Time // when to look again, while the ping is queued
}

// newPing returns a ping that is sent at now.
func newPing(now time.Time, out Outbound, pollInterval time.Duration) ping {
	p := ping{state: pingSent, sent: now, acked: out.Acked, moved: now}
	if out.Queued {
		p.state, p.nextPoll = pingQueued, now.Add(pollInterval)
	}
	return p
}

// isOut reports whether the ping was sent in this silence.
func (p *ping) isOut() bool { return p.state == pingQueued || p.state == pingSent }

// track watches the ping on its way through what was queued before it.
//
// What was acknowledged at the first poll of a ping that has left by then was the ping itself:
// that gives the peer no more time than any ping.
func (p *ping) track(now time.Time, out Outbound, pollInterval time.Duration) {
	first := !p.moved.After(p.sent) && now.Sub(p.sent) <= 2*pollInterval
	if out.Acked > p.acked && (!first || out.Behind) {
		p.acked, p.moved = out.Acked, now
	}
	if !out.Behind {
		p.state = pingSent
	}
	p.nextPoll = now.Add(pollInterval)
}

// overtake records that a message has ended the silence.
func (p *ping) overtake() {
	if p.isOut() {
		p.state = pingOvertaken
	}
}

// answer records the answer, and reports whether one was missing.
func (p *ping) answer() (ok bool) {
	ok = p.state != pingNone
	p.state = pingNone
	return ok
}

// An Outbound is how far the network is with what we send.
type Outbound struct {
	Acked  int64 // bytes that the peer's TCP has taken, as far as this system tells
	Queued bool  // there are others that it has not taken
	Behind bool  // the last ping is among them
}

// An Action is what a Monitor wants done.
type Action int

// The actions.
const (
	Wait             Action = iota // nothing: read on
	SendPing                       // the peer has been silent for Interval
	HeartbeatExpired               // the peer has been silent for Timeout
	FrameExpired                   // the rest of a frame has not come within FrameTimeout
)

// String returns the name of the action in lower case.
func (a Action) String() string {
	switch a {
	case Wait:
		return "wait"
	case SendPing:
		return "send a ping"
	case HeartbeatExpired:
		return "heartbeat expired"
	case FrameExpired:
		return "frame expired"
	}
	return "action " + strconv.Itoa(int(a))
}

// New returns the Monitor of a new connection.
func New(s Settings, now time.Time) Monitor {
	return Monitor{settings: s, silence: silence{since: now, bytesSince: now, arrived: now}}
}

// Heartbeat reports whether silence between frames is watched.
func (m *Monitor) Heartbeat() bool { return m.settings.Interval > 0 }

// Rest says whether the heartbeat rests: then silence is neither pinged nor a verdict, and only
// FrameTimeout is kept.
func (m *Monitor) Rest(resting bool) { m.resting = resting }

// beats reports whether silence has consequences now.
func (m *Monitor) beats() bool { return m.Heartbeat() && !m.resting }

// Watches reports whether Resume and Arrived have a use for the time. inFrame says that
// bytes of an unfinished frame are already here.
func (m *Monitor) Watches(inFrame bool) bool {
	return m.Heartbeat() || inFrame && m.settings.FrameTimeout > 0
}

// Resume begins to wait for the socket. inFrame says that bytes of an unfinished frame are
// already here.
func (m *Monitor) Resume(now time.Time, inFrame bool) {
	switch {
	case !inFrame:
		m.frameSince = time.Time{}
	case m.frameSince.IsZero():
		m.frameSince = now
	}
	if ended := m.silence.resume(now); ended {
		m.ping.overtake()
	}
}

// Arrived ends the wait: bytes have come.
func (m *Monitor) Arrived(now time.Time) { m.silence.arrive(now) }

// Message records that a whole message has arrived.
func (m *Monitor) Message() {
	m.silence.end()
	m.frameSince, m.graceCount = time.Time{}, 0
}

// Pong records that the last Message was the answer to a ping. It returns the round-trip
// time, up to the bytes that brought the answer, and false if no ping was waiting for one.
func (m *Monitor) Pong() (rtt time.Duration, ok bool) {
	ok = m.ping.answer()
	return m.silence.arrived.Sub(m.ping.sent), ok
}

// Next returns when Check has something to say; zero: never, as things stand.
func (m *Monitor) Next() time.Time {
	switch {
	case m.InFrame():
		return m.frameDeadline()
	case !m.beats():
		return time.Time{}
	case m.pingDue():
		return m.silence.since.Add(m.settings.Interval)
	}
	due := m.deadline()
	if m.ping.state == pingQueued && m.ping.nextPoll.Before(due) {
		due = m.ping.nextPoll
	}
	return due
}

// InFrame reports whether the rest of a frame is waited for.
func (m *Monitor) InFrame() bool { return !m.frameSince.IsZero() }

// pingDue reports whether no ping was sent in this silence yet.
func (m *Monitor) pingDue() bool { return m.settings.Pings && !m.ping.isOut() }

// frameDeadline is when the peer is dead, inside a frame: then FrameTimeout rules as long as
// bytes keep coming. Zero: never, as things stand.
func (m *Monitor) frameDeadline() time.Time {
	due := m.frameSince.Add(m.settings.FrameTimeout)
	if m.settings.FrameTimeout == 0 {
		due = time.Time{}
	}
	if silent := m.silence.bytesSince.Add(m.settings.Timeout); m.beats() && (due.IsZero() || silent.Before(due)) {
		due = silent
	}
	return due
}

// deadline is when the peer is dead, between frames. A ping that has to queue after our own
// data gives the peer its time to answer from when the network last took something of that.
func (m *Monitor) deadline() time.Time {
	due := m.silence.since.Add(m.settings.Timeout)
	if m.ping.isOut() && m.ping.moved.After(m.ping.sent) {
		if answer := m.ping.moved.Add(m.answerTime()); answer.After(due) {
			due = answer
		}
	}
	return due
}

// Check says what is to be done at now, when a wait that was to end at due has ended
// without a byte.
//
// A timer that fires late tells that this process did not run for a while, and what the
// peer said meanwhile may lie in the socket. So the verdict is put off by the time that
// was lost, and the socket is read afresh. Each time it takes twice as much to be put off
// again, so that on a machine that is always late there is a verdict in the end. A late
// ping gives the peer all the time to answer that it would have had.
func (m *Monitor) Check(now, due time.Time, out Outbound) Action {
	if m.Next().IsZero() {
		return Wait
	}
	late := now.Sub(due)
	if !m.InFrame() && m.pingDue() && !now.Before(m.Next()) {
		if late > lateBy {
			m.silence.restart(now.Add(-m.settings.Interval))
		}
		m.ping = newPing(now, out, m.pollInterval())
		return SendPing
	}
	if m.ping.state == pingQueued {
		m.ping.track(now, out, m.pollInterval())
	}
	if now.Before(m.Next()) {
		return Wait
	}
	if late > lateBy<<min(m.graceCount, 20) {
		m.graceCount++
		m.extend(now.Sub(m.Next()) + min(max(late, minGrace), m.grace()))
		return Wait
	}
	if m.InFrame() && m.settings.FrameTimeout > 0 && !now.Before(m.frameSince.Add(m.settings.FrameTimeout)) {
		return FrameExpired
	}
	return HeartbeatExpired
}

// answerTime is how long the peer has to answer a ping.
func (m *Monitor) answerTime() time.Duration { return m.settings.Timeout - m.settings.Interval }

// pollInterval is how often to look after a ping that is queued.
func (m *Monitor) pollInterval() time.Duration { return m.answerTime() / 8 }

// grace is the most that a verdict is put off beyond the time that was lost: the time that
// the peer has to answer a ping, or to go on with a frame.
func (m *Monitor) grace() time.Duration {
	if !m.Heartbeat() {
		return m.settings.FrameTimeout
	}
	return m.answerTime()
}

// extend puts off all verdicts by d.
func (m *Monitor) extend(d time.Duration) {
	m.silence.extend(d)
	if m.InFrame() {
		m.frameSince = m.frameSince.Add(d)
	}
}
