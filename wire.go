package tcpclient

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// inlineWrite is how long a caller's goroutine may be held by the socket before
	// the rest of its bytes goes to the draining goroutine: the few milliseconds
	// within which P2 wants a call back.
	inlineWrite = 2 * time.Millisecond

	// drainSlice is how often a blocked drain looks up to see progress inside one write.
	drainSlice = 50 * time.Millisecond

	// lastWordsTime is how long the reader goes on after a write failed: what the peer
	// said before it hung up is already here (P1).
	lastWordsTime = time.Second

	// verdictTime is how long the one who learns little from the kernel waits for the other:
	// it gives the reason of a reset once, to the reader or to the writer, and then says EOF
	// to the one and EPIPE to the other. The other has the reason, but maybe no processor.
	verdictTime = 100 * time.Millisecond

	// maxNeedless is how many reads in a row a deadline may stay that none of them needs.
	maxNeedless = 16

	// maxEmptyReads is how many reads without a byte or an error make an error.
	maxEmptyReads = 100
)

// A wire is a raw connection, below TLS and bufio. It owns all deadlines: nothing
// above it ever sees a timeout that is not final, since io.ReadFull would be torn by
// one and a TLS connection spoiled.
//
// Write blocks for inlineWrite at most. What the peer's TCP does not take by then is
// kept and handed over by drain, on a goroutine of its own; TLS above sees success, or
// a dead connection.
//
// One goroutine reads. Writers take turns by the rules of the outbox, except that TLS
// answers a key update from within Read. drain runs until nothing is kept or the wire
// is dead; drains joins it.
type wire struct {
	net.Conn // the raw connection, for its addresses

	writeTimeout time.Duration // 0: none
	vigil        *vigil        // consulted by the reading goroutine
	wake         func(now, due time.Time) error
	landed       func() // called by drain at the end of a write that settled said false for
	stable       bool   // the bytes given to Write stay as they are until landed

	quick  *quick        // the short way to write; nil: there is none
	dead   chan struct{} // closed when cause is set
	drains sync.WaitGroup

	mu       sync.Mutex    // guards following
	cause    error         // why the connection ended, set once: the first error wins (P9)
	closed   bool          // a goroutine counted in drains closes Conn, or has
	busy     bool          // somebody is in Conn.Write
	span     time.Duration // how long Write may block; 0: handshake, without bound; busy's to read
	bounded  bool          // there is a write deadline
	idle     chan struct{} // closed when busy ends; nil: nobody asks
	broken   bool          // Conn.Write has returned EPIPE: it knows no reason
	returned chan struct{} // closed when Conn.Write has returned; nil: nobody asks
	notify   bool          // landed is to be called when nothing is kept any more
	kept     []byte        // accepted and not yet handed over
	accepted int64         // bytes that Write took
	handed   int64         // bytes that Conn.Write took
	progress time.Time     // when drain began, or Conn.Write last took a byte for it
	armed    time.Time     // the read deadline; zero: none
	needless int           // reads in a row that needed none
	final    time.Time     // the end of the last words; zero: no write has failed
}

// begin opens the span in which Write may block, and returns how many bytes Write has taken
// so far. Before the first begin, Write blocks without bound: handshakes do, under a context
// that kills the wire.
func (w *wire) begin(span time.Duration) (position int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beginLocked(span)
	return w.accepted
}

func (w *wire) beginLocked(span time.Duration) {
	if w.busy {
		return // a key update is on its way: Write will only add to that
	}
	w.span = span
	if w.quick == nil {
		w.deadlineLocked()
	} else if w.bounded {
		w.Conn.SetWriteDeadline(time.Time{})
		w.bounded = false
	}
}

// deadlineLocked sets the write deadline to the end of the span.
func (w *wire) deadlineLocked() {
	w.Conn.SetWriteDeadline(time.Now().Add(w.span))
	w.bounded = true
}

