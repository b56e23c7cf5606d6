package tcpclient

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

const (
	// closeTime is how long Close takes at the most, of time in which this process runs.
	closeTime = time.Second

	// closeFlush is how long Close goes on flushing to a peer that takes something,
	// and closeStall to one that takes nothing.
	closeFlush = 500 * time.Millisecond
	closeStall = 200 * time.Millisecond

	// closeNotify is how long Close waits for the socket to take the last words of
	// TLS, and Close and Shutdown for the peer to hang up on what was flushed.
	closeNotify = 100 * time.Millisecond

	// closePoll is how often they poll whether such a time is over: a process that did not run
	// meanwhile, because it was suspended, has not seen a peer that takes nothing.
	closePoll = 10 * time.Millisecond
)

// Shutdown ends the exchange in an orderly way: it refuses further messages, waits for
// the replies to the Calls in flight, flushes, sends FIN, and takes in what the server
// still sends until its FIN. It returns nil once the server's FIN has arrived, even if that
// arrived before ours was sent. It never waits for a receiver: what has arrived stays
// receivable after Shutdown has returned, and then Receive returns ErrClosed.
//
// After FIN there are no pings: with a Heartbeat, a server that is then silent for its
// Timeout is dead, and Shutdown says so.
//
// A connection that cannot be half-closed is read on for at most 100 ms after the flush, until it
// ends or ctx does, and then closed: Shutdown returns nil, but whether the server has taken
// everything is not known.
//
// When ctx is done first, the connection is closed hard, and Shutdown returns an error
// that Is ctx.Err(), of [ClassPermanent]: there is nothing left to try again on. If ctx is done
// already, Shutdown does nothing, and its error Is ctx.Err(). After Shutdown or Close it does
// nothing and returns ErrClosed.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return c.opError(opClose, false, err)
	}
	if !c.enter(clientDraining) {
		return c.opError(opClose, false, ErrClosed)
	}
	c.in.raiseLimit()
	cut := context.AfterFunc(ctx, c.abort) // whoever is held up, even drain, by a Framer
	l, flushed := c.link.Load(), false
	if l == nil {
		c.connecting.end() // between two connections there is nothing to wait for
	} else {
		flushed = l.drain(ctx.Done()) && !c.isClosing() // else Close may have ended the calls
	}
	if flushed {
		l.linger(l.wire.Dead(), ctx.Done())
		l.wire.Kill(ErrClosed)
	}
	hard := true
	select {
	case <-c.done.Wait():
		hard = !cut()
	case <-ctx.Done():
		c.abort() // cut may not have been called yet
	}
	late := time.NewTimer(closeTime)
	defer late.Stop()
	defer context.AfterFunc(ctx, func() { late.Reset(dialGrace) })()
	c.join(late.C)
	end := c.outcome(l)
	if flushed && !end.unfinished { // how the connection ended while it lingered is of no account
		return c.opError(opClose, false, end.loss)
	}
	hard = hard || end.unfinished && ctx.Err() != nil // drain has given up, if cut has not run yet
	err := c.shutdownError(ctx, end, l != nil, hard)
	if hard && err != nil {
		err = Permanent(err) // nothing can be tried again on a connection that was closed hard
	}
	return c.opError(opClose, false, err)
}

// shutdownError is what Shutdown returns after such an end. wasConnected says that there was a
// connection to shut down, hard that the context has ended everything.
func (c *Client) shutdownError(ctx context.Context, end outcome, wasConnected, hard bool) (err error) {
	switch {
	case hard && (!end.peerClosed || end.unfinished):
		if err = ctx.Err(); end.reason != nil && end.reason != ErrClosed && lossIn(end.reason) == nil {
			err = multiError{end.reason, err}
		}
	case end.hungUp():
		// FIN came before ours, and the peer owed us nothing.
	case end.reason != ErrClosed || wasConnected && !end.peerClosed:
		err = end.reason
	}
	if loss := end.loss; loss != nil {
		if err == nil || errors.Is(loss, err) {
			return loss
		}
		return multiError{loss, err}
	}
	return err
}

// outcome returns how l has ended, which was there when Close or Shutdown began, or how the
// Client has if there was none. The loss may be that of a connection before.
func (c *Client) outcome(l *link) outcome {
	end := c.endOf(l)
	if loss := c.takeLoss(); loss != nil {
		end.loss = loss
	}
	return end
}

func (c *Client) endOf(l *link) outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended.reason != nil:
		return c.ended
	case l != nil:
		return l.outcomeSoFar()
	}
	return outcome{reason: c.err}
}

// Close flushes what was written, as far as the peer takes it at once, closes the
// connection and drops the messages that were not received. All calls that wait return
// ErrClosed.
//
// Close returns within a second (in which this process runs), and after the Client's goroutines
// have ended, unless they are in code of the user, a Framer or a hook, that does not return. It returns an
// error if it could not flush all that was written, even if another call reports that,
// too, or if messages were lost before and no call has reported it. Further calls wait for
// the goroutines, too, and return nil.
func (c *Client) Close() error {
	closed, first := c.enterClosing()
	if !first {
		<-closed
		return nil
	}
	late, timer := newPollTimer(closeTime)
	defer timer.stop()
	l := c.link.Load()
	c.in.close(c.closeReason())
	if l != nil {
		cut := afterPolls(closeFlush+closeStall, c.abort) // a Framer may hold it up
		l.closeGracefully(c.done.Wait())
		cut.stop()
	}
	c.abort()
	select {
	case <-c.done.Wait():
		in := c.leaving.await(late)
		close(closed) // before the Trace is waited for: it may be waiting in a Close of its own
		if in {
			c.trace.wait(late)
		}
	case <-late:
		close(closed)
	}
	return c.opError(opClose, false, c.outcome(l).loss)
}

