package tcpclient_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func TestFramers(t *testing.T) { // P1
	for name, f := range testkit.Framers {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, tcpclienttest.TestFramer(f,
				[]byte("hello"), []byte("x"), bytes.Repeat([]byte("ab"), 100), []byte("0123456789")))
		})
	}
	t.Run("Fixed", func(t *testing.T) {
		require.NoError(t, tcpclienttest.TestFramer(tcpclient.Fixed{Size: 5}, []byte("hello"), []byte("world")))
	})
	t.Run("LengthPrefix with a kept header", func(t *testing.T) { // SMPP
		require.NoError(t, tcpclienttest.TestFramer(tcpclient.LengthPrefix{Adjust: -4, KeepHeader: true},
			[]byte("\x00\x00\x00\x10\x00\x00\x00\x15\x00\x00\x00\x00\x00\x00\x00\x01"), []byte("\x00\x00\x00\x05x")))
	})
	t.Run("Delimiter that is kept", func(t *testing.T) {
		require.NoError(t, tcpclienttest.TestFramer(tcpclient.Delimiter{Keep: true, Delim: []byte("\r\n"), Start: []byte("$")},
			[]byte("$hello\r\n"), []byte("$\r\n")))
	})
}

func TestFramingAtEverySplit(t *testing.T) { // P1, FAULTS S2, S4, S6
	messages := [][]byte{[]byte("hello"), []byte("w"), []byte("again and again")}
	for name, f := range testkit.Framers {
		if strings.Contains(name, "unterminated") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			stream := testkit.Encode(t, f, messages...)
			for i := range stream {
				got, err := testkit.Decode(f, io.MultiReader(bytes.NewReader(stream[:i]), bytes.NewReader(stream[i:])), 16)
				require.Equal(t, io.EOF, err)
				require.Equal(t, messages, got)

				got, err = testkit.Decode(f, bytes.NewReader(stream[:i]), 16)
				boundary := len(testkit.Encode(t, f, messages[:len(got)]...)) == i
				require.Equal(t, boundary, err == io.EOF, "cut at %d: %v", i, err)
				if !boundary {
					require.Equal(t, io.ErrUnexpectedEOF, err)
				}
			}
		})
	}
}

// block gives out its bytes in chunks, and then tells that the reader waits.
type block struct{ chunks [][]byte }

func (b *block) Read(p []byte) (int, error) {
	if len(b.chunks) == 0 {
		return 0, testkit.ErrWaits
	}
	n := copy(p, b.chunks[0])
	if b.chunks[0] = b.chunks[0][n:]; len(b.chunks[0]) == 0 {
		b.chunks = b.chunks[1:]
	}
	return n, nil
}

