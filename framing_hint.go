package tcpclient

import (
	"bytes"
	"fmt"
	"strconv"
)

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
	return fmt.Errorf("%w: %s, starts with %s%s", ErrInvalidFrame, fmt.Sprintf(format, args...), quoted, protocolGuess(header))
}
