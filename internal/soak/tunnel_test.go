package soak

import (
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// A tunnel is a connection as a proxy or a multiplexer makes it: of a type that the Client
// does not know, without a half-close, with reads and a Close that take their time.
type tunnel struct {
	net.Conn
	s         *soakCase
	slowRead  time.Duration
	slowClose time.Duration
	closed    atomic.Bool
}

func newTunnel(s *soakCase, conn net.Conn, random *rand.Rand) *tunnel {
	t := &tunnel{Conn: conn, s: s}
	if random.IntN(2) == 0 {
		t.slowRead = time.Duration(random.IntN(3000)) * time.Microsecond
	}
	if random.IntN(2) == 0 {
		t.slowClose = time.Duration(random.Int64N(int64(soakTimeout / 2)))
	}
	return t
}

// Read comes late with what has arrived.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	pause(t.slowRead, nil)
	return n, err
}

func (t *tunnel) Close() error {
	t.closed.Store(true)
	pause(t.slowClose, nil)
	return t.Conn.Close()
}

func (t *tunnel) SetDeadline(at time.Time) error {
	t.checkUntrusted()
	return t.Conn.SetDeadline(at)
}

func (t *tunnel) SetReadDeadline(at time.Time) error {
	t.checkUntrusted()
	return t.Conn.SetReadDeadline(at)
}

func (t *tunnel) SetWriteDeadline(at time.Time) error {
	t.checkUntrusted()
	return t.Conn.SetWriteDeadline(at)
}

// checkUntrusted fails where a deadline is set before Close: that of a tunnel may end it.
func (t *tunnel) checkUntrusted() {
	if !t.closed.Load() {
		t.s.fail("a deadline was set on a tunnel")
	}
}
