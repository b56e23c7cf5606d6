package main

import (
	"io"

	"github.com/hashicorp/yamux"
)

// yamux carries many streams on one connection, each with flow control. One stream of it
// is a net.Conn, on which the frames are written as the floor writes them.
var yamuxContender = contender{
	name:   "yamux",
	module: "github.com/hashicorp/yamux",
	wire:   "yamux",
	does:   "pingpong in out both send call idle",
	less:   "no contexts; one stream, frames by hand upon it; needs yamux at the server",
	heavy:  true,
	dial: func(env *environment) (client, error) {
		conn, err := env.conn()
		if err != nil {
			return nil, err
		}
		session, err := yamux.Client(conn, yamuxConfig())
		if err != nil {
			return nil, err
		}
		stream, err := session.OpenStream()
		if err != nil {
			return nil, err
		}
		y := &yamuxClient{lockedFloor{floor: floor{conn: stream}}, session}
		if env.calls {
			return withCalls(y), nil
		}
		return y, nil
	},
}

func yamuxConfig() *yamux.Config {
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	return config
}

type yamuxClient struct {
	lockedFloor
	session *yamux.Session
}

func (y *yamuxClient) Close() error { return y.session.Close() }
