package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// This library, with the settings of the zero Dialer and a context that can be cancelled
// in every call. Streams come in through Messages.
var oursContender = contender{
	name: "tcpclient",
	wire: "prefix",
	does: "pingpong in out both send call idle conns",
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
		return oursReceiver{o, func() ([]byte, error) { return o.Client.Receive(o.ctx) }}, err
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

// ours has the Client's own Send.
type ours struct {
	*tcpclient.Client
	ctx    context.Context
	cancel context.CancelFunc
	buf    []byte
}

func dialOurs(env *environment) (*ours, error) {
	var d tcpclient.Dialer
	if env.writes != nil {
		d.DialContext = func(context.Context, string, string) (net.Conn, error) { return env.conn() }
	}
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
	ctx, cancel := context.WithCancel(context.Background())
	c, err := d.Dial(ctx, "tcp", env.addr)
	if err != nil {
		cancel()
		return nil, err
	}
	return &ours{Client: c, ctx: ctx, cancel: cancel}, nil
}

func (o *ours) Call(request []byte) ([]byte, error) { return o.Client.Call(o.ctx, request) }

func (o *ours) Receive() (msg []byte, err error) {
	o.buf, err = o.ReceiveInto(o.ctx, o.buf)
	return o.buf, err
}

func (o *ours) In(n int) (bytes int, err error) {
	for msg, err := range o.Messages(o.ctx) {
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
		if err := o.Write(o.ctx, msg); err != nil {
			return err
		}
	}
	return o.Flush(o.ctx)
}

func (o *ours) Close() error {
	defer o.cancel()
	return o.Client.Close()
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
