package tcpclienttest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// Faults say what goes wrong on a connection, in each direction as seen by the wrapped
// side. The zero value has no faults. One Faults serves any number of connections: each
// counts its own bytes.
//
//	// A server that trickles: one byte a second.
//	Faults{Read: Fault{Chunk: 1, Pause: time.Second}}
//
//	// A connection that ends in the middle of the first frame.
//	Faults{Read: Fault{After: 7, Then: Cut}}
//
//	// A peer that stops reading.
//	Faults{Write: Fault{After: 1 << 20, Then: Stall}}
//
//	// A host that vanished in silence.
//	Faults{Read: Fault{Then: Drop}, Write: Fault{Then: Drop}}
type Faults struct {
	Read  Fault // of what the wrapped side reads
	Write Fault // of what the wrapped side writes
}

// A Fault says what goes wrong in one direction.
type Fault struct {
	// Chunk is the most bytes that pass at once: a Read returns no more, a Write is passed
	// on in pieces. 0: no limit.
	Chunk int

	// Pause is the time from one chunk to the next. 0: none.
	Pause time.Duration

	// After is the number of bytes that pass before Then happens.
	After int64

	// Then is what happens after that. Zero: nothing.
	Then Action
}

// An Action is what a [Fault] does when its bytes have passed.
type Action int

const (
	// Cut ends the connection as if each side had seen the other close it. The wrapped
	// side reads io.EOF, and its writes fail with EPIPE. The peer reads what was written
	// before, then io.EOF.
	Cut Action = iota + 1

	// Reset ends the connection for both sides with RST. The wrapped side gets
	// ECONNRESET; the peer reads what was written before, then ECONNRESET.
	Reset

	// Stall makes calls block until their deadline or Close. What the peer sends
	// piles up until TCP takes no more.
	Stall

	// Drop makes bytes vanish. Write succeeds and passes nothing on. Read blocks until its
	// deadline or Close, and discards what arrives, the peer's FIN included.
	Drop
)

// String returns the name of the action in lower case.
func (a Action) String() string {
	switch a {
	case 0:
		return "nothing"
	case Cut:
		return "cut"
	case Reset:
		return "reset"
	case Stall:
		return "stall"
	case Drop:
		return "drop"
	}
	return "action " + strconv.Itoa(int(a))
}

// Wrap returns conn with these faults. The result has deadlines, and CloseWrite and
// SetLinger if conn has them. Its methods may be called concurrently if those of conn may.
// It works in a testing/synctest bubble if conn does.
func (f Faults) Wrap(conn net.Conn) net.Conn {
	c := &faulty{conn: conn}
	c.read.init(c, f.Read)
	c.write.init(c, f.Write)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read.passLocked(0)
	c.write.passLocked(0)
	return c
}

// Listener returns listener with these faults on every connection that it accepts: the
// server meets them.
func (f Faults) Listener(listener net.Listener) net.Listener { return faultyListener{listener, f} }

