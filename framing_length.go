package tcpclient

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
)

// A LengthPrefix puts the length of the message in front of it. The zero value has a
// field of four bytes, big-endian, that counts what follows it:
//
//	00 00 00 05  h e l l o
//	└─ length ─┘ └ message ┘
//
// The other settings cover most binary protocols with a length in their header. A DNS
// query over TCP (RFC 1035) is LengthPrefix{Width: 2}, a Kafka request the zero value.
// SMPP has a header of 16 bytes which begins with the length of all:
//
//	00 00 00 10  00 00 00 15  00 00 00 00  00 00 00 01   enquire_link
//	└─ length ─┘ └─────── 12 bytes follow ──────────┘
//
//	LengthPrefix{Adjust: -4, KeepHeader: true}
//
// and PostgreSQL a type in front of a length that counts itself:
//
//	Z  00 00 00 05  I                                    ReadyForQuery
//	   └─ length ─┘
//
//	LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true}
//
// An announced length above MaxSize is refused as soon as the header is there. So is
// one below its own header, with [ErrInvalidFrame]. An empty message is a message.
type LengthPrefix struct {
	// Width is the size of the length field in bytes, 1 to 8. 0: 4.
	Width int

	// LittleEndian puts the least significant byte of the field first.
	LittleEndian bool

	// Offset is the number of header bytes in front of the field, at most 65535.
	// Without KeepHeader they are skipped, and WriteFrame refuses every message: it does
	// not know them.
	Offset int

	// Adjust is the number of bytes that follow the field, minus the field's value. It
	// is negative where the value counts bytes of the header too.
	Adjust int

	// KeepHeader makes the header, Offset+Width bytes, part of the message. WriteFrame
	// then wants a message that begins with a header. It writes the field itself,
	// whatever the message has in its place.
	KeepHeader bool

	// MaxSize is the size of the largest message as delivered: a kept header counts.
	// 0: 4 MiB.
	MaxSize int
}

// maxOffset is the largest LengthPrefix.Offset. A header that does not fit the read
// buffer is read into the memory of the message.
const maxOffset = 1<<16 - 1

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f LengthPrefix) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if !f.isPlain() {
		return f.readFrame(r, dst)
	}
	p, err := r.Peek(max(4, r.Buffered())) // all that is there, for one call
	if err != nil {
		return dst, readError(err, len(p))
	}
	size, limit := uint64(binary.BigEndian.Uint32(p)), sizeLimit(f.MaxSize, defaultMaxSize)
	if size > limit {
		return dst, tooLarge(r, size, limit)
	}
	if end := 4 + size; end <= uint64(len(p)) {
		dst = append(dst, p[4:end]...)
		r.Discard(int(end))
		return dst, nil
	}
	r.Discard(4)
	return appendBody(r, dst, int(size))
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f LengthPrefix) WriteFrame(w *bufio.Writer, msg []byte) error {
	if !f.isPlain() || len(msg) > maxJoined || 4+len(msg) > w.Available() {
		return f.writeFrame(w, msg)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	b := binary.BigEndian.AppendUint32(w.AvailableBuffer(), uint32(len(msg)))
	_, err := w.Write(append(b, msg...))
	return err
}

// isPlain reports whether f is LengthPrefix{} but for MaxSize: the short way.
func (f LengthPrefix) isPlain() bool {
	return (f.Width == 0 || f.Width == 4) && f.Offset == 0 && f.Adjust == 0 &&
		!f.LittleEndian && !f.KeepHeader && f.MaxSize >= 0
}

// readFrame is ReadFrame for all settings.
func (f LengthPrefix) readFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	header := f.header()
	if header > r.Size() {
		return f.readLongHeader(r, dst)
	}
	p, err := r.Peek(header)
	if err != nil {
		return dst, readError(err, len(p))
	}
	body, size, err := f.sizes(p)
	if err != nil {
		return dst, err
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); size > limit {
		return dst, tooLarge(r, size, limit)
	}
	if !f.KeepHeader {
		r.Discard(header)
		return appendBody(r, dst, int(body))
	}
	return appendBody(r, dst, int(size))
}

