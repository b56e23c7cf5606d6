package tcpclient

import (
	"math"
	"runtime"
	"sync"
	"time"
)

const (
	// maxRun is the size of the largest message that addRun takes.
	maxRun = 512

	// fewReplies is the largest number of replies in one read after which the reader yields.
	// After more, a yield would make one batch of all requests that follow, and client and
	// server would wait for each other in turn; without it they soon travel in two.
	fewReplies = 16
)

// An upstream is what a producer has to know of the connection that it takes messages from,
// while it waits for room.
type upstream interface {
	Dead() <-chan struct{}
	ReadUntil() time.Time // the time up to which a dead connection is still read
	Cause() error
	stall(received bool)
	stallOver()

	// whileFull keeps the peer content. It returns after which time it is to be called again;
	// 0: there is nothing to do, as things stand. After an error there must be no other message.
	whileFull() (again time.Duration, err error)
}

// A producer is the reading goroutine's end of the inbox, and owned by it. It outlives
// connections.
type producer struct {
	inbox   *inbox
	count   *counters
	slab    *slab // takes messages
	large   *slab // empty: its memory is read into, before it is known for whom; nil: none
	pending int   // bytes added since publish, each message with its overhead
	budget  int   // room as of the last publication, less the replies since
	burst   int   // memory for the next slab, as bursts have needed it
	typical int   // size of the larger messages of late
	backlog int   // bytes in the inbox as of the last new slab
	scratch *scratchMemory
	yields  bool  // a receiver was woken: let it run before the next read
	replies int32 // that calls were given since the last read
	seen    int   // messages not yet counted
	bytes   int   // their sizes
	timers  roomTimers
}

// A scratchMemory is for a message that may not fit into the slab.
type scratchMemory [slabBytes / 2]byte

// scratches are those that no one needs.
var scratches = sync.Pool{New: func() any { return new(scratchMemory) }}

func newProducer(in *inbox, count *counters) *producer {
	return &producer{inbox: in, count: count}
}

// storage returns memory for the next message: empty, with some capacity.
func (t *producer) storage() []byte {
	s := t.slab
	switch {
	case s == nil || s.n == 0:
		s = t.emptySlab()
	case s.room() >= t.typical:
	case s.isHalfFull():
		s = t.nextSlab()
	default: // to close it now would waste most of its memory, if the message is a small one
		if t.scratch == nil {
			t.scratch = scratches.Get().(*scratchMemory)
		}
		return t.scratch[:0]
	}
	return s.free()[:0]
}

// nextSlab closes the slab, which has messages, and begins another with memory.
func (t *producer) nextSlab() *slab {
	if s := t.slab; 2*(s.n-s.published) > s.n { // filled by a burst: more may follow
		t.burst = min(2*max(t.burst, cap(s.data)), slabBytes)
	}
	t.closeSlab()
	return t.emptySlab()
}

// emptySlab returns the slab, which has no messages, or a new one, with memory for some. That
// is not more than what waits to be received: memory follows what has come.
func (t *producer) emptySlab() *slab {
	if t.slab == nil {
		t.newSlab()
	}
	if t.typical < slabBytes/2 {
		some := min(slabMessages*t.typical, max(t.burst, t.backlog))
		t.slab.allocate(max(minSlab, min(some, slabBytes+t.typical))) // the last one may begin before slabBytes
	}
	return t.slab
}

// add takes msg, which is in the memory of storage or has outgrown it. owned says that no one
// else has that memory. While the inbox is full add waits. If the connection dies meanwhile,
// add takes msg all the same, and returns why there must be no other.
func (t *producer) add(msg []byte, owned bool, from upstream) error {
	over := t.admit(len(msg), from)
	s := t.slab
	switch free := s.free(); {
	case len(msg) == 0 || len(free) > 0 && &msg[0] == &free[0]:
		t.addBytes(len(msg), len(msg))
	case !owned || len(msg) <= slabBytes/2: // in the scratch memory, or outgrown
		t.appendCopy(msg)
	default:
		if s.n > 0 {
			t.closeSlab()
			s = t.newSlab()
		}
		s.trade(msg)
		t.addBytes(len(msg), len(msg))
	}
	return over
}

