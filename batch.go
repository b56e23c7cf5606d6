package tcpclient

import (
	"bufio"
	"math"
	"slices"
	"sync"
)

const (
	// minBatch is the buffer that a batch starts with. It grows with use, up to
	// WriteBuffer: an idle connection should cost little.
	minBatch = 128

	// maxSpare is how many small batches in a row it takes to give up the memory of a
	// large one.
	maxSpare = 64

	// record is the largest TLS record, and what TLS is given at a time. The position of a
	// frame in the stream is known to the piece that it begins in.
	record = 16 << 10
)

// A batch is what one write to the network carries: frames, and who waits for them. It has
// no lock; the outbox guards it.
type batch struct {
	frameBuffer
	loan *loan // comes after that; nil: there was none yet

	frames     int      // in the batch
	unawaited  int      // of these, frames whose Write has returned, or whose Send has given up
	control    int      // of these, pings and answers
	controls   int      // bytes of those
	controlEnd int      // where the last of those ends; 0: there is none
	waiters    waitList // who waits for the batch
	flushing   int      // waiters that flush, and have no frame of their own
	loss       error    // for the first of these to report

	base   int64   // where in the stream of the connection the batch begins
	pieces []int64 // with TLS: where each piece of record bytes begins
	given  int     // bytes that were handed to the network, or to TLS
}

// messages returns how many frames are the application's.
func (b *batch) messages() int { return b.frames - b.control }

// lost returns how many messages the loss of the batch has to report: those that no one waits
// for, and of our own Close all.
func (b *batch) lost(reason error) int {
	if reason == ErrClosed {
		return b.messages()
	}
	return b.unawaited
}

// size returns the bytes in the batch.
func (b *batch) size() int { return b.frameBuffer.size() + b.loan.size() }

// lend appends the frame of f for msg, without a copy of that, and returns where it begins. There is
// none after it. An error is that of f.
func (b *batch) lend(f headed, msg []byte) (start int, err error) {
	start = b.size()
	rest, err := b.appendHeader(f, msg)
	if err != nil {
		return 0, err
	}
	if b.loan == nil {
		b.loan = new(loan)
	}
	b.loan.begin(rest)
	return start, nil
}

// rest returns what was not handed over: of the frameBuffer, and of what was lent.
func (b *batch) rest() (own, lent []byte) {
	own = b.seal()
	done := min(b.given, len(own))
	return own[done:], b.loan.rest(b.given - done)
}

// keep ends the loan: what was not handed over of the message is copied.
func (b *batch) keep() {
	own := len(b.seal())
	b.loan.keep(b.given - min(b.given, own))
}

// A loan is a message in the memory of the caller who writes the batch. A nil *loan is none.
type loan struct {
	lent []byte // the message, or kept; nil: there is none
	kept []byte // a copy of its rest
	gone int    // bytes in front of lent that were handed over, and are no longer there
}

// begin lends msg.
func (l *loan) begin(msg []byte) { l.lent = msg }

func (l *loan) size() int {
	if l == nil {
		return 0
	}
	return l.gone + len(l.lent)
}

// rest returns what is left of the message when that many bytes of it were handed over.
func (l *loan) rest(given int) []byte {
	if l == nil || l.lent == nil {
		return nil
	}
	return l.lent[given-l.gone:]
}

// keep copies what is left of it then.
func (l *loan) keep(given int) {
	l.kept = append(l.kept[:0], l.rest(given)...)
	l.gone, l.lent = given, l.kept
}

// end empties l for its next use. It has memory for the rest of a message if this one had one.
func (l *loan) end() {
	switch {
	case l == nil:
	case len(l.kept) == 0:
		*l = loan{}
	default:
		*l = loan{kept: l.kept[:0]}
	}
}

// newBatches are those in which nothing ever was.
var newBatches = sync.Pool{New: func() any { return new(batch) }}

