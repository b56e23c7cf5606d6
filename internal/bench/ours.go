package main

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
)

// This library, with the settings of the zero Dialer and a context that can be cancelled
// in every call. Streams come in through Messages.
var oursContender = contender{
	name: "tcpclient",
	wire: "prefix",
	does: "pingpong in out both send call work idle conns",
	dial: func(env *environment) (client, error) { return dialOurs(env) },
}

var oursInto = contender{
	name: "tcpclient ReceiveInto",
	wire: "prefix",
	does: "in",
	dial: func(env *environment) (client, error) {
		o, err := dialOurs(env)
		return oursReceiver{o, o.Receive}, err
	},
}

var oursReceive = contender{
	name: "tcpclient Receive",
	wire: "prefix",
	does: "in",
	dial: func(env *environment) (client, error) {
		o, err := dialOurs(env)
		return oursReceiver{o, func() ([]byte, error) { return o.Client.Receive(always) }}, err
	},
}

var oursHeartbeat = contender{
	name: "tcpclient +heartbeat",
	wire: "prefix",
	does: "idle",
	dial: func(env *environment) (client, error) {
		env.heartbeat = true
		return dialOurs(env)
	},
}

// A Session of one Client.
var oursSession = contender{
	name:  "tcpclient Session",
	wire:  "prefix",
	does:  "call",
	aside: true,
	dial: func(env *environment) (client, error) {
		o, err := dialOurs(env)
		if err != nil {
			return nil, err
		}
		s, err := o.Session()
		return oursCaller{o, func(request []byte) ([]byte, error) { return s.Call(always, request) }}, err
	},
}

// Requests that could have more replies than the one that they get.
var oursReplies = contender{
	name:  "tcpclient Replies",
	wire:  "prefix",
	does:  "call",
	aside: true,
	dial: func(env *environment) (client, error) {
		o, err := dialOursWith(env, tcpclient.Dialer{More: func([]byte) bool { return false }})
		return oursCaller{o, func(request []byte) (reply []byte, err error) {
			for reply, err = range o.Replies(always, request) {
			}
			return reply, err
		}}, err
	},
}

// Four connections to the one server, each of which echoes from its Handshake on.
var oursPool = contender{
	name:  "tcpclient pool of 4",
	wire:  "prefix",
	does:  "call",
	aside: true,
	dial: func(env *environment) (client, error) {
		o, err := dialOurs(env)
		if err != nil {
			return nil, err
		}
		d := tcpclient.Dialer{
			Correlator: tcpclient.IDPrefix{},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				return conn.Send(ctx, order{op: opEcho, count: math.MaxInt32}.encode())
			},
		}
		p, err := pool.Dial(always, &d, "tcp", 4, env.addr)
		return oursPooled{o, p}, err
	},
}

// ours has the Client's own Send.
type ours struct {
	*tcpclient.Client
	buf []byte
}

func dialOurs(env *environment) (*ours, error) { return dialOursWith(env, tcpclient.Dialer{}) }

func dialOursWith(env *environment, d tcpclient.Dialer) (*ours, error) {
	if env.calls {
		d.Correlator = tcpclient.IDPrefix{}
	}
	if env.heartbeat {
		d.Heartbeat = tcpclient.Heartbeat{
			Interval: time.Minute,
			Ping:     func() []byte { return []byte("ping") },
			IsPong:   func(msg []byte) bool { return string(msg) == "ping" },
		}
	}
	c, err := d.Dial(always, "tcp", env.addr)
	if err != nil {
		return nil, err
	}
	return &ours{Client: c}, nil
}

func (o *ours) Call(request []byte) ([]byte, error) { return o.Client.Call(always, request) }

func (o *ours) Receive() (msg []byte, err error) {
	o.buf, err = o.ReceiveInto(always, o.buf)
	return o.buf, err
}

func (o *ours) In(n int) (bytes int, err error) {
	for msg, err := range o.Messages(always) {
		if err != nil {
			return bytes, err
		}
		bytes += len(msg)
		if n--; n == 0 {
			return bytes, nil
		}
	}
	return bytes, errors.New("the loop over Messages has ended")
}

func (o *ours) Out(msg []byte, n int) error {
	for range n {
		if err := o.Write(always, msg); err != nil {
			return err
		}
	}
	return o.Flush(always)
}

// oursReceiver is another way to receive a stream.
type oursReceiver struct {
	*ours
	receive func() ([]byte, error)
}

func (o oursReceiver) Receive() ([]byte, error) { return o.receive() }

func (o oursReceiver) In(n int) (bytes int, err error) {
	for range n {
		msg, err := o.receive()
		if err != nil {
			return bytes, err
		}
		bytes += len(msg)
	}
	return bytes, nil
}

// oursCaller is another way to call.
type oursCaller struct {
	*ours
	call func(request []byte) ([]byte, error)
}

func (o oursCaller) Call(request []byte) ([]byte, error) { return o.call(request) }

// oursPooled calls through a Pool. It gives no orders: its server echoes.
type oursPooled struct {
	*ours
	pool *pool.Pool
}

func (o oursPooled) Begin(order) error { return nil }

func (o oursPooled) Acknowledged() error { return nil }

func (o oursPooled) Call(request []byte) ([]byte, error) { return o.pool.Call(always, request) }

func (o oursPooled) Close() error { return errors.Join(o.pool.Close(), o.ours.Close()) }
