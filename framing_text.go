package tcpclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Decimal puts the length in front of the message in ASCII digits, followed by a
// separator. A trailer may follow the message:
//
//	5 : h e l l o ,     Netstring()
//	5   h e l l o       OctetCounting()
//
// A length with a sign, a space or a leading zero is [ErrInvalidFrame]. So is a length of
// 0 without a Trailer: netstrings may be empty, syslog messages may not.
type Decimal struct {
	// Separator follows the length. It must be set, and not be a digit.
	Separator byte

	// Trailer follows the message. "": nothing.
	Trailer string

	// MaxSize is the size of the largest message in bytes. 0: 4 MiB.
	MaxSize int
}

// Netstring returns the format of D. J. Bernstein's netstrings, as in SCGI and QMQP.
func Netstring() Decimal { return Decimal{Separator: ':', Trailer: ","} }

// OctetCounting returns the format of syslog over TCP, RFC 6587 section 3.4.1.
func OctetCounting() Decimal { return Decimal{Separator: ' '} }

// maxDigits is the number of digits of the largest int64, and so the most of a length.
const maxDigits = 19

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f Decimal) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	var seen [maxDigits + 1]byte
	size, n := uint64(0), 0
	for ; ; n++ {
		c, err := r.ReadByte()
		if err != nil {
			return dst, readError(err, n)
		}
		if c == f.Separator && n > 0 {
			break
		}
		seen[min(n, maxDigits)] = c
		if c < '0' || c > '9' || n == maxDigits || n > 0 && seen[0] == '0' {
			return dst, invalidFrame(firstBytes(r, bytes.Clone(seen[:n+1])), "want a length and %q", f.Separator)
		}
		size = 10*size + uint64(c-'0')
	}
	head := func() []byte { return firstBytes(r, append(bytes.Clone(seen[:n]), f.Separator)) }
	if size == 0 && f.Trailer == "" {
		return dst, invalidFrame(head(), "length 0")
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); size > limit {
		return dst, &FrameTooLargeError{Size: size, Max: int(limit), Header: head()}
	}
	msg, err := appendBody(r, dst, int(size))
	if err != nil {
		return dst, err
	}
	for i := range len(f.Trailer) {
		c, err := r.ReadByte()
		if err != nil {
			return dst, readError(err, 1)
		}
		if c != f.Trailer[i] {
			return dst, fmt.Errorf("%w: %q behind a message of %d bytes, want %q", ErrInvalidFrame, c, size, f.Trailer)
		}
	}
	return msg, nil
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f Decimal) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	if len(msg) == 0 && f.Trailer == "" {
		return fmt.Errorf("%w: an empty message cannot be told from none", ErrInvalidFrame)
	}
	var b [maxDigits + 1]byte
	header := append(strconv.AppendInt(b[:0], int64(len(msg)), 10), f.Separator)
	return writeFrame(w, header, msg, f.Trailer)
}

func (f Decimal) validate() error {
	switch {
	case f.Separator == 0:
		return fmt.Errorf("Decimal.Separator is not set")
	case f.Separator >= '0' && f.Separator <= '9':
		return fmt.Errorf("Decimal.Separator %q is a digit", f.Separator)
	}
	return checkMaxSize("Decimal", f.MaxSize)
}

// A ContentLength puts a header like that of HTTP in front of the message, as the Language
// Server Protocol and the Debug Adapter Protocol do.
//
//	Content-Length: 5\r\n
//	\r\n
//	hello
//
// ReadFrame ignores the case of field names, and skips fields other than Content-Length. A
// header of more than 8 KiB is [ErrInvalidFrame]. A message may be empty.
type ContentLength struct {
	MaxSize int // of a message in bytes, without the header; 0: 4 MiB
}

const (
	// maxHeader is the size of the longest header. Of each of its lines only the first
	// maxField bytes are kept.
	maxHeader = 8 << 10
	maxField  = 64
)

// ReadFrame reads one frame from r and appends its message to dst, which it borrows
// until it returns.
func (f ContentLength) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if err := f.validate(); err != nil {
		return dst, badSettings(err)
	}
	size, found := uint64(0), false
	for total := 0; ; {
		var field [maxField]byte
		n, err := readField(r, field[:], maxHeader-total)
		total += n
		switch {
		case err == io.EOF && total > 0:
			return dst, io.ErrUnexpectedEOF
		case err != nil:
			return dst, err
		}
		line := field[:min(max(n-2, 0), maxField)]
		if n == 2 { // the empty line that ends the header
			break
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok && n-2 <= maxField {
			return dst, invalidFrame(firstBytes(r, bytes.Clone(line)), "want a header field")
		}
		if !ok || !strings.EqualFold(string(name), "Content-Length") {
			continue
		}
		length := bytes.Trim(value, " \t")
		size, ok = parseDigits(length)
		if !ok || found || n-2 > maxField {
			return dst, invalidFrame(bytes.Clone(line), "want one Content-Length in digits")
		}
		found = true
	}
	if !found {
		return dst, fmt.Errorf("%w: header without Content-Length", ErrInvalidFrame)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); size > limit {
		return dst, tooLarge(r, size, limit)
	}
	return appendBody(r, dst, int(size))
}

// readField reads a header line of at most limit bytes into field, as far as it fits, and
// returns the length of the line, CRLF included.
func readField(r *bufio.Reader, field []byte, limit int) (n int, err error) {
	cr := false
	for n < limit {
		c, err := r.ReadByte()
		if err != nil {
			return n, err
		}
		if n < len(field) {
			field[n] = c
		}
		n++
		switch {
		case c == '\n' && cr:
			return n, nil
		case c == '\n' || cr:
			return n, invalidFrame(firstBytes(r, bytes.Clone(field[:min(n, len(field))])), "header line without CRLF")
		}
		cr = c == '\r'
	}
	return n, invalidFrame(firstBytes(r, bytes.Clone(field[:min(n, len(field))])), "header of more than %d bytes", maxHeader)
}

// parseDigits returns the number p, which must be 1 to 19 digits and nothing else.
func parseDigits(p []byte) (n uint64, ok bool) {
	for _, c := range p {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, len(p) > 0 && len(p) <= maxDigits
}

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f ContentLength) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := f.validate(); err != nil {
		return badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	var b [48]byte
	header := append(b[:0], "Content-Length: "...)
	header = append(strconv.AppendInt(header, int64(len(msg)), 10), "\r\n\r\n"...)
	return writeFrame(w, header, msg, "")
}

func (f ContentLength) validate() error { return checkMaxSize("ContentLength", f.MaxSize) }
