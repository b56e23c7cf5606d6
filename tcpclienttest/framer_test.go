package tcpclienttest_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestTestFramer_finds_nothing_in(t *testing.T) {
	messages := [][]byte{[]byte("hello"), []byte("x"), bytes.Repeat([]byte("long "), 1000)} // one above each bufio.Reader's 4096
	for _, test := range []struct {
		name     string
		framer   tcpclient.Framer
		messages [][]byte
	}{
		{"LengthPrefix", tcpclient.LengthPrefix{}, append(messages, nil)},
		{"LengthPrefix of 2 bytes, little-endian", tcpclient.LengthPrefix{Width: 2, LittleEndian: true}, append(messages, nil)},
		{"LengthPrefix of 8 bytes", tcpclient.LengthPrefix{Width: 8}, messages},
		{"LengthPrefix with a header", tcpclient.LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true}, [][]byte{[]byte("Z\x00\x00\x00\x05I"), []byte("S\x00\x00\x00\x04")}},
		{"Varint", tcpclient.Varint{}, append(messages, nil)},
		{"Lines", tcpclient.Lines{}, append(messages, nil)},
		{"Lines with CRLF", tcpclient.Lines{CRLF: true}, append(messages, nil)},
		{"Lines that may lack their end", tcpclient.Lines{AllowUnterminated: true}, messages},
		{"Delimiter", tcpclient.Delimiter{Delim: []byte("\r\n.\r\n")}, append(messages, nil)},
		{"Delimiter with a start", tcpclient.Delimiter{Start: []byte{0x0b}, Delim: []byte{0x1c, '\r'}}, append(messages, nil)},
		{"Delimiter kept", tcpclient.Delimiter{Keep: true}, [][]byte{[]byte("hello\n"), []byte("x\n"), []byte("\n")}},
		{"Delimiter kept that may be missing", tcpclient.Delimiter{Keep: true, AllowUnterminated: true}, [][]byte{[]byte("hello\n"), []byte("x\n")}},
		{"Fixed", tcpclient.Fixed{Size: 5}, [][]byte{[]byte("hello"), []byte("world")}},
		{"Netstring", tcpclient.Netstring(), append(messages, nil)},
		{"OctetCounting", tcpclient.OctetCounting(), messages},
		{"ContentLength", tcpclient.ContentLength{}, append(messages, nil)},
		{"the plain framer of these tests", plain{}, append(messages, nil)},
		{"the line framer of these tests", lines{}, messages},
		{"one that delivers an unterminated line", lines{unterminated: true}, messages},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.NoError(t, tcpclienttest.TestFramer(test.framer, test.messages...))
			synctest.Test(t, func(t *testing.T) {
				require.NoError(t, tcpclienttest.TestFramer(test.framer, test.messages[0]))
			})
		})
	}
}

