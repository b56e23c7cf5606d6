package tcpclient

import (
	"fmt"
	"math"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/liveness"
)

// A Heartbeat finds a peer that has gone although TCP has not noticed: a pulled cable, a
// forgotten NAT entry, a hung process. It also keeps a peer content that hangs up if it hears
// nothing from us, as MQTT, STOMP, AMQP and FIX have it.
//
// Any whole message from the peer is proof of life. What we send is not, and neither are
// the bytes of an unfinished frame (see [Dialer].FrameTimeout). The peer's silence counts only
// while the Client waits for the socket, so a slow application, a full Inbox or a suspended
// process is never taken for a dead peer.
//
// Our own silence counts from the last bytes that were handed to the network. A Write that was
// not flushed is silence, too. The Client pings also while the application does not receive and
// the Inbox is full. If a ping is unanswered, the next one for our own silence waits until
// something has arrived; while the Inbox is full, which hides that, it does not wait.
//
// A keep-alive that the peer sends between two frames, such as the line ends of STOMP, is life
// only if ReadFrame returns it as a message. IsPong then swallows it. A ReadFrame that skips it and
// goes on reading is inside a frame from then on, and FrameTimeout ends the connection.
//
// A server that works on one request at a time answers no ping meanwhile, as PostgreSQL in a
// long query, or beanstalkd in a reserve. Without [Dialer].ReplyTimeout such a request has to
// be answered within Timeout. With it, and replies in order, the Heartbeat rests while a
// request is outstanding: no ping is sent, silence ends nothing, and ReplyTimeout and
// FrameTimeout find the dead peer. If the Inbox is full then, ReplyTimeout stands
// still, too, and still no ping is sent until the application receives.
//
// The functions are called on the Client's reading goroutine, one at a time. They must
// not block and must not keep msg.
type Heartbeat struct {
	// Interval is the silence of the peer, or of ours, after which the peer is pinged. What we
	// send postpones only the ping for our own silence. 0: no heartbeat.
	Interval time.Duration

	// Timeout is the silence of the peer after which the connection ends with
	// ErrHeartbeatTimeout. It must exceed Interval. 0: twice Interval.
	Timeout time.Duration

	// Ping returns the message to send, which the Client copies. It leaves in order, after
	// what was written before it, and flushes that. The Correlator does not see it: an id that
	// the protocol wants is in it already, best 0, which no Call gets. nil: send nothing, only
	// watch the silence.
	Ping func() []byte

	// IsPong recognises the answers to Ping, and the keep-alives of a peer that sends them on its
	// own. The Client swallows them, even while a Call waits: its reply must not look like a
	// pong. Each answers the oldest ping that has no answer. The round-trip time that [Trace] and
	// [Stats] tell ends when the Client has read the answer: if the Inbox was full, that is later
	// than it came. nil: there are none.
	IsPong func(msg []byte) bool

	// Answer recognises the pings of the peer, which the Client swallows. It returns the
	// message to answer with, which the Client copies, or nil for no answer. A nil Answer
	// recognises none.
	Answer func(msg []byte) (reply []byte, ok bool)
}

func (h *Heartbeat) timeout() time.Duration {
	switch {
	case h.Timeout != 0:
		return h.Timeout
	case h.Interval > math.MaxInt64/2:
		return math.MaxInt64
	}
	return 2 * h.Interval
}

// validate checks the settings.
func (h *Heartbeat) validate() (errs []error) {
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("Dialer.Heartbeat."+format, args...))
	}
	if h.Interval < 0 {
		refuse("Interval %v is negative", h.Interval)
	}
	if h.Timeout < 0 {
		refuse("Timeout %v is negative", h.Timeout)
	}
	switch {
	case h.Interval == 0 && h.Timeout != 0:
		refuse("Timeout %v needs an Interval", h.Timeout)
	case h.Timeout != 0 && h.Timeout <= h.Interval:
		refuse("Timeout %v must exceed Interval %v", h.Timeout, h.Interval)
	}
	return errs
}

// A frameWatch limits the time for the rest of a frame: all there is to watch during a
// Handshake. It is the monitor of the wire and the watcher of the frameReader.
type frameWatch struct{ monitor liveness.Monitor }

func newFrameWatch(frameTimeout time.Duration) *frameWatch {
	return &frameWatch{liveness.New(liveness.Settings{FrameTimeout: frameTimeout}, time.Now(), time.Time{})}
}

func (w *frameWatch) beforeRead(inFrame bool) {
	if w.monitor.Watches(inFrame) {
		w.monitor.Resume(time.Now(), inFrame)
	}
}

func (w *frameWatch) arrived() { w.monitor.Message() }

