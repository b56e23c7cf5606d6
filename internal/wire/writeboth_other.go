//go:build unix && !linux

package wire

import "syscall"

// writeBoth writes head and, if that was taken whole, tail: package syscall has no writev that all
// systems have.
func writeBoth(fd int, head, tail []byte) (int, error) {
	n, err := syscall.Write(fd, atMost(head))
	if err != nil || n < len(head) {
		return n, err
	}
	k, err := syscall.Write(fd, atMost(tail))
	return n + max(k, 0), err
}
