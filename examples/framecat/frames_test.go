package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestParseFraming(t *testing.T) {
	for flag, want := range map[string]tcpclient.Framer{
		"u32":                           tcpclient.LengthPrefix{Width: 4},
		"u16le":                         tcpclient.LengthPrefix{Width: 2, LittleEndian: true},
		"u16,offset=4,keep":             tcpclient.LengthPrefix{Width: 2, Offset: 4, KeepHeader: true},
		"u24,le,adjust=1,keep,max=100":  tcpclient.LengthPrefix{Width: 3, LittleEndian: true, Adjust: 1, KeepHeader: true, MaxSize: 100},
		"u32,adjust=-4,keep":            tcpclient.LengthPrefix{Width: 4, Adjust: -4, KeepHeader: true},
		"varint,max=9":                  tcpclient.Varint{MaxSize: 9},
		"lines":                         tcpclient.Lines{},
		"line,crlf,unterminated":        tcpclient.Lines{CRLF: true, AllowUnterminated: true},
		"crlf":                          tcpclient.Lines{CRLF: true},
		`delim=\x1c\r,start=\x0b`:       tcpclient.Delimiter{Delim: []byte("\x1c\r"), Start: []byte("\x0b")},
		`delim=\x2c"\u00e9,keep,max=80`: tcpclient.Delimiter{Delim: []byte(",\"é"), Keep: true, MaxSize: 80},
		"delim=\\xff,unterminated":      tcpclient.Delimiter{Delim: []byte("\xff"), AllowUnterminated: true},
		"fixed=5":                       tcpclient.Fixed{Size: 5},
		"fixed:5":                       tcpclient.Fixed{Size: 5},
		"netstring,max=5":               tcpclient.Decimal{Separator: ':', Trailer: ",", MaxSize: 5},
		"octet":                         tcpclient.OctetCounting(),
		`decimal=|,trailer=\r\n`:        tcpclient.Decimal{Separator: '|', Trailer: "\r\n"},
		"content-length,max=7":          tcpclient.ContentLength{MaxSize: 7},
	} {
		f, err := parseFraming(flag)
		require.NoError(t, err, flag)
		require.Equal(t, want, f.Framer, flag)
	}

	t.Run("a client of SMTP sends lines and reads replies", func(t *testing.T) {
		f, err := parseFraming("smtp,max=60")
		require.NoError(t, err)
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		require.NoError(t, f.dialer().WriteFrame(w, []byte("QUIT\r\n")))
		w.Flush()
		require.Equal(t, "QUIT\r\n", b.String())
		msg, err := f.dialer().ReadFrame(bufio.NewReader(strings.NewReader("250-a\r\n250 b\r\n")), nil)
		require.NoError(t, err)
		require.Equal(t, "250-a\r\n250 b\r\n", string(msg))
	})

	for flag, reason := range map[string]string{
		"":                        "unknown",
		"morse":                   "unknown",
		"u12":                     "unknown",
		"varintle":                `no option "le"`,
		"u16,offset":              "offset",
		"u16,offset=x":            "offset=x",
		"u16,keep=1":              "keep takes no value",
		"u16,adjust=-70000":       "Adjust",
		"u16,start=x":             `no option "start"`,
		"u16,max=-1":              "MaxSize",
		"fixed":                   "Size",
		"fixed=0":                 "fixed=0",
		"fixed=5,max=5":           `no option "max"`,
		"delim=":                  "want bytes",
		`delim=\q`:                "want bytes",
		"delim=a,b":               `no option "b"`,
		"decimal=ab":              "want one byte",
		"decimal":                 "want one byte",
		"decimal=7":               "Separator",
		"mqtt=5":                  `no option "mqtt"`,
		"mqtt,keep":               `no option "keep"`,
		"lines=7":                 `no option "lines"`,
		"u16,u16":                 `no option "u16"`,
		"u16,keep,offset=1000000": "Offset",
	} {
		_, err := parseFraming(flag)
		require.ErrorContains(t, err, reason, flag)
	}
}

