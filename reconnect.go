package tcpclient

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// run is the Client's goroutine: it dials, reads until the connection has ended, and
// begins again if there is a Backoff. dialing is Dial's context.
func (c *Client) run(dialing context.Context) {
	defer close(c.done)
	backoff := c.config.backoff
	ctx, cancel := context.WithCancel(dialing)
	stop := context.AfterFunc(c.life, cancel)
	conn, err := c.connector.connect(ctx, backoff != nil && backoff.FirstDial)
	stop()
	cancel()
	for err == nil {
		began := time.Now()
		err = c.use(c.attach(conn))
		if backoff == nil {
			break
		}
		if err != ErrClosed {
			c.producer.lose(err)
		}
		if c.isEnding() {
			err = ErrClosed // a loss is reported once, this for good
			break
		}
		c.connector.retries.ended(err, time.Since(began))
		conn, err = c.connector.connect(c.life, true)
	}
	if c.life.Err() != nil && c.isEnding() && (backoff != nil || !errors.Is(err, ErrDisconnected)) {
		err = ErrClosed
	}
	c.finish(err)
}

// use reads from l until it has ended, and returns why it has.
func (c *Client) use(l *link) (reason error) {
	err := errGoexit // until the reader returns
	defer func() {
		reason = c.detach(l, err)
		if err == errGoexit {
			if c.config.backoff != nil && reason != ErrClosed {
				c.producer.lose(reason) // run does not come to it
				if reason = errGoexit; c.isEnding() {
					reason = ErrClosed
				}
			}
			c.finish(reason) // likewise
		}
	}()
	if err = l.reader.run(); err == ErrClosed {
		err = &wire.DisconnectedError{Cause: err} // a Framer's or the connection's word, not ours
	}
	return // reason, from detach
}

// attach puts a new connection to use.
func (c *Client) attach(conn *Conn) *link {
	l := newLink(c.config, conn, c.producer, &c.count, &c.trace, c.takeLoss())
	c.count.connects.Add(1)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = l
	c.changedLocked()
	if c.phase != clientRunning {
		l.wire.Kill(ErrClosed) // and neither Close nor Shutdown is to see this one
		return l
	}
	c.link.Store(l)
	return l
}

// detach ends l, which err has made unreadable. It returns, when no one uses l any more, why it
// has ended.
func (c *Client) detach(l *link, err error) error {
	o := l.end(err, c.isClosing())

	c.mu.Lock()
	defer c.mu.Unlock()
	if loss := l.out.takeLoss(); loss != nil { // under our lock, or who asks in between would not find it
		c.loss = loss
	}
	if c.phase != clientRunning {
		c.ended = o
	}
	c.link.Store(nil)
	c.changedLocked()
	c.trace.disconnected(l.addr, o.reason)
	return o.reason
}

// finish tells everybody that there will be no other connection.
func (c *Client) finish(err error) {
	c.producer.closeSlab()
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.changedLocked()
	c.mu.Unlock()
	c.in.finish(err)
}

// A connector makes the connections of a Client. The Client's goroutine owns it.
type connector struct {
	config    *config
	network   string
	addresses []string
	trace     *tracer

	retries retries

	failed atomic.Pointer[error] // the last failure of an attempt that was to be followed by another, for any goroutine
}

// lastFailure returns why the last attempt failed that was to be followed by another; nil if
// there is none.
func (r *connector) lastFailure() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// errGoexit is the error of a hook that has called runtime.Goexit, as t.FailNow does.
var errGoexit = Permanent(errors.New("a hook has ended its goroutine"))

// connect is connectHere on a goroutine of its own, for which it waits. Dialing needs a
// deeper stack than reading, and a goroutine that has once grown it keeps it: 4 KiB for every
// idle Client.
func (r *connector) connect(ctx context.Context, again bool) (conn *Conn, err error) {
	made := make(chan struct{})
	err = errGoexit
	go func() {
		defer close(made)
		conn, err = r.connectHere(ctx, again)
	}()
	<-made
	return conn, err
}

// connectHere makes the next connection, waiting before each attempt but the first, and
// trying again until ctx ends, the attempts are used up or an error is permanent.
func (r *connector) connectHere(ctx context.Context, again bool) (*Conn, error) {
	for {
		if r.retries.failures > 0 {
			if r.retries.exhausted() {
				return nil, exhausted(r.retries.attempts, r.retries.err)
			}
			if err := r.wait(ctx); err != nil {
				return nil, err
			}
		}
		conn, err := r.dialAll(ctx)
		if err == nil || !again || ctx.Err() != nil || Classify(err) == ClassPermanent {
			return conn, err
		}
		r.retries.failed(err)
		r.failed.Store(&err)
	}
}

// wait lets the delay before the next attempt pass.
func (r *connector) wait(ctx context.Context) error {
	delay := r.retries.delay()
	r.trace.waiting(r.retries.attempt(), delay)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialAll tries all addresses once.
func (r *connector) dialAll(ctx context.Context) (*Conn, error) {
	var errs []error
	for _, address := range r.addresses {
		r.trace.connecting(address, r.retries.attempt())
		began := time.Now()
		a := attempt{config: r.config, network: r.network, address: address}
		conn, err := a.connect(ctx)
		if err == nil {
			r.trace.connected(address, r.retries.attempt(), time.Since(began))
			return conn, nil
		}
		r.trace.connectFailed(address, r.retries.attempt(), err)
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, &OpError{Op: opDial, Addr: strings.Join(r.addresses, ", "), Err: multiError(errs)}
}