func TestTestReadFrame(t *testing.T) {
	smtp := tcpclient.Sized{Size: testkit.SizeSMTP}
	replies := [][]byte{[]byte("250-a\r\n250 b\r\n"), []byte("354 c\r\n"), []byte(strings.Repeat("220-more\r\n", 50) + "220 x\r\n")}
	stream := bytes.Join(replies, nil)
	readOnly := plain{write: func(*bufio.Writer, []byte) error { panic("called") }}

	t.Run("finds nothing in a Framer that only reads", func(t *testing.T) {
		require.NoError(t, tcpclienttest.TestReadFrame(readOnly, []byte("\x00\x00\x00\x05hello\x00\x00\x00\x00\x00\x00\x00\x01x"), []byte("hello"), nil, []byte("x")))
		synctest.Test(t, func(t *testing.T) {
			require.NoError(t, tcpclienttest.TestReadFrame(readOnly, []byte("\x00\x00\x00\x05hello"), []byte("hello")))
		})
	})

	t.Run("finds nothing in messages that are a part of their frames, or all of them", func(t *testing.T) {
		require.NoError(t, tcpclienttest.TestReadFrame(smtp, stream, replies...))
		require.NoError(t, tcpclienttest.TestReadFrame(tcpclient.Lines{}, []byte("a\r\nb\n\nc\r\n"), []byte("a"), []byte("b"), nil, []byte("c")))
		require.NoError(t, tcpclienttest.TestReadFrame(tcpclient.Lines{AllowUnterminated: true}, []byte("ab\r\ncd\n"), []byte("ab"), []byte("cd")))
	})

	for name, test := range map[string]struct {
		framer   tcpclient.Framer
		stream   string
		messages [][]byte
		want     string
	}{
		"another message":              {smtp, "250 a\r\n250 b\r\n", [][]byte{[]byte("250 a\r\n"), []byte("250 c\r\n")}, `message 2: got "250 b\r\n", want "250 c\r\n"`},
		"a message less":               {smtp, "250 a\r\n", [][]byte{[]byte("250 a\r\n"), []byte("250 c\r\n")}, `message 2: got error: EOF`},
		"a message more":               {smtp, "250 a\r\n250 b\r\n", [][]byte{[]byte("250 a\r\n")}, `after the last message: got message "250 b\r\n"`},
		"a part of a frame at the end": {smtp, "250 a\r\n250-b\r\n", [][]byte{[]byte("250 a\r\n")}, `after the last message: got error: unexpected EOF, want io.EOF`},
		"no message":                   {smtp, "", nil, "TestReadFrame needs a message"},
		"a Size that looks at what follows": {tcpclient.Sized{Size: func(p []byte) (int, error) {
			if i := bytes.Index(p, []byte("\r\n2")); i > 0 {
				return i + 2, nil
			}
			return 0, nil
		}}, "250 a\r\n250 b\r\n", [][]byte{[]byte("250 a\r\n"), []byte("250 b\r\n")}, "message 2: got error: unexpected EOF"},
		"a Size that says too early": {tcpclient.Sized{Size: func(p []byte) (int, error) {
			return bytes.IndexByte(p, '\r') + 2, nil // 1 where there is none
		}}, "250 a\r\n250 b\r\n", [][]byte{[]byte("250 a\r\n"), []byte("250 b\r\n")}, "reading in pieces of 1"},
		"a message without a byte of the stream": {plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			if _, err := r.Peek(1); err != nil {
				return dst, err
			}
			return dst, nil
		}}, "x", [][]byte{nil}, "after the last message"},
	} {
		t.Run("finds "+name, func(t *testing.T) {
			require.ErrorContains(t, tcpclienttest.TestReadFrame(test.framer, []byte(test.stream), test.messages...), test.want)
		})
	}
}

