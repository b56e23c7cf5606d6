package tcpclient

import (
	"context"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	// overhead is what a message counts in the Inbox beside its bytes.
	overhead = 64

	// raiseFactor and raiseBytes are what an Inbox may grow to during Shutdown.
	raiseFactor = 8
	raiseBytes  = 16 << 20

	// maxLosses is how many unreceived losses are kept apart.
	maxLosses = 16
)

// An inbox holds the messages between the reading goroutine and those who receive.
//
// Messages lie one after the other in slabs, which are recycled. The reader, by way of its
// producer, fills the last slab and publishes what is whole before it waits for the socket,
// so that a burst costs one lock and one wake-up.
type inbox struct {
	demand *demand // of those who wait here; nil: a connection is there without

	ready chan struct{} // one slot: a receiver waits, and there may be something
	room  chan struct{} // one slot: the reader waits, and there may be room; made by its first wait, under mu

	mu      sync.Mutex // guards following
	limit   int        // bytes of messages, each with its overhead
	queue   slabQueue  // what may be received; only the first slab is in part received
	free    *slabPool  // nil: see storage
	used    int        // bytes of messages in the queue, each with its overhead
	losses  int32      // lost connections in the queue
	waiting int32      // calls that wait for ready and were not given it
	resting *slab      // that the reader goes on with after its rest; see storage
	woken   bool       // one of them was given ready since the reader last yielded
	end     error      // what comes after the queue; set once

	phase   atomic.Int32 // an inboxPhase; set under mu
	storage atomic.Int32 // a storageState
	full    atomic.Bool  // the reader waits for room; set and cleared under mu
	replies atomic.Int64 // bytes of replies that loops over Replies have not read, each with its overhead
}

// A storageState is who needs the memory for messages: the last slab and those that are free. An
// inbox in which there is nothing, and into which nothing comes, has none.
type storageState int32

const (
	storageInUse storageState = iota // by the reader
	storageIdle                      // the reader waits for the socket: whoever receives the last message gives it up
	storageGone                      // it was given up; the reader learns that when something comes
)

// An inboxPhase is how far an inbox is in its life.
type inboxPhase int32

const (
	inboxOpen    inboxPhase = iota
	inboxRaised             // by Shutdown: its limit, which is the last
	inboxDropped            // by Close: nothing here is to be read any more
)

func (in *inbox) isRaised() bool { return inboxPhase(in.phase.Load()) == inboxRaised }

func (in *inbox) isDropped() bool { return inboxPhase(in.phase.Load()) == inboxDropped }

// A cursor is the place of a loop over Messages in a slab. While it has messages there
// the loop takes them without the lock, one by one: others that receive meanwhile get
// those that follow.
type cursor struct {
	slab      *slab // held
	view      []byte
	published int
}

// next returns the next message of c's slab; false if there is none.
func (in *inbox) next(c *cursor) ([]byte, bool) {
	if c.slab == nil {
		return nil, false
	}
	i, ok := c.slab.claim(c.published)
	if !ok {
		return nil, false
	}
	if in.full.Load() {
		in.account() // the reader waits: every byte counts
	}
	start, end := c.slab.bounds(i)
	return c.view[start:end:end], true
}

func newInbox(limit int, d *demand) *inbox {
	return &inbox{demand: d, limit: limit, ready: make(chan struct{}, 1)}
}

// receive returns the next message in buf's memory, or in memory traded for buf. It
// waits for one until ctx is done. An error is the loss of a connection in its place
// in the stream, the end, or ctx's.
func (in *inbox) receive(ctx context.Context, buf []byte) ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	s, i, err := in.nextLocked(ctx)
	if err != nil {
		return buf[:0], err
	}
	start, end := s.bounds(i)
	msg := s.view[start:end]
	if s.isTradable(len(msg)) {
		s.trade(buf)
	} else {
		msg = append(buf[:0], msg...)
	}
	in.giveUpLocked()
	in.passOnLocked()
	return msg, nil
}

// advance moves c to the next message, waiting like receive, and returns it. It is
// valid until c is moved again or released.
func (in *inbox) advance(ctx context.Context, c *cursor) ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.releaseLocked(c)
	s, i, err := in.nextLocked(ctx)
	if err != nil {
		return nil, err
	}
	s.hold()
	start, end := s.bounds(i)
	*c = cursor{slab: s, view: s.view, published: s.published}
	in.passOnLocked()
	return c.view[start:end:end], nil
}