// readLongHeader is readFrame for a header that does not fit the buffer of r.
func (f LengthPrefix) readLongHeader(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg, err := appendN(r, dst, f.header())
	p := msg[len(dst):]
	if err != nil {
		return dst, readError(err, len(p))
	}
	body, size, err := f.sizes(p)
	if err != nil {
		return dst, err
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); size > limit {
		return dst, &FrameTooLargeError{Size: size, Max: int(limit), Header: firstBytes(r, p)}
	}
	if !f.KeepHeader {
		msg = msg[:len(dst)]
	}
	if msg, err = appendBody(r, msg, int(body)); err != nil {
		return dst, err
	}
	return msg, nil
}

// sizes returns what a header announces: the bytes that follow it, and the size of the
// message. What overflows is the largest number instead, and above every limit.
func (f LengthPrefix) sizes(header []byte) (body, size uint64, err error) {
	body = f.field(header[f.Offset:])
	if f.Adjust < 0 {
		counted := uint64(-int64(f.Adjust)) // right for the lowest int, too
		if body < counted {
			return 0, 0, fmt.Errorf("%w: length %d, below the %d bytes of header that it counts", ErrInvalidFrame, body, counted)
		}
		body -= counted
	} else {
		body = addUint64(body, uint64(f.Adjust))
	}
	if f.KeepHeader {
		return body, addUint64(body, uint64(f.header())), nil
	}
	return body, body, nil
}

// field returns the length in p, which is the field and nothing else.
func (f LengthPrefix) field(p []byte) uint64 {
	var b [8]byte
	if f.LittleEndian {
		copy(b[:], p)
		return binary.LittleEndian.Uint64(b[:])
	}
	copy(b[8-len(p):], p)
	return binary.BigEndian.Uint64(b[:])
}

// writeFrame is WriteFrame for all settings and sizes.
func (f LengthPrefix) writeFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if f.Offset > 0 && !f.KeepHeader {
		return fmt.Errorf("%w: LengthPrefix.Offset %d without KeepHeader can only be read", ErrInvalidFrame, f.Offset)
	}
	if largest := f.largest(); uint64(len(msg)) > largest {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(largest)}
	}
	value := uint64(len(msg))
	if f.KeepHeader {
		if len(msg) < f.header() {
			return fmt.Errorf("%w: message of %d bytes, shorter than its header of %d", ErrInvalidFrame, len(msg), f.header())
		}
		value -= uint64(f.header())
	}
	if f.Adjust > 0 && value < uint64(f.Adjust) {
		return fmt.Errorf("%w: %d bytes after the length field, fewer than LengthPrefix.Adjust %d", ErrInvalidFrame, value, f.Adjust)
	}
	value -= uint64(f.Adjust) // modulo 2^64, also for a negative one

	var b [8]byte
	field := b[:f.width()]
	if f.LittleEndian {
		binary.LittleEndian.PutUint64(b[:], value)
	} else {
		binary.BigEndian.PutUint64(b[:], value)
		field = b[8-f.width():]
	}
	if !f.KeepHeader {
		return writeFrame(w, field, msg, "")
	}
	if len(msg) <= min(maxJoined, w.Available()) {
		b := append(w.AvailableBuffer(), msg...)
		copy(b[f.Offset:], field)
		_, err := w.Write(b)
		return err
	}
	if _, err := w.Write(msg[:f.Offset]); err != nil {
		return err
	}
	return writeFrame(w, field, msg[f.header():], "")
}

// largest returns the size of the largest message that can be written: that of MaxSize,
// or what the field can express.
func (f LengthPrefix) largest() uint64 {
	n := f.maxValue()
	if f.Adjust < 0 {
		n -= uint64(-int64(f.Adjust)) // validate has seen to it that this is possible
	} else {
		n = addUint64(n, uint64(f.Adjust))
	}
	if f.KeepHeader {
		n = addUint64(n, uint64(f.header()))
	}
	return min(n, sizeLimit(f.MaxSize, defaultMaxSize))
}

func (f LengthPrefix) width() int {
	if f.Width == 0 {
		return 4
	}
	return f.Width
}

// header returns the number of bytes up to the end of the field.
func (f LengthPrefix) header() int { return f.Offset + f.width() }

