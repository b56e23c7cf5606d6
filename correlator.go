package tcpclient

import (
	"encoding/binary"
	"fmt"
	"reflect"
)

// A Correlator puts ids into requests and finds them in replies, so that a server may
// answer in any order. It is stateless: one value serves any number of connections, and its
// methods may be called concurrently. Ids count from 1 on each connection, so a server may
// push with id 0.
//
// A message with the id of a waiting Call is its reply. One with another id that was issued
// on this connection is late: it is dropped, and [Trace].LateReply is told. Any other message
// goes to Receive.
//
// The requests of a Handshake have no Call. One that is still unanswered when the Handshake ends
// should have an id that no Call gets soon: 0, or one near the largest. Its reply goes to Receive; once a
// Call has had the id, which is never 0, it is late.
//
// A Correlator whose ids are narrower than 64 bits is an [IDLimiter], too. Ids then run from
// 1 to MaxID and start again, skipping those in flight. The id of a Call that was given up is
// in flight until its late reply has come; without MaxInFlight no more than 65536 of these
// are remembered. When all ids are in flight, Call waits for one. A [RequestIdentifier] lets the
// application choose ids.
type Correlator interface {
	// AppendRequest appends request, marked with id, to dst. It borrows request until it
	// returns. It runs under the Client's write lock, like WriteFrame, and must not call
	// the Client. If it fails, only its Call does.
	AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error)

	// SplitReply returns the id of a message and the reply in it, which may be all of msg
	// or a part of it. ok is false for a message that is no reply. It is called on the
	// Client's reading goroutine, must not block and must not keep msg.
	SplitReply(msg []byte) (id uint64, reply []byte, ok bool)
}

// An IDLimiter is a [Correlator] whose ids end at MaxID, which does not change and is at least
// 1. Dial refuses a Correlator with a method MaxID of another signature.
type IDLimiter interface {
	// MaxID returns the largest id.
	MaxID() uint64
}

// A RequestIdentifier is a [Correlator] with ids that the application chooses: a number that is
// journaled before the request is sent, such as the STAN of ISO 8583, or the packet identifier that an
// MQTT client repeats. Dial refuses a Correlator with a method RequestID of another signature.
//
// Call fails at once if the id of its request is 0, larger than MaxID, or in flight, that of a request
// that was given up included. That error is Unsent, of [ClassPermanent], and names the id.
//
// Without MaxInFlight at most 65536 requests are outstanding, those that were given up included, so that
// none of these is forgotten.
//
// An id that was chosen counts as issued only while it is in flight. A second reply to it goes to
// Receive, unless the Client has issued that id as well.
type RequestIdentifier interface {
	// RequestID returns the id of request, which AppendRequest is then given. If ok is false the
	// Client chooses an id, and skips those in flight. It borrows request until it returns. Like
	// AppendRequest it runs under the Client's write lock, and must not call the Client.
	RequestID(request []byte) (id uint64, ok bool)
}

// validateCorrelator checks the settings of k, and that its optional methods are what they are to be.
func validateCorrelator(k Correlator) error {
	if k == nil {
		return nil
	}
	if v := reflect.ValueOf(k); v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Errorf("%T is nil", k)
	}
	if _, ok := k.(IDLimiter); !ok {
		if err := validateMethod[func() uint64](k, "MaxID"); err != nil {
			return err
		}
	}
	if _, ok := k.(RequestIdentifier); !ok {
		if err := validateMethod[func([]byte) (uint64, bool)](k, "RequestID"); err != nil {
			return err
		}
	}
	if k, ok := k.(interface{ validate() error }); ok {
		return k.validate()
	}
	return nil
}

// validateMethod checks that k has no method of that name, which would not be a Want, or not k's but
// that of a pointer to k.
func validateMethod[Want any](k Correlator, name string) error {
	if m := reflect.ValueOf(k).MethodByName(name); m.IsValid() {
		return fmt.Errorf("%T.%s is a %v: want %v", k, name, m.Type(), reflect.TypeFor[Want]())
	}
	if _, ok := reflect.PointerTo(reflect.TypeOf(k)).MethodByName(name); ok {
		return fmt.Errorf("%T has no method %s, but *%T has: give a pointer", k, name, k)
	}
	return nil
}

// IDPrefix is a Correlator with the id in 8 bytes, big-endian, in front of the message. Call adds it to the
// request and takes it off the reply. For another width see [IDField].
//
//	+--- 8 bytes ---+---------------+
//	|      id       |    message    |
//	+---------------+---------------+
type IDPrefix struct{}

// AppendRequest appends id and request.
func (IDPrefix) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint64(dst, id), request...), nil
}

// SplitReply returns the id and the bytes after it. A message of less than 8 bytes is no
// reply.
func (IDPrefix) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if len(msg) < 8 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(msg), msg[8:], true
}

// IDField is a Correlator for protocols with an id field inside the message: the
// sequence_number of SMPP (both offsets 12, Width 4, Max 0x7fffffff, in a message with its header), the
// correlation id of Kafka (Offset 4, ReplyOffset 0, Width 4), the transaction id of Modbus
// and of DNS (both offsets 0, Width 2).
//
// The request has to leave room for the field: Call overwrites what is there. With an id of 4 bytes
// in front of the message that is
//
//	reply, err := client.Call(ctx, append(make([]byte, 4), message...)) // IDField{Width: 4}
//
// The reply is the whole message, with the id in it: reply[4:] is what follows. Both offsets are
// literal: 0 is the first byte.
//
// Every message that is long enough for the field counts as a reply. If the server numbers
// requests of its own in the same field, as SMPP does with deliver_sm, wrap the IDField in
// a Correlator that looks at the kind of the message first.
type IDField struct {
	Offset       int  // of the field in a request, in bytes
	Width        int  // of the field in bytes, 1 to 8
	LittleEndian bool // the least significant byte comes first
	ReplyOffset  int  // of the field in a reply, in bytes

	// Max is the largest id that the protocol allows, as SMPP and ZooKeeper do 0x7fffffff.
	// 0: what the field holds.
	Max uint64
}

// MaxID returns Max, or the largest id that the field can hold.
func (f IDField) MaxID() uint64 {
	if f.Max > 0 {
		return f.Max
	}
	return f.capacity()
}

// capacity returns the largest id that the field can hold.
func (f IDField) capacity() uint64 { return 1<<(8*min(max(f.Width, 1), 8)) - 1 }

func (f IDField) validate() error {
	switch {
	case f.Width < 1 || f.Width > 8:
		return fmt.Errorf("IDField.Width %d: want 1 to 8", f.Width)
	case f.Offset < 0:
		return fmt.Errorf("IDField.Offset %d is negative", f.Offset)
	case f.ReplyOffset < 0:
		return fmt.Errorf("IDField.ReplyOffset %d is negative", f.ReplyOffset)
	case f.Max > f.capacity():
		return fmt.Errorf("IDField.Max %d does not fit Width %d", f.Max, f.Width)
	}
	return nil
}

// AppendRequest appends request with id in its field. It refuses a request that is too
// short for the field with ErrInvalidFrame.
func (f IDField) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, err
	}
	if len(request)-f.Width < f.Offset {
		return dst, fmt.Errorf("%w: a request of %d bytes has no room for an id of %d bytes at offset %d",
			ErrInvalidFrame, len(request), f.Width, f.Offset)
	}
	if id > f.MaxID() {
		return dst, fmt.Errorf("%w: id %d is above MaxID %d", ErrInvalidFrame, id, f.MaxID())
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

// SplitReply returns the id in the field, and msg. A message that is too short for the
// field is no reply.
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