// release lets go of the slab of c.
func (in *inbox) release(c *cursor) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.releaseLocked(c)
}

func (in *inbox) releaseLocked(c *cursor) {
	s := c.slab
	if s == nil {
		return
	}
	*c = cursor{}
	in.accountLocked()
	if s.letGo() {
		in.recycleLocked(s)
	}
	in.giveUpLocked()
}

// nextLocked waits until there is a message, takes it, and returns its slab and its
// place there.
func (in *inbox) nextLocked(ctx context.Context) (s *slab, i int, err error) {
	for {
		in.tidyLocked()
		if s := in.queue.head; s != nil && s.loss != nil {
			in.queue.pop()
			in.losses--
			in.passOnLocked()
			return nil, 0, s.loss
		} else if s != nil {
			if i, ok := in.claimLocked(s); ok {
				return s, i, nil
			}
		}
		if in.end != nil && in.queue.head == nil {
			in.passOnLocked()
			return nil, 0, in.end
		}
		in.waiting++
		in.demand.begin()
		in.mu.Unlock()
		select {
		case <-in.ready: // and is not counted any more
			in.mu.Lock()
		case <-ctx.Done():
			in.mu.Lock()
			in.leaveLocked()
			return nil, 0, ctx.Err()
		}
	}
}

// leaveLocked lets one leave who waits and has taken nothing from ready.
func (in *inbox) leaveLocked() {
	if in.waiting > 0 {
		in.uncountLocked()
		return
	}
	<-in.ready // all were given it, each of the others has taken one at most, and so there is one
}

// uncountLocked ends the wait of one of those who wait. What is here needs no connection, and so its
// demand for one ends, too.
func (in *inbox) uncountLocked() {
	in.waiting--
	in.demand.end()
}

// claimLocked takes the next message of s, the first slab.
func (in *inbox) claimLocked(s *slab) (i int, ok bool) {
	if s.held == 0 {
		if s.isReceived() {
			return 0, false
		}
		i = s.received
		in.freeLocked(s, i+1)
		return i, true
	}
	if i, ok = s.claim(s.published); ok {
		in.accountLocked()
	}
	return i, ok
}

// bytes returns how much was not received or read, each message with its overhead.
func (in *inbox) bytes() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.accountLocked()
	return in.takenLocked()
}

// takenLocked returns how much is taken of the limit.
func (in *inbox) takenLocked() int {
	if in.isDropped() {
		return 0
	}
	return in.used + int(in.replies.Load())
}

// replyRead makes room for replies of that many bytes, which were read or given up. As in next,
// either the reader sees that, or it is seen to wait.
func (in *inbox) replyRead(bytes int) {
	if bytes == 0 {
		return
	}
	in.replies.Add(int64(-bytes))
	if in.full.Load() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.roomLocked()
	}
}

// account makes room for what has been received.
func (in *inbox) account() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.accountLocked()
}

// accountLocked makes room for what loops over Messages have taken from the first slab
// without the lock. It is exact when the reader waits for room, and for a loop that finds it
// waiting.
func (in *inbox) accountLocked() {
	if s := in.queue.head; s != nil && s.held > 0 {
		in.freeLocked(s, int(s.taken.Load()))
	}
}

// freeLocked makes room for the first messages of s, that many of which were received.
func (in *inbox) freeLocked(s *slab, received int) {
	if s.received == received {
		return // the reader is woken for room, or it would wake itself for ever
	}
	in.used -= s.receive(received)
	in.roomLocked()
}

// tidyLocked takes slabs of which nothing is left off the queue and recycles them.
func (in *inbox) tidyLocked() {
	in.accountLocked()
	for s := in.queue.head; s != nil && s.isOver(); s = in.queue.head {
		in.queue.pop()
		in.accountLocked()
		if s.held == 0 {
			in.recycleLocked(s)
		}
	}
}

// passOnLocked wakes one more of those who wait, if there is something for them. Whoever
// was woken passes on, and so no one is forgotten.
func (in *inbox) passOnLocked() {
	if in.waiting == 0 {
		return
	}
	in.tidyLocked()
	s := in.queue.head
	if s == nil && in.end == nil || s != nil && s.loss == nil && s.isReceived() {
		return
	}
	select {
	case in.ready <- struct{}{}:
		in.woken = true
		in.uncountLocked()
	default:
	}
}

