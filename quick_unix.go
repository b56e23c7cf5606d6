//go:build unix

package tcpclient

import (
	"net"
	"os"
	"syscall"
)

// A quick writes to a socket what it takes at once. The deadline that keeps an
// ordinary write from blocking costs a system timer, a tenth of a small round trip.
//
// It is used by one goroutine at a time.
type quick struct {
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

// newQuick returns nil for a connection that is not a socket of the system's.
func newQuick(conn net.Conn) *quick {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	q := &quick{conn: conn, raw: raw}
	q.try = func(fd uintptr) bool {
		q.n, q.err = syscall.Write(int(fd), q.p[:min(len(q.p), maxWrite)])
		return true
	}
	return q
}

// write returns how many bytes of p the socket has taken; an error is final.
func (q *quick) write(p []byte) (int, error) {
	q.p, q.n, q.err = p, 0, nil
	err := q.raw.Write(q.try)
	q.p = nil
	switch {
	case err != nil:
		return 0, nil // closed, or an old deadline: the ordinary write knows
	case q.err == syscall.EAGAIN || q.err == syscall.EINTR:
		return 0, nil
	case q.err != nil:
		addr := q.conn.RemoteAddr()
		return 0, &net.OpError{Op: "write", Net: addr.Network(), Source: q.conn.LocalAddr(), Addr: addr, Err: os.NewSyscallError("write", q.err)}
	}
	return max(q.n, 0), nil
}
