package tcpclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
)

// A Framer marks where a message begins and ends in a stream. It is stateless: one
// value serves any number of connections, and its methods may be called concurrently.
//
// [LengthPrefix], [Varint], [Fixed], [Delimiter], [Lines], [Decimal] and
// [ContentLength] cover most protocols. [Sized] takes a function for messages that tell
// their size in another way, and any type with these two methods will do. The Framers of
// this package keep these rules:
//
//   - ReadFrame returns the messages that WriteFrame accepted, however the stream is cut
//     into reads.
//   - A message above MaxSize is a [*FrameTooLargeError], on reading and on writing.
//     Bytes or messages that cannot be a frame are [ErrInvalidFrame].
//   - Memory follows the bytes that have arrived, never an announced length.
//   - When ReadFrame fails, it returns dst unchanged.
//
// After an error of ReadFrame the stream is finished: the start of the next frame is
// unknown.
//
// A keep-alive that a peer sends between frames is a message of its own: ReadFrame returns it, and
// [Heartbeat].IsPong swallows it. If ReadFrame skips it and goes on reading, [Dialer].FrameTimeout
// counts from there.
type Framer interface {
	// ReadFrame reads one frame from r and appends its message to dst. It blocks until
	// the frame is complete or r fails. It returns io.EOF if the stream ends between
	// frames, io.ErrUnexpectedEOF if it ends inside one. It must not keep dst, nor what
	// r.Peek has returned: other connections use that memory later.
	ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error)

	// WriteFrame writes msg to w as one frame, without flushing. If it refuses msg, it
	// has written nothing. It borrows msg until it returns. It runs under the Client's
	// write lock and must not call the Client.
	WriteFrame(w *bufio.Writer, msg []byte) error
}

// asBuiltin returns f if it is a Framer of this package, or a pointer to one, with its
// settings to check. A type that embeds one is not: its methods are its own.
func asBuiltin(f Framer) (settings interface{ validate() error }, ok bool) {
	switch f := f.(type) {
	case LengthPrefix, Varint, Fixed, Delimiter, Lines, Decimal, ContentLength, Sized,
		*LengthPrefix, *Varint, *Fixed, *Delimiter, *Lines, *Decimal, *ContentLength, *Sized:
		settings, ok = f.(interface{ validate() error })
	}
	return settings, ok
}

// Sized is for messages that tell their size by their own first bytes, in a way that takes a
// function to read: those of MQTT, BER (LDAP, SNMP), FIX, RESP (Redis), WebSocket, NATS, and
// the replies of SMTP and FTP. The message is the whole frame: reading takes nothing away,
// and writing adds nothing.
//
//	30 07  00 03 a/b  h i      PUBLISH of MQTT, 9 bytes: a type, the size of the rest, the rest
//	+ O K \r \n                +OK of Redis, 5 bytes
//
// As soon as the size is known, one above MaxSize is refused with a [*FrameTooLargeError]. So
// are MaxSize bytes that are not enough to tell it.
type Sized struct {
	// Size returns the size in bytes of the message that p begins, or 0 if that takes more
	// bytes than p has. If p begins no message, it returns an error: that ends the
	// connection with an error that Is [ErrInvalidFrame] and Is the error of Size. For a
	// size that an int does not hold it returns [math.MaxInt]. Size must be set.
	//
	// p begins with the first byte of the message. It has one byte or more, may go on with
	// later messages, and ends after MaxSize bytes. Size borrows p until it returns, and
	// must not change it. After 0 it is called again, with the same bytes and at least one
	// more, whenever more have arrived. A Size that searches p for the end of the message
	// therefore begins anew with each read; MaxSize bounds what that costs.
	//
	// Size must not need bytes that follow the message, since these may never come: a size
	// that is not above the number of bytes for which it returned 0 is [ErrInvalidFrame].
	//
	// Size depends on p alone. It may be called concurrently, on the Client's reading
	// goroutine and under its write lock, and must not block or call the Client.
	Size func(p []byte) (size int, err error)

	// MaxSize is the size of the largest message in bytes. 0: 4 MiB.
	MaxSize int
}

// ReadFrame reads one message from r and appends it to dst, which it borrows until it
// returns.
func (f Sized) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	limit := sizeLimit(f.MaxSize, defaultMaxSize)
	start, few := len(dst), 0 // few bytes, in msg and not in r, do not tell the size
	for msg := dst; ; {
		if _, err := r.Peek(1); err != nil {
			return dst, readError(err, few)
		}
		p, _ := r.Peek(int(min(uint64(r.Buffered()), limit-uint64(few))))
		begun := p
		if few > 0 { // Size wants one piece
			msg = appendBounded(msg, p, start, limit)
			begun = msg[start:]
		}
		size, err := f.sizeOf(begun, few, limit)
		switch {
		case err != nil:
			return dst, err
		case size > 0 && few == 0:
			return appendBody(r, dst, size)
		case size > 0 && size <= len(begun):
			r.Discard(size - few)
			return msg[:start+size], nil
		case few == 0:
			msg = appendBounded(msg, p, start, limit)
		}
		r.Discard(len(p))
		few += len(p)
		if size == 0 {
			continue
		}
		if msg, err = appendBody(r, msg, size-few); err != nil {
			return dst, err
		}
		return msg, nil
	}
}

