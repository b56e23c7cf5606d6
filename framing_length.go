package tcpclient

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
)

// A LengthPrefix puts the length of the message in front of it. The zero value has a
// length field of four bytes, big-endian, that counts the bytes after it:
//
//	00 00 00 05  h e l l o
//	└─ length ─┘ └ message ┘
//
// The settings cover most binary protocols with a length in their header. DNS over TCP
// (RFC 1035) is LengthPrefix{Width: 2}; Kafka is the zero value. SMPP has a header of 16
// bytes, which begins with the length of header and body:
//
//	00 00 00 10  00 00 00 15  00 00 00 00  00 00 00 01   enquire_link
//	└─ length ─┘ └─────── 12 bytes follow ──────────┘
//
//	LengthPrefix{Adjust: -4, KeepHeader: true}
//
// PostgreSQL has a type in front of a length that counts itself:
//
//	Z  00 00 00 05  I                                    ReadyForQuery
//	   └─ length ─┘
//
//	LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true}
//
// As soon as the header has arrived, a length above MaxSize is refused with a
// [*FrameTooLargeError], and one smaller than the header bytes that it counts with
// [ErrInvalidFrame]. A message may be empty.
type LengthPrefix struct {
	// Width is the size of the length field in bytes, 1 to 8. 0: 4.
	Width int

	// LittleEndian puts the least significant byte of the field first.
	LittleEndian bool

	// Offset is the number of header bytes in front of the field, at most 65535.
	// Without KeepHeader, ReadFrame skips them and WriteFrame, which cannot know them,
	// refuses every message.
	Offset int

	// Adjust is the number of bytes after the field, minus the field's value. It is
	// negative where the value also counts bytes of the header: minus Width where it counts itself.
	Adjust int

	// KeepHeader makes the header, Offset+Width bytes, part of the message. WriteFrame
	// then refuses a message without a header, and fills in the length field whatever the
	// message has there.
	KeepHeader bool

	// MaxSize is the size of the largest message in bytes, a kept header included.
	// 0: 4 MiB.
	MaxSize int
}

// frameHeader is the size of the header of the default framing, LengthPrefix{}.
const frameHeader = 4

// frameSize returns the message size that a header of the default framing announces.
func frameSize(header []byte) uint64 { return uint64(binary.BigEndian.Uint32(header)) }

// appendFrameHeader appends the header of the default framing for a message of size
// bytes, which must fit 32 bits.
func appendFrameHeader(dst []byte, size int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(size))
}

