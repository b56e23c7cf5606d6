package wire

import (
	"syscall"
	"unsafe"
)

// pieces are what one system call writes.
type pieces [2]syscall.Iovec

// write writes head and tail with one system call.
func (v *pieces) write(fd int, head, tail []byte) (int, error) {
	for i, p := range [...][]byte{head, atMost(tail)} {
		v[i].Base = unsafe.SliceData(p)
		v[i].SetLen(len(p))
	}
	n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	*v = pieces{}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
