package tcpclient

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// A transport hands batches to the network, in order. One goroutine at a time uses it: the
// outbox's writer. Only owed, readerOwes, canTry and readerCanTry are for any.
type transport interface {
	// tryWrite hands over of b what the network takes at once. It reports whether that was
	// all. Otherwise write goes on, on a goroutine that may wait.
	tryWrite(b *batch) (done bool)

	// write hands over the rest of b. It blocks until that is done, or the connection is dead.
	write(b *batch) (done bool)

	// canTry reports whether tryWrite takes anything at all: whether the network can be asked
	// without waiting for it. readerCanTry says so for the goroutine that reads.
	canTry() bool
	readerCanTry() bool

	// position returns where in the stream of the connection the next batch begins.
	position() int64

	// owed reports whether TLS has bytes to send; readerOwes whether there are some among them
	// that it has added on the goroutine that reads, such as an alert. tryFlush hands over
	// what the network takes of them at once, and flush all.
	owed() bool
	readerOwes() bool
	tryFlush() (done bool)
	flush() (done bool)

	// closeWrite sends what TLS and TCP have to say at the end. Nothing is written after it.
	closeWrite() error
}

// A lender is a transport that writes from the memory of the caller, too.
type lender interface {
	// writeLent is tryWrite for a batch that ends with a message in the memory of its caller. It goes
	// on until canceled is closed, or the network takes nothing for lentWait. It copies what is left
	// of the message.
	writeLent(canceled <-chan struct{}, b *batch) (done bool)
}

const (
	// firstPiece is how much of a lent message goes with what is before it. The peer wakes for that
	// while the rest is written.
	firstPiece = 4 << 10

	// lentPiece is how much of the rest the network is given at a time. If the peer reads as fast as
	// this is written, nothing else would look at the context meanwhile.
	lentPiece = 1 << 20
)

// A plainTransport writes the memory of the batch itself.
type plainTransport struct {
	wire   *wire.Conn
	handed int64 // bytes, since the connection was made
}

func newPlainTransport(w *wire.Conn) *plainTransport {
	return &plainTransport{wire: w, handed: w.Handed()}
}

func (t *plainTransport) tryWrite(b *batch) (done bool) {
	p := b.seal()
	b.begin(t.handed)
	n, err := t.wire.TryWrite(p)
	return t.took(b, n, err) && n == len(p)
}

func (t *plainTransport) write(b *batch) (done bool) {
	own, kept := b.rest()
	b.begin(t.handed)
	n, err := t.wire.Write(own)
	if ok := t.took(b, n, err); !ok || len(kept) == 0 {
		return ok
	}
	n, err = t.wire.Write(kept)
	return t.took(b, n, err)
}

func (t *plainTransport) writeLent(canceled <-chan struct{}, b *batch) (done bool) {
	b.begin(t.handed)
	for size := firstPiece; ; size = lentPiece {
		own, lent := b.rest()
		piece := lent[:min(len(lent), size)]
		n, err := t.wire.TryWriteBoth(own, piece, lentWait)
		switch {
		case !t.took(b, n, err):
			return false // no one will read the message any more
		case n == len(own)+len(lent):
			return true
		case n == 0, isClosed(canceled):
			b.keep()
			return false
		}
	}
}

// isClosed reports whether c, which may be nil, is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// took records that n bytes of b were taken. A write that fails has not handed over the batch,
// even if it says that it has taken all: who knows what that is worth.
func (t *plainTransport) took(b *batch, n int, err error) (ok bool) {
	t.handed += int64(n)
	b.take(n)
	return err == nil
}

func (t *plainTransport) canTry() bool       { return t.wire.CanTryWrite() }
func (t *plainTransport) readerCanTry() bool { return t.wire.CanTryWrite() }
func (t *plainTransport) position() int64    { return t.handed }
func (t *plainTransport) owed() bool         { return false }
func (t *plainTransport) readerOwes() bool   { return false }
func (t *plainTransport) tryFlush() bool     { return true }
func (t *plainTransport) flush() bool        { return true }
func (t *plainTransport) closeWrite() error  { return t.wire.CloseWrite() }

// A tlsTransport encrypts into a buffer, and hands that over.
type tlsTransport struct {
	wire         *wire.Conn
	conn         *tls.Conn
	buffer       *tlsBuffer
	renegotiates bool // the server may begin another handshake, which a Write then waits for
}

