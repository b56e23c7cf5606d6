package soak

import (
	"errors"
	"strings"
	"sync"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// The model of the soak test: what was sent, what has arrived, and what must not be.

// A soakFate is what a sender was told of its parcel.
type soakFate int

const (
	soakPending soakFate = iota
	soakUnknown          // it failed
	soakUnsent           // it failed, and has certainly not been seen
	soakWritten          // it is in the buffer
	soakHanded           // it was handed to the network
)

// A soakRecord is what is known of one parcel.
type soakRecord struct {
	fate    soakFate
	conn    int          // the connection that it went to, counted from 1 by the client; 0: unknown
	arrived int          // the connection on which it has come, counted from 1 by the server; 0: it has not
	session int          // the number of the Session that has sent it; 0: none
	answers *soakAnswers // nil: it is no call
}

// A soakModel knows what was sent and what has arrived.
type soakModel struct {
	s      *soakCase
	rounds soakRounds

	mu     sync.Mutex     // guards following
	sent   [][]soakRecord // by worker
	lastOf map[[2]int]int // the last number that has come from a worker on a connection

	transactions []int // the connection of each Session, counted from 1 by the server; 0: unknown
	lateTold     int   // replies
	seen         int   // losses that Receive has told of

	connects, ends, losses int   // as Trace tells
	end                    error // of the last connection

	allReceived bool // Receive was called until the end
	dropped     bool // Trace has not told of all
	whole       bool // all that was written has to arrive, if the last connection was orderly
}

// sending notes a parcel that is about to be sent, and gives it a number.
func (m *soakModel) sending(worker int, p parcel, session int) (number int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := soakRecord{session: session}
	if p.kind == parcelCall {
		r.answers = &soakAnswers{wanted: p.part}
	}
	m.sent[worker] = append(m.sent[worker], r)
	return len(m.sent[worker]) - 1
}

func (m *soakModel) sentBy(worker int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sent[worker])
}

// told notes what the sender of p was told.
func (m *soakModel) told(p parcel, fate soakFate, conn int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.sent[p.from][p.number]
	r.fate, r.conn = fate, conn
	if a := r.answers; a != nil {
		a.givenTill = a.given
	}
}

// flushed makes those handed over that were written since first.
func (m *soakModel) flushed(worker, first int) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := first; i < len(m.sent[worker]); i++ {
		m.sent[worker][i].fate = soakHanded
		n++
	}
	return n
}

// addWorkers makes room for what so many workers send. The first may have sent something before.
func (m *soakModel) addWorkers(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.sent) < n {
		m.sent = append(m.sent, nil)
	}
}

// arrived is called by the server.
func (m *soakModel) arrived(c *soakConn, p parcel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.kind != parcelSent && p.kind != parcelCall || p.from >= len(m.sent) || p.number >= len(m.sent[p.from]) {
		m.s.fail("P1: the server got %+v, which was not sent", p)
		return
	}
	r := &m.sent[p.from][p.number]
	if r.arrived > 0 {
		m.s.fail("P4: %+v arrived twice, on connections %d and %d", p, r.arrived, c.index+1)
	}
	r.arrived = c.index + 1
	m.checkPlaceLocked(p, r.session, r.arrived)
	key := [2]int{c.index, p.from}
	if last, ok := m.lastOf[key]; ok && p.number <= last {
		m.s.fail("P3: %+v arrived after number %d", p, last)
	}
	m.lastOf[key] = p.number
}

func (m *soakModel) connected() {
	m.rounds.connected()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.connects-m.ends >= max(1, m.s.perAddress*len(m.s.addresses)) {
		m.s.fail("Trace: Connected twice")
	}
	m.connects++
	m.s.totals.connections.Add(1)
}

func (m *soakModel) disconnected(address string, err error) {
	m.rounds.disconnected(address, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends++
	m.end = err
	if errors.Is(err, tcpclient.ErrDisconnected) {
		m.losses++
		m.s.totals.losses.Add(1)
	} else if !errors.Is(err, tcpclient.ErrClosed) {
		m.s.fail("Trace: Disconnected because of %v", err)
	}
	if m.ends > m.connects {
		m.s.fail("Trace: Disconnected without Connected")
	}
}

// paired reports whether a Client that is being closed has ended, as far as can be seen.
func (m *soakModel) paired(stats tcpclient.Stats) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pairedLocked(stats)
}