// publishLocked makes what was added to s receivable, messages of that many bytes, and
// returns how many more there is room for.
func (in *inbox) publishLocked(s *slab, bytes int) (room int) {
	if in.end == nil { // else no one is to have it any more
		s.publish()
		if !s.queued {
			in.queue.push(s)
		}
		in.used += bytes
	}
	in.passOnLocked()
	return in.limit - in.takenLocked()
}

// closeLocked ends s, to which the reader adds nothing any more.
func (in *inbox) closeLocked(s *slab) {
	if s.close() {
		in.recycleLocked(s) // no one will ask for it
	} else if s.queued {
		in.tidyLocked()
	}
	in.passOnLocked()
}

// takeWokenLocked returns whether one who waits was woken, and sets that back.
func (in *inbox) takeWokenLocked() bool {
	woken := in.woken
	in.woken = false
	return woken
}

// hasRoomLocked reports whether need bytes fit into the inbox, or it is empty.
func (in *inbox) hasRoomLocked(need int) bool {
	taken := in.takenLocked()
	return taken == 0 || taken+need <= in.limit
}

// recycle keeps s for its memory, within reason.
func (in *inbox) recycle(s *slab) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.recycleLocked(s)
}

func (in *inbox) recycleLocked(s *slab) {
	if in.free == nil {
		in.free = &slabPool{most: math.MaxInt}
	}
	in.free.put(s, in.limit)
}

// newSlab returns an empty slab with at most that much memory, of those of that class, and how many
// bytes wait to be received.
func (in *inbox) newSlab(most, class int) (s *slab, used int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.free == nil {
		in.free = newSlabPool(class, in.limit)
	}
	return in.free.get(most), in.used
}

// restLocked says that the reader needs no memory until resume, not even s, which it fills: it waits
// for the first bytes of a message. A nil s says so again, or that there was none.
func (in *inbox) restLocked(s *slab) {
	if s != nil {
		in.resting = s
	}
	in.storage.Store(int32(storageIdle))
	in.giveUpLocked()
}

// resume ends a rest, if there is one. It returns the slab that the reader fills, unless there is none, or its
// memory was given up. It takes no lock: who wins the storage owns resting.
func (in *inbox) resume() (s *slab) {
	if storageState(in.storage.Swap(int32(storageInUse))) == storageIdle {
		s, in.resting = in.resting, nil
	}
	return s
}

// giveUpLocked gives up the memory for messages if no one needs it.
func (in *inbox) giveUpLocked() {
	if in.used == 0 && storageState(in.storage.Load()) != storageInUse {
		in.giveUpIdleLocked()
	}
}

// giveUpIdleLocked is giveUpLocked if the reader does not need it.
func (in *inbox) giveUpIdleLocked() {
	switch storageState(in.storage.Load()) {
	case storageInUse:
		return // since a moment ago
	case storageIdle:
		in.tidyLocked()
		s := in.queue.head
		if s != nil && s.loss != nil {
			s = nil // there are no messages after it
		}
		if s != nil && !s.isDrained() || !in.storage.CompareAndSwap(int32(storageIdle), int32(storageGone)) {
			return
		}
		if in.resting = nil; s != nil {
			in.queue.pop()
			in.recycleLocked(s)
		}
	}
	if in.free != nil {
		in.free.giveUp()
		in.free = nil
	}
}

// lose puts the loss of a connection after all that it brought.
func (in *inbox) lose(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch last := in.queue.tail; {
	case in.end != nil:
	case in.losses >= maxLosses && last.loss != nil:
		last.loss = err
	default:
		in.queue.push(&slab{loss: err})
		in.losses++
		in.passOnLocked()
	}
}

// finish makes err follow what is in the queue, unless something does already. The reader has closed
// its slab before: one that is open and empty would hide the end from those who wait.
func (in *inbox) finish(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.end == nil {
		in.end = err
	}
	in.passOnLocked()
}

// close is finish for a Close: it drops the queue.
func (in *inbox) close(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.end == nil {
		in.end = err
	}
	for in.queue.head != nil {
		in.queue.pop().taken.Store(slabMessages) // for a loop that is in it
	}
	in.used, in.losses = 0, 0
	in.phase.Store(int32(inboxDropped))
	in.roomLocked()
	in.passOnLocked()
}

