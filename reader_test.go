package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A script is what a connection brings: data in reads of the given sizes, and with the last
// of them, or after it, the end, once. Without an end the connection goes on.
type script struct {
	data  []byte
	size  func() int
	end   error
	atEnd bool          // the end comes with the last bytes
	begin chan struct{} // closed when it begins; nil: at once
	conn  net.Conn
}

func (s *script) read(p []byte) (int, error) {
	if s.begin != nil {
		<-s.begin
	}
	n := copy(p[:min(len(p), s.size())], s.data)
	s.data = s.data[n:]
	switch {
	case n > 0 && (len(s.data) > 0 || s.end == nil || !s.atEnd):
		return n, nil
	case s.end == nil:
		return s.conn.Read(p)
	}
	end := s.end
	s.end = io.EOF // as with sockets
	return n, end
}

// play connects a client to s.
func (s *script) play(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer) {
	c, p, _ := testkit.ConnectHooked(t, d, func(w *testkit.HookedConn) { s.conn, w.OnRead = w.Conn, s.read })
	return c, p
}

// bursts are reads as large as they may be.
func bursts() int { return 1 << 20 }

// ramp is what the messages of mixed are cut from.
var ramp = func() string {
	b := make([]byte, 256+70<<10)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}()

// mixed returns messages of sizes that change every so often, each with bytes of its own.
func mixed(r *rand.Rand, total int) (msgs []string) {
	limits := []int{64, 600, 1100, 2000, 8 << 10, 9 << 10, 70 << 10}
	for bytes := 0; bytes < total; {
		least, most := 0, limits[r.IntN(len(limits))]
		if r.IntN(2) == 0 {
			least = most / 2
		}
		for range 1 + r.IntN(300) {
			msg := ramp[len(msgs)%256:][:least+r.IntN(most-least)]
			msgs = append(msgs, msg)
			if bytes += len(msg) + 4; bytes >= total {
				break
			}
		}
	}
	return msgs
}

// Streams of messages of half a KiB to 8 KiB are read straight into the Inbox.
func TestMessagesOfMixedSizesArriveWholeAndInOrder(t *testing.T) {
	for name, receive := range map[string]func(*testing.T, *tcpclient.Client) ([]string, error){
		"Receive": func(t *testing.T, c *tcpclient.Client) ([]string, error) { return testkit.ReceiveAll(t, c) },
		"ReceiveInto": func(t *testing.T, c *tcpclient.Client) (msgs []string, err error) {
			for buf := []byte(nil); ; msgs = append(msgs, string(buf)) {
				if buf, err = c.ReceiveInto(t.Context(), buf); err != nil {
					return msgs, err
				}
			}
		},
		"Messages": func(t *testing.T, c *tcpclient.Client) (msgs []string, end error) {
			for msg, err := range c.Messages(t.Context()) {
				if end = err; err == nil {
					msgs = append(msgs, string(msg))
				}
			}
			return msgs, end
		},
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P1, P3
			for seed := range uint64(testkit.Rounds(12)) {
				r := rand.New(rand.NewPCG(seed, 1))
				msgs := mixed(r, 800<<10)
				largest := []int{1 << 10, 20 << 10, 1 << 20}[seed%3]
				s := script{data: testkit.Frames(msgs...), size: func() int { return 1 + r.IntN(largest) }, end: io.EOF, atEnd: seed%2 == 0}
				c, _ := s.play(t, tcpclient.Dialer{Heartbeat: heartbeats(seed%4 == 3)})
				got, err := receive(t, c)
				require.ErrorIs(t, err, io.EOF)
				require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
				require.Equal(t, len(msgs), len(got), "seed %d", seed)
				for i := range msgs {
					require.True(t, msgs[i] == got[i], "seed %d, message %d of %d bytes", seed, i, len(msgs[i]))
				}
				require.Equal(t, uint64(len(msgs)), c.Stats().MessagesReceived)
				require.NoError(t, c.Close())
			}
		}))
	}
}

// heartbeats returns a Heartbeat that watches the silence, or none.
func heartbeats(some bool) (h tcpclient.Heartbeat) {
	if some {
		h.Interval = time.Minute
	}
	return h
}

