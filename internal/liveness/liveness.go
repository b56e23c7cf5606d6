// Package liveness decides when a peer is to be pinged and when it is dead. It does no I/O
// and reads no clock: all it knows are the points in time that its user tells it.
//
// There are two silences. That of the peer ends with a whole message; a long one is a dead peer.
// Ours ends when bytes are handed to the network; a peer that watches it may hang up. Either is
// a reason to ping.
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
	Interval     time.Duration // the silence, of the peer or ours, after which the peer is pinged; 0: no heartbeat
	Timeout      time.Duration // the silence after which it is dead
	FrameTimeout time.Duration // how long the rest of a frame may take; 0: without bound
	Pings        bool          // there is a message to ping with; else silence is only watched
}

// A Monitor watches one connection, for the one goroutine that reads from it. That
// goroutine calls Resume when it begins to wait for the socket, Arrived when the wait has
// brought bytes, and Check when a wait until Next has brought none. While it waits for something
// else it calls CheckUnread, at NextUnread.
//
// The silence of the peer only grows between Resume and Arrived, while a read of the socket is
// pending: an application that does not receive is back-pressure, not a dead peer. Ours grows
// always.
type Monitor struct {
	settings   Settings
	silence    silence   // the peer's
	spoke      time.Time // when ours began, as far as is known: it may have been later
	frame      frame
	ping       ping
	unanswered unanswered
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
func (s *silence) arrive(now time.Time) { s.arrived, s.bytesSince = now, now }

// end records a whole message.
func (s *silence) end() { s.broken = true }

// restart makes the silence as long as if it had begun at since.
func (s *silence) restart(since time.Time) { s.since = since }

// extend moves the silence on by d.
func (s *silence) extend(d time.Duration) {
	s.since, s.bytesSince = s.since.Add(d), s.bytesSince.Add(d)
}

// A frame is what of the peer's has arrived in part. That may be a TLS record of which nothing
// can be read yet.
type frame struct {
	since  time.Time // when the rest of the frame was first waited for; zero: nothing of one is here
	record time.Time // when the rest of the record was, which has brought no message yet; zero: there is none
}

// resume begins to wait, at now, for the rest of a frame, of which bytes are here. Those of the
// record that came last are among them, unless it has brought a whole message, too.
func (f *frame) resume(now time.Time) {
	switch {
	case !f.since.IsZero():
	case !f.record.IsZero():
		f.since = f.record
	default:
		f.since = now
	}
	f.record = time.Time{}
}

// isPartial reports whether there is something.
func (f *frame) isPartial() bool { return !f.since.IsZero() || !f.record.IsZero() }

// began returns when the rest was first waited for.
func (f *frame) began() time.Time {
	if f.since.IsZero() {
		return f.record
	}
	return f.since
}

// extend moves the beginning on by d.
func (f *frame) extend(d time.Duration) {
	if !f.since.IsZero() {
		f.since = f.since.Add(d)
	}
	if !f.record.IsZero() {
		f.record = f.record.Add(d)
	}
}

// A pingState is how far the last ping has come.
type pingState int

const (
	pingNone   pingState = iota // none was sent in this silence
	pingQueued                  // one was, and waits after our own data
	pingSent                    // one was
)

// A ping is the first one of this silence of the peer. Those after it, for our own silence,
// give the peer no time.
type ping struct {
	state    pingState
	sent     time.Time
	acked    int64     // how much the peer's TCP had taken when that last grew
	moved    time.Time // when that was
	nextPoll time.Time // when to look again, while the ping is queued
}

// send records a ping at now.
func (p *ping) send(now time.Time, out Outbound, pollInterval time.Duration) {
	if p.isOut() {
		return
	}
	*p = ping{state: pingSent, sent: now, acked: out.Acked, moved: now}
	if out.Queued {
		p.state, p.nextPoll = pingQueued, now.Add(pollInterval)
	}
}

// isOut reports whether the ping was sent.
func (p *ping) isOut() bool { return p.state != pingNone }

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

// extend puts off by d what the peer has gained by its TCP.
func (p *ping) extend(d time.Duration) {
	if p.moved.After(p.sent) {
		p.moved = p.moved.Add(d)
	}
}

// overtake records that a message has ended the silence.
func (p *ping) overtake() { p.state = pingNone }

// maxTimed is how many unanswered pings are remembered with their times.
const maxTimed = 256

// unanswered are the pings whose answers may come yet, in order. Of those beyond maxTimed, for a
// peer that answers none, only the number is known.
type unanswered struct {
	sent    []time.Duration // times since start
	start   time.Time
	untimed int
	heard   bool // bytes have come since the last ping
}

// add records a ping.
func (u *unanswered) add(now time.Time) {
	u.heard = false
	if u.untimed > 0 || len(u.sent) == maxTimed {
		u.untimed++
		return
	}
	u.sent = append(u.sent, now.Sub(u.start))
}

// drop takes back the last ping.
func (u *unanswered) drop() {
	switch {
	case u.untimed > 0:
		u.untimed--
	case len(u.sent) > 0:
		u.sent = u.sent[:len(u.sent)-1]
	}
}

// answer records a pong that arrived then. It answers the oldest ping, unless that was sent
// later. It returns the round-trip time, if it is known.
func (u *unanswered) answer(arrived time.Time) (rtt time.Duration, ok bool) {
	if len(u.sent) == 0 {
		u.untimed = max(u.untimed-1, 0)
		return 0, false
	}
	rtt = arrived.Sub(u.start) - u.sent[0]
	if rtt < 0 {
		return 0, false
	}
	u.sent = append(u.sent[:0], u.sent[1:]...)
	return rtt, true
}

// isStuck reports whether there are some, and nothing has come since the last was sent.
func (u *unanswered) isStuck() bool { return !u.heard && (len(u.sent) > 0 || u.untimed > 0) }

// An Outbound is how far the network is with what we send.
type Outbound struct {
	Acked  int64     // bytes that the peer's TCP has taken, as far as this system tells
	Queued bool      // there are others that it has not taken
	Behind bool      // the last ping is among them
	Handed time.Time // when bytes were last handed to the network; zero: none were
}

// An Action is what a Monitor wants done.
type Action int

// The actions.
const (
	Wait             Action = iota // nothing: read on
	SendPing                       // the peer, or we, have been silent for Interval
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

// New returns the Monitor of a new connection. handed is when bytes were last handed to the
// network; zero: none were.
func New(s Settings, now, handed time.Time) Monitor {
	m := Monitor{
		settings:   s,
		silence:    silence{since: now, bytesSince: now, arrived: now},
		spoke:      handed,
		unanswered: unanswered{start: now},
	}
	if handed.IsZero() {
		m.spoke = now
	}
	return m
}

// Heartbeat reports whether silence between frames is watched.
func (m *Monitor) Heartbeat() bool { return m.settings.Interval > 0 }

// Rest says whether the heartbeat rests: then silence, of the peer or ours, is neither pinged nor a
// verdict, and only FrameTimeout is kept.
func (m *Monitor) Rest(resting bool) { m.resting = resting }

// beats reports whether silence has consequences now.
func (m *Monitor) beats() bool { return m.Heartbeat() && !m.resting }

// pings reports whether pings are sent now.
func (m *Monitor) pings() bool { return m.beats() && m.settings.Pings }

// Watches reports whether Resume and Arrived have a use for the time. inFrame says that
// bytes of an unfinished frame are already here.
func (m *Monitor) Watches(inFrame bool) bool {
	return m.Heartbeat() || inFrame && m.settings.FrameTimeout > 0
}

// Resume begins to wait for the socket. inFrame says that bytes of an unfinished frame are
// already here.
func (m *Monitor) Resume(now time.Time, inFrame bool) {
	if inFrame {
		m.frame.resume(now)
	} else {
		m.frame = frame{}
	}
	if ended := m.silence.resume(now); ended {
		m.ping.overtake()
	}
}

// RecordBegan is called before a read, after Resume, when bytes of another TLS record than before
// are here that is not whole. Until that is, they count as bytes of a frame.
func (m *Monitor) RecordBegan(now time.Time) { m.frame.record = now }

// RecordEnded is called before a read, after Resume, when there are no bytes of such a record.
// One that has brought nothing to read was no frame, and no life.
func (m *Monitor) RecordEnded() { m.frame.record = time.Time{} }

// Arrived ends the wait: bytes have come.
func (m *Monitor) Arrived(now time.Time) {
	m.silence.arrive(now)
	m.unanswered.heard = true
}

// Message records that a whole message has arrived.
func (m *Monitor) Message() {
	m.silence.end()
	m.frame, m.graceCount = frame{}, 0
}

// Pong records that the last Message was the answer to the oldest ping that has none. It returns
// the round-trip time, up to the bytes that brought the answer, and false if that is not known.
func (m *Monitor) Pong() (rtt time.Duration, ok bool) {
	return m.unanswered.answer(m.silence.arrived)
}

// Next returns when Check has something to say; zero: never, as things stand. It may be sooner
// where we have sent something meanwhile.
func (m *Monitor) Next() time.Time {
	due := m.peerDue()
	if m.pingsOwnSilence() {
		if own := m.NextUnread(); due.IsZero() || own.Before(due) {
			return own
		}
	}
	return due
}

// peerDue returns when Check has something to say of the peer's silence.
func (m *Monitor) peerDue() time.Time {
	switch {
	case m.InFrame():
		return m.frameDeadline()
	case !m.beats():
		return time.Time{}
	case m.pingsPeerSilence():
		return m.silence.since.Add(m.settings.Interval)
	}
	due := m.deadline()
	if m.ping.state == pingQueued && m.ping.nextPoll.Before(due) {
		due = m.ping.nextPoll
	}
	return due
}

// FrameTimeout returns how long the rest of a frame may take; 0: without bound.
func (m *Monitor) FrameTimeout() time.Duration { return m.settings.FrameTimeout }

// InFrame reports whether the rest of a frame is waited for, or that of a TLS record.
func (m *Monitor) InFrame() bool { return m.frame.isPartial() }

// pingsPeerSilence reports whether a ping is sent after Interval of the peer's silence: none was
// in this one yet.
func (m *Monitor) pingsPeerSilence() bool {
	return m.pings() && !m.ping.isOut() && !m.InFrame()
}

// pingsOwnSilence reports whether a ping is sent after Interval of our silence. If one is unanswered
// and nothing has come since, the peer is slow, and is not to be buried in pings.
func (m *Monitor) pingsOwnSilence() bool {
	return m.pings() && !m.unanswered.isStuck()
}

// frameDeadline is when the peer is dead, inside a frame: then FrameTimeout rules as long as
// bytes keep coming. Zero: never, as things stand.
func (m *Monitor) frameDeadline() time.Time {
	var due time.Time
	if m.settings.FrameTimeout > 0 {
		due = m.frame.began().Add(m.settings.FrameTimeout)
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
	m.speak(out.Handed)
	late := now.Sub(due)
	interval := m.settings.Interval
	if m.pingsPeerSilence() && now.Sub(m.silence.since) >= interval {
		if late > lateBy {
			m.silence.restart(now.Add(-interval))
		}
		return m.send(now, out)
	}
	if m.pingsOwnSilence() && now.Sub(m.spoke) >= interval {
		return m.send(now, out)
	}
	if m.ping.state == pingQueued {
		m.ping.track(now, out, m.pollInterval())
	}
	verdict := m.peerDue()
	if verdict.IsZero() || now.Before(verdict) {
		return Wait
	}
	if late > lateBy<<min(m.graceCount, 20) {
		m.graceCount++
		m.extend(now.Sub(verdict) + min(max(late, minGrace), m.grace()))
		return Wait
	}
	if m.InFrame() && m.settings.FrameTimeout > 0 && !now.Before(m.frame.began().Add(m.settings.FrameTimeout)) {
		return FrameExpired
	}
	return HeartbeatExpired
}

// NextUnread returns when CheckUnread has something to say; zero: never, as things stand. It may be sooner where
// we have sent something meanwhile.
func (m *Monitor) NextUnread() time.Time {
	if !m.pings() {
		return time.Time{}
	}
	return m.spoke.Add(m.settings.Interval)
}

// CheckUnread says what is to be done at now, while the goroutine that reads waits for something
// else than the socket. Whether the peer is alive it cannot know, nor whether an answer has come.
func (m *Monitor) CheckUnread(now time.Time, out Outbound) Action {
	m.speak(out.Handed)
	if m.pings() && now.Sub(m.spoke) >= m.settings.Interval {
		return m.send(now, out)
	}
	return Wait
}

// speak ends our silence at then, if it was not later.
func (m *Monitor) speak(then time.Time) {
	if then.After(m.spoke) {
		m.spoke = then
	}
}

// send records that a ping is sent. It ends our silence, even if it has to queue.
func (m *Monitor) send(now time.Time, out Outbound) Action {
	m.speak(now)
	m.ping.send(now, out, m.pollInterval())
	m.unanswered.add(now)
	return SendPing
}

// PingDropped takes back the last ping, which was not sent after all. That ends our silence all the
// same: another would be dropped, too.
func (m *Monitor) PingDropped() { m.unanswered.drop() }

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
	m.frame.extend(d)
	m.ping.extend(d)
}