// raiseLimit lets the inbox take more than its limit, for a Shutdown that waits for no one to
// receive. At the new limit the connection is cut: memory is bounded all the same.
func (in *inbox) raiseLimit() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.limit = max(raiseFactor*min(in.limit, math.MaxInt/raiseFactor), raiseBytes)
	in.phase.CompareAndSwap(int32(inboxOpen), int32(inboxRaised))
	in.roomLocked()
}

// hearLocked makes the way to tell the reader of room.
func (in *inbox) hearLocked() {
	if in.room == nil {
		in.room = make(chan struct{}, 1)
	}
}

// roomLocked wakes the reader if it waits for room. One that is only about to finds out by itself.
func (in *inbox) roomLocked() {
	if !in.full.Load() || in.room == nil {
		return
	}
	in.full.Store(false)
	select {
	case in.room <- struct{}{}:
	default: // left over from a wait that ended otherwise
	}
}

const (
	// minSlab is the memory for the first message, of which the size is not known.
	minSlab = 512

	// slabMessages and slabBytes are when a slab is full.
	slabMessages = 64
	slabBytes    = 8 << 10
)

// Where the last messages of a slab may begin: those of a run that began before slabBytes. Slabs
// that are read into directly are as large as fits.
const _ = uint16(slabBytes + slabMessages*(frameHeader+maxRun)) // fits slab.starts

// A slab is a run of messages in one piece of memory, or the loss of a connection.
type slab struct {
	// Owned by the reader until the slab is closed. After what is published it may
	// write at any time, before that it writes no more.
	data   []byte
	n      int                  // messages in data
	starts [slabMessages]uint16 // where each of them begins
	ends   [slabMessages]int    // and ends

	// Guarded by inbox.mu.
	next      *slab
	view      []byte // data as far as it is published
	published int    // messages in view
	received  int    // of these, as far as is known: see taken
	queued    bool   // the slab is in the queue
	closed    bool   // the reader adds nothing any more
	held      int    // loops over Messages that are in view
	loss      error

	taken atomic.Int32 // while held > 0: received, raised by the loops without the lock
}

// isFull reports whether the slab takes no more messages.
func (s *slab) isFull() bool { return s.n == slabMessages || len(s.data) >= slabBytes }

// isHalfFull reports whether the messages take half of the memory.
func (s *slab) isHalfFull() bool { return len(s.data) >= cap(s.data)/2 }

// free returns the memory after the messages.
func (s *slab) free() []byte { return s.data[len(s.data):cap(s.data)] }

// room returns how much of that there is.
func (s *slab) room() int { return cap(s.data) - len(s.data) }

// allocate gives an empty slab memory of at least that size.
func (s *slab) allocate(size int) {
	if cap(s.data) < size {
		s.data = make([]byte, 0, size)
	}
}

// add makes a message of the last size bytes of the first used ones of the free memory.
func (s *slab) add(used, size int) {
	s.data = s.data[:len(s.data)+used]
	s.starts[s.n], s.ends[s.n] = uint16(len(s.data)-size), len(s.data)
	s.n++
}

// mark makes a message of the size bytes that begin that many bytes after those here. append
// brings them.
func (s *slab) mark(after, size int) {
	start := len(s.data) + after
	s.starts[s.n], s.ends[s.n] = uint16(start), start+size
	s.n++
}

// append adds p, for which there is room.
func (s *slab) append(p []byte) { s.data = append(s.data, p...) }

// bounds returns where message i begins and ends.
func (s *slab) bounds(i int) (start, end int) { return int(s.starts[i]), s.ends[i] }

// publish makes what was added receivable.
func (s *slab) publish() { s.published, s.view = s.n, s.data }

// isReceived reports whether nothing that is published is left to receive.
func (s *slab) isReceived() bool { return s.received == s.published }

// isOver reports whether the slab, the first in the queue, has nothing more to give.
func (s *slab) isOver() bool { return s.loss == nil && s.closed && s.isReceived() }

// isDrained reports whether no one needs what is in the slab, the first in the queue.
func (s *slab) isDrained() bool { return s.isReceived() && s.held == 0 }

// receive counts all but the first received messages as free, and returns their bytes.
func (s *slab) receive(received int) (bytes int) {
	for ; s.received < received; s.received++ {
		start, end := s.bounds(s.received)
		bytes += end - start + overhead
	}
	return bytes
}

