package tcpclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"sync"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

const (
	// minRead is the size that a read buffer starts with. It grows with use, up to
	// ReadBuffer: an idle connection should cost little.
	minRead = 512

	// maxSmall is how many reads in a row that brought little it takes for a smaller buffer.
	maxSmall = 64
)

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
	ready   readyReader   // from, if it can wait for bytes without memory for them; else nil
	in      *bufio.Reader // over Read, with the memory of buf; nil without, unless it is a user's Framer that may know it
	buf     *readBuffer   // nil: none is needed
	size    int           // of the next buf
	maxRead int           // ReadBuffer

	inFrame      bool   // bytes of an unfinished frame are here
	bufferFilled bool   // the last read of the socket filled all the buffer it was given
	heard        bool   // a whole message has arrived
	lastRead     int    // bytes that the last read of the socket brought
	smallReads   int    // in a row that brought much less than the buffer holds
	total        int64  // bytes given to in
	unread       []byte // bytes that were read already and come next
	unreadErr    error  // the error that comes after them
}

func newFrameReader(from io.Reader, f framing, maxRead int, watcher readWatcher) *frameReader {
	r := &frameReader{framing: f, watcher: watcher, maxRead: maxRead}
	r.size = r.minBuffer()
	r.readFrom(from)
	return r
}

// A readyReader can wait for bytes without memory for them.
type readyReader interface {
	ReadInto(m wire.Memory) (int, error)
}

// A readBuffer is memory for a frameReader. Those that no one needs are shared by all: a
// connection on which nothing comes has none.
type readBuffer struct {
	in  bufio.Reader
	mem []byte // its memory
}

// readBuffers are those, by the bits of their sizes.
var readBuffers [bits.UintSize + 1]sync.Pool

func newReadBuffer(size int) *readBuffer {
	if b, ok := readBuffers[bits.Len(uint(size))].Get().(*readBuffer); ok {
		if len(b.mem) == size {
			return b
		}
		b.putBack() // of a Dialer with another ReadBuffer
	}
	in := bufio.NewReaderSize(nil, size)
	mem, _ := in.Peek(0)
	mem = mem[:cap(mem)]
	if len(mem) < size {
		mem = make([]byte, size) // package bufio shows it no longer: Read copies
	}
	return &readBuffer{*in, mem[:size]}
}

func (b *readBuffer) putBack() { readBuffers[bits.Len(uint(len(b.mem)))].Put(b) }

// minBuffer returns the size that the read buffer starts with.
func (r *frameReader) minBuffer() int {
	if !r.framing.builtin {
		return r.maxRead // it may want to Peek at any part of that
	}
	return min(minRead, r.maxRead)
}

// setFraming makes f cut what was not cut into messages yet.
func (r *frameReader) setFraming(f framing) {
	r.replaceBuffer(r.size)
	r.framing = f
	r.size = max(r.size, r.minBuffer())
}

// successor returns a frameReader that goes on where r has stopped.
func (r *frameReader) successor(watcher readWatcher) *frameReader {
	next := newFrameReader(r.from, r.framing, r.maxRead, watcher)
	next.unread, next.unreadErr = r.ahead()
	next.heard = r.heard
	r.dropBuffer()
	return next
}

// Read is where in reads from.
func (r *frameReader) Read(p []byte) (int, error) {
	if len(r.unread) > 0 {
		n := min(len(p), len(r.unread))
		if &p[0] != &r.unread[0] { // else fill has read them into the buffer
			copy(p, r.unread)
		}
		if r.unread = r.unread[n:]; len(r.unread) == 0 {
			r.unread = nil // not to keep its memory
		}
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
		r.hasRead(n, len(p))
		r.total += int64(n)
		r.unreadErr, err = err, nil // bufio would lose it where grow replaces it
	}
	return n, err
}

// hasRead notes that the socket has brought n bytes into memory of that size.
func (r *frameReader) hasRead(n, size int) {
	r.inFrame = true
	r.bufferFilled = n == size
	r.lastRead = n
	if r.smallReads++; n >= size/8 {
		r.smallReads = 0
	}
}

// fill waits, between two frames, until there is something to read, and takes it into a buffer that
// was not there before, as far as that is possible.
func (r *frameReader) fill() {
	switch {
	case r.unreadErr != nil:
	case r.ready != nil:
		if n := r.readReady(r); n > 0 {
			r.unread = r.buf.mem[:n]
		}
	default:
		r.Take()
		if _, err := r.in.Peek(1); err != nil {
			r.unreadErr = err
		}
	}
	r.Take() // also for an error
}

