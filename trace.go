package tcpclient

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A Trace watches a Client make and lose connections, and what has no other place to be told.
// Every field may be nil.
//
// The functions are called one at a time, in the order of the events, without a lock held.
// They run on a goroutine of their own, which exists while there are events: a slow
// function delays only the events after it. They may call the Client, Close included.
// Close waits for them, but no longer than its second; one that itself calls Close uses up
// that second. Data that they share with other goroutines needs a lock.
//
// At most 1024 events wait for a function that blocks, besides the Disconnected of one of them, and
// late replies of at most 1 MiB together, or a single larger one. What comes then is dropped, and
// counted in [Stats].TraceDropped.
//
// Exactly one Disconnected follows each Connected: of the two, both are dropped or none.
type Trace struct {
	// Connecting reports that the Client tries address. All addresses of one round have
	// the same attempt number. It starts at 1, and again after a connection that lasted
	// (see [Backoff]).
	Connecting func(address string, attempt int)

	// Connected reports that the connection is ready for messages, TLS and Handshake
	// included.
	Connected func(address string, attempt int, took time.Duration)

	// ConnectFailed reports that it is not. err is an [*OpError] with Op "dial" or
	// "handshake".
	ConnectFailed func(address string, attempt int, err error)

	// Disconnected reports the end of the connection. err is ErrClosed after our own Close
	// or Shutdown, else it Is ErrDisconnected and Is its cause.
	Disconnected func(address string, err error)

	// Waiting reports that the next attempt, with this number, begins after delay.
	Waiting func(attempt int, delay time.Duration)

	// Pong reports that a ping was answered after rtt.
	Pong func(rtt time.Duration)

	// LateReply reports a reply that came when no Call waited for it any more: its caller
	// had given up, or a request with an id had been answered before. reply is what SplitReply
	// has returned, or the message if replies come in order. It is a copy, which the function
	// may keep.
	LateReply func(reply []byte)
}

// SlogTrace returns a Trace that logs to l: failures and losses at level Warn, connections
// made, waits, late replies and our own Close at Info, attempts and pongs at Debug. The
// attributes are "address", "attempt", "took", "delay", "rtt", "error" and "bytes", the length
// of a late reply, whose content is not logged.
func SlogTrace(l *slog.Logger) *Trace {
	log := func(level slog.Level, msg string, attrs ...slog.Attr) {
		l.LogAttrs(context.Background(), level, msg, attrs...)
	}
	return &Trace{
		Connecting: func(address string, attempt int) {
			log(slog.LevelDebug, "connecting", slog.String("address", address), slog.Int("attempt", attempt))
		},
		Connected: func(address string, attempt int, took time.Duration) {
			log(slog.LevelInfo, "connected", slog.String("address", address), slog.Int("attempt", attempt), slog.Duration("took", took))
		},
		ConnectFailed: func(address string, attempt int, err error) {
			log(slog.LevelWarn, "connect failed", slog.String("address", address), slog.Int("attempt", attempt), slog.Any("error", err))
		},
		Disconnected: func(address string, err error) {
			level := slog.LevelWarn
			if err == ErrClosed {
				level = slog.LevelInfo
			}
			log(level, "disconnected", slog.String("address", address), slog.Any("error", err))
		},
		Waiting: func(attempt int, delay time.Duration) {
			log(slog.LevelInfo, "waiting to reconnect", slog.Int("attempt", attempt), slog.Duration("delay", delay))
		},
		Pong: func(rtt time.Duration) {
			log(slog.LevelDebug, "pong", slog.Duration("rtt", rtt))
		},
		LateReply: func(reply []byte) {
			log(slog.LevelInfo, "late reply", slog.Int("bytes", len(reply)))
		},
	}
}

const (
	// maxEvents is how many events wait for a function that blocks.
	maxEvents = 1024

	// maxLate is how many bytes of late replies wait with them; one reply always may.
	maxLate = 1 << 20
)

// A tracer calls the functions of a Trace.
//
// It owns one goroutine, deliver, which exists while there are events.
type tracer struct {
	to      *Trace        // nil: no Trace is set
	dropped atomic.Uint64 // events

	mu        sync.Mutex    // guards following
	queue     []func()      // events not yet delivered, in order: maxEvents, and a Disconnected
	late      int           // bytes of late replies among them
	reported  bool          // the last Connected is not dropped, and so its Disconnected is not
	delivered chan struct{} // closed when deliver has ended; nil: it does not run
}

// untraced is the tracer of all Clients without a Trace.
var untraced tracer

func newTracer(to *Trace) *tracer {
	if to == nil {
		return &untraced
	}
	return &tracer{to: to}
}

func (t *tracer) connecting(address string, attempt int) {
	if t.to != nil && t.to.Connecting != nil {
		t.post(func() { t.to.Connecting(address, attempt) })
	}
}

func (t *tracer) connected(address string, attempt int, took time.Duration) {
	if t.to == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reported = len(t.queue) < maxEvents
	if t.to.Connected != nil {
		t.postLocked(func() { t.to.Connected(address, attempt, took) }, t.reported)
	}
}

func (t *tracer) connectFailed(address string, attempt int, err error) {
	if t.to != nil && t.to.ConnectFailed != nil {
		t.post(func() { t.to.ConnectFailed(address, attempt, err) })
	}
}

