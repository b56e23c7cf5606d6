package tcpclient_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"

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