// claim takes the next of the first published messages of s, which is held.
func (s *slab) claim(published int) (i int, ok bool) {
	for {
		taken := s.taken.Load()
		if int(taken) >= published {
			return 0, false
		}
		if s.taken.CompareAndSwap(taken, taken+1) {
			return int(taken), true
		}
	}
}

// hold lets a loop take messages without the lock, until letGo.
func (s *slab) hold() {
	if s.held == 0 {
		s.taken.Store(int32(s.received))
	}
	s.held++
}

// letGo ends a hold. It reports whether no one uses the slab any more.
func (s *slab) letGo() bool {
	s.held--
	return s.held == 0 && !s.queued && s.closed
}

// close ends the slab. It reports whether no one uses it any more.
func (s *slab) close() bool {
	s.closed = true
	return !s.queued && s.held == 0
}

// isTradable reports whether the message from start to end, the only one here, is worth
// giving away the memory.
func (s *slab) isTradable(size int) bool {
	return s.closed && s.n == 1 && s.held == 0 && size >= max(slabBytes/2, cap(s.data)/2)
}

// trade gives the slab other memory.
func (s *slab) trade(buf []byte) { s.data = buf[:0] }

// reset empties the slab for its next use.
func (s *slab) reset() {
	s.data, s.view = s.data[:0], nil
	s.n, s.published, s.received, s.closed = 0, 0, 0, false
}

// A slabQueue is slabs in order of arrival.
type slabQueue struct{ head, tail *slab }

func (q *slabQueue) push(s *slab) {
	if q.tail == nil {
		q.head = s
	} else {
		q.tail.next = s
	}
	q.tail = s
	s.queued = true
}

func (q *slabQueue) pop() *slab {
	s := q.head
	q.head = s.next
	if q.head == nil {
		q.tail = nil
	}
	s.next, s.queued = nil, false
	return s
}

// A slabPool is slabs that wait for their next use.
type slabPool struct {
	first   *slab
	bytes   int // of their memory
	largest int // no slab here has more memory
	most    int // memory of more is given up: it was for messages larger than those of late
	class   int // what the slabs are for
}

// slabPools are those that no inbox needs, by their class.
var slabPools [bits.UintSize + 1]sync.Pool

// directClass is that of slabs for direct reads. 0 is that of slabs for small messages.
const directClass = 1

// slabClass returns the class of slabs for messages of that size.
func slabClass(size int) int {
	if size < slabBytes/2 {
		return 0
	}
	return bits.Len(uint(size))
}

// newSlabPool returns slabs of that class, if there are some, of at most limit bytes or two.
func newSlabPool(class, limit int) *slabPool {
	p, ok := slabPools[class].Get().(*slabPool)
	if !ok {
		return &slabPool{class: class, most: math.MaxInt}
	}
	if second := p.second(); p.bytes > limit && second != nil { // another had a larger Inbox
		second.next = nil
		p.bytes = cap(p.first.data) + cap(second.data)
	}
	return p
}

// giveUp makes the slabs those of anybody who needs some.
func (p *slabPool) giveUp() {
	if p.class == 0 && p.largest >= directSlab {
		p.class = directClass
	}
	slabPools[p.class].Put(p)
}

// put keeps s for its memory, as long as that of all does not exceed limit. Two are always kept: in
// a stream of messages above the limit one is read while another waits, and a third is received.
func (p *slabPool) put(s *slab, limit int) {
	if cap(s.data) > p.most || p.bytes+cap(s.data) > limit && p.second() != nil {
		return
	}
	s.reset()
	s.next, p.first = p.first, s
	p.bytes += cap(s.data)
	p.largest = max(p.largest, cap(s.data))
}

// second returns the second slab, if there is one.
func (p *slabPool) second() *slab {
	if p.first == nil {
		return nil
	}
	return p.first.next
}

// get returns an empty slab. From now on most is what counts.
func (p *slabPool) get(most int) *slab {
	if p.most = most; p.largest > most {
		p.trim()
	}
	s := p.first
	if s == nil {
		return new(slab)
	}
	p.first, s.next = s.next, nil
	p.bytes -= cap(s.data)
	return s
}

// trim gives up memory of more than most, wherever it is in the pool.
func (p *slabPool) trim() {
	p.bytes, p.largest = 0, 0
	for s := p.first; s != nil; s = s.next {
		if cap(s.data) > p.most {
			s.data = nil
		}
		p.bytes += cap(s.data)
		p.largest = max(p.largest, cap(s.data))
	}
}
