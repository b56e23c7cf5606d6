package wire

import (
	"math"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSetUserTimeout(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)

	for _, test := range []struct {
		name string
		d    time.Duration
		want int // milliseconds
	}{
		{"sets milliseconds", 1234 * time.Millisecond, 1234},
		{"does not round down to none", time.Microsecond, 1},
		{"sets the most there is where 32 bits do not suffice", (1<<32 + 5) * time.Millisecond, math.MaxInt32},
		{"sets the most there is for all time", math.MaxInt64, math.MaxInt32},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.NoError(t, SetUserTimeout(conn.(*net.TCPConn), test.d))
			var got int
			var optErr error
			require.NoError(t, raw.Control(func(fd uintptr) {
				got, optErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
			}))
			require.NoError(t, optErr)
			require.Equal(t, test.want, got)
		})
	}
}
