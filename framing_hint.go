package tcpclient

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// protocolHint returns what the first bytes of a refused frame have to tell: the start
// of a message to people is quoted, and a protocol that is known by its first bytes gets
// its name. lengthToo says that the text explains size as well.
//
//	, starts with "HTTP/1.1 400 Bad", length 1213486160 = "HTTP": is this an HTTP server?
//	, starts with 15 03 03 00 02 02 28: a TLS alert, does the server want TLS?
func protocolHint(size uint64, header []byte) (hint string, lengthToo bool) {
	guess := protocolGuess(header)
	if !isText(header) {
		if guess == "" {
			return "", false
		}
		return fmt.Sprintf(", starts with % x%s", header, guess), false
	}
	hint = ", starts with " + strconv.Quote(string(header))
	if len(header) >= 4 && size == uint64(binary.BigEndian.Uint32(header)) {
		hint += fmt.Sprintf(", length %d = %q", size, header[:4])
		lengthToo = true
		if guess == "" {
			guess = ": is this a text protocol?"
		}
	}
	return hint + guess, lengthToo
}

// protocolGuess returns which protocol begins with p, as the end of an error message, or
// nothing. Two bytes of TLS would be too few: they are a fair length of their own.
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

// isText reports whether p can be shown to people: printable ASCII, tabs and line ends.
func isText(p []byte) bool {
	for _, c := range p {
		if (c < ' ' || c > '~') && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return len(p) > 0
}

// invalidFrame is ErrInvalidFrame for bytes received that begin with header, which it
// quotes.
func invalidFrame(header []byte, format string, args ...any) error {
	quoted := fmt.Sprintf("% x", header)
	if isText(header) {
		quoted = strconv.Quote(string(header))
	}
	return fmt.Errorf("%w: %s, starts with %s%s", ErrInvalidFrame, fmt.Sprintf(format, args...), quoted, protocolGuess(header))
}