// maxRecords is how many records are encrypted before their bytes are handed over: memory
// for them is bounded, and they share a system call.
const maxRecords = 4

func (t *tlsTransport) tryWrite(b *batch) (done bool) { return t.writeRecords(b, t.wire.TryWrite) }
func (t *tlsTransport) write(b *batch) (done bool)    { return t.writeRecords(b, t.wire.Write) }

func (t *tlsTransport) writeRecords(b *batch, handOver func([]byte) (int, error)) (done bool) {
	b.begin(t.position())
	for rest := b.seal()[b.given:]; ; {
		if !t.buffer.handOver(handOver) {
			return false
		}
		if len(rest) == 0 {
			return true
		}
		for i := 0; i < maxRecords && len(rest) > 0; i++ {
			b.beginPiece(t.position())
			n, err := t.encrypt(rest[:min(len(rest), record)])
			b.take(n)
			rest = rest[n:]
			if err != nil {
				t.wire.FailWrite(err) // TLS itself may have refused
				return false
			}
		}
	}
}

// encrypt gives p to TLS, which makes no record of nothing. If that has to wait for a handshake, which the reader makes, what the
// reader has to send for it is handed over meanwhile.
func (t *tlsTransport) encrypt(p []byte) (n int, err error) {
	t.buffer.encrypting.Store(true)
	defer t.buffer.encrypting.Store(false)
	if !t.renegotiates {
		return t.conn.Write(p)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n, err = t.conn.Write(p)
	}()
	for {
		select {
		case <-done:
			return n, err
		case <-t.buffer.added:
			t.flush()
		}
	}
}

func (t *tlsTransport) canTry() bool          { return t.wire.CanTryWrite() && !t.renegotiates }
func (t *tlsTransport) readerCanTry() bool    { return false }
func (t *tlsTransport) position() int64       { return t.wire.Handed() + int64(t.buffer.size()) }
func (t *tlsTransport) readerOwes() bool      { return t.buffer.readerOwes() }
func (t *tlsTransport) owed() bool            { return t.buffer.size() > 0 }
func (t *tlsTransport) tryFlush() (done bool) { return t.buffer.handOver(t.wire.TryWrite) }
func (t *tlsTransport) flush() (done bool)    { return t.buffer.handOver(t.wire.Write) }

func (t *tlsTransport) closeWrite() error {
	err := t.conn.CloseWrite()
	for ; err != nil && t.renegotiates; err = t.conn.CloseWrite() { // it fails in the middle of a handshake
		if _, err := t.encrypt(nil); err != nil {
			t.wire.FailWrite(err)
			return err
		}
	}
	if err != nil {
		return err
	}
	if !t.flush() {
		return t.wire.Cause()
	}
	t.buffer.close()
	return t.wire.CloseWrite()
}

// maxTLSBuffer is how many bytes TLS may have to send while the peer takes none: the answers
// to a flood of key updates.
const maxTLSBuffer = 1 << 20

var errTLSFlood = errors.New("TLS has too much to answer to a peer that takes no data")

// A tlsBuffer is the connection below TLS. TLS writes on the goroutine that writes, and from
// within Read, on the one that reads: answers to key updates, alerts. It must not see a
// timeout, which would spoil it, and the one that reads must not wait for the peer. So what
// it writes is kept here, for the one that writes to hand over.
//
// During the TLS handshake and a Handshake nothing is kept: Write blocks.
//
// What TLS reads it follows by its records, for the watcher.
type tlsBuffer struct {
	*wire.Conn
	watcher    recordWatcher // owned, as records, by the one that reads
	records    records
	added      chan struct{} // one slot: there is something to hand over
	encrypting atomic.Bool   // by the one that writes, who then hands over all there is

	mu      sync.Mutex // guards following
	phase   tlsPhase
	onAdd   func() // called, without the lock, when there is something to hand over
	waiting []byte // written since what is in handing was taken
	left    int    // bytes of handing
	owes    bool   // something was written by the one that reads, and is here

	handing []byte // owned by the one that writes: goes to the wire next
}

func newTLSBuffer(w *wire.Conn, watcher recordWatcher) *tlsBuffer {
	return &tlsBuffer{Conn: w, watcher: watcher, added: make(chan struct{}, 1)}
}

type tlsPhase int

const (
	tlsThrough   tlsPhase = iota // Write hands over, and blocks
	tlsBuffering                 // Write keeps
	tlsClosed                    // FIN was sent: Write drops
)

