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
	addr         string
	wire         *wire.Conn
	top          io.Writer  // the wire, or TLS on it
	tls          *tls.Conn  // nil: none
	records      *tlsBuffer // below tls
	renegotiates bool       // with TLS, the server may begin another handshake at any time
	frames       *frameReader
	watch        *frameWatch  // of wire and frames
	pushed       [][]byte     // given to Deliver
	calls        atomic.Int64 // of methods under way; below 0 when a link has the connection
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
	err := c.do(ctx, func() error {
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
// io.EOF. A Receive that fails ends the connection, and so the attempt, even if the Handshake returns
// nil; only if ctx was done before, it does nothing.
func (c *Conn) Receive(ctx context.Context) (msg []byte, err error) {
	err = c.do(ctx, func() (err error) {
		if msg, err = c.frames.readFrame([]byte{}); err != nil {
			err = c.wire.Kill(err) // also after bytes that are no frame: no one knows where the next begins
			c.frames.fail(err)
		}
		return err
	})
	if err != nil {
		return nil, c.opError(opReceive, false, err)
	}
	return msg, nil
}

// StartTLS makes the TLS handshake on a connection that began in the clear, once the server has
// agreed to it: STARTTLS in SMTP, IMAP and LDAP, SSLRequest in PostgreSQL. From then on all that
// the Conn and the Client send and receive goes through TLS, and [Conn.NetConn] returns the
// *tls.Conn. [Dialer].TLSConfig must be nil: it begins with TLS.
//
// The ServerName of config defaults to the host of the address, as that of TLSConfig does.
// StartTLS does not modify config, and no one else may afterwards.
//
// It blocks until the handshake is over. [Dialer].Timeout, FrameTimeout and WriteTimeout hold.
// When ctx is done the connection ends.
//
// A StartTLS that fails ends the connection, so that nothing goes on in the clear. All methods
// fail with its error, and so does the attempt, even if the Handshake returns nil. It fails if
// config is nil, and if there is TLS already. It fails, too, if bytes in the clear have come
// after the message that agreed to TLS: whoever sent them, they would be taken for a part of
// the protected conversation (CVE-2021-23222). It sees what was read ahead and, on Unix, what
// waits in a socket that no wrapper hides. What it does not see goes to TLS, which refuses it.
// What the Handshake has read from NetConn is the Handshake's to check. After the Handshake
// StartTLS fails with ErrClosed, and the connection lives on.
func (c *Conn) StartTLS(ctx context.Context, config *tls.Config) error {
	if err := c.begin(); err != nil {
		return c.opError(opHandshake, false, err)
	}
	defer c.finish()
	err := c.wire.Cause()
	if err == nil {
		if err = c.do(ctx, func() error { return c.upgrade(ctx, config) }); err != nil {
			err = &startTLSError{err}
		}
	}
	if err != nil {
		c.wire.Kill(err) // also one that is read for its last words
		c.frames.fail(err)
	}
	return c.opError(opHandshake, false, err)
}

// upgrade starts TLS if nothing speaks against it.
func (c *Conn) upgrade(ctx context.Context, config *tls.Config) error {
	switch {
	case config == nil:
		return Permanent(errors.New("the tls.Config is nil"))
	case c.tls != nil:
		return Permanent(errors.New("the connection has TLS already"))
	}
	ahead, err := c.frames.ahead()
	if ahead = append(ahead, c.wire.Ahead()...); len(ahead) > 0 {
		first := ahead[:min(len(ahead), maxHint)]
		return fmt.Errorf("%d bytes or more came in the clear before TLS, they begin with %q", len(ahead), first)
	}
	if err != nil {
		return err
	}
	return c.startTLS(ctx, config)
}

// A startTLSError is why StartTLS has failed, and with it the end of the connection. It is of the
// class of its cause: an untrusted certificate is permanent.
type startTLSError struct{ err error }

func (e *startTLSError) Error() string        { return "StartTLS failed: " + e.err.Error() }
func (e *startTLSError) Is(target error) bool { return target == ErrDisconnected }
func (e *startTLSError) Unwrap() error        { return e.err }

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
// It does not block. What was delivered is dropped if the attempt fails, and if the connection ends
// before the Inbox has room for a message. After the Handshake Deliver does nothing.
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
func (c *Conn) do(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	defer c.finish()
	stop := c.guard(ctx)
	defer stop() // f may panic, and the Handshake go on
	err := f()
	if !stop() {
		c.wire.Kill(ctx.Err()) // which guard may only be about to do
		return ctx.Err()
	}
	if reason := c.wire.Cause(); err != nil && reason != nil {
		return reason
	}
	return err
}

// NetConn returns the connection itself: a *tls.Conn with TLS, else what was dialed, such as a
// *net.TCPConn. It is there to be asked, for a certificate or a socket option.
//
// It is also the way for a preamble, bytes that are no frames: a PROXY header, a version, the byte
// with which PostgreSQL answers an SSLRequest. Write may be called at any time in the
// Handshake. Read is for the time before the first Receive: that may read ahead, and what it has
// read ahead is not here any more. What Read returns is missing from the next frame. Both end
// with the connection, at the latest when the context of the Handshake does. WriteTimeout and
// FrameTimeout hold with TLS only. A PROXY header goes ahead of TLS: write it, and then call
// [Conn.StartTLS] instead of setting [Dialer].TLSConfig.
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
	config, err := withServerName(config, c.addr)
	if err != nil {
		return Permanent(fmt.Errorf("config.ServerName is empty and %w", err))
	}
	c.renegotiates = config.Renegotiation != tls.RenegotiateNever
	c.records = newTLSBuffer(c.wire, c.watch)
	c.tls = tls.Client(c.records, config)
	c.top = c.tls
	c.frames.readFrom(c.tls)
	err = c.tls.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return fmt.Errorf("%w (it answered %q: a server without TLS?)", err, plain.RecordHeader[:])
	}
	return err
}

// withServerName returns config with a ServerName, which defaults to the host of address.
func withServerName(config *tls.Config, address string) (*tls.Config, error) {
	if config.ServerName != "" {
		return config, nil
	}
	host, _, err := net.SplitHostPort(address)
	switch {
	case config.InsecureSkipVerify:
	case err != nil:
		return nil, fmt.Errorf("%q names no host: %w", address, err)
	case host == "":
		return nil, fmt.Errorf("%q names no host", address)
	}
	config = config.Clone()
	config.ServerName = host
	return config, nil
}

// abort closes the connection because of err, and returns when nothing of it is at work.
func (c *Conn) abort(err error) {
	c.wire.Kill(err)
	c.wire.Join()
}

// handOver ends the Handshake: the methods fail from now on. It returns why the connection
// cannot be used, if it has ended, or another goroutine still talks on it.
func (c *Conn) handOver() error {
	if !c.calls.CompareAndSwap(0, math.MinInt64/2) {
		return errors.New("a call on the Conn has outlived the Handshake")
	}
	return c.wire.Cause()
}

// transport returns the way for batches.
func (c *Conn) transport() transport {
	if c.tls == nil {
		return newPlainTransport(c.wire)
	}
	return &tlsTransport{wire: c.wire, conn: c.tls, buffer: c.records, renegotiates: c.renegotiates}
}