// maxOffset is the largest LengthPrefix.Offset.
const maxOffset = 1<<16 - 1

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f LengthPrefix) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if !f.isDefault() {
		return f.readFrame(r, dst)
	}
	p, err := r.Peek(max(frameHeader, r.Buffered())) // the message too, if it has arrived
	if err != nil {
		return dst, readError(err, len(p))
	}
	size, limit := frameSize(p), sizeLimit(f.MaxSize, defaultMaxSize)
	if size > limit {
		return dst, tooLarge(r, size, limit)
	}
	if end := frameHeader + size; end <= uint64(len(p)) {
		dst = append(dst, p[frameHeader:end]...)
		r.Discard(int(end))
		return dst, nil
	}
	r.Discard(frameHeader)
	return appendBody(r, dst, int(size))
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f LengthPrefix) WriteFrame(w *bufio.Writer, msg []byte) error {
	if !f.isDefault() || len(msg) > maxJoined || frameHeader+len(msg) > w.Available() {
		return f.writeFrame(w, msg)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	b := appendFrameHeader(w.AvailableBuffer(), len(msg))
	_, err := w.Write(append(b, msg...))
	return err
}

// isDefault reports whether f frames as LengthPrefix{} does. MaxSize may differ.
func (f LengthPrefix) isDefault() bool {
	return (f.Width == 0 || f.Width == 4) && f.Offset == 0 && f.Adjust == 0 &&
		!f.LittleEndian && !f.KeepHeader && f.MaxSize >= 0
}

// readFrame is ReadFrame for all settings.
func (f LengthPrefix) readFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	header := f.headerSize()
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

// readLongHeader is readFrame for a header that does not fit the buffer of r. It reads
// the header into the memory of the message.
func (f LengthPrefix) readLongHeader(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg, err := appendN(r, dst, f.headerSize())
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

// sizes returns what a header announces: the number of bytes after it, and the size of
// the message. A sum that overflows is math.MaxUint64, which is above every limit.
func (f LengthPrefix) sizes(header []byte) (body, size uint64, err error) {
	body = f.fieldValue(header[f.Offset:])
	if f.Adjust < 0 {
		counted := uint64(-int64(f.Adjust)) // also right for math.MinInt
		if body < counted {
			return 0, 0, fmt.Errorf("%w: length %d, below the %d bytes of header that it counts", ErrInvalidFrame, body, counted)
		}
		body -= counted
	} else {
		body = addUint64(body, uint64(f.Adjust))
	}
	if f.KeepHeader {
		return body, addUint64(body, uint64(len(header))), nil
	}
	return body, body, nil
}

// fieldValue decodes field, the bytes of the length field.
func (f LengthPrefix) fieldValue(field []byte) (value uint64) {
	if f.LittleEndian {
		for i, c := range field {
			value |= uint64(c) << (8 * i)
		}
		return value
	}
	for _, c := range field {
		value = value<<8 | uint64(c)
	}
	return value
}

// writeFrame is WriteFrame for all settings and sizes.
func (f LengthPrefix) writeFrame(w *bufio.Writer, msg []byte) error {
	value, err := f.valueFor(len(msg))
	if err != nil {
		return err
	}
	before, after := f.split(msg)
	if len(msg) <= min(maxJoined, w.Available()-8) {
		b := append(w.AvailableBuffer(), before...)
		b = appendField(b, value, f.width(), f.LittleEndian)
		_, err := w.Write(append(b, after...))
		return err
	}
	if _, err := w.Write(before); err != nil {
		return err
	}
	var short [8]byte
	return writeFrame(w, appendField(short[:0], value, f.width(), f.LittleEndian), after, "")
}

// appendHeader implements headed.
func (f LengthPrefix) appendHeader(dst, msg []byte) (header, rest []byte, err error) {
	value, err := f.valueFor(len(msg))
	if err != nil {
		return dst, nil, err
	}
	before, after := f.split(msg)
	return appendField(append(dst, before...), value, f.width(), f.LittleEndian), after, nil
}

// split returns what of msg is before the length field, and what is after it.
func (f LengthPrefix) split(msg []byte) (before, after []byte) {
	if !f.KeepHeader {
		return nil, msg
	}
	return msg[:f.Offset], msg[f.headerSize():]
}

// valueFor returns the value of the length field of a message of size bytes, unless that cannot be
// written.
func (f LengthPrefix) valueFor(size int) (uint64, error) {
	if err := f.validate(); err != nil {
		return 0, badSettings(err)
	}
	if f.Offset > 0 && !f.KeepHeader {
		return 0, fmt.Errorf("%w: LengthPrefix.Offset %d without KeepHeader can only be read", ErrInvalidFrame, f.Offset)
	}
	value := uint64(size)
	if f.KeepHeader {
		if size < f.headerSize() {
			return 0, fmt.Errorf("%w: message of %d bytes, shorter than its header of %d", ErrInvalidFrame, size, f.headerSize())
		}
		value -= uint64(f.headerSize())
	}
	if f.Adjust > 0 && value < uint64(f.Adjust) {
		return 0, fmt.Errorf("%w: %d bytes after the length field, fewer than LengthPrefix.Adjust %d", ErrInvalidFrame, value, f.Adjust)
	}
	value -= uint64(f.Adjust) // modulo 2^64, so also right for a negative Adjust
	if value > maxValue(f.width()) || uint64(size) > sizeLimit(f.MaxSize, defaultMaxSize) {
		return 0, &FrameTooLargeError{Size: uint64(size), Max: int(f.largest())}
	}
	return value, nil
}

// appendField appends the length field of that value to dst.
func appendField(dst []byte, value uint64, width int, littleEndian bool) []byte {
	end := len(dst) + width
	if littleEndian {
		return binary.LittleEndian.AppendUint64(dst, value)[:end]
	}
	return binary.BigEndian.AppendUint64(dst, value<<(64-8*width))[:end]
}

// largest returns the size of the largest message that can be written: MaxSize, or less
// if the field is too narrow for that.
func (f LengthPrefix) largest() uint64 {
	n := maxValue(f.width())
	if f.Adjust < 0 {
		n -= uint64(-int64(f.Adjust)) // no underflow: validate refuses such an Adjust
	} else {
		n = addUint64(n, uint64(f.Adjust))
	}
	if f.KeepHeader {
		n = addUint64(n, uint64(f.headerSize()))
	}
	return min(n, sizeLimit(f.MaxSize, defaultMaxSize))
}

func (f LengthPrefix) width() int {
	if f.Width == 0 {
		return 4
	}
	return f.Width
}

// headerSize returns the number of bytes up to the end of the field.
func (f LengthPrefix) headerSize() int { return f.Offset + f.width() }

// maxValue returns the largest value of a field of width bytes.
func maxValue(width int) uint64 { return math.MaxUint64 >> (64 - 8*width) }

// validate refuses settings that no frame could satisfy.
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
		header := uint64(f.headerSize())
		if limit < header {
			return fmt.Errorf("LengthPrefix.MaxSize %d: want at least the header of %d bytes, which is kept", f.MaxSize, header)
		}
		limit -= header
	}
	if f.Adjust > 0 && uint64(f.Adjust) > limit {
		return fmt.Errorf("LengthPrefix.Adjust %d: want at most %d, or no message is within MaxSize", f.Adjust, limit)
	}
	if f.Adjust < 0 && uint64(-int64(f.Adjust)) > maxValue(f.width()) {
		return fmt.Errorf("LengthPrefix.Adjust %d: want at least -%d, the largest length in %d bytes", f.Adjust, maxValue(f.width()), f.width())
	}
	return nil
}