// start begins to keep what is written. onAdd is called when something was. From now on watcher
// is told of records. Only the reading goroutine may call it.
func (b *tlsBuffer) start(onAdd func(), watcher recordWatcher) {
	b.watcher = watcher
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phase, b.onAdd = tlsBuffering, onAdd
}

// close drops what was kept since the last handOver, and all that is written from now on.
func (b *tlsBuffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phase, b.waiting, b.left, b.owes = tlsClosed, nil, 0, false
}

// Read reads the network for TLS.
func (b *tlsBuffer) Read(p []byte) (int, error) {
	b.watcher.beforeRecord(b.records.next())
	n, err := b.Conn.Read(p)
	b.records.follow(p[:n])
	return n, err
}

// Write takes all of p, or the connection is dead.
func (b *tlsBuffer) Write(p []byte) (int, error) {
	if err := b.Cause(); err != nil {
		return 0, err
	}
	b.mu.Lock()
	phase := b.phase
	reading := phase == tlsBuffering && !b.encrypting.Load()
	if phase == tlsBuffering {
		b.waiting = append(b.waiting, p...)
	}
	b.owes = b.owes || reading
	full := len(b.waiting) > maxTLSBuffer
	b.mu.Unlock()
	switch {
	case phase == tlsThrough:
		return b.Conn.Write(p)
	case full:
		b.FailWrite(errTLSFlood)
		return 0, errTLSFlood
	case phase == tlsBuffering:
		select {
		case b.added <- struct{}{}:
		default:
		}
		if reading {
			b.onAdd()
		}
	}
	return len(p), nil
}

// size returns how many bytes are to be handed over.
func (b *tlsBuffer) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left + len(b.waiting)
}

// readerOwes reports whether some of these were written by the one that reads.
func (b *tlsBuffer) readerOwes() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.owes
}

// handOver gives all bytes to write, which may take a part. It reports whether that took all.
func (b *tlsBuffer) handOver(write func([]byte) (int, error)) (done bool) {
	for {
		p := b.next()
		if len(p) == 0 {
			return true
		}
		n, err := write(p)
		b.took(n)
		if n < len(p) || err != nil {
			return false
		}
	}
}

// next returns the bytes that go to the wire next. If there are none, the reader owes nothing.
func (b *tlsBuffer) next() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		if cap(b.handing) > 2*maxRecords*record {
			b.handing = nil // the memory of a flood
		}
		b.handing, b.waiting = b.waiting, b.handing[:0]
		b.left = len(b.handing)
		b.owes = b.owes && b.left > 0
	}
	return b.handing[len(b.handing)-b.left:]
}

// took records that n of these were taken.
func (b *tlsBuffer) took(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left -= n
}

var _ net.Conn = (*tlsBuffer)(nil)

// A recordWatcher is told how far the records are that TLS reads.
type recordWatcher interface {
	// beforeRecord: the network is read next, which may block.
	beforeRecord(record recordState)
}

// A recordState is how far the last record is of which bytes are here.
type recordState uint8

const (
	recordWhole recordState = iota
	recordBegun             // a part is here, since the last read
	recordGoing             // a part is here, since an earlier one
)

// recordHeader is the size of the header of a TLS record: its type, a version, and in two bytes
// the length of what follows (RFC 8446, section 5.1). No version encrypts it.
const recordHeader = 5

// records follow the TLS records in a stream, by their headers.
type records struct {
	state      recordState
	header     [recordHeader]byte
	headerRead int // bytes of the header that are here
	left       int // bytes to come of what follows it
}

// next returns the state, before a read.
func (r *records) next() recordState {
	state := r.state
	if state == recordBegun {
		r.state = recordGoing
	}
	return state
}

// follow takes the next bytes of the stream.
func (r *records) follow(p []byte) {
	for len(p) > 0 {
		n := min(r.left, len(p))
		if r.left -= n; n == 0 {
			if n = copy(r.header[r.headerRead:], p); r.headerRead == 0 {
				r.state = recordBegun
			}
			if r.headerRead += n; r.headerRead == recordHeader {
				r.headerRead, r.left = 0, int(binary.BigEndian.Uint16(r.header[3:]))
			}
		}
		if p = p[n:]; r.headerRead == 0 && r.left == 0 {
			r.state = recordWhole
		}
	}
}