// maxValue returns the largest value of the field.
func (f LengthPrefix) maxValue() uint64 { return math.MaxUint64 >> (64 - 8*f.width()) }

// validate refuses settings with which no frame could ever be read.
func (f LengthPrefix) validate() error {
	if f.Width < 0 || f.Width > 8 {
		return fmt.Errorf("LengthPrefix.Width %d: want 1 to 8", f.Width)
	}
	if f.Offset < 0 || f.Offset > maxOffset {
		return fmt.Errorf("LengthPrefix.Offset %d: want 0 to %d", f.Offset, maxOffset)
	}
	if err := checkMaxSize("LengthPrefix", f.MaxSize); err != nil {
		return err
	}
	limit := sizeLimit(f.MaxSize, defaultMaxSize)
	if f.KeepHeader {
		header := uint64(f.header())
		if limit < header {
			return fmt.Errorf("LengthPrefix.MaxSize %d: want at least the header of %d bytes, which is kept", f.MaxSize, header)
		}
		limit -= header
	}
	if f.Adjust > 0 && uint64(f.Adjust) > limit {
		return fmt.Errorf("LengthPrefix.Adjust %d: want at most %d, or no message is within MaxSize", f.Adjust, limit)
	}
	if f.Adjust < 0 && uint64(-int64(f.Adjust)) > f.maxValue() {
		return fmt.Errorf("LengthPrefix.Adjust %d: want at least -%d, the largest length in %d bytes", f.Adjust, f.maxValue(), f.width())
	}
	return nil
}

// addUint64 returns a+b, or the largest number if that overflows.
func addUint64(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// A Varint puts the length in front of the message as an unsigned varint, seven bits to
// the byte, the lowest first: what Protocol Buffers call "delimited" messages, and
// libp2p.
//
//	ac 02     300 bytes
//	└ 300 ┘   └ message ┘
//
// A length of more than ten bytes or 64 bits is [ErrInvalidFrame]. One with padding, such
// as 83 00 for 3, is accepted, as Protocol Buffers do. An empty message is a message.
type Varint struct {
	MaxSize int // of a message; 0: 4 MiB
}

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f Varint) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	for need := 1; ; need++ {
		p, err := r.Peek(max(need, min(r.Buffered(), binary.MaxVarintLen64)))
		if err != nil {
			return dst, readError(err, len(p))
		}
		size, n := binary.Uvarint(p)
		switch limit := sizeLimit(f.MaxSize, defaultMaxSize); {
		case n == 0 && len(p) < binary.MaxVarintLen64:
			need = len(p)
			continue
		case n <= 0:
			return dst, invalidFrame(firstBytes(r, nil), "length of more than 64 bits")
		case size > limit:
			return dst, tooLarge(r, size, limit)
		default:
			r.Discard(n)
			return appendBody(r, dst, int(size))
		}
	}
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f Varint) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	var b [binary.MaxVarintLen64]byte
	return writeFrame(w, b[:binary.PutUvarint(b[:], uint64(len(msg)))], msg, "")
}

func (f Varint) validate() error { return checkMaxSize("Varint", f.MaxSize) }

// Fixed cuts the stream into messages of the same size, with nothing between them:
// records, samples, cells.
type Fixed struct {
	Size int // of every message, at least 1
}

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f Fixed) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	if f.Size <= r.Buffered() {
		return appendBody(r, dst, f.Size)
	}
	msg, err := appendN(r, dst, f.Size)
	if err != nil {
		return dst, readError(err, len(msg)-len(dst))
	}
	return msg, nil
}

// WriteFrame writes msg to w as it is, without flushing, and refuses it if it has
// another size. It borrows msg until it returns.
func (f Fixed) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	switch {
	case len(msg) > f.Size:
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: f.Size}
	case len(msg) < f.Size:
		return fmt.Errorf("%w: message of %d bytes, want %d", ErrInvalidFrame, len(msg), f.Size)
	}
	_, err := w.Write(msg)
	return err
}

func (f Fixed) validate() error {
	if f.Size < 1 {
		return fmt.Errorf("Fixed.Size %d: want 1 or more", f.Size)
	}
	return nil
}
