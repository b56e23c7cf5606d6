package testkit

import (
	"errors"
	"io"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// windowsErrnos are the numbers that Windows has for what sockets report. Package syscall has
// the portable names there too, but no call returns them.
var windowsErrnos = map[syscall.Errno]syscall.Errno{
	syscall.ECONNREFUSED: 10061, // WSAECONNREFUSED
	syscall.ECONNRESET:   10054, // WSAECONNRESET
	syscall.EPIPE:        10058, // WSAESHUTDOWN
}

// PortableErrno returns the portable name of a number that Windows has for it, and other
// errors as they are.
func PortableErrno(err error) error {
	for portable, number := range windowsErrnos {
		if runtime.GOOS == "windows" && errors.Is(err, number) {
			return portable
		}
	}
	return err
}

// RequireErrno requires that err Is the given number, or the one that Windows has in its place.
// Wine loses the reason of a reset that no read waits for: the test is skipped then.
func RequireErrno(t testing.TB, err error, errno syscall.Errno, what ...any) {
	t.Helper()
	if number, ok := windowsErrnos[errno]; ok && runtime.GOOS == "windows" && errors.Is(err, number) {
		return
	}
	if errno == syscall.ECONNRESET && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		SkipUnderWine(t, "RST for a read that begins after it, only io.EOF")
	}
	require.ErrorIs(t, err, errno, what...)
}
