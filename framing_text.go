package tcpclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/bits"
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
// 0 without a Trailer: netstrings may be empty, syslog messages may not. A length of
// however many digits is a [*FrameTooLargeError] at the first digit that makes it exceed
// MaxSize.
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
	size, err := f.readLength(r, sizeLimit(f.MaxSize, defaultMaxSize))
	if err != nil {
		return dst, err
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
			return dst, fmt.Errorf("%w: %q after a message of %d bytes, want %q", ErrInvalidFrame, c, size, f.Trailer)
		}
	}
	return msg, nil
}

// readLength reads the length of a message, at most limit, and the separator.
func (f Decimal) readLength(r *bufio.Reader, limit uint64) (uint64, error) {
	p, _ := r.Peek(r.Buffered()) // most lengths have arrived
	if value, n := shortNumber(p); n > 0 && n < len(p) && p[0] != '0' && p[n] == f.Separator && value <= limit {
		r.Discard(n + 1)
		return value, nil
	}
	var seen [maxDigits + 1]byte // a number of more digits exceeds every limit
	var length decimal
	for n := 0; ; n++ {
		c, err := r.ReadByte()
		if err != nil {
			return 0, readError(err, n)
		}
		seen[n] = c
		if c == f.Separator && n > 0 {
			break
		}
		if !isDigit(c) || n > 0 && seen[0] == '0' {
			return 0, invalidFrame(firstBytes(r, bytes.Clone(seen[:n+1])), "want a length and %q", f.Separator)
		}
		if length.add(c); length.exceeds(limit) {
			return 0, length.tooLarge(r, limit, seen[:n+1])
		}
	}
	if length.value == 0 && f.Trailer == "" {
		return 0, invalidFrame(firstBytes(r, bytes.Clone(seen[:2])), "length 0")
	}
	return length.value, nil
}

// shortNumber returns the number that p begins with, in at most maxDigits digits, and how many it
// has taken. It is for a number that has arrived; a decimal takes any.
func shortNumber(p []byte) (value uint64, digits int) {
	for digits < min(len(p), maxDigits) && isDigit(p[digits]) {
		value = 10*value + uint64(p[digits]-'0')
		digits++
	}
	return value, digits
}

