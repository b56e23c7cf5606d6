package tcpclient

import (
	"math"
	"math/bits"
	"time"
)

const (
	// maxInOrder is how many calls may be outstanding without ids, abandoned ones
	// included.
	maxInOrder = 1 << 16

	// maxKept is how many abandoned ids of a Correlator that has more are kept out of use
	// until their late replies, without MaxInFlight.
	maxKept = 1 << 16
)

// A pending is the requests of a connection that are not answered yet: a queue, or a table by
// id. Calls that are abandoned keep their place until their late reply has come.
type pending interface {
	// outstanding returns how many places are taken.
	outstanding() int

	// full reports whether there is no room for another call.
	full() bool

	// most returns the largest id.
	most() uint64

	// has reports whether the place with that id is taken.
	has(id uint64) bool

	// enter gives c a place, and returns its id: chosen, which has no place yet, or with 0 the next
	// that has none.
	enter(c *call, chosen uint64) (id uint64)

	// retract takes back the call that was entered last, of which nothing was written.
	retract(id uint64)

	// find finds the call to which a message with that id is a reply. c is nil for one that was
	// abandoned; ok is false for what is no reply.
	find(id uint64) (c *call, ok bool)

	// match is find, and frees the place.
	match(id uint64) (c *call, ok bool)

	// abandon keeps the place of a call, unless too many are kept.
	abandon(id uint64)

	// each calls f for every call that was not abandoned. f may abandon it.
	each(f func(c *call))

	// owe records since when a reply is owed to c, which was just entered. In order that is
	// of use only for the oldest, also with a nil c.
	owe(c *call, since time.Time)

	// renew records that another reply is owed since then, to c or, with nil, to an abandoned request.
	renew(id uint64, c *call, since time.Time)

	// oldest returns since when the oldest reply is owed. Zero: from now on, which is for
	// owe to record. It is for those with a ReplyTimeout, and something outstanding.
	oldest() (since time.Time)
}

// newPending returns a queue without a Correlator, else a table.
func newPending(s callSettings) pending {
	limit := uint64(math.MaxUint64)
	if s.maxInFlight > 0 {
		limit = uint64(s.maxInFlight)
	}
	if s.correlator == nil {
		return &callQueue{places: int(min(limit, maxInOrder)), number: 1}
	}
	maxID := uint64(math.MaxUint64)
	if narrow, ok := s.correlator.(IDLimiter); ok {
		maxID = max(narrow.MaxID(), 1)
	}
	if s.identifier != nil && s.maxInFlight == 0 {
		// An id whose request was forgotten could come again at once, and get the late reply.
		limit = maxKept
	}
	var a *ages
	if s.replyTimeout > 0 {
		a = &ages{abandoned: make(map[uint64]*age)}
	}
	return &idTable{maxID: maxID, places: min(limit, maxID), keep: sizeOr(s.maxInFlight, maxKept), ages: a}
}

// A callQueue is what waits for replies in order. The ids of its calls are their numbers.
type callQueue struct {
	places int
	calls  []*call   // from first on; nil: abandoned
	first  int       // index of the oldest
	number uint64    // of the oldest
	since  time.Time // when its reply began to be owed; zero: not recorded yet
}

func (q *callQueue) outstanding() int { return len(q.calls) - q.first }

func (q *callQueue) full() bool { return q.outstanding() >= q.places }

func (q *callQueue) most() uint64 { return math.MaxUint64 }

func (q *callQueue) has(id uint64) bool { return id-q.number < uint64(q.outstanding()) }

func (q *callQueue) enter(c *call, _ uint64) (id uint64) {
	q.calls = append(q.calls, c)
	return q.number + uint64(len(q.calls)-q.first-1)
}

func (q *callQueue) retract(id uint64) {
	if id >= q.number { // else the server has answered what it was not asked
		q.calls = q.calls[:len(q.calls)-1]
	}
}

func (q *callQueue) find(uint64) (c *call, ok bool) {
	if q.first == len(q.calls) {
		return nil, false
	}
	return q.calls[q.first], true
}

