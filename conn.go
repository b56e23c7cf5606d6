package tcpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"time"
)

// minRead is the size that a read buffer starts with. It grows with use, up to
// ReadBuffer: an idle connection should cost little.
const minRead = 512

// A Conn is a new connection during its [Dialer].Handshake: a login, a subscription, the
// choice of a protocol version. Its methods block and run on the caller's goroutine, one
// at a time. It has the framing and the buffers of the Client, so that what the server sends ahead
// is not lost; after the Handshake the Client takes it over, and the methods fail.
//
// During a Handshake the connection is nobody else's: when the context of a call ends,
// so does the connection.
type Conn struct {
	addr   string
	raw    net.Conn // as dialed
	wire   *wire    // around raw
	top    net.Conn // the wire, or TLS on it
	tls    *tls.Conn
	framer Framer
	ours   bool   // the framer is one of this package
	plain  uint64 // the largest message, if framer is LengthPrefix{} but for MaxSize; 0: it is not
	vigil  vigil
	in     *bufio.Reader // over source
	out    *outbox       // nil during the Handshake
	calls  *calls        // nil likewise
	ping   func() []byte // of the Heartbeat
	taken  atomic.Bool   // by the Client: the handshake is over
	parted atomic.Bool   // we have said good-bye

	// Owned by the reading goroutine.
	beforeRead func() // called before the socket is read
	midFrame   bool   // bytes of an unfinished frame are here
	filled     bool   // the last read of the socket filled all the buffer it was given
	got        int    // bytes that the last read of the socket brought
	maxRead    int    // ReadBuffer
	total      int64  // bytes given to in
	carry      []byte // bytes that were read already and come next
	carried    error  // the error that comes behind them
	spill      []byte // memory for carry
	heard      bool   // a whole message has arrived
}

// source is where Conn.in reads from.
type source Conn

func (c *source) Read(p []byte) (int, error) {
	if len(c.carry) > 0 {
		n := copy(p, c.carry)
		c.carry = c.carry[n:]
		c.total += int64(n)
		return n, nil
	}
	if err := c.carried; err != nil {
		c.carried = nil
		return 0, err
	}
	if c.beforeRead != nil {
		c.beforeRead()
	}
	if c.vigil.watches(c.midFrame) {
		c.vigil.resume(time.Now(), c.midFrame)
	}
	n, err := c.top.Read(p)
	if n > 0 {
		c.midFrame = true
		c.filled = n == len(p)
		c.got = n
		c.total += int64(n)
		c.carried, err = err, nil // bufio would lose it where grow replaces it
	}
	return n, err
}

// await blocks until there are bytes to read.
func (c *Conn) await() error {
	if c.in.Buffered() > 0 {
		return nil
	}
	if c.filled && c.in.Size() < c.maxRead {
		c.grow()
	}
	c.midFrame = len(c.carry) > 0
	if _, err := c.in.Peek(1); err != nil {
		return c.explain(err)
	}
	return nil
}

// readFrame reads one message and appends it to dst.
func (c *Conn) readFrame(dst []byte) ([]byte, error) {
	buffered := c.in.Buffered()
	if c.filled && c.in.Size() < c.maxRead {
		buffered = c.grow()
	}
	c.midFrame = buffered+len(c.carry) > 0
	start := c.total - int64(buffered)
	msg, err := c.framer.ReadFrame(c.in, dst)
	switch {
	case err != nil:
		return nil, c.explain(err)
	case c.total-int64(c.in.Buffered()) == start:
		return nil, fmt.Errorf("%w: %T returned a message without having consumed a byte", ErrInvalidFrame, c.framer)
	case len(msg) < len(dst):
		return nil, fmt.Errorf("%w: %T returned less than it was given to append to", ErrInvalidFrame, c.framer)
	}
	c.arrived()
	return msg, nil
}

// buffered returns what is in the read buffer.
func (c *Conn) buffered() []byte {
	p, _ := c.in.Peek(c.in.Buffered())
	return p
}

// arrived records that a whole message has come.
func (c *Conn) arrived() {
	c.heard = true
	c.vigil.message()
}

// grow replaces the read buffer by a larger one: the last read filled it, so more is
// waiting.
func (c *Conn) grow() (buffered int) {
	rest := c.buffered()
	c.carry = append(append([]byte(nil), rest...), c.carry...)
	c.total -= int64(len(rest))
	c.filled = false
	c.in = bufio.NewReaderSize((*source)(c), min(4*c.in.Size(), c.maxRead))
	return 0
}

// explain says more about a read error where the bare one would mislead.
func (c *Conn) explain(err error) error {
	var alert *net.OpError
	if !c.heard && errors.As(err, &alert) && alert.Op == "remote error" {
		// With TLS 1.3 a server rejects the client's certificate after the handshake.
		return fmt.Errorf("TLS handshake rejected by the server: %w", err)
	}
	return err
}

// wake is called by the wire when the vigil is due.
func (c *Conn) wake(now, due time.Time) error {
	switch c.vigil.judge(now, due, c.outbound()) {
	case sendPing:
		return c.out.urge(c.ping())
	case silent:
		return ErrHeartbeatTimeout
	case trickled:
		return ErrFrameTimeout
	}
	return nil
}

// outbound says how far the network is with what we send.
func (c *Conn) outbound() outbound {
	if c.out == nil || c.vigil.interval == 0 {
		return outbound{}
	}
	return c.out.outbound(unacknowledged(c.raw))
}