func TestStreamOfKiB(t *testing.T) {
	stream := testkit.Numbered(300, 1<<10)
	data := testkit.Frames(stream...)
	reset := syscall.ECONNRESET

	for _, test := range []struct {
		name  string
		data  []byte
		end   error
		atEnd bool
		want  error
	}{
		{"ends between messages", data, io.EOF, false, io.EOF},
		{"ends in a header", append(bytes.Clone(data), 0, 0), io.EOF, false, io.ErrUnexpectedEOF},
		{"ends in a header, at once", append(bytes.Clone(data), 0, 0), io.EOF, true, io.ErrUnexpectedEOF},
		{"ends in a message", append(bytes.Clone(data), testkit.Frame("cut off")[:6]...), io.EOF, false, io.ErrUnexpectedEOF},
		{"ends in a large message", append(bytes.Clone(data), testkit.Frame(testkit.PatternText(20 << 10))[:9000]...), io.EOF, true, io.ErrUnexpectedEOF},
		{"is reset between messages", data, reset, true, reset},
		{"is reset in a message", append(bytes.Clone(data), testkit.Frame("cut off")[:6]...), reset, true, reset},
		{"goes on with nonsense", append(bytes.Clone(data), "HTTP/1.1 400 Bad Request"...), io.EOF, false, new(tcpclient.FrameTooLargeError)},
	} {
		t.Run(test.name, testkit.InBubble(func(t *testing.T) { // P1, P9
			for _, size := range []func() int{bursts, func() int { return 40000 }, func() int { return 17000 }} {
				s := script{data: test.data, size: size, end: test.end, atEnd: test.atEnd}
				c, _ := s.play(t, tcpclient.Dialer{})
				msgs, err := testkit.ReceiveAll(t, c)
				require.Equal(t, stream, msgs)
				if large := (*tcpclient.FrameTooLargeError)(nil); errors.As(test.want, &large) {
					require.ErrorAs(t, err, &large)
					require.Contains(t, err.Error(), "HTTP")
				} else {
					require.ErrorIs(t, err, test.want)
				}
				require.Equal(t, test.want == io.ErrUnexpectedEOF, bytes.Contains([]byte(err.Error()), []byte("unexpected EOF")))
			}
		}))
	}

	t.Run("that stops in a message is noticed", testkit.InBubble(func(t *testing.T) { // P5
		s := script{data: append(bytes.Clone(data), 0, 0, 4), size: bursts}
		c, _ := s.play(t, tcpclient.Dialer{FrameTimeout: time.Second})
		msgs, err := testkit.ReceiveAll(t, c)
		assert.Equal(t, stream, msgs)
		assert.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
	}))

	t.Run("is no reply, and the reply to a Call is none of it", testkit.InBubble(func(t *testing.T) { // P3
		s := script{data: bytes.Clone(data), size: bursts}
		c, p := s.play(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
		got := testkit.Start(t, func() []string {
			var msgs []string
			for range 2 * len(stream) {
				msg, err := c.Receive(t.Context())
				assert.NoError(t, err)
				msgs = append(msgs, string(msg))
			}
			return msgs
		})
		synctest.Wait() // the next read is under way
		call := testkit.Start(t, func() string {
			reply, err := c.Call(t.Context(), testkit.Pattern(1000))
			assert.NoError(t, err)
			return string(reply)
		})
		request := p.Receive()
		p.Raw(append(append(bytes.Clone(data[:100*1028]), testkit.Frame(request)...), data[100*1028:]...))
		require.Equal(t, testkit.PatternText(1000), call())
		require.Equal(t, append(append([]string{}, stream...), stream...), got())
	}))

	t.Run("fills the Inbox, and no more", testkit.InBubble(func(t *testing.T) { // P6
		s := script{data: bytes.Repeat(data, 30), size: bursts, end: io.EOF, begin: make(chan struct{})}
		c, _ := s.play(t, tcpclient.Dialer{})
		requireHeap(t, 1<<20, func() { close(s.begin); synctest.Wait() })
		require.Less(t, c.Stats().MessagesReceived, uint64(300))
		msgs, err := testkit.ReceiveAll(t, c)
		require.ErrorIs(t, err, io.EOF)
		require.Len(t, msgs, 30*len(stream))
	}))

	for name, size := range map[string]int{"small": 1 << 10, "large": 17 << 10} {
		t.Run("between small messages does not waste memory, in "+name+" reads", testkit.InBubble(func(t *testing.T) { // P6
			const cycles, small = 400, 12
			cycle := testkit.Frame(testkit.PatternText(600))
			for range small {
				cycle = append(cycle, 0, 0, 0, 1, 'x')
			}
			s := script{data: bytes.Repeat(cycle, cycles), size: func() int { return size }, end: io.EOF, begin: make(chan struct{})}
			c, _ := s.play(t, tcpclient.Dialer{})
			requireHeap(t, 2<<20, func() { close(s.begin); synctest.Wait() })
			msgs, err := testkit.ReceiveAll(t, c)
			require.ErrorIs(t, err, io.EOF)
			require.Len(t, msgs, cycles*(1+small))
		}))
	}

	t.Run("is a sign of life", testkit.InBubble(func(t *testing.T) { // P5
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: time.Second, Timeout: 2 * time.Second}})
		got := testkit.Start(t, func() []string {
			msgs, _ := testkit.ReceiveAll(t, c)
			return msgs
		})
		for sent := data; len(sent) > 0; time.Sleep(1500 * time.Millisecond) {
			n := min(20*1028, len(sent)) // whole messages: in the middle of one FrameTimeout rules
			p.Raw(sent[:n])
			sent = sent[n:]
		}
		p.HalfClose()
		require.Len(t, got(), len(stream))
	}))
}