func (q *callQueue) match(id uint64) (c *call, ok bool) {
	if c, ok = q.find(id); !ok {
		return nil, false
	}
	q.calls[q.first] = nil
	q.first++
	q.number++
	q.since = time.Time{}
	if q.first == len(q.calls) {
		q.calls, q.first = q.calls[:0], 0
	} else if q.first >= 64 && q.first >= len(q.calls)/2 {
		n := copy(q.calls, q.calls[q.first:])
		clear(q.calls[n:])
		q.calls, q.first = q.calls[:n], 0
	}
	return c, true
}

func (q *callQueue) abandon(id uint64) { q.calls[q.first+int(id-q.number)] = nil }

func (q *callQueue) owe(_ *call, since time.Time) { q.since = since }

func (q *callQueue) renew(_ uint64, _ *call, since time.Time) { q.since = since }

func (q *callQueue) oldest() time.Time { return q.since }

func (q *callQueue) each(f func(c *call)) {
	for _, c := range q.calls {
		if c != nil {
			f(c)
		}
	}
}

// An idTable finds calls by their ids, which count from 1 to maxID and start again.
type idTable struct {
	maxID     uint64
	places    uint64 // maxID or fewer
	keep      int    // how many abandoned ones may have places
	issued    uint64 // the last id
	wrapped   bool   // ids have started again at 1
	abandoned int    // of those in calls
	calls     callTable
	ages      *ages // nil: there is no ReplyTimeout
}

func (t *idTable) outstanding() int { return t.calls.n }

func (t *idTable) full() bool { return uint64(t.calls.n) >= t.places }

func (t *idTable) most() uint64 { return t.maxID }

func (t *idTable) has(id uint64) bool {
	_, taken := t.calls.get(id)
	return taken
}

func (t *idTable) enter(c *call, chosen uint64) (id uint64) {
	if chosen > 0 {
		t.calls.put(chosen, c)
		return chosen
	}
	for {
		if t.issued == t.maxID {
			t.issued, t.wrapped = 0, true
		}
		t.issued++
		if t.calls.add(t.issued, c) {
			return t.issued
		}
	}
}

func (t *idTable) retract(id uint64) { t.remove(id) }

func (t *idTable) find(id uint64) (c *call, ok bool) {
	c, known := t.calls.get(id)
	return c, known || t.wasIssued(id)
}

func (t *idTable) match(id uint64) (c *call, ok bool) {
	c, known := t.remove(id)
	return c, known || t.wasIssued(id)
}

// wasIssued reports whether a message with that id, for which no place is kept, is late.
func (t *idTable) wasIssued(id uint64) bool {
	return id != 0 && id <= t.maxID && (t.wrapped || id <= t.issued)
}

// remove frees a place.
func (t *idTable) remove(id uint64) (c *call, known bool) {
	if c, known = t.calls.remove(id); known {
		if c == nil {
			t.abandoned--
		}
		t.ages.end(id, c)
	}
	return c, known
}

func (t *idTable) abandon(id uint64) {
	if t.abandoned == t.keep {
		// To keep more would fill the memory. The id will not come again before very many
		// other calls, if ever, and that it was issued tells that its reply is late.
		t.remove(id)
		return
	}
	c, _ := t.calls.get(id)
	t.ages.abandon(id, c)
	t.calls.put(id, nil)
	t.abandoned++
}

func (t *idTable) owe(c *call, since time.Time) { t.ages.begin(c, since) }

func (t *idTable) renew(id uint64, c *call, since time.Time) { t.ages.renew(id, c, since) }

func (t *idTable) oldest() time.Time { return t.ages.first.since }

func (t *idTable) each(f func(c *call)) { t.calls.each(f) }

// The ages are the requests of an idTable in the order in which they were entered. A nil *ages
// has none.
type ages struct {
	first, last *age
	abandoned   map[uint64]*age // of abandoned requests, by id; a call has its own
}

// An age is since when a reply is owed.
type age struct {
	since         time.Time
	before, after *age
}

// begin adds c as the youngest. Its age may be one of before.
func (a *ages) begin(c *call, since time.Time) {
	if c.age == nil {
		c.age = new(age)
	}
	a.append(c.age, since)
}

// append makes e the youngest.
func (a *ages) append(e *age, since time.Time) {
	*e = age{since: since, before: a.last}
	if a.last == nil {
		a.first = e
	} else {
		a.last.after = e
	}
	a.last = e
}

