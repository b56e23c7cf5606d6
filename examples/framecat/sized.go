package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// What tcpclient.Sized takes: functions that tell how long a message is by its first bytes, and return 0
// if it takes more of them. They take what either side sends.

var crlf = []byte("\r\n")

// plus returns the sum, or math.MaxInt if an int does not hold it.
func plus(a int, b uint64) int {
	if b > uint64(math.MaxInt-a) {
		return math.MaxInt
	}
	return a + int(b)
}

// sizeMQTT is for control packets: section 2.2 of MQTT 3.1.1.
func sizeMQTT(p []byte) (int, error) {
	if p[0]>>4 == 0 {
		return 0, errors.New("packet type 0 is reserved")
	}
	rest, n := binary.Uvarint(p[1:])
	switch {
	case n > 4 || n <= 0 && len(p) > 4:
		return 0, errors.New("remaining length of more than four bytes")
	case n == 0:
		return 0, nil
	}
	return plus(1+n, rest), nil
}

// sizeBER is for values of ASN.1 in BER with a definite length: X.690, section 8.1.
func sizeBER(p []byte) (int, error) {
	at := 1
	if p[0]&0x1f == 0x1f { // a tag of more bytes
		for at < len(p) && p[at] >= 0x80 {
			at++
		}
		at++
	}
	if at >= len(p) {
		return 0, nil
	}
	first := p[at]
	at++
	switch {
	case first < 0x80:
		return at + int(first), nil
	case first == 0x80 || first == 0xff:
		return 0, fmt.Errorf("length octet %#x", first)
	}
	length := uint64(0)
	for range first & 0x7f {
		switch {
		case at == len(p):
			return 0, nil
		case length > math.MaxUint64>>8:
			return math.MaxInt, nil
		}
		length = length<<8 | uint64(p[at])
		at++
	}
	return plus(at, length), nil
}

// number returns the decimal number that is the whole of digits. One that is too large is
// math.MaxUint64.
func number(digits []byte) (uint64, error) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%q in a number", c)
		}
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxUint64, nil
	}
	return n, err
}

// starts reports whether p begins with want, or may once it is longer.
func starts(p []byte, want string) bool {
	return strings.HasPrefix(want, string(p[:min(len(p), len(want))]))
}

// through returns the number of bytes up to and with end, or 0 if that is not there.
func through(p []byte, end string) int {
	i := bytes.Index(p, []byte(end))
	if i < 0 {
		return 0
	}
	return i + len(end)
}

// sizeFIX is for the tag=value encoding. BodyLength counts from after itself to the field
// CheckSum, of seven bytes.
func sizeFIX(p []byte) (int, error) {
	begin, rest, whole := bytes.Cut(p, []byte{1})
	switch {
	case !starts(begin, "8=FIX") || len(begin) > 12:
		return 0, errors.New("want BeginString")
	case !whole:
		return 0, nil
	case !starts(rest, "9="):
		return 0, errors.New("want BodyLength")
	case len(rest) < 3:
		return 0, nil
	}
	digits, _, whole := bytes.Cut(rest[2:], []byte{1})
	length, err := number(digits)
	switch {
	case err != nil:
		return 0, err
	case length == math.MaxUint64:
		return math.MaxInt, nil
	case !whole:
		return 0, nil
	}
	return plus(len(begin)+1+2+len(digits)+1+7, length), nil
}

// sizeWebSocket is for frames (RFC 6455, section 5.2), and for the request and the answer of HTTP that come before
// them: no frame begins with a letter of these.
func sizeWebSocket(p []byte) (int, error) {
	if starts(p, "GET ") || starts(p, "HTTP/1.1 ") {
		return through(p, "\r\n\r\n"), nil
	}
	if len(p) < 2 {
		return 0, nil
	}
	header, length := 2, uint64(p[1]&0x7f)
	if p[1]&0x80 != 0 {
		header += 4 // the mask of a client
	}
	switch {
	case length == 126 && len(p) >= 4:
		header, length = header+2, uint64(binary.BigEndian.Uint16(p[2:]))
		if length < 126 {
			return 0, errors.New("length in more bytes than it takes")
		}
	case length == 127 && len(p) >= 10:
		header, length = header+8, binary.BigEndian.Uint64(p[2:])
		if length <= math.MaxUint16 || length > math.MaxInt64 {
			return 0, errors.New("length in more bytes than it takes, or than there are")
		}
	case length >= 126:
		return 0, nil
	}
	return plus(header, length), nil
}

// sizePostgres is for the messages of PostgreSQL: a type, and a length that counts itself. Those that begin a
// connection have no type, and a length below 16 MiB, so that they begin with 0.
func sizePostgres(p []byte) (int, error) {
	header := min(int(p[0]), 1)
	if len(p) < header+4 {
		return 0, nil
	}
	length := binary.BigEndian.Uint32(p[header:])
	if length < 4 {
		return 0, fmt.Errorf("length %d, which counts itself", length)
	}
	return plus(header, uint64(length)), nil
}