// The memory of a message is the caller's: what is read next must not be there.
func TestReceivedMemoryIsNotReadIntoAgain(t *testing.T) {
	for name, stream := range map[string][]string{
		"1 KiB": testkit.Numbered(2000, 1<<10),
		"large": append(testkit.Numbered(40, 100<<10), testkit.Numbered(40, 70<<10)...),
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P1
			s := script{data: testkit.Frames(stream...), size: bursts, end: io.EOF}
			c, _ := s.play(t, tcpclient.Dialer{})
			buf := []byte(nil)
			for i := range stream {
				var err error
				buf, err = c.ReceiveInto(t.Context(), buf)
				require.NoError(t, err)
				require.True(t, stream[i] == string(buf), "message %d", i)
				all := buf[:cap(buf)]
				for j := range all {
					all[j] = 0xff
				}
				binary.BigEndian.PutUint32(all, 1<<31)
			}
		}))
	}
}

// Large messages are read straight into their memory, with the header of what follows. That may be
// cut anywhere, and what follows may be anything.
func TestLargeMessagesThatAreReadStraightIntoTheirMemory(t *testing.T) {
	large := func(i, size int) string { return string(testkit.Checkable(i, size)) }
	first := large(0, 70<<10)
	var msgs []string
	for i, size := range []int{64 << 10, 64 << 10, 1 << 20, 8, 64<<10 - 1, 64 << 10, 100, 2000, 300 << 10, 64<<10 + 1, 64<<10 - 4, 8, 8, 1 << 20} {
		msgs = append(msgs, large(i, size))
	}
	msgs = append(msgs, "", large(100, 70<<10), "", "")
	data := testkit.Frames(msgs...)

	for name, d := range map[string]tcpclient.Dialer{
		"an Inbox for few":   {},
		"an Inbox for all":   {Inbox: 16 << 20},
		"a small ReadBuffer": {ReadBuffer: 600},
		"a Heartbeat":        {Heartbeat: tcpclient.Heartbeat{Interval: time.Minute, IsPong: func(msg []byte) bool { return false }}},
	} {
		t.Run("arrive whole wherever reads end, with "+name, testkit.InBubble(func(t *testing.T) { // P1, P3, FAULTS S4
			for less := range 9 { // the header after a message is cut at each byte, and behind it
				sizes := []int{}
				for _, msg := range msgs {
					sizes = append(sizes, len(msg)+8-less, less)
				}
				next := 0
				s := script{data: data, end: io.EOF, size: func() int {
					next++
					return max(1, sizes[next%len(sizes)])
				}}
				c, _ := s.play(t, d)
				got, err := testkit.ReceiveAll(t, c)
				require.ErrorIs(t, err, io.EOF)
				require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
				require.Len(t, got, len(msgs))
				for i := range msgs {
					require.True(t, msgs[i] == got[i], "message %d of %d bytes", i, len(msgs[i]))
				}
				require.Equal(t, uint64(len(msgs)), c.Stats().MessagesReceived)
			}
		}))
	}

	ways := map[string]tcpclient.Framer{"straight": tcpclient.LengthPrefix{}, "by the Framer": testkit.FuncFramer{}}
	for _, test := range []struct {
		name string
		data []byte
		end  error
		want error
		text string
	}{
		{name: "cut off by FIN", data: append(testkit.Frame(large(0, 70<<10)), testkit.Frame(large(1, 70<<10))[:5000]...), end: io.EOF, want: io.ErrUnexpectedEOF},
		{name: "cut off after its header", data: append(testkit.Frame(large(0, 70<<10)), 0, 1, 0, 0), end: io.EOF, want: io.ErrUnexpectedEOF},
		{name: "cut off inside its header", data: append(testkit.Frame(large(0, 70<<10)), 0, 1), end: io.EOF, want: io.ErrUnexpectedEOF},
		{name: "whole, and the end", data: testkit.Frame(large(0, 70<<10)), end: io.EOF, want: io.EOF},
		{name: "reset in the middle", data: append(testkit.Frame(large(0, 70<<10)), testkit.Frame(large(1, 70<<10))[:69<<10]...), end: syscall.ECONNRESET, want: syscall.ECONNRESET},
		{name: "followed by nonsense", data: append(testkit.Frame(large(0, 70<<10)), "HTTP/1.1 400 Bad Request"...), end: io.EOF, want: tcpclient.ErrDisconnected, text: "HTTP server"},
		{name: "that stops", data: append(testkit.Frame(large(0, 70<<10)), testkit.Frame(large(1, 70<<10))[:5000]...), want: tcpclient.ErrFrameTimeout, text: "5000 bytes of the frame have come"},
		{name: "that stops after its header", data: append(testkit.Frame(large(0, 70<<10)), 0, 1, 0, 0), want: tcpclient.ErrFrameTimeout, text: "4 bytes of the frame have come"},
		{name: "that stops inside its header", data: append(testkit.Frame(large(0, 70<<10)), 0, 1), want: tcpclient.ErrFrameTimeout, text: "2 bytes of the frame have come"},
	} {
		for way, framer := range ways {
			for reads, size := range map[string]func() int{"large reads": bursts, "small reads": func() int { return 999 }} {
				t.Run("end as others do: "+test.name+", "+way+", "+reads, testkit.InBubble(func(t *testing.T) { // P1, P5, P9, FAULTS S6, S7, S17
					s := script{data: test.data, size: size, end: test.end, atEnd: true}
					c, _ := s.play(t, tcpclient.Dialer{Framer: framer, FrameTimeout: time.Second})
					msgs, err := testkit.ReceiveAll(t, c)
					require.Len(t, msgs, 1)
					require.True(t, msgs[0] == first)
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
					require.ErrorIs(t, err, test.want)
					require.ErrorContains(t, err, test.text)
				}))
			}
		}
	}

	t.Run("have memory for what has come, and for as much as has come of late", testkit.InBubble(func(t *testing.T) { // P6, FAULTS B1
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		requireHeap(t, 64<<10, func() { p.Raw([]byte{0, 63, 0, 0}); synctest.Wait() })
		requireHeap(t, 64<<10, func() { p.Raw(make([]byte, 20<<10)); synctest.Wait() })
		requireHeap(t, 512<<10, func() { p.Raw(make([]byte, 128<<10)); synctest.Wait() })
		go p.Raw(make([]byte, 63<<16-148<<10))
		_, err := c.Receive(t.Context())
		require.NoError(t, err)
		for range 100 {
			p.Send("small")
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
		requireHeap(t, 64<<10, func() { p.Raw([]byte{0, 63, 0, 0}); synctest.Wait() })
	}))

	t.Run("are replies among pushes", testkit.InBubble(func(t *testing.T) { // P3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
		var pushes []string
		for i := range 6 {
			pushes = append(pushes, "push "+large(i, 70<<10))
		}
		got := testkit.Start(t, func() (got []string) {
			for range 2 * len(pushes) {
				msg, err := c.Receive(t.Context())
				assert.NoError(t, err)
				got = append(got, string(msg))
			}
			return got
		})
		p.Send(pushes...)
		call := testkit.Start(t, func() string {
			reply, err := c.Call(t.Context(), testkit.Checkable(50, 300<<10))
			assert.NoError(t, err)
			return string(reply)
		})
		request := p.Receive()
		p.Send(append([]string{pushes[0], request}, pushes[1:]...)...)
		require.True(t, large(50, 300<<10) == call())
		require.True(t, slices.Equal(append(slices.Clone(pushes), pushes...), got()))
	}))
}

// An error that comes with the last bytes of a stream is the one that all callers get, wherever the
// stream ends: also where these bytes fill the read buffer, and it grows.
func TestErrorThatComesWithTheLastBytesIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P9
		bad := ""
		for size := 0; size < 3000; size += 4 {
			s := script{data: testkit.Frame(testkit.PatternText(size)), size: bursts, end: syscall.ECONNRESET, atEnd: true}
			c, _ := s.play(t, tcpclient.Dialer{})
			msgs, err := testkit.ReceiveAll(t, c)
			require.Len(t, msgs, 1)
			if !errors.Is(err, syscall.ECONNRESET) {
				bad += fmt.Sprintf(" %d (%v)", size, err)
			}
			c.Close()
		}
		require.Empty(t, bad)
	})
}