// renew makes the request with that id the youngest, unless too many were abandoned to keep it.
func (a *ages) renew(id uint64, c *call, since time.Time) {
	if e := a.of(id, c); e != nil {
		a.remove(e)
		a.append(e, since)
	}
}

// abandon takes the age away from c, which will be another request's.
func (a *ages) abandon(id uint64, c *call) {
	if a != nil {
		a.abandoned[id], c.age = c.age, nil
	}
}

// end takes out the request with that id, which was c's or, with nil, was abandoned.
func (a *ages) end(id uint64, c *call) {
	if a == nil {
		return
	}
	a.remove(a.of(id, c))
	if c == nil {
		delete(a.abandoned, id)
	}
}

// of returns the age of a request.
func (a *ages) of(id uint64, c *call) *age {
	if c != nil {
		return c.age
	}
	return a.abandoned[id]
}

func (a *ages) remove(e *age) {
	if e.before == nil {
		a.first = e.after
	} else {
		e.before.after = e.after
	}
	if e.after == nil {
		a.last = e.before
	} else {
		e.after.before = e.before
	}
}

// A callTable finds calls by their ids: a hash table with open addressing. A map costs a
// seventh more of a Call among 512.
type callTable struct {
	entries []callEntry // a power of two of them, at most half in use
	shift   int         // 64 less its exponent
	n       int         // in use
}

type callEntry struct {
	id   uint64 // 0: not in use
	call *call  // nil: abandoned, and its id not free yet
}

const minTable = 16

// home returns where id would be if it were alone. Ids count up, and multiplying by the
// golden ratio spreads them (Knuth): neighbours would make runs that remove has to mend.
func (t *callTable) home(id uint64) int { return int(id * 0x9E3779B97F4A7C15 >> t.shift) }

// slot returns where id is, or where it would go.
func (t *callTable) slot(id uint64) int {
	mask := len(t.entries) - 1
	i := t.home(id)
	for t.entries[i].id != id && t.entries[i].id != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (t *callTable) get(id uint64) (c *call, ok bool) {
	if t.n == 0 || id == 0 {
		return nil, false
	}
	e := t.entries[t.slot(id)]
	return e.call, e.id == id
}

// put enters c under id, which is not 0, or replaces what is there.
func (t *callTable) put(id uint64, c *call) {
	if !t.add(id, c) {
		t.entries[t.slot(id)] = callEntry{id, c}
	}
}

// add enters c under id, which is not 0, unless something is there.
func (t *callTable) add(id uint64, c *call) (added bool) {
	if 2*t.n >= len(t.entries) {
		t.grow()
	}
	e := &t.entries[t.slot(id)]
	if e.id != 0 {
		return false
	}
	t.n++
	*e = callEntry{id, c}
	return true
}

func (t *callTable) grow() {
	old := t.entries
	t.entries = make([]callEntry, max(minTable, 2*len(old)))
	t.shift = 64 - bits.TrailingZeros(uint(len(t.entries)))
	for _, e := range old {
		if e.id != 0 {
			t.entries[t.slot(e.id)] = e
		}
	}
}

// remove takes id out, if it is there, and closes the gap: an entry that was pushed on by
// another moves back.
func (t *callTable) remove(id uint64) (c *call, ok bool) {
	if t.n == 0 || id == 0 {
		return nil, false
	}
	gap := t.slot(id)
	if t.entries[gap].id == 0 {
		return nil, false
	}
	c = t.entries[gap].call
	t.n--
	mask := len(t.entries) - 1
	for i := (gap + 1) & mask; t.entries[i].id != 0; i = (i + 1) & mask {
		if (i-t.home(t.entries[i].id))&mask >= (i-gap)&mask {
			t.entries[gap] = t.entries[i]
			gap = i
		}
	}
	t.entries[gap] = callEntry{}
	if t.n == 0 && len(t.entries) > 64*minTable {
		t.entries = nil // the memory of a crowd that has gone
	}
	return c, true
}

// each calls f for every call that was not abandoned. f may abandon or remove it.
func (t *callTable) each(f func(c *call)) {
	var all []*call
	for _, e := range t.entries {
		if e.call != nil {
			all = append(all, e.call)
		}
	}
	for _, c := range all {
		f(c)
	}
}
