package soak

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
)

// The server's side of the soak test: parcels, faults, server.

// A parcel is a message that tells what it is, whose, and whether it is whole.
//
//	kind 1 | from 2 | number 4 | filler | CRC-32 4
type parcel struct {
	kind   byte
	from   int // the sender: a worker of the client, or a connection of the server
	number int // the sender's parcels count from 0
}

const (
	parcelSent  = 'S' // wants no answer
	parcelCall  = 'C'
	parcelReply = 'R' // has from and number of the call
	parcelPush  = 'P'

	parcelSize = 1 + 2 + 4 + 4 // the smallest
)

// pack makes a message of the parcel, after a prefix of zeros: an id that no call has.
func (p parcel) pack(prefix, size int) []byte {
	msg := make([]byte, prefix, prefix+parcelSize+size)
	msg = append(msg, p.kind)
	msg = binary.BigEndian.AppendUint16(msg, uint16(p.from))
	msg = binary.BigEndian.AppendUint32(msg, uint32(p.number))
	for i := range size {
		msg = append(msg, byte(i+p.number))
	}
	return binary.BigEndian.AppendUint32(msg, crc32.ChecksumIEEE(msg[prefix:]))
}

func unpack(prefix int, msg []byte) (parcel, error) {
	if len(msg) < prefix+parcelSize {
		return parcel{}, fmt.Errorf("a message of %d bytes is none that was sent: %.20q", len(msg), msg)
	}
	body, sum := msg[prefix:len(msg)-4], binary.BigEndian.Uint32(msg[len(msg)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return parcel{}, fmt.Errorf("a message of %d bytes is not as it was sent: %.20q", len(msg), msg)
	}
	return parcel{
		kind:   body[0],
		from:   int(binary.BigEndian.Uint16(body[1:])),
		number: int(binary.BigEndian.Uint32(body[3:])),
	}, nil
}

// parcelFiller draws the size of a filler: most are small, few need many reads.
func parcelFiller(r *rand.Rand) int {
	switch n := r.IntN(200); {
	case n == 0:
		return r.IntN(200 << 10)
	case n < 10:
		return r.IntN(10 << 10)
	case n < 60:
		return r.IntN(500)
	}
	return r.IntN(60)
}
