package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-d0aa0aa7/tcpclient"
)

const frameUsage = `-frame is one of these, with options after commas
  u8 u16 u24 u32 u64     length in front, big-endian. le: little-endian; offset=N: bytes
                         before the length; adjust=N: bytes after it, minus its value;
                         keep: the bytes up to the length are part of the message
  varint                 length in front, as protocol buffers write it
  lines                  lines. crlf: sends CR LF
  delim=BYTES            BYTES at the end, such as delim=\x1c\r. start=BYTES: in front;
                         keep: both are part of the message
  fixed=N                messages of N bytes each
  netstring octet        5:hello,   5 hello
  decimal=BYTE           decimal length, then BYTE. trailer=BYTES: at the end
  content-length         Content-Length: 5, an empty line, hello
  mqtt ber fix postgres websocket stx
                         whole messages with their headers. ber: LDAP, SNMP; stx: STX,
                         text, ETX, one byte of check
  resp nats smtp         the same; without -hex each line of the input gets a CR LF, and of
                         the output loses one. resp: Redis
and for all but fixed: max=N, the largest message in bytes; for lines and delim:
unterminated, which takes what the stream ends with for a message. Values may have escapes
as in Go: \r \n \x2c (a comma).
`

// A framing says how messages are marked on a connection.
type framing struct {
	tcpclient.Framer                  // of both directions, or of what the server sends
	requests         tcpclient.Framer // of what the client sends; nil: the same

	// replies makes the Framer of what the server sends on one connection through the proxy. nil: it is
	// Framer.
	replies func() tcpclient.Framer

	// newline is what each line of the input gets at its end, and a message loses when it is printed as a
	// line.
	newline string
}

// dialer returns the Framer of a client.
func (f framing) dialer() tcpclient.Framer {
	if f.requests == nil {
		return f.Framer
	}
	return oneEach{f.Framer, f.requests}
}

// client returns the Framer of what the client sends.
func (f framing) client() tcpclient.Framer {
	if f.requests == nil {
		return f.Framer
	}
	return f.requests
}

// server returns the Framer of what the server sends on one connection.
func (f framing) server() tcpclient.Framer {
	if f.replies == nil {
		return f.Framer
	}
	return f.replies()
}

// A oneEach has a Framer for each direction.
type oneEach struct{ in, out tcpclient.Framer }

func (f oneEach) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	return f.in.ReadFrame(r, dst)
}
func (f oneEach) WriteFrame(w *bufio.Writer, msg []byte) error { return f.out.WriteFrame(w, msg) }

// framings make a framing of its name, with its options.
var framings = map[string]func(o *options) framing{
	"u8": lengthPrefix(1), "u16": lengthPrefix(2), "u24": lengthPrefix(3), "u32": lengthPrefix(4), "u64": lengthPrefix(8),
	"varint": func(o *options) framing { return framing{Framer: tcpclient.Varint{MaxSize: o.max()}} },
	"lines":  lines(false), "line": lines(false), "crlf": lines(true),
	"delim": func(o *options) framing {
		return framing{Framer: tcpclient.Delimiter{
			Delim: o.bytes("delim"), Start: o.bytes("start"), Keep: o.flag("keep"),
			AllowUnterminated: o.flag("unterminated"), MaxSize: o.max(),
		}}
	},
	"fixed":     func(o *options) framing { return framing{Framer: tcpclient.Fixed{Size: o.number("fixed")}} },
	"netstring": decimal(tcpclient.Netstring()),
	"octet":     decimal(tcpclient.OctetCounting()),
	"decimal": func(o *options) framing {
		separator := o.bytes("decimal")
		if len(separator) != 1 {
			o.fail("decimal=%s: want one byte", separator)
			separator = []byte{' '}
		}
		return decimal(tcpclient.Decimal{Separator: separator[0], Trailer: string(o.bytes("trailer"))})(o)
	},
	"content-length": func(o *options) framing { return framing{Framer: tcpclient.ContentLength{MaxSize: o.max()}} },
	"mqtt":           sized(sizeMQTT, ""),
	"ber":            sized(sizeBER, ""),
	"fix":            sized(sizeFIX, ""),
	"postgres": func(o *options) framing {
		f := sized(sizePostgres, "")(o)
		f.replies = func() tcpclient.Framer { return &postgresServer{Framer: f.Framer} }
		return f
	},
	"websocket": sized(sizeWebSocket, ""),
	"stx":       sized(sizeSTX, ""),
	"resp":      sized(sizeRESP, "\r\n"),
	"nats":      sized(sizeNATS, "\r\n"),
	"smtp": func(o *options) framing {
		f := sized(sizeSMTP, "\r\n")(o)
		f.requests = tcpclient.Delimiter{Delim: []byte("\r\n"), Keep: true, MaxSize: o.max()}
		return f
	},
}