// sizeOf returns the Size of the message that begins with p, or 0 if it takes more bytes to
// tell. The first few bytes of p were not enough.
func (f Sized) sizeOf(p []byte, few int, limit uint64) (int, error) {
	size, err := f.Size(p)
	header := p[:min(len(p), maxHint)]
	switch {
	case err != nil:
		return 0, invalidFrame(header, "%w", err)
	case size < 0:
		return 0, invalidFrame(header, "Sized.Size returned %d", size)
	case size > 0 && size <= few:
		return 0, invalidFrame(header, "Sized.Size returned %d, after %d bytes were not enough to tell", size, few)
	case size == math.MaxInt || uint64(size) > limit || size == 0 && uint64(len(p)) == limit:
		return 0, &FrameTooLargeError{Size: uint64(size), Max: int(limit), Header: bytes.Clone(header)}
	}
	return size, nil
}

// WriteFrame writes msg to w as it is, without flushing. It refuses, with [ErrInvalidFrame],
// a msg of which Size does not return the length. It borrows msg until it returns.
func (f Sized) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.check(msg); err != nil {
		return err
	}
	_, err := w.Write(msg)
	return err
}

// appendHeader implements headed.
func (f Sized) appendHeader(dst, msg []byte) (header, rest []byte, err error) {
	return dst, msg, f.check(msg)
}

// check returns why msg cannot be written.
func (f Sized) check(msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	if len(msg) == 0 {
		return fmt.Errorf("%w: an empty message has no size", ErrInvalidFrame)
	}
	size, err := f.Size(msg)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrInvalidFrame, err)
	case size != len(msg):
		return fmt.Errorf("%w: message of %d bytes, of which Sized.Size says %d", ErrInvalidFrame, len(msg), size)
	}
	return nil
}

func (f Sized) validate() error {
	if f.Size == nil {
		return fmt.Errorf("Sized.Size is not set")
	}
	return checkMaxSize("Sized", f.MaxSize)
}

const (
	// defaultMaxSize is the default MaxSize of frames that announce their length.
	defaultMaxSize = 4 << 20

	// defaultMaxLine is the default MaxSize of frames that end with a delimiter.
	defaultMaxLine = 64 << 10

	// minStep is the memory that a message gets before its bytes have arrived.
	minStep = 4 << 10

	// maxJoined is the size of the largest message that is copied next to its header, so
	// that one Write takes both. [bufio.Writer.Write] copies it once more; above this
	// size that costs more than a second Write.
	maxJoined = 1 << 10

	// maxEmptyReads is how many reads without a byte or an error make an error.
	maxEmptyReads = 100

	// maxHint is the number of bytes of a refused frame that its error carries.
	maxHint = 16
)

// sizeLimit resolves a MaxSize. The result is a uint64, like the announced lengths that
// are compared with it: they need not fit an int.
func sizeLimit(maxSize, def int) uint64 {
	if maxSize == 0 {
		return uint64(def)
	}
	return uint64(maxSize)
}

// checkMaxSize refuses a negative MaxSize.
func checkMaxSize(framer string, maxSize int) error {
	if maxSize < 0 {
		return fmt.Errorf("%s.MaxSize %d: want 0 or more", framer, maxSize)
	}
	return nil
}

// badSettings makes an ErrInvalidFrame of an error of validate. Only those who use a
// Framer without a Client see it: Dial refuses such a Framer.
func badSettings(err error) error { return fmt.Errorf("%w: %w", ErrInvalidFrame, err) }