// Slabs of any memory are recycled: that of large messages, and what was traded for them.
// Offsets in what is read directly must fit all the same.
func TestStreamOfKiBBetweenLargeMessagesArrivesWhole(t *testing.T) {
	testkit.SkipIfShort(t)
	large, small := testkit.PatternText(180<<10), testkit.Numbered(200, 2000)
	var msgs []string
	for range 50 {
		msgs = append(append(msgs, large), small...)
	}
	stream := testkit.Frames(msgs...)
	for name, receive := range map[string]func(*testing.T, *tcpclient.Client, func([]byte)) error{
		"ReceiveInto": func(t *testing.T, c *tcpclient.Client, each func([]byte)) error {
			for buf := make([]byte, 0, 180<<10); ; each(buf) {
				var err error
				if buf, err = c.ReceiveInto(t.Context(), buf); err != nil {
					return err
				}
			}
		},
		"Messages": func(t *testing.T, c *tcpclient.Client, each func([]byte)) error {
			for msg, err := range c.Messages(t.Context()) {
				if err != nil {
					return err
				}
				each(msg)
			}
			return nil
		},
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P1
			s := script{data: stream, size: bursts, end: io.EOF}
			c, _ := s.play(t, tcpclient.Dialer{Inbox: 4 << 20})
			i := 0
			err := receive(t, c, func(msg []byte) {
				if i == len(msgs) || msgs[i] != string(msg) {
					require.Less(t, i, len(msgs), "one too many")
					require.Fail(t, "another message", "message %d of %d bytes came as one of %d", i, len(msgs[i]), len(msg))
				}
				i++
			})
			require.ErrorIs(t, err, io.EOF)
			require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, len(msgs), i)
		}))
	}
}

