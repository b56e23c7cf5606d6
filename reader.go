package tcpclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
)

// minRead is the size that a read buffer starts with. It grows with use, up to
// ReadBuffer: an idle connection should cost little.
const minRead = 512

// A readWatcher is told what a frameReader does.
type readWatcher interface {
	// beforeRead: the socket is read next, which may block. inFrame says that bytes of an
	// unfinished frame are here.
	beforeRead(inFrame bool)

	// arrived: a whole message has.
	arrived()
}

// A frameReader cuts the stream of a connection into messages. The goroutine that reads owns
// it.
type frameReader struct {
	framing framing
	watcher readWatcher
	from    io.Reader     // the wire, or TLS on it
	in      *bufio.Reader // over Read
	maxRead int           // ReadBuffer

	inFrame      bool   // bytes of an unfinished frame are here
	bufferFilled bool   // the last read of the socket filled all the buffer it was given
	lastRead     int    // bytes that the last read of the socket brought
	total        int64  // bytes given to in
	unread       []byte // bytes that were read already and come next
	unreadErr    error  // the error that comes after them
	unreadBuf    []byte // memory for unread
	heard        bool   // a whole message has arrived
}

func newFrameReader(from io.Reader, f framing, maxRead int, watcher readWatcher) *frameReader {
	r := &frameReader{framing: f, watcher: watcher, from: from, maxRead: maxRead}
	r.in = bufio.NewReaderSize(r, r.minBuffer())
	return r
}

// minBuffer returns the size that the read buffer starts with.
func (r *frameReader) minBuffer() int {
	if !r.framing.builtin {
		return r.maxRead // it may want to Peek at any part of that
	}
	return min(minRead, r.maxRead)
}

// setFraming makes f cut what was not cut into messages yet.
func (r *frameReader) setFraming(f framing) {
	r.framing = f
	if size := r.minBuffer(); r.in.Size() < size {
		r.replaceBuffer(size)
	}
}

// successor returns a frameReader that goes on where r has stopped.
func (r *frameReader) successor(watcher readWatcher) *frameReader {
	next := newFrameReader(r.from, r.framing, r.maxRead, watcher)
	next.unread, next.unreadErr = r.ahead()
	next.heard = r.heard
	return next
}

// Read is where in reads from.
func (r *frameReader) Read(p []byte) (int, error) {
	if len(r.unread) > 0 {
		n := copy(p, r.unread)
		r.unread = r.unread[n:]
		r.total += int64(n)
		return n, nil
	}
	if err := r.unreadErr; err != nil {
		r.unreadErr = nil
		return 0, err
	}
	r.watcher.beforeRead(r.inFrame)
	n, err := r.from.Read(p)
	if n > 0 {
		r.inFrame = true
		r.bufferFilled = n == len(p)
		r.lastRead = n
		r.total += int64(n)
		r.unreadErr, err = err, nil // bufio would lose it where grow replaces it
	}
	return n, err
}

// await blocks until there are bytes to read.
func (r *frameReader) await() error {
	if r.in.Buffered() > 0 {
		return nil
	}
	r.makeBuffer()
	r.inFrame = len(r.unread) > 0
	if _, err := r.in.Peek(1); err != nil {
		return r.explain(err)
	}
	return nil
}

// readFrame reads one message and appends it to dst.
func (r *frameReader) readFrame(dst []byte) ([]byte, error) {
	r.makeBuffer()
	buffered := r.in.Buffered()
	r.inFrame = buffered+len(r.unread) > 0
	start := r.total - int64(buffered)
	msg, err := r.framing.framer.ReadFrame(r.in, dst)
	switch {
	case err != nil:
		return nil, r.cut(err, start)
	case r.total-int64(r.in.Buffered()) == start:
		return nil, fmt.Errorf("%w: %T returned a message without having consumed a byte", ErrInvalidFrame, r.framing.framer)
	case len(msg) < len(dst):
		return nil, fmt.Errorf("%w: %T returned less than it was given to append to", ErrInvalidFrame, r.framing.framer)
	}
	r.arrived()
	return msg, nil
}

// readWhole reads a message of LengthPrefix{} of size bytes, of which the header was taken from
// the read buffer, into buf or larger memory: for as many bytes as are expected at once, for more
// as they come. After the message it returns what has come with it of the next header.
func (r *frameReader) readWhole(buf []byte, size, expected int) (all []byte, err error) {
	p := r.buffered()
	start := r.total - int64(frameHeader+len(p))
	most := size + frameHeader
	all = append(withRoom(buf[:0], min(most, max(expected, 2*len(p), minStep))), p...)
	r.in.Discard(len(p))
	for r.inFrame = true; len(all) < size; {
		if len(all) == cap(all) {
			all = withRoom(all, min(most, 2*len(all)))
		}
		n, err := r.Read(all[len(all):min(most, cap(all))])
		if err != nil {
			return nil, r.cut(readError(err, frameHeader), start)
		}
		all = all[:len(all)+n]
	}
	return all, nil
}

