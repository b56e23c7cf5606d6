package tcpclient

import (
	"context"
	"errors"
	"iter"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// dialGrace is how long a Dial whose context has ended waits for its goroutine.
const dialGrace = 100 * time.Millisecond

// A Client exchanges whole messages with a server over one TCP connection. [Dialer.Dial]
// makes one. All methods may be called by any number of goroutines at once.
//
// A Client owns one goroutine, run, from Dial to Close: it reads. A second one exists
// while it dials, and while the network has not taken all that was written. The package
// documentation says when there are others.
type Client struct {
	config    *config
	connector *connector // owned by run
	in        *inbox
	producer  *producer // owned by run
	count     counters
	trace     *tracer

	connecting connecting // over with Close: the contexts of run's dials and waits
	done       wire.Latch // closed when run has ended
	leaving    leaving    // the connections that have ended

	link  atomic.Pointer[link] // the connection in use; nil: none. Set by run.
	taker atomic.Pointer[link] // link, unless a Disconnect has ended that: it takes messages

	mu          sync.Mutex // guards following
	phase       clientPhase
	closed      chan struct{} // made by the first Close, and closed when that is over
	changed     chan struct{} // closed when link, phase or err changes; nil: no one waits for that
	err         error         // why there will be no other connection; set once
	last        *link         // the connection that was in use last
	pendingLoss error         // frames are gone with a connection, and that was not reported
	dialErr     error         // why the last attempt since then has failed; nil: it has not
	verdict     error         // of a Disconnect that ends the Client, when there was no connection to tell
	rounds      int           // attempts since Dial that have failed, or whose connection has ended
	ended       outcome       // of the connection that has ended since the phase is not running
}

// A clientPhase is how far a Client is in its life.
type clientPhase int

const (
	clientRunning  clientPhase = iota
	clientDraining             // by Shutdown, or by a Dial whose context ended: no further messages are taken
	clientClosing              // by Close, which drops the connection
)

// newClient returns a Client whose attempts to connect have the values of ctx, but not its end.
func newClient(ctx context.Context, config *config, network string, addresses []string) *Client {
	c := &Client{
		config:     config,
		trace:      newTracer(config.trace),
		connecting: connecting{values: context.WithoutCancel(ctx)},
	}
	c.connector = newConnector(config, network, addresses, c.trace, &c.leaving, c.attemptFailed)
	c.in = newInbox(config.inbox, c.connector.demand)
	c.producer = newProducer(c.in, &c.count)
	return c
}

// start begins run and waits for the first connection, unless that is made on demand.
func (c *Client) start(ctx context.Context) (*Client, error) {
	go c.run(ctx)
	if c.config.onDemand() || c.awaitFirst(ctx) {
		return c, nil
	}
	// With a DialContext that does not heed its context, run ends when that returns.
	late := time.NewTimer(dialGrace)
	defer late.Stop()
	select {
	case <-c.done.Wait():
		c.trace.wait(late.C)
	case <-late.C:
	}
	if err := ctx.Err(); err != nil {
		return nil, c.opError(opDial, false, c.withFailure(err))
	}
	err := c.finalError()
	if _, ok := err.(*OpError); !ok {
		err = c.opError(opDial, false, err)
	}
	return nil, err
}

// awaitFirst waits for the first connection, and reports whether there is one. When ctx is done,
// there will be none.
func (c *Client) awaitFirst(ctx context.Context) bool {
	for {
		c.mu.Lock()
		made, over := c.last != nil, c.err != nil
		if made || over {
			c.mu.Unlock()
			return made // even if the connection has ended since
		}
		changed := c.whenChangedLocked()
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			c.enter(clientDraining)
			c.abort()
			return false
		}
	}
}

// Write frames msg into the write buffer. It does not wait for the network, unless
// [Dialer].WriteBuffer bytes are waiting already: it flushes these first. A message that fills the
// WriteBuffer alone may go to the network at once, after what is waiting. Write then waits while the
// network takes some of it, and up to four milliseconds while it takes none. What is left after
// that, or when ctx or the Client ends meanwhile, was taken all the same: it is sent in the
// background, or reported as lost.
//
// Write blocks until there is room, ctx is done or the Client is closed; while
// disconnected it waits for the next connection. It borrows msg until it returns.
// Frames of concurrent calls never interleave.
//
// When Write fails, msg was not taken: [OpError].Unsent is true. Either the Framer has
// refused msg, or ctx was done, or the error tells of the connection and of messages
// that were written before and are lost.
func (c *Client) Write(ctx context.Context, msg []byte) error { return write(ctx, c, msg) }

