package tcpclient

import (
	"context"
	"errors"
	"iter"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// closeTime is how long Close takes at the most.
	closeTime = time.Second

	// closeFlush is how long Close goes on flushing to a peer that takes something,
	// and closeStall to one that takes nothing.
	closeFlush = 500 * time.Millisecond
	closeStall = 200 * time.Millisecond

	// closeNotify is how long Close waits for the socket to take the last words of
	// TLS, and for the peer to hang up on what was flushed.
	closeNotify = 100 * time.Millisecond

	// dialGrace is how long a Dial whose context has ended waits for its goroutine.
	dialGrace = 100 * time.Millisecond
)

// A Client exchanges whole messages with a server over one TCP connection. [Dialer.Dial]
// makes one. All methods may be called by any number of goroutines at once.
//
// A Client owns one goroutine, run, from Dial to Close: it reads. A second one exists
// while it dials, and while the network has not taken all that was written.
type Client struct {
	settings  *Dialer
	network   string
	addresses []string
	watched   bool // inbound messages may belong to the heartbeat

	in     *inbox
	intake intake // owned by run
	count  counters
	trace  tracer

	life  context.Context // ends with Close: run's dials and waits are under it
	end   context.CancelFunc
	ready <-chan struct{} // closed when the first attempt is over
	done  chan struct{}   // closed when run has ended

	link atomic.Pointer[Conn] // the connection in use; nil: none. Set by run.

	mu      sync.Mutex    // guards following
	changed chan struct{} // closed and replaced when link or err changes
	err     error         // why there will be no other connection; set once
	last    *Conn         // the connection that was in use last
	lost    error         // frames are gone with a connection, and nobody was told
	closing bool          // Close or Shutdown was called: no further messages are taken
	orderly bool          // since then the peer has sent its FIN
	parting error         // since then the connection has ended, with this reason
	failure error         // of the last attempt to connect
	closed  chan struct{} // closed when the first Close is over; nil before it
}

func newClient(settings *Dialer, network string, addresses []string) *Client {
	c := &Client{
		settings:  settings,
		network:   network,
		addresses: append([]string(nil), addresses...),
		in:        newInbox(settings.inbox()),
		done:      make(chan struct{}),
		changed:   make(chan struct{}),
	}
	c.intake = intake{inbox: c.in, count: &c.count, direct: c.in.limit > 2*directSlab}
	c.trace.to = settings.Trace
	c.watched = settings.Heartbeat.IsPong != nil || settings.Heartbeat.Answer != nil
	c.ready = c.changed
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// start begins run and waits for the first connection.
func (c *Client) start(ctx context.Context) (*Client, error) {
	go c.run(ctx)
	select {
	case <-c.ready:
		if c.latest() != nil {
			return c, nil
		}
	case <-ctx.Done():
		c.refuse()
		c.halt()
	}
	// With a DialContext that does not heed its context, run ends when that returns.
	late := time.NewTimer(dialGrace)
	defer late.Stop()
	c.join(late.C)
	if err := ctx.Err(); err != nil {
		if tried := c.lastFailure(); tried != nil {
			err = multiError{err, tried}
		}
		return nil, c.opError(opDial, false, err)
	}
	err, _ := c.fate()
	if _, ok := err.(*OpError); !ok {
		err = c.opError(opDial, false, err)
	}
	return nil, err
}

// refuse makes the Client take no further messages, and wakes those who wait for a
// connection with theirs. It returns false if that was done before.
func (c *Client) refuse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.closing = true
	c.changedLocked()
	return true
}

// Write frames msg into the write buffer. It does not wait for the network, unless
// [Dialer].WriteBuffer bytes are waiting already: these it flushes first.
//
// Write blocks until there is room, ctx is done or the Client is closed; while
// disconnected it waits for the next connection. It borrows msg until it returns.
// Frames of concurrent calls never interleave.
//
// When Write fails, msg was not taken: [OpError].Unsent is true. Either the Framer has
// refused msg, or ctx was done, or the error tells of the connection and of messages
// that were written before and are lost.
func (c *Client) Write(ctx context.Context, msg []byte) error {
	for over := (*Conn)(nil); ; {
		conn, err := c.connected(ctx, over)
		if err != nil {
			return c.opError(opWrite, true, err)
		}
		if unsent, err := conn.out.write(ctx, msg); err != errOver {
			return c.opError(opWrite, unsent, err)
		}
		over = conn
	}
}

