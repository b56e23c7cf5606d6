//go:build !unix || aix

package wire

import "net"

// peek returns nothing: here only a read can tell what has come.
func peek(net.Conn) []byte { return nil }
