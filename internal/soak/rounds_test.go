package soak

import (
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// A soakCauseError is what Disconnect was given.
type soakCauseError struct {
	conn        int // the connection that there was, counted from 1 by the client; 0: unknown
	ended, told int // how often Trace and Receive gave it as the reason of a loss
}

func (*soakCauseError) Error() string { return "this connection has been used enough" }

// causeOf returns what err got from Disconnect.
func causeOf(err error) (cause *soakCauseError) {
	errors.As(err, &cause)
	return cause
}

// soakRounds are the attempts to connect, as Trace and DialContext tell of them.
type soakRounds struct {
	s *soakCase

	mu      sync.Mutex    // guards following
	dialed  []time.Time   // when each attempt began: not before
	tried   int           // attempts that Trace has told of
	began   time.Time     // of the last connection; zero: unknown
	excused time.Duration // when it began
	next    string        // the address that comes next; "": any
	atOnce  bool          // the next attempt does not wait
	causes  []*soakCauseError
	ends    []soakEnd // of each connection
}

// A soakEnd is how a connection has ended.
type soakEnd struct {
	err     error
	excused time.Duration // what did not count of its life
}

// dialing is called by DialContext.
func (m *soakRounds) dialing() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dialed = append(m.dialed, time.Now())
}

// connecting checks which address has its turn.
func (m *soakRounds) connecting(address string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next != "" && address != m.next {
		m.s.fail("P8, C4: the Client tries %s after a connection to it that did not last, want %s", address, m.next)
	}
	m.tried++
	m.next, m.atOnce = "", false
}

// attempts returns how many there were.
func (m *soakRounds) attempts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tried
}

// waiting checks that Disconnect has cut the wait short.
func (m *soakRounds) waiting(delay time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.atOnce && delay > 0 && !m.s.pooled() {
		m.s.fail("C11: the Client waits for %v after a Disconnect", delay)
	}
}

func (m *soakRounds) connected() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.began = time.Time{}
	m.excused = m.s.excused()
	if m.tried <= len(m.dialed) {
		m.began = m.dialed[m.tried-1]
	}
}

// disconnected decides what has to come next.
func (m *soakRounds) disconnected(address string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends = append(m.ends, soakEnd{err, m.s.excused() - m.excused})
	cause := causeOf(err)
	if cause != nil {
		m.s.totals.disconnects.Add(1)
		cause.ended++
		m.atOnce = true
	}
	if errors.Is(err, tcpclient.ErrReplyTimeout) {
		m.s.totals.overdue.Add(1)
		if m.s.dialer.ReplyTimeout == 0 {
			m.s.fail("P5: %v without ReplyTimeout", err)
		}
	}
	if b := m.s.dialer.Reconnect; len(m.s.addresses) > 1 && b != nil && !m.s.pooled() &&
		(cause != nil || !b.OnDemand && !m.began.IsZero() && time.Since(m.began) < b.Max) {
		m.next = m.s.addresses[1-slices.Index(m.s.addresses, address)]
		m.s.totals.rotations.Add(1)
	}
}

// hasEnded reports whether Trace has given the cause as that of a loss.
func (m *soakRounds) hasEnded(cause *soakCauseError) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return cause.ended > 0
}

// tookAll returns the connections, counted from 1 by the server, of which the client has taken in all
// that the server has written.
func (m *soakRounds) tookAll(came map[int]int, conns []*soakConn) map[int]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[int]bool{}
	for i, end := range m.ends {
		if c := came[i+1]; c > 0 && conns[c-1].fault.whole && errors.Is(end.err, io.EOF) {
			all[c] = true
		}
	}
	return all
}

// told is called with a loss that Receive has told of.
func (m *soakRounds) told(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cause := causeOf(err); cause != nil {
		cause.told++
	}
}

// gave is called after Disconnect.
func (m *soakRounds) gave(cause *soakCauseError, conn int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cause.conn = conn
	m.causes = append(m.causes, cause)
}

// checkCauses wants each Disconnect to have ended its connection, where nothing else can have,
// and at most one. came has the server's number of each connection of the client.
func (m *soakRounds) checkCauses(came map[int]int, conns []*soakConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cause := range m.causes {
		if cause.ended > 1 || cause.told > cause.ended {
			m.s.fail("P8, C11: a Disconnect ended %d connections, Receive told of %d", cause.ended, cause.told)
		}
		if c := came[cause.conn]; c == 0 || cause.conn > len(m.ends) || !conns[c-1].fault.gentle {
			continue
		}
		if err := m.ends[cause.conn-1].err; causeOf(err) == nil && !timedOut(err) {
			m.s.fail("C11: after a Disconnect connection %d ended because of %v", cause.conn, err)
		}
	}
}

// checkOverdue wants the server to have owed a reply where ErrReplyTimeout ended a connection, unless one
// that was given may have been on its way for long.
func (m *soakRounds) checkOverdue(came map[int]int, conns []*soakConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.s.crowded() {
		return
	}
	for i, end := range m.ends {
		c := came[i+1]
		if c == 0 || !errors.Is(end.err, tcpclient.ErrReplyTimeout) || !conns[c-1].fault.attentive() {
			continue
		}
		if owed := conns[c-1].debts.longestOwed(); owed+end.excused < m.s.dialer.ReplyTimeout/2 {
			m.s.fail("P5: %v, but no reply was owed for longer than %v", end.err, owed)
		}
	}
}

func timedOut(err error) bool {
	var e interface{ Timeout() bool }
	return errors.As(err, &e) && e.Timeout()
}
