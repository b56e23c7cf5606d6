package tcpclient

import (
	"encoding/binary"
	"fmt"
)

// A Correlator puts ids into requests and finds them in replies, so that a server may
// answer in any order. It is stateless: one value serves any number of connections. Ids
// count from 1 on each connection, so a server may push with id 0.
//
// A reply with an id that was issued on this connection and that nobody waits for is
// late, and dropped. One with any other id goes to Receive, as a message that is no reply.
//
// A Correlator whose ids are narrower than 64 bits also has a method MaxID() uint64: ids
// run from 1 to that and start again, skipping those still waited for, and where there
// are no more than 65536 of them those that were abandoned. When all are in use, Call
// waits for one.
type Correlator interface {
	// AppendRequest appends request, marked with id, to dst. It borrows request. It
	// runs under the Client's write lock, like WriteFrame, and must not call the
	// Client.
	AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error)

	// SplitReply finds the id of a message and the reply in it, which may be the
	// message as a whole or a part of it. ok is false for what is not a reply: that
	// goes to Receive. It is called on the Client's reading goroutine.
	SplitReply(msg []byte) (id uint64, reply []byte, ok bool)
}

// IDPrefix is a Correlator with the id in 8 bytes, big-endian, in front of the message.
//
//	+--- 8 bytes ---+---------------+
//	|      id       |    message    |
//	+---------------+---------------+
type IDPrefix struct{}

// AppendRequest appends id and request.
func (IDPrefix) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint64(dst, id), request...), nil
}

// SplitReply returns the id and what is behind it. A message of less than 8 bytes is not
// a reply.
func (IDPrefix) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if len(msg) < 8 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(msg), msg[8:], true
}

// IDField is a Correlator for protocols that have a field for an id inside the message:
// the sequence_number of SMPP (Offset 12, Width 4, in a message with its header), the
// correlation id of Kafka (Offset 4 in requests, 0 in replies, Width 4), the transaction
// id of Modbus and of DNS (Offset 0, Width 2).
//
// Call fills the field in; what the request has there does not matter. The reply is the
// whole message, with the id in it. Both offsets are literal: a ReplyOffset of 0 is the
// first byte.
//
// Every message long enough to have the field counts as a reply. Where the server numbers
// requests of its own in the same field, as SMPP's deliver_sm, wrap the IDField in a
// Correlator that looks at the kind of the message first.
type IDField struct {
	Offset       int  // of the field in a request
	Width        int  // bytes of the field, 1..8
	LittleEndian bool // the least significant byte comes first
	ReplyOffset  int  // of the field in a reply
}

// MaxID returns the largest id that the field can hold.
func (f IDField) MaxID() uint64 { return 1<<(8*min(max(f.Width, 1), 8)) - 1 }

func (f IDField) validate() error {
	switch {
	case f.Width < 1 || f.Width > 8:
		return fmt.Errorf("IDField.Width %d: want 1 to 8", f.Width)
	case f.Offset < 0:
		return fmt.Errorf("IDField.Offset %d is negative", f.Offset)
	case f.ReplyOffset < 0:
		return fmt.Errorf("IDField.ReplyOffset %d is negative", f.ReplyOffset)
	}
	return nil
}

// AppendRequest appends request with id in its field. A request too short for the field
// is refused with ErrInvalidFrame.
func (f IDField) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, err
	}
	if len(request)-f.Width < f.Offset {
		return dst, fmt.Errorf("%w: a request of %d bytes has no room for an id of %d bytes at offset %d",
			ErrInvalidFrame, len(request), f.Width, f.Offset)
	}
	if id > f.MaxID() {
		return dst, fmt.Errorf("%w: id %d does not fit %d bytes", ErrInvalidFrame, id, f.Width)
	}
	start := len(dst) + f.Offset
	dst = append(dst, request...)
	field := dst[start : start+f.Width]
	for i := range field {
		shift := 8 * i
		if !f.LittleEndian {
			shift = 8 * (f.Width - 1 - i)
		}
		field[i] = byte(id >> shift)
	}
	return dst, nil
}

// SplitReply returns the id in the field, and msg. A message too short for the field is
// not a reply.
func (f IDField) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if f.validate() != nil || len(msg)-f.Width < f.ReplyOffset {
		return 0, nil, false
	}
	for i, b := range msg[f.ReplyOffset : f.ReplyOffset+f.Width] {
		shift := 8 * i
		if !f.LittleEndian {
			shift = 8 * (f.Width - 1 - i)
		}
		id |= uint64(b) << shift
	}
	return id, msg, true
}
