package tcpclienttest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A pipe is a connection in memory. Blocked calls wait on a sync.Cond, never for the mutex:
// in a synctest bubble a goroutine that waits for a mutex is not durably blocked.
type pipe struct {
	near, far end
	closed    func() // called when both ends are closed

	mu   sync.Mutex // guards following, and the ends
	held bool       // nothing arrives until Heal
}

func newPipe(size int, near, far addr) *pipe {
	p := new(pipe)
	p.near.init(p, &p.far, near, far, size)
	p.far.init(p, &p.near, far, near, size)
	return p
}

// hold stops delivery in both directions, or resumes it.
func (p *pipe) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	p.near.wakeLocked()
	p.far.wakeLocked()
}

// An end is one of the two ends of a pipe: a net.Conn. Whoever changes what a blocked call
// waits for wakes it to check again.
type end struct {
	pipe          *pipe
	peer          *end
	local, remote addr

	// Guarded by pipe.mu.
	in            buffer    // bytes that the peer wrote
	readable      sync.Cond // wakes the Reads of this end
	writable      sync.Cond // wakes the Writes of this end
	readDeadline  deadline
	writeDeadline deadline
	writing       bool // a Write is running or waiting: Writes do not interleave
	finished      bool // CloseWrite or Close was called
	closed        bool // Close was called
	resets        bool // SetLinger(0) was called: Close sends RST
	wasReset      bool // the peer has sent RST; Read or Write reports it once, as on Linux
}

func (e *end) init(p *pipe, peer *end, local, remote addr, size int) {
	e.pipe, e.peer, e.local, e.remote = p, peer, local, remote
	e.in.limit = size
	e.readable.L, e.writable.L = &p.mu, &p.mu
	e.readDeadline.init(&e.readable)
	e.writeDeadline.init(&e.writable)
}

// Read blocks until there are bytes, the deadline has passed or this end is closed.
func (e *end) Read(p []byte) (int, error) {
	e.pipe.mu.Lock()
	defer e.pipe.mu.Unlock()
	for {
		switch {
		case e.closed:
			return 0, e.error("read", net.ErrClosed)
		case len(p) == 0:
			return 0, nil
		case e.readDeadline.passed():
			return 0, e.error("read", os.ErrDeadlineExceeded)
		case e.pipe.held:
		case e.in.n > 0:
			n := e.in.read(p)
			e.peer.writable.Broadcast()
			return n, nil
		case e.wasReset:
			e.wasReset = false
			return 0, e.error("read", os.NewSyscallError("read", syscall.ECONNRESET))
		case e.peer.finished:
			return 0, io.EOF
		}
		e.readable.Wait()
	}
}

// Write blocks until all of p is in the buffer, the deadline has passed or one of the
// ends is closed.
func (e *end) Write(p []byte) (n int, err error) {
	e.pipe.mu.Lock()
	defer e.pipe.mu.Unlock()
	for e.writing {
		if err := e.writeErrorLocked(); err != nil {
			return 0, e.error("write", err)
		}
		e.writable.Wait()
	}
	e.writing = true
	for {
		if err = e.writeErrorLocked(); err != nil {
			err = e.error("write", err)
			break
		}
		if k := e.peer.in.write(p[n:]); k > 0 {
			n += k
			e.peer.readable.Broadcast()
		}
		if n == len(p) {
			break
		}
		e.writable.Wait()
	}
	e.writing = false
	e.writable.Broadcast() // for the next writer
	return n, err
}

// writeErrorLocked returns why a Write must fail, or nil.
func (e *end) writeErrorLocked() error {
	switch {
	case e.closed:
		return net.ErrClosed
	case e.writeDeadline.passed():
		return os.ErrDeadlineExceeded
	case e.finished:
		return errPipe
	case e.pipe.held:
		return nil
	case e.wasReset:
		e.wasReset = false
		return os.NewSyscallError("write", syscall.ECONNRESET)
	case e.peer.closed:
		return errPipe
	}
	return nil
}

var errPipe = os.NewSyscallError("write", syscall.EPIPE)

// CloseWrite sends FIN: the peer reads the rest, then io.EOF.
func (e *end) CloseWrite() error {
	e.pipe.mu.Lock()
	defer e.pipe.mu.Unlock()
	if e.closed {
		return e.error("close", net.ErrClosed)
	}
	e.finished = true
	e.wakeLocked()
	e.peer.wakeLocked()
	return nil
}

// SetLinger decides what Close sends: FIN, or RST after SetLinger(0).
func (e *end) SetLinger(sec int) error {
	e.pipe.mu.Lock()
	defer e.pipe.mu.Unlock()
	if e.closed {
		return e.error("set", net.ErrClosed)
	}
	e.resets = sec == 0
	return nil
}

