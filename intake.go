package tcpclient

import (
	"encoding/binary"
	"runtime"
	"time"
)

// An intake is the reading goroutine's end of the inbox, and owned by it.
type intake struct {
	*inbox
	slab    *slab // takes messages
	pending int   // bytes added since publish, each message with its overhead
	budget  int   // room as of the last publication
	burst   int   // memory for the next slab, as bursts have needed it
	typical int   // size of the larger messages of late
	count   *counters
	yields  bool // somebody was woken: let them run before the next read
	replies int  // that calls were given since the last read
	seen    int  // messages not yet counted
	bytes   int  // their sizes
	stall   *time.Timer
	direct  bool // it has room for slabs of directSlab
}

// storage returns memory for the next message: empty, with some capacity.
func (t *intake) storage() []byte {
	s := t.slab
	if s != nil && s.n > 0 && cap(s.data)-len(s.data) < t.typical {
		if 2*(s.n-s.published) > s.n { // filled by a burst: more may follow
			t.burst = min(2*max(t.burst, cap(s.data)), slabBytes)
		}
		t.roll()
		s = nil
	}
	if s == nil {
		s = t.fresh()
	}
	if want := max(minSlab, min(slabMessages*t.typical, t.burst)); s.n == 0 && cap(s.data) < want && t.typical < slabBytes/2 {
		s.data = make([]byte, 0, want)
	}
	return s.data[len(s.data):]
}

// add takes msg, which is in the memory of storage or has outgrown it. While the inbox
// is full add waits. If conn dies meanwhile, add takes msg all the same, and returns why
// there must be no other.
func (t *intake) add(msg []byte, conn *Conn) error {
	over := t.admit(len(msg), conn)
	s := t.slab
	switch free := s.data[len(s.data):cap(s.data)]; {
	case len(msg) == 0 || len(free) > 0 && &msg[0] == &free[0]:
		s.data = s.data[:len(s.data)+len(msg)]
	case !conn.ours: // whose memory it is, nobody knows
		t.put(msg)
		return over
	case s.n == 0:
		s.data = msg
	default:
		t.roll()
		s = t.fresh()
		s.data = msg
	}
	t.added(s, len(msg))
	return over
}

// copy is add for a message in memory that is not the inbox's.
func (t *intake) copy(msg []byte, conn *Conn) error {
	over := t.admit(len(msg), conn)
	t.put(msg)
	return over
}

// put appends a copy of msg.
func (t *intake) put(msg []byte) {
	s := t.slab
	if s == nil || cap(s.data)-len(s.data) < len(msg) {
		t.typical = max(t.typical, len(msg))
		t.storage()
		s = t.slab
	}
	s.data = append(s.data, msg...)
	t.added(s, len(msg))
}

// run takes the frames of LengthPrefix{} that lie whole at the start of p, as many as are
// small and have room, and returns their bytes in p. One copy takes them all, headers
// included, which stay between the messages: for those of 64 bytes that costs a third of
// taking them one by one.
func (t *intake) run(p []byte, limit uint32) (taken int) {
	first := binary.BigEndian.Uint32(p)
	if first > limit || int(first) > len(p)-prefix {
		return 0
	}
	s := t.slab
	if s == nil || cap(s.data)-len(s.data) < prefix+int(first) {
		t.roll()
		s = t.fresh()
		if want := min(max(len(p), minSlab), slabBytes); cap(s.data) < want {
			s.data = make([]byte, 0, want)
		}
	}
	before, base, need := s.n, len(s.data), 0
	p = p[:min(cap(s.data)-base, len(p))]
	for s.n < slabMessages && len(p)-taken >= prefix {
		size := binary.BigEndian.Uint32(p[taken:])
		if size > limit || int(size) > len(p)-taken-prefix {
			break
		}
		if need += int(size) + overhead; t.pending+need > t.budget {
			need -= int(size) + overhead
			break
		}
		start := base + taken + prefix
		taken += prefix + int(size)
		s.starts[s.n], s.ends[s.n] = uint16(start), start+int(size)
		s.n++
	}
	many := s.n - before
	if many == 0 {
		return 0
	}
	bytes := need - many*overhead
	s.data = append(s.data, p[:taken]...)
	t.pending += need
	t.seen += many
	t.bytes += bytes
	t.typical = max(bytes/many, t.typical-t.typical/8)
	if s.n == slabMessages || len(s.data) >= slabBytes {
		t.roll()
	}
	return taken
}

const (
	// prefix is the header of LengthPrefix{}.
	prefix = 4

	// maxRun is the size of the largest message that run takes.
	maxRun = 512

	// fewReplies is the largest number of replies in one read after which the reader yields.
	// After more, a yield would make one batch of all requests that follow, and client and
	// server would wait for each other in turn; without it they soon travel in two.
	fewReplies = 16
)