func write(ctx context.Context, a access, msg []byte) error {
	for over, most := (*link)(nil), a.mostRounds(); ; {
		l, err := a.connected(ctx, over, most)
		if err != nil {
			return a.opError(opWrite, true, err)
		}
		if unsent, err := l.out.write(ctx, msg); err != errOver {
			return a.opError(opWrite, unsent, err)
		}
		over = l
	}
}

// Flush hands all messages that were written so far to the network. That they were
// handed over does not mean that they have arrived: only a reply proves that.
//
// Flush blocks until the operating system has taken them, ctx is done or the Client is
// closed; while disconnected it waits for the next connection. When ctx ends first the
// messages are still sent as soon as the network takes them.
func (c *Client) Flush(ctx context.Context) error { return flush(ctx, c, c.config.failsFast()) }

// flush is Flush. With failsFast, that there is no connection says that there was nothing to flush,
// unless ctx is done: then no one has looked for a loss.
func flush(ctx context.Context, a access, failsFast bool) error {
	for over, most := (*link)(nil), a.mostRounds(); ; {
		l, err := a.connected(ctx, over, most)
		if err != nil {
			nothing := failsFast && errors.Is(err, ErrDisconnected) && lossIn(err) == nil && !errors.Is(err, ctx.Err())
			return a.opError(opFlush, nothing, err)
		}
		if err := l.out.flush(ctx); err != errOver {
			return a.opError(opFlush, false, err)
		}
		over = l
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
	return send(ctx, c, c.taker.Load(), msg)
}

// send is Send, mostly on l, which may be nil or over.
func send(ctx context.Context, a access, l *link, msg []byte) error {
	if l == nil || ctx.Err() != nil || len(msg) >= minLent {
		return sendSlowly(ctx, a, msg)
	}
	t, writes := l.out.join(msg)
	switch {
	case t.batch == 0:
		return sendSlowly(ctx, a, msg)
	case writes:
		if l.out.writeInlineLocked() {
			return nil
		}
	default:
		// By the time all others have run, the writer has mostly written the batch. Then to park
		// and be woken would cost as much as all the rest. The yield is here and not further in,
		// since each return after it is a mispredicted branch.
		runtime.Gosched()
		if l.out.batches.written.Load() >= t.batch {
			return nil
		}
	}
	unsent, err := l.out.await(ctx, t)
	return a.opError(opSend, unsent, err)
}

// sendSlowly is send for what may have to wait, is refused, is large, or is not framed by LengthPrefix{}.
func sendSlowly(ctx context.Context, a access, msg []byte) error {
	for over, most := (*link)(nil), a.mostRounds(); ; {
		l, err := a.connected(ctx, over, most)
		if err != nil {
			return a.opError(opSend, true, err)
		}
		unsent, err := l.out.send(ctx, msg)
		if err != errOver {
			return a.opError(opSend, unsent, err)
		}
		over = l
	}
}

// Receive returns the next message. It is owned by the caller.
//
// Receive blocks until a message has come, ctx is done, the connection has ended or
// the Client is closed. ctx ends only this wait: no byte is lost, and a frame that is
// half here is completed for the next call. Concurrent calls get different messages.
//
// Messages that came before the end of a connection are returned before the error. With
// Reconnect that error Is [ErrDisconnected]. Receive reports each lost connection once, and
// the next call goes on with the next connection. Without a receiver, losses in a row after
// the 16th are merged. An error of [ClassPermanent], and without Reconnect every end of the
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
// returned, passes it as buf the next time, and has no further use for the old buf, whose
// memory any Client may use from then on. On an error buf[:0] comes back.
func (c *Client) ReceiveInto(ctx context.Context, buf []byte) ([]byte, error) {
	err := ctx.Err()
	if err == nil {
		if buf, err = c.in.receive(ctx, buf); err == nil {
			return buf, nil
		}
	}
	return buf[:0], c.receiveError(ctx, err)
}

// receiveError makes an error of err for who receives until ctx ends. If that has, it says why no
// connection could be made; what is lost is said in its place.
func (c *Client) receiveError(ctx context.Context, err error) error {
	if errors.Is(err, ctx.Err()) && c.finalError() == nil {
		err = c.withFailure(err)
	}
	return c.opError(opReceive, false, err)
}

// Messages returns a loop over the messages that arrive. A message is valid until the
// next one or the end of the loop. When ctx is done or the connection has ended, the error is yielded once,
// with a nil message, and the loop ends, also with Reconnect. Breaking out loses nothing:
// the next call to Receive or Messages goes on after the last message.
func (c *Client) Messages(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var at cursor
		defer c.in.release(&at)
		for {
			if err := ctx.Err(); err != nil {
				yield(nil, c.receiveError(ctx, err))
				return
			}
			msg, ok := c.in.next(&at)
			if !ok {
				var err error
				if msg, err = c.in.advance(ctx, &at); err != nil {
					yield(nil, c.receiveError(ctx, err))
					return
				}
			}
			if !yield(msg, nil) {
				return
			}
		}
	}
}