func TestTestFramer_finds(t *testing.T) {
	scratch := new(shared)
	for _, test := range []struct {
		bug    string
		framer tcpclient.Framer
		want   string // in the error
	}{
		{"a refused message", plain{write: func(w *bufio.Writer, msg []byte) error { return errors.New("no") }}, `WriteFrame refuses "hello": no`},
		{"a flush", plain{write: func(w *bufio.Writer, msg []byte) error { writePlain(w, msg); return w.Flush() }}, "WriteFrame flushes: 9 bytes"},
		{"a message written into", plain{write: func(w *bufio.Writer, msg []byte) error {
			err := writePlain(w, msg)
			clear(msg)
			return err
		}}, `WriteFrame changes the message: "hello" into "\x00`},
		{"a message kept", plain{write: scratch.writeLate}, "reading back"},
		{"a refusal after the header", plain{write: func(w *bufio.Writer, msg []byte) error {
			w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(msg))))
			if len(msg) == 0 {
				return errors.New("empty")
			}
			_, err := w.Write(msg)
			return err
		}}, `WriteFrame refuses "" but has written 4 bytes of it: empty`},
		{"nothing written", plain{write: func(*bufio.Writer, []byte) error { return nil }}, `WriteFrame writes nothing for "hello"`},
		{"a panic on writing", plain{write: func(*bufio.Writer, []byte) error { panic("oops") }}, "WriteFrame panics: oops"},
		{"a writer taken over", plain{write: func(w *bufio.Writer, msg []byte) error {
			if 4+len(msg) > w.Available() { // "cannot happen"
				return errors.New("too long for the buffer")
			}
			return writePlain(w, msg)
		}}, "with a bufio.Writer of 16: too long for the buffer"},
		{"an unchecked delimiter", lines{unchecked: true}, `WriteFrame accepts "\n", but ReadFrame makes "" of it`},

		{"the wrong byte order", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			return readPlain(r, dst, binary.LittleEndian, body)
		}}, `reading back what WriteFrame wrote: message 1: got error: too large`},
		{"one Read taken for a frame", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			return readPlain(r, dst, binary.BigEndian, io.Reader.Read)
		}}, `reading in pieces of 1, bufio.Reader of 16: message 1: got "h\x00`},
		{"a frame that must fit the buffer", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			head, err := r.Peek(4)
			if err != nil {
				return dst, eofInside(err, len(head))
			}
			all, err := r.Peek(4 + int(binary.BigEndian.Uint32(head)))
			if err != nil {
				return dst, eofInside(err, len(all))
			}
			dst = append(dst, all[4:]...)
			r.Discard(len(all))
			return dst, nil
		}}, "bufio.Reader of 16: message 2: got error: bufio: buffer full"},
		{"a line that must fit the buffer", lines{slice: true}, "bufio: buffer full"},
		{"memory of the reader", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := readPlain(r, nil, binary.BigEndian, body)
			if len(msg) == 5 { // as Peek would
				return scratch.keep(msg), err
			}
			return append(dst, msg...), err
		}}, `message 3: got "hello", want "ditto"`},
		{"dst ignored", plain{read: func(r *bufio.Reader, _ []byte) ([]byte, error) {
			return readPlain(r, nil, binary.BigEndian, body)
		}}, `ReadFrame does not append to dst: "before" and "hello" became "hello"`},
		{"dst overwritten", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			return readPlain(r, dst[:0], binary.BigEndian, body)
		}}, `ReadFrame changes what dst held before: "before" into "hello`},
		{"dst's storage not used", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			return readPlain(r, bytes.Clone(dst), binary.BigEndian, body)
		}}, "ReadFrame does not use dst's storage"},
		{"a look at the next frame", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := readPlain(r, dst, binary.BigEndian, body)
			r.Peek(1)
			return msg, err
		}}, `ReadFrame asks for bytes behind the frame of "hello"`},
		{"a bufio.Reader of its own", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			return readPlain(bufio.NewReader(r), dst, binary.BigEndian, body)
		}}, "message 2: got error: EOF"},
		{"EOF inside a frame taken for one between frames", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := readPlain(r, dst, binary.BigEndian, body)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF
			}
			return msg, err
		}}, `at the end of the stream, after 1 of the 9 bytes of "hello": got error: EOF, want io.ErrUnexpectedEOF`},
		{"EOF between header and body taken for one between frames", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			return readPlain(r, dst, binary.BigEndian, func(r io.Reader, p []byte) (int, error) {
				n, err := io.ReadFull(r, p)
				if n == 0 && len(p) > 0 && err == io.EOF {
					return 0, io.EOF
				}
				return n, err
			})
		}}, `after 4 of the 9 bytes of "hello": got error: EOF`},
		{"EOF between frames taken for one inside", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := readPlain(r, dst, binary.BigEndian, body)
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return msg, err
		}}, "after the last message: got error: unexpected EOF, want io.EOF"},
		{"a truncated message delivered", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := readPlain(r, dst, binary.BigEndian, body)
			if len(msg) > len(dst) {
				err = nil
			}
			return msg, err
		}}, `after 5 of the 9 bytes of "hello": got message "before`},
		{"an error of the connection replaced", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := readPlain(r, dst, binary.BigEndian, body)
			if err != nil && !errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return msg, err
		}}, `when the connection fails after 0 of the 9 bytes of "hello": got error: unexpected EOF`},
		{"a line cut short by a failing connection", lines{unterminated: true, careless: true}, `when the connection fails after 1 of the 6 bytes of "hello": got message "h"`},
		{"errors ignored", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			for n := len(dst); ; {
				msg, err := readPlain(r, dst, binary.BigEndian, body)
				if err == nil || err == io.EOF && len(msg) == n {
					return msg, err
				}
			}
		}}, "endless loop"},
		{"a panic on reading", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			head, _ := r.Peek(4)
			if len(head) == 3 {
				_ = head[3]
			}
			return readPlain(r, dst, binary.BigEndian, body)
		}}, "ReadFrame panics: runtime error: index out of range"},
		{"state left by an error", plain{read: new(shared).readResuming}, "ReadFrame keeps state"},
		{"a buffer shared by streams", plain{read: new(shared).read}, "ReadFrame has state"},
		{"a buffer shared by writers", plain{write: new(shared).write}, "WriteFrame has state"},
		{"a lock held while it waits", plain{read: new(shared).readLocked}, "ReadFrame waits while another stream is in the middle of a frame"},
		{"a trusted length", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			head, err := r.Peek(4)
			if err != nil {
				return dst, eofInside(err, len(head))
			}
			msg := make([]byte, min(int(binary.BigEndian.Uint32(head)), 16<<20)) // all 256 MiB take long, and twice tooMuch will do
			r.Discard(4)
			if _, err = io.ReadFull(r, msg); err != nil {
				return dst, eofInside(err, 1)
			}
			return append(dst, msg...), nil
		}}, "MiB of memory for the 8 bytes \"\\x0f\\xff\\xff\\xffxxxx\": it believes an announced length"},
		{"a frame of no bytes", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			if head, _ := r.Peek(4); string(head) == "HTTP" {
				return dst, nil
			}
			return readPlain(r, dst, binary.BigEndian, body)
		}}, "without having consumed a byte"},
		{"empty frames skipped", plain{read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			for n := len(dst); ; {
				msg, err := readPlain(r, dst, binary.BigEndian, body)
				if err != nil || len(msg) > n {
					return msg, err
				}
			}
		}}, `WriteFrame accepts ""`},
	} {
		t.Run(test.bug, func(t *testing.T) {
			if test.bug == "a lock held while it waits" {
				testkit.SkipIfShort(t)
			}
			if testkit.RaceEnabled && (strings.Contains(test.bug, "shared") || strings.Contains(test.bug, "state")) {
				t.Skip("the race detector finds it too, and fails this test")
			}
			err := tcpclienttest.TestFramer(test.framer, []byte("hello"), []byte("some more words than fit"), []byte("ditto"))
			require.ErrorContains(t, err, test.want)

			reads, ok := test.framer.(plain)
			if !ok || reads.read == nil || strings.HasPrefix(test.want, "WriteFrame") {
				return
			}
			reads.write = func(*bufio.Writer, []byte) error { panic("TestReadFrame calls WriteFrame") }
			stream := testkit.Encode(t, plain{}, []byte("hello"), []byte("some more words than fit"), []byte("ditto"))
			err = tcpclienttest.TestReadFrame(reads, stream, []byte("hello"), []byte("some more words than fit"), []byte("ditto"))
			want := strings.TrimPrefix(test.want, "reading back what WriteFrame wrote: ")
			if test.bug == "memory of the reader" { // there, the first frame comes again at the end
				want = `message 1: got "ditto", want "hello"`
			}
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "WriteFrame")
		})
	}

	t.Run("that there is nothing to test with", func(t *testing.T) {
		require.ErrorContains(t, tcpclienttest.TestFramer(plain{}), "needs a message")
	})
}

