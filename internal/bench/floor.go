package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// bufferSize is the size of the read and write buffers of every contender that has one
// to choose: the default of tcpclient.
const bufferSize = 64 << 10

// The floor is what one writes by hand for one goroutine: a net.Conn and bufio, no locks,
// no contexts, no limit on what the peer may announce.
var floorContender = contender{
	name: floorName,
	wire: "prefix",
	does: "pingpong in out both send call work idle conns",
	less: "one goroutine, no contexts, no limits; at ×k, k messages per flush",
	dial: func(env *environment) (client, error) {
		conn, err := env.conn()
		if err != nil {
			return nil, err
		}
		return &floor{conn: conn}, nil
	},
}

// The floor a second time shows the noise: what differs from 1 there means nothing anywhere.
var floorAgain = contender{
	name:  floorName + " again",
	wire:  floorContender.wire,
	does:  floorContender.does,
	aside: true,
	dial:  floorContender.dial,
}

type floor struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	buf  []byte
}

// reader and writer make the buffers when they are needed, so that an idle floor costs
// what a bare net.Conn costs.

func (f *floor) reader() *bufio.Reader {
	if f.r == nil {
		f.r = bufio.NewReaderSize(f.conn, bufferSize)
	}
	return f.r
}

func (f *floor) writer() *bufio.Writer {
	if f.w == nil {
		f.w = bufio.NewWriterSize(f.conn, bufferSize)
	}
	return f.w
}

func (f *floor) write(w *bufio.Writer, msg []byte) error {
	// In the writer's own memory, where it does not escape to the heap.
	w.Write(binary.BigEndian.AppendUint32(w.AvailableBuffer(), uint32(len(msg))))
	_, err := w.Write(msg)
	return err
}

func (f *floor) Send(_ context.Context, msg []byte) error {
	w := f.writer()
	if err := f.write(w, msg); err != nil {
		return err
	}
	return w.Flush()
}

func (f *floor) Receive() ([]byte, error) { return f.read(f.reader()) }

// read returns a message in the reader's own memory if it fits, else in f.buf.
func (f *floor) read(r *bufio.Reader) ([]byte, error) {
	header, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(header))
	r.Discard(4)
	if n <= r.Size() {
		msg, err := r.Peek(n)
		r.Discard(len(msg))
		return msg, err
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	_, err = io.ReadFull(r, f.buf[:n])
	return f.buf[:n], err
}

func (f *floor) In(n int) (bytes int, err error) {
	r := f.reader()
	for range n {
		msg, err := f.read(r)
		if err != nil {
			return bytes, err
		}
		bytes += len(msg)
	}
	return bytes, nil
}

func (f *floor) Out(msg []byte, n int) error {
	w := f.writer()
	for range n {
		if err := f.write(w, msg); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (f *floor) SendBatch(msg []byte, k int) error { return f.Out(msg, k) }

func (f *floor) CallBatch(request []byte, k int) error {
	w := f.writer()
	for i := range k {
		header := binary.BigEndian.AppendUint32(w.AvailableBuffer(), uint32(8+len(request)))
		w.Write(binary.BigEndian.AppendUint64(header, uint64(i)))
		w.Write(request)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := f.In(k)
	return err
}

func (f *floor) Close() error { return f.conn.Close() }

// A lockedFloor is a floor that many goroutines may Send on: a mutex, a flush per message.
type lockedFloor struct {
	floor
	mu sync.Mutex // held during Send
}

func (f *lockedFloor) Send(ctx context.Context, msg []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.floor.Send(ctx, msg)
}

// Brief makes a round trip without buffers: an idle floor is a bare net.Conn.
func (f *floor) Brief() error {
	msg := make([]byte, 64)
	frames := lengthPrefix{}.appendFrame(nil, order{opEcho, len(msg), 1}.encode())
	frames = lengthPrefix{}.appendFrame(frames, msg)
	if _, err := f.conn.Write(frames); err != nil {
		return err
	}
	_, err := io.ReadFull(f.conn, make([]byte, 4+len(msg)))
	return err
}
