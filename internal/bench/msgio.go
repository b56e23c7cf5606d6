package main

import (
	"bufio"
	"context"
	"net"

	"github.com/libp2p/go-msgio"
)

// go-msgio frames a stream with a pooled buffer per message. It has no buffering of its
// own; it gets bufio beneath, as its users do.
var msgioContender = contender{
	name:   "go-msgio",
	module: "github.com/libp2p/go-msgio",
	wire:   "prefix",
	does:   "pingpong in out both send call work idle",
	less:   "no contexts; framing only: the connection and its buffer, 64 KiB here, are the user's",
	dial: func(env *environment) (client, error) {
		conn, err := env.conn()
		if err != nil {
			return nil, err
		}
		m := &msgioClient{conn: conn, send: msgio.NewWriter(conn)}
		if env.calls {
			m.r = msgio.NewReader(bufio.NewReaderSize(conn, bufferSize))
			return withCalls(m), nil
		}
		return m, nil
	},
}

type msgioClient struct {
	conn net.Conn
	r    msgio.Reader
	send msgio.Writer // straight to the connection: one system call per message
	last []byte
}

func (m *msgioClient) Send(_ context.Context, msg []byte) error { return m.send.WriteMsg(msg) }

func (m *msgioClient) Receive() (msg []byte, err error) {
	if m.r == nil {
		m.r = msgio.NewReader(bufio.NewReaderSize(m.conn, bufferSize))
	}
	if m.last != nil {
		m.r.ReleaseMsg(m.last)
	}
	m.last, err = m.r.ReadMsg()
	return m.last, err
}

func (m *msgioClient) In(n int) (int, error) { return receiveAll(m, n) }

func (m *msgioClient) Out(msg []byte, n int) error {
	w := bufio.NewWriterSize(m.conn, bufferSize)
	frames := msgio.NewWriter(w)
	for range n {
		if err := frames.WriteMsg(msg); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (m *msgioClient) Close() error { return m.conn.Close() }
