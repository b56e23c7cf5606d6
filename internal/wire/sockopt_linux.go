package wire

import (
	"math"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// HasUserTimeout says whether SetUserTimeout does anything but fail.
const HasUserTimeout = true

const (
	tcpUserTimeout = 18     // TCP_USER_TIMEOUT, linux/tcp.h
	siocOutQ       = 0x5411 // SIOCOUTQ, linux/sockios.h
)

// genericIoctl says that ioctl numbers are those of most architectures.
const genericIoctl = runtime.GOARCH != "ppc64" && runtime.GOARCH != "ppc64le" && runtime.GOARCH != "mips" &&
	runtime.GOARCH != "mipsle" && runtime.GOARCH != "mips64" && runtime.GOARCH != "mips64le"

// SetUserTimeout sets TCP_USER_TIMEOUT (tcp(7)), in milliseconds, at least one.
func SetUserTimeout(conn *net.TCPConn, d time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		ms := min(max(d.Milliseconds(), 1), math.MaxInt32)
		optErr = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(ms)))
	})
	if err != nil {
		return err
	}
	return optErr
}

// unacknowledged returns how many bytes of what the kernel took the peer has not
// acknowledged (tcp(7), SIOCOUTQ); 0 where that is not known.
func unacknowledged(conn net.Conn) int {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !genericIoctl {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	var n int32
	raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, siocOutQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}
