//go:build unix

package wire

import (
	"net"
	"os"
	"syscall"
)

// A tryWriter writes to a socket what it takes at once. The deadline that keeps an
// ordinary write from blocking costs a system timer, a tenth of a small round trip.
//
// It is used by one goroutine at a time.
type tryWriter struct {
	conn net.Conn
	raw  syscall.RawConn
	try  func(fd uintptr) (done bool) // writes p once
	p    []byte
	n    int
	err  error
}

// maxWrite is the most that one write may be given everywhere: Darwin and FreeBSD refuse
// what does not fit 32 bits.
const maxWrite = 1 << 30

// newTryWriter returns nil for a connection that is not a socket of the system's.
func newTryWriter(conn net.Conn) *tryWriter {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	t := &tryWriter{conn: conn, raw: raw}
	t.try = func(fd uintptr) bool {
		t.n, t.err = syscall.Write(int(fd), t.p[:min(len(t.p), maxWrite)])
		return true
	}
	return t
}

// write returns how many bytes of p the socket has taken; an error is final.
func (t *tryWriter) write(p []byte) (int, error) {
	t.p, t.n, t.err = p, 0, nil
	err := t.raw.Write(t.try)
	t.p = nil
	switch {
	case err != nil:
		return 0, nil // closed: the ordinary write knows
	case t.err == syscall.EAGAIN || t.err == syscall.EINTR:
		return 0, nil
	case t.err != nil:
		return 0, t.opError(os.NewSyscallError("write", t.err))
	}
	return max(t.n, 0), nil
}

func (t *tryWriter) opError(err error) error { return opError("write", t.conn, err) }
