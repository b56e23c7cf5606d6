package tcpclient

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"
)

// run is the Client's goroutine: it dials, reads until the connection has ended, and
// begins again if there is a Backoff. dialing is Dial's context.
func (c *Client) run(dialing context.Context) {
	defer close(c.done)
	r := retries{backoff: c.settings.Reconnect}
	ctx, cancel := context.WithCancel(dialing)
	stop := context.AfterFunc(c.life, cancel)
	conn, err := c.connectApart(ctx, &r, r.backoff != nil && r.backoff.FirstDial)
	stop()
	cancel()
	for err == nil {
		began := time.Now()
		err = c.use(conn)
		if r.backoff == nil {
			break
		}
		if err != ErrClosed {
			c.intake.lose(err)
		}
		if c.isClosing() {
			err = ErrClosed // a loss is told once, this for good
			break
		}
		r.ended(err, time.Since(began))
		conn, err = c.connectApart(c.life, &r, true)
	}
	if c.life.Err() != nil && c.isClosing() && (r.backoff != nil || !errors.Is(err, ErrDisconnected)) {
		err = ErrClosed
	}
	c.finish(err)
}

// use puts conn to use until it has ended, and returns why it has.
func (c *Client) use(conn *Conn) (reason error) {
	err := errGoexit // until read returns
	defer func() {
		reason = c.detach(conn, err)
		if err == errGoexit {
			if c.settings.Reconnect != nil && reason != ErrClosed {
				c.intake.lose(reason) // run does not come to it
				if reason = errGoexit; c.isClosing() {
					reason = ErrClosed
				}
			}
			c.finish(reason) // likewise
		}
	}()
	c.attach(conn)
	if err = c.read(conn); err == ErrClosed {
		err = &disconnectedError{err} // a Framer's or the connection's word, not ours
	}
	return // reason, from detach
}

// retries is a row of attempts to connect.
type retries struct {
	backoff  *Backoff // nil: one attempt is all
	attempts int      // in this row; one that made a connection which ended too soon counts
	failures int      // what the next wait depends on: these, or the one end of a lasting connection
	err      error    // the last failure
}

// ended records the end of a connection.
func (r *retries) ended(err error, lived time.Duration) {
	r.failed(err)
	if lived >= r.backoff.stable() {
		r.attempts, r.failures = 0, 1
	}
}

// failed records the end of an attempt.
func (r *retries) failed(err error) {
	r.attempts++
	r.failures++
	r.err = err
}

// attempt returns the number of the next attempt.
func (r *retries) attempt() int { return r.attempts + 1 }

// exhausted reports whether there is to be no further attempt.
func (r *retries) exhausted() bool {
	return r.backoff.MaxAttempts > 0 && r.attempts >= r.backoff.MaxAttempts
}

// connectApart is connect on a goroutine of its own, for which it waits. Dialing needs a
// deeper stack than reading, and a goroutine that has once grown it keeps it: 4 KiB
// for every idle Client.
func (c *Client) connectApart(ctx context.Context, r *retries, again bool) (conn *Conn, err error) {
	made := make(chan struct{})
	err = errGoexit
	go func() {
		defer close(made)
		conn, err = c.connect(ctx, r, again)
	}()
	<-made
	return conn, err
}

// errGoexit is the error of a hook that has called runtime.Goexit, as t.FailNow does.
var errGoexit = Permanent(errors.New("a hook has ended its goroutine"))

// connect makes the next connection, waiting before each attempt but the first, and
// trying again until ctx ends, the attempts are used up or an error is permanent.
func (c *Client) connect(ctx context.Context, r *retries, again bool) (*Conn, error) {
	for {
		if r.failures > 0 {
			if r.exhausted() {
				return nil, exhausted(r.attempts, r.err)
			}
			if err := c.wait(ctx, r); err != nil {
				return nil, err
			}
		}
		conn, err := c.round(ctx, r.attempt())
		if err == nil || !again || ctx.Err() != nil || Classify(err) == ClassPermanent {
			return conn, err
		}
		r.failed(err)
		c.mu.Lock()
		c.failure = err
		c.mu.Unlock()
	}
}

// wait lets the delay before the next attempt pass.
func (c *Client) wait(ctx context.Context, r *retries) error {
	delay := jitter(r.backoff.ceiling(r.failures, r.err))
	c.trace.waiting(r.attempt(), delay)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// round tries all addresses once.
func (c *Client) round(ctx context.Context, attempt int) (*Conn, error) {
	var errs []error
	for _, address := range c.addresses {
		c.trace.connecting(address, attempt)
		began := time.Now()
		conn, err := c.settings.connect(ctx, c.network, address)
		if err == nil {
			c.trace.connected(address, attempt, time.Since(began))
			return conn, nil
		}
		c.trace.connectFailed(address, attempt, err)
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, &OpError{Op: opDial, Addr: strings.Join(c.addresses, ", "), Err: multiError(errs)}
}

// attach puts conn to use.
func (c *Client) attach(conn *Conn) {
	conn.beforeRead = c.intake.publish
	conn.calls = newCalls(c.settings.Correlator, &c.count)
	conn.out = newOutbox(c.settings, conn, &c.count)
	if h := c.settings.Heartbeat; h.Interval > 0 {
		conn.ping = h.Ping
		conn.vigil.interval, conn.vigil.timeout, conn.vigil.pings = h.Interval, h.timeout(), h.Ping != nil
	}
	conn.vigil.start(time.Now())
	conn.wire.begin(inlineWrite)
	c.count.connects.Add(1)

	c.mu.Lock()
	defer c.mu.Unlock()
	conn.out.lost, c.lost = c.lost, nil
	c.last = conn
	c.changedLocked()
	if c.closing {
		conn.wire.kill(ErrClosed) // and neither Close nor Shutdown is to see this one
		return
	}
	c.link.Store(conn)
}

// detach ends conn, which err has made unreadable. It returns, when nobody uses conn any
// more, why it ended.
func (c *Client) detach(conn *Conn, err error) error {
	orderly := c.finExpected(conn) && errors.Is(err, io.EOF) && conn.wire.reason() == nil
	if orderly {
		err = ErrClosed // the peer's answer to our FIN
	}
	reason := conn.end(err)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.orderly = orderly
	if c.closing {
		c.parting = reason
	}
	c.link.Store(nil)
	if lost := conn.out.loss(); lost != nil {
		c.lost = lost
	}
	c.changedLocked()
	c.trace.disconnected(conn.addr, reason)
	return reason
}

// finish tells everybody that there will be no other connection.
func (c *Client) finish(err error) {
	c.intake.roll()
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.changedLocked()
	c.mu.Unlock()
	c.in.finish(err)
}

// changedLocked wakes all who wait for another state.
func (c *Client) changedLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// finExpected reports whether the peer's FIN is no surprise: we have sent ours, or drop the
// connection.
func (c *Client) finExpected(conn *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed != nil || conn.parted.Load()
}

func (c *Client) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}
