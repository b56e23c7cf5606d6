package testkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Sizes are functions for tcpclient.Sized, by protocol.
var Sizes = map[string]func(p []byte) (int, error){
	"mqtt":      SizeMQTT,
	"ber":       SizeBER,
	"fix":       SizeFIX,
	"resp":      SizeRESP,
	"websocket": SizeWebSocket,
	"nats":      SizeNATS,
	"stx":       SizeSTX,
	"smtp":      SizeSMTP,
	"u32":       SizeU32,
}

// SizeU32 is that of LengthPrefix{KeepHeader: true}.
func SizeU32(p []byte) (int, error) {
	if len(p) < 4 {
		return 0, nil
	}
	return addSize(4, uint64(binary.BigEndian.Uint32(p))), nil
}

// addSize returns the sum, or math.MaxInt if an int does not hold it.
func addSize(a int, b uint64) int {
	if b > uint64(math.MaxInt-a) {
		return math.MaxInt
	}
	return a + int(b)
}

// SizeMQTT is that of control packets: section 2.1 of MQTT 3.1.1 and of MQTT 5.
func SizeMQTT(p []byte) (int, error) {
	if p[0]>>4 == 0 {
		return 0, errors.New("packet type 0 is reserved")
	}
	for i, rest := 1, uint64(0); i < len(p); i++ {
		if i > 4 {
			return 0, errors.New("remaining length of more than four bytes")
		}
		rest |= uint64(p[i]&0x7f) << (7 * (i - 1))
		if p[i] < 0x80 {
			return addSize(i+1, rest), nil
		}
	}
	return 0, nil
}

// SizeBER is that of a data value of ASN.1 in BER (X.690, section 8.1) whose length is definite,
// as in LDAP (RFC 4511, section 5.1).
func SizeBER(p []byte) (int, error) {
	at := 1
	if p[0]&0x1f == 0x1f { // a tag of more bytes
		for ; ; at++ {
			if at == len(p) {
				return 0, nil
			}
			if p[at] < 0x80 {
				at++
				break
			}
		}
	}
	if at == len(p) {
		return 0, nil
	}
	first := p[at]
	at++
	switch {
	case first < 0x80:
		return addSize(at, uint64(first)), nil
	case first == 0x80:
		return 0, errors.New("indefinite length")
	case first == 0xff:
		return 0, errors.New("length octet 0xff is reserved")
	}
	length := uint64(0)
	for range int(first & 0x7f) {
		switch {
		case at == len(p):
			return 0, nil
		case length > math.MaxUint64>>8:
			return math.MaxInt, nil
		}
		length = length<<8 | uint64(p[at])
		at++
	}
	return addSize(at, length), nil
}

// SizeFIX is that of the tag=value encoding: BodyLength counts from after itself to the
// field CheckSum, of seven bytes.
func SizeFIX(p []byte) (int, error) {
	begin, rest, whole := bytes.Cut(p, []byte{1})
	if n := min(len(begin), 5); string(begin[:n]) != "8=FIX"[:n] || len(begin) > 12 {
		return 0, errors.New("want BeginString")
	}
	if !whole {
		return 0, nil
	}
	if n := min(len(rest), 2); string(rest[:n]) != "9="[:n] {
		return 0, errors.New("want BodyLength")
	}
	if len(rest) < 3 {
		return 0, nil
	}
	length, n, err := decimal(rest[2:], "\x01")
	if n == 0 || err != nil {
		return n, err
	}
	return addSize(len(begin)+1+2+n+7, length), nil
}

// decimal reads the digits that p begins with and the end after them: it returns the number and the
// bytes of both, 0 if p ends too soon. A number that is too large is math.MaxUint64.
func decimal(p []byte, end string) (value uint64, n int, err error) {
	for i, c := range p {
		switch {
		case '0' <= c && c <= '9':
			if value > (math.MaxUint64-9)/10 {
				return math.MaxUint64, i + 1, nil
			}
			value = 10*value + uint64(c-'0')
			continue
		case i == 0 || !bytes.HasPrefix([]byte(end), p[i:min(len(p), i+len(end))]):
			return 0, 0, fmt.Errorf("%q in a number", c)
		case len(p) < i+len(end):
			return 0, 0, nil
		}
		return value, i + len(end), nil
	}
	return 0, 0, nil
}

