//go:build !linux

package tcpclient

import (
	"errors"
	"net"
	"time"
)

const hasUserTimeout = false

func setUserTimeout(*net.TCPConn, time.Duration) error { return errors.ErrUnsupported }

// unacknowledged is not known here: what the kernel took counts as arrived.
func unacknowledged(net.Conn) int { return 0 }
