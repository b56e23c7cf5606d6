package tcpclienttest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// TestFramer checks that a Framer keeps the promises that a Client relies on. It returns
// nil, or one error with everything that it found.
//
//	if err := tcpclienttest.TestFramer(myFramer{}, []byte("hello"), []byte("x")); err != nil {
//		t.Fatal(err)
//	}
//
// Give it several messages that the Framer must accept, as ReadFrame delivers them, and of
// different lengths if it allows that. TestFramer tries messages of its own, too, which the
// Framer may refuse. It checks:
//
//   - WriteFrame writes a frame for every message given. It does not flush, and neither
//     changes nor keeps the message. If it refuses a message, it has written nothing. It
//     accepts no message that would damage the frames after it.
//   - ReadFrame returns the same messages for any division of the stream into reads and any
//     size of the bufio.Reader. It consumes exactly one frame and asks for no byte after
//     it, which may never come. It appends the message to dst, in dst's storage if that has
//     room to spare, and never returns memory of the bufio.Reader.
//   - At the end of the stream ReadFrame returns io.EOF between frames and
//     io.ErrUnexpectedEOF inside one, unless frames end with a terminator and the Framer
//     delivers a message that lacks it. errors.Is finds any other error of the connection.
//   - Neither method keeps state, after an error or between streams. The race detector
//     makes this check sharper.
//   - Hostile bytes cause no panic, no endless loop, and no allocation of more than 8 MiB
//     for a message of which a few bytes have arrived.
func TestFramer(f tcpclient.Framer, messages ...[]byte) error {
	s := &suite{framer: f}
	s.run(messages)
	return s.about(f)
}

// TestReadFrame is TestFramer for ReadFrame alone. It is for protocols in which a server's
// messages have another form than a client's, so that reading does not take back what
// WriteFrame wrote:
//
//	err := tcpclienttest.TestReadFrame(replies, []byte("250-a\r\n250 b\r\n354 c\r\n"),
//		[]byte("250-a\r\n250 b\r\n"), []byte("354 c\r\n"))
//
// stream is what a server may send, all of it in whole frames, and messages are what ReadFrame
// has to make of it. TestReadFrame returns nil, or one error with everything that it found. It
// cuts the stream at every byte, and checks all that TestFramer checks of ReadFrame. It never
// calls WriteFrame.
func TestReadFrame(f tcpclient.Framer, stream []byte, messages ...[]byte) error {
	s := &suite{framer: f}
	s.runReading(stream, messages)
	return s.about(f)
}

// A suite tests one Framer.
type suite struct {
	framer tcpclient.Framer
	frames []frame // of the messages given
	report
}

// A frame is a message and its bytes in the stream.
type frame struct{ msg, wire []byte }

func (s *suite) run(messages [][]byte) {
	if len(messages) == 0 {
		s.find("TestFramer needs a message to test with")
		return
	}
	for _, msg := range messages {
		wire, err := s.encode(msg)
		if err != nil {
			s.find("WriteFrame refuses %s: %v", show(msg), err)
		} else if len(wire) > 0 {
			s.frames = append(s.frames, frame{msg, wire})
		}
	}
	if len(s.frames) == 0 || len(s.findings) > 0 || !s.roundTrip() {
		return // the other checks would only repeat these findings
	}
	if s.chunks(); len(s.findings) > 0 {
		return // likewise
	}
	s.appending()
	s.greed()
	s.ends()
	s.writing()
	s.oddMessages()
	s.readers()
	s.writers()
	if len(s.findings) == 0 {
		s.hostile() // would not return from a Framer that ignores errors
	}
}

// runReading is run for what only ReadFrame does.
func (s *suite) runReading(stream []byte, messages [][]byte) {
	if len(messages) == 0 {
		s.find("TestReadFrame needs a message to test with")
		return
	}
	if s.cut(stream, messages); len(s.findings) > 0 {
		return // the other checks would only repeat these findings
	}
	if s.chunks(); len(s.findings) > 0 {
		return // likewise
	}
	s.appending()
	s.greed()
	s.ends()
	s.readers()
	if len(s.findings) == 0 {
		s.hostile() // would not return from a Framer that ignores errors
	}
}

