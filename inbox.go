package tcpclient

import (
	"context"
	"sync"
)

const (
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
	head    *slab      // what may be received, in order of arrival
	tail    *slab
	free    *slab
	spare   int   // bytes of memory in free
	used    int   // bytes of messages in the queue, each with its overhead
	losses  int   // lost connections in the queue
	waiting int   // calls that wait for ready
	woken   bool  // one of them was given ready since the reader last yielded
	full    bool  // the reader waits for room
	end     error // what comes after the queue; set once
}

// A slab is a run of messages in one piece of memory, or the loss of a connection.
type slab struct {
	// Owned by the reader until the slab is closed. Behind what is published it may
	// write at any time, before that it writes no more.
	data []byte
	n    int               // messages in data
	ends [slabMessages]int // where each of them ends

	// Guarded by inbox.mu.
	next      *slab
	view      []byte // data as far as it is published
	published int    // messages in view
	taken     int    // of these, messages that were received
	queued    bool   // the slab is in the queue
	closed    bool   // the reader adds nothing any more
	held      int    // messages in use by loops over Messages
	loss      error
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
	s, err := in.nextLocked(ctx)
	if err != nil {
		return buf[:0], err
	}
	msg := s.take()
	if alone := s.closed && s.n == 1 && s.held == 0; alone && len(msg) >= max(slabBytes/2, cap(s.data)/2) {
		msg, s.data = s.data, buf[:0]
	} else {
		msg = append(buf[:0], msg...)
	}
	in.tookLocked(s, len(msg))
	return msg, nil
}

// hold returns the next message in place, with its slab, which is not reused until
// release. It waits like receive.
func (in *inbox) hold(ctx context.Context, last *slab) (msg []byte, s *slab, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.releaseLocked(last)
	s, err = in.nextLocked(ctx)
	if err != nil {
		return nil, nil, err
	}
	msg = s.take()
	s.held++
	in.tookLocked(s, len(msg))
	return msg, s, nil
}

// release gives back what hold returned; nil is nothing.
func (in *inbox) release(s *slab) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.releaseLocked(s)
}

func (in *inbox) releaseLocked(s *slab) {
	if s == nil {
		return
	}
	s.held--
	in.tidyLocked(s)
}

// nextLocked waits until there is a message and returns its slab.
func (in *inbox) nextLocked(ctx context.Context) (*slab, error) {
	for {
		switch s := in.head; {
		case s != nil && s.loss != nil:
			in.popLocked()
			in.losses--
			in.passOnLocked()
			return nil, s.loss
		case s != nil && s.taken < s.published:
			return s, nil
		case in.end != nil:
			in.passOnLocked()
			return nil, in.end
		}
		in.waiting++
		in.mu.Unlock()
		var err error
		select {
		case <-in.ready:
		case <-ctx.Done():
			err = ctx.Err()
		}
		in.mu.Lock()
		in.waiting--
		if err != nil {
			return nil, err
		}
	}
}

// take returns the next message of s.
func (s *slab) take() []byte {
	start := 0
	if s.taken > 0 {
		start = s.ends[s.taken-1]
	}
	end := s.ends[s.taken]
	s.taken++
	return s.view[start:end:end]
}

// tookLocked accounts for a message of size bytes that was taken from s.
func (in *inbox) tookLocked(s *slab, size int) {
	in.used -= size + overhead
	in.roomLocked()
	in.tidyLocked(s)
	in.passOnLocked()
}

// tidyLocked takes s out of the queue and recycles it, when its time has come.
func (in *inbox) tidyLocked(s *slab) {
	if !s.closed || s.queued && s.taken < s.published {
		return
	}
	if s.queued {
		in.popLocked() // all before it were received, so it is the head
	}
	if s.held == 0 {
		in.recycleLocked(s)
	}
}

// passOnLocked wakes one more of those who wait, if there is something for them. Whoever
// was woken passes on, and so nobody is forgotten.
func (in *inbox) passOnLocked() {
	if in.waiting == 0 || in.end == nil && (in.head == nil || in.head.loss == nil && in.head.taken == in.head.published) {
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
	data := s.data[:0]
	*s = slab{data: data, next: in.free}
	in.free = s
	in.spare += cap(data)
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

// drop empties the queue.
func (in *inbox) drop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.head != nil {
		in.popLocked()
	}
	in.used, in.losses = 0, 0
	in.roomLocked()
}

// lift lets the inbox take more than its limit, for a Shutdown that waits for nobody to
// receive. Behind the new limit the connection is cut: memory is bounded all the same.
func (in *inbox) lift() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.limit = max(liftFactor*in.limit, liftBytes)
	in.lifted = true
	in.roomLocked()
}

// roomLocked wakes the reader if it waits for room.
func (in *inbox) roomLocked() {
	if !in.full {
		return
	}
	in.full = false
	select {
	case in.room <- struct{}{}:
	default: // left over from a wait that ended otherwise
	}
}
