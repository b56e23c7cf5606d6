package tcpclient

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
)

const (
	// minSlab is the memory for the first message, of which the size is not known.
	minSlab = 512

	// slabMessages and slabBytes are when a slab is full.
	slabMessages = 64
	slabBytes    = 8 << 10

	// overhead is what a message counts in the Inbox beside its bytes.
	overhead = 64

	// liftFactor and liftBytes are what an Inbox may grow to during Shutdown.
	liftFactor = 8
	liftBytes  = 16 << 20

	// maxLosses is how many unreceived losses are kept apart.
	maxLosses = 16
)

// An inbox holds the messages between the reading goroutine and those who receive.
//
// Messages lie one behind the other in slabs, which are recycled. The reader, by way of
// its intake, fills the last slab and publishes what is whole before it waits for the
// socket, so that a burst costs one lock and one wake-up.
type inbox struct {
	ready chan struct{} // one slot: somebody waits, and there may be something
	room  chan struct{} // one slot: the reader waits, and there may be room

	mu      sync.Mutex // guards following
	limit   int        // bytes of messages, each with its overhead
	lifted  bool       // limit was lifted
	head    *slab      // what may be received, in order of arrival; only the first is in part received
	tail    *slab
	free    *slab
	spare   int   // bytes of memory in free
	used    int   // bytes of messages in the queue, each with its overhead
	losses  int   // lost connections in the queue
	waiting int   // calls that wait for ready
	woken   bool  // one of them was given ready since the reader last yielded
	end     error // what comes after the queue; set once

	full atomic.Bool // the reader waits for room; set and cleared under mu
}

// Where the last messages of a slab may begin: those of a run that began before slabBytes. Slabs
// that are read into directly are as large as fits.
const _ = uint16(slabBytes + slabMessages*(prefix+maxRun)) // fits slab.starts

// A slab is a run of messages in one piece of memory, or the loss of a connection.
type slab struct {
	// Owned by the reader until the slab is closed. Behind what is published it may
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

// A cursor is the place of a loop over Messages in a slab. While it has messages there
// the loop takes them without the lock, one by one: others that receive
// meanwhile get the ones behind.
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

// bounds returns where message i begins and ends.
func (s *slab) bounds(i int) (start, end int) { return int(s.starts[i]), s.ends[i] }

// hold lets a loop take messages without the lock, until held is lowered again.
func (s *slab) hold() {
	if s.held == 0 {
		s.taken.Store(int32(s.received))
	}
	s.held++
}

func newInbox(limit int) *inbox {
	return &inbox{limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
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
	if alone := s.closed && s.n == 1 && s.held == 0; alone && len(msg) >= max(slabBytes/2, cap(s.data)/2) {
		s.data = buf[:0]
	} else {
		msg = append(buf[:0], msg...)
	}
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
	s.held--
	if s.held == 0 && !s.queued && s.closed {
		in.recycleLocked(s)
	}
}

// nextLocked waits until there is a message, takes it, and returns its slab and its
// place there.
func (in *inbox) nextLocked(ctx context.Context) (s *slab, i int, err error) {
	for {
		in.tidyLocked()
		if s := in.head; s != nil && s.loss != nil {
			in.popLocked()
			in.losses--
			in.passOnLocked()
			return nil, 0, s.loss
		} else if s != nil {
			if i, ok := in.claimLocked(s); ok {
				return s, i, nil
			}
		}
		if in.end != nil && in.head == nil {
			in.passOnLocked()
			return nil, 0, in.end
		}
		in.waiting++
		in.mu.Unlock()
		select {
		case <-in.ready:
		case <-ctx.Done():
			err = ctx.Err()
		}
		in.mu.Lock()
		in.waiting--
		if err != nil {
			return nil, 0, err
		}
	}
}

// claimLocked takes the next message of s, the first slab.
func (in *inbox) claimLocked(s *slab) (i int, ok bool) {
	if s.held == 0 {
		if i = s.received; i == s.published {
			return 0, false
		}
		in.freeLocked(s, i+1)
		return i, true
	}
	if i, ok = s.claim(s.published); ok {
		in.accountLocked()
	}
	return i, ok
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
	if s := in.head; s != nil && s.held > 0 {
		in.freeLocked(s, int(s.taken.Load()))
	}
}

// freeLocked makes room for the first messages of s, that many of which were received.
func (in *inbox) freeLocked(s *slab, received int) {
	if s.received == received {
		return // the reader is woken for room, or it would wake itself for ever
	}
	for ; s.received < received; s.received++ {
		start, end := s.bounds(s.received)
		in.used -= end - start + overhead
	}
	in.roomLocked()
}

// tidyLocked takes slabs of which nothing is left off the queue and recycles them.
func (in *inbox) tidyLocked() {
	in.accountLocked()
	for s := in.head; s != nil && s.loss == nil && s.closed && s.received == s.published; s = in.head {
		in.popLocked()
		in.accountLocked()
		if s.held == 0 {
			in.recycleLocked(s)
		}
	}
}

// passOnLocked wakes one more of those who wait, if there is something for them. Whoever
// was woken passes on, and so nobody is forgotten.
func (in *inbox) passOnLocked() {
	if in.waiting == 0 {
		return
	}
	in.tidyLocked()
	s := in.head
	if s == nil && in.end == nil || s != nil && s.loss == nil && s.received == s.published {
		return
	}
	select {
	case in.ready <- struct{}{}:
		in.woken = true
	default:
	}
}

func (in *inbox) pushLocked(s *slab) {
	if in.tail == nil {
		in.head = s
	} else {
		in.tail.next = s
	}
	in.tail = s
	s.queued = true
}

func (in *inbox) popLocked() {
	s := in.head
	in.head = s.next
	if in.head == nil {
		in.tail = nil
	}
	s.next, s.queued = nil, false
}

// recycleLocked keeps s for its memory, within reason.
func (in *inbox) recycleLocked(s *slab) {
	if in.free != nil && in.spare+cap(s.data) > in.limit {
		return
	}
	s.data, s.view = s.data[:0], nil
	s.n, s.published, s.received, s.closed = 0, 0, 0, false
	s.next, in.free = in.free, s
	in.spare += cap(s.data)
}

// slabLocked returns an empty slab.
func (in *inbox) slabLocked() *slab {
	s := in.free
	if s == nil {
		return new(slab)
	}
	in.free, s.next = s.next, nil
	in.spare -= cap(s.data)
	return s
}

// finish makes err follow what is in the queue, unless something does already.
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
	for in.head != nil {
		in.head.taken.Store(slabMessages) // for a loop that is in it
		in.popLocked()
	}
	in.used, in.losses = 0, 0
	in.roomLocked()
	in.passOnLocked()
}

// lift lets the inbox take more than its limit, for a Shutdown that waits for nobody to
// receive. Behind the new limit the connection is cut: memory is bounded all the same.
func (in *inbox) lift() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.limit = max(liftFactor*min(in.limit, math.MaxInt/liftFactor), liftBytes)
	in.lifted = true
	in.roomLocked()
}

// roomLocked wakes the reader if it waits for room.
func (in *inbox) roomLocked() {
	if !in.full.Load() {
		return
	}
	in.full.Store(false)
	select {
	case in.room <- struct{}{}:
	default: // left over from a wait that ended otherwise
	}
}