type vector struct {
	ID     string
	Source string
	Framer struct {
		Kind    string
		Options struct {
			Width      int      `json:"length_field_length"`
			Offset     int      `json:"length_field_offset"`
			Order      string   `json:"byte_order"`
			Adjust     int      `json:"length_adjustment"`
			Strip      int      `json:"initial_bytes_to_strip"`
			Max        *int     `json:"max_frame_length"`
			Delims     []string `json:"delimiters_hex"`
			Separator  string   `json:"line_separator_hex"`
			Start      string   `json:"start_hex"`
			StripDelim *bool    `json:"strip_delimiter"`
			AtEOF      string   `json:"unterminated_at_eof"`
			Size       int      `json:"frame_length"`
			Fallback   bool     `json:"fallback_line"`
		}
	}
	Direction   string
	Chunks      []string `json:"chunks_hex"`
	EOF         bool     `json:"eof_after"`
	Frames      []string `json:"frames_hex"`
	Error       *string
	ErrorAlsoOK any `json:"error_also_ok"`
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// framer returns the Framer that v is about and how many bytes to cut from its messages,
// or why there is none.
func (v *vector) framer(t *testing.T) (f tcpclient.Framer, cut int, why string) {
	o := v.Framer.Options
	limit := math.MaxInt32
	if o.Max != nil {
		limit = *o.Max
	}
	keep := o.StripDelim != nil && !*o.StripDelim
	emit := o.AtEOF == "emit"
	switch v.Framer.Kind {
	case "length":
		p := tcpclient.LengthPrefix{
			Width: o.Width, Offset: o.Offset, LittleEndian: o.Order == "little",
			Adjust: o.Adjust, MaxSize: limit,
		}
		if v.Direction == "decode" && o.Strip != o.Offset+o.Width {
			p.KeepHeader, cut = true, o.Strip
		}
		return p, cut, ""
	case "varint":
		return tcpclient.Varint{MaxSize: limit}, 0, ""
	case "fixed":
		return tcpclient.Fixed{Size: o.Size}, 0, ""
	case "line":
		if keep {
			return tcpclient.Delimiter{Delim: []byte("\r\n"), Keep: true, AllowUnterminated: emit, MaxSize: limit}, 0, ""
		}
		return tcpclient.Lines{CRLF: o.Separator == "0d0a", AllowUnterminated: emit, MaxSize: limit}, 0, ""
	case "delimiter":
		if len(o.Delims) != 1 {
			return nil, 0, "several delimiters are not supported"
		}
		return tcpclient.Delimiter{
			Delim: unhex(t, o.Delims[0]), Start: unhex(t, o.Start), Keep: keep, AllowUnterminated: emit, MaxSize: limit,
		}, 0, ""
	case "netstring":
		n := tcpclient.Netstring()
		n.MaxSize = limit
		return n, 0, ""
	case "octet-counting":
		if o.Fallback {
			return nil, 0, "a fallback to lines is not supported"
		}
		n := tcpclient.OctetCounting()
		n.MaxSize = limit
		return n, 0, ""
	case "content-length":
		return tcpclient.ContentLength{MaxSize: limit}, 0, ""
	}
	if size := testkit.Sizes[v.Framer.Kind]; size != nil {
		return tcpclient.Sized{Size: size, MaxSize: limit}, 0, ""
	}
	return nil, 0, "unknown kind " + v.Framer.Kind
}

func vectors(t testing.TB, file string) (vectors []vector) {
	data, err := os.ReadFile("testdata/vectors/" + file + ".json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &vectors))
	require.NotEmpty(t, vectors)
	return vectors
}

func TestVectors(t *testing.T) { // P1: what established implementations make of the same bytes
	for _, v := range slices.Concat(vectors(t, "framing"), vectors(t, "sized")) {
		t.Run(v.Framer.Kind+"/"+v.ID, func(t *testing.T) {
			f, cut, why := v.framer(t)
			if f == nil {
				t.Skip(why)
			}
			var chunks, frames [][]byte
			for _, c := range v.Chunks {
				chunks = append(chunks, unhex(t, c))
			}
			for _, c := range v.Frames {
				frames = append(frames, unhex(t, c))
			}
			if v.Direction == "encode" {
				v.encodes(t, f, chunks, frames)
				return
			}
			joined := bytes.Join(chunks, nil)
			var single [][]byte
			for i := range joined {
				single = append(single, joined[i:i+1])
			}
			for name, chunks := range map[string][][]byte{"as given": chunks, "joined": {joined}, "byte by byte": single} {
				v.decodes(t, name, f, cut, chunks, frames)
			}
		})
	}
}

func (v *vector) decodes(t *testing.T, name string, f tcpclient.Framer, cut int, chunks, frames [][]byte) {
	var r io.Reader = &block{append([][]byte(nil), chunks...)}
	if v.EOF {
		r = io.MultiReader(readers(chunks)...)
	}
	got, err := testkit.Decode(f, r, 4096)
	for i := range got {
		got[i] = got[i][cut:]
	}
	require.Equal(t, len(frames), len(got), "%s (%s): %v", name, v.Source, err)
	for i := range frames {
		require.Equal(t, string(frames[i]), string(got[i]), name)
	}
	want := "none"
	if v.Error != nil {
		want = *v.Error
	}
	kind := testkit.ErrorKind(err)
	if kind != want && fmt.Sprint(v.ErrorAlsoOK) != kind && !strings.Contains(fmt.Sprint(v.ErrorAlsoOK), kind) {
		t.Errorf("%s: got %v (%s), want %s", name, err, kind, want)
	}
}

func readers(chunks [][]byte) (r []io.Reader) {
	for _, c := range chunks {
		r = append(r, bytes.NewReader(c))
	}
	return r
}

func (v *vector) encodes(t *testing.T, f tcpclient.Framer, messages, frames [][]byte) {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	for i, msg := range messages {
		err := f.WriteFrame(w, msg)
		if i >= len(frames) {
			require.NotNil(t, v.Error)
			require.Equal(t, *v.Error, testkit.ErrorKind(err))
			require.Zero(t, w.Buffered()+b.Len(), "refused before a byte is written")
			return
		}
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		require.Equal(t, frames[i], b.Bytes())
		b.Reset()
	}
}

// TestFraming has the rows F of the list of faults.
func TestFraming(t *testing.T) {
	large := func(size uint64) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			var e *tcpclient.FrameTooLargeError
			require.ErrorAs(t, err, &e)
			require.Equal(t, size, e.Size)
		}
	}
	tooLarge := func(t *testing.T, err error) { require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError)) }
	unlimited := func(size uint64) func(*testing.T, error) {
		if math.MaxInt == math.MaxInt32 {
			return tooLarge // before all digits are known
		}
		return large(size)
	}
	invalid := func(t *testing.T, err error) { require.ErrorIs(t, err, tcpclient.ErrInvalidFrame) }
	says := func(text string) func(*testing.T, error) {
		return func(t *testing.T, err error) { require.ErrorContains(t, err, text) }
	}
	type check = func(*testing.T, error)
	u64 := tcpclient.LengthPrefix{Width: 8}
	noLimit := tcpclient.Decimal{Separator: ':', MaxSize: math.MaxInt}
	for _, tt := range []struct {
		name   string
		f      tcpclient.Framer
		stream string
		want   check
	}{
		{"F1 length 0xFFFFFFFF", tcpclient.LengthPrefix{}, "\xff\xff\xff\xff", large(math.MaxUint32)},
		{"F2 length 0x7FFFFFFF", tcpclient.LengthPrefix{}, "\x7f\xff\xff\xff", large(math.MaxInt32)},
		{"F2 length 0x80000000", tcpclient.LengthPrefix{}, "\x80\x00\x00\x00", large(1 << 31)},
		{"F3 length 2^63", u64, "\x80\x00\x00\x00\x00\x00\x00\x00", large(1 << 63)},
		{"F3 length 2^64-1", u64, "\xff\xff\xff\xff\xff\xff\xff\xff", large(math.MaxUint64)},
		{"F5 length below its own header", tcpclient.LengthPrefix{Adjust: -4}, "\x00\x00\x00\x03", invalid},
		{"F6 overflow after adjustment", tcpclient.LengthPrefix{Width: 8, Adjust: 1}, "\xff\xff\xff\xff\xff\xff\xff\xff", large(math.MaxUint64)},
		{"F8 varint of eleven bytes", tcpclient.Varint{}, strings.Repeat("\xff", 10) + "\x01", tooLarge},
		{"F8 varint above 64 bits", tcpclient.Varint{}, strings.Repeat("\xff", 9) + "\x02", tooLarge},
		{"F8 varint of 2^64", tcpclient.Varint{}, strings.Repeat("\x80", 9) + "\x02", large(0)},
		{"F8 varint of 2^70", tcpclient.Varint{}, strings.Repeat("\x80", 10) + "\x01", large(0)},
		{"F8 varint of 2^700", tcpclient.Varint{}, strings.Repeat("\x80", 100) + "\x01", large(0)},
		{"F8 varint of 2^63 without a limit", tcpclient.Varint{MaxSize: math.MaxInt}, strings.Repeat("\x80", 9) + "\x01", unlimited(1 << 63)},
		{"F8 varint padded to eleven bytes", tcpclient.Varint{}, "\x83" + strings.Repeat("\x80", 9) + "\x00abc", invalid},
		{"F8 varint padded without end", tcpclient.Varint{}, strings.Repeat("\x80", 10<<10), invalid},
		{"F9 leading zero", tcpclient.Netstring(), "05:hello,", invalid},
		{"F9 plus", tcpclient.Netstring(), "+5:hello,", invalid},
		{"F9 minus", tcpclient.Netstring(), "-5:hello,", invalid},
		{"F9 space", tcpclient.Netstring(), " 5:hello,", invalid},
		{"F9 20 digits", tcpclient.Netstring(), "18446744073709551616:", tooLarge},
		{"F9 20 digits without a limit", noLimit, "18446744073709551616:", unlimited(0)},
		{"F9 20 digits of 64 bits, without a limit", noLimit, "18446744073709551615:", unlimited(math.MaxUint64)},
		{"F9 100 digits", tcpclient.Netstring(), strings.Repeat("9", 100), tooLarge},
		{"F9 100 digits of octet counting", tcpclient.OctetCounting(), strings.Repeat("9", 100) + " ", tooLarge},
		{"F9 one above the limit", tcpclient.Netstring(), "4194305:", large(4194305)},
		{"F9 leading zero of 100 digits", tcpclient.Netstring(), "0" + strings.Repeat("9", 99) + ":", invalid},
		{"F9 letter after 3 digits", tcpclient.Netstring(), "999x:", invalid},
		{"F9 no separator", tcpclient.Netstring(), "5hello,", invalid},
		{"F9 no digits", tcpclient.Netstring(), ":hello,", invalid},
		{"F9 no digits of an empty message", tcpclient.Netstring(), ":,", invalid},
		{"F9 no digits of octet counting", tcpclient.OctetCounting(), " 1 x", invalid},
		{"F9 wrong trailer", tcpclient.Netstring(), "5:hello;", invalid},
		{"F9 zero without a trailer", tcpclient.OctetCounting(), "0 ", invalid},
		{"F9 Content-Length -5", tcpclient.ContentLength{}, "Content-Length: -5\r\n\r\n", invalid},
		{"F9 Content-Length of 20 digits", tcpclient.ContentLength{}, "Content-Length: 18446744073709551616\r\n\r\n", tooLarge},
		{"F9 Content-Length of 20 digits without a limit", tcpclient.ContentLength{MaxSize: math.MaxInt}, "Content-Length: 18446744073709551616\r\n\r\n", unlimited(0)},
		{"F9 Content-Length of 1000 digits", tcpclient.ContentLength{}, "content-length:" + strings.Repeat("9", 1000) + "\r\n\r\n", tooLarge},
		{"F9 Content-Length one above the limit", tcpclient.ContentLength{}, "Content-Length: 4194305\r\n\r\n", large(4194305)},
		{"F9 Content-Length of 20 zeros", tcpclient.ContentLength{}, "Content-Length: " + strings.Repeat("0", 20) + "\r\n\r\n", invalid},
		{"F9 Content-Length of two numbers", tcpclient.ContentLength{}, "Content-Length: 5 99999999\r\n\r\n", invalid},
		{"F9 Content-Length with a letter", tcpclient.ContentLength{}, "Content-Length: 5x\r\n\r\nhello", invalid},
		{"F9 Content-Length without a number", tcpclient.ContentLength{}, "Content-Length: \r\n\r\n", invalid},
		{"F9 Content-Length of a long line", tcpclient.ContentLength{}, "Content-Length: 5" + strings.Repeat(" ", 60) + "\r\n\r\nhello", invalid},
		{"F9 header field without a colon", tcpclient.ContentLength{}, "Content\r\nContent-Length: 5\r\n\r\nhello", invalid},
		{"F9 two Content-Lengths", tcpclient.ContentLength{}, "Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", invalid},
		{"F9 no Content-Length", tcpclient.ContentLength{}, "Content-Type: x\r\n\r\n", invalid},
		{"F9 bare LF in a header", tcpclient.ContentLength{}, "Content-Length: 5\n\nhello", invalid},
		{"F9 endless header", tcpclient.ContentLength{}, "X: " + strings.Repeat("y", 10<<10), invalid},
		{"F10 no delimiter", tcpclient.Lines{}, strings.Repeat("a", 10<<20), large(0)},
		{"F10 no long delimiter", tcpclient.Delimiter{Delim: []byte("ab")}, strings.Repeat("a", 10<<20), large(0)},
		{"F19 HTTP", tcpclient.LengthPrefix{}, "HTTP/1.1 400 Bad Request", says(`length 1213486160 = "HTTP": is this an HTTP server?`)},
		{"F19 SSH", tcpclient.LengthPrefix{}, "SSH-2.0-OpenSSH", says("is this an SSH server?")},
		{"F19 TLS alert", tcpclient.LengthPrefix{}, "\x15\x03\x03\x00\x02\x02\x28", says("TLS alert")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := testkit.Decode(tt.f, strings.NewReader(tt.stream), 4096)
			tt.want(t, err)
			buffered := bufio.NewReader(strings.NewReader(tt.stream))
			buffered.Peek(1)
			_, err = testkit.Decode(tt.f, buffered, 4096)
			tt.want(t, err)
			_, err = testkit.Decode(tt.f, iotest.OneByteReader(strings.NewReader(tt.stream)), 16)
			if !strings.HasPrefix(tt.name, "F19") { // the hint quotes what has arrived
				tt.want(t, err)
			}
		})
	}

	reads := func(t *testing.T, f tcpclient.Framer, stream string, want ...string) {
		for _, r := range []io.Reader{strings.NewReader(stream), iotest.OneByteReader(strings.NewReader(stream))} {
			got, err := testkit.Decode(f, r, 64)
			require.Equal(t, io.EOF, err)
			require.Equal(t, fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
		}
	}
	t.Run("F5 empty frames", func(t *testing.T) {
		reads(t, tcpclient.LengthPrefix{}, "\x00\x00\x00\x00\x00\x00\x00\x01x", "", "x")
		reads(t, tcpclient.Netstring(), "0:,1:x,", "", "x")
		reads(t, tcpclient.Lines{}, "\nx\n\r\n", "", "x", "")
	})
	t.Run("F8 padded varint", func(t *testing.T) {
		reads(t, tcpclient.Varint{}, "\x83\x00abc", "abc")
	})
	t.Run("F13 delimiters that overlap", func(t *testing.T) {
		reads(t, tcpclient.Delimiter{Delim: []byte("\r\r\n")}, "a\r\r\r\nb\r\n\r\r\n", "a\r", "b\r\n")
		reads(t, tcpclient.Delimiter{Delim: []byte("abab")}, "xababab\nabab", "x", "ab\n")
	})
	t.Run("F14 LF and CRLF mixed, and a lone CR", func(t *testing.T) {
		reads(t, tcpclient.Lines{}, "a\r\nb\nc\rd\n\r\r\n", "a", "b", "c\rd", "\r")
	})
	t.Run("F17 what the prefix cannot say is refused", func(t *testing.T) {
		requireRefused(t, tcpclient.LengthPrefix{Width: 2}, make([]byte, 70_000), large(70_000))
		requireRefused(t, tcpclient.LengthPrefix{MaxSize: 3}, []byte("four"), large(4))
		requireRefused(t, tcpclient.LengthPrefix{Width: 2, MaxSize: 3}, []byte("four"), large(4))
		requireRefused(t, tcpclient.Lines{MaxSize: 3}, []byte("four"), large(4))
		requireRefused(t, tcpclient.Fixed{Size: 3}, []byte("four"), func(t *testing.T, err error) { require.Error(t, err) })
		requireRefused(t, tcpclient.LengthPrefix{Offset: 2}, []byte("x"), invalid)
	})
	t.Run("F18 what would be read back otherwise is refused", func(t *testing.T) {
		requireRefused(t, tcpclient.Lines{}, []byte("a\nb"), invalid)
		requireRefused(t, tcpclient.Lines{}, []byte("a\r"), invalid)
		requireRefused(t, tcpclient.Delimiter{}, []byte("a\nb"), invalid)
		requireRefused(t, tcpclient.Delimiter{Delim: []byte("aa")}, []byte("xa"), invalid)
		requireRefused(t, tcpclient.Delimiter{Keep: true}, []byte("no end"), invalid)
		requireRefused(t, tcpclient.Delimiter{Keep: true}, []byte("a\nb\n"), invalid)
		requireRefused(t, tcpclient.OctetCounting(), nil, invalid)
	})
	t.Run("F22 nothing is read after an error", func(t *testing.T) {
		got, err := testkit.Decode(tcpclient.LengthPrefix{}, strings.NewReader("\x00\x00\x00\x01a\xff\xff\xff\xff\x00\x00\x00\x01b"), 64)
		require.Len(t, got, 1)
		large(math.MaxUint32)(t, err)
	})
	t.Run("unterminated messages at the end, if allowed", func(t *testing.T) {
		reads(t, tcpclient.Lines{AllowUnterminated: true}, "a\nb\r", "a", "b\r")
		reads(t, tcpclient.Delimiter{AllowUnterminated: true}, "a\nb", "a", "b")
	})
}

