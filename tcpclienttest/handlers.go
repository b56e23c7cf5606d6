package tcpclienttest

import "sync/atomic"

// Echo is a [Handler] that sends every message back, until the client has closed the
// connection or its writing side. Messages that arrive together go back together.
func Echo(conn *Conn) {
	// Echo holds the lock from one read of the connection to the next, not for each
	// message. While source reads, it flushes and releases the lock.
	conn.acquire()
	conn.holding = true
	defer func() {
		conn.holding = false
		conn.release()
	}()
	for msg := range conn.Messages() {
		if conn.framer.WriteFrame(conn.out, msg) != nil {
			return
		}
	}
}

// Discard is a [Handler] that receives and never answers, until the client has closed
// the connection or its writing side: a hung process whose TCP still answers.
func Discard(conn *Conn) {
	for range conn.Messages() {
	}
}

// Ignore is a [Handler] that does not even receive, until the server closes: what the
// client sends piles up until TCP takes no more.
func Ignore(conn *Conn) { <-conn.Context().Done() }

// Refuse returns a [Handler] that resets the first n connections at once, as a balancer without
// backends does, and has handler serve those that follow. With n 0 it refuses none.
//
// The dial of a refused connection may succeed: then its first read or write, its TLS handshake or
// its Handshake fails. The error is ECONNRESET or EPIPE.
func Refuse(n int, handler Handler) Handler {
	var accepted atomic.Int64
	return func(conn *Conn) {
		if accepted.Add(1) <= int64(n) {
			conn.Reset()
			return
		}
		handler(conn)
	}
}
