package main

import (
	"context"
	"net/rpc"
)

// net/rpc of the standard library: calls with gob.
var netrpcContender = contender{
	name: "net/rpc",
	wire: "netrpc",
	does: "pingpong call idle",
	less: "no contexts; calls only; gob at the server",
	dial: func(env *environment) (client, error) {
		conn, err := env.conn()
		if err != nil {
			return nil, err
		}
		return &netrpcClient{callsOnly{}, rpc.NewClient(conn)}, nil
	},
}

type netrpcClient struct {
	callsOnly
	c *rpc.Client
}

func (n *netrpcClient) Call(request []byte) (reply []byte, err error) {
	err = n.c.Call("Echo.Echo", request, &reply)
	return reply, err
}

func (n *netrpcClient) RoundTrip(msg []byte) ([]byte, error) { return n.Call(msg) }

func (n *netrpcClient) Close() error { return n.c.Close() }

// callsOnly is the part of client that who has only calls does without.
type callsOnly struct{}

func (callsOnly) Send(context.Context, []byte) error { return errUnfit }
func (callsOnly) Receive() ([]byte, error)           { return nil, errUnfit }
func (callsOnly) In(int) (int, error)                { return 0, errUnfit }
func (callsOnly) Out([]byte, int) error              { return errUnfit }
func (callsOnly) Begin(order) error                  { return nil }
func (callsOnly) Acknowledged() error                { return nil }
