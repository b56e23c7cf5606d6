//go:build unix

package wire

import (
	"net"
	"os"
	"syscall"
)

// A socketWriter writes to a socket what it takes at once. The deadline that keeps an
// ordinary write from blocking costs a system timer, a tenth of a small round trip.
//
// It is used by one goroutine at a time.
type socketWriter struct {
	conn       net.Conn
	raw        syscall.RawConn
	try        func(fd uintptr) (done bool) // writes head and tail once
	head, tail []byte
	n          int
	err        error
}

// maxWrite is the most that one write may be given everywhere: Darwin and FreeBSD refuse
// what does not fit 32 bits.
const maxWrite = 1 << 30

// newTryWriter returns nil for a connection that is not a socket of the system's.
func newTryWriter(conn net.Conn) tryWriter {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	t := &socketWriter{conn: conn, raw: raw}
	t.try = func(fd uintptr) bool {
		if len(t.tail) == 0 {
			t.n, t.err = syscall.Write(int(fd), atMost(t.head))
		} else {
			t.n, t.err = writeBoth(int(fd), t.head, t.tail)
		}
		return true
	}
	return t
}

// atMost returns what of p one write may be given.
func atMost(p []byte) []byte { return p[:min(len(p), maxWrite)] }

// tryWrite returns how many bytes of head and tail the socket has taken; an error is final.
func (t *socketWriter) tryWrite(head, tail []byte) (int, error) {
	t.head, t.tail, t.n, t.err = head, tail, 0, nil
	err := t.raw.Write(t.try)
	t.head, t.tail = nil, nil
	n := max(t.n, 0)
	switch {
	case err != nil:
		return 0, nil // closed: the ordinary write knows
	case t.err == syscall.EAGAIN || t.err == syscall.EINTR:
		return n, nil
	case t.err != nil:
		return n, t.opError(os.NewSyscallError("write", t.err))
	}
	return n, nil
}

func (t *socketWriter) opError(err error) error { return opError("write", t.conn, err) }
