package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// closeTime is how long a CloseWrite of a connection without deadlines is waited for.
const closeTime = 100 * time.Millisecond

// A deadlineConn is a raw connection whose deadlines hold: a read or a write returns at its
// deadline, with an error for which IsTimeout, and the connection is as good as before.
//
// At most one goroutine reads and one writes.
type deadlineConn interface {
	Read(p []byte) (int, error)

	// Write may end before its deadline with a part of p, and an error for which IsTimeout.
	// It may go on after its deadline. Then inFlight is not 0, and the next Write must be
	// given the same bytes in front.
	Write(p []byte) (int, error)

	// canTryWrite reports whether tryWrite can take anything. It is always the same.
	canTryWrite() bool

	// tryWrite writes what the connection takes at once, and never waits. That it takes no
	// more is no error.
	tryWrite(p []byte) (int, error)

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
	Close() error

	// join returns, after Close, when no goroutine of the deadlineConn is left. It starts
	// none from now on.
	join()
}

// newDeadlineConn returns raw itself if its deadlines can be used. A connection that hides
// another, as a *tls.Conn does, counts as one without: TLS is spoiled by a write that has
// timed out.
func newDeadlineConn(raw net.Conn) deadlineConn {
	_, layered := raw.(interface{ NetConn() net.Conn })
	if layered || raw.SetDeadline(time.Time{}) != nil {
		return newEmulated(raw)
	}
	return &socket{Conn: raw, try: newTryWriter(raw)}
}

// A socket is a connection with deadlines of its own.
type socket struct {
	net.Conn
	try *tryWriter // nil: it has no way to write without waiting
}

func (s *socket) Write(p []byte) (int, error) { return writeOnce(s.Conn, p) }

func (s *socket) canTryWrite() bool { return s.try != nil }

func (s *socket) tryWrite(p []byte) (int, error) {
	if s.try == nil {
		return 0, nil
	}
	return s.try.write(p)
}

func (s *socket) inFlight() int { return 0 }

func (s *socket) unacknowledged() int { return unacknowledged(s.Conn) }

func (s *socket) CloseWrite() error { return closeWrite(s.Conn) }

func (s *socket) join() {}

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