// plain is a correct Framer, or one whose methods have been replaced: four bytes of
// length, big-endian.
type plain struct {
	read  func(r *bufio.Reader, dst []byte) ([]byte, error)
	write func(w *bufio.Writer, msg []byte) error
}

func (f plain) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if f.read != nil {
		return f.read(r, dst)
	}
	return readPlain(r, dst, binary.BigEndian, body)
}

func (f plain) WriteFrame(w *bufio.Writer, msg []byte) error {
	if f.write != nil {
		return f.write(w, msg)
	}
	return writePlain(w, msg)
}

// readPlain reads a frame with readBody for what follows the header.
func readPlain(r *bufio.Reader, dst []byte, order binary.ByteOrder, readBody func(io.Reader, []byte) (int, error)) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		return dst, eofInside(err, len(head))
	}
	announced := order.Uint32(head)
	if announced > 1<<20 {
		return dst, errors.New("too large")
	}
	size := int(announced)
	r.Discard(4)
	start := len(dst)
	if cap(dst)-start < size {
		dst = append(make([]byte, 0, start+size), dst...)
	}
	dst = dst[:start+size]
	n, err := readBody(r, dst[start:])
	if err != nil {
		return dst[:start+n], err
	}
	return dst, nil
}

// body is io.ReadFull inside a frame.
func body(r io.Reader, p []byte) (int, error) {
	n, err := io.ReadFull(r, p)
	return n, eofInside(err, 4)
}

func writePlain(w *bufio.Writer, msg []byte) error {
	w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(msg))))
	_, err := w.Write(msg)
	return err
}

func eofInside(err error, n int) error {
	if err == io.EOF && n > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// lines is a Framer of lines, correct unless told otherwise.
type lines struct {
	unterminated bool // deliver what lacks its end
	careless     bool // also when it was not the end of the stream
	unchecked    bool // write messages with a line end inside
	slice        bool // rely on ReadSlice
}

func (f lines) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg := dst
	for {
		part, err := r.ReadSlice('\n')
		msg = append(msg, part...)
		switch {
		case err == nil:
			return msg[:len(msg)-1], nil
		case errors.Is(err, bufio.ErrBufferFull) && !f.slice:
			continue
		case len(msg) > len(dst) && f.unterminated && (err == io.EOF || f.careless):
			return msg, nil
		}
		return dst, eofInside(err, len(msg)-len(dst))
	}
}

func (f lines) WriteFrame(w *bufio.Writer, msg []byte) error {
	if bytes.IndexByte(msg, '\n') >= 0 && !f.unchecked {
		return errors.New("line end inside")
	}
	w.Write(msg)
	return w.WriteByte('\n')
}