// A length that exceeds the limit is refused at the digit or byte that makes that certain: the
// peer may send no more.
func TestLengthAboveTheLimitIsRefusedBeforeItsEndHasCome(t *testing.T) { // section 2, E1
	for name, test := range map[string]struct {
		framer         tcpclient.Framer
		within, beyond string
		size           uint64
	}{
		"Netstring":            {tcpclient.Netstring(), "419430", "5", 4194305},
		"OctetCounting":        {tcpclient.OctetCounting(), "999999", "9", 9999999},
		"Decimal, 20 digits":   {tcpclient.Decimal{Separator: ':', MaxSize: math.MaxInt}, "1844674407370955161", "6", 0},
		"ContentLength":        {tcpclient.ContentLength{}, "Content-Type: x\r\nContent-Length: 419430", "5", 4194305},
		"Varint":               {tcpclient.Varint{}, "\xff\xff\xff", "\x82", 1<<22 | 1<<21 - 1},
		"Varint of 2^63":       {tcpclient.Varint{}, strings.Repeat("\x80", 9), "\x81", 1 << 63},
		"Varint of 2^64":       {tcpclient.Varint{}, strings.Repeat("\x80", 9), "\x82", 0},
		"Varint of 2^77":       {tcpclient.Varint{}, strings.Repeat("\x80", 11), "\x81", 0},
		"Varint, one too many": {tcpclient.Varint{MaxSize: 299}, "\xac", "\x02", 300},
	} {
		t.Run(name, func(t *testing.T) {
			if math.MaxInt == math.MaxInt32 && name == "Decimal, 20 digits" {
				return // the limit is 10 digits
			}
			waits := func(stream string) error {
				r := &block{[][]byte{[]byte(stream)}}
				_, err := test.framer.ReadFrame(bufio.NewReader(r), []byte("before"))
				return err
			}
			require.Equal(t, testkit.ErrWaits, waits(test.within))
			var large *tcpclient.FrameTooLargeError
			require.ErrorAs(t, waits(test.within+test.beyond), &large)
			require.Equal(t, test.size, large.Size)
		})
	}
}

