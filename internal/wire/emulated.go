package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// minEmulatedRead is the size that the reads of a connection without deadlines start with.
	// Each that was filled makes the next one larger, up to ReadBuffer.
	minEmulatedRead = 512

	// emulatedWrite is the most that such a connection is given at once. What it has taken
	// of a write that goes on cannot be seen: a peer that takes less than this within a
	// WriteTimeout looks like one that takes nothing.
	emulatedWrite = 64 << 10
)

// An emulated is a connection whose deadlines are not real, such as a multiplexer's stream, an
// SSH channel, a WebSocket or a *tls.Conn. This wrapper has them, at the price of a goroutine
// for each read and write: a deadline ends the wait for the connection, not its work. The
// next call waits for that again.
//
// Close ends the waits, too. It does not wait for the connection: some take seconds to
// close, and some do not unblock their Read.
type emulated struct {
	net.Conn
	reading pendingRead
	writing pendingWrite
	calls   callGroup
}

// A writeEmulated is a socket that has real deadlines for reads only.
type writeEmulated struct {
	socket
	writing pendingWrite
	calls   callGroup
}

// A callGroup is the calls of a connection that are under way, each on a goroutine of its own.
type callGroup struct {
	closed chan struct{} // closed by close: no other call is begun
	left   chan struct{} // closed when none is under way after that

	mu      sync.Mutex // guards following
	running int
}

// A pendingIO is a read or a write that may outlive the call that began it. In a steady state it
// allocates nothing.
type pendingIO struct {
	calls   *callGroup
	op      func() (int, error) // the read or the write of the connection
	work    func()              // run, made once
	done    chan result         // one slot
	changed chan struct{}       // one slot: the deadline is another

	// Owned by the one who calls.
	begun bool        // the result is still to come
	timer *time.Timer // for the deadline; nil until first needed

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
	maxRead      int
	buf          []byte
	bufferFilled bool   // the last read has filled buf: more is waiting
	rest         []byte // read and not yet returned
	err          error  // the error that came with rest
}

// A pendingWrite is a write whose bytes may have been handed over although no call has
// returned that.
type pendingWrite struct {
	pendingIO
	buf      []byte // a copy: the call may return before the write does
	inFlight atomic.Int64
}

func newEmulated(conn net.Conn, maxRead int) *emulated {
	e := &emulated{Conn: conn}
	e.calls.init()
	e.reading.init(conn, maxRead, &e.calls)
	e.writing.init(conn, &e.calls)
	return e
}

func (e *emulated) Read(p []byte) (int, error) { return e.reading.read(p) }

func (e *emulated) readInto(m Memory) (int, error) { return e.reading.readInto(m) }

func (e *emulated) Write(p []byte) (int, error) { return e.writing.write(p) }

// ahead: more may lie below, but only a read brings it.
func (e *emulated) ahead() []byte { return bytes.Clone(e.reading.rest) }

func (e *emulated) inFlight() int { return int(e.writing.inFlight.Load()) }

// unacknowledged is not known: what lies below need not be a socket.
func (e *emulated) unacknowledged() int { return 0 }

func (e *emulated) left() <-chan struct{} { return e.calls.left }

func (e *emulated) SetReadDeadline(t time.Time) error {
	e.reading.setDeadline(t)
	return nil
}

func (e *emulated) SetWriteDeadline(t time.Time) error {
	e.writing.setDeadline(t)
	return nil
}

// Close ends the waits, and has the connection closed. It does not wait for that.
//
// It closes what is below a layer: a *tls.Conn would first try to say good-bye, for five
// seconds. A stream of yamux goes on reading after Close, until the peer closes it, too. A
// deadline ends that; here it can do no harm.
func (e *emulated) Close() error {
	e.calls.close(func() {
		below := below(e.Conn)
		below.Close()
		below.SetDeadline(time.Now())
	})
	return nil
}

// CloseWrite passes on, where there is a half-close to pass on to. It does not wait
// for long.
func (e *emulated) CloseWrite() error { return e.calls.closeWrite(e.Conn) }

func newWriteEmulated(conn net.Conn) *writeEmulated {
	s := &writeEmulated{socket: socket{Conn: conn}}
	s.calls.init()
	s.writing.init(conn, &s.calls)
	return s
}

func (s *writeEmulated) Write(p []byte) (int, error) { return s.writing.write(p) }

func (s *writeEmulated) inFlight() int { return int(s.writing.inFlight.Load()) }

func (s *writeEmulated) SetWriteDeadline(t time.Time) error {
	s.writing.setDeadline(t)
	return nil
}

func (s *writeEmulated) Close() error {
	s.calls.close(nil)
	return s.Conn.Close()
}

func (s *writeEmulated) left() <-chan struct{} { return s.calls.left }

func (g *callGroup) init() {
	g.closed = make(chan struct{})
	g.left = make(chan struct{})
}

// begin notes that a call begins, unless close was called. The call ends with end.
func (g *callGroup) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isClosed() {
		return net.ErrClosed
	}
	g.running++
	return nil
}

// close ends all waits. The first close runs f, if that is not nil, on a goroutine of its own:
// the last call.
func (g *callGroup) close(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isClosed() {
		return
	}
	close(g.closed)
	switch {
	case f != nil:
		g.running++
		go g.run(f)
	case g.running == 0:
		close(g.left)
	}
}

// run runs f, which has begun and may panic: it calls a connection that is not ours.
func (g *callGroup) run(f func()) {
	defer g.end()
	defer func() { _ = recover() }()
	f()
}