// A frame above a MaxSize that is itself below 8 KiB is refused from its header alone.
func TestStreamOfKiBEndsAtAFrameThatIsTooLarge(t *testing.T) {
	for name, more := range map[string]int{"of which only the header comes": 0, "that comes whole": 5000, "that is followed by others": 200 << 10} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P1, P6
			stream := testkit.Numbered(300, 1<<10)
			data := append(testkit.Frames(stream...), 0, 0, 5000>>8, 5000&0xff)
			data = append(data, make([]byte, more)...)
			s := script{data: data, size: bursts}
			c, _ := s.play(t, tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: 2000}})
			began := time.Now()
			msgs, err := testkit.ReceiveAll(t, c)
			require.Equal(t, stream, msgs)
			require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError))
			require.Less(t, time.Since(began), time.Second)
		}))
	}
}

// Small messages after a stream of KiBs, in the same read, do not get the memory of large ones.
func TestSmallMessagesAfterAStreamOfKiB(t *testing.T) {
	ramp, empties := testkit.Frames(testkit.Numbered(60, 1<<10)...), make([]byte, 4*11_000)
	t.Run("that fill the Inbox waste no memory", testkit.InBubble(func(t *testing.T) { // P6
		s := script{data: append(bytes.Clone(ramp), empties...), size: bursts, end: io.EOF, begin: make(chan struct{})}
		c, _ := s.play(t, tcpclient.Dialer{})
		requireHeap(t, 2<<20, func() { close(s.begin); synctest.Wait() })
		msgs, err := testkit.ReceiveAll(t, c)
		require.ErrorIs(t, err, io.EOF)
		require.Len(t, msgs, 60+11_000)
	}))
	t.Run("during Shutdown waste no memory", testkit.InBubble(func(t *testing.T) { // P6
		s := script{data: bytes.Repeat(append(bytes.Clone(ramp), empties...), 15), size: bursts, begin: make(chan struct{})}
		c, p := s.play(t, tcpclient.Dialer{})
		down := testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
		synctest.Wait()
		requireHeap(t, 64<<20, func() { close(s.begin); p.HalfClose(); down() })
	}))
}

