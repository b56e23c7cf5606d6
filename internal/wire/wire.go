// Package wire is the raw connection, below TLS and bufio: deadlines real and emulated,
// progress, what was handed over, why the connection ended, socket options.
//
//	TLS, bufio      Write, TryWrite          Read
//	                    │ bytes                ▲
//	Conn            stallWatch             readDeadline, Monitor
//	                    │                      ▲
//	deadlineConn    socket: the connection's own deadlines; a tryWriter beside it, where the system has that
//	                emulated: a goroutine for each read and write
//	                    │                      ▲
//	net.Conn            ▼                      │
//
// A Conn is handshaking, then inUse. When a write has failed it is writeFailed: the reader goes
// on for a second. In the end it is closed. The cause is set once, with the first of the last two
// phases, and is what everybody gets.
package wire

import (
	"io"
	"net"
	"sync"
	"time"
)

const (
	// readOnTime is how long the reader goes on after a write failed: what the peer
	// said before it hung up is already here (P1).
	readOnTime = time.Second

	// verdictTime is how long the one who learns little from the kernel waits for the other:
	// it gives the reason of a reset once, to the reader or to the writer, and then says EOF
	// to the one and EPIPE to the other. The other has the reason, but maybe no processor.
	verdictTime = 100 * time.Millisecond
)

// A Conn is a raw connection, below TLS and bufio. It owns all deadlines: nothing above it
// ever sees a timeout that is not final, since io.ReadFull would be torn by one and a TLS
// connection spoiled.
//
// One goroutine at a time reads: calls Read or Watch. One goroutine at a time writes: calls
// TryWrite, Write or CloseWrite. Any goroutine may call the other methods at any time. A Conn keeps no
// bytes to write, and starts no goroutine but the one that closes the connection and those of
// emulated deadlines.
//
// The first error wins (P9): it is what Cause returns from then on, and what every Write that
// follows fails with.
type Conn struct {
	raw     net.Conn // as given to New
	conn    deadlineConn
	try     tryWriter // of conn; nil: each write may have to wait
	monitor Monitor   // owned by the reading goroutine
	cause   error     // why the connection ended; set once, with mu, before dead is closed
	dead    Latch     // closed when there is a cause
	closing sync.WaitGroup

	// mu is the innermost lock but for those of Latches: it is not held across a read, a write or a call of the Monitor.
	mu        sync.Mutex // guards following
	readUntil time.Time  // when the reader gives up, in phase writeFailed
	reads     readDeadline
	returned  chan struct{} // closed when the write that is under way has returned; nil: the reader does not ask
	handed    int64         // bytes that the connection took
	handedAt  time.Time     // when it last took some, as far as that was noted; zero: never
	phase     phase
	writer    writerState
	timesAll  bool // TryWrite notes it, too
	stall     stallWatch
}

// A Monitor is consulted by the reading goroutine.
type Monitor interface {
	// Next returns when Expired is to be called; zero: never, as things stand.
	Next() time.Time

	// Arrived says that bytes have come.
	Arrived()

	// Expired says that due has passed without a byte. An error ends the Read.
	Expired(now, due time.Time) error
}

// A phase is where a Conn is in its life.
type phase uint8

const (
	handshaking phase = iota // the goroutine that reads is the one that writes
	inUse                    // they are two, since Watch
	writeFailed              // no further byte is written, the reader goes on for the last words of the peer
	closed                   // the connection is closed, or about to be
)

// A writerState is what the writing goroutine does.
type writerState uint8

const (
	notWriting writerState = iota
	writing                // it has given bytes to the connection, and has not noted what became of them
	knowsLess              // the connection said EPIPE, which is no reason: it waits for the reader's
)

// New returns raw as a Conn. With a writeTimeout a Write that makes no progress for that
// long ends the connection; 0: none.
//
// Real deadlines are used where HasRealDeadlines. Other connections, and those that refuse them, get
// emulated ones. These are read maxRead bytes at a time at the most.
func New(raw net.Conn, writeTimeout time.Duration, maxRead int, m Monitor) *Conn {
	conn, try := newDeadlineConn(raw, maxRead)
	return &Conn{
		raw:     raw,
		conn:    conn,
		try:     try,
		monitor: m,
		stall:   stallWatch{timeout: writeTimeout},
	}
}

// Watch replaces the monitor, when the handshake is over: from now on the goroutine that reads
// is another than the one that writes, and each may wait for what the other knows. timesWrites says
// that HandedAt is asked for, which costs TryWrite a look at the clock. Only the reading goroutine
// may call it.
func (c *Conn) Watch(m Monitor, timesWrites bool) {
	c.monitor = m
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timesAll = timesWrites
	if c.phase == handshaking {
		c.phase = inUse
	}
}

