package tcpclient

import (
	"bufio"
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
	size := min(minRead, maxRead)
	if !f.builtin {
		size = maxRead // it may want to Peek at any part of that
	}
	r.in = bufio.NewReaderSize(r, size)
	return r
}

// successor returns a frameReader that goes on where r has stopped.
func (r *frameReader) successor(watcher readWatcher) *frameReader {
	next := newFrameReader(r.from, r.framing, r.maxRead, watcher)
	next.unread = append(append([]byte(nil), r.buffered()...), r.unread...)
	next.unreadErr = r.unreadErr
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
		return nil, r.explain(err)
	case r.total-int64(r.in.Buffered()) == start:
		return nil, fmt.Errorf("%w: %T returned a message without having consumed a byte", ErrInvalidFrame, r.framing.framer)
	case len(msg) < len(dst):
		return nil, fmt.Errorf("%w: %T returned less than it was given to append to", ErrInvalidFrame, r.framing.framer)
	}
	r.arrived()
	return msg, nil
}

// buffered returns what is in the read buffer.
func (r *frameReader) buffered() []byte {
	p, _ := r.in.Peek(r.in.Buffered())
	return p
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
	rest := r.buffered()
	r.unread = append(append([]byte(nil), rest...), r.unread...)
	r.total -= int64(len(rest))
	r.bufferFilled = false
	r.in = bufio.NewReaderSize(r, min(4*r.in.Size(), r.maxRead))
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

// readFrom makes r read from somewhere else, of which nothing was read yet.
func (r *frameReader) readFrom(from io.Reader) { r.from = from }