func (m *soakModel) pairedLocked(stats tcpclient.Stats) bool {
	return m.connects == int(stats.Connects) && m.ends == m.connects && !stats.Connected
}

// ended is called when Close has returned. whole says that nothing was lost that was
// written.
func (m *soakModel) ended(stats tcpclient.Stats, whole bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.pairedLocked(stats) {
		m.s.fail("P7: after Close: %d times Connected, %d times Disconnected, %+v", m.connects, m.ends, stats)
	}
	if m.lateTold != int(stats.LateReplies) && stats.TraceDropped == 0 {
		m.s.fail("P4: Trace told of %d late replies: %+v", m.lateTold, stats)
	}
	m.dropped = stats.TraceDropped > 0
	m.whole = whole && errors.Is(m.end, tcpclient.ErrClosed)
	if m.seen > m.losses || m.allReceived && m.seen < min(m.losses, 16) {
		m.s.fail("P8: Receive told of %d lost connections, there were %d", m.seen, m.losses)
	}
}

// verify compares what senders were told with what has arrived, when all is over.
func (m *soakModel) verify(conns []*soakConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conns {
		if c.orderly {
			m.s.totals.orderly.Add(1)
		}
	}
	came := m.pair()
	m.rounds.checkCauses(came, conns)
	m.rounds.checkOverdue(came, conns)
	tookAll := m.rounds.tookAll(came, conns)
	for worker, records := range m.sent {
		before := 0 // the connection of the last parcel that has arrived
		var missing []int
		for number, r := range records {
			p := parcel{kind: parcelSent, from: worker, number: number}
			if a := r.answers; a != nil {
				p.kind, p.part = parcelCall, a.wanted
				whole := r.arrived > 0 && conns[r.arrived-1].fault.whole
				m.checkAnswers(p, a, whole, tookAll[r.arrived])
			}
			switch {
			case r.fate == soakPending:
				m.s.fail("no caller was told of %+v", p)
			case r.fate == soakUnsent && r.arrived > 0:
				m.s.fail("P4: %+v was unsent and has arrived", p)
			case r.arrived == 0 && r.fate != soakUnsent:
				missing = append(missing, number)
			}
			if r.arrived > 0 {
				if r.arrived == before && len(missing) > 0 && !m.s.pooled() {
					m.s.fail("P3, P4: numbers %v of worker %d did not arrive between others on connection %d (%s): %+v",
						missing, worker, before, conns[before-1].fault.name, records[missing[0]])
				}
				before, missing = r.arrived, nil
			}
			if c := came[r.conn]; r.arrived == 0 && c > 0 && conns[c-1].orderly &&
				(r.fate == soakHanded || r.fate == soakWritten && m.whole && r.conn == m.connects) {
				m.s.fail("P4: %+v did not arrive, though connection %d ended in an orderly way: %+v", p, c, r)
			}
		}
	}
	if m.s.t.Failed() {
		var all []string
		for _, c := range conns {
			all = append(all, c.fault.name)
		}
		m.s.t.Logf("faults by connection: %s", strings.Join(all, "; "))
	}
}

// pair finds for each connection of the client the server's number of it, by what has
// arrived there.
func (m *soakModel) pair() map[int]int {
	came, back := map[int]int{}, map[int]int{}
	for worker, records := range m.sent {
		for number, r := range records {
			if r.conn == 0 || r.arrived == 0 {
				continue
			}
			if c, ok := came[r.conn]; ok && c != r.arrived || back[r.arrived] != 0 && back[r.arrived] != r.conn {
				m.s.fail("P3: number %d of worker %d went to connection %d and arrived on %d, others on %d",
					number, worker, r.conn, r.arrived, c)
			}
			came[r.conn], back[r.arrived] = r.arrived, r.conn
		}
	}
	return came
}