// cut reads stream from a large buffer, in one piece, and makes frames of it.
func (s *suite) cut(stream []byte, messages [][]byte) {
	if err := s.compare(whole(stream), 2*len(stream)+4096, messages); err != nil {
		s.find("reading the stream in one piece: %w", err)
		return
	}
	r := bufio.NewReaderSize(bytes.NewReader(stream), 2*len(stream)+4096)
	for rest := stream; len(rest) > 0; rest = rest[len(rest)-r.Buffered():] {
		r.Peek(1) // fills the buffer, before the first frame
		msg, err := s.read(r, nil)
		switch i := len(s.frames); {
		case i == len(messages) || err != nil || !bytes.Equal(msg, messages[i]):
			s.find("reading the stream in one piece once more: got %s: ReadFrame keeps state", outcome(msg, err))
			return
		case r.Buffered() == len(rest):
			s.find("ReadFrame returns %s without having consumed a byte", show(msg))
			return
		default:
			s.frames = append(s.frames, frame{messages[i], rest[:len(rest)-r.Buffered()]})
		}
	}
}

// encode writes msg and returns its frame, or the error with which it was refused.
func (s *suite) encode(msg []byte) ([]byte, error) {
	var out recorder
	w := bufio.NewWriterSize(&out, 64<<10+4*len(msg))
	given := bytes.Clone(msg)
	err := s.write(w, given)
	switch {
	case !bytes.Equal(given, msg):
		s.find("WriteFrame changes the message: %s into %s", show(msg), show(given))
	case err != nil && w.Buffered()+out.Len() > 0:
		s.find("WriteFrame refuses %s but has written %d bytes of it: %v", show(msg), w.Buffered()+out.Len(), err)
	case err != nil:
	case out.Len() > 0:
		s.find("WriteFrame flushes: %d bytes of %s were not left in the bufio.Writer", out.Len(), show(msg))
	case w.Buffered() == 0:
		s.find("WriteFrame writes nothing for %s", show(msg))
	}
	for i := range given { // a Framer that keeps given writes this instead
		given[i] ^= 0xff
	}
	w.Flush()
	return out.Bytes(), err
}

// roundTrip reads the frames back from a large buffer, in one piece.
func (s *suite) roundTrip() bool {
	stream, want := s.stream()
	if err := s.compare(whole(stream), 2*len(stream)+4096, want); err != nil {
		s.find("reading back what WriteFrame wrote: %w", err)
		return false
	}
	return true
}

// stream returns all frames in a row, then the first again, and their messages.
func (s *suite) stream() (stream []byte, want [][]byte) {
	for _, f := range append(slices.Clone(s.frames), s.frames[0]) {
		stream = append(stream, f.wire...)
		want = append(want, f.msg)
	}
	return stream, want
}

// chunks reads the stream in many divisions.
func (s *suite) chunks() {
	stream, want := s.stream()
	dribble := 1 + len(stream)/(64<<10)
	for _, size := range []int{16, 100, 4096} {
		if err := s.compare(&pieces{rest: stream, size: dribble}, size, want); err != nil {
			s.find("reading in pieces of %d, bufio.Reader of %d: %w", dribble, size, err)
		}
		if err := s.compare(&pieces{rest: stream, size: 2 + dribble, idle: true}, size, want); err != nil {
			s.find("reading in pieces of %d, every other read empty, bufio.Reader of %d: %w", 2+dribble, size, err)
		}
		if err := s.compare(&pieces{rest: stream, size: len(stream), eager: true}, size, want); err != nil {
			s.find("reading from an io.Reader that returns io.EOF with the last bytes, bufio.Reader of %d: %w", size, err)
		}
		for _, at := range points(stream) {
			if err := s.compare(&pieces{rest: stream, size: len(stream), first: at}, size, want); err != nil {
				s.find("reading %d bytes in two pieces, %d first, bufio.Reader of %d: %w", len(stream), at, size, err)
				break
			}
		}
	}
}

// appending checks what ReadFrame does to dst.
func (s *suite) appending() {
	const before = "before"
	for _, f := range s.frames {
		for _, size := range []int{16, 2*len(f.wire) + 4096} {
			for _, spare := range []int{0, 1, 2*len(f.wire) + 64} {
				dst := append(make([]byte, 0, len(before)+spare), before...)
				got, err := s.read(bufio.NewReaderSize(whole(f.wire), size), dst)
				switch {
				case err != nil:
					s.find("reading %s into a dst with something in it: %w", show(f.msg), err)
				case string(dst) != before:
					s.find("ReadFrame changes what dst held before: %q into %s", before, show(dst))
				case string(got) != before+string(f.msg):
					s.find("ReadFrame does not append to dst: %q and %s became %s", before, show(f.msg), show(got))
				case spare > 1 && &got[0] != &dst[0]:
					s.find("ReadFrame does not use dst's storage, with %d bytes to spare for %s", spare, show(f.msg))
				}
			}
		}
	}
}