// give writes p to the connection, for as long as the span lasts. The caller has set
// busy.
func (w *wire) give(p []byte) (n int, err error) {
	if w.span > 0 && w.quick != nil {
		if n, err = w.quick.write(p); n == len(p) || err != nil {
			return n, err
		}
		w.mu.Lock()
		if !w.bounded {
			w.deadlineLocked()
		}
		w.mu.Unlock()
	}
	k, err := writeOnce(w.Conn, p[n:])
	return n + k, err
}

// stalled reports whether something is kept of which the peer has taken nothing for d
// since start.
func (w *wire) stalled(start time.Time, d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.progress.After(start) {
		start = w.progress
	}
	return len(w.kept) > 0 && time.Since(start) >= d
}

// position returns how many bytes Write has taken so far.
func (w *wire) position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accepted
}

// progressed returns how many bytes may have been handed over, and whether all were.
func (w *wire) progressed() (handed int64, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	handed = w.handed
	if s, ok := w.Conn.(*stubborn); ok {
		handed += int64(s.inFlight())
	}
	return handed, w.handed == w.accepted && w.final.IsZero()
}

// Write takes all of p, or the connection is dead.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	n, _, err := w.writeLocked(p)
	return n, err
}

// post is begin and Write. It also reports whether all of p was handed over: then settled
// need not be asked.
func (w *wire) post(p []byte, span time.Duration) (position int64, handed bool, err error) {
	w.mu.Lock()
	w.beginLocked(span)
	position = w.accepted
	_, handed, err = w.writeLocked(p)
	return position, handed, err
}

// writeLocked does the work of Write and post. It releases the lock.
func (w *wire) writeLocked(p []byte) (n int, handed bool, err error) {
	if w.cause != nil {
		defer w.mu.Unlock()
		return 0, false, w.cause
	}
	w.accepted += int64(len(p))
	if w.busy {
		w.kept = append(w.kept, p...)
		w.mu.Unlock()
		return len(p), false, nil
	}
	w.busy = true
	w.mu.Unlock()

	n, err = w.give(p)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.handed += int64(n)
	if isBrokenPipe(err) && w.span > 0 && w.cause == nil {
		w.keepLocked(p[n:])
		w.drains.Go(w.breaks(err))
		return len(p), false, nil
	}
	if err != nil && !isTimeout(err) {
		w.failWriteLocked(err)
		w.doneLocked()
		return n, false, w.cause
	}
	w.keepLocked(p[n:])
	switch {
	case len(w.kept) == 0:
		w.doneLocked()
		return len(p), true, nil
	case w.cause != nil: // and drains may be waited for already
		w.doneLocked()
		return n, false, w.cause
	}
	w.drains.Go(w.drain)
	return len(p), false, nil
}

// doneLocked ends a Write of which nothing is left to do. If a leader has met it under way
// and waits for landed, drain tells it, on another goroutine: this one may be the reader,
// inside TLS and with its lock.
func (w *wire) doneLocked() {
	w.kept = nil
	if w.notify {
		w.drains.Go(w.drain)
		return
	}
	w.idleLocked()
}

// idleLocked ends the work of a writer.
func (w *wire) idleLocked() {
	w.busy = false
	w.returnedLocked()
	if w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// quiet returns a channel that is closed when all that Write took was handed over, or
// never will be.
func (w *wire) quiet() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	if !w.busy {
		w.idleLocked()
	}
	return idle
}

// keepLocked puts p in front of what others have left meanwhile.
func (w *wire) keepLocked(p []byte) {
	switch {
	case len(p) == 0:
	case len(w.kept) == 0 && w.stable:
		w.kept = p[:len(p):len(p)]
	default:
		w.kept = append(append(make([]byte, 0, len(p)+len(w.kept)), p...), w.kept...)
	}
}

// settled reports whether all that Write took was handed over, or never will be. If
// not, landed is called when that has changed.
func (w *wire) settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notify = w.busy
	return !w.busy
}

