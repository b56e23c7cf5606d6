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
//	kind 1 | from 2 | number 4 | part 2 | size of the filler 4 | filler | CRC-32 4
type parcel struct {
	kind   byte
	from   int // the sender: a worker of the client, or a connection of the server
	number int // the sender's parcels count from 0
	part   int // which of the replies to a call this is, from 0; in the call, how many it wants
}

const (
	parcelSent  = 'S' // wants no answer
	parcelCall  = 'C'
	parcelMore  = 'M' // a reply that others follow: it has from and number of the call
	parcelReply = 'R' // the last reply
	parcelPush  = 'P'

	parcelHead = 1 + 2 + 4 + 2 + 4
	parcelSize = parcelHead + 4 // the smallest
)

// reply returns one of the replies to the call p.
func (p parcel) reply(part int) parcel {
	if part < p.part-1 {
		return parcel{parcelMore, p.from, p.number, part}
	}
	return parcel{parcelReply, p.from, p.number, part}
}

// pack makes a message of the parcel, after a prefix of zeros: an id that no call has.
func (p parcel) pack(prefix, size int) []byte {
	msg := make([]byte, prefix, prefix+parcelSize+size)
	msg = append(msg, p.kind)
	msg = binary.BigEndian.AppendUint16(msg, uint16(p.from))
	msg = binary.BigEndian.AppendUint32(msg, uint32(p.number))
	msg = binary.BigEndian.AppendUint16(msg, uint16(p.part))
	msg = binary.BigEndian.AppendUint32(msg, uint32(size))
	for i := range size {
		msg = append(msg, byte(i+p.number))
	}
	return binary.BigEndian.AppendUint32(msg, crc32.ChecksumIEEE(msg[prefix:]))
}

// unpack returns the parcel that a message is.
func unpack(prefix int, msg []byte) (parcel, error) {
	if len(msg) < prefix {
		return parcel{}, fmt.Errorf("a message of %d bytes is none that was sent: %.20q", len(msg), msg)
	}
	p, rest, err := unpackFirst(msg[prefix:])
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow a message: %.20q", len(rest), rest)
	}
	return p, err
}

// unpackFirst returns the parcel that msg begins with, and what follows it.
func unpackFirst(msg []byte) (p parcel, rest []byte, err error) {
	if len(msg) < parcelSize {
		return parcel{}, nil, fmt.Errorf("a message of %d bytes is none that was sent: %.20q", len(msg), msg)
	}
	size := uint64(binary.BigEndian.Uint32(msg[parcelHead-4:])) + parcelSize
	if size > uint64(len(msg)) {
		return parcel{}, nil, fmt.Errorf("a message of %d bytes is not as it was sent: %.20q", len(msg), msg)
	}
	body, sum := msg[:size-4], binary.BigEndian.Uint32(msg[size-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return parcel{}, nil, fmt.Errorf("a message of %d bytes is not as it was sent: %.20q", len(msg), msg)
	}
	return parcel{
		kind:   body[0],
		from:   int(binary.BigEndian.Uint16(body[1:])),
		number: int(binary.BigEndian.Uint32(body[3:])),
		part:   int(binary.BigEndian.Uint16(body[7:])),
	}, msg[size:], nil
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