// end closes the connection because of err, and returns when nobody is at work on it any
// more. It returns the reason that counts.
func (c *Conn) end(err error) error {
	if c.calls != nil {
		c.calls.ending()
	}
	reason := c.wire.kill(err)
	if c.out != nil {
		c.out.end()
		c.calls.end(reason)
	}
	c.wire.drains.Wait()
	if s, ok := c.wire.Conn.(*stubborn); ok {
		s.join()
	}
	return reason
}

// guard ends the connection when ctx is done, until stop is called.
func (c *Conn) guard(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.wire.kill(ctx.Err()) })
}

// Send writes msg as one frame. It blocks until the network has taken it; when ctx is
// done the connection ends. It borrows msg until it returns.
func (c *Conn) Send(ctx context.Context, msg []byte) error {
	unsent := true
	err := c.do(ctx, opSend, func() error {
		b := new(batch)
		if err := c.framer.WriteFrame(b.writer(minBatch), msg); err != nil {
			return &permanentError{err}
		}
		unsent = false
		_, err := c.top.Write(b.seal())
		return err
	})
	return c.opError(opSend, unsent, err)
}

// Receive returns the next message, which is owned by the caller. It blocks until one
// has come; when ctx is done the connection ends. At the end of the stream the error Is
// io.EOF.
func (c *Conn) Receive(ctx context.Context) (msg []byte, err error) {
	err = c.do(ctx, opReceive, func() (err error) {
		msg, err = c.readFrame([]byte{})
		return err
	})
	return msg, c.opError(opReceive, false, err)
}

func (c *Conn) opError(op string, unsent bool, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Addr: c.addr, Unsent: unsent, Err: err}
}

// do runs f, which talks on the connection, for a Handshake.
func (c *Conn) do(ctx context.Context, op string, f func() error) error {
	err := ctx.Err()
	if err == nil && c.taken.Load() {
		err = fmt.Errorf("handshake is over: %w", ErrClosed)
	}
	if err == nil {
		stop := c.guard(ctx)
		err = f()
		if !stop() {
			err = ctx.Err()
		} else if reason := c.wire.reason(); err != nil && reason != nil {
			err = reason
		} else if err != nil && op == opReceive {
			err = disconnected(err) // also after bytes that are no frame
		}
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
	return c.raw
}

// farewell flushes what was written, as long as the peer takes it, and says good-bye,
// for Close. It takes less than closeTime. ended is closed when the peer has hung up.
func (c *Conn) farewell(ended <-chan struct{}) error {
	c.out.seal()
	c.calls.close()
	before, _ := c.wire.progressed()
	finished := false
	for start := time.Now(); time.Since(start) < closeFlush && !c.wire.stalled(start, closeStall); {
		ctx, cancel := context.WithTimeout(context.Background(), closeStall/2)
		err := c.out.finish(ctx)
		cancel()
		if finished = err == nil; finished {
			break
		} else if err != context.DeadlineExceeded { // not an end that Is one
			return lossIn(err)
		}
	}
	handed, _ := c.wire.progressed()
	flushed := handed > before
	if !finished || c.tls == nil && !flushed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeNotify)
	defer cancel()
	if c.closeWrite(ctx) != nil || !flushed {
		return nil
	}
	// A socket that is closed with unread data on it resets the connection, and what
	// was just flushed may be lost on the way. So the reader goes on until the peer
	// has seen our FIN.
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// closeWrite sends what TLS and TCP have to say at the end, as soon as the network takes
// it.
func (c *Conn) closeWrite(ctx context.Context) error {
	if c.parted.Swap(true) {
		return nil // Shutdown has begun to, and Close need not wait for a lock of TLS
	}
	if c.tls != nil {
		c.wire.begin(inlineWrite)
		if err := c.tls.CloseWrite(); err != nil {
			return err
		}
		select {
		case <-c.wire.quiet():
		case <-ctx.Done():
			return ctx.Err()
		}
		if reason := c.wire.reason(); reason != nil {
			return reason
		}
	}
	return closeWrite(c.wire.Conn)
}

// newConn wraps a raw connection.
func (d *Dialer) newConn(raw net.Conn, address string) *Conn {
	c := &Conn{
		addr:    address,
		raw:     raw,
		framer:  d.framer(),
		vigil:   vigil{frameTimeout: d.frameTimeout()},
		maxRead: d.readBuffer(),
	}
	if f, ok := c.framer.(LengthPrefix); ok && f.isDefault() {
		c.plain = min(sizeLimit(f.MaxSize, defaultMaxSize), math.MaxUint32)
	}
	if _, layered := raw.(interface{ NetConn() net.Conn }); layered || raw.SetDeadline(time.Time{}) != nil {
		raw = newStubborn(raw) // a *tls.Conn is spoiled by a write that has timed out
	}
	c.wire = &wire{
		Conn:         raw,
		writeTimeout: d.writeTimeout(),
		vigil:        &c.vigil,
		wake:         c.wake,
		stable:       d.TLSConfig == nil,
		quick:        newQuick(raw),
		dead:         make(chan struct{}),
	}
	c.top = c.wire
	_, c.ours = asBuiltin(c.framer)
	size := min(minRead, c.maxRead)
	if !c.ours {
		size = c.maxRead // it may want to Peek at any part of that
	}
	c.in = bufio.NewReaderSize((*source)(c), size)
	return c
}

// startTLS makes the TLS handshake.
func (c *Conn) startTLS(ctx context.Context, config *tls.Config, address string) error {
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	c.tls = tls.Client(c.wire, config)
	c.top = c.tls
	err := c.tls.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return fmt.Errorf("%w (it answered %q: a server without TLS?)", err, plain.RecordHeader[:])
	}
	return err
}
