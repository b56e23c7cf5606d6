package interop

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A cutter passes connections on to a server, and cuts each of them at a random place.
type cutter struct {
	address  string // for those who dial
	server   string
	listener net.Listener
	group    sync.WaitGroup

	mu     sync.Mutex // guards following
	random *rand.Rand
	cuts   int
}

// A cut is where and how a connection ends. What has come until then is passed on.
type cut struct {
	requests, replies int64         // after so many bytes of one of these
	reset             bool          // for both, else FIN for both
	after             time.Duration // with nothing read meanwhile
}

// startCutter runs a cutter in front of a server until the test ends. The connections last for some
// requests of that size.
func startCutter(t *testing.T, server string, size int) *cutter {
	t.Helper()
	narrow := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) (err error) {
		controlled := conn.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
		return errors.Join(err, controlled)
	}}
	l, err := narrow.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	seed := time.Now().UnixNano()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("cuts by seed %d", seed)
		}
	})
	c := &cutter{address: l.Addr().String(), server: server, listener: l, random: rand.New(rand.NewPCG(uint64(seed), 0))}
	c.group.Go(func() { c.accept(size) }) // until the listener is closed
	t.Cleanup(c.wait)
	return c
}

// wait accepts no more connections, and returns when all have ended on either side. The clients have
// to end theirs. Then the server has taken what it was given.
func (c *cutter) wait() {
	c.listener.Close()
	c.group.Wait()
}

func (c *cutter) accept(size int) {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		client := conn.(*net.TCPConn)
		server, err := net.Dial("tcp", c.server)
		if err != nil {
			client.Close()
			continue
		}
		ends := c.plan(size)
		c.group.Go(func() { c.pass(client, server.(*net.TCPConn), ends) }) // until both have ended
	}
}

// plan chooses the end of a connection.
func (c *cutter) plan(size int) cut {
	c.mu.Lock()
	defer c.mu.Unlock()
	ends := cut{
		requests: 1 + c.random.Int64N(int64(100*size)),
		replies:  math.MaxInt64,
		reset:    c.random.IntN(2) == 0,
		after:    time.Duration(c.random.IntN(4)) * time.Millisecond,
	}
	if c.random.IntN(2) == 0 {
		ends.replies = 1 + c.random.Int64N(1000)
	}
	return ends
}

func (c *cutter) pass(client, server *net.TCPConn, ends cut) {
	defer client.Close()
	defer server.Close()
	var directions sync.WaitGroup
	cutBoth := sync.OnceFunc(func() { c.cut(client, server, ends) })
	directions.Go(func() { passUntil(server, client, ends.requests, cutBoth) })
	directions.Go(func() { passUntil(client, server, ends.replies, cutBoth) })
	directions.Wait()
}

// passUntil copies so many bytes, and drops the rest.
func passUntil(dst, src *net.TCPConn, limit int64, over func()) {
	if _, err := io.CopyN(dst, src, limit); err == nil {
		over()
	}
	dst.CloseWrite()
	src.SetReadDeadline(time.Now().Add(patience)) // for a server that does not hang up
	io.Copy(io.Discard, src)
}

func (c *cutter) cut(client, server *net.TCPConn, ends cut) {
	c.mu.Lock()
	c.cuts++
	c.mu.Unlock()
	<-time.After(ends.after) // requests gather at the client
	if ends.reset {
		for _, conn := range []*net.TCPConn{client, server} {
			conn.SetLinger(0)
			conn.Close()
		}
		return
	}
	client.CloseWrite()
	server.CloseWrite()
}

// numberOfCuts is how many connections were cut, and did not end before.
func (c *cutter) numberOfCuts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cuts
}