// readReady waits, between two frames, for bytes, and reads them into m. An error comes after what
// was read.
func (r *frameReader) readReady(m wire.Memory) (n int) {
	r.inFrame = false
	r.watcher.beforeRead(false)
	n, r.unreadErr = r.ready.ReadInto(m)
	if size := len(m.Take()); n > 0 {
		r.hasRead(n, size)
	}
	return n
}

// Take returns the memory of the read buffer, which it makes.
func (r *frameReader) Take() []byte {
	if r.buf != nil {
		return r.buf.mem
	}
	r.buf = newReadBuffer(r.size)
	switch {
	case r.framing.builtin:
		r.in = &r.buf.in
	case r.in == nil:
		r.in = new(bufio.Reader)
		fallthrough
	default: // a user's Framer is given the same one for the whole connection
		*r.in = r.buf.in
	}
	r.in.Reset(r)
	return r.buf.mem
}

// Release gives up the read buffer, which is empty, until Take.
func (r *frameReader) Release() { r.dropBuffer() }

// dropBuffer gives up the read buffer, and what is in it.
func (r *frameReader) dropBuffer() {
	if r.buf == nil {
		return
	}
	if r.framing.builtin {
		r.in.Reset(nil)
		r.in = nil
	} else {
		*r.in = bufio.Reader{}
	}
	r.buf.putBack()
	r.buf = nil
}

// isEmpty reports whether nothing is here of the next frame.
func (r *frameReader) isEmpty() bool { return r.held()+len(r.unread) == 0 }

// held returns how many bytes are in the read buffer.
func (r *frameReader) held() int {
	if r.in == nil {
		return 0
	}
	return r.in.Buffered()
}

// await blocks until there are bytes to read.
func (r *frameReader) await() error {
	if r.held() > 0 {
		return nil
	}
	r.prepare()
	if _, err := r.in.Peek(1); err != nil {
		return r.explain(err)
	}
	return nil
}

