package tcpclient

import "encoding/binary"

func frameSize(header []byte) uint64 { return uint64(binary.BigEndian.Uint32(header)) }
func appendFrameHeader(dst []byte, size int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(size))
}

type multiError = roundError

func asBuiltin(f Framer) (interface{ validate() error }, bool) { return ourFramer(f) }
func (f LengthPrefix) isDefault() bool                         { return f.isPlain() }

const maxEmptyReads = 100