// SizeRESP is that of a reply or push of Redis, in RESP2 and RESP3 without streamed types. An
// attribute belongs to the reply after it.
func SizeRESP(p []byte) (int, error) {
	at := 0
	for values := 1; values > 0; values-- {
		if at >= len(p) {
			return 0, nil
		}
		switch p[at] {
		case '+', '-', ':', '_', '#', ',', '(':
			end := bytes.Index(p[at:], []byte("\r\n"))
			if end < 0 {
				return 0, nil
			}
			at += end + 2
			continue
		case '$', '=', '!', '*', '~', '>', '%', '|':
		default:
			return 0, fmt.Errorf("%q is no type", p[at])
		}
		kind, number := p[at], p[at+1:]
		if null := "-1\r\n"; len(number) > 0 && number[0] == '-' && (kind == '$' || kind == '*') {
			have := min(len(number), len(null))
			switch {
			case string(number[:have]) != null[:have]:
				return 0, errors.New("negative length")
			case have < len(null):
				return 0, nil
			}
			at += 1 + len(null)
			continue
		}
		n, digits, err := decimal(number, "\r\n")
		switch {
		case err != nil || digits == 0:
			return 0, err
		case n > math.MaxInt32/4: // of bytes, or of values of at least three
			return math.MaxInt, nil
		}
		at += 1 + digits
		switch kind {
		case '$', '=', '!':
			at += int(n) + 2
		case '*', '~', '>':
			values += int(n)
		case '%':
			values += 2 * int(n)
		case '|':
			values += 2*int(n) + 1
		}
	}
	return at, nil
}

// SizeWebSocket is that of the frames of a server: RFC 6455, section 5.2. They are not masked.
func SizeWebSocket(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, nil
	}
	if p[1]&0x80 != 0 {
		return 0, errors.New("masked frame")
	}
	switch length := p[1]; {
	case length < 126:
		return 2 + int(length), nil
	case length == 126 && len(p) >= 4:
		n := binary.BigEndian.Uint16(p[2:])
		if n < 126 {
			return 0, errors.New("length in more bytes than it takes")
		}
		return 4 + int(n), nil
	case length == 127 && len(p) >= 10:
		n := binary.BigEndian.Uint64(p[2:])
		if n <= math.MaxUint16 || n > math.MaxInt64 {
			return 0, errors.New("length in more bytes than it takes, or than there are")
		}
		return addSize(10, n), nil
	}
	return 0, nil
}

// SizeNATS is that of what a NATS server sends: a line, and after MSG and HMSG the bytes that
// its last number counts.
func SizeNATS(p []byte) (int, error) {
	if c := p[0] &^ 0x20; c < 'A' && p[0] != '+' && p[0] != '-' || c > 'Z' {
		return 0, errors.New("want an operation")
	}
	line, _, whole := bytes.Cut(p, []byte("\r\n"))
	if !whole {
		return 0, nil
	}
	fields := bytes.Fields(line)
	switch operation := fields[0]; {
	case !bytes.EqualFold(operation, []byte("MSG")) && !bytes.EqualFold(operation, []byte("HMSG")):
		return len(line) + 2, nil
	case len(fields) < 4:
		return 0, errors.New("MSG without a size")
	}
	n, _, err := decimal(append(bytes.Clone(fields[len(fields)-1]), ' '), " ")
	if err != nil {
		return 0, err
	}
	return addSize(len(line)+4, n), nil
}

// SizeSTX is that of a text between STX and ETX, followed by a check of one byte (ISO 1155), and of
// the single ACK and NAK that answer it.
func SizeSTX(p []byte) (int, error) {
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

// SizeSMTP is that of a reply of SMTP, RFC 5321 section 4.2.1: in all of its lines but the last a
// hyphen follows the code.
func SizeSMTP(p []byte) (int, error) {
	for at := 0; ; {
		line, _, whole := bytes.Cut(p[at:], []byte("\r\n"))
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
