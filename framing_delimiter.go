package tcpclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// A Delimiter puts a sequence of bytes after the message, and optionally one before it:
//
//	h e l l o  0a          Delimiter{}
//	0b  M S H | …  1c 0d   Delimiter{Start: []byte("\x0b"), Delim: []byte("\x1c\r")}, MLLP of HL7
//
// The first Delim in the stream ends the message. WriteFrame therefore refuses, with
// [ErrInvalidFrame], a message that contains Delim or whose end forms one with the Delim
// that follows it. The search takes linear time, whatever the delimiter and however few
// bytes arrive at once.
type Delimiter struct {
	// Delim ends a message. nil: "\n".
	Delim []byte

	// Start precedes every message; a frame without it is [ErrInvalidFrame]. nil: nothing.
	Start []byte

	// Keep makes Start and Delim part of the message. WriteFrame then refuses a message
	// without them.
	Keep bool

	// AllowUnterminated makes the bytes after the last Delim a message when the stream
	// ends. Without it they are io.ErrUnexpectedEOF.
	AllowUnterminated bool

	// MaxSize is the size of the largest message in bytes, without Start and Delim.
	// 0: 64 KiB.
	MaxSize int
}

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f Delimiter) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	hasStart := len(f.Start) > 0
	if err := readExactly(r, f.Start); err != nil {
		return dst, err
	}
	msg := dst
	if f.Keep {
		msg = append(msg, f.Start...)
	}
	start := len(msg)
	m := newMatcher(f.delim())
	limit := sizeLimit(f.MaxSize, defaultMaxLine)
	msg, terminated, err := m.read(r, msg, limit)
	switch {
	case err == io.EOF && f.AllowUnterminated && (hasStart || len(msg) > start):
		return unterminated(dst, msg, start, limit)
	case err == io.EOF && hasStart:
		return dst, io.ErrUnexpectedEOF
	case err != nil:
		return dst, readError(err, len(msg)-start)
	case terminated && !f.Keep:
		msg = msg[:len(msg)-len(m.delim)]
	}
	return msg, nil
}

// unterminated returns msg, which the end of the stream has ended. A tail of msg that might
// have begun a delimiter counts now, and may exceed limit.
func unterminated(dst, msg []byte, start int, limit uint64) ([]byte, error) {
	if size := uint64(len(msg) - start); size > limit {
		return dst, &FrameTooLargeError{Size: size, Max: int(limit), Header: bytes.Clone(msg[start:][:min(len(msg)-start, maxHint)])}
	}
	return msg, nil
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f Delimiter) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	content, delim := msg, f.delim()
	if f.Keep {
		if len(msg) < len(f.Start)+len(delim) || !bytes.HasPrefix(msg, f.Start) || !bytes.HasSuffix(msg, delim) {
			return fmt.Errorf("%w: message without the delimiters that it is to keep", ErrInvalidFrame)
		}
		content = msg[len(f.Start) : len(msg)-len(delim)]
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxLine); uint64(len(content)) > limit {
		return &FrameTooLargeError{Size: uint64(len(content)), Max: int(limit)}
	}
	m := newMatcher(delim)
	if m.find(content) >= 0 || m.find(delim[:len(delim)-1]) >= 0 {
		return fmt.Errorf("%w: message contains the delimiter %q", ErrInvalidFrame, string(delim))
	}
	if f.Keep {
		_, err := w.Write(msg)
		return err
	}
	if err := writeFrame(w, f.Start, msg, ""); err != nil {
		return err
	}
	return writeShort(w, delim)
}

func (f Delimiter) delim() []byte {
	if f.Delim == nil {
		return []byte{'\n'}
	}
	return f.Delim
}

func (f Delimiter) validate() error {
	if f.Delim != nil && len(f.Delim) == 0 {
		return fmt.Errorf("Delimiter.Delim is empty")
	}
	return checkMaxSize("Delimiter", f.MaxSize)
}

// Lines are messages that end with a line feed. ReadFrame accepts LF and CRLF, also mixed;
// a CR elsewhere is data. WriteFrame ends a line with LF, or with CRLF if that is set, and
// refuses, with [ErrInvalidFrame], a message that contains CR or LF.
//
//	h e l l o  0a
//	h e l l o  0d 0a
//
// Where a CR at the end belongs to the message, use [Delimiter].
type Lines struct {
	CRLF              bool // write CRLF instead of LF
	AllowUnterminated bool // at the end of the stream, a line without its end is a message
	MaxSize           int  // of a message in bytes, without its line end; 0: 64 KiB
}

// ReadFrame reads one line from r and appends it, without its end, to dst, which it
// borrows until it returns.
func (f Lines) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	m := matcher{delim: []byte{'\n'}, lines: true}
	limit := sizeLimit(f.MaxSize, defaultMaxLine)
	msg, terminated, err := m.read(r, dst, limit)
	switch {
	case err == io.EOF && f.AllowUnterminated && len(msg) > len(dst):
		return unterminated(dst, msg, len(dst), limit)
	case err != nil:
		return dst, readError(err, len(msg)-len(dst))
	case terminated:
		msg = msg[:len(msg)-1]
		if n := len(msg); n > len(dst) && msg[n-1] == '\r' {
			msg = msg[:n-1]
		}
	}
	return msg, nil
}

