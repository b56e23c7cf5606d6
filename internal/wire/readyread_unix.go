//go:build unix

package wire

import (
	"net"
	"os"
	"syscall"
)

// A readyReader reads from a socket into memory that is there only while there are bytes: while it
// waits for them it has none. That costs no other system calls than an ordinary read, which also asks
// the socket before it waits, and again afterwards.
//
// It is used by one goroutine at a time.
type readyReader struct {
	conn   net.Conn
	raw    syscall.RawConn
	try    func(fd uintptr) (done bool) // reads once into what memory gives
	memory Memory
	n      int
	err    error
}

// newReadyReader returns nil for a connection that is not a socket of the system's.
func newReadyReader(conn net.Conn) *readyReader {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	r := &readyReader{conn: conn, raw: raw}
	r.try = r.tryRead
	return r
}

// tryRead reports whether the socket has said something, be it an error.
func (r *readyReader) tryRead(fd uintptr) (done bool) {
	p := r.memory.Take()
	for {
		r.n, r.err = syscall.Read(int(fd), p[:min(len(p), maxWrite)])
		if r.err != syscall.EINTR {
			break
		}
	}
	if r.err == syscall.EAGAIN {
		r.memory.Release()
		return false
	}
	return true
}

// read returns how many bytes have come, or how the wait for them has ended.
func (r *readyReader) read(m Memory) (n int, err error) {
	r.memory, r.n, r.err = m, 0, nil
	err = r.raw.Read(r.try)
	r.memory = nil
	switch {
	case err != nil && IsTimeout(err):
		return 0, errExpired
	case err == nil && r.n > 0:
		return r.n, nil
	case err == nil && r.err != nil:
		return 0, opError("read", r.conn, os.NewSyscallError("read", r.err))
	}
	// The connection was closed, by us or, with no byte, by the peer: the ordinary read knows what to
	// say of that.
	return r.conn.Read(m.Take())
}

// opError says what package net would. A socket that the peer had reset before it was put
// into a net.Conn, by net.FileConn for example, has no remote address.
func opError(op string, conn net.Conn, err error) error {
	e := &net.OpError{Op: op, Source: conn.LocalAddr(), Addr: conn.RemoteAddr(), Err: err}
	if e.Addr != nil {
		e.Net = e.Addr.Network()
	} else if e.Source != nil {
		e.Net = e.Source.Network()
	}
	return e
}
