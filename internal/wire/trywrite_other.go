//go:build !unix

package wire

import "net"

// newTryWriter returns nil: here each write may have to wait.
func newTryWriter(net.Conn) tryWriter { return nil }
