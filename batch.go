package tcpclient

import (
	"bufio"
	"encoding/binary"
	"slices"
)

const (
	// minBatch is the buffer that a batch starts with. It grows with use, up to
	// WriteBuffer: an idle connection should cost little.
	minBatch = 128

	// maxSpare is how many small batches in a row it takes to give up the memory of a
	// large one.
	maxSpare = 64

	// record is the largest TLS record. Batches are given to TLS in pieces of that
	// size, and a position in the batch is known to the wire by its piece.
	record = 16 << 10
)

// A batch is what one write to the network carries: frames, as bytes in memory. It has
// no lock; the outbox guards it.
//
// Frames of LengthPrefix{} are appended to bytes. Other Framers write to w: as long as it
// fits w's buffer it is sent from there, what overflows is appended to bytes.
type batch struct {
	bytes  []byte
	w      *bufio.Writer // over this batch; nil: not needed yet
	view   []byte        // w's buffer, once sealed
	sealed bool
	spare  int // times in a row that bytes was much too large

	frames int     // in the batch
	kept   int     // of these, frames whose Write has returned, or whose Send has given up: nobody waits for them
	first  *waiter // those who wait for the batch, in order of arrival
	last   *waiter //
	base   int64   // the position in the wire's stream where the batch begins
	pieces []int64 // with TLS: where each piece of record bytes begins
	taken  int     // bytes that were given to the wire, or to TLS
	denied bool    // which has refused some of them
}

// writer returns w, which for a start has a buffer of that size.
func (b *batch) writer(size int) *bufio.Writer {
	if b.w == nil {
		b.w = bufio.NewWriterSize(b, size)
	}
	return b.w
}

// Write is where w overflows to.
func (b *batch) Write(p []byte) (int, error) {
	if b.sealed {
		b.view = p // w's own buffer: it stays as it is until w is used again
	} else {
		b.bytes = append(b.bytes, p...)
	}
	return len(p), nil
}

// prefixed appends msg as a frame of LengthPrefix{}, and returns where that begins.
func (b *batch) prefixed(msg []byte) (start int) {
	start = len(b.bytes)
	size := 4 + len(msg)
	if size > cap(b.bytes)-start {
		b.bytes = slices.Grow(b.bytes, size)
	}
	b.bytes = b.bytes[:start+size]
	binary.BigEndian.PutUint32(b.bytes[start:], uint32(len(msg)))
	copy(b.bytes[start+4:], msg)
	return start
}

// size returns the bytes in the batch.
func (b *batch) size() int {
	size := len(b.bytes) + len(b.view)
	if b.w != nil {
		size += b.w.Buffered()
	}
	return size
}

// truncate takes back all but the first size bytes.
func (b *batch) truncate(size int) {
	if b.w != nil {
		b.w.Flush()
	}
	b.bytes = b.bytes[:size]
}

// seal ends the framing and returns the bytes to send, valid until reset.
func (b *batch) seal() []byte {
	if b.w == nil {
		return b.bytes
	}
	b.sealed = len(b.bytes) == 0
	b.w.Flush()
	if b.sealed {
		return b.view
	}
	return b.bytes
}

// reset empties the batch for its next use. A buffer that was too small has
// grown, up to limit.
func (b *batch) reset(limit int) {
	buffer := 0
	if b.w != nil {
		if n := len(b.bytes); n > b.w.Size() && b.w.Size() < limit {
			b.w = bufio.NewWriterSize(b, min(max(n, 2*b.w.Size()), limit))
		}
		buffer = b.w.Size()
	}
	if len(b.bytes) < cap(b.bytes)/4 {
		b.spare++
	} else {
		b.spare = 0
	}
	b.bytes = b.bytes[:0]
	if b.spare > maxSpare || cap(b.bytes) <= buffer {
		b.bytes, b.spare = nil, 0
	}
	b.view, b.sealed = nil, false
	b.frames, b.kept, b.taken, b.denied = 0, 0, 0, false
	b.first, b.last = nil, nil
	b.pieces = b.pieces[:0]
}

// unsent reports whether the wire, having handed over that many bytes in all, has handed
// over none of what begins at start in the batch.
func (b *batch) unsent(start int, handed int64) bool {
	switch {
	case start >= b.taken:
		return true
	case len(b.pieces) > 0:
		return handed <= b.pieces[start/record]
	}
	return handed <= b.base+int64(start)
}

// add puts w behind the others that wait for the batch.
func (b *batch) add(w *waiter) {
	w.batch = b
	if b.last == nil {
		b.first = w
	} else {
		b.last.next = w
	}
	b.last = w
}
