package main

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/cloudwego/netpoll"
)

// netpoll has its own event loop and linked buffers, from which messages are read
// without a copy.
var netpollContender = contender{
	name:   "netpoll",
	module: "github.com/cloudwego/netpoll",
	wire:   "prefix",
	does:   "pingpong in out both send call work idle conns",
	less:   "no contexts; one goroutine may write, so that Send takes a mutex here (its mux.ShardQueue merges writes, and tells nobody whether they succeeded); not for Windows",
	sends:  true,
	dial: func(env *environment) (client, error) {
		conn, err := netpoll.DialConnection("tcp", env.addr, 10*time.Second)
		if err != nil {
			return nil, err
		}
		n := &netpollClient{conn: conn, r: conn.Reader(), w: conn.Writer()}
		if env.calls {
			return withCalls(n), nil
		}
		return n, nil
	},
}

type netpollClient struct {
	conn netpoll.Connection
	r    netpoll.Reader

	mu sync.Mutex // guards following
	w  netpoll.Writer
}

func (n *netpollClient) write(msg []byte) error {
	frame, err := n.w.Malloc(4 + len(msg))
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(frame, uint32(len(msg)))
	copy(frame[4:], msg)
	return nil
}

func (n *netpollClient) Send(_ context.Context, msg []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.write(msg); err != nil {
		return err
	}
	return n.w.Flush()
}

func (n *netpollClient) read() ([]byte, error) {
	header, err := n.r.Next(4)
	if err != nil {
		return nil, err
	}
	return n.r.Next(int(binary.BigEndian.Uint32(header)))
}

func (n *netpollClient) Receive() ([]byte, error) {
	if err := n.r.Release(); err != nil {
		return nil, err
	}
	return n.read()
}

// In gives memory back every 64 messages: to do so after each costs more.
func (n *netpollClient) In(count int) (bytes int, err error) {
	for i := range count {
		if i%64 == 0 || bytes/(i+1) > 1<<10 {
			if err := n.r.Release(); err != nil {
				return bytes, err
			}
		}
		msg, err := n.read()
		if err != nil {
			return bytes, err
		}
		bytes += len(msg)
	}
	return bytes, n.r.Release()
}

// Out flushes whenever a buffer's worth is written: netpoll keeps all until then.
func (n *netpollClient) Out(msg []byte, count int) error {
	for pending := 0; count > 0; count-- {
		if err := n.write(msg); err != nil {
			return err
		}
		if pending += 4 + len(msg); pending >= bufferSize {
			if err := n.w.Flush(); err != nil {
				return err
			}
			pending = 0
		}
	}
	return n.w.Flush()
}

func (n *netpollClient) Close() error { return n.conn.Close() }