// Calls begin at any moment of a stream of pushes: each message goes where it belongs.
func TestCallsAndPushesGoWhereTheyBelong(t *testing.T) {
	testkit.EachTransport(t, transporttest.CallsAndPushes)
}

// requireCheckable wants msg to be the message of Checkable with that number.
func requireCheckable(t *testing.T, number int, msg []byte) {
	if k, err := testkit.Check(msg); err != nil || k != number {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, number, k)
	}
}

// The peer hangs up anywhere in a stream; with Reconnect the next connection goes on, and Close comes
// at any moment.
func TestReconnectInsideAStreamLosesNoWholeMessage(t *testing.T) {
	part := testkit.AppendFrame(nil, testkit.Checkable(0, 6000))
	for _, inbox := range []int{0, 140 << 10, 1} {
		for seed := range uint64(testkit.Rounds(8)) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 666))
				l := testkit.ListenMemory(t)
				var d tcpclient.Dialer
				d.Inbox = inbox
				d.Reconnect = &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond}
				d.FrameTimeout = time.Second
				done := make(chan struct{})
				whole := make(chan int, 1000)
				go func() {
					defer close(done)
					r := rand.New(rand.NewPCG(seed, 6666))
					next := 0
					var b []byte
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						b = b[:0]
						size := 600 + r.IntN(7000)
						for range 50 + r.IntN(150) {
							n := size/2 + r.IntN(size/2)
							b = testkit.AppendCheckable(binary.BigEndian.AppendUint32(b, uint32(n)), next, n)
							next++
						}
						whole <- next
						conn.Write(append(b, part[:r.IntN(5000)]...))
						if r.IntN(4) > 0 {
							conn.Close()
						}
					}
				}()
				c := l.Dial(t, d)
				want, losses := 0, 0
				buf := make([]byte, 0, r.IntN(200<<10))
				for stop := 2 + r.IntN(5); losses < stop; {
					var err error
					if r.IntN(2) == 0 {
						buf, err = c.ReceiveInto(t.Context(), buf)
						if err == nil {
							requireCheckable(t, want, buf)
							want++
						}
					} else {
						n := 0
						for msg, e := range c.Messages(t.Context()) {
							if err = e; e != nil {
								break
							}
							requireCheckable(t, want, msg)
							want++
							if n++; n == 23 {
								break
							}
						}
					}
					if err != nil {
						require.ErrorIs(t, err, tcpclient.ErrDisconnected)
						require.Equal(t, <-whole, want)
						losses++
					}
				}
				time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
				for range r.IntN(60) {
					c.Receive(t.Context())
				}
				require.NoError(t, c.Close())
				l.Close()
				<-done
			})
			if t.Failed() {
				t.Fatal(inbox, seed)
			}
		}
	}
}

func TestFramerOfTheUser(t *testing.T) {
	t.Run("is given the same bufio.Reader for the whole connection, and no one else is", func(t *testing.T) { // P1
		l := testkit.ListenTCP(t)
		seen := make(map[*bufio.Reader]bool)
		for range 3 {
			var mine []*bufio.Reader // by the Client's goroutine
			c, p := l.Connect(t, tcpclient.Dialer{Framer: testkit.FuncFramer{
				Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
					mine = append(mine, r)
					return tcpclient.LengthPrefix{}.ReadFrame(r, dst)
				},
				Write: tcpclient.LengthPrefix{}.WriteFrame,
			}})
			for _, msg := range testkit.Numbered(20, 5000) {
				p.Send(msg)
				got, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, msg, string(got))
				testkit.WaitBlocked(t, "(*Conn).ReadInto")
			}
			require.NoError(t, c.Close())
			for _, r := range mine {
				require.Same(t, mine[0], r)
			}
			require.False(t, seen[mine[0]])
			seen[mine[0]] = true
		}
	})
}