func TestLengthOfManyDigitsCostsNoMemory(t *testing.T) { // P6, E1
	digits := strings.Repeat("9", 1<<20)
	for name, test := range map[string]struct {
		framer tcpclient.Framer
		stream string
	}{
		"Netstring":     {tcpclient.Netstring(), digits},
		"ContentLength": {tcpclient.ContentLength{}, "Content-Length: " + digits},
		"Varint":        {tcpclient.Varint{}, strings.Repeat("\xff", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Less(t, allocated(func() {
				_, err := testkit.Decode(test.framer, strings.NewReader(test.stream), 64)
				require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError))
			}), uint64(4<<10))
		})
	}
}

// sizedMessages are some of each protocol of testkit.Sizes, for TestFramer: different lengths,
// one longer than a bufio.Reader of 4096 where that is possible.
var sizedMessages = map[string][]string{
	"mqtt":      {"\xd0\x00", "\x32\x07\x00\x03a/b\x00\x0a", "\x30\xc1\x22" + strings.Repeat("x", 4417)},
	"ber":       {"\x05\x00", "\x30\x0a\x16\x05Smith\x01\x01\xff", "\x04\x82\x20\x00" + strings.Repeat("v", 8192), "\xff\x81\x01\x01a"},
	"fix":       {"8=FIX.4.2\x019=5\x0135=0\x0110=161\x01", "8=FIXT.1.1\x019=15\x0135=0\x01112=TEST1\x0110=000\x01"},
	"resp":      {"+OK\r\n", "$-1\r\n", "*2\r\n$5\r\nhello\r\n*1\r\n:7\r\n", "$5000\r\n" + strings.Repeat("\r\n", 2500) + "\r\n", "*60\r\n" + strings.Repeat("$4\r\nabcd\r\n", 60)},
	"websocket": {"\x89\x00", "\x81\x05Hello", "\x82\x7e\x13\x88" + strings.Repeat("b", 5000)},
	"nats":      {"PING\r\n", "MSG a 1 0\r\n\r\n", "MSG a 1 5000\r\n" + strings.Repeat("x", 5000) + "\r\n", "+OK\r\n"},
	"stx":       {"\x06", "\x02ab\x030", "\x02" + strings.Repeat("y", 5000) + "\x03z"},
	"smtp":      {"250 OK\r\n", "250-a\r\n250-b\r\n250 c\r\n", strings.Repeat("250-more\r\n", 60) + "250 HELP\r\n"},
	"u32":       {"\x00\x00\x00\x00", "\x00\x00\x00\x05hello", "\x00\x00\x13\x88" + strings.Repeat("m", 5000)},
}