// drain hands over what Write kept, if only since doneLocked. It owns busy.
func (w *wire) drain() {
	stuck, forgiven, unacked := false, 0, unacknowledged(w.Conn)
	_, goesOn := w.Conn.(*stubborn) // behind its deadline
	w.mu.Lock()
	w.progress = time.Now()
	for len(w.kept) > 0 && w.cause == nil && !stuck {
		if !goesOn {
			w.returnedLocked()
		}
		now := time.Now()
		due := now.Add(drainSlice)
		if verdict := w.progress.Add(w.writeTimeout); w.writeTimeout > 0 && verdict.Before(due) {
			due = verdict
		}
		p := w.kept // Write may append behind these bytes meanwhile, it does not touch them
		w.mu.Unlock()

		w.Conn.SetWriteDeadline(due)
		n, err := writeOnce(w.Conn, p)
		if isBrokenPipe(err) {
			w.awaitReader()
		}
		now = time.Now()
		before := unacked
		unacked = unacknowledged(w.Conn)

		w.mu.Lock()
		w.handed += int64(n)
		w.kept = w.kept[n:]
		if n > 0 || unacked < before {
			w.progress, forgiven = now, 0 // the kernel takes more only when a good part of its buffer is free
		} else if late := now.Sub(due); late > lateBy<<min(forgiven, 20) {
			// That time was ours, not the peer's, and the socket deserves another try.
			w.progress = w.progress.Add(late + min(drainSlice, w.writeTimeout))
			forgiven++
		}
		switch {
		case err == nil:
		case !isTimeout(err):
			w.failWriteLocked(err)
		case w.writeTimeout > 0 && now.Sub(w.progress) >= w.writeTimeout:
			stuck = true
		}
	}
	if stuck {
		w.mu.Unlock()
		w.kill(ErrWriteTimeout)
		w.mu.Lock()
	}
	w.idleLocked()
	if len(w.kept) == 0 {
		w.kept = nil
	}
	notify := w.notify
	w.notify = false
	w.mu.Unlock()
	if notify {
		w.landed()
	}
}

// breaks returns what is left to do after a Write on a caller's goroutine that returned EPIPE.
func (w *wire) breaks(err error) func() {
	return func() {
		w.awaitReader()
		w.failWrite(err)
		w.drain()
	}
}

// isBrokenPipe reports whether err says that the connection is gone, and not why.
func isBrokenPipe(err error) bool { return err != nil && errors.Is(err, syscall.EPIPE) }

// awaitReader gives the reader time to say why the connection is gone, when Conn.Write
// has returned EPIPE.
func (w *wire) awaitReader() {
	w.mu.Lock()
	w.broken = true
	w.returnedLocked()
	w.mu.Unlock()
	await(w.dead, verdictTime)
}

// awaitWriter gives a write that is under way time to say why the connection is gone, if err
// does not. One that waits for the peer returns within drainSlice; then it was the peer that
// hung up.
func (w *wire) awaitWriter(err error) {
	if err == io.EOF {
		await(w.returning(), verdictTime)
	}
}

// returning returns a channel that is closed when the Conn.Write that is under way, if one is,
// has returned and its reason is noted, or there is a reason already.
func (w *wire) returning() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.returned == nil {
		w.returned = make(chan struct{})
	}
	returned := w.returned
	if !w.busy || w.broken || w.cause != nil {
		w.returnedLocked()
	}
	return returned
}