// DialContext returns next with these faults on every connection that it makes, for the
// field of [tcpclient.Dialer]. nil: the DialContext of a zero [net.Dialer].
func (f Faults) DialContext(next func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	if next == nil {
		next = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := next(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return f.Wrap(conn), nil
	}
}

type faultyListener struct {
	net.Listener
	faults Faults
}

func (l faultyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.faults.Wrap(conn), nil
}

// A faulty is a connection with faults. Its mutex is not held while a call waits.
type faulty struct {
	conn net.Conn

	mu     sync.Mutex // guards following, and the lanes
	read   lane
	write  lane
	closed bool
	ended  Action // Cut or Reset, once it has happened
}

// A lane is one direction of a faulty. One call at a time is in it.
type lane struct {
	conn  *faulty
	fault Fault
	left  int64 // bytes until fault.Then

	changed  sync.Cond // wakes blocked calls to check again
	deadline deadline
	pause    deadline // when the next chunk may pass
	busy     bool     // a call is in the lane
}

func (l *lane) init(c *faulty, f Fault) {
	l.conn, l.fault, l.left = c, f, f.After
	l.changed.L = &c.mu
	l.deadline.init(&l.changed)
	l.pause.init(&l.changed)
}

// Read returns at most one chunk.
func (c *faulty) Read(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.read
	if err := l.enterLocked(); err != nil {
		return 0, c.error("read", err)
	}
	defer l.leaveLocked()
	for {
		k, err := l.waitLocked(len(p))
		if err != nil {
			return 0, c.error("read", err)
		}
		c.mu.Unlock()
		n, err = c.conn.Read(p[:k])
		c.mu.Lock()
		if own := l.errorLocked(); err != nil && own != nil {
			err = c.error("read", own) // a fault, a deadline or Close interrupted the Read
		}
		if l.happened(Drop) && k > 0 {
			if err != nil && !over(err) {
				err = l.stallLocked() // the end of the stream vanishes, too
				return 0, c.error("read", err)
			}
			if err == nil {
				continue
			}
			return 0, err
		}
		l.passLocked(n)
		return n, err
	}
}

// Write passes p on chunk by chunk.
func (c *faulty) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.write
	if err := l.enterLocked(); err != nil {
		return 0, c.error("write", err)
	}
	defer l.leaveLocked()
	for {
		k, err := l.waitLocked(len(p) - n)
		if err != nil {
			return n, c.error("write", err)
		}
		if l.happened(Drop) {
			return len(p), nil
		}
		c.mu.Unlock()
		m, err := c.conn.Write(p[n : n+k])
		c.mu.Lock()
		n += m
		if own := l.errorLocked(); err != nil && own != nil {
			err = c.error("write", own)
		}
		l.passLocked(m)
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// over reports whether err comes from this side: an expired deadline or Close.
func over(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)
}

// enterLocked waits until no other call is in the lane.
func (l *lane) enterLocked() error {
	for {
		if err := l.errorLocked(); err != nil {
			return err
		}
		if !l.busy {
			l.busy = true
			return nil
		}
		l.changed.Wait()
	}
}

func (l *lane) leaveLocked() {
	l.busy = false
	l.changed.Broadcast()
}

// waitLocked waits until some of size bytes may pass, and returns how many.
func (l *lane) waitLocked(size int) (int, error) {
	for size > 0 && l.pause.pending() {
		if err := l.errorLocked(); err != nil {
			return 0, err
		}
		l.changed.Wait()
	}
	if l.happened(Stall) && size > 0 {
		return 0, l.stallLocked()
	}
	if err := l.errorLocked(); err != nil {
		return 0, err
	}
	if l.fault.Chunk > 0 {
		size = min(size, l.fault.Chunk)
	}
	if l.fault.Then != 0 && !l.happened(Drop) {
		size = int(min(int64(size), l.left))
	}
	return size, nil
}

// stallLocked waits until the deadline has passed or the connection has ended.
func (l *lane) stallLocked() error {
	for {
		if err := l.errorLocked(); err != nil {
			return err
		}
		l.changed.Wait()
	}
}

// happened reports whether the lane's action is a and is in force.
func (l *lane) happened(a Action) bool { return l.fault.Then == a && l.left <= 0 }

// passLocked counts n bytes that have passed, and ends the connection if that is due.
func (l *lane) passLocked(n int) {
	if n > 0 && l.fault.Pause > 0 {
		l.pause.set(time.Now().Add(l.fault.Pause))
	}
	if l.fault.Then == 0 {
		return
	}
	l.left -= int64(n)
	c := l.conn
	if l.left > 0 || c.closed || c.ended != 0 {
		return
	}
	// Neither of these waits for the peer.
	switch l.fault.Then {
	case Cut:
		cut(c.conn)
	case Reset:
		reset(c.conn)
	default:
		return
	}
	c.ended = l.fault.Then
	c.wakeLocked()
}

// cut closes conn with FIN. A socket that is closed with unread data sends RST instead,
// which may destroy what was written before, so cut discards unread data first. The socket
// answers what the peer sends later with RST, as after any Close.
func cut(conn net.Conn) error {
	conn = bottom(conn)
	switch socket := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		socket.(interface{ CloseWrite() error }).CloseWrite()
		// On a busy machine the first deadlines may expire before the socket is read.
		for wait := time.Millisecond; wait <= 4*time.Millisecond; wait *= 2 {
			conn.SetReadDeadline(time.Now().Add(wait))
			io.Copy(io.Discard, conn)
		}
	}
	return conn.Close()
}

