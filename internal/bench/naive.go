package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// Naive is what most programs have: a mutex around write and Flush, a goroutine that reads
// and puts a fresh slice for every message into a channel.
var naiveContender = contender{
	name: "naive",
	wire: "prefix",
	does: "pingpong in out both send call work idle conns",
	less: "no contexts, no limits; an error is found by the next caller",
	dial: func(env *environment) (client, error) {
		conn, err := env.conn()
		if err != nil {
			return nil, err
		}
		n := &naive{
			conn:     conn,
			w:        bufio.NewWriter(conn),
			messages: make(chan []byte, 64),
			closed:   make(chan struct{}),
		}
		go n.read()
		if env.calls {
			return withCalls(n), nil
		}
		return n, nil
	},
}

type naive struct {
	conn     net.Conn
	messages chan []byte
	err      error // set before messages is closed
	closed   chan struct{}

	mu sync.Mutex // guards following
	w  *bufio.Writer
}

// read owns the reading side, until the connection is closed.
func (n *naive) read() {
	defer close(n.messages)
	r := bufio.NewReader(n.conn)
	for {
		var header [4]byte
		if _, n.err = io.ReadFull(r, header[:]); n.err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint32(header[:]))
		if _, n.err = io.ReadFull(r, msg); n.err != nil {
			return
		}
		select {
		case n.messages <- msg:
		case <-n.closed:
			n.err = net.ErrClosed
			return
		}
	}
}

func (n *naive) Send(_ context.Context, msg []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var header [4]byte
	binary.BigEndian.PutUint32(header[:], uint32(len(msg)))
	n.w.Write(header[:])
	n.w.Write(msg)
	return n.w.Flush()
}

func (n *naive) Receive() ([]byte, error) {
	msg, ok := <-n.messages
	if !ok {
		return nil, n.err
	}
	return msg, nil
}

func (n *naive) In(count int) (int, error)       { return receiveAll(n, count) }
func (n *naive) Out(msg []byte, count int) error { return sendAll(n, msg, count) }

func (n *naive) Close() error {
	close(n.closed)
	return n.conn.Close()
}

// receiveAll is In for who has no better way.
func receiveAll(c client, n int) (bytes int, err error) {
	for range n {
		msg, err := c.Receive()
		if err != nil {
			return bytes, err
		}
		bytes += len(msg)
	}
	return bytes, nil
}

// sendAll is Out for who has no better way.
func sendAll(c client, msg []byte, n int) error {
	for range n {
		if err := c.Send(always, msg); err != nil {
			return err
		}
	}
	return nil
}
