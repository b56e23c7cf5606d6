package tcpclienttest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func ExampleNewServer() {
	server := tcpclienttest.NewServer(tcpclient.LengthPrefix{}, func(conn *tcpclienttest.Conn) {
		for msg := range conn.Messages() {
			conn.Send([]byte(strings.ToUpper(string(msg))))
		}
	})
	defer server.Close()

	ctx := context.Background()
	client, err := tcpclient.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	if err := client.Send(ctx, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	reply, err := client.Receive(ctx)
	fmt.Println(string(reply), err)
	// Output: HELLO <nil>
}

func ExampleScript() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, tcpclienttest.Script(
		tcpclienttest.Step{Reply: []string{"220 ready"}},
		tcpclienttest.Step{Expect: "HELO me", Reply: []string{"250 hello"}},
		tcpclienttest.Step{Expect: "QUIT", Reply: []string{"221 bye"}},
	))
	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: tcpclient.Lines{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	greeting, _ := client.Receive(ctx)
	hello, _ := client.Call(ctx, []byte("HELO me"))
	bye, _ := client.Call(ctx, []byte("QUIT"))
	fmt.Printf("%s, %s, %s\n", greeting, hello, bye)
	client.Close()
	fmt.Println(server.Close()) // what was not as written
	// Output:
	// 220 ready, 250 hello, 221 bye
	// <nil>
}

func ExampleRefuse() {
	greet := tcpclienttest.Step{Reply: []string{"welcome"}, Then: tcpclienttest.Echo}
	server := tcpclienttest.NewServer(nil, tcpclienttest.Refuse(2, tcpclienttest.Script(greet)))
	defer server.Close()

	failed := 0
	dialer := tcpclient.Dialer{
		Reconnect: &tcpclient.Backoff{Max: 10 * time.Millisecond, FirstDial: true},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			_, err := conn.Receive(ctx)
			return err
		},
		Trace: &tcpclient.Trace{ConnectFailed: func(string, int, error) { failed++ }},
	}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	reply, err := client.Call(ctx, []byte("hello"))
	fmt.Println(string(reply), err)
	client.Close()
	fmt.Println(failed, "attempts failed")
	// Output:
	// hello <nil>
	// 2 attempts failed
}

// In a bubble of package testing/synctest this example can wait for minutes of silence in
// no real time.
func ExampleNetwork() {
	var network tcpclienttest.Network
	listener, err := network.Listen("server:9000")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := tcpclienttest.NewServerOn(listener, nil, tcpclienttest.Discard)
	defer server.Close()

	dialer := tcpclient.Dialer{
		DialContext: network.DialContext,
		Heartbeat:   tcpclient.Heartbeat{Interval: 10 * time.Millisecond}, // in a bubble: time.Minute
	}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	_, err = client.Receive(ctx)
	fmt.Println(errors.Is(err, tcpclient.ErrHeartbeatTimeout))
	// Output: true
}

// Heal puts the pulled cable back in time: nothing is lost.
func ExampleNetwork_Partition() {
	var network tcpclienttest.Network
	listener, err := network.Listen("server:9000")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := tcpclienttest.NewServerOn(listener, nil, tcpclienttest.Echo)
	defer server.Close()

	dialer := tcpclient.Dialer{DialContext: network.DialContext}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	network.Partition()
	if err := client.Send(ctx, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	impatient, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = client.Receive(impatient)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))

	network.Heal()
	reply, err := client.Receive(ctx)
	fmt.Println(string(reply), err)
	// Output:
	// true
	// hello <nil>
}

func ExampleFaults() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()

	// Bytes arrive one at a time, and the stream ends inside the second frame.
	faults := tcpclienttest.Faults{Read: tcpclienttest.Fault{Chunk: 1, After: 12, Then: tcpclienttest.Cut}}
	dialer := tcpclient.Dialer{DialContext: faults.DialContext(nil)}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	for range 2 {
		if err := client.Send(ctx, []byte("hello")); err != nil {
			fmt.Println(err)
			return
		}
	}
	reply, err := client.Receive(ctx)
	fmt.Println(string(reply), err)
	_, err = client.Receive(ctx)
	fmt.Println(errors.Is(err, io.ErrUnexpectedEOF))
	// Output:
	// hello <nil>
	// true
}

// semicolons is a Framer that ends messages with a semicolon. It has a bug: it flushes.
type semicolons struct{}

func (semicolons) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	return tcpclient.Delimiter{Delim: []byte(";")}.ReadFrame(r, dst)
}

func (semicolons) WriteFrame(w *bufio.Writer, msg []byte) error {
	if err := (tcpclient.Delimiter{Delim: []byte(";")}).WriteFrame(w, msg); err != nil {
		return err
	}
	return w.Flush()
}

func ExampleTestFramer() {
	fmt.Println(tcpclienttest.TestFramer(tcpclient.LengthPrefix{}, []byte("hello"), []byte("x")))
	fmt.Println(tcpclienttest.TestFramer(semicolons{}, []byte("hello"), []byte("x")))
	// Output:
	// <nil>
	// tcpclienttest: tcpclienttest_test.semicolons: WriteFrame flushes: 6 bytes of "hello" were not left in the bufio.Writer
}

// What a mail server answers is no command: only ReadFrame can be tested.
func ExampleTestReadFrame() {
	replies := tcpclient.Sized{Size: func(p []byte) (int, error) {
		for at := 0; ; {
			end := bytes.Index(p[at:], []byte("\r\n"))
			switch {
			case end < 0:
				return 0, nil // more bytes, please
			case end < 3:
				return 0, errors.New("line without a code")
			}
			last := end == 3 || p[at+3] == ' '
			if at += end + 2; last {
				return at, nil
			}
		}
	}}
	fmt.Println(tcpclienttest.TestReadFrame(replies, []byte("250-first\r\n250 last\r\n354 go on\r\n"),
		[]byte("250-first\r\n250 last\r\n"),
		[]byte("354 go on\r\n")))
	// Output: <nil>
}

// numbered is a Correlator that puts the id in front, as two bytes. It has a bug: it does not say
// that two bytes are all.
type numbered struct{}

func (numbered) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint16(dst, uint16(id)), request...), nil
}

func (numbered) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if len(msg) < 2 {
		return 0, nil, false
	}
	return uint64(binary.BigEndian.Uint16(msg)), msg[2:], true
}

// With this method, the bug is gone.
type limited struct{ numbered }

func (limited) MaxID() uint64 { return 1<<16 - 1 }

func ExampleTestCorrelator() {
	fmt.Println(tcpclienttest.TestCorrelator(limited{}, []byte("hello"), []byte("x")))
	err := tcpclienttest.TestCorrelator(numbered{}, []byte("hello"), []byte("x"))
	line, _, _ := strings.Cut(err.Error(), "\n")
	fmt.Println(line)
	// Output:
	// <nil>
	// tcpclienttest: tcpclienttest_test.numbered: AppendRequest makes the same message of "hello" with id 1 and of id 65537: an id is cut off; is there a MaxID?
}
