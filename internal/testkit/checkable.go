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
func Checkable(i, size int) []byte { return AppendCheckable(nil, i, size) }

// AppendCheckable is Checkable in the memory of dst, which is overwritten, if that is large enough.
func AppendCheckable(dst []byte, i, size int) []byte {
	msg := append(dst[:0], checkableBytes[i%251:][:max(size, 8)]...)
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
	want := int(binary.BigEndian.Uint32(msg[4:]))
	if want != len(msg) || !bytes.Equal(checkableBytes[i%251:][8:want], msg[8:]) { // memory of its own costs more than the rest
		return i, fmt.Errorf("message %d of %d bytes came as %d others", i, want, len(msg))
	}
	return i, nil
}
