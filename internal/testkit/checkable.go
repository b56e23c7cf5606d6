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
func Checkable(i, size int) []byte { return AppendCheckable(make([]byte, 0, max(size, 8)), i, size) }

// AppendCheckable appends Checkable(i, size) to dst.
func AppendCheckable(dst []byte, i, size int) []byte {
	size = max(size, 8)
	dst = binary.BigEndian.AppendUint32(dst, uint32(i))
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	return append(dst, checkableBytes[i%251:][8:size]...)
}

// Check returns the number of a message that Checkable made, and what is wrong with it.
func Check(msg []byte) (i int, err error) {
	if len(msg) < 8 {
		return 0, fmt.Errorf("%d bytes", len(msg))
	}
	i = int(binary.BigEndian.Uint32(msg))
	want := int(binary.BigEndian.Uint32(msg[4:]))
	if want != len(msg) || !bytes.Equal(checkableBytes[i%251:][8:want], msg[8:]) { // memory of its own costs more than the rest
		return i, fmt.Errorf("message %d of %d bytes came as %d others", i, want, len(msg))
	}
	return i, nil
}
