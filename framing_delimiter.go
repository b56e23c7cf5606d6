package tcpclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// A Delimiter puts a sequence of bytes behind the message, and optionally one in front:
//
//	h e l l o  0a          Delimiter{}
//	0b  M S H | …  1c 0d   Delimiter{Start: "\x0b", Delim: "\x1c\r"}, MLLP of HL7
//
// The first Delim in the stream ends a message, so a message must not contain it, also
// not together with the Delim behind it: what would be read back otherwise is refused
// with [ErrInvalidFrame] on writing. Searching costs linear time, whatever the delimiter
// and however few bytes come at once.
type Delimiter struct {
	// Delim ends a message. nil: "\n".
	Delim []byte

	// Start must begin every message. nil: nothing.
	Start []byte

	// Keep makes Start and Delim part of the message. WriteFrame then wants them there.
	Keep bool

	// AllowUnterminated makes what is there at the end of the stream a last message.
	AllowUnterminated bool

	// MaxSize is the size of the largest message, Start and Delim not counted.
	// 0: 64 KiB.
	MaxSize int
}

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f Delimiter) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	begun := len(f.Start) > 0
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
	case err == io.EOF && f.AllowUnterminated && (begun || len(msg) > start):
		return unterminated(dst, msg, start, limit)
	case err == io.EOF && begun:
		return dst, io.ErrUnexpectedEOF
	case err != nil:
		return dst, readError(err, len(msg)-start)
	case terminated && !f.Keep:
		msg = msg[:len(msg)-len(m.delim)]
	}
	return msg, nil
}

// unterminated returns msg, which the stream has ended. What was held for the beginning of a
// delimiter is part of it now, and may be too much.
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

// Lines are messages that end with a line feed. Reading accepts LF and CRLF, mixed as
// they come; a CR elsewhere is data. Writing ends with LF, or with CRLF if that is set,
// and refuses a message that contains CR or LF.
//
//	h e l l o  0a
//	h e l l o  0d 0a
//
// For lines in which every byte counts use [Delimiter].
type Lines struct {
	CRLF              bool // write CRLF instead of LF
	AllowUnterminated bool // what is there at the end of the stream is a last message
	MaxSize           int  // of a message, without its line end; 0: 64 KiB
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

// A matcher searches a stream for a delimiter, byte after byte, by the algorithm of
// Knuth, Morris and Pratt: no byte is looked at again when more have come.
type matcher struct {
	delim []byte
	short [shortDelim]uint8 // for each length of a match, the next shorter one it contains
	long  []int             // the same for a delimiter longer than that
	lines bool              // delim is "\n", and a "\r" before it belongs to the end
	state int               // bytes at the end of what was seen that may begin the end
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

// find returns how many bytes of p there are up to the end of the delimiter, or -1.
func (m *matcher) find(p []byte) int {
	last := m.delim[len(m.delim)-1]
	if len(m.delim) == 1 {
		i := bytes.IndexByte(p, last)
		m.state = 0
		if m.lines && i < 0 && len(p) > 0 && p[len(p)-1] == '\r' {
			m.state = 1
		}
		if i < 0 {
			return -1
		}
		return i + 1
	}
	for i := 0; i < len(p); i++ {
		if m.state == 0 {
			skip := bytes.IndexByte(p[i:], m.delim[0])
			if skip < 0 {
				return -1
			}
			i += skip
		}
		for m.state > 0 && p[i] != m.delim[m.state] {
			m.state = m.shorter(m.state)
		}
		if p[i] == m.delim[m.state] {
			m.state++
		}
		if m.state == len(m.delim) {
			m.state = 0
			return i + 1
		}
	}
	return -1
}

// read appends bytes of r to dst up to the end of the delimiter, or of the stream. It
// fails as soon as more than limit bytes cannot be part of the delimiter.
func (m *matcher) read(r *bufio.Reader, dst []byte, limit uint64) (msg []byte, terminated bool, err error) {
	start := len(dst)
	ending := len(m.delim)
	if m.lines {
		ending = 2
	}
	for {
		p, err := r.Peek(max(1, r.Buffered()))
		if err != nil && len(p) == 0 {
			return dst, false, err
		}
		// A message of limit bytes ends within these:
		if room := limit + uint64(ending) - uint64(len(dst)-start); uint64(len(p)) > room {
			p = p[:room]
		}
		end := m.find(p)
		if end >= 0 {
			p = p[:end]
		}
		dst = appendBounded(dst, p, start, limit+uint64(ending))
		r.Discard(len(p))
		size := uint64(len(dst) - start)
		switch {
		case end >= 0:
			size -= 1 // for a line that ends in LF only
			if !m.lines {
				size -= uint64(len(m.delim) - 1)
			} else if size > 0 && dst[len(dst)-2] == '\r' {
				size--
			}
		default:
			size -= uint64(m.state)
		}
		if size > limit {
			return dst, false, &FrameTooLargeError{Max: int(limit), Header: firstBytes(r, dst[start:])}
		}
		if end >= 0 {
			return dst, true, nil
		}
	}
}

// appendBounded appends p to dst, of which the frame begins at start. It doubles the
// memory like append, but never beyond what a frame of limit bytes needs.
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

// readExactly reads want from r, or fails: with io.EOF if there is nothing at all.
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