// end notes the end of a call.
func (g *callGroup) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running--; g.running == 0 && g.isClosed() {
		close(g.left)
	}
}

func (g *callGroup) isClosed() bool {
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// closeWrite sends FIN on conn, and waits for that, but not for long.
func (g *callGroup) closeWrite(conn net.Conn) error {
	if err := g.begin(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go g.run(func() { done <- closeWrite(conn) })
	late := time.NewTimer(closeTime)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-g.closed:
		return net.ErrClosed
	case <-late.C:
		return ErrWriteTimeout
	}
}

func (r *pendingRead) init(conn net.Conn, maxRead int, calls *callGroup) {
	r.maxRead = maxRead
	r.pendingIO.init(calls, func() (int, error) { return conn.Read(r.buf) })
}

// read returns what is left over, or else what the connection has next.
func (r *pendingRead) read(p []byte) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	return r.give(p)
}

// give returns what is left over, or the error that came with it.
func (r *pendingRead) give(p []byte) (int, error) {
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) > 0 {
		return n, nil
	}
	err := r.err
	r.err = nil
	return n, err
}

// readInto is read into memory that is not needed while the connection is waited for.
func (r *pendingRead) readInto(m Memory) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		m.Release()
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	return r.give(m.Take())
}

// fill reads what comes next into rest.
func (r *pendingRead) fill() error {
	if !r.begun {
		r.grow()
	}
	res, err := r.await()
	if err != nil {
		return err
	}
	if res.n < 0 || res.n > len(r.buf) {
		return badRead(res.n, len(r.buf))
	}
	if res.err != nil && r.calls.isClosed() {
		res.err = net.ErrClosed // whatever ended it: Close sets a deadline, too
	}
	r.rest, r.err = r.buf[:res.n], res.err
	r.bufferFilled = res.n == len(r.buf)
	return nil
}

// grow makes the buffer larger if more is waiting than it holds.
func (r *pendingRead) grow() {
	switch {
	case r.buf == nil:
		r.buf = make([]byte, min(minEmulatedRead, r.maxRead))
	case r.bufferFilled && len(r.buf) < r.maxRead:
		r.buf = make([]byte, min(4*len(r.buf), r.maxRead))
	}
}

func (w *pendingWrite) init(conn net.Conn, calls *callGroup) {
	w.pendingIO.init(calls, func() (int, error) { return writeOnce(conn, w.buf) })
}

// write writes the first bytes of p, or waits for the write that goes on, which was begun with
// them.
func (w *pendingWrite) write(p []byte) (int, error) {
	if !w.begun {
		w.buf = append(w.buf[:0], p[:min(len(p), emulatedWrite)]...)
		w.inFlight.Store(int64(len(w.buf)))
	}
	res, err := w.await()
	if w.begun {
		return 0, err
	}
	w.inFlight.Store(0)
	switch {
	case err != nil:
		return 0, err // it was not begun
	case res.err != nil:
		// How many it was cannot be known. A WebSocket says that none were, whatever has left,
		// as a socket on Windows does at a deadline.
		return len(w.buf), res.err
	case res.n < len(p):
		return res.n, errExpired // come again for the rest
	}
	return res.n, nil
}

func (p *pendingIO) init(calls *callGroup, op func() (int, error)) {
	p.calls, p.op, p.work = calls, op, p.run
	p.done = make(chan result, 1)
	p.changed = make(chan struct{}, 1)
}

// await returns the result of op, which it begins unless it is under way, or
// errExpired at the deadline, or net.ErrClosed after Close. With an error of its own, begun
// tells whether the result is still to come.
func (p *pendingIO) await() (result, error) {
	if !p.begun {
		if err := p.calls.begin(); err != nil {
			return result{}, err
		}
		go p.work()
	}
	for {
		p.mu.Lock()
		deadline := p.deadline
		p.mu.Unlock()
		res, again, err := p.waitUntil(deadline)
		if again {
			continue
		}
		p.begun = err != nil
		return res, err
	}
}

// run runs op, and makes a result also of its panic.
func (p *pendingIO) run() {
	defer p.calls.end()
	res := result{err: errGoexit}
	defer func() {
		if v := recover(); v != nil {
			res.err = panicked(v)
		}
		p.done <- res
	}()
	res.n, res.err = p.op()
}

// errGoexit is the result of a method that has called runtime.Goexit, as t.FailNow does.
var errGoexit = errors.New("a method of the connection has ended its goroutine")

// panicked makes an error of the value that recover returned. The deferred function itself
// must call it, while the stack is still that of the panic.
func panicked(value any) error {
	if err, ok := value.(error); ok {
		return fmt.Errorf("panic: %w\n\n%s", err, debug.Stack())
	}
	return fmt.Errorf("panic: %v\n\n%s", value, debug.Stack())
}

// waitUntil waits for the result until the deadline, if there is one, or until that is
// another.
func (p *pendingIO) waitUntil(deadline time.Time) (res result, again bool, err error) {
	var late <-chan time.Time
	if !deadline.IsZero() {
		late = p.startTimer(time.Until(deadline))
		defer p.timer.Stop()
	}
	select {
	case res = <-p.done:
		return res, false, nil
	case <-p.changed:
		return res, true, nil
	case <-p.calls.closed:
		err = net.ErrClosed
	case <-late:
		err = errExpired
	}
	select {
	case res = <-p.done: // what is here is not late
		return res, false, nil
	default:
		return res, false, err
	}
}

// startTimer returns what fires after d.
func (p *pendingIO) startTimer(d time.Duration) <-chan time.Time {
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	return p.timer.C
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