func TestSized(t *testing.T) {
	for kind, size := range testkit.Sizes {
		t.Run("keeps the promises of a Framer with "+kind, func(t *testing.T) { // P1, P6
			var messages [][]byte
			for _, msg := range sizedMessages[kind] {
				messages = append(messages, []byte(msg))
			}
			require.NoError(t, tcpclienttest.TestFramer(tcpclient.Sized{Size: size}, messages...))
		})
	}

	t.Run("shows Size the message from its first byte, and calls it again only with more", func(t *testing.T) {
		stream := strings.Join(sizedMessages["resp"][:3], "")
		for _, buffer := range []int{16, 4096} {
			last, messages := "", 0
			f := tcpclient.Sized{Size: func(p []byte) (int, error) {
				require.NotEmpty(t, p)
				require.True(t, strings.HasPrefix(string(p), last))
				require.Greater(t, len(p), len(last))
				size, err := testkit.SizeRESP(p)
				if last = string(p); size > 0 {
					last, messages = "", messages+1
				}
				return size, err
			}}
			_, err := testkit.Decode(f, iotest.OneByteReader(strings.NewReader(stream)), buffer)
			require.Equal(t, io.EOF, err)
			require.Equal(t, 3, messages)
		}
	})

	t.Run("leaves in the bufio.Reader what follows a message of several reads", func(t *testing.T) { // P1
		r := bufio.NewReaderSize(&block{[][]byte{[]byte("250-a\r\n25"), []byte("0 b\r\n220 next\r\n")}}, 64)
		msg, err := tcpclient.Sized{Size: testkit.SizeSMTP}.ReadFrame(r, []byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before250-a\r\n250 b\r\n", string(msg))
		rest, _ := r.Peek(r.Buffered())
		require.Equal(t, "220 next\r\n", string(rest))
	})

	t.Run("returns dst as it was when the stream ends, wherever the size was told", func(t *testing.T) { // P1
		for _, chunks := range [][]string{{"\x30"}, {"\x30\x05ab"}, {"\x30", "\x05ab"}} {
			var parts [][]byte
			for _, c := range chunks {
				parts = append(parts, []byte(c))
			}
			msg, err := tcpclient.Sized{Size: testkit.SizeMQTT}.ReadFrame(bufio.NewReader(io.MultiReader(readers(parts)...)), []byte("before"))
			require.Equal(t, io.ErrUnexpectedEOF, err)
			require.Equal(t, "before", string(msg), "%q", chunks)
		}
	})

	t.Run("refuses a size above MaxSize with the byte that tells it", func(t *testing.T) { // P6, section 2
		for _, test := range []struct {
			f              tcpclient.Sized
			within, beyond string
			size           uint64
		}{
			{tcpclient.Sized{Size: testkit.SizeMQTT}, "\x30\xfd\xff\xff", "\x01", 4194306}, // the largest but one byte
			{tcpclient.Sized{Size: testkit.SizeMQTT, MaxSize: 9}, "\x30", "\x08", 10},
			{tcpclient.Sized{Size: testkit.SizeBER}, "\x04\x84\x01\x00\x00", "\x00", 1<<24 + 6},
			{tcpclient.Sized{Size: testkit.SizeSTX, MaxSize: 8}, "\x02abcdef", "g", 0}, // MaxSize bytes that do not tell
			{tcpclient.Sized{Size: testkit.SizeSTX, MaxSize: 8}, "\x02abcdef", "\x03", 9},
		} {
			_, err := testkit.Decode(test.f, &block{[][]byte{[]byte(test.within)}}, 64)
			require.Equal(t, testkit.ErrWaits, err)
			for _, chunks := range [][][]byte{{[]byte(test.within + test.beyond)}, {[]byte(test.within), []byte(test.beyond)}, {[]byte(test.within + test.beyond + "and more")}} {
				msg, err := test.f.ReadFrame(bufio.NewReader(&block{chunks}), []byte("before"))
				var large *tcpclient.FrameTooLargeError
				require.ErrorAs(t, err, &large, "%q", chunks)
				require.Equal(t, test.size, large.Size, "%q", chunks)
				require.True(t, strings.HasPrefix(test.within+test.beyond+"and more", string(large.Header)))
				require.Equal(t, "before", string(msg))
			}
		}
	})

	t.Run("delivers a message of MaxSize, and no longer one", func(t *testing.T) { // P6
		f := tcpclient.Sized{Size: testkit.SizeSTX, MaxSize: 8}
		got, err := testkit.Decode(f, strings.NewReader("\x02abcde\x03!\x06\x02abcdef\x03!"), 64)
		require.Equal(t, [][]byte{[]byte("\x02abcde\x03!"), []byte("\x06")}, got)
		require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError))
	})

	nothing := errors.New("nothing that I know")
	t.Run("makes of an error of Size one that Is it and ErrInvalidFrame, and quotes", func(t *testing.T) { // P9
		f := tcpclient.Sized{Size: func(p []byte) (int, error) { return 5, nothing }}
		msg, err := f.ReadFrame(bufio.NewReader(strings.NewReader("HTTP/1.1 400 Bad Request\r\n")), []byte("before"))
		require.ErrorIs(t, err, nothing)
		require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
		require.EqualError(t, err, `invalid frame: nothing that I know, starts with "HTTP/1.1 400 Bad": is this an HTTP server?`)
		require.Equal(t, "before", string(msg))
	})

	t.Run("refuses what Size cannot mean", func(t *testing.T) { // P1, section 2
		for name, size := range map[string]func(p []byte) (int, error){
			"negative":         func([]byte) (int, error) { return -1, nil },
			"the smallest int": func([]byte) (int, error) { return math.MinInt, nil },
			"no more than was too few": func(p []byte) (int, error) { // with a look at the next message
				if len(p) < 6 {
					return 0, nil
				}
				return 5, nil
			},
		} {
			msg, err := tcpclient.Sized{Size: size}.ReadFrame(bufio.NewReader(iotest.OneByteReader(strings.NewReader("abcdefgh"))), []byte("before"))
			require.ErrorIs(t, err, tcpclient.ErrInvalidFrame, name)
			require.ErrorContains(t, err, "Sized.Size returned", name)
			require.Equal(t, "before", string(msg), name)
		}
	})

	t.Run("refuses to write what is not one message", func(t *testing.T) { // P1, P4, FAULTS F17, F18
		f := tcpclient.Sized{Size: testkit.SizeMQTT, MaxSize: 8}
		for _, msg := range []string{"", "\x30", "\x30\x02a", "\xd0\x00\xd0\x00", "\x00\x00"} {
			requireRefused(t, f, []byte(msg), func(t *testing.T, err error) { require.ErrorIs(t, err, tcpclient.ErrInvalidFrame, "%q", msg) })
		}
		requireRefused(t, f, []byte("\x30\x07abcdefg"), func(t *testing.T, err error) {
			var large *tcpclient.FrameTooLargeError
			require.ErrorAs(t, err, &large)
			require.Equal(t, tcpclient.FrameTooLargeError{Size: 9, Max: 8}, *large)
		})
		requireRefused(t, tcpclient.Sized{Size: func([]byte) (int, error) { return 0, nothing }}, []byte("x"), func(t *testing.T, err error) {
			require.ErrorIs(t, err, nothing)
			require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
		})
	})

	t.Run("copies a long message that comes byte by byte a few times, not for each byte", func(t *testing.T) { // P6
		for _, kind := range []string{"u32", "late"} {
			size := testkit.Sizes[kind]
			if kind == "late" { // knows it only when all is here
				size = func(p []byte) (int, error) {
					if len(p) < 64<<10 {
						return 0, nil
					}
					return 64 << 10, nil
				}
			}
			stream := "\x00\x00\xff\xfc" + strings.Repeat("a", 64<<10-4)
			require.Less(t, allocated(func() {
				r := bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(stream)), 16)
				msg, err := tcpclient.Sized{Size: size}.ReadFrame(r, nil)
				require.NoError(t, err)
				require.Len(t, msg, 64<<10)
			}), uint64(5*64<<10), kind)
		}
	})

	t.Run("allocates nothing where dst has room", func(t *testing.T) { // P12
		for _, buffer := range []int{16, 4096} {
			f := tcpclient.Sized{Size: testkit.SizeSMTP}
			stream := []byte("250-eight or more lines, but here are only two\r\n250 HELP\r\n")
			src := bytes.NewReader(stream)
			r, w := bufio.NewReaderSize(src, buffer), bufio.NewWriter(io.Discard)
			dst := make([]byte, 0, 128)
			require.Zero(t, testing.AllocsPerRun(100, func() {
				src.Reset(stream)
				r.Reset(src)
				if msg, err := f.ReadFrame(r, dst); err != nil || len(msg) != len(stream) {
					t.Fatal(len(msg), err)
				}
			}), "reading, with a buffer of %d", buffer)
			require.Zero(t, testing.AllocsPerRun(100, func() { f.WriteFrame(w, stream) }), "writing")
		}
	})

	t.Run("in a Client: an error or a panic of Size ends the connection, a refused message does not", testkit.InBubble(func(t *testing.T) { // P4, P9
		for bad, want := range map[string]string{"\x00": "packet type 0 is reserved", "\xff": "panic: boom"} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: tcpclient.Sized{Size: func(p []byte) (int, error) {
				if p[0] == 0xff {
					panic("boom")
				}
				return testkit.SizeMQTT(p)
			}}})
			err := c.Send(t.Context(), []byte("\x30\x02a"))
			require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.NoError(t, c.Send(t.Context(), []byte("\xc0\x00")))
			ping := make([]byte, 2)
			_, err = io.ReadFull(p, ping)
			require.NoError(t, err)
			require.Equal(t, "\xc0\x00", string(ping))

			p.Raw([]byte("\xd0\x00" + bad))
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "\xd0\x00", string(msg))
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorContains(t, err, want)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
		}
	}))
}

func requireRefused(t *testing.T, f tcpclient.Framer, msg []byte, want func(*testing.T, error)) {
	t.Helper()
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	want(t, f.WriteFrame(w, msg))
	require.Zero(t, w.Buffered()+b.Len(), "%#v refuses before it writes", f)
}

