package wire

import (
	"net"
	"time"
)

// NewWithoutWriteDeadlines is New on a system whose sockets have no write deadlines that can be
// used.
func NewWithoutWriteDeadlines(raw net.Conn, writeTimeout time.Duration, m Monitor) *Conn {
	c := New(raw, writeTimeout, 64<<10, m)
	c.conn, c.try = newWriteEmulated(raw), nil
	return c
}