// Flush hands all messages that were written so far to the network. That they were
// handed over does not mean that they have arrived: only a reply proves that.
//
// Flush blocks until the operating system has taken them, ctx is done or the Client is
// closed; while disconnected it waits for the next connection. When ctx ends first the
// messages are still sent as soon as the network takes them.
func (c *Client) Flush(ctx context.Context) error {
	for over := (*Conn)(nil); ; {
		conn, err := c.connected(ctx, over)
		if err != nil {
			return c.opError(opFlush, false, err)
		}
		if err := conn.out.flush(ctx); err != errOver {
			return c.opError(opFlush, false, err)
		}
		over = conn
	}
}

// Send writes msg as one frame and hands it to the network.
//
// Send blocks until that has happened, ctx is done or the Client is closed; while
// disconnected it waits for the next connection. It borrows msg until it returns.
// Any number of goroutines may call Send at once: their frames never interleave and
// share system calls. When ctx ends first the message is still sent as soon as the network
// takes it.
//
// When Send fails, [errors.As] finds an [*OpError] whose Unsent field says whether the
// peer is certain not to have seen the message.
func (c *Client) Send(ctx context.Context, msg []byte) error {
	conn := c.link.Load()
	if conn == nil || ctx.Err() != nil {
		return c.sendSlowly(ctx, msg)
	}
	number, start, leads := conn.out.join(msg)
	if number == 0 {
		return c.sendSlowly(ctx, msg)
	}
	if leads {
		unsent, err := conn.out.leadLocked(ctx, start)
		return c.opError(opSend, unsent, err)
	}
	// By the time all others have run, the leader has mostly written the batch. Then nobody need
	// be told, and to park and be woken would cost as much as all the rest. The yield is here and
	// not further in, since each return after it is one that the processor did not foresee.
	runtime.Gosched()
	if conn.out.landed.Load() >= number {
		return nil
	}
	unsent, err := conn.out.settle(ctx, number, start)
	return c.opError(opSend, unsent, err)
}

// sendSlowly is Send for what may have to wait, is refused, or is not framed by LengthPrefix{}.
func (c *Client) sendSlowly(ctx context.Context, msg []byte) error {
	for over := (*Conn)(nil); ; {
		conn, err := c.connected(ctx, over)
		if err != nil {
			return c.opError(opSend, true, err)
		}
		unsent, err := conn.out.send(ctx, msg)
		if err == nil {
			return nil
		}
		if err != errOver {
			return c.opError(opSend, unsent, err)
		}
		over = conn
	}
}

// Receive returns the next message. It is owned by the caller.
//
// Receive blocks until a message has come, ctx is done, the connection has ended or
// the Client is closed. ctx ends only this wait: no byte is lost, and a frame that is
// half here is completed for the next call. Concurrent calls get different messages.
//
// Messages that came before the end of a connection are returned before the error. With
// Reconnect that error Is [ErrDisconnected], comes once for each connection that was
// lost, and the next call goes on; losses in a row that nobody receives are merged once
// sixteen wait. An error of [ClassPermanent], and without Reconnect every end of the
// connection, is the last: all further calls return it at once.
func (c *Client) Receive(ctx context.Context) ([]byte, error) {
	msg, err := c.ReceiveInto(ctx, nil)
	if err == nil && msg == nil {
		msg = []byte{}
	}
	return msg, err
}

// ReceiveInto is Receive without allocating: the message is returned in the storage of
// buf or in other storage for which buf was traded. Either way the caller owns what is
// returned, passes it as buf the next time, and has no further use for the old buf. On
// an error buf[:0] comes back.
func (c *Client) ReceiveInto(ctx context.Context, buf []byte) ([]byte, error) {
	err := ctx.Err()
	if err == nil {
		if buf, err = c.in.receive(ctx, buf); err == nil {
			return buf, nil
		}
	}
	return buf[:0], c.opError(opReceive, false, err)
}

