package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// checked is a Framer for frames with a check at the end: a byte with the length, the
// message, and a byte that makes the sum of all zero.
//
//	05  h e l l o  e7
type checked struct{}

func (checked) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	size, err := r.ReadByte()
	if err != nil {
		return dst, err // io.EOF: the stream has ended between frames
	}
	start := len(dst)
	msg := append(dst, make([]byte, int(size)+1)...)
	if _, err := io.ReadFull(r, msg[start:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // it has ended inside one
		}
		return dst, err
	}
	end := len(msg) - 1
	if sum(size, msg[start:end]) != -msg[end] {
		return dst, fmt.Errorf("%w: wrong checksum", tcpclient.ErrInvalidFrame)
	}
	return msg[:end], nil
}

func (checked) WriteFrame(w *bufio.Writer, msg []byte) error {
	if len(msg) > 255 { // refused before anything is written
		return &tcpclient.FrameTooLargeError{Size: uint64(len(msg)), Max: 255}
	}
	w.WriteByte(byte(len(msg)))
	w.Write(msg)
	return w.WriteByte(-sum(byte(len(msg)), msg)) // reports also the errors before it
}

func sum(sum byte, p []byte) byte {
	for _, b := range p {
		sum += b
	}
	return sum
}

// A framing of your own is two methods.
func ExampleFramer() {
	// In a test of yours.
	if err := tcpclienttest.TestFramer(checked{}, []byte("hello"), []byte{}, make([]byte, 255)); err != nil {
		log.Fatal(err)
	}

	server := tcpclienttest.NewServer(checked{}, tcpclienttest.Echo)
	defer server.Close()
	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: checked{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(ctx, []byte("hello"))
	fmt.Println(string(reply), err)

	fmt.Println(client.Send(ctx, make([]byte, 256)) != nil)
	// Output:
	// hello <nil>
	// true
}

// The packets of MQTT say in their second byte how much follows; a bit in it says that the number
// goes on in the next. The message is the whole packet.
//
//	+--- 1 ---+-- 1..4 --+-----------
//	|  type   |  length  |  rest ...
//	+---------+----------+-----------
func ExampleSized() {
	mqtt := tcpclient.Sized{MaxSize: 1 << 20, Size: func(p []byte) (size int, err error) {
		rest, n := binary.Uvarint(p[1:])
		switch {
		case n > 4 || n <= 0 && len(p) > 4:
			return 0, errors.New("length of more than 4 bytes") // ends the connection
		case n == 0:
			return 0, nil // not all of the length is here: ask again with more bytes
		}
		return 1 + n + int(rest), nil
	}}
	publish := append([]byte{0x30, 7, 0, 3}, "a/bhi"...)
	if err := tcpclienttest.TestFramer(mqtt, publish, []byte{0xc0, 0}, append([]byte{0x30, 0x80, 1}, make([]byte, 128)...)); err != nil {
		log.Fatal(err)
	}

	broker := tcpclienttest.NewServer(mqtt, tcpclienttest.Echo)
	defer broker.Close()
	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: mqtt}
	client, err := dialer.Dial(ctx, "tcp", broker.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(ctx, publish)
	fmt.Printf("% x %v\n", reply, err)

	fmt.Println(client.Send(ctx, publish[:8]) != nil) // it is not as long as it says
	// Output:
	// 30 07 00 03 61 2f 62 68 69 <nil>
	// true
}

// beating is a Framer for frames that end with a zero byte, such as those of STOMP. Between two
// frames each side may send line ends, which say that it is there.
//
//	M E S S A G E \n \n h e l l o 00 \n \n M E S S A G E …
type beating struct{}

const maxBeating = 64 << 10

func (beating) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	for msg := dst; ; {
		b, err := r.ReadByte()
		switch {
		case err == io.EOF && len(msg) > len(dst):
			return dst, io.ErrUnexpectedEOF
		case err != nil:
			return dst, err
		case b == '\n' && len(msg) == len(dst):
			return append(dst, b), nil // a message of its own: were it skipped, FrameTimeout would begin
		case b == 0:
			return msg, nil
		case len(msg)-len(dst) == maxBeating:
			return dst, &tcpclient.FrameTooLargeError{Size: maxBeating + 1, Max: maxBeating}
		}
		msg = append(msg, b)
	}
}

func (beating) WriteFrame(w *bufio.Writer, msg []byte) error {
	switch {
	case isBeat(msg):
		return w.WriteByte('\n')
	case len(msg) > maxBeating:
		return &tcpclient.FrameTooLargeError{Size: uint64(len(msg)), Max: maxBeating}
	case bytes.HasPrefix(msg, []byte("\n")) || bytes.IndexByte(msg, 0) >= 0:
		return fmt.Errorf("%w: a line end in front, or a zero byte", tcpclient.ErrInvalidFrame)
	}
	w.Write(msg)
	return w.WriteByte(0)
}

func isBeat(msg []byte) bool { return string(msg) == "\n" }

// A keep-alive between frames is a message of its own, which IsPong swallows.
func ExampleFramer_keepAlive() {
	if err := tcpclienttest.TestFramer(beating{}, []byte("hello"), []byte("\n"), []byte{}); err != nil {
		log.Fatal(err)
	}

	server := tcpclienttest.NewServer(beating{}, func(conn *tcpclienttest.Conn) {
		for _, msg := range []string{"\n", "MESSAGE\n\none", "\n", "\n", "MESSAGE\n\ntwo", "\n"} {
			conn.Send([]byte(msg))
		}
	})
	defer server.Close()
	ctx := context.Background()
	dialer := tcpclient.Dialer{
		Framer: beating{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 10 * time.Second, // the server hears from us at least that often
			Timeout:  25 * time.Second, // and we from it
			Ping:     func() []byte { return []byte("\n") },
			IsPong:   isBeat,
		},
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for msg, err := range client.Messages(ctx) {
		if err != nil {
			break // the server has hung up
		}
		fmt.Printf("%q\n", msg)
	}
	// Output:
	// "MESSAGE\n\none"
	// "MESSAGE\n\ntwo"
}
