package testkit

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// A FuncFramer is a Framer made of two functions. nil: as LengthPrefix{} does.
type FuncFramer struct {
	Read  func(r *bufio.Reader, dst []byte) ([]byte, error)
	Write func(w *bufio.Writer, msg []byte) error
}

// ReadFrame calls Read.
func (f FuncFramer) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if f.Read == nil {
		return tcpclient.LengthPrefix{}.ReadFrame(r, dst)
	}
	return f.Read(r, dst)
}

// WriteFrame calls Write.
func (f FuncFramer) WriteFrame(w *bufio.Writer, msg []byte) error {
	if f.Write == nil {
		return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
	}
	return f.Write(w, msg)
}

// Framers are one of each kind, and of each kind of setting.
var Framers = map[string]tcpclient.Framer{
	"LengthPrefix":             tcpclient.LengthPrefix{},
	"LengthPrefix/u8":          tcpclient.LengthPrefix{Width: 1},
	"LengthPrefix/u16le":       tcpclient.LengthPrefix{Width: 2, LittleEndian: true},
	"LengthPrefix/u24":         tcpclient.LengthPrefix{Width: 3},
	"LengthPrefix/u64":         tcpclient.LengthPrefix{Width: 8},
	"LengthPrefix/inclusive":   tcpclient.LengthPrefix{Adjust: -4},
	"Varint":                   tcpclient.Varint{},
	"Delimiter":                tcpclient.Delimiter{},
	"Delimiter/CRLF":           tcpclient.Delimiter{Delim: []byte("\r\n")},
	"Delimiter/overlapping":    tcpclient.Delimiter{Delim: []byte("\r\r\n")},
	"Delimiter/MLLP":           tcpclient.Delimiter{Start: []byte{0x0b}, Delim: []byte{0x1c, 0x0d}},
	"Lines":                    tcpclient.Lines{},
	"Lines/CRLF":               tcpclient.Lines{CRLF: true},
	"Netstring":                tcpclient.Netstring(),
	"OctetCounting":            tcpclient.OctetCounting(),
	"ContentLength":            tcpclient.ContentLength{},
	"Delimiter/unterminated":   tcpclient.Delimiter{AllowUnterminated: true},
	"Lines/unterminated":       tcpclient.Lines{AllowUnterminated: true},
	"Delimiter/long delimiter": tcpclient.Delimiter{Delim: []byte(strings.Repeat("a", 40) + "b")},
}

// Encode returns the stream of the messages.
func Encode(t testing.TB, f tcpclient.Framer, messages ...[]byte) []byte {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	for _, msg := range messages {
		require.NoError(t, f.WriteFrame(w, msg))
	}
	require.NoError(t, w.Flush())
	return b.Bytes()
}

// Decode returns the messages of the stream up to the first error.
func Decode(f tcpclient.Framer, r io.Reader, buffer int) (messages [][]byte, err error) {
	br := bufio.NewReaderSize(r, buffer)
	for {
		msg, err := f.ReadFrame(br, []byte{})
		if err != nil {
			return messages, err
		}
		messages = append(messages, msg)
	}
}

// ErrWaits is the end of a stream that goes on later: more bytes are to come.
var ErrWaits = errors.New("waits for more")

// ErrorKind is err in the words of the vectors.
func ErrorKind(err error) string {
	var large *tcpclient.FrameTooLargeError
	switch {
	case err == io.EOF || err == ErrWaits:
		return "none"
	case errors.As(err, &large):
		return "too_large"
	case errors.Is(err, tcpclient.ErrInvalidFrame):
		return "invalid"
	case err == io.ErrUnexpectedEOF:
		return "unexpected_eof"
	}
	return err.Error()
}