func TestFramerSettings(t *testing.T) {
	for _, tt := range []struct {
		f    tcpclient.Framer
		want string
	}{
		{tcpclient.LengthPrefix{Width: 9}, "LengthPrefix.Width 9"},
		{tcpclient.LengthPrefix{Width: -1}, "LengthPrefix.Width -1"},
		{tcpclient.LengthPrefix{Offset: -1}, "LengthPrefix.Offset -1"},
		{tcpclient.LengthPrefix{MaxSize: -1}, "LengthPrefix.MaxSize -1"},
		{tcpclient.Varint{MaxSize: -1}, "Varint.MaxSize -1"},
		{tcpclient.Fixed{}, "Fixed.Size 0"},
		{tcpclient.Delimiter{Delim: []byte{}}, "Delimiter.Delim is empty"},
		{tcpclient.Delimiter{MaxSize: -1}, "Delimiter.MaxSize -1"},
		{tcpclient.Lines{MaxSize: -1}, "Lines.MaxSize -1"},
		{tcpclient.Decimal{}, "Decimal.Separator is not set"},
		{tcpclient.Decimal{Separator: '7'}, "Decimal.Separator '7' is a digit"},
		{tcpclient.ContentLength{MaxSize: -1}, "ContentLength.MaxSize -1"},
		{tcpclient.Sized{}, "Sized.Size is not set"},
		{&tcpclient.Sized{}, "Sized.Size is not set"},
		{tcpclient.Sized{Size: testkit.SizeMQTT, MaxSize: -1}, "Sized.MaxSize -1"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			d := tcpclient.Dialer{Framer: tt.f}
			_, err := d.Dial(t.Context(), "tcp", "127.0.0.1:1")
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			_, err = tt.f.ReadFrame(bufio.NewReader(strings.NewReader("\x00\x00\x00\x01x")), nil)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, tt.f.WriteFrame(bufio.NewWriter(io.Discard), []byte("x")), tt.want)
		})
	}
}

func TestFramingMemory(t *testing.T) { // P6, FAULTS F15
	for name, stream := range map[string]struct {
		f      tcpclient.Framer
		stream string
	}{
		"LengthPrefix":  {tcpclient.LengthPrefix{}, "\x00\x3f\xff\xffx"},
		"Varint":        {tcpclient.Varint{}, "\xff\xff\xff\x01x"},
		"Decimal":       {tcpclient.Netstring(), "4000000:x"},
		"ContentLength": {tcpclient.ContentLength{}, "Content-Length: 4000000\r\n\r\nx"},
		"Sized":         {tcpclient.Sized{Size: testkit.SizeBER}, "\x04\x83\x3f\xff\x00x"},
	} {
		t.Run(name+" costs what came, not what was announced", func(t *testing.T) {
			r := bufio.NewReaderSize(nil, 64)
			cost := allocated(func() {
				r.Reset(strings.NewReader(stream.stream))
				_, err := stream.f.ReadFrame(r, nil)
				require.Equal(t, io.ErrUnexpectedEOF, err)
			})
			require.Less(t, cost, uint64(16<<10))
		})
	}
	t.Run("a line of 64 KiB that comes byte by byte is copied a few times, not for each byte", func(t *testing.T) { // FAULTS F11
		line := strings.Repeat("a", 64<<10) + "\n"
		cost := allocated(func() {
			msg, err := tcpclient.Lines{}.ReadFrame(bufio.NewReader(iotest.OneByteReader(strings.NewReader(line))), nil)
			require.NoError(t, err)
			require.Len(t, msg, 64<<10)
		})
		require.Less(t, cost, uint64(4*64<<10))
	})
}

// allocated returns how many bytes a call of f allocates, of some the fewest.
func allocated(f func()) uint64 {
	fewest := uint64(math.MaxUint64)
	for range 10 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		fewest = min(fewest, after.TotalAlloc-before.TotalAlloc)
	}
	return fewest
}

func TestFramingAllocations(t *testing.T) { // P12
	for name, f := range testkit.Framers {
		if name == "Delimiter/long delimiter" {
			continue // a delimiter of more than 16 bytes costs an allocation
		}
		t.Run(name, func(t *testing.T) {
			msg := bytes.Repeat([]byte("m"), 64)
			stream := testkit.Encode(t, f, msg)
			src := bytes.NewReader(stream)
			r, w := bufio.NewReader(src), bufio.NewWriter(io.Discard)
			buf := make([]byte, 0, 128)
			require.Zero(t, testing.AllocsPerRun(100, func() {
				src.Reset(stream)
				r.Reset(src)
				var err error
				if buf, err = f.ReadFrame(r, buf[:0]); err != nil {
					t.Fatal(err)
				}
			}), "reading")
			require.Zero(t, testing.AllocsPerRun(100, func() { f.WriteFrame(w, msg) }), "writing")
		})
	}
}

// fuzzFramer has the three oracles: any bytes give the same frames however they are cut;
// what was read is written back and read again as the same; memory follows the bytes.
func fuzzFramer(f *testing.F, framer tcpclient.Framer, seeds ...string) {
	for _, seed := range seeds {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) { requireOracles(t, framer, stream, cut) })
}

func requireOracles(t *testing.T, framer tcpclient.Framer, stream []byte, cut uint8) {
	whole, err := testkit.Decode(framer, bytes.NewReader(stream), 4096)
	single, err1 := testkit.Decode(framer, iotest.OneByteReader(bytes.NewReader(stream)), 16)
	chunked, err2 := testkit.Decode(framer, &chunkReader{stream, int(cut)%17 + 1}, 32)
	require.Equal(t, whole, single)
	require.Equal(t, whole, chunked)
	require.Equal(t, testkit.ErrorKind(err), testkit.ErrorKind(err1))
	require.Equal(t, testkit.ErrorKind(err), testkit.ErrorKind(err2))
	total := 0
	for _, msg := range whole {
		total += len(msg)
		require.LessOrEqual(t, cap(msg), 4096+4*len(stream))
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		if framer.WriteFrame(w, msg) != nil {
			require.Zero(t, w.Buffered()+b.Len())
			continue // a lone CR in a line, say: it can be read, and not be written
		}
		require.NoError(t, w.Flush())
		again, err := testkit.Decode(framer, &b, 4096)
		require.Equal(t, io.EOF, err)
		require.Equal(t, [][]byte{msg}, again)
	}
	require.LessOrEqual(t, total, len(stream))
}

// A chunkReader gives out n bytes at a time.
type chunkReader struct {
	rest []byte
	n    int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.n)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func FuzzLengthPrefix(f *testing.F) {
	fuzzFramer(f, tcpclient.LengthPrefix{MaxSize: 1 << 16}, "\x00\x00\x00\x05hello\x00\x00\x00\x00", "\xff\xff\xff\xff", "HTTP/1.1")
}

func FuzzLengthPrefixHeader(f *testing.F) {
	fuzzFramer(f, tcpclient.LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true, MaxSize: 1 << 16}, "Z\x00\x00\x00\x05I", "Z\x00\x00\x00\x03")
}

func FuzzVarint(f *testing.F) {
	fuzzFramer(f, tcpclient.Varint{MaxSize: 1 << 16}, "\x05hello", "\x83\x00abc", strings.Repeat("\xff", 11), strings.Repeat("\x80", 10)+"\x01", strings.Repeat("\x80", 9)+"\x02", "\x80\x80\x04", "\x83"+strings.Repeat("\x80", 9)+"\x00abc")
}

func FuzzDelimiter(f *testing.F) {
	fuzzFramer(f, tcpclient.Delimiter{Delim: []byte("\r\r\n"), MaxSize: 64}, "a\r\r\r\nb\r\r\n", strings.Repeat("\r", 80))
}

