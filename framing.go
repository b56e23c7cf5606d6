package tcpclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// A Framer marks where a message begins and ends in a stream. It is stateless: one
// value serves any number of connections, and its methods may be called concurrently.
//
// [LengthPrefix], [Varint], [Fixed], [Delimiter], [Lines], [Decimal] and
// [ContentLength] cover most protocols; anything with these two methods will do. Those
// of this package have in common:
//
//   - what is written is read back as the same messages, however the stream is cut
//     into reads;
//   - a message above MaxSize is a [*FrameTooLargeError] in both directions, what cannot
//     be a frame at all is [ErrInvalidFrame];
//   - memory follows the bytes that have arrived, never a length that was announced;
//   - dst is returned as it came with every error of ReadFrame.
//
// After an error of ReadFrame the stream is finished: nobody knows where the next frame
// begins.
type Framer interface {
	// ReadFrame reads one frame from r and appends its message to dst.
	// io.EOF: the stream ended between frames; io.ErrUnexpectedEOF: inside one.
	ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error)

	// WriteFrame writes msg to w as one frame and does not flush. If it refuses msg
	// it has written nothing. It does not keep msg. It runs under the Client's write
	// lock and must not call the Client.
	WriteFrame(w *bufio.Writer, msg []byte) error
}

// ourFramer returns f as one of this package, with settings to check, or as the pointer to
// one. A type that embeds one of them is not: its methods are its own.
func ourFramer(f Framer) (checked interface{ validate() error }, ok bool) {
	switch f := f.(type) {
	case LengthPrefix, Varint, Fixed, Delimiter, Lines, Decimal, ContentLength,
		*LengthPrefix, *Varint, *Fixed, *Delimiter, *Lines, *Decimal, *ContentLength:
		checked, ok = f.(interface{ validate() error })
	}
	return checked, ok
}

const (
	// defaultMaxSize is the largest message where the frame says how long it is.
	defaultMaxSize = 4 << 20

	// defaultMaxLine is the largest message where its end has to be searched for.
	defaultMaxLine = 64 << 10

	// minStep is how much memory a message gets before its bytes have arrived.
	minStep = 4 << 10

	// maxJoined is the size up to which a message is copied behind its header, so that
	// both cost one call. The copy then passes through [bufio.Writer.Write] once more;
	// for a longer message that costs more than a second call.
	maxJoined = 1 << 10

	// maxHint is how many bytes of a refused frame its error carries.
	maxHint = 16
)

// sizeLimit is a MaxSize with its default. It is compared as uint64: an announced length
// need not fit an int.
func sizeLimit(maxSize, def int) uint64 {
	if maxSize == 0 {
		return uint64(def)
	}
	return uint64(maxSize)
}

// checkMaxSize is what validate says about MaxSize.
func checkMaxSize(framer string, maxSize int) error {
	if maxSize < 0 {
		return fmt.Errorf("%s.MaxSize %d: want 0 or more", framer, maxSize)
	}
	return nil
}

// badSettings is the error of a Framer whose validate failed, for those who use it
// without Dial, which would have refused it: no frame can come of it.
func badSettings(err error) error { return fmt.Errorf("%w: %w", ErrInvalidFrame, err) }

// readError returns err as it has to be reported after n bytes of a frame.
func readError(err error, n int) error {
	if err == io.EOF && n > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// tooLarge is the error of a frame that begins at the next byte of r.
func tooLarge(r *bufio.Reader, size, limit uint64) error {
	return &FrameTooLargeError{Size: size, Max: int(limit), Header: firstBytes(r, nil)}
}

// firstBytes returns what has arrived of a frame, at most maxHint bytes: read were
// taken from r already, the others still lie in it.
func firstBytes(r *bufio.Reader, read []byte) []byte {
	read = read[:min(len(read), maxHint)]
	more, _ := r.Peek(min(maxHint-len(read), r.Buffered()))
	return append(bytes.Clone(read), more...)
}

// appendBody appends the next n bytes of r to dst. They are the rest of a frame.
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

// appendN appends the next n bytes of r to dst, or as many as come before an error. It
// never has more memory waiting than minStep or what has arrived so far: n may be a lie.
func appendN(r *bufio.Reader, dst []byte, n int) ([]byte, error) {
	start, empty := len(dst), 0
	for n > 0 {
		if len(dst) == cap(dst) {
			got := len(dst) - start + r.Buffered()
			grown := make([]byte, len(dst)+min(n, max(got, minStep)))
			dst = grown[:copy(grown, dst)]
		}
		// With an empty buffer this reads a large rest directly into dst.
		k, err := r.Read(dst[len(dst) : len(dst)+min(cap(dst)-len(dst), n)])
		dst, n = dst[:len(dst)+k], n-k
		switch {
		case n == 0:
		case err != nil:
			return dst, err
		case k > 0:
			empty = 0
		default:
			if empty++; empty == maxEmptyReads {
				return dst, io.ErrNoProgress
			}
		}
	}
	return dst, nil
}

// writeFrame writes header, msg and trailer. The header may lie on the caller's stack.
func writeFrame(w *bufio.Writer, header, msg []byte, trailer string) error {
	if len(msg) <= maxJoined && len(header)+len(msg)+len(trailer) <= w.Available() {
		b := append(w.AvailableBuffer(), header...)
		b = append(b, msg...)
		b = append(b, trailer...)
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

// writeShort writes the few bytes of p. [bufio.Writer.Write] would move them from the
// caller's stack to the heap.
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