// withRoom returns p in memory of size bytes or more.
func withRoom(p []byte, size int) []byte {
	if cap(p) >= size {
		return p
	}
	return append(make([]byte, 0, size), p...)
}

// cut explains err, which came instead of the rest of the frame that begins at start in the stream.
func (r *frameReader) cut(err error, start int64) error {
	if errors.Is(err, ErrFrameTimeout) && r.total > start {
		return fmt.Errorf("%w; %d bytes of the frame have come", err, r.total-start)
	}
	return r.explain(err)
}

// buffered returns what is in the read buffer.
func (r *frameReader) buffered() []byte {
	p, _ := r.in.Peek(r.in.Buffered())
	return p
}

// ahead returns a copy of what was read and is in no message yet, and the error that comes after it.
func (r *frameReader) ahead() ([]byte, error) {
	return append(bytes.Clone(r.buffered()), r.unread...), r.unreadErr
}

// arrived records that a whole message has come.
func (r *frameReader) arrived() {
	r.heard = true
	r.watcher.arrived()
}

// makeBuffer replaces the read buffer by a larger one if the last read filled it: then more
// is waiting.
func (r *frameReader) makeBuffer() {
	if !r.bufferFilled || r.in.Size() >= r.maxRead {
		return
	}
	r.replaceBuffer(min(4*r.in.Size(), r.maxRead))
}

// replaceBuffer makes a read buffer of that size. What is in the old one comes next.
func (r *frameReader) replaceBuffer(size int) {
	rest := r.buffered()
	r.unread = append(append([]byte(nil), rest...), r.unread...)
	r.total -= int64(len(rest))
	r.bufferFilled = false
	r.in = bufio.NewReaderSize(r, size)
}

// giveBack gives p, which was read from the socket, to the read buffer, which is empty.
func (r *frameReader) giveBack(p []byte) {
	r.unread = append(r.unreadBuf[:0], p...)
	r.total -= int64(len(p))
	if len(p) <= frameHeader+maxDirect { // the start of a frame, as nearly always
		r.unreadBuf = r.unread
	}
}

// explain says more about a read error where the bare one would mislead.
func (r *frameReader) explain(err error) error {
	var alert *net.OpError
	if !r.heard && errors.As(err, &alert) && alert.Op == "remote error" {
		// With TLS 1.3 a server rejects the client's certificate after the handshake.
		return fmt.Errorf("TLS handshake rejected by the server: %w", err)
	}
	return err
}

// fail makes r forget what was read ahead, and bring nothing more.
func (r *frameReader) fail(err error) {
	r.in.Reset(r)
	r.unread, r.unreadErr = nil, nil
	r.from = failedReader{err}
}

type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// readFrom makes r read from somewhere else, of which nothing was read yet.
func (r *frameReader) readFrom(from io.Reader) { r.from, r.heard = from, false }

// A reader is the reading side of a connection in use: it brings each message to the one that
// it is for. The Client's goroutine owns it.
type reader struct {
	frames   *frameReader
	watch    *heartbeatWatch
	calls    *calls
	out      *outbox // for answers to the peer's pings
	hooks    *Heartbeat
	watched  bool // messages may belong to the heartbeat
	producer *producer
	origin   *origin
	count    *counters
	trace    *tracer
	slabs    bool // the Inbox has room for slabs of directSlab
}

// succeed makes r go on where the reader of the Handshake has stopped.
func (r *reader) succeed(f *frameReader) { r.frames = f.successor(r) }

// beforeRead makes receivable what has come, before the socket is waited for.
func (r *reader) beforeRead(inFrame bool) {
	r.producer.publish()
	r.watch.beforeRead(inFrame)
}

func (r *reader) arrived() { r.watch.arrived() }