// LocalAddr returns the local address of the connection, or of the last one; nil before the
// first (see [Backoff].OnDemand).
func (c *Client) LocalAddr() net.Addr {
	if l := c.latest(); l != nil {
		return l.wire.LocalAddr()
	}
	return nil
}

// RemoteAddr returns the address of the server on the connection, or on the last one; nil before
// the first.
func (c *Client) RemoteAddr() net.Addr {
	if l := c.latest(); l != nil {
		return l.wire.RemoteAddr()
	}
	return nil
}

// Stats returns counters since Dial. It is cheap enough to be polled. A message counts
// before it can be received, and before the Send or Flush that has sent it returns.
func (c *Client) Stats() Stats {
	l := c.link.Load()
	return c.count.stats(l != nil, l.inFlight(), c.in.bytes(), c.trace.dropped.Load())
}

// opError makes an error of err for the user; nil stays nil.
func (c *Client) opError(op string, unsent bool, err error) error {
	if err == nil {
		return nil
	}
	addr := c.connector.address()
	if l := c.latest(); l != nil {
		addr = l.addr
	}
	return &OpError{Op: op, Addr: addr, Unsent: unsent, Err: err}
}

func (c *Client) latest() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// finalError returns why there will be no other connection, nil while there may be one.
func (c *Client) finalError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// changedLocked wakes all who wait for another state.
func (c *Client) changedLocked() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// whenChangedLocked returns what changedLocked closes.
func (c *Client) whenChangedLocked() <-chan struct{} {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// takeLoss returns, once, the end of a connection that took frames with it, if that was not
// reported.
func (c *Client) takeLoss() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.pendingLoss
	c.pendingLoss = nil
	return err
}

// takeAnyLoss is takeLoss also of what the next connection was given to report.
func (c *Client) takeAnyLoss() error {
	if loss := c.takeLoss(); loss != nil {
		return loss
	}
	if l := c.link.Load(); l != nil {
		return l.out.takeLoss()
	}
	return nil
}

// connected waits for a connection, if need be.
func (c *Client) connected(ctx context.Context, over *link, most int) (*link, error) {
	if err := ctx.Err(); err != nil {
		return nil, c.unreachable(err)
	}
	if l := c.taker.Load(); l != nil && l != over {
		return l, nil
	}
	c.connector.demand.begin()
	defer c.connector.demand.end()
	for {
		l, changed, err := c.state(over, most)
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, c.unreachable(ctx.Err())
		}
	}
}

// mostRounds implements access. On demand a call that is to fail fast waits for one round: that which is
// under way, or the one after the connection that is here.
func (c *Client) mostRounds() int {
	switch {
	case !c.config.failsFast():
		return math.MaxInt
	case !c.config.onDemand():
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link.Load() != nil {
		return c.rounds + 2
	}
	return c.rounds + 1
}

// state returns the connection in use, or why there is none, or what to wait for.
func (c *Client) state(over *link, most int) (l *link, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l = c.taker.Load()
	switch {
	case c.pendingLoss != nil:
		err, c.pendingLoss = c.pendingLoss, nil
		return nil, nil, err
	case c.err != nil:
		return nil, nil, c.err
	case over != nil && c.config.backoff == nil && over.wire.Cause() != nil:
		return nil, nil, over.wire.Cause()
	case c.phase != clientRunning:
		return nil, nil, ErrClosed
	case l != nil && l != over:
		return l, nil, nil
	case l == nil && c.link.Load() != nil:
		// Disconnect has ended it, and what is lost is not known yet.
	case c.rounds >= most:
		return nil, nil, c.notConnectedLocked()
	}
	return nil, c.whenChangedLocked(), nil
}

// unreachable returns err, the end of the context of a call that has waited in vain, and why there
// is no connection, if there is none.
func (c *Client) unreachable(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.link.Load(); l != nil && !l.wire.IsDead() || c.err != nil {
		return err
	}
	return withReason(err, c.whyNotLocked())
}

// withFailure returns err, the end of a context, and why the last attempt failed, if one has
// failed since there was a connection.
func (c *Client) withFailure(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return withReason(err, c.dialErr)
}