// Raw returns the connection as it was given to New.
func (c *Conn) Raw() net.Conn { return c.raw }

// LocalAddr returns the address of this end, nil if the connection knows none.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr returns the address of the peer, nil if the connection knows none.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// The deadlines are not TLS's to set.

// SetDeadline does nothing: the Conn owns all deadlines.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing: the Conn owns all deadlines.
func (c *Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: the Conn owns all deadlines.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// Unacknowledged returns how many of the bytes handed over the peer's TCP has not
// acknowledged; 0 where that is not known. It only asks the kernel, and takes no lock of the Conn.
func (c *Conn) Unacknowledged() int { return c.conn.unacknowledged() }

// Cause returns why the connection ended, nil while it has not. It takes no lock.
func (c *Conn) Cause() error {
	if !c.IsDead() {
		return nil
	}
	return c.cause
}

// Dead returns a channel that is closed when the connection has ended.
func (c *Conn) Dead() <-chan struct{} { return c.dead.Wait() }

// IsDead reports whether the connection has ended. It takes no lock.
func (c *Conn) IsDead() bool { return c.dead.IsClosed() }

// ReadUntil returns until when to read on from a dead connection: the zero time, unless it
// was a write that failed.
func (c *Conn) ReadUntil() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == closed {
		return time.Time{}
	}
	return c.readUntil
}

// FailWrite ends the writing side for a reason from above the Conn, such as a refusal of TLS:
// no further byte is written (P4). The reader goes on until ReadUntil, for the last words of
// the peer.
func (c *Conn) FailWrite(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failWriteLocked(reason)
}

func (c *Conn) failWriteLocked(reason error) {
	if c.cause != nil {
		return
	}
	cause := Disconnected(reason)
	if cause == ErrClosed {
		cause = &DisconnectedError{reason} // the connection's word, not ours
	}
	c.endLocked(writeFailed, cause)
	c.readUntil = time.Now().Add(readOnTime)
	if c.reads.sooner(c.readUntil) {
		c.conn.SetReadDeadline(c.readUntil)
	}
}

// Kill ends the connection at once, for the given reason unless there is one already, and
// returns the reason that counts. It does not wait for the Close of the connection.
func (c *Conn) Kill(reason error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killLocked(reason)
}

func (c *Conn) killLocked(reason error) error {
	if c.phase == closed {
		return c.cause
	}
	if c.cause == nil {
		c.endLocked(closed, Disconnected(reason))
	}
	c.phase = closed
	c.closing.Go(func() { c.conn.Close() }) // whatever it takes: we have the lock
	return c.cause
}

// endLocked ends the connection, or only its writing side.
func (c *Conn) endLocked(to phase, cause error) {
	c.phase, c.cause = to, cause
	c.dead.Close()
}

// Join returns, after Kill, when a socket is closed. It does not wait for a connection with
// emulated deadlines: see Left.
func (c *Conn) Join() { c.closing.Wait() }

// Left returns a channel that is closed, after Kill, when no goroutine of the Conn is left that
// calls the connection. On one with emulated deadlines, that may be long after: its Close may wait
// for the peer, and need not end its Read.
func (c *Conn) Left() <-chan struct{} { return c.conn.left() }

// Close closes the connection, without a Cause. It is for TLS, whose handshake closes the
// connection when its context ends. It does not wait for a connection with emulated deadlines.
func (c *Conn) Close() error { return c.conn.Close() }

// awaitReader gives the reader time to say why the connection is gone, when a write has
// returned EPIPE. During a handshake the reader is the one who would wait.
func (c *Conn) awaitReader() {
	c.mu.Lock()
	apart := c.phase != handshaking
	c.writer = knowsLess
	c.returnedLocked()
	c.mu.Unlock()
	if apart {
		await(c.dead.Wait(), verdictTime)
	}
}

// awaitWriter gives a write that is under way time to say why the connection is gone, if err
// does not. One that waits for the peer returns within writeSlice; then it was the peer that
// hung up.
func (c *Conn) awaitWriter(err error) {
	if err == io.EOF {
		await(c.writeReturned(), verdictTime)
	}
}

// writeReturned returns a channel that is closed when the write that is under way, if one is,
// has returned and its reason is noted, or there is a cause already.
func (c *Conn) writeReturned() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.returned == nil {
		c.returned = make(chan struct{})
	}
	returned := c.returned
	if c.writer != writing || c.cause != nil {
		c.returnedLocked()
	}
	return returned
}

// returnedLocked tells the reader, if it asks, that the write has returned.
func (c *Conn) returnedLocked() {
	if c.returned != nil {
		close(c.returned)
		c.returned = nil
	}
}

// await waits for done, but not for long.
func await(done <-chan struct{}, d time.Duration) {
	select {
	case <-done:
		return
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