// readError returns what ReadFrame reports if err comes after n bytes of a frame.
func readError(err error, n int) error {
	if err == io.EOF && n > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// tooLarge refuses the frame that begins at the next byte of r.
func tooLarge(r *bufio.Reader, size, limit uint64) error {
	return &FrameTooLargeError{Size: size, Max: int(limit), Header: firstBytes(r, nil)}
}

// firstBytes returns a copy of the first bytes of a frame, at most maxHint. They are read,
// which was taken from r before, and what r has buffered.
func firstBytes(r *bufio.Reader, read []byte) []byte {
	read = read[:min(len(read), maxHint)]
	more, _ := r.Peek(min(maxHint-len(read), r.Buffered()))
	return append(bytes.Clone(read), more...)
}

// appendBody appends the next n bytes of r, the rest of a frame, to dst.
func appendBody(r *bufio.Reader, dst []byte, n int) ([]byte, error) {
	if n <= r.Buffered() {
		p, _ := r.Peek(n)
		dst = append(dst, p...)
		r.Discard(n)
		return dst, nil
	}
	msg, err := appendN(r, dst, n)
	if err != nil {
		return dst, readError(err, 1)
	}
	return msg, nil
}

// appendN appends the next n bytes of r to dst, or as many as come before an error. n may
// be a lie: at most minStep bytes, or as many as have arrived, are allocated ahead.
func appendN(r *bufio.Reader, dst []byte, n int) ([]byte, error) {
	start, emptyReads := len(dst), 0
	for n > 0 {
		if len(dst) == cap(dst) {
			arrived := len(dst) - start + r.Buffered()
			grown := make([]byte, len(dst)+min(n, max(arrived, minStep)))
			dst = grown[:copy(grown, dst)]
		}
		// If r's buffer is empty, this reads a large rest directly into dst.
		k, err := r.Read(dst[len(dst) : len(dst)+min(cap(dst)-len(dst), n)])
		dst, n = dst[:len(dst)+k], n-k
		switch {
		case n == 0:
		case err != nil:
			return dst, err
		case k > 0:
			emptyReads = 0
		default:
			if emptyReads++; emptyReads == maxEmptyReads {
				return dst, io.ErrNoProgress
			}
		}
	}
	return dst, nil
}

// A headed Framer has frames of a header, which may be empty, and the rest of the message as it is.
type headed interface {
	Framer

	// appendHeader appends the header of msg's frame to dst, and returns what of msg follows that.
	appendHeader(dst, msg []byte) (header, rest []byte, err error)
}

// asHeaded returns f as a headed Framer; nil: it is none. A user's type that has one inside frames as
// it likes.
func asHeaded(f Framer) headed {
	if _, ok := asBuiltin(f); !ok {
		return nil
	}
	h, _ := f.(headed)
	return h
}

// writeFrame writes header, msg and trailer. The header may be on the caller's stack.
func writeFrame(w *bufio.Writer, header, msg []byte, trailer string) error {
	if len(msg) <= maxJoined && len(header)+len(msg)+len(trailer) <= w.Available() {
		b := append(w.AvailableBuffer(), header...)
		b = append(b, msg...)
		if trailer != "" {
			b = append(b, trailer...)
		}
		_, err := w.Write(b)
		return err
	}
	if err := writeShort(w, header); err != nil {
		return err
	}
	if _, err := w.Write(msg); err != nil {
		return err
	}
	_, err := w.WriteString(trailer)
	return err
}

// writeShort writes the few bytes of p, which may be on the caller's stack.
// [bufio.Writer.Write] would make them escape to the heap.
func writeShort(w *bufio.Writer, p []byte) error {
	if len(p) <= w.Available() {
		_, err := w.Write(append(w.AvailableBuffer(), p...))
		return err
	}
	for _, c := range p {
		if err := w.WriteByte(c); err != nil {
			return err
		}
	}
	return nil
}

// protocolHint describes the first bytes of a refused frame: it quotes text, and names a
// protocol that it knows. It explains size too where that is text read as a length.
//
//	, starts with "HTTP/1.1 400 Bad", length 1213486160 = "HTTP": is this an HTTP server?
//	, starts with 15 03 03 00 02 02 28: a TLS alert, does the server want TLS?
func protocolHint(size uint64, header []byte) string {
	guess := protocolGuess(header)
	if !isText(header) {
		if guess == "" {
			return ""
		}
		return fmt.Sprintf(", starts with % x%s", header, guess)
	}
	hint := ", starts with " + strconv.Quote(string(header))
	if len(header) >= frameHeader && size == frameSize(header) {
		hint += fmt.Sprintf(", length %d = %q", size, header[:frameHeader])
		if guess == "" {
			guess = ": is this a text protocol?"
		}
	}
	return hint + guess
}

// protocolGuess names the protocol that begins with p, as the end of an error message, or
// returns "". It wants three bytes: two bytes of TLS are also a plausible length.
func protocolGuess(p []byte) string {
	for _, known := range []struct{ prefix, guess string }{
		{"HTTP/", ": is this an HTTP server?"},
		{"SSH-", ": is this an SSH server?"},
		{"\x15\x03", ": a TLS alert, does the server want TLS?"},
		{"\x16\x03", ": a TLS handshake, is this a TLS connection?"},
		{"<!DOCTYPE", ": is this an HTTP server?"},
		{"<html", ": is this an HTTP server?"},
	} {
		if len(p) >= 3 && bytes.HasPrefix(p, []byte(known.prefix)[:min(len(p), len(known.prefix))]) {
			return known.guess
		}
	}
	return ""
}

// isText reports whether p is printable ASCII, tabs and line ends, and not empty.
func isText(p []byte) bool {
	for _, c := range p {
		if (c < ' ' || c > '~') && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return len(p) > 0
}

// invalidFrame returns an ErrInvalidFrame that quotes header, the first bytes received.
func invalidFrame(header []byte, format string, args ...any) error {
	quoted := fmt.Sprintf("% x", header)
	if isText(header) {
		quoted = strconv.Quote(string(header))
	}
	return fmt.Errorf("%w: %w, starts with %s%s", ErrInvalidFrame, fmt.Errorf(format, args...), quoted, protocolGuess(header))
}
