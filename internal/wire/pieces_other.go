//go:build unix && !linux

package wire

import "syscall"

// pieces are what two system calls write: package syscall has no writev that all systems have.
type pieces struct{}

// write writes head and, if that was taken whole, tail.
func (*pieces) write(fd int, head, tail []byte) (int, error) {
	n, err := syscall.Write(fd, atMost(head))
	if err != nil || n < len(head) {
		return n, err
	}
	k, err := syscall.Write(fd, atMost(tail))
	return n + max(k, 0), err
}