func (t *tracer) disconnected(address string, err error) {
	if t.to != nil && t.to.Disconnected != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.postLocked(func() { t.to.Disconnected(address, err) }, t.reported)
	}
}

func (t *tracer) waiting(attempt int, delay time.Duration) {
	if t.to != nil && t.to.Waiting != nil {
		t.post(func() { t.to.Waiting(attempt, delay) })
	}
}

func (t *tracer) pong(rtt time.Duration) {
	if t.to != nil && t.to.Pong != nil {
		t.post(func() { t.to.Pong(rtt) })
	}
}

// lateReply copies reply. Of those that wait to be told only so many bytes are kept.
func (t *tracer) lateReply(reply []byte) {
	if t.to == nil || t.to.LateReply == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	size := len(reply)
	room := len(t.queue) < maxEvents && (t.late == 0 || t.late+size <= maxLate)
	if room {
		t.late += size
		reply = append([]byte{}, reply...)
	}
	t.postLocked(func() {
		defer t.toldLate(size)
		t.to.LateReply(reply)
	}, room)
}

// toldLate notes that a late reply of that size waits no more.
func (t *tracer) toldLate(size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.late -= size
}

// post appends an event to the queue, unless that is full.
func (t *tracer) post(event func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.postLocked(event, len(t.queue) < maxEvents)
}

// postLocked appends an event to the queue, and starts deliver if need be. If there is no room
// for it, it is dropped.
func (t *tracer) postLocked(event func(), room bool) {
	if !room {
		t.dropped.Add(1)
		return
	}
	t.queue = append(t.queue, event)
	if t.delivered == nil {
		t.delivered = make(chan struct{})
		go t.deliver(t.delivered)
	}
}

// deliver calls the queued events until there are none, then closes delivered. If an event
// calls runtime.Goexit, as testing.T.FailNow does, a new goroutine continues.
func (t *tracer) deliver(delivered chan struct{}) {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.queue) > 0 {
			go t.deliver(delivered)
			return
		}
		t.queue, t.delivered = nil, nil
		close(delivered)
	}()
	for {
		t.mu.Lock()
		if len(t.queue) == 0 {
			t.mu.Unlock()
			return
		}
		event := t.queue[0]
		t.queue[0] = nil // its memory goes when it was called
		t.queue = t.queue[1:]
		t.mu.Unlock()
		event()
	}
}

// wait blocks until all events are delivered or late fires.
func (t *tracer) wait(late <-chan time.Time) {
	t.mu.Lock()
	delivered := t.delivered
	t.mu.Unlock()
	if delivered == nil {
		return
	}
	select {
	case <-delivered:
	case <-late:
	}
}

// Stats are the result of [Client.Stats]: counters since Dial, over all connections, and how
// things stand.
type Stats struct {
	MessagesReceived uint64        // messages for Receive and replies, late ones included; no pings or pongs
	BytesReceived    uint64        // bytes of these messages, without framing
	MessagesSent     uint64        // messages handed to the network, pings included
	BytesSent        uint64        // bytes of these messages, with framing
	Flushes          uint64        // times that messages were handed to the network
	Connects         uint64        // connections made, with their Handshakes
	Connected        bool          // there is a connection now
	RTT              time.Duration // round-trip time of the last ping that was answered; 0: none yet
	MessagesLost     uint64        // messages lost with their connection, as a LossError reports them
	LateReplies      uint64        // replies that came when no Call or loop over Replies waited for them any more
	InFlight         int           // requests of Calls on this connection that have no reply yet, those that were given up included
	InboxBytes       int           // what was neither received nor read by a loop over Replies yet: each message its length + 64, as Dialer.Inbox counts
	TraceDropped     uint64        // events that were not told: too many waited for a function of the Trace
}

// counters are the sources of Stats. They are updated once a batch.
type counters struct {
	messagesReceived, bytesReceived  atomic.Uint64
	messagesSent, bytesSent, flushes atomic.Uint64
	connects, messagesLost           atomic.Uint64
	lateReplies                      atomic.Uint64
	rtt                              atomic.Int64
}

func (c *counters) received(messages, bytes int) {
	c.messagesReceived.Add(uint64(messages))
	c.bytesReceived.Add(uint64(bytes))
}

func (c *counters) sent(messages, bytes int) {
	c.messagesSent.Add(uint64(messages))
	c.bytesSent.Add(uint64(bytes))
	c.flushes.Add(1)
}

func (c *counters) lost(messages int) { c.messagesLost.Add(uint64(messages)) }

// stats returns the Stats, of which the arguments are what others know.
func (c *counters) stats(connected bool, inFlight, inboxBytes int, traceDropped uint64) Stats {
	return Stats{
		MessagesReceived: c.messagesReceived.Load(),
		BytesReceived:    c.bytesReceived.Load(),
		MessagesSent:     c.messagesSent.Load(),
		BytesSent:        c.bytesSent.Load(),
		Flushes:          c.flushes.Load(),
		Connects:         c.connects.Load(),
		RTT:              time.Duration(c.rtt.Load()),
		MessagesLost:     c.messagesLost.Load(),
		LateReplies:      c.lateReplies.Load(),
		Connected:        connected,
		InFlight:         inFlight,
		InboxBytes:       inboxBytes,
		TraceDropped:     traceDropped,
	}
}