func lengthPrefix(width int) func(o *options) framing {
	return func(o *options) framing {
		return framing{Framer: tcpclient.LengthPrefix{
			Width: width, LittleEndian: o.flag("le"), Offset: o.number("offset"), Adjust: o.number("adjust"),
			KeepHeader: o.flag("keep"), MaxSize: o.max(),
		}}
	}
}

func lines(crlf bool) func(o *options) framing {
	return func(o *options) framing {
		crlf := o.flag("crlf") || crlf
		return framing{Framer: tcpclient.Lines{CRLF: crlf, AllowUnterminated: o.flag("unterminated"), MaxSize: o.max()}}
	}
}

func decimal(f tcpclient.Decimal) func(o *options) framing {
	return func(o *options) framing {
		f := f
		f.MaxSize = o.max()
		return framing{Framer: f}
	}
}

func sized(size func(p []byte) (int, error), newline string) func(o *options) framing {
	return func(o *options) framing {
		return framing{Framer: tcpclient.Sized{Size: size, MaxSize: o.max()}, newline: newline}
	}
}

// parseFraming returns what the value of -frame stands for.
func parseFraming(flag string) (framing, error) {
	o := &options{values: make(map[string]string)}
	words := strings.Split(flag, ",")
	words[0] = strings.Replace(words[0], "fixed:", "fixed=", 1) // as it was written once
	name, _, _ := strings.Cut(words[0], "=")
	if short, ok := strings.CutSuffix(name, "le"); ok && framings[short] != nil { // u16le
		name, words[0] = short, "le"
	}
	newFraming, ok := framings[name]
	if !ok {
		return framing{}, fmt.Errorf("-frame %s: unknown; framecat -help lists what there is", flag)
	}
	if words[0] == name {
		words = words[1:]
	}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		o.values[key] = value
	}
	f := newFraming(o)
	if o.err == nil { // wrong settings are refused before anything is read
		if _, err := f.ReadFrame(bufio.NewReader(strings.NewReader("")), nil); err != io.EOF {
			o.err = err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.values)) {
		o.err = cmp.Or(o.err, fmt.Errorf("no option %q", key))
	}
	if o.err != nil {
		return framing{}, fmt.Errorf("-frame %s: %w", flag, o.err)
	}
	return f, nil
}

// options are the words of -frame. Asking for one takes it out, and what is left at the end is an
// error, as is the first wrong value.
type options struct {
	values map[string]string
	err    error
}

func (o *options) fail(format string, args ...any) {
	o.err = cmp.Or(o.err, fmt.Errorf(format, args...))
}

func (o *options) take(key string) (value string, ok bool) {
	value, ok = o.values[key]
	delete(o.values, key)
	return value, ok
}

// flag reports whether the word key is there.
func (o *options) flag(key string) bool {
	value, ok := o.take(key)
	if value != "" {
		o.fail("%s takes no value", key)
	}
	return ok
}

// number returns the value of key, or 0.
func (o *options) number(key string) int {
	value, ok := o.take(key)
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil || n == 0 {
		o.fail("%s=%s: want a number other than 0", key, value)
	}
	return n
}

func (o *options) max() int { return o.number("max") }

// bytes returns the value of key without its escapes, or nil.
func (o *options) bytes(key string) []byte {
	value, ok := o.take(key)
	if !ok {
		return nil
	}
	b, err := unescape(value)
	if err != nil || len(b) == 0 {
		o.fail("%s=%s: want bytes, such as \\x1c\\r", key, value)
	}
	return b
}

// unescape returns the bytes that s stands for, with escapes as in Go.
func unescape(s string) (b []byte, err error) {
	for s != "" {
		var c rune
		var isRune bool
		if c, isRune, s, err = strconv.UnquoteChar(s, 0); err != nil {
			return nil, err
		}
		if isRune {
			b = append(b, string(c)...)
		} else {
			b = append(b, byte(c))
		}
	}
	return b, nil
}
