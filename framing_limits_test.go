package tcpclient_test

import (
	"bufio"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

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
	} {
		t.Run(name+" read what there is, behind whatever dst holds", func(t *testing.T) { // P6
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