// largeSlabs are empty slabs that readers at rest do not need: for messages that are not for Receive. Among
// the slabs of an Inbox they would come to hold a few small messages each.
var largeSlabs sync.Pool

// largeStorage returns memory for a message that may be for a call: empty, with some capacity or
// none.
func (t *producer) largeStorage() []byte {
	if t.large == nil {
		switch s, ok := largeSlabs.Get().(*slab); {
		case ok && cap(s.data) <= t.largestSlab():
			t.large = s
		case ok:
			largeSlabs.Put(s)
			fallthrough
		default:
			t.large, t.backlog = t.freeSlab(slabClass(t.typical))
		}
	}
	return t.large.free()
}

// keepLarge keeps the memory of largeStorage, or what that has outgrown it, for the next message.
func (t *producer) keepLarge(mem []byte) {
	if cap(mem) <= t.largestSlab() {
		t.large.trade(mem)
	}
}

// addLarge is add for a message that is in the memory of largeStorage or has outgrown it.
func (t *producer) addLarge(msg []byte, from upstream) error {
	over := t.admit(len(msg), from)
	t.replaceSlab()
	t.slab.trade(msg)
	t.addBytes(len(msg), len(msg))
	return over
}

// replaceSlab makes the slab of largeStorage the one that takes messages.
func (t *producer) replaceSlab() {
	if empty := t.slab; empty != nil && empty.n == 0 {
		t.slab = nil
		t.inbox.recycle(empty)
	}
	t.closeSlab()
	t.slab, t.large = t.large, nil
}

// copy is add for a message in memory that is not the inbox's.
func (t *producer) copy(msg []byte, from upstream) error {
	over := t.admit(len(msg), from)
	t.appendCopy(msg)
	return over
}

// deliver adds copies of messages that a Handshake has received, whether there is room or not. The
// next makeRoom publishes them.
func (t *producer) deliver(msgs [][]byte) {
	for _, msg := range msgs {
		t.appendCopy(msg)
	}
}

// appendCopy adds a copy of msg.
func (t *producer) appendCopy(msg []byte) {
	s := t.slab
	if s == nil || s.room() < len(msg) {
		t.typical = max(t.typical, len(msg))
		if s == nil || s.n == 0 {
			s = t.emptySlab()
		} else {
			s = t.nextSlab()
		}
		s.allocate(len(msg))
	}
	copy(s.free(), msg)
	t.addBytes(len(msg), len(msg))
}

// addRun takes the frames of LengthPrefix{} that lie whole at the start of p, as many as are
// small and have room, and returns their bytes in p. One copy takes them all, headers
// included, which stay between the messages: for those of 64 bytes that costs a third of
// taking them one by one.
func (t *producer) addRun(p []byte, limit uint64) (taken int) {
	first := frameSize(p)
	if first > limit || int(first) > len(p)-frameHeader {
		return 0
	}
	s := t.slab
	if s == nil || s.room() < frameHeader+int(first) {
		t.closeSlab()
		s = t.newSlab()
		s.allocate(min(max(len(p), minSlab, t.backlog), slabBytes))
	}
	p = p[:min(s.room(), len(p))]
	before, need := s.n, 0
	for s.n < slabMessages && len(p)-taken >= frameHeader {
		size := frameSize(p[taken:])
		if size > limit || int(size) > len(p)-taken-frameHeader {
			break
		}
		if need += int(size) + overhead; t.pending+need > t.budget {
			need -= int(size) + overhead
			break
		}
		s.mark(taken+frameHeader, int(size))
		taken += frameHeader + int(size)
	}
	many := s.n - before
	if many == 0 {
		return 0
	}
	bytes := need - many*overhead
	s.append(p[:taken])
	t.pending += need
	t.seen += many
	t.bytes += bytes
	t.typical = max(bytes/many, t.typical-t.typical/8)
	if s.isFull() {
		t.closeSlab()
	}
	return taken
}

