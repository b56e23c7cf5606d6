//go:build !linux

package wire

import (
	"errors"
	"net"
	"time"
)

// HasUserTimeout says whether SetUserTimeout does anything but fail.
const HasUserTimeout = false

// SetUserTimeout returns errors.ErrUnsupported.
func SetUserTimeout(*net.TCPConn, time.Duration) error { return errors.ErrUnsupported }

// unacknowledged is not known here: what the kernel took counts as arrived.
func unacknowledged(net.Conn) int { return 0 }