// errorLocked returns why a call on this lane fails, nil if it may go on.
func (l *lane) errorLocked() error {
	c := l.conn
	switch {
	case c.closed:
		return net.ErrClosed
	case l.deadline.passed():
		return os.ErrDeadlineExceeded
	case c.ended == 0:
		return nil
	case c.ended == Cut && l == &c.read:
		return io.EOF
	case c.ended == Cut:
		return errPipe
	case l == &c.read:
		return os.NewSyscallError("read", syscall.ECONNRESET)
	}
	return os.NewSyscallError("write", syscall.ECONNRESET)
}

// wakeLocked wakes all blocked calls to check again.
func (c *faulty) wakeLocked() {
	c.read.changed.Broadcast()
	c.write.changed.Broadcast()
}

// Close closes the connection.
func (c *faulty) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.error("close", net.ErrClosed)
	}
	c.closed = true
	for _, d := range []*deadline{&c.read.deadline, &c.read.pause, &c.write.deadline, &c.write.pause} {
		d.stop()
	}
	c.wakeLocked()
	ended := c.ended
	c.mu.Unlock()
	if ended != 0 {
		return nil // closed already
	}
	return c.conn.Close()
}

// CloseWrite sends FIN. Once writes stall or vanish, so does FIN.
func (c *faulty) CloseWrite() error {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	c.mu.Lock()
	lost := !c.closed && (c.write.happened(Stall) || c.write.happened(Drop))
	c.mu.Unlock()
	if lost {
		return nil
	}
	err := half.CloseWrite()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil || c.closed:
		return err
	case c.ended == Cut: // what a socket says where the peer has closed
		return nil
	case c.ended == Reset:
		return c.error("close", os.NewSyscallError("shutdown", syscall.ENOTCONN))
	}
	return err
}

// SetLinger sets the linger time of the wrapped connection, if that has one.
func (c *faulty) SetLinger(sec int) error {
	if abrupt, ok := bottom(c.conn).(interface{ SetLinger(sec int) error }); ok {
		return abrupt.SetLinger(sec)
	}
	return errors.ErrUnsupported
}

// SetDeadline sets both deadlines.
func (c *faulty) SetDeadline(t time.Time) error {
	return c.setDeadline(t, c.conn.SetDeadline, &c.read, &c.write)
}

// SetReadDeadline sets the deadline of Read, also of a Read that stalls.
func (c *faulty) SetReadDeadline(t time.Time) error {
	return c.setDeadline(t, c.conn.SetReadDeadline, &c.read)
}

// SetWriteDeadline sets the deadline of Write, also of a Write that stalls.
func (c *faulty) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(t, c.conn.SetWriteDeadline, &c.write)
}

func (c *faulty) setDeadline(t time.Time, next func(time.Time) error, lanes ...*lane) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.error("set", net.ErrClosed)
	}
	for _, l := range lanes {
		l.deadline.set(t)
	}
	if c.ended != 0 {
		return nil
	}
	return next(t)
}

// RealDeadlines reports whether the deadlines of the wrapped connection are real, for writes, too.
func (c *faulty) RealDeadlines() bool {
	return wire.HasRealDeadlines(c.conn) && wire.WriteDeadlinesHold(c.conn)
}

// LocalAddr returns the address of the wrapped connection.
func (c *faulty) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the address of the wrapped connection's peer.
func (c *faulty) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

func (c *faulty) error(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	e := &net.OpError{Op: op, Addr: c.RemoteAddr(), Err: err}
	if local := c.LocalAddr(); local != nil {
		e.Net, e.Source = local.Network(), local
	}
	return e
}