// greed checks that ReadFrame asks for no byte after its frame.
func (s *suite) greed() {
	for _, f := range s.frames {
		for _, size := range []int{16, 2*len(f.wire) + 4096} {
			in := &pieces{rest: f.wire, size: len(f.wire), end: errGreedy}
			if _, err := s.read(bufio.NewReaderSize(in, size), nil); err != nil || in.ended > 0 {
				s.find("ReadFrame asks for bytes behind the frame of %s, which may never come", show(f.msg))
			}
		}
	}
}

// ends checks what ReadFrame makes of the end of a stream and of other errors.
func (s *suite) ends() {
	const before = "before"
	for _, f := range s.frames {
		terminated := s.terminated(f)
		for _, at := range append([]int{0}, points(f.wire)...) {
			for _, size := range []int{16, 2*len(f.wire) + 4096} {
				cut := f.wire[:at]
				dst := append(make([]byte, 0, len(before)+len(f.wire)), before...)
				r := bufio.NewReaderSize(whole(cut), size)
				got, err := s.read(r, dst)
				switch {
				case string(dst) != before:
					s.find("ReadFrame changes what dst held before, at the end of the stream: %q into %s", before, show(dst))
				case at == 0 && !errors.Is(err, io.EOF):
					s.find("at the end of the stream, between frames: got %s, want io.EOF", outcome(got, err))
				case at == 0:
				case err == nil && terminated && len(got)-len(before) <= at:
				case err == nil && terminated:
					s.find("at the end of the stream, after %d of the %d bytes of %s: got %s, which is more than there was", at, len(f.wire), show(f.msg), outcome(got, err))
				case !errors.Is(err, io.ErrUnexpectedEOF):
					s.find("at the end of the stream, after %d of the %d bytes of %s: got %s, want io.ErrUnexpectedEOF", at, len(f.wire), show(f.msg), outcome(got, err))
				}

				in := &pieces{rest: cut, size: max(1, at), end: errBroken}
				if got, err = s.read(bufio.NewReaderSize(in, size), nil); !errors.Is(err, errBroken) {
					s.find("when the connection fails after %d of the %d bytes of %s: got %s, want the error of the connection", at, len(f.wire), show(f.msg), outcome(got, err))
				}

				got, err = s.read(bufio.NewReaderSize(whole(f.wire), size), nil)
				if err != nil || !bytes.Equal(got, f.msg) {
					s.find("after an error on another stream: got %s, want %s: ReadFrame keeps state", outcome(got, err), show(f.msg))
				}
			}
		}
	}
}

// terminated reports whether the last byte of the frame ends it: with another byte in its
// place, ReadFrame asks for more.
func (s *suite) terminated(f frame) bool {
	wire := bytes.Clone(f.wire)
	wire[len(wire)-1] ^= 0x55
	in := &pieces{rest: wire, size: len(wire), end: errGreedy}
	_, err := s.read(bufio.NewReaderSize(in, 2*len(wire)+4096), nil)
	return errors.Is(err, errGreedy)
}

// writing writes all messages to one bufio.Writer, too small for most frames.
func (s *suite) writing() {
	_, want := s.stream()
	for _, size := range []int{16, 100, 4096} {
		var out recorder
		w := bufio.NewWriterSize(&out, size)
		for _, msg := range want {
			given := bytes.Clone(msg)
			if err := s.write(w, given); err != nil {
				s.find("WriteFrame refuses %s with a bufio.Writer of %d: %v", show(msg), size, err)
			}
			for i := range given {
				given[i] ^= 0xff
			}
		}
		w.Flush()
		if err := s.compare(whole(out.Bytes()), 2*out.Len()+4096, want); err != nil {
			s.find("reading back frames written in a row with a bufio.Writer of %d: %w", size, err)
		}
	}
}

