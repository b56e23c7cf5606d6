//go:build !unix

package wire

import "net"

// A readyReader needs a socket that can be asked.
type readyReader struct{ conn net.Conn }

func newReadyReader(net.Conn) *readyReader { return nil }

func (r *readyReader) read(m Memory) (int, error) { return r.conn.Read(m.Take()) }