// WriteFrame writes msg to w as one line, without flushing. It borrows msg until it
// returns.
func (f Lines) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxLine); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	if bytes.IndexByte(msg, '\n') >= 0 || bytes.IndexByte(msg, '\r') >= 0 {
		return fmt.Errorf("%w: line contains CR or LF", ErrInvalidFrame)
	}
	end := "\n"
	if f.CRLF {
		end = "\r\n"
	}
	return writeFrame(w, nil, msg, end)
}

func (f Lines) validate() error { return checkMaxSize("Lines", f.MaxSize) }

// A matcher searches a stream for a delimiter with the algorithm of Knuth, Morris and
// Pratt: it examines no byte again when more arrive.
type matcher struct {
	delim   []byte
	short   [shortDelim]uint8 // by length of a partial match, the next shorter one that it ends with
	long    []int             // the same for a delimiter longer than shortDelim
	lines   bool              // delim is "\n", and a "\r" before it belongs to the line end
	matched int               // length of the partial match that the bytes seen end with
}

// shortDelim is the length up to which a delimiter costs no allocation.
const shortDelim = 16

func newMatcher(delim []byte) matcher {
	m := matcher{delim: delim}
	if len(delim) > shortDelim {
		m.long = make([]int, len(delim))
	}
	for i, k := 1, 0; i < len(delim); i++ {
		for k > 0 && delim[i] != delim[k] {
			k = m.shorter(k)
		}
		if delim[i] == delim[k] {
			k++
		}
		if m.long != nil {
			m.long[i] = k
		} else {
			m.short[i] = uint8(k)
		}
	}
	return m
}

// shorter returns the next shorter match that a match of k bytes ends with.
func (m *matcher) shorter(k int) int {
	if m.long != nil {
		return m.long[k-1]
	}
	return int(m.short[k-1])
}

// find returns the number of bytes of p up to the end of the delimiter, or -1.
func (m *matcher) find(p []byte) int {
	last := m.delim[len(m.delim)-1]
	if len(m.delim) == 1 {
		i := bytes.IndexByte(p, last)
		m.matched = 0
		if m.lines && i < 0 && len(p) > 0 && p[len(p)-1] == '\r' {
			m.matched = 1
		}
		if i < 0 {
			return -1
		}
		return i + 1
	}
	for i := 0; i < len(p); i++ {
		if m.matched == 0 {
			skip := bytes.IndexByte(p[i:], m.delim[0])
			if skip < 0 {
				return -1
			}
			i += skip
		}
		for m.matched > 0 && p[i] != m.delim[m.matched] {
			m.matched = m.shorter(m.matched)
		}
		if p[i] == m.delim[m.matched] {
			m.matched++
		}
		if m.matched == len(m.delim) {
			m.matched = 0
			return i + 1
		}
	}
	return -1
}

// read appends bytes of r to dst up to the end of the delimiter, or of the stream. It
// fails as soon as more than limit bytes have come that cannot be part of the delimiter.
func (m *matcher) read(r *bufio.Reader, dst []byte, limit uint64) (msg []byte, terminated bool, err error) {
	start := len(dst)
	longestEnd := len(m.delim)
	if m.lines {
		longestEnd = len("\r\n")
	}
	for {
		p, err := r.Peek(max(1, r.Buffered()))
		if err != nil && len(p) == 0 {
			return dst, false, err
		}
		// The largest message ends within room; what is after it is left in r.
		if room := limit + uint64(longestEnd) - uint64(len(dst)-start); uint64(len(p)) > room {
			p = p[:room]
		}
		end := m.find(p)
		if end >= 0 {
			p = p[:end]
		}
		dst = appendBounded(dst, p, start, limit+uint64(longestEnd))
		r.Discard(len(p))
		size := uint64(len(dst) - start)
		switch {
		case end >= 0:
			size -= uint64(len(m.delim))
			if m.lines && size > 0 && dst[len(dst)-2] == '\r' {
				size--
			}
		default:
			size -= uint64(m.matched)
		}
		if size > limit {
			return dst, false, &FrameTooLargeError{Max: int(limit), Header: firstBytes(r, dst[start:])}
		}
		if end >= 0 {
			return dst, true, nil
		}
	}
}

// appendBounded appends p to dst, in which the frame begins at start. Like append it
// doubles the memory, but never beyond the need of a frame of limit bytes.
func appendBounded(dst, p []byte, start int, limit uint64) []byte {
	need := len(dst) + len(p)
	if need > cap(dst) {
		size := max(need, start+int(min(uint64(2*(need-start)), limit)))
		grown := make([]byte, len(dst), size)
		copy(grown, dst)
		dst = grown
	}
	return append(dst, p...)
}

// readExactly reads want from r, or fails: with io.EOF if r has no byte at all.
func readExactly(r *bufio.Reader, want []byte) error {
	for i, b := range want {
		c, err := r.ReadByte()
		if err != nil {
			return readError(err, i)
		}
		if c != b {
			seen := append(bytes.Clone(want[:i]), c)
			return invalidFrame(firstBytes(r, seen), "want %q", want)
		}
	}
	return nil
}
