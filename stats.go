package tcpclient

import (
	"sync/atomic"
	"time"
)

// Stats are what [Client.Stats] returns: counters since Dial, over all connections.
type Stats struct {
	MessagesReceived uint64        // for Receive, and replies, late ones included; no pings and pongs
	BytesReceived    uint64        // of these messages, framing not counted
	MessagesSent     uint64        // handed to the network, pings included
	BytesSent        uint64        // of these messages, framing counted
	Flushes          uint64        // times that messages were handed to the network
	Connects         uint64        // connections made, handshakes included
	Connected        bool          // now
	RTT              time.Duration // of the last ping that was answered; 0: none yet
}

// counters are what Stats is made of, updated once for a batch.
type counters struct {
	messagesReceived, bytesReceived  atomic.Uint64
	messagesSent, bytesSent, flushes atomic.Uint64
	connects                         atomic.Uint64
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

func (c *counters) stats() Stats {
	return Stats{
		MessagesReceived: c.messagesReceived.Load(),
		BytesReceived:    c.bytesReceived.Load(),
		MessagesSent:     c.messagesSent.Load(),
		BytesSent:        c.bytesSent.Load(),
		Flushes:          c.flushes.Load(),
		Connects:         c.connects.Load(),
		RTT:              time.Duration(c.rtt.Load()),
	}
}
