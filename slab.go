package tcpclient

import "sync/atomic"

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

// letGo ends a hold. It reports whether the slab is nobody's any more.
func (s *slab) letGo() bool {
	s.held--
	return s.held == 0 && !s.queued && s.closed
}

// close ends the slab. It reports whether it is nobody's any more.
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
	first *slab
	bytes int // of their memory
}

// put keeps s for its memory, as long as that of all does not exceed limit; one is always kept.
func (p *slabPool) put(s *slab, limit int) {
	if p.first != nil && p.bytes+cap(s.data) > limit {
		return
	}
	s.reset()
	s.next, p.first = p.first, s
	p.bytes += cap(s.data)
}

// get returns an empty slab.
func (p *slabPool) get() *slab {
	s := p.first
	if s == nil {
		return new(slab)
	}
	p.first, s.next = s.next, nil
	p.bytes -= cap(s.data)
	return s
}