func FuzzDelimiterStart(f *testing.F) {
	fuzzFramer(f, tcpclient.Delimiter{Start: []byte{0x0b}, Delim: []byte{0x1c, 0x0d}, Keep: true}, "\x0bMSH|\x1c\x0d")
}

func FuzzLines(f *testing.F) {
	fuzzFramer(f, tcpclient.Lines{MaxSize: 64}, "a\r\nb\nc\rd\n", strings.Repeat("x", 70))
}

func FuzzFixed(f *testing.F) {
	fuzzFramer(f, tcpclient.Fixed{Size: 3}, "abcdefgh")
}

func FuzzDecimal(f *testing.F) {
	fuzzFramer(f, tcpclient.Netstring(), "5:hello,0:,", "05:hello,", "99999999999999999999:", "4194305:", strings.Repeat("1", 100)+",")
}

func FuzzOctetCounting(f *testing.F) {
	fuzzFramer(f, tcpclient.OctetCounting(), "5 hello1 x", "0 ", "12", "18446744073709551616 ")
}

func FuzzContentLength(f *testing.F) {
	fuzzFramer(f, tcpclient.ContentLength{MaxSize: 1 << 16}, "Content-Length: 5\r\n\r\nhello", "content-type: x\r\nCONTENT-LENGTH:1\r\n\r\nx", "HTTP/1.1 400 Bad Request\r\n", "Content-Length: 65537\r\n\r\n", "Content-Length: 18446744073709551616\r\n\r\n", "Content-Length: 00000000000000000005\r\n\r\nhello", "Content-Length: 5 6\r\n\r\nhello")
}

func FuzzSized(f *testing.F) {
	kinds := slices.Sorted(maps.Keys(testkit.Sizes))
	for i, kind := range kinds {
		for _, msg := range sizedMessages[kind] {
			f.Add(uint8(i), []byte(msg+msg), uint8(3))
		}
	}
	for _, v := range vectors(f, "sized") {
		stream, err := hex.DecodeString(strings.Join(v.Chunks, ""))
		require.NoError(f, err)
		f.Add(uint8(slices.Index(kinds, v.Framer.Kind)), stream, uint8(7))
	}
	f.Fuzz(func(t *testing.T, kind uint8, stream []byte, cut uint8) {
		name := kinds[int(kind)%len(kinds)]
		framer := tcpclient.Sized{Size: testkit.Sizes[name], MaxSize: 1 << 12}
		requireOracles(t, framer, stream, cut)
		if name == "u32" { // what LengthPrefix makes of it
			same := tcpclient.LengthPrefix{KeepHeader: true, MaxSize: 1 << 12}
			want, wantErr := testkit.Decode(same, bytes.NewReader(stream), 4096)
			got, err := testkit.Decode(framer, bytes.NewReader(stream), 4096)
			require.Equal(t, want, got)
			require.Equal(t, testkit.ErrorKind(wantErr), testkit.ErrorKind(err))
		}
	})
}

// FuzzSizedHostile has Size return anything: by the number of bytes it is given, another of answers.
func FuzzSizedHostile(f *testing.F) {
	f.Add([]byte("abcdefgh"), []byte{0, 0, 5, 1}, uint8(1))
	f.Add([]byte("abcdefgh"), []byte{0, 255, 254, 253}, uint8(3))
	f.Fuzz(func(t *testing.T, stream, answers []byte, cut uint8) {
		framer := tcpclient.Sized{MaxSize: 64, Size: func(p []byte) (int, error) {
			if len(answers) == 0 {
				return 0, nil
			}
			switch a := answers[len(p)%len(answers)]; a {
			case 255:
				return math.MaxInt, nil
			case 254:
				return math.MinInt, nil
			case 253:
				return 0, io.EOF
			default:
				return int(int8(a)), nil
			}
		}}
		r := bufio.NewReaderSize(&chunkReader{stream, int(cut)%40 + 1}, 16)
		for read := 0; ; {
			msg, err := framer.ReadFrame(r, []byte("before"))
			require.Equal(t, "before", string(msg[:6]))
			if err != nil {
				require.Len(t, msg, 6)
				return
			}
			require.Equal(t, stream[read:read+len(msg)-6], msg[6:], "nothing is lost, and nothing twice")
			require.Greater(t, len(msg), 6)
			require.LessOrEqual(t, len(msg), 6+64)
			require.LessOrEqual(t, cap(msg), 4*(6+64))
			read += len(msg) - 6
		}
	})
}

func BenchmarkReadFrame(b *testing.B) {
	for name, f := range testkit.Framers {
		for _, size := range []int{64, 1024, 64 << 10} {
			msg := bytes.Repeat([]byte("m"), size)
			w := bufio.NewWriterSize(io.Discard, 16)
			if f.WriteFrame(w, msg) != nil {
				continue
			}
			b.Run(fmt.Sprintf("framer=%s/size=%d", strings.ReplaceAll(name, "/", "-"), size), func(b *testing.B) {
				benchmarkReadFrame(b, f, msg)
			})
		}
	}
}

func benchmarkReadFrame(b *testing.B, f tcpclient.Framer, msg []byte) {
	stream := bytes.Repeat(testkit.Encode(b, f, msg), 1+(1<<20)/len(msg))
	src := bytes.NewReader(stream)
	r := bufio.NewReaderSize(src, 64<<10)
	buf := make([]byte, 0, 2*len(msg))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.ReadFrame(r, buf); err == io.EOF {
			src.Reset(stream)
			r.Reset(src)
		}
	}
}

// BenchmarkSized compares Sized with LengthPrefix, which does the same here.
func BenchmarkSized(b *testing.B) {
	for name, f := range map[string]tcpclient.Framer{
		"LengthPrefix": tcpclient.LengthPrefix{KeepHeader: true}, "Sized": tcpclient.Sized{Size: testkit.SizeU32},
	} {
		for _, size := range []int{64, 1024, 64 << 10} {
			msg := append(binary.BigEndian.AppendUint32(nil, uint32(size-4)), make([]byte, size-4)...)
			b.Run(fmt.Sprintf("framer=%s/size=%d", name, size), func(b *testing.B) {
				benchmarkReadFrame(b, f, msg)
			})
		}
	}
}

func BenchmarkWriteFrame(b *testing.B) {
	for name, f := range testkit.Framers {
		b.Run(fmt.Sprintf("framer=%s/size=64", strings.ReplaceAll(name, "/", "-")), func(b *testing.B) {
			msg := bytes.Repeat([]byte("m"), 64)
			w := bufio.NewWriterSize(io.Discard, 64<<10)
			b.SetBytes(64)
			b.ReportAllocs()
			for b.Loop() {
				f.WriteFrame(w, msg)
			}
		})
	}
}