// A postgresServer frames what a server of PostgreSQL sends on one connection: before its first message it
// answers each SSLRequest and GSSENCRequest with a single byte.
type postgresServer struct {
	tcpclient.Framer
	begun bool // with messages
}

func (f *postgresServer) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if p, err := r.Peek(1); err == nil && !f.begun && bytes.ContainsAny(p, "SGN") {
		r.Discard(1)
		return append(dst, p...), nil
	}
	f.begun = true
	return f.Framer.ReadFrame(r, dst)
}

// sizeSTX is for a text between STX and ETX, followed by a check of one byte, and for the single ACK and
// NAK that answer it.
func sizeSTX(p []byte) (int, error) {
	const stx, etx, ack, nak = 2, 3, 6, 0x15
	switch p[0] {
	case ack, nak:
		return 1, nil
	case stx:
		if end := bytes.IndexByte(p, etx); end > 0 {
			return end + 2, nil
		}
		return 0, nil
	}
	return 0, errors.New("want STX")
}

// sizeNATS is for a line, and after those that carry something for the bytes that its last number
// counts.
func sizeNATS(p []byte) (int, error) {
	if c := p[0] &^ 0x20; (c < 'A' || c > 'Z') && p[0] != '+' && p[0] != '-' {
		return 0, errors.New("want an operation")
	}
	line, _, whole := bytes.Cut(p, crlf)
	if !whole {
		return 0, nil
	}
	fields := bytes.Fields(line)
	least := map[string]int{"PUB": 3, "HPUB": 4, "MSG": 4, "HMSG": 5}[strings.ToUpper(string(fields[0]))]
	switch {
	case least == 0:
		return len(line) + 2, nil
	case len(fields) < least:
		return 0, fmt.Errorf("%s without a size", fields[0])
	}
	n, err := number(fields[len(fields)-1])
	if err != nil {
		return 0, err
	}
	return plus(len(line)+4, n), nil
}

// sizeSMTP is for replies: RFC 5321, section 4.2.1. In all lines but the last a hyphen follows the
// code.
func sizeSMTP(p []byte) (int, error) {
	for at := 0; ; {
		line, _, whole := bytes.Cut(p[at:], crlf)
		for i, c := range line[:min(len(line), 3)] {
			if c < '0' || c > '9' || i == 0 && (c < '2' || c > '5') {
				return 0, fmt.Errorf("%q in a code", c)
			}
		}
		switch {
		case !whole:
			return 0, nil
		case len(line) < 3:
			return 0, errors.New("line without a code")
		}
		at += len(line) + 2
		if len(line) == 3 || line[3] != '-' {
			return at, nil
		}
	}
}

// sizeRESP is for what Redis and its clients say, in RESP2 and RESP3 without streamed types, and
// for commands that are lines. An attribute belongs to the reply after it.
func sizeRESP(p []byte) (int, error) {
	if c := p[0] | 0x20; 'a' <= c && c <= 'z' {
		return through(p, "\r\n"), nil
	}
	at := 0
	for values := 1; values > 0; values-- {
		if at >= len(p) {
			return 0, nil
		}
		kind := p[at]
		if !strings.ContainsRune("+-:_#,($=!*~>%|", rune(kind)) {
			return 0, fmt.Errorf("%q is no type", kind)
		}
		line, _, whole := bytes.Cut(p[at+1:], crlf)
		n, err := 0, error(nil)
		if strings.ContainsRune("$=!*~>%|", rune(kind)) {
			n, err = lengthRESP(kind, line, whole)
		}
		switch {
		case err != nil || n == math.MaxInt:
			return n, err
		case !whole:
			return 0, nil
		}
		at += 1 + len(line) + 2
		switch {
		case n < 0: // null
		case strings.ContainsRune("$=!", rune(kind)):
			at += n + 2
		case strings.ContainsRune("*~>", rune(kind)):
			values += n
		case kind == '%':
			values += 2 * n
		case kind == '|':
			values += 2*n + 1
		}
	}
	return at, nil
}

// lengthRESP returns the number of bytes or values that line tells, which may have only begun; −1 is
// null, and a number that is no length of this world is math.MaxInt.
func lengthRESP(kind byte, line []byte, whole bool) (int, error) {
	if strings.ContainsRune("$*", rune(kind)) && len(line) > 0 && line[0] == '-' {
		if whole && string(line) != "-1" || !starts(line, "-1") {
			return 0, errors.New("negative length")
		}
		return -1, nil
	}
	if !whole {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return 0, nil
		}
	}
	n, err := number(line)
	if n > math.MaxInt32/4 {
		return math.MaxInt, nil
	}
	return int(n), err
}
