package main

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/redis/rueidis"
)

// rueidis pipelines the commands of all goroutines on one connection to a redis-server,
// which is written in C and not in Go as the other servers are.
var rueidisContender = contender{
	name:   "rueidis",
	module: "github.com/redis/rueidis",
	wire:   "redis",
	does:   "pingpong call idle",
	less:   "Redis only; the server is a C program",
	heavy:  true,
	dial:   func(env *environment) (client, error) { return dialRueidis(env, 0) },
}

// With a flush delay rueidis trades the latency of a single call for fewer system calls.
var rueidisDelayed = contender{
	name:   "rueidis 20µs",
	module: "github.com/redis/rueidis",
	wire:   "redis",
	does:   "pingpong call",
	less:   "as rueidis; MaxFlushDelay 20 µs: each call may wait that long",
	heavy:  true,
	dial:   func(env *environment) (client, error) { return dialRueidis(env, 20*time.Microsecond) },
}

func dialRueidis(env *environment, delay time.Duration) (client, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{env.addr},
		ForceSingleClient: true,
		PipelineMultiplex: -1, // one connection, as for the others
		DisableCache:      true,
		MaxFlushDelay:     delay,
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			return env.conn()
		},
	})
	if err != nil {
		return nil, err
	}
	return &rueidisClient{c: c}, nil
}

type rueidisClient struct {
	callsOnly
	c rueidis.Client
}

func (r *rueidisClient) Call(request []byte) ([]byte, error) {
	return r.c.Do(always, r.c.B().Echo().Message(rueidis.BinaryString(request)).Build()).AsBytes()
}

func (r *rueidisClient) RoundTrip(msg []byte) ([]byte, error) { return r.Call(msg) }

func (r *rueidisClient) Close() error {
	r.c.Close()
	return nil
}
