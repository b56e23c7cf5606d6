package tcpclienttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// A Conn is the server's end of a connection. One goroutine at a time may receive; any
// number may send at once.
type Conn struct {
	server *Server
	net    net.Conn
	framer tcpclient.Framer
	ctx    context.Context
	cancel context.CancelFunc
	state  atomic.Int32
	cut    atomic.Bool               // the server has closed or reset it, before its handler had returned
	until  atomic.Pointer[time.Time] // when reading ends, as the server is closing; nil: it is not

	// Owned by the receiving goroutine.
	in      *bufio.Reader // over source
	holding bool          // this goroutine holds lock between two reads

	// lock guards out. It is held across writes, so it is a channel: a mutex would stop
	// the clock of a synctest bubble.
	lock chan struct{}
	out  *bufio.Writer
}

// The values of Conn.state, for the error of Server.Close.
const (
	working int32 = iota
	receiving
	sending
)

func newConn(s *Server, raw net.Conn) *Conn {
	c := &Conn{server: s, net: raw, framer: s.framer, lock: make(chan struct{}, 1)}
	c.in = bufio.NewReaderSize((*source)(c), 64<<10)
	c.out = bufio.NewWriterSize((*sink)(c), 64<<10)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	return c
}

// source is the reader under Conn.in.
type source Conn

func (c *source) Read(p []byte) (int, error) {
	if conn := (*Conn)(c); conn.holding {
		conn.out.Flush() // the next write returns its error again
		conn.release()
		defer conn.acquire()
	}
	c.state.Store(receiving)
	defer c.state.Store(working)
	if until := c.until.Load(); until != nil {
		(*Conn)(c).limitRead(*until)
	}
	n, err := c.net.Read(p)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.until.Load() != nil {
		err = errClosing
	}
	return n, err
}

// errClosing is what a handler receives that waits for its client when the server closes.
var errClosing = fmt.Errorf("tcpclienttest: the server is closing: %w", net.ErrClosed)

// drain lets the handler receive what has arrived, and ends its wait for more.
func (c *Conn) drain(until time.Time) {
	c.until.Store(&until)
	c.limitRead(until)
}

// limitRead ends the read that is under way, or the next one, when nothing arrives, and in any
// case at until.
func (c *Conn) limitRead(until time.Time) {
	if quiet := time.Now().Add(quiet); quiet.Before(until) {
		until = quiet
	}
	c.net.SetReadDeadline(until)
}

// sink is the writer under Conn.out.
type sink Conn

func (c *sink) Write(p []byte) (int, error) {
	before := c.state.Swap(sending)
	defer c.state.Store(before)
	return c.net.Write(p)
}

// Receive returns the next message, which is owned by the caller. It blocks until one has
// arrived. It does not flush what was written.
//
// It fails as the Framer and the connection do: with io.EOF if the client has closed the
// connection, or its writing side, after a whole message. When the server closes see
// [Server.Close].
func (c *Conn) Receive() ([]byte, error) { return c.framer.ReadFrame(c.in, nil) }

// Messages returns the messages as they arrive, until Receive would fail. Use Receive if
// the reason matters. A message is valid until the next one.
func (c *Conn) Messages() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var buf []byte
		for {
			msg, err := c.framer.ReadFrame(c.in, buf[:0])
			if err != nil || !yield(msg) {
				return
			}
			buf = msg
		}
	}
}

// Send writes msg as one frame and hands it to the network, after all that was written
// before. It blocks while buffers are full because the client does not read. It borrows
// msg until it returns. It fails as the Framer and the connection do.
func (c *Conn) Send(msg []byte) error {
	c.acquire()
	defer c.release()
	if err := c.framer.WriteFrame(c.out, msg); err != nil {
		return err
	}
	return c.out.Flush()
}

// Write writes msg as one frame to a buffer. Flush and Send hand the buffer to the network;
// so do a Write that finds it full, and the end of the handler. Write borrows msg until it
// returns.
func (c *Conn) Write(msg []byte) error {
	c.acquire()
	defer c.release()
	return c.framer.WriteFrame(c.out, msg)
}

// Flush hands what was written to the network. It blocks as Send does.
func (c *Conn) Flush() error {
	c.acquire()
	defer c.release()
	return c.out.Flush()
}

// NetConn returns the connection below the framing and its buffers, and above TLS. It is
// for what is no whole message: half a frame, a stray byte, a deadline. Flush first.
func (c *Conn) NetConn() net.Conn { return c.net }

// Context returns a context that ends when the server begins to close, or when the
// server's side closes or resets this connection. It does not end with the client.
func (c *Conn) Context() context.Context { return c.ctx }

// CloseWrite flushes and ends the stream to the client. The client reads the rest, then
// io.EOF, and may still send. CloseWrite fails with [errors.ErrUnsupported] if the
// connection cannot be half-closed.
func (c *Conn) CloseWrite() error {
	c.acquire()
	defer c.release()
	if err := c.out.Flush(); err != nil {
		return err
	}
	if half, ok := c.net.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Reset closes the connection with RST: the client reads what has arrived, then
// ECONNRESET. What was not flushed is lost. If the connection cannot be reset, Reset closes
// it and fails with [errors.ErrUnsupported]. It may be called at any time.
func (c *Conn) Reset() error {
	c.cut.Store(true)
	c.cancel()
	return reset(c.net)
}

// hangUp closes the raw connection: TLS would first wait for the client to read.
func (c *Conn) hangUp() {
	c.cut.Store(true)
	c.cancel()
	bottom(c.net).Close()
}

// finish ends the connection after its handler.
func (c *Conn) finish() {
	c.Flush()
	c.cancel()
	c.net.Close()
}

func (c *Conn) acquire() { c.lock <- struct{}{} }
func (c *Conn) release() { <-c.lock }

func (c *Conn) remote() string {
	if name := c.net.RemoteAddr().String(); name != "" {
		return name
	}
	return "unnamed client" // a Unix socket's
}

// doing returns what the handler does, for the error of Server.Close.
func (c *Conn) doing() string {
	switch c.state.Load() {
	case receiving:
		return "waits for the client to send or close"
	case sending:
		return "waits for the client to read"
	}
	return "is in its handler"
}

// bottom returns the connection below TLS and other layers.
func bottom(conn net.Conn) net.Conn {
	for {
		layer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = layer.NetConn()
	}
}

// reset closes conn with RST.
func reset(conn net.Conn) error {
	conn = bottom(conn)
	abrupt, ok := conn.(interface{ SetLinger(sec int) error })
	if !ok {
		conn.Close()
		return errors.ErrUnsupported
	}
	if err := abrupt.SetLinger(0); err != nil {
		return err
	}
	return conn.Close()
}
