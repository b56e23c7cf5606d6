package wire

import (
	"syscall"
	"unsafe"
)

// writeBoth writes head and tail with one system call.
func writeBoth(fd int, head, tail []byte) (int, error) {
	var pieces [2]syscall.Iovec
	for i, p := range [...][]byte{head, atMost(tail)} {
		pieces[i].Base = unsafe.SliceData(p)
		pieces[i].SetLen(len(p))
	}
	n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&pieces)), uintptr(len(pieces)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