// Close ends the connection: blocked calls return, the peer reads the rest, then io.EOF.
func (e *end) Close() error {
	e.pipe.mu.Lock()
	if e.closed {
		defer e.pipe.mu.Unlock()
		return e.error("close", net.ErrClosed)
	}
	if e.resets && !e.finished {
		e.peer.wasReset = true
	}
	e.closed, e.finished = true, true
	e.in.drop()
	e.readDeadline.stop()
	e.writeDeadline.stop()
	e.wakeLocked()
	e.peer.wakeLocked()
	both := e.peer.closed
	e.pipe.mu.Unlock()
	if both {
		e.pipe.closed()
	}
	return nil
}

// reset closes the end with RST.
func (e *end) reset() {
	e.SetLinger(0)
	e.Close()
}

// SetDeadline sets both deadlines.
func (e *end) SetDeadline(t time.Time) error {
	return e.setDeadlines(t, &e.readDeadline, &e.writeDeadline)
}

// SetReadDeadline sets the time at which Read fails. Zero: never.
func (e *end) SetReadDeadline(t time.Time) error { return e.setDeadlines(t, &e.readDeadline) }

// SetWriteDeadline sets the time at which Write fails. Zero: never.
func (e *end) SetWriteDeadline(t time.Time) error { return e.setDeadlines(t, &e.writeDeadline) }

func (e *end) setDeadlines(t time.Time, deadlines ...*deadline) error {
	e.pipe.mu.Lock()
	defer e.pipe.mu.Unlock()
	if e.closed {
		return e.error("set", net.ErrClosed)
	}
	for _, d := range deadlines {
		d.set(t)
	}
	return nil
}

// RealDeadlines returns true: see [tcpclient.Dialer].
func (e *end) RealDeadlines() bool { return true }

// LocalAddr returns the address of this end: the listener's, or one made up by DialContext.
func (e *end) LocalAddr() net.Addr { return e.local }

// RemoteAddr returns the address of the other end.
func (e *end) RemoteAddr() net.Addr { return e.remote }

// wakeLocked wakes all blocked calls to check again.
func (e *end) wakeLocked() {
	e.readable.Broadcast()
	e.writable.Broadcast()
}

func (e *end) error(op string, err error) error {
	return &net.OpError{Op: op, Net: memory, Source: e.local, Addr: e.remote, Err: err}
}

// A deadline wakes those who wait on a sync.Cond when it has passed. Callers of its methods
// hold the Cond's lock.
type deadline struct {
	cond  *sync.Cond
	at    time.Time   // zero: none
	timer *time.Timer // nil until first needed
}

func (d *deadline) init(cond *sync.Cond) { d.cond = cond }

// set replaces the deadline, and wakes those who wait if it has passed.
func (d *deadline) set(t time.Time) {
	d.stop()
	if t.IsZero() {
		d.at = t
		return
	}
	// t may lack a monotonic clock reading, which the timer goes by.
	now := time.Now()
	wait := t.Sub(now)
	d.at = now.Add(wait)
	switch {
	case wait <= 0:
		d.cond.Broadcast()
	case d.timer == nil:
		// A timer that fires for a deadline since replaced only wakes in vain.
		d.timer = time.AfterFunc(wait, func() {
			d.cond.L.Lock()
			defer d.cond.L.Unlock()
			d.cond.Broadcast()
		})
	default:
		d.timer.Reset(wait)
	}
}

// passed reports whether there is a deadline that has passed.
func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// pending reports whether there is a deadline that has not passed.
func (d *deadline) pending() bool { return !d.at.IsZero() && time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

// A buffer is a ring of bytes that grows on demand up to a limit.
type buffer struct {
	limit int
	ring  []byte
	start int // index of the first byte
	n     int // number of bytes
}

// write appends as much of p as fits, and returns how much that was.
func (b *buffer) write(p []byte) int {
	n := min(len(p), b.limit-b.n)
	if n <= 0 {
		return 0
	}
	b.grow(b.n + n)
	at := (b.start + b.n) % len(b.ring)
	copy(b.ring, p[copy(b.ring[at:], p[:n]):n])
	b.n += n
	return n
}

// read moves as much as fits into p and returns how much that was.
func (b *buffer) read(p []byte) int {
	n := min(len(p), b.n)
	if n == 0 {
		return 0
	}
	k := copy(p[:n], b.ring[b.start:])
	copy(p[k:n], b.ring)
	b.n -= n
	if b.start = (b.start + n) % len(b.ring); b.n == 0 {
		b.start = 0
	}
	return n
}

// grow makes room for size bytes in all.
func (b *buffer) grow(size int) {
	if size <= len(b.ring) {
		return
	}
	ring := make([]byte, min(max(size, 2*len(b.ring), 512), b.limit))
	n := b.n
	b.read(ring[:n])
	b.ring, b.start, b.n = ring, 0, n
}

// drop empties the buffer and frees its memory.
func (b *buffer) drop() { b.ring, b.start, b.n = nil, 0, 0 }