// A vector is one of testdata/vectors, about reading.
type vector struct {
	ID, Direction string
	Framer        struct {
		Kind    string
		Options struct {
			Max int `json:"max_frame_length"`
		}
	}
	Chunks []string `json:"chunks_hex"`
	Frames []string `json:"frames_hex"`
	Error  *string
}

// maskedFrame is the vector of a frame that a server does not send. Framecat takes those of clients, too.
const maskedFrame = "050"

// commandLine is the vector of a line that Redis does not send. Framecat takes those of clients, too.
const commandLine = "039"

func TestSizedVectors(t *testing.T) { // P1
	data, err := os.ReadFile("../../testdata/vectors/sized.json")
	require.NoError(t, err)
	var vectors []vector
	require.NoError(t, json.Unmarshal(data, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		if v.Direction != "decode" || v.ID == maskedFrame || v.ID == commandLine {
			continue
		}
		f, err := parseFraming(v.Framer.Kind)
		require.NoError(t, err)
		read := f.Framer.(tcpclient.Sized)
		read.MaxSize = v.Framer.Options.Max
		stream, err := hex.DecodeString(strings.Join(v.Chunks, ""))
		require.NoError(t, err)
		for _, source := range []io.Reader{bytes.NewReader(stream), iotest.OneByteReader(bytes.NewReader(stream))} {
			r := bufio.NewReader(source)
			for _, frame := range v.Frames {
				msg, err := read.ReadFrame(r, nil)
				require.NoError(t, err, v.ID)
				require.Equal(t, frame, hex.EncodeToString(msg), v.ID)
			}
			_, err := read.ReadFrame(r, nil)
			switch {
			case v.Error == nil, *v.Error == "unexpected_eof":
				require.Contains(t, []error{io.EOF, io.ErrUnexpectedEOF}, err, v.ID)
			case *v.Error == "too_large":
				require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError), v.ID)
			default:
				require.ErrorIs(t, err, tcpclient.ErrInvalidFrame, v.ID)
			}
		}
	}
}

func TestSizedKeepsThePromisesOfAFramer(t *testing.T) { // P1, P6: what clients say, which the vectors lack
	for kind, messages := range map[string][]string{
		"resp": {"PING\r\n", "*1\r\n$4\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n", "$-1\r\n", "%1\r\n+a\r\n~0\r\n", "|1\r\n+ttl\r\n:3\r\n_\r\n"},
		"nats": {"PING\r\n", "PUB a 5\r\nhello\r\n", "pub a reply 0\r\n\r\n", "HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"},
		"websocket": {
			"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
			"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", "\x82\xfe\x00\x7emask" + strings.Repeat("x", 126), "\x89\x00",
		},
		"postgres": {"\x00\x00\x00\x08\x04\xd2\x16\x2f", "Q\x00\x00\x00\x0dselect 1\x00", "Z\x00\x00\x00\x05I", "X\x00\x00\x00\x04"},
		"mqtt":     {"\xc0\x00", "\x30\x80\x01" + strings.Repeat("x", 128)},
		"ber":      {"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", "\xff\x81\x01\x01a"},
		"fix":      {"8=FIX.4.2\x019=5\x0135=0\x0110=161\x01", "8=FIXT.1.1\x019=15\x0135=0\x01112=TEST1\x0110=000\x01"},
		"stx":      {"\x06", "\x02ab\x030"},
		"smtp":     {"250 OK\r\n", "250-a\r\n250-b\r\n250 c\r\n", "354\r\n"},
	} {
		t.Run(kind, func(t *testing.T) {
			f, err := parseFraming(kind)
			require.NoError(t, err)
			var given [][]byte
			for _, msg := range messages {
				given = append(given, []byte(msg))
			}
			require.NoError(t, tcpclienttest.TestFramer(f.Framer, given...))
		})
	}
}