// admit waits until the inbox has room for a message of size bytes.
func (t *intake) admit(size int, conn *Conn) error {
	need := size + overhead
	if t.pending+need <= t.budget {
		return nil
	}
	return t.makeRoom(need, conn)
}

// added is record, and ends s when it is full.
func (t *intake) added(s *slab, size int) {
	t.record(s, size)
	if s.n == slabMessages || len(s.data) >= slabBytes {
		t.roll()
	}
}

// record accounts for a message of size bytes at the end of s.
func (t *intake) record(s *slab, size int) {
	s.starts[s.n], s.ends[s.n] = uint16(len(s.data)-size), len(s.data)
	s.n++
	t.pending += size + overhead
	t.seen++
	t.bytes += size
	t.typical = max(size, t.typical-t.typical/8)
}

// fresh begins a new slab.
func (t *intake) fresh() *slab {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slab = t.slabLocked()
	return t.slab
}

// publish makes what was added receivable.
func (t *intake) publish() {
	t.tally()
	if t.pending > 0 {
		t.mu.Lock()
		t.publishLocked()
		t.passOnLocked()
		t.yields = t.yields || t.woken
		t.woken = false
		t.mu.Unlock()
	}
	if t.yields || t.replies > 0 && t.replies <= fewReplies {
		// Who was woken may well answer, and be answered, before a read would have had to
		// wait for that.
		runtime.Gosched()
	}
	t.yields, t.replies = false, 0
}

// tally adds the messages seen to the Stats.
func (t *intake) tally() {
	if t.seen > 0 {
		t.count.received(t.seen, t.bytes)
		t.seen, t.bytes = 0, 0
	}
}

func (t *intake) publishLocked() {
	s := t.slab
	if t.end == nil { // else nobody is to have it any more
		s.published, s.view = s.n, s.data
		if !s.queued {
			t.pushLocked(s)
		}
		t.used += t.pending
	}
	t.budget = t.limit - t.used
	t.pending = 0
}

// roll publishes and closes the slab.
func (t *intake) roll() {
	s := t.slab
	if s == nil {
		return
	}
	t.slab = nil
	t.tally()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending > 0 {
		t.slab = s
		t.publishLocked()
		t.slab = nil
	}
	s.closed = true
	if s.queued {
		t.tidyLocked()
	} else if s.held == 0 {
		t.recycleLocked(s) // nobody will ask for it
	}
	t.passOnLocked()
}

// makeRoom publishes and waits until need bytes fit into the inbox, or it is empty, or
// conn and the time for its last words are over. Calls whose replies are behind this
// message do not wait for longer than stallTime.
func (t *intake) makeRoom(need int, conn *Conn) error {
	t.tally()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending > 0 {
		t.publishLocked()
		t.passOnLocked()
	}
	t.budget = need
	t.full.Store(true) // from now on loops over Messages account for what they take
	defer t.full.Store(false)
	if t.accountLocked(); t.hasRoomLocked(need) {
		t.budget = max(t.limit-t.used, need)
		return nil
	}
	conn.calls.stall(false)
	stall := t.startStall()
	defer stall.Stop()
	dead, over := conn.wire.dead, (<-chan time.Time)(nil)
	for ticks := 0; !t.hasRoomLocked(need); { // ticks since somebody received
		if t.lifted {
			return ErrInboxFull
		}
		t.mu.Unlock()
		select {
		case <-t.room:
			ticks = 0
		case <-stall.C:
			ticks++
			conn.calls.stall(ticks >= stallTicks)
			stall.Reset(stallTick)
		case <-dead:
			dead = nil
			last := time.NewTimer(time.Until(conn.wire.lastWords()))
			defer last.Stop()
			over = last.C
		case <-over:
			t.mu.Lock()
			return conn.wire.reason()
		}
		t.mu.Lock()
		t.full.Store(true)
		t.accountLocked()
	}
	t.budget = max(t.limit-t.used, need)
	return nil
}

// hasRoomLocked reports whether need bytes fit into the inbox, or it is empty.
func (t *intake) hasRoomLocked(need int) bool { return t.used == 0 || t.used+need <= t.limit }

// startStall returns the timer of makeRoom, which is kept: a fast stream waits often.
func (t *intake) startStall() *time.Timer {
	if t.stall == nil {
		t.stall = time.NewTimer(stallTick)
	} else {
		t.stall.Reset(stallTick)
	}
	return t.stall
}

// lose puts the loss of a connection behind all that it brought.
func (t *intake) lose(err error) {
	t.roll()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.end != nil {
		return
	}
	if t.losses >= maxLosses && t.tail.loss != nil {
		t.tail.loss = err
		return
	}
	t.pushLocked(&slab{loss: err})
	t.losses++
	t.passOnLocked()
}
