package tcpclient

import (
	"sync/atomic"
	"time"
)

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
	LateReplies      uint64        // replies that came when no Call waited for them any more
	InFlight         int           // requests of Calls on this connection that have no reply yet, those that were given up included
	InboxBytes       int           // what Receive has not taken yet: each message its length + 64, as Dialer.Inbox counts
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