// isNew reports whether nothing ever was in b, or has asked for it.
func (b *batch) isNew() bool {
	return b.frames == 0 && b.flushing == 0 && b.waiters.first == nil && cap(b.bytes) == 0 && b.loan == nil && b.w == nil && cap(b.pieces) == 0
}

// reset empties the batch for its next use, with a buffer of at most limit. A batch made anew and
// copied would cost four times as much.
func (b *batch) reset(limit int) {
	b.frameBuffer.reset(limit)
	b.loan.end()
	b.frames, b.unawaited, b.control, b.controls, b.controlEnd = 0, 0, 0, 0, 0
	b.waiters, b.flushing, b.loss = waitList{}, 0, nil
	b.base, b.pieces, b.given = 0, b.pieces[:0], 0
}

// unsent reports whether nothing was handed over of what begins at start, when handed
// bytes of the connection's stream were.
func (b *batch) unsent(start int, handed int64) bool {
	if len(b.pieces) == 0 {
		return handed <= b.base+int64(start)
	}
	i := start / record
	return i >= len(b.pieces) || handed <= b.pieces[i]
}

// notBegun is the base of a batch of which nothing was handed over. What begins in it has room
// below the largest number.
const notBegun = math.MaxInt64 / 2

// setNotBegun is for a batch that no frame joins any more, and that may be lost before it begins.
func (b *batch) setNotBegun() { b.base = notBegun }

// begin records where in the stream the batch begins, unless some of it was given already.
func (b *batch) begin(position int64) {
	if b.given == 0 {
		b.base = position
	}
}

// beginPiece records where in the stream the next record of the batch begins.
func (b *batch) beginPiece(position int64) { b.pieces = append(b.pieces, position) }

// take counts n more bytes as handed to the network, or to TLS.
func (b *batch) take(n int) { b.given += n }

// addControl counts the frame from start on as a ping or an answer.
func (b *batch) addControl(start int) {
	b.control++
	b.controlEnd = b.size()
	b.controls += b.controlEnd - start
}

// lose gives up the memory: the connection is dead. What unsent needs stays.
func (b *batch) lose(loss error) {
	b.frameBuffer, b.loan = frameBuffer{}, nil
	b.loss = loss
}

// abandon takes w off the batch. The loss of its frame is for another call to report now.
func (b *batch) abandon(w *waiter, t ticket) {
	b.waiters.remove(w)
	if t.flush {
		b.flushing--
	} else {
		b.unawaited++
	}
}

// A frameBuffer is the memory of a batch.
//
// Frames of LengthPrefix{} are appended to bytes. Other Framers write to w: as long as it
// fits w's buffer it is sent from there, what overflows is appended to bytes.
type frameBuffer struct {
	bytes  []byte
	w      *bufio.Writer // over this buffer; nil: not needed yet
	view   []byte        // w's buffer, once sealed
	sealed bool
	spare  int // times in a row that bytes was much too large
}

// writer returns w, which for a start has a buffer of that size.
func (b *frameBuffer) writer(size int) *bufio.Writer {
	if b.w == nil {
		b.w = bufio.NewWriterSize(b, size)
	}
	return b.w
}

// Write is where w overflows to.
func (b *frameBuffer) Write(p []byte) (int, error) {
	if b.sealed {
		b.view = p // w's own buffer: it stays as it is until w is used again
	} else {
		b.bytes = append(b.bytes, p...)
	}
	return len(p), nil
}

// appendLengthPrefixed appends msg as a frame of LengthPrefix{}, and returns where that begins.
func (b *frameBuffer) appendLengthPrefixed(msg []byte) (start int) {
	start = len(b.bytes)
	if size := frameHeader + len(msg); size > cap(b.bytes)-start {
		b.bytes = slices.Grow(b.bytes, size)
	}
	b.bytes = appendFrameHeader(b.bytes, len(msg))[:start+frameHeader+len(msg)]
	copy(b.bytes[start+frameHeader:], msg)
	return start
}