// Messages returns a loop over the messages that arrive. A message is valid until the
// next one. When ctx is done or the connection has ended, the error is yielded once,
// with a nil message, and the loop ends, also with Reconnect. Breaking out loses nothing:
// the next call to Receive or Messages goes on behind the last message.
func (c *Client) Messages(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var at cursor
		defer c.in.release(&at)
		for {
			if err := ctx.Err(); err != nil {
				yield(nil, c.opError(opReceive, false, err))
				return
			}
			msg, ok := c.in.next(&at)
			if !ok {
				var err error
				if msg, err = c.in.advance(ctx, &at); err != nil {
					yield(nil, c.opError(opReceive, false, err))
					return
				}
			}
			if !yield(msg, nil) {
				return
			}
		}
	}
}

// Shutdown ends the exchange in an orderly way: it refuses further messages, waits for
// the replies to the Calls in flight, flushes, sends FIN, and takes in what the server
// still has to say until its FIN. It returns nil when that has come, be it before ours. It never waits for
// somebody to Receive: what has arrived stays receivable after Shutdown has returned,
// and then Receive returns ErrClosed.
//
// Behind FIN there are no pings: with a Heartbeat, a server that then says nothing for its
// Timeout is dead, and Shutdown says so.
//
// When ctx is done first the connection is closed hard, and Shutdown returns an error
// that Is ctx.Err(), of [ClassPermanent]: there is nothing left to try again on. A
// connection that cannot be half-closed is closed after the flush.
// If ctx is done already, Shutdown does nothing, and its error Is ctx.Err(); after Shutdown or
// Close it does nothing and returns ErrClosed.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return c.opError(opClose, false, err)
	}
	if !c.refuse() {
		return c.opError(opClose, false, ErrClosed)
	}
	c.in.lift()
	cut := context.AfterFunc(ctx, c.halt) // whoever is held up, and be it in a Write of ours
	fin, err := c.sendFIN(ctx)
	hard := true
	select {
	case <-c.done:
		hard = !cut()
	case <-ctx.Done():
		c.halt() // cut may not have been called yet
	}
	late := time.NewTimer(closeTime)
	defer late.Stop()
	defer context.AfterFunc(ctx, func() { late.Reset(dialGrace) })()
	c.join(late.C)
	return c.opError(opClose, false, c.downError(ctx, err, fin, hard))
}

// sendFIN flushes, behind the replies to the Calls in flight, and sends FIN. It reports
// whether the peer has to answer to that.
func (c *Client) sendFIN(ctx context.Context) (fin bool, err error) {
	conn := c.link.Load()
	if conn == nil {
		c.end() // between two connections there is nothing to wait for
		return false, nil
	}
	conn.out.seal()
	select {
	case <-conn.calls.settled():
	case <-ctx.Done():
	}
	err = conn.out.finish(ctx)
	if err == nil && conn.closeWrite(ctx) != nil && ctx.Err() == nil && conn.wire.reason() == nil {
		conn.wire.kill(ErrClosed) // there is no half of this connection to close
		return false, nil
	}
	return true, err
}

// downError is what Shutdown returns, whose flush has ended with err. fin says that we have
// sent FIN, hard that the context has ended everything.
func (c *Client) downError(ctx context.Context, err error, fin, hard bool) error {
	reason, orderly := c.fate()
	switch {
	case hard && !orderly:
		if err == nil || err == ErrClosed || errors.Is(err, ctx.Err()) && lossIn(err) == nil {
			err = ctx.Err()
		} else {
			err = multiError{err, ctx.Err()}
		}
	case err == nil && hasHungUp(reason) && !c.latest().calls.owed():
		// FIN came before ours, and the peer owed us nothing.
	case err == nil && (reason != ErrClosed || fin && !orderly):
		err = reason
	}
	if lost := c.loss(); lost != nil {
		switch {
		case err == nil || errors.Is(lost, err):
			err = lost
		case lossIn(err) == nil: // else the flush was told already
			err = multiError{lost, err}
		}
	}
	if hard && err != nil {
		err = Permanent(err) // nothing can be tried again on a connection that was closed hard
	}
	return err
}

