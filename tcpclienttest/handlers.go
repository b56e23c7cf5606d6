package tcpclienttest

// Echo is a [Handler] that sends every message back, in batches when they come in
// batches, until the client has closed the connection or its writing side.
func Echo(conn *Conn) {
	// The lock is held from one read of the connection to the next, not for each
	// message; source flushes and gives it up while it reads.
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
// the connection or its writing side: a server that is alive for TCP and silent for
// everybody else.
func Discard(conn *Conn) {
	for range conn.Messages() {
	}
}

// Ignore is a [Handler] that does not even receive, until the server closes: what a
// client sends to it piles up until TCP takes no more.
func Ignore(conn *Conn) { <-conn.Context().Done() }
