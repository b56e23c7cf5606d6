package testkit

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

var checkableBytes = func() []byte {
	p := make([]byte, 2<<20)
	for i := range p {
		p[i] = byte(i + i/251)
	}
	return p
}()

// Checkable returns a message of that size whose content follows from its number.
func Checkable(i, size int) []byte {
	msg := make([]byte, max(size, 8))
	copy(msg, checkableBytes[i%251:])
	binary.BigEndian.PutUint32(msg, uint32(i))
	binary.BigEndian.PutUint32(msg[4:], uint32(len(msg)))
	return msg
}

// Check returns the number of a message that Checkable made, and what is wrong with it.
func Check(msg []byte) (i int, err error) {
	if len(msg) < 8 {
		return 0, fmt.Errorf("%d bytes", len(msg))
	}
	i = int(binary.BigEndian.Uint32(msg))
	if want := int(binary.BigEndian.Uint32(msg[4:])); want != len(msg) || !bytes.Equal(Checkable(i, want), msg) {
		return i, fmt.Errorf("message %d of %d bytes came as %d others", i, want, len(msg))
	}
	return i, nil
}
