package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// respLimit is the size that a RESP value may have.
const respLimit = 8 << 20

// A respFramer frames the values of the Redis protocol, RESP 2 and 3. A message is one
// whole value, as it is on the wire: "+OK\r\n", "$5\r\nhello\r\n", or an array with all
// its elements.
type respFramer struct{}

func (respFramer) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	start := len(dst)
	for values := 1; values > 0; values-- {
		lineStart := len(dst)
		var err error
		if dst, err = appendLine(r, dst, start+respLimit); err != nil {
			if err == io.EOF && len(dst) > start {
				err = io.ErrUnexpectedEOF
			}
			return dst, err
		}
		line := dst[lineStart : len(dst)-2]
		if len(line) == 0 {
			return dst, fmt.Errorf("%w: empty line for a RESP value", tcpclient.ErrInvalidFrame)
		}
		switch line[0] {
		case '+', '-', ':', '_', ',', '#', '(':
			continue // the line is the value
		case '$', '=', '!', '*', '~', '>', '%':
		default:
			return dst, fmt.Errorf("%w: RESP type %q", tcpclient.ErrInvalidFrame, line[0])
		}
		n, err := strconv.ParseUint(string(line[1:]), 10, 32)
		if string(line[1:]) == "-1" {
			continue // the null of RESP 2
		}
		if err != nil {
			return dst, fmt.Errorf("%w: RESP length %q", tcpclient.ErrInvalidFrame, line)
		}
		if n > respLimit {
			return dst, &tcpclient.FrameTooLargeError{Size: n, Max: respLimit, Header: bytes.Clone(line[:min(len(line), 16)])}
		}
		switch line[0] {
		case '%':
			values += 2 * int(n)
		case '*', '~', '>':
			values += int(n)
		default:
			if dst, err = appendBytes(r, dst, int(n)+2, start+respLimit); err != nil {
				return dst, err
			}
			if !bytes.HasSuffix(dst, []byte("\r\n")) {
				return dst, fmt.Errorf("%w: RESP string without an end", tcpclient.ErrInvalidFrame)
			}
		}
		if values > respLimit {
			return dst, &tcpclient.FrameTooLargeError{Max: respLimit} // each value takes a byte at least
		}
	}
	return dst, nil
}

func (f respFramer) WriteFrame(w *bufio.Writer, msg []byte) error {
	rest := bytes.NewReader(msg)
	r := bufio.NewReader(rest)
	if value, err := f.ReadFrame(r, nil); err != nil || len(value) != len(msg) {
		return fmt.Errorf("%w: %.40q is not one RESP value", tcpclient.ErrInvalidFrame, msg)
	}
	_, err := w.Write(msg)
	return err
}

// appendLine appends a line and its CRLF to dst, which may have up to limit bytes.
func appendLine(r *bufio.Reader, dst []byte, limit int) ([]byte, error) {
	start := len(dst)
	for {
		part, err := r.ReadSlice('\n')
		if len(dst)+len(part) > limit {
			return dst, &tcpclient.FrameTooLargeError{Max: respLimit}
		}
		dst = append(dst, part...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err != nil:
			return dst, err
		case !bytes.HasSuffix(dst[start:], []byte("\r\n")):
			return dst, fmt.Errorf("%w: RESP line without CR", tcpclient.ErrInvalidFrame)
		}
		return dst, nil
	}
}

// appendBytes appends n bytes to dst, which may have up to limit bytes. It makes room for
// what has come, not for what was announced.
func appendBytes(r *bufio.Reader, dst []byte, n, limit int) ([]byte, error) {
	if n > limit-len(dst) {
		return dst, &tcpclient.FrameTooLargeError{Size: uint64(n), Max: respLimit}
	}
	for n > 0 {
		if _, err := r.Peek(1); err == io.EOF {
			return dst, io.ErrUnexpectedEOF
		} else if err != nil {
			return dst, err
		}
		part, _ := r.Peek(min(n, r.Buffered()))
		dst = append(dst, part...)
		n -= len(part)
		r.Discard(len(part))
	}
	return dst, nil
}

// command makes a RESP array of strings, as Redis wants its commands.
func command(words ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, word := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(word), word)
	}
	return b
}

func TestRESPFramer(t *testing.T) {
	require.NoError(t, tcpclienttest.TestFramer(respFramer{},
		[]byte("+OK\r\n"),
		[]byte("$-1\r\n"),
		[]byte("$0\r\n\r\n"),
		[]byte("$7\r\n\r\n+OK\r\n\r\n"),
		[]byte("*0\r\n"),
		[]byte("*2\r\n*2\r\n:1\r\n:2\r\n%1\r\n+a\r\n_\r\n"),
		command("SET", "key", string(make([]byte, 100_000))),
	))
}