// Close flushes what was written, as far as the peer takes it at once, closes the
// connection and drops the messages that were not received. All calls that wait return
// ErrClosed.
//
// Close returns within a second, and after the Client's goroutines have ended, unless
// they are in code of the user, a Framer or a hook, that does not return. It returns an
// error if it could not flush all that was written, whether or not somebody waits for that, too,
// or if something was lost before and nobody was told. Further calls wait for the
// goroutines, too, and return nil.
func (c *Client) Close() error {
	c.mu.Lock()
	if closed := c.closed; closed != nil {
		c.mu.Unlock()
		<-closed
		return nil
	}
	closed := make(chan struct{})
	c.closed = closed
	c.mu.Unlock()
	late := time.NewTimer(closeTime)
	defer late.Stop()
	c.refuse()
	conn := c.link.Load()
	c.in.close(c.closeReason())
	var err, lost error
	if conn != nil {
		// Our own goroutine may be the one that writes, to a connection without deadlines.
		cut := time.AfterFunc(closeFlush+closeStall, c.halt)
		err = conn.farewell(c.done)
		cut.Stop()
	}
	c.halt()
	select {
	case <-c.done:
		close(closed) // before the Trace is waited for: it may be waiting in a Close of its own
		c.trace.wait(late.C)
	case <-late.C:
		close(closed)
		if conn != nil {
			lost = conn.out.unsettled()
		}
	}
	if lost == nil {
		lost = c.loss()
	}
	if err == nil {
		err = lost
	}
	return c.opError(opClose, false, err)
}

// closeReason is what Receive says after a Close: the end of a connection that was dying
// already comes first, if it is that of the Client.
func (c *Client) closeReason() error {
	if c.settings.Reconnect == nil {
		if reason := c.latest().wire.reason(); reason != nil {
			return reason
		}
	}
	return ErrClosed
}

// join waits until the Client's goroutines have ended, or it is late.
func (c *Client) join(late <-chan time.Time) {
	select {
	case <-c.done:
		c.trace.wait(late)
	case <-late:
	}
}

// halt ends run, wherever it is, and unblocks all who wait.
func (c *Client) halt() {
	c.end()
	if conn := c.link.Load(); conn != nil {
		conn.wire.kill(ErrClosed)
	}
}

// LocalAddr returns the local address of the connection, or of the last one.
func (c *Client) LocalAddr() net.Addr { return c.latest().raw.LocalAddr() }

// RemoteAddr returns the address of the server on the connection, or on the last one.
func (c *Client) RemoteAddr() net.Addr { return c.latest().raw.RemoteAddr() }

func (c *Client) latest() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Stats returns counters since Dial. It is cheap enough to be polled. A message counts
// before it can be received, and before the Send or Flush that has sent it returns.
func (c *Client) Stats() Stats {
	s := c.count.stats()
	s.Connected = c.link.Load() != nil
	return s
}

// opError makes an error of err for the user; nil stays nil.
func (c *Client) opError(op string, unsent bool, err error) error {
	if err == nil {
		return nil
	}
	addr := strings.Join(c.addresses, ", ")
	if conn := c.latest(); conn != nil {
		addr = conn.addr
	}
	return &OpError{Op: op, Addr: addr, Unsent: unsent, Err: err}
}

// fate returns why there will be no other connection, nil while there may be one, and
// whether the peer has sent its FIN after ours.
func (c *Client) fate() (reason error, orderly bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parting != nil {
		return c.parting, c.orderly
	}
	return c.err, c.orderly
}

// lastFailure returns why the last attempt to connect that has failed by itself did.
func (c *Client) lastFailure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// loss returns, once, the end of a connection that took frames with it, if nobody was
// told of that.
func (c *Client) loss() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.lost
	c.lost = nil
	return err
}

// connected returns a connection other than the one that is known to be over, waiting
// for it if need be.
func (c *Client) connected(ctx context.Context, over *Conn) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if conn := c.link.Load(); conn != nil && conn != over {
		return conn, nil
	}
	for {
		conn, changed, err := c.state(over)
		if conn != nil || err != nil {
			return conn, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// state returns the connection in use, or why there is none, or what to wait for.
func (c *Client) state(over *Conn) (conn *Conn, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn = c.link.Load()
	switch {
	case c.lost != nil:
		err, c.lost = c.lost, nil
		return nil, nil, err
	case c.err != nil:
		return nil, nil, c.err
	case over != nil && c.settings.Reconnect == nil && over.wire.reason() != nil:
		return nil, nil, over.wire.reason()
	case c.closing:
		return nil, nil, ErrClosed
	case conn != nil && conn != over:
		return conn, nil, nil
	}
	return nil, c.changed, nil
}