// run takes in messages until the connection has ended, and returns why it has.
func (r *reader) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p) // in a Framer or a hook of the user
		}
	}()
	// A dying connection before this one may have left more than the Inbox holds.
	if err := r.producer.makeRoom(0, r.origin, nil); err != nil {
		return err
	}
	for {
		if r.frames.framing.largest > 0 {
			if err := r.takeWhole(); err != nil {
				return err
			}
			if r.frames.in.Buffered() == 0 {
				continue
			}
		}
		msg, err := r.frames.readFrame(r.producer.storage())
		if err != nil {
			return err
		}
		if routed, err := r.route(msg); err != nil {
			return err
		} else if routed {
			continue
		}
		if err := r.producer.add(msg, r.frames.framing.builtin, r.origin); err != nil {
			return err
		}
	}
}

// takeWhole takes in the messages of LengthPrefix{} that it can without the Framer. What is
// odd is left to ReadFrame.
func (r *reader) takeWhole() error {
	if err := r.frames.await(); err != nil {
		return err
	}
	if err := r.takeBuffered(); err != nil {
		return err
	}
	switch {
	case r.isLarge(r.frames.buffered()) && len(r.frames.unread) == 0:
		return r.readLarge()
	case r.mayReadDirectly():
		return r.readDirectly()
	}
	return nil
}

// takeBuffered takes in the messages that lie whole in the read buffer. That it knows their
// framing, by far the most common one, saves the calls to bufio.Reader: for small messages
// they are half the cost.
func (r *reader) takeBuffered() error {
	p := r.frames.buffered()
	largest := r.frames.framing.largest
	forReceive := !r.watched && !r.calls.used.Load()
	taken := 0
	for len(p) >= taken+frameHeader {
		if forReceive {
			if n := r.producer.addRun(p[taken:], min(largest, maxRun)); n > 0 {
				taken += n
				continue
			}
		}
		size := frameSize(p[taken:])
		if size > largest || size > uint64(len(p)-taken-frameHeader) {
			break
		}
		msg := p[taken+frameHeader : taken+frameHeader+int(size)]
		taken += frameHeader + int(size)
		if routed, err := r.route(msg); err != nil {
			return err
		} else if routed {
			continue
		}
		if err := r.producer.copy(msg, r.origin); err != nil {
			return err
		}
	}
	if taken > 0 {
		r.frames.in.Discard(taken)
		r.frames.arrived()
	}
	return nil
}

// route takes the messages that are not for Receive: those of the heartbeat, and the
// replies to calls. It does not keep msg. An error ends the connection.
func (r *reader) route(msg []byte) (routed bool, err error) {
	if r.watched && r.isHeartbeat(msg) {
		return true, nil
	}
	if !r.calls.used.Load() {
		return false, nil
	}
	if routed, err = r.calls.answer(msg, r); routed {
		r.producer.answered()
	}
	return routed, err
}

func (r *reader) hasRoom(size int) bool { return r.producer.hasRoom(size + overhead) }

func (r *reader) awaitRoom(size int, wanted func() bool) error {
	return r.producer.makeRoom(size+overhead, r.origin, wanted)
}

func (r *reader) stored(size int) { r.producer.spend(size + overhead) }

// isHeartbeat swallows pongs, and swallows and answers the pings of the peer.
func (r *reader) isHeartbeat(msg []byte) bool {
	if r.hooks.IsPong != nil && r.hooks.IsPong(msg) {
		if rtt, ok := r.watch.pong(); ok {
			r.count.rtt.Store(int64(rtt))
			r.trace.pong(rtt)
		}
		return true
	}
	if r.hooks.Answer == nil {
		return false
	}
	reply, ok := r.hooks.Answer(msg)
	if ok && reply != nil {
		if _, err := r.out.writeControl(reply); err != nil {
			r.origin.Kill(err)
		}
	}
	return ok
}

// Streams of messages of some size are read from the socket straight into the memory of the
// Inbox, where the frames are cut in place. It saves the copy out of the read buffer, a third
// of the cost of messages of 1 KiB.
const (
	// minDirect and maxDirect are the sizes of messages that are worth it. Of smaller ones a
	// slab takes too few bytes, and larger ones do not fill it well.
	minDirect = 512
	maxDirect = 8 << 10

	// directSlab is the memory for them: offsets in it fit slab.starts.
	directSlab = 1<<16 - 1
)

// mayReadDirectly reports whether the next read of the socket may be a direct one. That takes
// a peer who has just sent enough at once: memory follows what was received.
func (r *reader) mayReadDirectly() bool {
	f := r.frames
	return r.producer.typical >= minDirect && f.lastRead >= directSlab/4 && f.maxRead > directSlab && r.slabs &&
		len(f.unread) == 0 && f.unreadErr == nil && !r.watched && !r.calls.used.Load() &&
		f.in.Buffered() < maxDirect && r.isDirect(f.buffered())
}