// admit waits until the inbox has room for a message of size bytes.
func (t *producer) admit(size int, from upstream) error {
	need := size + overhead
	if t.hasRoom(need) {
		return nil
	}
	return t.makeRoom(need, from, nil)
}

// hasRoom reports whether that many bytes fit into the inbox for certain.
func (t *producer) hasRoom(need int) bool { return t.pending+need <= t.budget }

// spend notes that so many bytes of a reply have been added to the inbox.
func (t *producer) spend(bytes int) { t.budget -= bytes }

// addBytes makes a message of the last size of the next used bytes in the slab, and ends that
// when it is full.
func (t *producer) addBytes(used, size int) {
	t.record(used, size)
	if t.slab.isFull() {
		t.closeSlab()
	}
}

// record is addBytes for slabs of any size.
func (t *producer) record(used, size int) {
	t.slab.add(used, size)
	t.pending += size + overhead
	t.seen++
	t.bytes += size
	t.typical = max(size, t.typical-t.typical/8)
}

// newSlab begins a new slab.
func (t *producer) newSlab() *slab {
	t.slab, t.backlog = t.freeSlab(slabClass(t.typical))
	return t.slab
}

// freeSlab returns an empty slab of that class, and how many bytes wait to be received.
func (t *producer) freeSlab(class int) (s *slab, backlog int) {
	return t.inbox.newSlab(t.largestSlab(), class)
}

// largestSlab returns how much memory may be used again for messages as they were of late.
func (t *producer) largestSlab() int { return max(2*directSlab, min(t.typical, math.MaxInt/8)*8) }

// publish makes what was added receivable.
func (t *producer) publish() {
	t.flushCounts()
	if t.pending > 0 {
		t.inbox.mu.Lock()
		t.publishLocked()
		t.yields = t.inbox.takeWokenLocked() || t.yields
		t.inbox.mu.Unlock()
	}
	t.yield()
}

// rest is publish for a reader that needs no memory until resume: not even that of a message of which
// something is here.
func (t *producer) rest() {
	t.flushCounts()
	t.inbox.mu.Lock()
	t.restLocked()
	t.inbox.mu.Unlock()
	t.yield()
}

func (t *producer) restLocked() {
	if t.pending > 0 {
		t.publishLocked()
		t.yields = t.inbox.takeWokenLocked() || t.yields
	}
	if t.slab != nil && t.slab.n == 0 {
		t.inbox.recycleLocked(t.slab)
		t.slab = nil
	}
	if t.large != nil {
		if cap(t.large.data) > 0 {
			largeSlabs.Put(t.large)
		}
		t.large = nil
	}
	if t.scratch != nil {
		scratches.Put(t.scratch)
		t.scratch = nil
	}
	t.inbox.restLocked(t.slab)
	t.slab = nil
}

// resume ends a rest.
func (t *producer) resume() {
	if s := t.inbox.resume(); s != nil {
		t.slab = s
	}
}

// yield lets those run who were woken.
func (t *producer) yield() {
	if t.yields || t.replies > 0 && t.replies <= fewReplies {
		// Who was woken may well answer, and be answered, before a read would have had to
		// wait for that.
		runtime.Gosched()
	}
	t.yields, t.replies = false, 0
}

// answered counts a message that was a reply.
func (t *producer) answered() { t.replies++ }

// flushCounts adds the messages seen to the Stats.
func (t *producer) flushCounts() {
	if t.seen > 0 {
		t.count.received(t.seen, t.bytes)
		t.seen, t.bytes = 0, 0
	}
}

func (t *producer) publishLocked() {
	t.budget = t.inbox.publishLocked(t.slab, t.pending)
	t.pending = 0
}

// closeSlab publishes and closes the slab.
func (t *producer) closeSlab() {
	if t.slab == nil {
		return
	}
	t.flushCounts()
	t.inbox.mu.Lock()
	defer t.inbox.mu.Unlock()
	if t.pending > 0 {
		t.publishLocked()
	}
	t.inbox.closeLocked(t.slab)
	t.slab = nil
}