// A decimal is a number of which the digits come one by one.
type decimal struct {
	value    uint64
	digits   int
	overflow bool // it has more than 64 bits, and value says nothing
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// add appends the digit c.
func (d *decimal) add(c byte) {
	high, low := bits.Mul64(d.value, 10)
	sum, carry := bits.Add64(low, uint64(c-'0'), 0)
	d.value, d.overflow = sum, d.overflow || high|carry != 0
	d.digits++
}

// exceeds reports whether the number is above limit, whatever digits follow.
func (d *decimal) exceeds(limit uint64) bool { return d.overflow || d.value > limit }

// tooLarge refuses the frame of that length. read are the first bytes of the frame, which were
// taken from r. The Size is the number as far as r has it already: the rest is not waited for.
func (d *decimal) tooLarge(r *bufio.Reader, limit uint64, read []byte) error {
	header := firstBytes(r, bytes.Clone(read))
	more, _ := r.Peek(r.Buffered())
	for i := 0; i < len(more) && isDigit(more[i]) && !d.overflow; i++ {
		d.add(more[i])
	}
	if d.overflow {
		d.value = 0
	}
	return &FrameTooLargeError{Size: d.value, Max: int(limit), Header: header}
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
// header of more than 8 KiB is [ErrInvalidFrame]. A length of however many digits is a
// [*FrameTooLargeError] at the first digit that makes it exceed MaxSize. A message may be
// empty.
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
	size, err := readContentLength(r, sizeLimit(f.MaxSize, defaultMaxSize))
	if err != nil {
		return dst, err
	}
	return appendBody(r, dst, int(size))
}

const (
	contentLength = "Content-Length: "
	endOfHeader   = "\r\n\r\n"
)

// readContentLength reads a header, and returns its Content-Length, at most limit.
func readContentLength(r *bufio.Reader, limit uint64) (uint64, error) {
	p, _ := r.Peek(r.Buffered()) // most headers have arrived, and are as WriteFrame writes them
	if rest, ok := bytes.CutPrefix(p, []byte(contentLength)); ok {
		value, n := shortNumber(rest)
		if n > 0 && value <= limit && bytes.HasPrefix(rest[n:], []byte(endOfHeader)) {
			r.Discard(len(contentLength) + n + len(endOfHeader))
			return value, nil
		}
	}
	size, found := uint64(0), false
	for total := 0; ; {
		var field headerField
		err := field.read(r, maxHeader-total, limit)
		total += field.n
		switch {
		case err == io.EOF && total > 0:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		}
		if field.isEmpty() { // the line that ends the header
			break
		}
		switch {
		case field.name == nameMissing && field.isWhole():
			return 0, invalidFrame(firstBytes(r, field.quoted()), "want a header field")
		case field.name != nameContentLength:
			continue
		case found || !field.isNumber() || !field.isWhole():
			return 0, invalidFrame(field.quoted(), "want one Content-Length in digits")
		}
		size, found = field.length.value, true
	}
	if !found {
		return 0, fmt.Errorf("%w: header without Content-Length", ErrInvalidFrame)
	}
	return size, nil
}

// A headerField is a line of a header.
type headerField struct {
	line   [maxField]byte // the first bytes
	n      int            // length of the line, CRLF included
	name   fieldName
	length decimal // value of a Content-Length
	part   valuePart
}

// A fieldName is what the name of a headerField is.
type fieldName int

const (
	nameMissing fieldName = iota // there is no colon in line
	nameOther
	nameContentLength
)

// A valuePart is what a Content-Length has come to.
type valuePart int

const (
	valueBlank   valuePart = iota // spaces before the number
	valueDigits                   // the number
	valueTrailer                  // spaces after it, or the end of the line
	valueInvalid                  // it is no number
)

// read reads a line of at most that many bytes. It stops where a Content-Length exceeds limit.
func (h *headerField) read(r *bufio.Reader, most int, limit uint64) error {
	for cr := false; h.n < most; {
		c, err := r.ReadByte()
		if err != nil {
			return err
		}
		if h.n < maxField {
			h.line[h.n] = c
		}
		h.n++
		switch {
		case c == '\n' && cr:
			return nil
		case c == '\n' || cr:
			return invalidFrame(firstBytes(r, h.begun()), "header line without CRLF")
		case h.name == nameContentLength:
			if h.addValue(c); h.part == valueDigits && h.length.exceeds(limit) {
				return h.length.tooLarge(r, limit, h.begun())
			}
		case c == ':' && h.name == nameMissing && h.n <= maxField:
			h.name = nameOther
			if strings.EqualFold(string(h.line[:h.n-1]), "Content-Length") {
				h.name = nameContentLength
			}
		}
		cr = c == '\r'
	}
	return invalidFrame(firstBytes(r, h.begun()), "header of more than %d bytes", maxHeader)
}

// addValue takes the next byte of the value of a Content-Length.
func (h *headerField) addValue(c byte) {
	blank := c == ' ' || c == '\t' || c == '\r'
	switch {
	case isDigit(c) && h.part <= valueDigits:
		h.part = valueDigits
		h.length.add(c)
	case blank && h.part == valueDigits:
		h.part = valueTrailer
	case !blank:
		h.part = valueInvalid
	}
}

// isEmpty reports whether there is nothing before CRLF.
func (h *headerField) isEmpty() bool { return h.n == 2 }

// isWhole reports whether line has all but CRLF.
func (h *headerField) isWhole() bool { return h.n-2 <= maxField }

// isNumber reports whether the value is a number. Only zeros can make it as long as that.
func (h *headerField) isNumber() bool {
	return (h.part == valueDigits || h.part == valueTrailer) && h.length.digits <= maxDigits
}

// begun returns a copy of what line has so far.
func (h *headerField) begun() []byte { return bytes.Clone(h.line[:min(h.n, maxField)]) }

// quoted returns a copy of line, without CRLF.
func (h *headerField) quoted() []byte { return bytes.Clone(h.line[:min(h.n-2, maxField)]) }

// WriteFrame writes msg to w as one frame, without flushing. It borrows msg until it
// returns.
func (f ContentLength) WriteFrame(w *bufio.Writer, msg []byte) error {
	var short [48]byte
	header, rest, err := f.appendHeader(short[:0], msg)
	if err != nil {
		return err
	}
	return writeFrame(w, header, rest, "")
}

// appendHeader implements headed.
func (f ContentLength) appendHeader(dst, msg []byte) (header, rest []byte, err error) {
	if err := f.validate(); err != nil {
		return dst, nil, badSettings(err)
	}
	if limit := sizeLimit(f.MaxSize, defaultMaxSize); uint64(len(msg)) > limit {
		return dst, nil, &FrameTooLargeError{Size: uint64(len(msg)), Max: int(limit)}
	}
	header = append(dst, contentLength...)
	header = append(strconv.AppendInt(header, int64(len(msg)), 10), endOfHeader...)
	return header, msg, nil
}

func (f ContentLength) validate() error { return checkMaxSize("ContentLength", f.MaxSize) }
