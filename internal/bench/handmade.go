package main

import (
	"context"
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Hand-made is group commit with nothing to it. What it takes beyond the floor is what
// goroutines pay for sharing a connection at all: a bound for whoever writes before it
// returns, rather than a peer.
var handmadeContender = contender{
	name: "hand-made",
	wire: "prefix",
	does: "send call work",
	less: "not a library but a bound: the least that lets goroutines share a system call, without contexts, limits or an orderly end",
	dial: func(env *environment) (client, error) {
		conn, err := env.conn()
		if err != nil {
			return nil, err
		}
		h := &handmade{floor: floor{conn: conn}, number: 1, waiting: make(map[uint64]*slot)}
		if env.calls {
			go h.answer()
		}
		return h, nil
	},
}

type handmade struct {
	floor
	written atomic.Uint64 // the number of the last batch that was

	mu      sync.Mutex // guards following
	open    []byte
	spare   []byte
	number  uint64 // of the open batch
	leading bool
	err     error
	last    uint64
	waiting map[uint64]*slot
	free    *slot
}

// A slot is one call.
type slot struct {
	answered chan []byte
	next     *slot
}

func (h *handmade) Send(_ context.Context, msg []byte) error {
	h.mu.Lock()
	if err := h.err; err != nil { // that of a batch before this
		h.mu.Unlock()
		return err
	}
	h.open = append(binary.BigEndian.AppendUint32(h.open, uint32(len(msg))), msg...)
	number := h.number
	if !h.leading {
		return h.lead()
	}
	h.mu.Unlock()
	for h.written.Load() < number {
		runtime.Gosched()
	}
	return nil
}

// lead writes until nothing is left. It releases the lock.
func (h *handmade) lead() error {
	h.leading = true
	for len(h.open) > 0 {
		h.mu.Unlock()
		runtime.Gosched() // so that others may join
		h.mu.Lock()
		batch, number := h.open, h.number
		h.open = h.spare[:0]
		h.number++
		h.mu.Unlock()
		_, err := h.conn.Write(batch)
		h.written.Store(number)
		h.mu.Lock()
		h.spare = batch
		if err != nil {
			h.err = err
			h.conn.Close() // ends answer, and with it the calls
		}
	}
	h.leading = false
	err := h.err
	h.mu.Unlock()
	return err
}

func (h *handmade) Call(request []byte) ([]byte, error) {
	h.mu.Lock()
	if err := h.err; err != nil { // and nobody answers any more
		h.mu.Unlock()
		return nil, err
	}
	s := h.free
	if s == nil {
		s = &slot{answered: make(chan []byte, 1)}
	} else {
		h.free = s.next
	}
	h.last++
	h.waiting[h.last] = s
	h.open = binary.BigEndian.AppendUint32(h.open, uint32(8+len(request)))
	h.open = append(binary.BigEndian.AppendUint64(h.open, h.last), request...)
	if h.leading {
		h.mu.Unlock()
	} else if err := h.lead(); err != nil {
		return nil, err
	}
	reply := <-s.answered
	if reply == nil {
		return nil, io.ErrUnexpectedEOF
	}
	h.mu.Lock()
	s.next = h.free
	h.free = s
	h.mu.Unlock()
	return reply, nil
}

// answer hands replies to their callers until the connection ends.
func (h *handmade) answer() {
	r := h.reader()
	for {
		msg, err := h.read(r)
		h.mu.Lock()
		if err != nil || len(msg) < 8 {
			h.err = io.ErrUnexpectedEOF
			for _, s := range h.waiting {
				s.answered <- nil
			}
			h.mu.Unlock()
			return
		}
		id := binary.BigEndian.Uint64(msg)
		s := h.waiting[id]
		delete(h.waiting, id)
		h.mu.Unlock()
		s.answered <- append(make([]byte, 0, len(msg)-8), msg[8:]...)
	}
}
