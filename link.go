package tcpclient

import (
	"errors"
	"io"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// A link is a connection in use.
type link struct {
	addr   string
	wire   *wire.Conn
	secure bool // there is TLS
	out    *outbox
	calls  *calls
	reader *reader
}

// An origin is where the messages of a link come from. It is the upstream of a producer.
type origin struct {
	*wire.Conn
	calls *calls
	watch *heartbeatWatch
}

func (o *origin) stall(received bool) { o.calls.stall(received) }

func (o *origin) stallOver() { o.calls.stallOver() }

func (o *origin) whileFull() (again time.Duration, err error) { return o.watch.whileFull() }

// An outcome is how a link has ended.
type outcome struct {
	reason     error // everybody gets
	loss       error // messages are lost, which was not reported; else nil. Whoever reports it asks for that
	peerClosed bool  // the peer's FIN has come, and was expected
	unfinished bool  // calls waited for replies, or messages were not handed over
	answered   bool  // a request had its reply
}

// hungUp reports whether the peer has ended the connection between two messages, and nothing
// was left to do.
func (o *outcome) hungUp() bool { return o.isEOF() && !o.unfinished }

// isEOF reports whether the peer has ended the connection between two messages.
func (o *outcome) isEOF() bool {
	d, ok := o.reason.(*wire.DisconnectedError)
	return ok && d.Cause == io.EOF
}

// newLink puts a connection to use whose Handshake is over. Messages go to p, first those that the
// Handshake has delivered. loss is that of the connection before, if it was not reported.
func newLink(c *config, conn *Conn, p *producer, count *counters, trace *tracer, loss error) *link {
	l := &link{addr: conn.addr, wire: conn.wire, secure: conn.tls != nil}
	l.calls = newCalls(&c.calls, count, trace, conn.wire, p.inbox)
	l.out = newOutbox(c, conn.frames.framing, conn.wire, conn.transport(), l.calls, count, loss)
	watch := newHeartbeatWatch(&c.heartbeat, c.frameTimeout, l.out, l.calls)
	if conn.tls != nil {
		conn.records.start(l.out.tlsAdded, watch)
	}
	l.reader = &reader{
		watch:    watch,
		calls:    l.calls,
		out:      l.out,
		hooks:    &c.heartbeat,
		watched:  c.heartbeat.IsPong != nil || c.heartbeat.Answer != nil,
		producer: p,
		origin:   &origin{conn.wire, l.calls, watch},
		count:    count,
		trace:    trace,
		slabs:    c.inbox > 2*directSlab,
		pushed:   conn.takePushed(),
	}
	l.reader.succeed(conn.frames)
	conn.wire.Watch(watch, c.heartbeat.Ping != nil)
	return l
}

// end closes the connection because of err, and returns when nothing of it is at work.
// finExpected says that the peer's FIN is no surprise.
func (l *link) end(err error, finExpected bool) outcome {
	isEOF := errors.Is(err, io.EOF) && !errors.Is(err, ErrInvalidFrame) // a Framer may say so of bytes that are none
	if l.wire.Cause() == nil && (isEOF || l.out.transport.readerOwes()) {
		l.out.awaitLastWords()
	}
	peerClosed := (finExpected || l.out.expectsFIN()) && isEOF && l.wire.Cause() == nil
	if peerClosed {
		err = ErrClosed // the peer's answer to our FIN
	}
	l.calls.notePending()
	reason := l.wire.Kill(err)
	l.out.end()
	hadPending, answered := l.calls.end(reason)
	l.wire.Join()
	return outcome{reason: reason, peerClosed: peerClosed, unfinished: hadPending || l.out.hasLost(), answered: answered}
}

// outcomeSoFar is the outcome of a link that was killed, whose reader is held up in code of the
// user.
func (l *link) outcomeSoFar() outcome {
	return outcome{reason: l.wire.Cause(), loss: l.out.takeLossNow(), unfinished: true}
}

// inFlight returns how many requests have no reply yet; 0 without a link.
func (l *link) inFlight() int {
	if l == nil {
		return 0
	}
	return l.calls.inFlight()
}

// drain takes no further messages, and sends FIN after all that was taken, and after the
// replies to the calls in flight, for which it waits unless done is closed. It reports whether there
// is no FIN to wait for, since there is no half of this connection to close: with the flush all is
// done that can be.
func (l *link) drain(done <-chan struct{}) (flushed bool) {
	l.out.seal()
	drained := false
	select {
	case <-l.calls.whenDrained():
		drained = !isClosed(done) // which may have ended the calls
	case <-done:
	}
	select {
	case <-l.out.finish():
	case <-l.wire.Dead():
	case <-done:
	}
	return drained && l.out.finState() == finUnsupported
}

// closeGracefully flushes what was written, as long as the peer takes it, and sends FIN, for
// Close. It takes less than closeTime. ended is closed when the peer has hung up.
func (l *link) closeGracefully(ended <-chan struct{}) {
	l.out.seal()
	l.calls.close()
	flushed := l.out.isFlushed()
	if flushed && !l.secure {
		return
	}
	if finished := l.out.finish(); finished != nil && l.awaitFIN(finished) && !flushed {
		l.linger(ended, nil)
	}
}

// linger waits until the connection has ended, or done is closed, for closeNotify at the most: a
// socket that is closed with unread data on it resets the connection, and what was just flushed
// may be lost on the way. So the reader goes on until the peer hangs up. A tunnel without
// half-close may have such a socket below.
func (l *link) linger(ended, done <-chan struct{}) {
	late, timer := newPollTimer(closeNotify)
	defer timer.stop()
	select {
	case <-ended:
	case <-done:
	case <-late:
	}
}

// awaitFIN waits until FIN was sent, as long as the peer takes what comes before it.
func (l *link) awaitFIN(finished <-chan struct{}) bool {
	poll := time.NewTimer(closePoll)
	defer poll.Stop()
	moved, still := l.wire.Progress(), 0 // polls since then
	for range closeFlush / closePoll {
		select {
		case <-finished:
			return true
		case <-poll.C:
			poll.Reset(closePoll)
		}
		most := closeStall
		if l.out.isFlushed() {
			most = closeNotify
		}
		still++
		if p := l.wire.Progress(); !p.Equal(moved) {
			moved, still = p, 0
		}
		if still >= int(most/closePoll) {
			break
		}
	}
	return isClosed(finished)
}
