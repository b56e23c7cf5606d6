package tcpclienttest

import (
	"errors"
	"fmt"
	"io"
	"strconv"
)

// A Step is one exchange of a [Script]. Each field may be empty.
type Step struct {
	Expect string   // the next message of the client; "": none, the server begins
	Reply  []string // the messages that then go to the client, together
	Then   Handler  // is called next; in the last step it serves the connection from there on
}

// Script returns a [Handler] that has one dialogue with the client, step by step, on each
// connection from the beginning. After the last step it waits for the client to close its
// side.
//
// If the client sends anything else, or closes too soon, Script closes the connection, and
// [Server.Close] returns an error that says what was expected. So it does if the server closes
// while a message is expected. A connection that the server has cut, by CloseConnections, say, is
// no finding.
func Script(steps ...Step) Handler {
	return func(conn *Conn) {
		for i, step := range steps {
			if step.Expect != "" && !conn.expect(i, len(steps), step.Expect) {
				return
			}
			for _, msg := range step.Reply {
				if err := conn.Write([]byte(msg)); err != nil {
					conn.find(i, len(steps), fmt.Sprintf("cannot reply %s: %v", quote(msg), err))
					return
				}
			}
			conn.Flush() // if it fails, the client is gone, and that is seen on reading
			if step.Then != nil {
				step.Then(conn)
			}
		}
		if len(steps) > 0 && steps[len(steps)-1].Then != nil {
			return
		}
		if msg, err := conn.Receive(); err == nil {
			conn.find(len(steps), len(steps), "received "+quote(string(msg))+", expected no more")
		}
	}
}

// expect receives a message and reports whether it is that of step i of n.
func (c *Conn) expect(i, n int, want string) bool {
	msg, err := c.Receive()
	switch {
	case err == nil && string(msg) == want:
		return true
	case err == nil:
		c.find(i, n, "received "+quote(string(msg))+", expected "+quote(want))
	case errors.Is(err, io.EOF):
		c.find(i, n, "the client has closed, expected "+quote(want))
	default:
		c.find(i, n, err.Error()+", expected "+quote(want))
	}
	return false
}

// find reports what is not as step i of n has it, unless the server has cut the connection.
func (c *Conn) find(i, n int, what string) {
	if c.cut.Load() {
		return
	}
	step := fmt.Sprintf("step %d of %d", i+1, n)
	if i == n {
		step = "after the last step"
	}
	c.server.report(c.remote() + ": " + step + ": " + what)
}

// quote quotes a message, of a long one its beginning.
func quote(msg string) string {
	const most = 100
	if len(msg) > most {
		return strconv.Quote(msg[:most]) + fmt.Sprintf("... (%d bytes)", len(msg))
	}
	return strconv.Quote(msg)
}
