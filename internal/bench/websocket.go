package main

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// coder/websocket brings messages, contexts and limits of its own.
var websocketContender = contender{
	name:   "websocket",
	module: "github.com/coder/websocket",
	wire:   "websocket",
	does:   "pingpong in out both send call idle",
	less:   "a context that ends takes the connection with it; masks what it sends; needs WebSocket at the server",
	dial: func(env *environment) (client, error) {
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return env.conn() }}
		conn, _, err := websocket.Dial(always, "ws://"+env.addr, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			return nil, err
		}
		conn.SetReadLimit(-1)
		w := &websocketClient{conn: conn}
		if env.calls {
			return withCalls(w), nil
		}
		return w, nil
	},
}

type websocketClient struct {
	conn *websocket.Conn
	buf  []byte
}

func (w *websocketClient) Send(ctx context.Context, msg []byte) error {
	return w.conn.Write(ctx, websocket.MessageBinary, msg)
}

func (w *websocketClient) Receive() ([]byte, error) {
	_, r, err := w.conn.Reader(always)
	if err != nil {
		return nil, err
	}
	w.buf = w.buf[:0]
	for {
		if len(w.buf) == cap(w.buf) {
			w.buf = append(w.buf, 0)[:len(w.buf)]
		}
		n, err := r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+n]
		if err == io.EOF {
			return w.buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (w *websocketClient) In(n int) (int, error)       { return receiveAll(w, n) }
func (w *websocketClient) Out(msg []byte, n int) error { return sendAll(w, msg, n) }

func (w *websocketClient) Close() error { return w.conn.CloseNow() }
