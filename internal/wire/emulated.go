package wire

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// emulatedRead is the size of the reads of a connection without deadlines.
	emulatedRead = 512

	// emulatedWrite is the most that such a connection is given at once. What it has taken
	// of a write that goes on cannot be seen: a peer that takes less than this within a
	// WriteTimeout looks like one that takes nothing.
	emulatedWrite = 64 << 10
)

// An emulated is a connection that has no deadlines, such as an SSH channel or a
// tunnel, or does not survive them, as a *tls.Conn does not. This wrapper has them, at the
// price of a goroutine for each read and write: a deadline ends the wait for the
// connection, not its work. The next call waits for that again.
type emulated struct {
	net.Conn
	reading pendingRead
	writing pendingWrite
	ops     opGroup
}

// An opGroup is the goroutines that are at work on a connection.
type opGroup struct {
	running sync.WaitGroup

	mu     sync.Mutex // guards following
	joined bool       // no further goroutine is started
}

// A pendingIO is a read or a write that may outlive the call that began it.
type pendingIO struct {
	done    chan result   // one slot
	changed chan struct{} // one slot: the deadline is another
	begun   bool          // the result is still to come; owned by the one who calls

	mu       sync.Mutex // guards following
	deadline time.Time  // zero: none
}

// A result is what a read or a write of the connection returned.
type result struct {
	n   int
	err error
}

// A pendingRead is a read of which bytes may be left over for the next call.
type pendingRead struct {
	pendingIO
	buf  []byte
	rest []byte // read and not yet returned
	err  error  // the error that came with rest
}

// A pendingWrite is a write whose bytes may have been handed over although no call has
// returned that.
type pendingWrite struct {
	pendingIO
	buf      []byte // a copy: the call may return before the write does
	inFlight atomic.Int64
}

func newEmulated(conn net.Conn) *emulated {
	e := &emulated{Conn: conn}
	e.reading.init()
	e.writing.init()
	return e
}

func (e *emulated) Read(p []byte) (int, error) { return e.reading.read(p, e.Conn, &e.ops) }

func (e *emulated) Write(p []byte) (int, error) { return e.writing.write(p, e.Conn, &e.ops) }

// canTryWrite: each write may wait.
func (e *emulated) canTryWrite() bool { return false }

func (e *emulated) tryWrite([]byte) (int, error) { return 0, nil }

func (e *emulated) inFlight() int { return int(e.writing.inFlight.Load()) }

// unacknowledged is not known: what lies below need not be a socket.
func (e *emulated) unacknowledged() int { return 0 }

func (e *emulated) join() { e.ops.join() }

func (e *emulated) SetReadDeadline(t time.Time) error {
	e.reading.setDeadline(t)
	return nil
}

func (e *emulated) SetWriteDeadline(t time.Time) error {
	e.writing.setDeadline(t)
	return nil
}

// Close closes what is below: a *tls.Conn would first try to say good-bye, for five
// seconds.
func (e *emulated) Close() error {
	if layer, ok := e.Conn.(interface{ NetConn() net.Conn }); ok {
		return layer.NetConn().Close()
	}
	return e.Conn.Close()
}

// CloseWrite passes on, where there is a half-close to pass on to. It does not wait
// for long.
func (e *emulated) CloseWrite() error {
	done := make(chan error, 1)
	if err := e.ops.start(func() { done <- closeWrite(e.Conn) }); err != nil {
		return err
	}
	late := time.NewTimer(closeTime)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return ErrWriteTimeout
	}
}

// start runs f on a goroutine of its own, unless join was called.
func (g *opGroup) start(f func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.joined {
		return net.ErrClosed
	}
	g.running.Go(f)
	return nil
}

// join waits for the goroutines, which end when the connection is closed.
func (g *opGroup) join() {
	g.mu.Lock()
	g.joined = true
	g.mu.Unlock()
	g.running.Wait()
}

// read returns what is left over, or else what conn has next.
func (r *pendingRead) read(p []byte, conn net.Conn, ops *opGroup) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		if err := r.fill(conn, ops); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) > 0 {
		return n, nil
	}
	err := r.err
	r.err = nil
	return n, err
}

// fill reads what comes next into rest.
func (r *pendingRead) fill(conn net.Conn, ops *opGroup) error {
	if r.buf == nil {
		r.buf = make([]byte, emulatedRead)
	}
	res, err := r.await(ops, func() result {
		n, err := conn.Read(r.buf)
		return result{n, err}
	})
	if err != nil {
		return err
	}
	if res.n < 0 || res.n > len(r.buf) {
		return badRead(res.n, len(r.buf))
	}
	r.rest, r.err = r.buf[:res.n], res.err
	return nil
}

// write writes the first bytes of p, or waits for the write that goes on, which was begun with
// them.
func (w *pendingWrite) write(p []byte, conn net.Conn, ops *opGroup) (int, error) {
	if !w.begun {
		w.buf = append(w.buf[:0], p[:min(len(p), emulatedWrite)]...)
		w.inFlight.Store(int64(len(w.buf)))
	}
	res, err := w.await(ops, func() result {
		n, err := writeOnce(conn, w.buf)
		return result{n, err}
	})
	if w.begun {
		return 0, err
	}
	w.inFlight.Store(0)
	if err == nil {
		err = res.err
	}
	if err == nil && res.n < len(p) {
		err = os.ErrDeadlineExceeded // come again for the rest
	}
	return res.n, err
}

func (p *pendingIO) init() {
	p.done = make(chan result, 1)
	p.changed = make(chan struct{}, 1)
}

// await returns the result of op, which it begins unless one is under way, or
// os.ErrDeadlineExceeded. Then begun stays true.
func (p *pendingIO) await(ops *opGroup, op func() result) (result, error) {
	if !p.begun {
		if err := ops.start(func() { p.done <- op() }); err != nil {
			return result{}, err
		}
		p.begun = true
	}
	res, ok := p.wait()
	if !ok {
		return result{}, os.ErrDeadlineExceeded
	}
	p.begun = false
	return res, nil
}

// wait waits for the result until the deadline.
func (p *pendingIO) wait() (res result, ok bool) {
	for {
		p.mu.Lock()
		deadline := p.deadline
		p.mu.Unlock()
		if res, ok, again := p.waitUntil(deadline); !again {
			return res, ok
		}
	}
}

// waitUntil waits for the result until the deadline, if there is one, or until that is
// another.
func (p *pendingIO) waitUntil(deadline time.Time) (res result, ok, again bool) {
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case res := <-p.done:
		return res, true, false
	case <-late:
		select {
		case res := <-p.done: // what is here is not late
			return res, true, false
		default:
			return result{}, false, false
		}
	case <-p.changed:
		return result{}, false, true
	}
}

func (p *pendingIO) setDeadline(t time.Time) {
	p.mu.Lock()
	p.deadline = t
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default: // a wait will look again anyway
	}
}