// readFrame reads one message and appends it to dst.
func (r *frameReader) readFrame(dst []byte) ([]byte, error) {
	start := r.total - int64(r.held())
	r.prepare()
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
	if r.in == nil {
		return nil
	}
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

// prepare makes what the next frame is read with. If nothing of it is here, it waits for its first
// bytes.
func (r *frameReader) prepare() {
	r.fitBuffer()
	r.inFrame = !r.isEmpty()
	if r.inFrame {
		r.Take()
	} else {
		r.fill()
	}
}

// fitBuffer replaces the read buffer by a larger one if the last read filled it: then more
// is waiting. It replaces it by a smaller one if the reads of late had no use for its size.
func (r *frameReader) fitBuffer() {
	switch {
	case r.bufferFilled && r.size < r.maxRead:
		r.replaceBuffer(min(4*r.size, r.maxRead))
	case r.smallReads > maxSmall && r.held() == 0:
		r.replaceBuffer(max(r.size/4, r.minBuffer()))
	}
}

// replaceBuffer makes size that of the read buffer. What is in the old one comes next.
func (r *frameReader) replaceBuffer(size int) {
	rest := r.buffered()
	r.unread = append(append([]byte(nil), rest...), r.unread...) // which may lie in the old one, too
	r.total -= int64(len(rest))
	r.bufferFilled, r.smallReads = false, 0
	r.size = size
	r.dropBuffer()
}

// giveBack gives p, which was read from the socket, to the read buffer, which is empty.
func (r *frameReader) giveBack(p []byte) {
	if mem := r.Take(); len(p) <= len(mem) {
		r.unread = mem[:copy(mem, p)]
	} else {
		r.unread = bytes.Clone(p)
	}
	r.total -= int64(len(p))
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
	r.dropBuffer()
	r.unread, r.unreadErr = nil, nil
	r.from, r.ready = failedReader{err}, nil
}

type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// readFrom makes r read from somewhere else, of which nothing was read yet.
func (r *frameReader) readFrom(from io.Reader) {
	r.from, r.heard = from, false
	r.ready, _ = from.(readyReader)
}

// A reader is the reading side of a connection in use: it brings each message to the one that
// it is for. The Client's goroutine owns it.
type reader struct {
	frames   *frameReader
	watch    *heartbeatWatch
	calls    *calls
	out      *outbox // for answers to the peer's pings
	hooks    *Heartbeat
	producer *producer
	origin   *origin
	count    *counters
	trace    *tracer
	watched  bool     // messages may belong to the heartbeat
	slabs    bool     // the Inbox has room for slabs of directSlab
	pushed   [][]byte // that the Handshake has delivered
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
	if err := r.deliverPushed(); err != nil {
		return err
	}
	for {
		r.await()
		if r.frames.framing.largest > 0 {
			if err := r.takeWhole(); err != nil {
				return err
			}
			if r.frames.held() == 0 {
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

// deliverPushed takes in what the Handshake has delivered: all at once, and only if there is room, since
// the connections before this one may have left more than the Inbox holds.
func (r *reader) deliverPushed() error {
	pushed := r.pushed
	r.pushed = nil
	if err := r.producer.makeRoom(0, r.origin, nil); err != nil || len(pushed) == 0 {
		return err
	}
	r.producer.deliver(pushed)
	return r.producer.makeRoom(0, r.origin, nil)
}

// await waits until something of the next message is here, or the connection has ended. Meanwhile
// whoever receives may give up the memory for messages.
func (r *reader) await() {
	if !r.frames.isEmpty() {
		return
	}
	r.producer.rest()
	defer r.producer.resume() // also if Ping panics
	r.frames.prepare()
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
		start := taken + frameHeader
		taken = start + int(size)
		msg := p[start:taken:taken] // a hook may append to it
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
		f.held() < maxDirect && r.isDirect(f.buffered())
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
	f.dropBuffer()
	for {
		n := r.readMore(rest)
		if rest += n; r.calls.used.Load() {
			f.giveBack(t.slab.free()[:rest])
			return nil
		}
		left, over := t.cut(rest, f.framing.largest, r.origin)
		if left < rest {
			f.arrived()
		}
		s := t.slab
		rest = left
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

// mostLarge is the size of messages above which twice as much might be no int.
const mostLarge = math.MaxInt/2 - frameHeader

// isLarge reports whether p begins a frame that is read by readLarge.
func (r *reader) isLarge(p []byte) bool {
	if len(p) < frameHeader {
		return false
	}
	size := frameSize(p)
	return size >= minLarge && size <= min(r.frames.framing.largest, mostLarge)
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
		switch {
		case err != nil:
			return err
		case routed:
			t.keepLarge(all)
		default:
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

// readMore reads the socket once, into the slab after the rest bytes there of an unfinished frame. An
// error comes after what was read.
func (r *reader) readMore(rest int) (n int) {
	m := (*directMemory)(r)
	if rest > 0 || r.frames.ready == nil {
		return r.frames.readInto(m.room(rest), rest)
	}
	defer r.producer.resume() // also if Ping panics
	return r.frames.readReadyInto(m)
}

// readInto reads the socket once, into p after the first rest bytes, which are of an unfinished
// frame.
func (r *frameReader) readInto(p []byte, rest int) (n int) {
	r.inFrame = rest > 0
	n, err := r.Read(p[rest:])
	if err != nil {
		r.unreadErr = err
	}
	return n
}

// readReadyInto is readInto for memory that is there only while there are bytes.
func (r *frameReader) readReadyInto(m wire.Memory) (n int) {
	n = r.readReady(m)
	r.total += int64(n)
	return n
}

// A directMemory is the free memory of a reader's slab.
type directMemory reader

// room returns as much of it as is of use for messages as they were of late: what comes after that
// has to be moved. rest bytes there are taken.
func (m *directMemory) room(rest int) []byte {
	s, typical := m.producer.slab, m.producer.typical
	fill := min((slabMessages-s.n)*(typical+frameHeader), s.room())
	return s.free()[:max(fill, rest+minSlab)]
}

// Take makes a slab if there is none any more.
func (m *directMemory) Take() []byte {
	if m.producer.resume(); m.producer.slab == nil {
		m.producer.rotate(nil)
	}
	return m.room(0)
}

// Release lets whoever receives the last message give up the slab.
func (m *directMemory) Release() { m.producer.rest() }

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
	next, _ := t.freeSlab(directClass)
	if cap(next.data) != directSlab { // or larger, for a large message: offsets would not fit
		next.trade(make([]byte, 0, directSlab))
	}
	next.lay(rest) // before the old one is anybody else's
	t.closeSlab()
	t.slab = next
}

// lay copies p after the messages, without making one of it.
func (s *slab) lay(p []byte) int { return copy(s.free(), p) }