func TestFramersWithoutLimit(t *testing.T) {
	// The largest sizes that can be set and announced must not overflow anything.
	const large = "9223372036854775807" // math.MaxInt64
	for name, test := range map[string]struct {
		framer tcpclient.Framer
		stream string
	}{
		"LengthPrefix":               {tcpclient.LengthPrefix{Width: 8, MaxSize: math.MaxInt}, "\x7f\xff\xff\xff\xff\xff\xff\xffabc"},
		"LengthPrefix of 4 bytes":    {tcpclient.LengthPrefix{MaxSize: math.MaxInt32}, "\x7f\xff\xff\xffabc"},
		"LengthPrefix with a header": {tcpclient.LengthPrefix{Offset: 100, Width: 8, MaxSize: math.MaxInt}, strings.Repeat("\x00", 100) + "\x7f\xff\xff\xff\xff\xff\xff\xffabc"},
		"Varint":                     {tcpclient.Varint{MaxSize: math.MaxInt}, "\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc"},
		"Fixed":                      {tcpclient.Fixed{Size: math.MaxInt}, "abc"},
		"Decimal":                    {tcpclient.Decimal{Separator: ':', MaxSize: math.MaxInt}, large + ":abc"},
		"ContentLength":              {tcpclient.ContentLength{MaxSize: math.MaxInt}, "Content-Length: " + large + "\r\n\r\nabc"},
		"Sized":                      {tcpclient.Sized{MaxSize: math.MaxInt, Size: func([]byte) (int, error) { return math.MaxInt - 1, nil }}, "abc"},
		"Sized that cannot tell":     {tcpclient.Sized{MaxSize: math.MaxInt, Size: func([]byte) (int, error) { return 0, nil }}, "abc"},
	} {
		t.Run(name+" read what there is, after whatever dst holds", func(t *testing.T) { // P6
			for _, dst := range []string{"", "before"} {
				var err error
				require.NotPanics(t, func() {
					_, err = test.framer.ReadFrame(bufio.NewReaderSize(strings.NewReader(test.stream), 16), []byte(dst))
				}, "dst is %q", dst)
				require.Error(t, err)
				if math.MaxInt == math.MaxInt64 { // else some of these are too large
					require.ErrorIs(t, err, io.ErrUnexpectedEOF, "dst is %q", dst)
				}
			}
		})
	}
}

func TestUnterminatedMessage(t *testing.T) {
	for name, test := range map[string]struct {
		framer tcpclient.Framer
		stream string
		size   uint64
	}{
		"that ends in half a line end":  {tcpclient.Lines{AllowUnterminated: true, MaxSize: 4}, "abcd\r", 5},
		"that ends in half a delimiter": {tcpclient.Delimiter{Delim: []byte("-----END"), AllowUnterminated: true, MaxSize: 4}, "abcd-----EN", 11},
		"that begins with a Start":      {tcpclient.Delimiter{Start: []byte("<"), Delim: []byte("-----END"), AllowUnterminated: true, MaxSize: 4}, "<abcd--", 6},
	} {
		t.Run("above MaxSize is refused, one "+name, func(t *testing.T) { // P6
			msg, err := test.framer.ReadFrame(bufio.NewReader(strings.NewReader(test.stream)), []byte("before"))
			var tooLarge *tcpclient.FrameTooLargeError
			require.ErrorAs(t, err, &tooLarge)
			require.Equal(t, test.size, tooLarge.Size)
			require.Equal(t, 4, tooLarge.Max)
			require.Equal(t, "before", string(msg))
		})
	}

	t.Run("of MaxSize with half a delimiter is delivered", func(t *testing.T) {
		msg, err := tcpclient.Lines{AllowUnterminated: true, MaxSize: 4}.ReadFrame(bufio.NewReader(strings.NewReader("abc\r")), nil)
		require.NoError(t, err)
		require.Equal(t, "abc\r", string(msg))
	})
}

// What dst holds is the caller's: a Framer appends to it, and takes nothing away.
func TestEmptyMessageLeavesWhatDstHolds(t *testing.T) {
	for name, test := range map[string]struct {
		framer tcpclient.Framer
		stream string
	}{
		"Lines":                        {tcpclient.Lines{}, "\n"},
		"Lines with CRLF":              {tcpclient.Lines{}, "\r\n"},
		"Lines, the end of the stream": {tcpclient.Lines{AllowUnterminated: true}, "\n"},
		"Delimiter":                    {tcpclient.Delimiter{}, "\n"},
		"Delimiter of two bytes":       {tcpclient.Delimiter{Delim: []byte("\r\n")}, "\r\n"},
		"Netstring":                    {tcpclient.Netstring(), "0:,"},
		"LengthPrefix":                 {tcpclient.LengthPrefix{}, "\x00\x00\x00\x00"},
	} {
		for _, dst := range []string{"\r", "before\r", "before\r\n", "\n", "\r\n"} {
			t.Run(fmt.Sprintf("%s, dst is %q", name, dst), func(t *testing.T) { // P1
				for _, size := range []int{len(dst), 100} { // of its memory
					msg, err := test.framer.ReadFrame(bufio.NewReader(strings.NewReader(test.stream)), append(make([]byte, 0, size), dst...))
					require.NoError(t, err)
					require.Equal(t, dst, string(msg))
				}
			})
		}
	}
}

// A peeking is a Framer of a user that has its WriteFrame from one of ours. Its messages
// have a fixed size, and are what Peek shows: the memory of the bufio.Reader.
type peeking struct {
	tcpclient.LengthPrefix
	size int
}

func (f peeking) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg, err := r.Peek(f.size)
	if err != nil {
		return nil, err
	}
	r.Discard(f.size)
	return msg, nil
}

func TestEmbeddedFramer(t *testing.T) {
	for name, embed := range map[string]func(size int) tcpclient.Framer{
		"a value":   func(size int) tcpclient.Framer { return peeking{size: size} },
		"a pointer": func(size int) tcpclient.Framer { return &peeking{size: size} },
	} {
		t.Run(name+" may Peek at all of ReadBuffer", testkit.InBubble(func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: embed(1000), ReadBuffer: 1000})
			go p.Write(testkit.Pattern(1000))
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, testkit.Pattern(1000), msg)
		}))

		t.Run(name+" may return the memory of its bufio.Reader", testkit.InBubble(func(t *testing.T) { // P1
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: embed(5)})
			want := []string{"aaaaa", "bbbbb", "ccccc"}
			for _, msg := range want {
				p.Raw([]byte(msg))
				synctest.Wait()
			}
			for _, want := range want {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		}))
	}

	t.Run("by pointer: the settings of one of ours are checked", func(t *testing.T) {
		d := tcpclient.Dialer{Framer: &tcpclient.LengthPrefix{Width: 9}}
		_, err := d.Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "Dialer.Framer: ")
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
}

func TestHeaderThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		framer       tcpclient.Framer
		buffer, size int
	}{
		"a LengthPrefix when the buffer is full":    {tcpclient.LengthPrefix{}, 4096, 4092},
		"a Varint when the buffer is full":          {tcpclient.Varint{}, 4096, 4094},
		"a ContentLength larger than the buffer":    {tcpclient.ContentLength{}, 16, 40},
		"a kept header larger than the buffer":      {tcpclient.LengthPrefix{Offset: 20, KeepHeader: true}, 16, 40},
		"a kept header much larger than the buffer": {tcpclient.LengthPrefix{Offset: 65531, KeepHeader: true}, 4096, 70_000},
	} {
		t.Run("allocates nothing: "+name, func(t *testing.T) { // P12
			w, msg := bufio.NewWriterSize(io.Discard, c.buffer), make([]byte, c.size)
			require.Zero(t, testing.AllocsPerRun(100, func() { require.NoError(t, c.framer.WriteFrame(w, msg)) }))
		})
	}
}