// oddMessages writes messages that a Framer may refuse, next to one that it accepts.
func (s *suite) oddMessages() {
	first := s.frames[0]
	var bytewise []byte
	for i := range 256 {
		bytewise = append(bytewise, byte(i))
	}
	odd := [][]byte{nil, {0}, {0xff}, []byte("\n"), []byte("\r\n"), []byte("x\ny"), []byte("x\r"), bytewise}
	odd = append(odd, bytes.Repeat([]byte{'x'}, 5000), bytes.Repeat(bytewise, 300)) // more than a buffer, and than 16 bits
	for _, f := range s.frames {
		odd = append(odd, f.wire, slices.Concat(f.wire, f.wire), slices.Concat(f.msg, f.wire))
		odd = append(odd, f.wire[len(f.wire)-1:], f.wire[:1], slices.Concat(f.msg, f.msg), f.msg[:len(f.msg)/2])
	}
	for _, msg := range odd {
		if _, err := s.encode(msg); err != nil {
			var out recorder
			w := bufio.NewWriter(&out)
			s.write(w, first.msg)
			s.write(w, msg)
			s.write(w, first.msg)
			w.Flush()
			if err := s.compare(whole(out.Bytes()), 2*out.Len()+4096, [][]byte{first.msg, first.msg}); err != nil {
				s.find("WriteFrame refuses %s and damages its neighbours: %w", show(msg), err)
			}
			continue
		}
		wire, _ := s.encode(msg)
		r := bufio.NewReaderSize(whole(slices.Concat(wire, first.wire)), 2*len(wire)+4096)
		got, err := s.read(r, nil)
		if err != nil {
			s.find("WriteFrame accepts %s, but ReadFrame then says: %w", show(msg), err)
			continue
		}
		next, err := s.read(r, nil)
		if err != nil || !bytes.Equal(next, first.msg) {
			s.find("WriteFrame accepts %s, but ReadFrame makes %s of it, and of the frame behind it %s", show(msg), show(got), outcome(next, err))
		} else if _, err := s.read(r, nil); !errors.Is(err, io.EOF) {
			s.find("WriteFrame accepts %s, but then there are more frames than were written", show(msg))
		}
	}
}

// readers reads one stream in the middle of a frame of another, and several streams at once.
func (s *suite) readers() {
	for i, f := range s.frames {
		other := s.frames[(i+1)%len(s.frames)]
		s.readAround(f, func() {
			s.aside("ReadFrame", func() {
				got, err := s.read(bufio.NewReader(&pieces{rest: other.wire, size: 7}), nil)
				if err != nil || !bytes.Equal(got, other.msg) {
					s.find("in the middle of another stream's frame: got %s, want %s: ReadFrame has state", outcome(got, err), show(other.msg))
				}
			})
		})
	}
	s.atOnce(func(f frame) { s.readSlowly(f.wire, f.msg) })
}

// writers writes frames in the middle of one that is read and of one that is written, and several at
// once.
func (s *suite) writers() {
	for i, f := range s.frames {
		other := s.frames[(i+1)%len(s.frames)]
		aside := func() { s.aside("WriteFrame", func() { s.encode(other.msg) }) }
		s.readAround(f, aside)
		out := recorder{between: aside}
		w := bufio.NewWriterSize(&out, max(16, len(f.wire)/20))
		s.write(w, f.msg)
		w.Flush()
		if err := s.compare(whole(out.Bytes()), 4096, [][]byte{f.msg}); err != nil {
			s.find("with another stream's frame written in between: %w: WriteFrame has state", err)
		}
	}
	s.atOnce(func(f frame) {
		wire, err := s.encode(f.msg)
		if err != nil {
			s.find("on four streams at once: WriteFrame refuses %s: %w", show(f.msg), err)
			return
		}
		s.readSlowly(wire, f.msg)
	})
}

// readAround reads f in pieces, with something between each two.
func (s *suite) readAround(f frame, between func()) {
	in := &pieces{rest: f.wire, size: len(f.wire)/20 + 1, between: between}
	got, err := s.read(bufio.NewReaderSize(in, 16), nil)
	if err != nil || !bytes.Equal(got, f.msg) {
		s.find("with another stream's frame in between: got %s, want %s: ReadFrame has state", outcome(got, err), show(f.msg))
	}
}

// readSlowly reads a frame while others do.
func (s *suite) readSlowly(wire, msg []byte) {
	in := &pieces{rest: wire, size: 5 + len(wire)/200, between: runtime.Gosched}
	got, err := s.read(bufio.NewReaderSize(in, 16), nil)
	if err != nil || !bytes.Equal(got, msg) {
		s.find("on four streams at once: got %s, want %s", outcome(got, err), show(msg))
	}
}

// atOnce has use called by four goroutines, often.
func (s *suite) atOnce(use func(f frame)) {
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 20 {
				use(s.frames[i%len(s.frames)])
			}
		})
	}
	group.Wait()
}

// aside runs f on a goroutine of its own, and finds fault if it blocks: a call may wait for
// bytes for hours and must not hold up another stream.
func (s *suite) aside(method string, f func()) {
	if s.has(blockedFormat) {
		return // one blocked goroutine is enough
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.find(blockedFormat, method)
	}
}

