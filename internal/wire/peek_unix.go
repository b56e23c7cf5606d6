//go:build unix && !aix

package wire

import (
	"net"
	"syscall"
)

// maxPeek is how many bytes peek returns at the most.
const maxPeek = 512

// peek returns the first bytes that conn has received and that were not read yet, if it is a socket
// of the system's itself. It does not wait. Below a wrapper, bytes need not be those that a read of
// the wrapper returns.
func peek(conn net.Conn) []byte {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	p := make([]byte, maxPeek)
	n := 0
	raw.Control(func(fd uintptr) {
		n, _, _ = syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return p[:max(n, 0)]
}