// appendHeader appends what f puts in front of msg, and returns what of that follows.
func (b *frameBuffer) appendHeader(f headed, msg []byte) (rest []byte, err error) {
	if b.w != nil {
		header, rest, err := f.appendHeader(b.w.AvailableBuffer(), msg)
		if err == nil {
			_, err = b.w.Write(header)
		}
		return rest, err
	}
	header, rest, err := f.appendHeader(b.bytes, msg)
	if err == nil {
		b.bytes = header
	}
	return rest, err
}

// size returns the bytes in the buffer.
func (b *frameBuffer) size() int {
	size := len(b.bytes) + len(b.view)
	if b.w != nil {
		size += b.w.Buffered()
	}
	return size
}

// truncate takes back all but the first size bytes.
func (b *frameBuffer) truncate(size int) {
	if b.w != nil {
		_ = b.w.Flush()
	}
	b.bytes = b.bytes[:size]
}

// seal ends the framing and returns the bytes to send, valid until reset.
func (b *frameBuffer) seal() []byte {
	if b.w == nil {
		return b.bytes
	}
	b.sealed = len(b.bytes) == 0
	_ = b.w.Flush()
	if b.sealed {
		return b.view
	}
	return b.bytes
}

// reset empties the buffer for its next use. A buffer that was too small has grown, up to
// limit.
func (b *frameBuffer) reset(limit int) {
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
}

// A framing is how a connection frames messages: its Framer, and for LengthPrefix{} but for
// MaxSize, by far the most common one, the short ways around it.
type framing struct {
	framer  Framer
	builtin bool   // the Framer is one of this package
	largest uint64 // message of LengthPrefix{}; 0: the Framer is another
}

// fits reports whether msg can be framed by appendLengthPrefixed.
func (f *framing) fits(msg []byte) bool { return f.largest > 0 && uint64(len(msg)) <= f.largest }

// write puts a frame into b and returns where it begins. If the Framer refuses msg or
// panics, nothing of it stays. Buffers begin with at most limit bytes.
func (f *framing) write(b *frameBuffer, msg []byte, limit int) (start int, err error) {
	if f.largest > 0 {
		if uint64(len(msg)) > f.largest {
			return 0, &permanentError{&FrameTooLargeError{Size: uint64(len(msg)), Max: int(f.largest)}}
		}
		return b.appendLengthPrefixed(msg), nil
	}
	return f.writeForeign(b, msg, limit)
}

// writeForeign is write for the other Framers.
func (f *framing) writeForeign(b *frameBuffer, msg []byte, limit int) (start int, err error) {
	before, framed := b.size(), false
	defer func() {
		if !framed {
			b.truncate(before)
		}
	}()
	if err := f.framer.WriteFrame(b.writer(min(minBatch, limit)), msg); err != nil {
		return 0, &permanentError{err}
	}
	framed = true
	return before, nil
}

// A waiter blocks until its batch is written or lost. It learns which from the outbox.
type waiter struct {
	signal     chan struct{} // one slot: look at the outbox
	prev, next *waiter
}

// wake makes the waiting goroutine look.
func (w *waiter) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// A waitList holds waiters, which recycles those that have left.
type waitList struct{ first *waiter }

func (l *waitList) add(w *waiter) {
	if l.first != nil {
		l.first.prev = w
	}
	w.next, l.first = l.first, w
}

func (l *waitList) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

// wake wakes all waiters and empties the list.
func (l *waitList) wake() {
	for w := l.first; w != nil; {
		next := w.next
		w.prev, w.next = nil, nil
		w.wake()
		w = next
	}
	l.first = nil
}

// take returns a waiter from a list of idle ones, or a new one.
func (l *waitList) take() *waiter {
	w := l.first
	if w == nil {
		return &waiter{signal: make(chan struct{}, 1)}
	}
	l.remove(w)
	return w
}

// put keeps w, which is on no list, for its next use.
func (l *waitList) put(w *waiter) {
	select {
	case <-w.signal: // its context won the select against this
	default:
	}
	l.add(w)
}