// makeRoom publishes and waits until need bytes fit into the inbox, or it is empty, or
// the connection and the time to read it are over. Calls whose replies come after this
// message do not wait for longer than stallTime. It gives up, too, when wanted, if it is not nil,
// says that no one waits for what is to come.
func (t *producer) makeRoom(need int, from upstream, wanted func() bool) error {
	t.flushCounts()
	in := t.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	if t.pending > 0 {
		t.publishLocked()
	}
	t.budget = need
	in.full.Store(true) // from now on loops over Messages account for what they take
	defer in.full.Store(false)
	if in.accountLocked(); !in.hasRoomLocked(need) {
		if err := t.awaitRoomLocked(need, from, wanted); err != nil {
			return err
		}
	}
	if !in.hasRoomLocked(need) {
		need = 0 // it is not wanted
	}
	t.budget = max(in.limit-in.takenLocked(), need)
	return nil
}

// awaitRoomLocked waits for room.
func (t *producer) awaitRoomLocked(need int, from upstream, wanted func() bool) error {
	from.stall(true)
	defer from.stallOver()
	t.inbox.hearLocked()
	w := roomWait{from: from, timers: &t.timers, dead: from.Dead()}
	w.tick = w.timers.tick.start(stallTick)
	defer w.stop()
	for in := t.inbox; !in.hasRoomLocked(need); {
		if in.isRaised() {
			return ErrInboxFull
		}
		if err := w.unlocked(in); err != nil {
			return err
		}
		in.full.Store(true)
		in.accountLocked()
		if wanted != nil && !wanted() {
			break
		}
	}
	return nil
}

// A roomWait is one wait for room in the inbox.
type roomWait struct {
	from   upstream
	timers *roomTimers
	tick   <-chan time.Time
	ticks  int              // since a message was received
	silent <-chan time.Time // when to call the upstream's whileFull; nil: whenever something else happens
	dead   <-chan struct{}  // nil: the connection is, and over tells how long it is still read
	over   <-chan time.Time
}

// unlocked is look without the lock, which it holds again when that returns, or ends the goroutine:
// Ping may.
func (w *roomWait) unlocked(in *inbox) error {
	in.mu.Unlock()
	defer in.mu.Lock()
	return w.look(in.room)
}

// look returns when there may be room. An error says that it is waited for no longer.
func (w *roomWait) look(room <-chan struct{}) error {
	if w.silent == nil {
		if err := w.keepContent(); err != nil {
			return err
		}
	}
	select {
	case <-room:
		w.ticks = 0
	case <-w.tick:
		w.ticks++
		w.from.stall(w.ticks < stallTicks)
		w.timers.tick.start(stallTick)
	case <-w.silent:
		return w.keepContent()
	case <-w.dead:
		w.dead = nil
		w.over = w.timers.over.start(time.Until(w.from.ReadUntil()))
	case <-w.over:
		return w.from.Cause()
	}
	return nil
}

// keepContent keeps the peer content.
func (w *roomWait) keepContent() error {
	again, err := w.from.whileFull()
	if w.silent = nil; again > 0 {
		w.silent = w.timers.silent.start(again)
	}
	return err
}

// stop ends the wait.
func (w *roomWait) stop() {
	w.timers.tick.stop()
	w.timers.silent.stop()
	w.timers.over.stop()
}

// roomTimers are those of a roomWait. They are kept: a fast stream waits often.
type roomTimers struct{ tick, silent, over keptTimer }

// A keptTimer is a timer that is used again and again. The zero value was not needed yet.
type keptTimer struct{ timer *time.Timer }

// start sets the timer.
func (k *keptTimer) start(d time.Duration) <-chan time.Time {
	if k.timer == nil {
		k.timer = time.NewTimer(d)
	} else {
		k.timer.Reset(d)
	}
	return k.timer.C
}

// stop stops it.
func (k *keptTimer) stop() {
	if k.timer != nil {
		k.timer.Stop()
	}
}

// lose puts the loss of a connection after all that it brought.
func (t *producer) lose(err error) {
	t.closeSlab()
	t.inbox.lose(err)
}
