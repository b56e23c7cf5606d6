package main

import (
	"context"
	"net"
	"time"

	"github.com/nats-io/nats.go"
)

// nats.go with a nats-server: publish and flush, subscribe, request.
var natsContender = contender{
	name:   "nats.go",
	module: "github.com/nats-io/nats.go",
	wire:   "nats",
	does:   "pingpong in out send call idle",
	less:   "Publish queues and returns before anything is written; the server routes, which is work the others do not have",
	dial: func(env *environment) (client, error) {
		nc, err := nats.Connect("nats://"+env.addr, nats.SetCustomDialer(natsDialer{env}), nats.NoReconnect())
		if err != nil {
			return nil, err
		}
		n := &natsClient{nc: nc, in: make(chan struct{}, 1)}
		n.stream = nats.NewInbox()
		s, err := nc.Subscribe(n.stream, n.took)
		if err != nil {
			return nil, err
		}
		return n, s.SetPendingLimits(-1, -1)
	},
}

type natsDialer struct{ env *environment }

func (d natsDialer) Dial(_, _ string) (net.Conn, error) { return d.env.conn() }

type natsClient struct {
	nc     *nats.Conn
	inbox  string // for round trips: the client receives what it publishes there
	sub    *nats.Subscription
	stream string // for streams in
	in     chan struct{}

	// Owned by the subscription's goroutine during a stream.
	want, bytes int
}

func (n *natsClient) Begin(o order) error {
	if o.op != opSource {
		return nil // sending goes to a subject that nobody has subscribed to
	}
	n.want, n.bytes = o.count, 0
	return n.nc.PublishRequest("source", n.stream, o.encode())
}

func (n *natsClient) Acknowledged() error { return n.nc.Flush() }

func (n *natsClient) took(msg *nats.Msg) {
	n.bytes += len(msg.Data)
	if n.want--; n.want == 0 {
		n.in <- struct{}{}
	}
}

func (n *natsClient) Send(_ context.Context, msg []byte) error { return n.nc.Publish("sink", msg) }

// Brief is the PING and PONG of the protocol.
func (n *natsClient) Brief() error { return n.nc.Flush() }

// RoundTrip publishes to the client's own subscription.
func (n *natsClient) RoundTrip(msg []byte) (_ []byte, err error) {
	if n.sub == nil {
		n.inbox = nats.NewInbox()
		if n.sub, err = n.nc.SubscribeSync(n.inbox); err != nil {
			return nil, err
		}
	}
	if err := n.nc.Publish(n.inbox, msg); err != nil {
		return nil, err
	}
	return n.Receive()
}

func (n *natsClient) Receive() ([]byte, error) {
	m, err := n.sub.NextMsg(10 * time.Second)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (n *natsClient) In(int) (int, error) {
	<-n.in
	return n.bytes, nil
}

func (n *natsClient) Out(msg []byte, count int) error { return sendAll(n, msg, count) }

func (n *natsClient) Call(request []byte) ([]byte, error) {
	m, err := n.nc.Request("echo", request, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (n *natsClient) Close() error {
	n.nc.Close()
	return nil
}