// shared is the state that a Framer must not have.
type shared struct {
	mu   sync.Mutex
	buf  []byte
	late []byte
	half []byte
}

func (s *shared) keep(msg []byte) []byte {
	if s.buf == nil {
		s.buf = make([]byte, 5)
	}
	copy(s.buf, msg)
	return s.buf
}

// writeLate writes the message before.
func (s *shared) writeLate(w *bufio.Writer, msg []byte) error {
	late := s.late
	if late == nil {
		late = msg
	}
	s.late = msg
	return writePlain(w, late)
}

// read puts the body into a buffer for all.
func (s *shared) read(r *bufio.Reader, dst []byte) ([]byte, error) {
	_, err := readPlain(r, nil, binary.BigEndian, func(r io.Reader, p []byte) (int, error) {
		if len(p) > cap(s.buf) {
			s.buf = make([]byte, len(p))
		}
		s.buf = s.buf[:len(p)]
		return body(r, s.buf)
	})
	if err != nil {
		return dst, err
	}
	return append(dst, s.buf...), nil
}

func (s *shared) write(w *bufio.Writer, msg []byte) error {
	s.buf = binary.BigEndian.AppendUint32(s.buf[:0], uint32(len(msg)))
	s.buf = append(s.buf, msg...)
	for i := range s.buf {
		if err := w.WriteByte(s.buf[i]); err != nil {
			return err
		}
	}
	return nil
}

// readLocked holds a lock while it waits for the peer.
func (s *shared) readLocked(r *bufio.Reader, dst []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return readPlain(r, dst, binary.BigEndian, body)
}

// readResuming goes on, after an error, with the header it has read.
func (s *shared) readResuming(r *bufio.Reader, dst []byte) ([]byte, error) {
	for len(s.half) < 4 {
		c, err := r.ReadByte()
		if err != nil {
			return dst, eofInside(err, len(s.half))
		}
		s.half = append(s.half, c)
	}
	size := binary.BigEndian.Uint32(s.half)
	if size > 1<<20 {
		s.half = nil
		return dst, errors.New("too large")
	}
	msg := make([]byte, size)
	if _, err := body(r, msg); err != nil {
		return dst, err
	}
	s.half = nil
	return append(dst, msg...), nil
}

// A trusting is a Framer of three bytes of length that allocates what they announce, up to
// a limit.
type trusting struct {
	tcpclient.LengthPrefix // for WriteFrame
	limit                  int
	scratch                int // bytes that each ReadFrame of an empty message allocates beside
}

func (f trusting) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	head, err := r.Peek(3)
	if err != nil {
		return dst, eofInside(err, len(head))
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if f.LittleEndian {
		size = int(head[2])<<16 | int(head[1])<<8 | int(head[0])
	}
	if size > f.limit {
		return dst, tcpclient.ErrInvalidFrame
	}
	if size == 0 { // hostile streams are full of them; for all others it would take seconds
		wasted.Store("scratch", make([]byte, f.scratch))
	}
	r.Discard(3)
	start := len(dst)
	if cap(dst)-start < size {
		dst = append(make([]byte, 0, start+size), dst...)
	}
	n, err := io.ReadFull(r, dst[start:start+size])
	return dst[:start+n], eofInside(err, 3)
}

func newTrusting(littleEndian bool, limit, scratch int) trusting {
	return trusting{tcpclient.LengthPrefix{Width: 3, LittleEndian: littleEndian}, limit, scratch}
}

// wasted keeps the compiler from leaving a Framer's scratch out.
var wasted sync.Map

func TestTestFramer_memory(t *testing.T) {
	test := func(f tcpclient.Framer) error {
		return tcpclienttest.TestFramer(f, []byte("hello"), []byte("x"), make([]byte, 300))
	}
	for name, littleEndian := range map[string]bool{"big-endian": false, "little-endian": true} {
		t.Run("a trusted length of three bytes is found, "+name, func(t *testing.T) {
			require.ErrorContains(t, test(newTrusting(littleEndian, 1<<24, 0)), "it believes an announced length")
		})
		t.Run("a limit of a megabyte may be trusted, "+name, func(t *testing.T) {
			require.NoError(t, test(newTrusting(littleEndian, 1<<20, 0)))
		})
	}
	t.Run("memory that each message takes is none that was announced", func(t *testing.T) {
		require.NoError(t, test(newTrusting(false, 1<<20, 512<<10)))
	})
}