// beforeRecord: TLS reads the network next. Bytes of an unfinished record count as a frame that is
// arriving.
func (w *frameWatch) beforeRecord(record recordState) {
	switch {
	case record == recordWhole:
		w.monitor.RecordEnded()
	case record == recordBegun && w.monitor.Watches(true):
		w.monitor.RecordBegan(time.Now())
	}
}

// Next returns when Expired is to be called.
func (w *frameWatch) Next() time.Time { return w.monitor.Next() }

// Arrived notes that bytes have come.
func (w *frameWatch) Arrived() {
	if w.monitor.Heartbeat() { // else the time is of no use
		w.monitor.Arrived(time.Now())
	}
}

// Expired is called when a read has brought nothing by due.
func (w *frameWatch) Expired(now, due time.Time) error {
	return endOf(w.monitor.Check(now, due, liveness.Outbound{}))
}

// endOf returns the end of the connection that an action is, if it is one.
func endOf(action liveness.Action) error {
	switch action {
	case liveness.HeartbeatExpired:
		return ErrHeartbeatTimeout
	case liveness.FrameExpired:
		return ErrFrameTimeout
	}
	return nil
}

// A heartbeatWatch watches a connection in use: the time for the rest of a frame, with a
// Heartbeat the silence of the peer and ours, and replies that do not come.
type heartbeatWatch struct {
	frameWatch
	ping  func() []byte
	out   *outbox
	calls *calls
}

func newHeartbeatWatch(h *Heartbeat, frameTimeout time.Duration, out *outbox, calls *calls) *heartbeatWatch {
	s := liveness.Settings{FrameTimeout: frameTimeout}
	if h.Interval > 0 {
		s.Interval, s.Timeout, s.Pings = h.Interval, h.timeout(), h.Ping != nil
	}
	monitor := liveness.New(s, time.Now(), out.wire.HandedAt())
	return &heartbeatWatch{frameWatch: frameWatch{monitor}, ping: h.Ping, out: out, calls: calls}
}

// Next returns when Expired is to be called.
func (w *heartbeatWatch) Next() time.Time {
	reply := w.replyDue()
	due := w.monitor.Next()
	if due.IsZero() || !reply.IsZero() && reply.Before(due) {
		return reply
	}
	return due
}

// replyDue returns when a reply is overdue that is owed; zero: never, as things stand. While a
// frame is arriving, which may be that reply, FrameTimeout rules. One that is still not whole so long
// after the reply was due began later, and is none.
func (w *heartbeatWatch) replyDue() time.Time {
	due := w.askCalls()
	if due.IsZero() || !w.monitor.InFrame() || w.monitor.Next().IsZero() {
		return due
	}
	if limit := w.monitor.FrameTimeout(); limit > 0 {
		return due.Add(limit)
	}
	return time.Time{}
}

// askCalls returns when a reply is overdue, whatever is arriving, and tells the monitor whether the
// Heartbeat rests until then.
func (w *heartbeatWatch) askCalls() time.Time {
	due, rests := w.calls.replyDue()
	w.monitor.Rest(rests)
	return due
}

// Expired is called when a read has brought nothing by due.
func (w *heartbeatWatch) Expired(now, due time.Time) error {
	if reply := w.replyDue(); !reply.IsZero() && !now.Before(reply) {
		return w.calls.replyOverdue(now, due)
	}
	var outbound liveness.Outbound
	if w.monitor.Heartbeat() {
		outbound = w.out.outbound()
	}
	return w.do(w.monitor.Check(now, due, outbound))
}

func (w *heartbeatWatch) do(action liveness.Action) error {
	if action != liveness.SendPing {
		return endOf(action)
	}
	taken, err := w.out.writeControl(w.ping())
	if !taken {
		w.monitor.PingDropped()
	}
	return err
}

// whileFull is called while the reader waits for room in the Inbox. It pings a peer that might
// hang up because of our silence, and returns after which time it is to be called again; 0: there
// is nothing to do, as things stand. An error ends the connection.
func (w *heartbeatWatch) whileFull() (again time.Duration, err error) {
	w.askCalls()
	due := w.monitor.NextUnread()
	if due.IsZero() {
		return 0, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p) // in Ping, and there is a message in the reader's hands
		}
	}()
	now := time.Now()
	if !now.Before(due) {
		err = w.do(w.monitor.CheckUnread(now, w.out.outbound()))
	}
	return w.monitor.NextUnread().Sub(now), err
}

// pong notes that the last message was the answer to a ping.
func (w *heartbeatWatch) pong() (rtt time.Duration, ok bool) { return w.monitor.Pong() }
