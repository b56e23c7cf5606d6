package main

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// A mux is Call for contenders that have none, as one writes it by hand: an id in front
// of the request, a table of channels, and a goroutine that reads.
type mux struct {
	client

	mu      sync.Mutex // guards following
	last    uint64
	pending map[uint64]chan []byte
	err     error
}

// withCalls starts the reading goroutine, which ends when the client is closed.
func withCalls(c client) *mux {
	m := &mux{client: c, pending: make(map[uint64]chan []byte)}
	go m.read()
	return m
}

func (m *mux) Call(request []byte) ([]byte, error) {
	answer := make(chan []byte, 1)
	m.mu.Lock()
	m.last++
	id := m.last
	m.pending[id] = answer
	m.mu.Unlock()

	msg := make([]byte, 8, 8+len(request))
	binary.BigEndian.PutUint64(msg, id)
	if err := m.Send(always, append(msg, request...)); err != nil {
		return nil, err
	}
	reply, ok := <-answer
	if !ok {
		return nil, m.err
	}
	return reply, nil
}

// read hands replies to their callers until the connection is closed.
func (m *mux) read() {
	for {
		msg, err := m.Receive()
		if err == nil && len(msg) < 8 {
			err = fmt.Errorf("a reply of %d bytes", len(msg))
		}
		m.mu.Lock()
		if err != nil {
			m.err = err
			for _, answer := range m.pending {
				close(answer)
			}
			m.mu.Unlock()
			return
		}
		id := binary.BigEndian.Uint64(msg)
		answer := m.pending[id]
		delete(m.pending, id)
		m.mu.Unlock()
		answer <- append([]byte(nil), msg[8:]...)
	}
}