const blockedFormat = "%s waits while another stream is in the middle of a frame"

const (
	// tooMuch is the memory for a message of a few bytes that is a finding. A Framer with a
	// limit below it may trust a length; three bytes of length announce twice as much.
	tooMuch = 8 << 20

	// measurements is the number of measurements in a row that must show tooMuch, since
	// other goroutines of this process allocate at the same time.
	measurements = 10
)

// hostile reads what no friendly peer sends. A Framer that believes the lengths in it
// allocates 256 MiB, which harms no machine.
func (s *suite) hostile() {
	for _, text := range []string{
		"\x0f\xff\xff\xff", "\xff\xff\xff\x0f", // 2^28-1, as big-endian, little-endian,
		"\x00\x00\x00\x00\x0f\xff\xff\xff", "\xff\xff\xff\x0f\x00\x00\x00\x00",
		"\xff\xff\xff\x7f",                                                           // varint,
		"268435455:", "268435455 ", "268435455\r\n", "$268435455\r\n", "fffffff\r\n", // and in words
		"Content-Length: 268435455\r\n\r\n",
		strings.Repeat("\x00", 64), strings.Repeat("\x80", 64), strings.Repeat("9", 64), "-1\r\n", "-1:",
		"HTTP/1.1 400 Bad Request\r\n\r\n", "\x15\x03\x03\x00\x02\x02\x28",
		"\x7f\xff\xff\xff", "\xff\xff\xff\x7f\x00\x00\x00\x00", strings.Repeat("\xff", 64),
	} {
		stream := []byte(text + "xxxx")
		if taken := s.appetite(stream); taken >= tooMuch {
			s.find("ReadFrame takes %d MiB of memory for the %d bytes %s: it believes an announced length", taken>>20, len(stream), show(stream))
			return
		}
	}
}

// appetite returns the number of bytes that a ReadFrame of stream allocates, if that is at
// least tooMuch, else any smaller number. Bytes that seem to be allocated for a good frame
// are those of other goroutines, and do not count.
func (s *suite) appetite(stream []byte) (taken int64) {
	least, others := int64(math.MaxInt64), int64(0)
	for range measurements {
		frames := int64(0)
		all := int64(allocated(func() { frames = s.drain(stream) }))
		least = min(least, all/(frames+1))
		if least >= tooMuch {
			others = max(others, int64(allocated(func() { s.drain(s.frames[0].wire) })))
		}
		if least-others < tooMuch {
			break
		}
		runtime.GC() // before the next measurement allocates as much again
	}
	return least - others
}

// drain reads stream to its end or to an error, and returns the number of frames.
func (s *suite) drain(stream []byte) (frames int64) {
	in := whole(stream)
	r := bufio.NewReader(in)
	for {
		before := len(in.rest) + r.Buffered()
		msg, err := s.read(r, nil)
		if err != nil {
			return frames
		}
		if len(in.rest)+r.Buffered() == before {
			s.find("ReadFrame returns %s from %s without having consumed a byte", outcome(msg, err), show(stream))
			return frames
		}
		frames++
	}
}

// allocated returns the number of bytes that this process allocated while f ran.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// compare reads frames until there is an error, and returns how they differ from want and
// io.EOF. It compares when all have been read, to find messages in the bufio.Reader's
// memory.
func (s *suite) compare(in io.Reader, size int, want [][]byte) error {
	r := bufio.NewReaderSize(in, size)
	var got [][]byte
	var err error
	for err == nil && len(got) <= len(want) {
		var msg []byte
		if msg, err = s.read(r, nil); err == nil {
			got = append(got, msg)
		}
	}
	for i := range want {
		switch {
		case i >= len(got):
			return fmt.Errorf("message %d: got %s, want %s", i+1, outcome(nil, err), show(want[i]))
		case !bytes.Equal(got[i], want[i]):
			return fmt.Errorf("message %d: got %s, want %s", i+1, show(got[i]), show(want[i]))
		}
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last message: got %s, want io.EOF", outcome(got[len(got)-1], err))
	}
	return nil
}

// read calls ReadFrame. A panic becomes an error and a finding.
func (s *suite) read(r *bufio.Reader, dst []byte) (msg []byte, err error) {
	defer s.caught("ReadFrame", &err)
	return s.framer.ReadFrame(r, dst)
}

// write calls WriteFrame, likewise.
func (s *suite) write(w *bufio.Writer, msg []byte) (err error) {
	defer s.caught("WriteFrame", &err)
	return s.framer.WriteFrame(w, msg)
}
