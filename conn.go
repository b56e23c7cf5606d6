package tcpclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// A Conn is a new connection during its [Dialer].Handshake: a login, a subscription, the
// choice of a protocol version. Its methods block and run on the caller's goroutine, one
// at a time. After the Handshake the Client takes the connection over, with what the server
// has sent ahead, and the methods fail. If a call is still under way then, the attempt fails.
//
// During a Handshake no one else uses the connection: when the context of a call ends, so
// does the connection.
type Conn struct {
	addr    string
	wire    *wire.Conn
	top     io.Writer  // the wire, or TLS on it
	tls     *tls.Conn  // nil: none
	records *tlsBuffer // below tls
	frames  *frameReader
	watch   *frameWatch  // of wire and frames
	pushed  [][]byte     // given to Deliver
	calls   atomic.Int64 // of methods under way; below 0 when a link has the connection
}

// newConn returns raw as a Conn without TLS.
func newConn(raw net.Conn, address string, f framing, c *config) *Conn {
	watch := newFrameWatch(c.frameTimeout)
	w := wire.New(raw, c.writeTimeout, c.readBuffer, watch)
	return &Conn{
		addr:   address,
		wire:   w,
		top:    w,
		frames: newFrameReader(w, f, c.readBuffer, watch),
		watch:  watch,
	}
}

// Send writes msg as one frame. It blocks until the network has taken it, for no longer than
// [Dialer].WriteTimeout without progress. When ctx is done the connection ends. It borrows msg
// until it returns.
func (c *Conn) Send(ctx context.Context, msg []byte) error {
	unsent := true
	err := c.do(ctx, opSend, func() error {
		b := new(frameBuffer)
		if _, err := c.frames.framing.write(b, msg, minBatch); err != nil {
			return err
		}
		unsent = false
		_, err := c.top.Write(b.seal())
		return err
	})
	return c.opError(opSend, unsent, err)
}

// Receive returns the next message, which is owned by the caller. It blocks until one
// has come. When ctx is done the connection ends. At the end of the stream the error Is
// io.EOF.
func (c *Conn) Receive(ctx context.Context) (msg []byte, err error) {
	err = c.do(ctx, opReceive, func() (err error) {
		msg, err = c.frames.readFrame([]byte{})
		return err
	})
	return msg, c.opError(opReceive, false, err)
}

// SetFramer makes f mark the messages from the next one on, in both directions: for protocols
// that go on with another framing after a greeting or a login. The Client uses it, too, once it
// has the connection. Every new connection begins with [Dialer].Framer again. Bytes that were
// read ahead are kept: f reads them first. nil is LengthPrefix{}.
//
// It does no I/O and does not block. If it refuses the settings of f, with an error of
// [ClassPermanent], the old Framer stays and the connection lives on. After the Handshake it
// fails with ErrClosed.
func (c *Conn) SetFramer(f Framer) error {
	return c.opError(opHandshake, false, c.setFramer(f))
}

func (c *Conn) setFramer(f Framer) error {
	if err := c.begin(); err != nil {
		return err
	}
	defer c.finish()
	if err := c.wire.Cause(); err != nil {
		return err
	}
	if err := validateFramer(f); err != nil {
		return Permanent(fmt.Errorf("SetFramer: %w", err))
	}
	c.frames.setFraming(newFraming(f))
	return nil
}

// Deliver hands a copy of msg to Receive: a message that has come before the one that the Handshake
// was waiting for, such as a PUBLISH before the SUBACK in MQTT. The Client receives these
// messages in the order of the calls, after all of the connection before and before all that
// this connection brings from then on. They count as received, but not as replies to Calls or as
// the Heartbeat's. They may exceed [Dialer].Inbox. Then the connection is read once there is room.
//
// It does not block. What was delivered is dropped if the attempt fails. After the Handshake
// Deliver does nothing.
func (c *Conn) Deliver(msg []byte) {
	if c.begin() != nil {
		return
	}
	defer c.finish()
	c.pushed = append(c.pushed, bytes.Clone(msg))
}

// takePushed returns the messages given to Deliver, and keeps them no longer.
func (c *Conn) takePushed() [][]byte {
	pushed := c.pushed
	c.pushed = nil
	return pushed
}

func (c *Conn) opError(op string, unsent bool, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Addr: c.addr, Unsent: unsent, Err: err}
}

// begin notes that a method is under way, until finish. It fails once the Handshake is over.
func (c *Conn) begin() error {
	if c.calls.Add(1) < 0 {
		return fmt.Errorf("handshake is over: %w", ErrClosed)
	}
	return nil
}

func (c *Conn) finish() { c.calls.Add(-1) }

// do runs f, which talks on the connection, for a Handshake.
func (c *Conn) do(ctx context.Context, op string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	defer c.finish()
	stop := c.guard(ctx)
	err := f()
	if !stop() {
		return ctx.Err()
	}
	if reason := c.wire.Cause(); err != nil && reason != nil {
		return reason
	}
	if err != nil && op == opReceive {
		return wire.Disconnected(err) // also after bytes that are no frame
	}
	return err
}

// NetConn returns the connection itself: a *tls.Conn with TLS, else what was dialed,
// such as a *net.TCPConn. It is there to be asked, for a certificate or a socket
// option; bytes read from it are missing from the next frame.
func (c *Conn) NetConn() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c.wire.Raw()
}

// guard ends the connection when ctx is done, until stop is called.
func (c *Conn) guard(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.wire.Kill(ctx.Err()) })
}

// startTLS makes the TLS handshake.
func (c *Conn) startTLS(ctx context.Context, config *tls.Config) error {
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(c.addr)
	}
	c.records = newTLSBuffer(c.wire, c.watch)
	c.tls = tls.Client(c.records, config)
	c.top = c.tls
	c.frames.readFrom(c.tls)
	err := c.tls.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return fmt.Errorf("%w (it answered %q: a server without TLS?)", err, plain.RecordHeader[:])
	}
	return err
}

// abort closes the connection because of err, and returns when nothing of it is at work.
func (c *Conn) abort(err error) {
	c.wire.Kill(err)
	c.wire.Join()
}

// handOver ends the Handshake: the methods fail from now on. It returns why the connection
// cannot be used, if it has ended, or somebody else still talks on it.
func (c *Conn) handOver() error {
	if !c.calls.CompareAndSwap(0, math.MinInt64/2) {
		return errors.New("a call on the Conn has outlived the Handshake")
	}
	return c.wire.Cause()
}

// transport returns the way for batches. With renegotiates even TLS may have to wait for the peer.
func (c *Conn) transport(renegotiates bool) transport {
	if c.tls == nil {
		return newPlainTransport(c.wire)
	}
	return &tlsTransport{wire: c.wire, conn: c.tls, buffer: c.records, renegotiates: renegotiates}
}
