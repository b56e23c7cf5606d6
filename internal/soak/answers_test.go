package soak

// The model of calls: which replies each caller may have seen, and which are late.

// soakAnswers are the replies to one call.
type soakAnswers struct {
	wanted int  // how many there are
	given  int  // by the server
	twice  bool // the server has given the last one twice
	bytes  int  // of those given

	read       int   // by the caller
	givenTill  int   // by the server, until the caller read no more
	late       []int // what Trace has told
	tillEOF    bool  // the caller was told that the stream has ended in order
	unexpected bool  // one failure of a call is enough
}

// answersLocked returns what is known of the call of a worker; nil: there is no such.
func (m *soakModel) answersLocked(p parcel) *soakAnswers {
	if p.from >= len(m.sent) || p.number >= len(m.sent[p.from]) {
		return nil
	}
	return m.sent[p.from][p.number].answers
}

// gives notes a reply, before the client can see it.
func (m *soakModel) gives(p parcel, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.answersLocked(p)
	switch {
	case a == nil: // arrived has said so
	case p.part < a.given:
		a.twice = true
	default:
		a.given++
		a.bytes += size
	}
}

// reads checks that p is the next reply to call.
func (m *soakModel) reads(call, p parcel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.answersLocked(call)
	if want := call.reply(a.read); p != want && !a.unexpected {
		a.unexpected = true
		m.s.fail("P1, P3: a caller of %+v got %+v, want %+v", call, p, want)
	}
	a.read++
	m.s.totals.replies.Add(1)
}

// late is called by Trace with a reply that no caller waits for.
func (m *soakModel) late(reply []byte) {
	p, err := unpack(0, reply)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lateTold++
	m.s.totals.late.Add(1)
	a := m.answersLocked(p)
	switch {
	case err != nil:
		m.s.fail("P1: LateReply got %v", err)
	case a == nil || p.kind != parcelMore && p.kind != parcelReply:
		m.s.fail("P4: LateReply got %c %+v", p.kind, p)
	default:
		a.late = append(a.late, p.part)
	}
}

// checkAnswers wants the replies to a call to have been read from the first one on, and those that
// are late to be the rest of them. whole says that the server has ended the stream in order, and
// tookAll that the client has seen that.
func (m *soakModel) checkAnswers(call parcel, a *soakAnswers, whole, tookAll bool) {
	m.s.totals.countAnswers(a)
	for i, part := range a.late {
		again := a.twice && part == a.wanted-1
		inOrder := i == 0 || part == a.late[i-1]+1 || again && part == a.late[i-1]
		switch {
		case part < a.read && !again:
			m.s.fail("P4: reply %d to %+v is late and was read: %+v", part, call, *a)
		case !inOrder && !m.dropped:
			m.s.fail("P3, P4: reply %d to %+v is late after reply %d: %+v", part, call, a.late[i-1], *a)
		}
	}
	if whole && a.tillEOF && a.read < a.given {
		m.s.fail("P1: %d replies to %+v came before the end of the connection, its caller got %d", a.given, call, a.read)
	}
	if n := len(a.late); tookAll && !m.dropped && a.given > a.givenTill && (n == 0 || a.late[0] > a.givenTill || a.late[n-1] != a.given-1) {
		m.s.fail("P4: replies %d to %d to %+v came late, LateReply got %v", a.givenTill, a.given-1, call, a.late)
	}
}

// endsInOrder notes that a caller was told so of the connection.
func (m *soakModel) endsInOrder(call parcel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answersLocked(call).tillEOF = true
}
