package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"time"

	"github.com/hashicorp/yamux"
)

// serve is the server process: it announces its address on out and serves until its
// standard input ends. small keeps the buffers small, for thousands of connections.
func serve(wire string, small bool, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	size := 256 << 10
	if small {
		size = 4 << 10
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			switch wire {
			case "prefix":
				newExchange(conn, lengthPrefix{}, size).run()
			case "yamux":
				serveYamux(conn, size)
			case "websocket":
				serveWebSocket(conn, size)
			case "netrpc":
				s := rpc.NewServer()
				s.Register(Echo{})
				s.ServeConn(conn)
			}
		}()
	}
}

// A framing is how a server marks messages.
type framing interface {
	appendFrame(dst, msg []byte) []byte
	// readFrame returns a message, which is valid until the next read, or in memory
	// that buf is replaced by.
	readFrame(r *bufio.Reader, buf *[]byte) ([]byte, error)
	// received is how many bytes a message of that size takes on its way to the server.
	received(size int) int64
}

// An exchange is one connection of a server that does what orders tell it. It spends as
// little as possible: the client is what is measured.
type exchange struct {
	framing
	conn  io.ReadWriter
	r     *bufio.Reader
	w     *bufio.Writer
	buf   []byte
	frame []byte
}

func newExchange(conn io.ReadWriter, f framing, size int) *exchange {
	return &exchange{
		framing: f,
		conn:    conn,
		r:       bufio.NewReaderSize(conn, size),
		w:       bufio.NewWriterSize(conn, size),
	}
}

func (x *exchange) run() error {
	for {
		msg, err := x.readFrame(x.r, &x.buf)
		if err != nil {
			return err
		}
		o, err := decodeOrder(msg)
		if err != nil {
			return err
		}
		switch o.op {
		case opEcho:
			err = x.echo(o.count, 0)
		case opWork:
			err = x.echo(o.count, workTime)
		case opSource:
			err = x.source(o.size, o.count)
		case opSink:
			err = x.sink(o.size, o.count)
		}
		if err != nil {
			return err
		}
	}
}

// workTime is how long a server works on a request of opWork.
const workTime = 5 * time.Microsecond

// echo flushes when nothing more has arrived.
func (x *exchange) echo(n int, work time.Duration) error {
	for range n {
		if x.r.Buffered() == 0 {
			if err := x.w.Flush(); err != nil {
				return err
			}
		}
		msg, err := x.readFrame(x.r, &x.buf)
		if err != nil {
			return err
		}
		if work > 0 {
			for begin := time.Now(); time.Since(begin) < work; {
			}
		}
		x.frame = x.appendFrame(x.frame[:0], msg)
		if _, err := x.w.Write(x.frame); err != nil {
			return err
		}
	}
	return x.w.Flush()
}

func (x *exchange) source(size, n int) error {
	const block = 256 << 10
	frame := x.appendFrame(nil, make([]byte, size))
	frames := bytes.Repeat(frame, min(n, max(1, block/len(frame))))
	for n > 0 {
		k := min(n, len(frames)/len(frame))
		if _, err := x.conn.Write(frames[:k*len(frame)]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

func (x *exchange) sink(size, n int) error {
	for rest := x.received(size) * int64(n); rest > 0; {
		if x.r.Buffered() == 0 {
			if _, err := x.r.Peek(1); err != nil {
				return err
			}
		}
		k, err := x.r.Discard(int(min(rest, int64(x.r.Buffered()))))
		if err != nil {
			return err
		}
		rest -= int64(k)
	}
	_, err := x.conn.Write(x.appendFrame(nil, []byte("done")))
	return err
}

// readBody reads size bytes, in place if they fit.
func readBody(r *bufio.Reader, size int, buf *[]byte) ([]byte, error) {
	if size <= r.Size() {
		msg, err := r.Peek(size)
		r.Discard(len(msg))
		return msg, err
	}
	if cap(*buf) < size {
		*buf = make([]byte, size)
	}
	_, err := io.ReadFull(r, (*buf)[:size])
	return (*buf)[:size], err
}

// lengthPrefix is four bytes of length, big-endian, in front of the message.
type lengthPrefix struct{}

func (lengthPrefix) appendFrame(dst, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(msg))), msg...)
}

func (lengthPrefix) readFrame(r *bufio.Reader, buf *[]byte) ([]byte, error) {
	header, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(header))
	r.Discard(4)
	return readBody(r, size, buf)
}

func (lengthPrefix) received(size int) int64 { return 4 + int64(size) }

func serveYamux(conn net.Conn, size int) error {
	session, err := yamux.Server(conn, yamuxConfig())
	if err != nil {
		return err
	}
	stream, err := session.AcceptStream()
	if err != nil {
		return err
	}
	return newExchange(stream, lengthPrefix{}, size).run()
}

// serveWebSocket is a server just good enough to send prepared frames and to take whole
// messages in one frame each, so that the client is the one to be waited for.
func serveWebSocket(conn net.Conn, size int) error {
	x := newExchange(conn, webSocketFrames{}, size)
	request, err := http.ReadRequest(x.r)
	if err != nil {
		return err
	}
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return x.run()
}

// webSocketFrames are binary messages of RFC 6455: masked by the client, not by us.
type webSocketFrames struct{}

func (webSocketFrames) appendFrame(dst, msg []byte) []byte {
	dst = append(dst, 0x82)
	switch n := len(msg); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, msg...)
}

func (webSocketFrames) readFrame(r *bufio.Reader, buf *[]byte) ([]byte, error) {
	header, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	if header[0] != 0x82 {
		return nil, fmt.Errorf("WebSocket frame %#x: only whole binary messages are served", header[0])
	}
	size, width := int(header[1]&0x7f), 2
	switch size {
	case 126:
		width = 4
	case 127:
		width = 10
	}
	if header, err = r.Peek(width + 4); err != nil {
		return nil, err
	}
	switch width {
	case 4:
		size = int(binary.BigEndian.Uint16(header[2:]))
	case 10:
		size = int(binary.BigEndian.Uint64(header[2:]))
	}
	mask := [4]byte(header[width:])
	r.Discard(width + 4)
	msg, err := readBody(r, size, buf)
	for i := range msg {
		msg[i] ^= mask[i&3]
	}
	return msg, err
}

func (f webSocketFrames) received(size int) int64 {
	return int64(len(f.appendFrame(nil, make([]byte, size)))) + 4
}

// Echo is the service for net/rpc.
type Echo struct{}

// Echo returns request.
func (Echo) Echo(request []byte, reply *[]byte) error {
	*reply = request
	return nil
}
