package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
)

// closeTime is how long a CloseWrite of a connection without deadlines is waited for.
const closeTime = 100 * time.Millisecond

// errExpired is what a read or a write of a deadlineConn returns at its deadline. An error of
// the connection's own that Is os.ErrDeadlineExceeded is another: the connection has ended.
var errExpired = errors.New("deadline of the wire expired")

// A deadlineConn is a raw connection whose deadlines hold: a read or a write returns at its
// deadline, with errExpired, and the connection is as good as before.
//
// At most one goroutine reads and one writes.
type deadlineConn interface {
	Read(p []byte) (int, error)

	// readInto is Read into memory that, as far as that is possible, is not there during the
	// wait.
	readInto(m Memory) (int, error)

	// Write may end before its deadline with a part of p, and errExpired.
	// It may go on after its deadline. Then inFlight is not 0, and the next Write must be
	// given the same bytes in front.
	Write(p []byte) (int, error)

	// ahead returns the first bytes that have come and that no Read has returned, as far as that
	// can be seen without a read.
	ahead() []byte

	// inFlight returns how many bytes of a Write that goes on may or may not have been
	// handed over.
	inFlight() int

	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error

	// unacknowledged returns how many bytes the connection took and the peer's TCP has not
	// acknowledged; 0 where that is not known.
	unacknowledged() int

	// CloseWrite sends FIN. Without half-close it reports errors.ErrUnsupported.
	CloseWrite() error

	// Close closes the connection. Reads and writes return, even if those of the raw
	// connection do not.
	Close() error

	// left returns a channel that is closed when, after Close, no call of the raw connection
	// is under way on a goroutine of the deadlineConn.
	left() <-chan struct{}
}

// HasRealDeadlines reports whether the deadlines of conn can be relied on: it is a TCP or Unix
// socket of package net, or its type has a method RealDeadlines() bool that says so.
//
// No other type is trusted. A multiplexer's stream reports an expired deadline with an error
// of its own, a WebSocket is closed by one, TLS is spoiled by a write that has timed out, and
// some say that they have written nothing when bytes went out.
func HasRealDeadlines(conn net.Conn) bool {
	switch conn := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	case interface{ RealDeadlines() bool }:
		return conn.RealDeadlines()
	}
	return false
}

// WriteDeadlinesHold reports whether a write of conn that has ended at its deadline tells how many
// bytes it has written, if its deadlines are real. A socket on Windows says 0 although some were
// sent (go.dev/issue/24727), also below a wrapper.
func WriteDeadlinesHold(conn net.Conn) bool {
	if runtime.GOOS != "windows" {
		return true
	}
	switch lowest(conn).(type) {
	case *net.TCPConn, *net.UnixConn:
		return false
	}
	return true
}

// A tryWriter writes what the connection takes at once of head and tail, and never waits. That
// it takes no more is no error.
type tryWriter interface {
	tryWrite(head, tail []byte) (int, error)
}

// newDeadlineConn returns raw with its own deadlines if they are real, else with emulated
// ones. maxRead is the size of the largest read of an emulated connection. try is nil if
// each write may have to wait.
func newDeadlineConn(raw net.Conn, maxRead int) (conn deadlineConn, try tryWriter) {
	switch {
	case !HasRealDeadlines(raw) || raw.SetDeadline(time.Time{}) != nil:
		return newEmulated(raw, maxRead), nil
	case !WriteDeadlinesHold(raw):
		return newWriteEmulated(raw), nil
	}
	return &socket{Conn: raw, ready: newReadyReader(raw)}, newTryWriter(raw)
}

// A socket is a connection with deadlines of its own.
type socket struct {
	net.Conn
	ready *readyReader // nil: it has no way to wait without memory
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil && IsTimeout(err) {
		err = errExpired
	}
	return n, err
}

func (s *socket) readInto(m Memory) (int, error) {
	if s.ready == nil {
		return s.Read(m.Take())
	}
	n, err := s.ready.read(m)
	if err != nil && IsTimeout(err) {
		err = errExpired
	}
	return n, err
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := writeOnce(s.Conn, p)
	if err != nil && IsTimeout(err) {
		err = errExpired
	}
	return n, err
}

func (s *socket) ahead() []byte { return peek(s.Conn) }

func (s *socket) inFlight() int { return 0 }

func (s *socket) unacknowledged() int { return unacknowledged(s.Conn) }

// CloseWrite sends FIN. The system refuses that only where the connection has ended, as the reader
// will learn.
func (s *socket) CloseWrite() error {
	err := closeWrite(s.Conn)
	if errors.As(err, new(syscall.Errno)) && !errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func (s *socket) left() <-chan struct{} { return nobody }

// nobody is closed: it has always left.
var nobody = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// writeOnce is conn.Write held to the contract of io.Writer.
func writeOnce(conn net.Conn, p []byte) (int, error) {
	n, err := conn.Write(p)
	if n < 0 || n > len(p) {
		// How many it was cannot be known; that all were is the safe answer.
		return len(p), fmt.Errorf("connection claims to have written %d bytes of %d", n, len(p))
	}
	if n < len(p) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// closeWrite sends FIN, where there is half-close.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