// returnedLocked tells the reader, if it asks, that Conn.Write has returned.
func (w *wire) returnedLocked() {
	if w.returned != nil {
		close(w.returned)
		w.returned = nil
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

// writeOnce is conn.Write held to the contract of io.Writer.
func writeOnce(conn net.Conn, p []byte) (int, error) {
	n, err := conn.Write(p)
	if n < 0 || n > len(p) {
		return len(p), fmt.Errorf("connection claims to have written %d bytes of %d", n, len(p)) // nobody knows
	}
	if n < len(p) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// failWriteLocked ends the writing side: the wire takes no further byte (P4). The
// reader goes on for the last words of the peer.
func (w *wire) failWriteLocked(err error) {
	if w.cause != nil {
		return
	}
	if w.cause = disconnected(err); w.cause == ErrClosed {
		w.cause = &disconnectedError{err} // the connection's word, not ours
	}
	close(w.dead)
	w.final = time.Now().Add(lastWordsTime)
	w.Conn.SetReadDeadline(w.final)
}

// failWrite ends the writing side for a reason from above the wire.
func (w *wire) failWrite(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failWriteLocked(err)
}

// kill ends the connection at once, for the given reason unless there is one already,
// and returns the reason that counts.
func (w *wire) kill(reason error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.cause = disconnected(reason)
		close(w.dead)
	}
	if !w.closed {
		w.closed = true
		w.drains.Go(func() { w.Conn.Close() }) // somebody's tunnel may take its time
	}
	return w.cause
}

// disconnected marks reason as the end of a connection, unless that was our own will.
func disconnected(reason error) error {
	if reason == ErrClosed || errors.Is(reason, ErrDisconnected) {
		return reason
	}
	return &disconnectedError{reason}
}

// hasHungUp reports whether reason is that the peer has ended the connection, between two
// messages.
func hasHungUp(reason error) bool {
	d, ok := reason.(*disconnectedError)
	return ok && d.cause == io.EOF
}

// isDead reports whether the connection has ended, as reason does, without the lock.
func (w *wire) isDead() bool {
	select {
	case <-w.dead:
		return true
	default:
		return false
	}
}

// reason returns why the connection ended, nil while it has not.
func (w *wire) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// Read returns when bytes have come, the connection has ended, or the vigil says that
// it has. Only the reading goroutine calls it.
func (w *wire) Read(p []byte) (int, error) {
	expired := false
	for empty := 0; ; {
		due := w.vigil.next()
		w.arm(due, expired)
		n, err := w.Conn.Read(p)
		if n < 0 || n > len(p) {
			return 0, fmt.Errorf("connection claims to have read %d bytes into %d", n, len(p))
		}
		if n > 0 {
			if w.vigil.interval > 0 {
				w.vigil.read(time.Now())
			}
			if isTimeout(err) {
				err = nil
			}
			return n, err
		}
		expired = isTimeout(err)
		switch {
		case err == nil:
			if empty++; empty == maxEmptyReads {
				return 0, io.ErrNoProgress
			}
		case !expired:
			w.awaitWriter(err)
			return 0, err
		default:
			now := time.Now()
			if reason := w.lastWordsSpoken(now); reason != nil {
				return 0, reason
			}
			if !due.IsZero() && !now.Before(due) {
				if err := w.wake(now, due); err != nil {
					return 0, err
				}
			}
		}
	}
}

// arm makes the read deadline fire at due at the latest, zero meaning never. An earlier
// deadline that has not expired may stay: that costs one idle turn of Read's loop
// when it fires, where setting it anew would cost something on every read. It does not stay
// when it has not been needed for maxNeedless reads: as long as there is a timer anywhere, the
// scheduler asks for the time whenever it looks for something to run.
func (w *wire) arm(due time.Time, expired bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.final.IsZero() && (due.IsZero() || w.final.Before(due)) {
		due = w.final
	}
	if due.IsZero() && !w.armed.IsZero() {
		w.needless++
	} else {
		w.needless = 0
	}
	later := due.IsZero() || !w.armed.IsZero() && !due.Before(w.armed)
	if later && !expired && w.needless < maxNeedless {
		return
	}
	w.armed = due
	w.Conn.SetReadDeadline(due)
}

// lastWordsSpoken returns why the connection ended once a write has failed and the time
// to read on is over.
func (w *wire) lastWordsSpoken(now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.final.IsZero() || now.Before(w.final) {
		return nil
	}
	return w.cause
}

// lastWords returns until when to read on from a dead connection: a time in the past, unless
// it was a write that failed.
func (w *wire) lastWords() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return time.Time{}
	}
	return w.final
}

// closeWrite sends FIN. Without half-close support it reports errors.ErrUnsupported.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close is for TLS, whose handshake closes the connection when its context ends.
func (w *wire) Close() error { return w.Conn.Close() }

// The deadlines are not TLS's to set.

func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// isTimeout reports whether err is an expired deadline. ETIMEDOUT, also a Timeout() to
// package net, is not one: it means that the connection is dead.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