// A pollTimer is a timer for time in which this process runs. It polls the clock each closePoll. If
// that is late by more than as much again, the process has not run.
type pollTimer struct {
	mu      sync.Mutex // guards following
	timer   *time.Timer
	last    time.Time // when it polled
	left    time.Duration
	stopped bool
}

// afterPolls is [time.AfterFunc] with a pollTimer.
func afterPolls(d time.Duration, f func()) *pollTimer {
	t := &pollTimer{last: time.Now(), left: d}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(closePoll, func() {
		if t.poll() {
			f()
		}
	})
	return t
}

// newPollTimer returns what a pollTimer sends the time to, as [time.NewTimer] does.
func newPollTimer(d time.Duration) (over <-chan time.Time, t *pollTimer) {
	c := make(chan time.Time, 1)
	return c, afterPolls(d, func() { c <- time.Now() })
}

// poll reports whether the time is over.
func (t *pollTimer) poll() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.left -= min(now.Sub(t.last), 2*closePoll)
	t.last = now
	switch {
	case t.stopped:
		return false
	case t.left <= 0:
		return true
	}
	t.timer.Reset(closePoll)
	return false
}

func (t *pollTimer) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.timer.Stop()
}

// Disconnect ends the connection, as a loss with that cause: for a server that has said that
// another is to be used, or that this one is shutting down. The error of Receive and of all who
// wait Is [ErrDisconnected] and Is cause; with a nil cause it is ErrDisconnected alone.
//
// It ends the connection that there is then, and does nothing to one that has failed already and
// is read for its last words, which takes a second at the most.
//
// With Reconnect the next attempt begins at once, without the wait of the [Backoff], with the next
// address; if there is no connection, a wait for the next attempt is cut short. It does not count
// as an attempt that failed. Calls that begin after Disconnect wait for the next connection; with
// FailFast they fail, or on demand wait for one attempt. If cause is [Permanent], or without
// Reconnect, the Client ends. Messages that were written and not flushed are lost, and reported (see
// [LossError]). Disconnect does not block, and may be called from anywhere, hooks included; but a
// call that begins in a hook after it waits for the hook itself. When Close has returned it does
// nothing.
func (c *Client) Disconnect(cause error) {
	reason := ErrDisconnected
	if cause != nil {
		reason = &wire.DisconnectedError{Cause: &hookError{cause}} // no EOF, even if it is one
	}
	permanent := errors.As(cause, new(*permanentError))
	if permanent {
		reason = Permanent(reason)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch l := c.link.Load(); {
	case l != nil && !l.wire.IsDead(): // else its last words are still read
		l.wire.Kill(reason)
		c.taker.Store(nil)
	case permanent && c.config.backoff != nil && c.phase == clientRunning:
		c.verdict = reason
		c.connecting.end()
	}
	c.connector.hurryUp()
}

// enter begins a phase, of which no further messages are taken, and wakes those who wait for a
// connection with theirs. It returns false if that phase has begun before, or a later one.
func (c *Client) enter(phase clientPhase) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase >= phase {
		return false
	}
	c.phase = phase
	c.changedLocked()
	return true
}

// enterClosing is enter for Close. It returns what is closed when the first Close is over.
func (c *Client) enterClosing() (closed chan struct{}, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.closed, first = make(chan struct{}), true
		c.phase = clientClosing
		c.changedLocked()
	}
	return c.closed, first
}

// isEnding reports whether Close or Shutdown was called: there will be no other connection.
func (c *Client) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase != clientRunning
}

// isClosing reports whether Close was called: the connection is dropped.
func (c *Client) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == clientClosing
}

// closeReason is what Receive says after a Close: the end of a connection that was dying
// already comes first, if it is that of the Client.
func (c *Client) closeReason() error {
	if c.config.backoff == nil {
		if reason := c.latest().wire.Cause(); reason != nil {
			return reason
		}
	}
	return ErrClosed
}

// join waits until the Client's goroutines have ended, or it is late.
func (c *Client) join(late <-chan time.Time) {
	select {
	case <-c.done.Wait():
		if c.leaving.await(late) {
			c.trace.wait(late)
		}
	case <-late:
	}
}

// A leaving is the connections of a Client that have ended and may have goroutines in their methods
// still: without real deadlines those return when they want.
type leaving struct {
	mu   sync.Mutex        // guards following
	left []<-chan struct{} // each closed when its connection has none any more
}

// add takes note of a connection that has ended.
func (v *leaving) add(conn *wire.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left = slices.DeleteFunc(append(v.left, conn.Left()), func(left <-chan struct{}) bool {
		select {
		case <-left:
			return true
		default:
			return false
		}
	})
}

// await waits until none of them has any. It reports whether that was before it is late.
func (v *leaving) await(late <-chan time.Time) bool {
	v.mu.Lock()
	all := slices.Clone(v.left)
	v.mu.Unlock()
	for _, left := range all {
		select {
		case <-left:
		case <-late:
			return false
		}
	}
	return true
}

// abort ends run, wherever it is, and unblocks all who wait.
func (c *Client) abort() {
	c.connecting.end()
	if l := c.link.Load(); l != nil {
		l.wire.Kill(ErrClosed)
	}
}