// addUint64 returns a+b, or math.MaxUint64 if that overflows.
func addUint64(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// A Varint puts the length in front of the message as an unsigned varint: seven bits in
// each byte, the lowest first. Protocol Buffers call this "delimited"; libp2p uses it too.
//
//	ac 02     300 bytes
//	└ 300 ┘   └ message ┘
//
// A length of however many bits is a [*FrameTooLargeError] at the first byte that makes it
// exceed MaxSize. A padded length, such as 83 00 for 3, is accepted, as in Protocol Buffers,
// up to ten bytes; one of more is [ErrInvalidFrame]. A message may be empty.
type Varint struct {
	MaxSize int // of a message in bytes; 0: 4 MiB
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
		limit := sizeLimit(f.MaxSize, defaultMaxSize)
		size, n := binary.Uvarint(p)
		if n > 0 && size <= limit {
			r.Discard(n)
			return appendBody(r, dst, int(size))
		}
		if least, overflow := leastVarint(p); overflow || least > limit {
			return dst, tooLarge(r, least, limit)
		}
		if need = len(p); need == binary.MaxVarintLen64 {
			return dst, f.readPadding(r, limit)
		}
	}
}

// leastVarint returns what p, the first bytes of a varint, at most ten, say of its value, if
// the rest is zeros; 0 if that has more than 64 bits.
func leastVarint(p []byte) (least uint64, overflow bool) {
	for i, c := range p {
		bits := uint64(c & 0x7f)
		if i == binary.MaxVarintLen64-1 && bits > 1 {
			return 0, true
		}
		if least |= bits << (7 * i); c < 0x80 {
			break
		}
	}
	return least, false
}

// readPadding returns why a length is refused whose first ten bytes neither end it nor exceed
// limit.
func (f Varint) readPadding(r *bufio.Reader, limit uint64) error {
	header := firstBytes(r, nil)
	r.Discard(binary.MaxVarintLen64)
	for range maxHeader {
		c, err := r.ReadByte()
		switch {
		case err != nil:
			return readError(err, 1)
		case c&0x7f != 0:
			return &FrameTooLargeError{Max: int(limit), Header: header}
		case c == 0:
			return invalidFrame(header, "padded length of more than %d bytes", binary.MaxVarintLen64)
		}
	}
	return invalidFrame(header, "length of more than %d bytes", maxHeader)
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f Varint) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.check(msg); err != nil {
		return err
	}
	var header [binary.MaxVarintLen64]byte
	return writeFrame(w, header[:binary.PutUvarint(header[:], uint64(len(msg)))], msg, "")
}

// appendHeader implements headed.
func (f Varint) appendHeader(dst, msg []byte) (header, rest []byte, err error) {
	return binary.AppendUvarint(dst, uint64(len(msg))), msg, f.check(msg)
}

// check returns why msg cannot be written.
func (f Varint) check(msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	return nil
}

func (f Varint) validate() error { return checkMaxSize("Varint", f.MaxSize) }

// Fixed cuts the stream into messages of the same size, with nothing between them:
// records, samples, cells.
type Fixed struct {
	Size int // of every message in bytes, at least 1
}

// ReadFrame reads one message from r and appends it to dst, which it borrows until it
// returns.
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

// WriteFrame writes msg to w as it is, without flushing. It refuses a msg of another
// size. It borrows msg until it returns.
func (f Fixed) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.check(msg); err != nil {
		return err
	}
	_, err := w.Write(msg)
	return err
}

// appendHeader implements headed.
func (f Fixed) appendHeader(dst, msg []byte) (header, rest []byte, err error) {
	return dst, msg, f.check(msg)
}

// check returns why msg cannot be written.
func (f Fixed) check(msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	switch {
	case len(msg) > f.Size:
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: f.Size}
	case len(msg) < f.Size:
		return fmt.Errorf("%w: message of %d bytes, want %d", ErrInvalidFrame, len(msg), f.Size)
	}
	return nil
}

func (f Fixed) validate() error {
	if f.Size < 1 {
		return fmt.Errorf("Fixed.Size %d: want 1 or more", f.Size)
	}
	return nil
}