// isDirect reports whether p may be the start of a frame that is read directly.
func (r *reader) isDirect(p []byte) bool {
	return len(p) < frameHeader || frameSize(p) <= min(r.frames.framing.largest, maxDirect)
}

// readDirectly takes in messages until something comes for which this is not the way: a Call,
// of which the reply may be the next message, or messages of other sizes. That is left to the
// read buffer.
func (r *reader) readDirectly() error {
	t, f := r.producer, r.frames
	defer f.doubt() // for the next time, too, it takes such a peer
	t.rotate(nil)
	rest := t.slab.lay(f.buffered()) // bytes of an unfinished frame, after the messages in the slab
	f.in.Discard(rest)
	for {
		s := t.slab
		fill := min((slabMessages-s.n)*(t.typical+frameHeader), s.room()) // what comes after that has to be moved
		n := f.readInto(s.free(), rest, max(fill, rest+minSlab))
		if rest += n; r.calls.used.Load() {
			f.giveBack(s.free()[:rest])
			return nil
		}
		left, over := t.cut(rest, f.framing.largest, r.origin)
		if left < rest {
			f.arrived()
		}
		s, rest = t.slab, left
		p := s.free()[:rest]
		switch {
		case over != nil:
			return over
		case f.unreadErr != nil || t.typical < minDirect || !r.isDirect(p):
			f.giveBack(p)
			return nil
		case s.n > slabMessages/4*3 || s.room() < directSlab/4:
			t.rotate(p)
		}
	}
}

// minLarge is the size of messages that are read straight into memory of their own. It is a
// read buffer, of which nothing is saved then.
const minLarge = 64 << 10

// isLarge reports whether p begins a frame that is read by readLarge.
func (r *reader) isLarge(p []byte) bool {
	if len(p) < frameHeader {
		return false
	}
	size := frameSize(p)
	return size >= minLarge && size <= r.frames.framing.largest
}

// readLarge takes in the message that begins in the read buffer, and those that follow it, as long
// as they are large and their headers come with what is before them.
func (r *reader) readLarge() error {
	t, f := r.producer, r.frames
	defer f.doubt() // a read that has filled the memory of a message says nothing of the read buffer
	header := [frameHeader]byte(f.buffered())
	f.in.Discard(frameHeader)
	for next := header[:]; ; {
		size := int(frameSize(next))
		all, err := f.readWhole(t.largeStorage(), size, t.typical)
		if err != nil {
			return err
		}
		next = header[:copy(header[:], all[size:])] // before the memory is anybody else's
		f.arrived()
		routed, err := r.route(all[:size])
		if err == nil && !routed {
			err = t.addLarge(all[:size], r.origin)
		}
		if err != nil {
			return err
		}
		if !r.isLarge(next) {
			f.giveBack(next)
			return nil
		}
	}
}

// readInto reads the socket once, into what is between rest and end in p; the first rest
// bytes there are of an unfinished frame. An error comes after what was read.
func (r *frameReader) readInto(p []byte, rest, end int) (n int) {
	r.inFrame = rest > 0
	n, err := r.Read(p[rest:end])
	if err != nil {
		r.unreadErr = err
	}
	return n
}

// doubt forgets how much the last read has brought.
func (r *frameReader) doubt() { r.lastRead, r.bufferFilled = 0, false }

// cut takes the frames that lie whole at the start of the rest that was read after the slab's
// messages, and returns what is left of that. It stops where messages have become small: they
// are not to have slabs of this size.
func (t *producer) cut(rest int, largest uint64, from upstream) (left int, err error) {
	for rest >= frameHeader && err == nil && t.typical >= minDirect {
		p := t.slab.free()[:rest]
		size := frameSize(p)
		if size > largest || size > uint64(rest-frameHeader) {
			break
		}
		err = t.admit(int(size), from)
		t.record(frameHeader+int(size), int(size))
		if rest -= frameHeader + int(size); t.slab.n == slabMessages {
			t.rotate(t.slab.free()[:rest])
		}
	}
	return rest, err
}

// rotate makes a new slab the one that takes messages, with rest after them, which was read
// after those of the old one.
func (t *producer) rotate(rest []byte) {
	next, _ := t.inbox.newSlab(t.largestSlab())
	if cap(next.data) != directSlab { // or larger, for a large message: offsets would not fit
		next.trade(make([]byte, 0, directSlab))
	}
	next.lay(rest) // before the old one is anybody else's
	t.closeSlab()
	t.slab = next
}

// lay copies p after the messages, without making one of it.
func (s *slab) lay(p []byte) int { return copy(s.free(), p) }
