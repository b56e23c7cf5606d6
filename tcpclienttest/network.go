package tcpclienttest

import (
	"context"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// backlog is the number of dialed connections that wait for Accept before a dial blocks, as
// on most kernels.
const backlog = 128

// A Network is a network in memory, for tests that need no kernel. It works in a bubble of
// package testing/synctest if its listeners and connections are made inside.
//
// To a program the connections behave like TCP on Linux: a Write returns when its bytes are
// in the buffer and blocks while that is full, deadlines wake blocked calls, CloseWrite
// sends FIN, SetLinger(0) and Close send RST, and errors are a [*net.OpError] around
// ECONNREFUSED, ECONNRESET, EPIPE, [net.ErrClosed] or [os.ErrDeadlineExceeded]. What a peer
// wrote before it closed or reset the connection can still be read. Unlike TCP, Close sends
// FIN even if there is unread data, and a Write to a peer that has closed fails at once.
//
// The zero value is ready to use. All methods may be called concurrently.
type Network struct {
	// Buffer is the number of bytes that fit into a connection, in each direction. It must
	// not change after the first connection is made. 0: 64 KiB.
	Buffer int

	mu        sync.Mutex // guards following
	listeners map[string]*listener
	pipes     map[*pipe]struct{} // open connections
	ports     int                // the last number given out for port 0
	clients   int                // the last number in the address of a client
	healed    chan struct{}      // closed by Heal; nil: not partitioned
}

// NewNetwork returns a Network with the default settings.
func NewNetwork() *Network { return new(Network) }

// Listen listens on address: any text, usually "host:port". Port 0 stands for a free one,
// which the listener's Addr returns.
//
// It fails with EADDRINUSE while another listener has the address. Up to 128 dialed
// connections wait for Accept; then DialContext blocks. The listener's Close resets those
// that still wait.
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if host, port, err := net.SplitHostPort(address); err == nil && port == "0" {
		for ok := true; ok; _, ok = n.listeners[address] {
			n.ports++
			address = net.JoinHostPort(host, strconv.Itoa(n.ports))
		}
	}
	if n.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: memory, Addr: addr(address), Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{network: n, addr: addr(address), queue: make(chan *end, backlog), closed: make(chan struct{})}
	if n.listeners == nil {
		n.listeners = make(map[string]*listener)
	}
	n.listeners[address] = l
	return l, nil
}

// DialContext connects to the listener at address, whatever the name of the network. It is
// for the field of that name in [tcpclient.Dialer] and [net/http.Transport].
//
// It blocks while the listener's queue is full or the network is partitioned, until ctx
// is done. If there is no listener, it fails with ECONNREFUSED.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := n.dial(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: err}
	}
	return conn, nil
}

func (n *Network) dial(ctx context.Context, address string) (net.Conn, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n.mu.Lock()
		l, healed := n.listeners[address], n.healed
		if healed == nil {
			n.clients++
		}
		local := addr("client:" + strconv.Itoa(n.clients))
		n.mu.Unlock()
		switch {
		case healed != nil:
			select {
			case <-healed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case l == nil:
			return nil, errRefused
		}

		near, far := n.connect(local, l.addr)
		select {
		case l.queue <- far:
			// The listener may have closed and emptied its queue before this send.
			if l.isClosed() {
				l.drop()
			}
			return near, nil
		case <-l.closed:
			near.Close()
			far.Close()
			return nil, errRefused
		case <-ctx.Done():
			near.Close()
			far.Close()
			return nil, ctx.Err()
		}
	}
}

var errRefused = os.NewSyscallError("connect", syscall.ECONNREFUSED)

// connect returns the two ends of a new connection.
func (n *Network) connect(local, remote addr) (near, far *end) {
	size := n.Buffer
	if size <= 0 {
		size = 64 << 10
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := newPipe(size, local, remote)
	p.held = n.healed != nil
	p.closed = func() {
		n.mu.Lock()
		delete(n.pipes, p)
		n.mu.Unlock()
	}
	if n.pipes == nil {
		n.pipes = make(map[*pipe]struct{})
	}
	n.pipes[p] = struct{}{}
	return &p.near, &p.far
}

// Partition separates all clients from all listeners, without notice, as a pulled cable
// does. No byte, FIN or RST arrives any more, not even one that had arrived and was not yet
// read. A Write blocks when the buffer is full, and DialContext blocks. Partition does
// nothing to a partitioned network.
func (n *Network) Partition() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.healed != nil {
		return
	}
	n.healed = make(chan struct{})
	for p := range n.pipes {
		p.hold(true)
	}
}

// Heal ends a Partition. All that was held up arrives, in order, as after TCP's
// retransmission.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.healed == nil {
		return
	}
	close(n.healed)
	n.healed = nil
	for p := range n.pipes {
		p.hold(false)
	}
}

// memory is the name of the network in addresses and errors.
const memory = "memory"

// An addr is an address of a Network.
type addr string

func (addr) Network() string  { return memory }
func (a addr) String() string { return string(a) }

// A listener is a net.Listener of a Network.
type listener struct {
	network *Network
	addr    addr
	queue   chan *end // dialed, not yet accepted
	once    sync.Once
	closed  chan struct{}
}

// Accept blocks until a connection is dialed, and returns it.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.queue:
		if !l.isClosed() {
			return conn, nil
		}
		conn.reset()
	case <-l.closed:
	}
	return nil, l.error("accept", net.ErrClosed)
}

// Close frees the address and resets the connections that were not accepted.
func (l *listener) Close() error {
	err := l.error("close", net.ErrClosed)
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, string(l.addr))
		l.network.mu.Unlock()
		close(l.closed)
		l.drop()
		err = nil
	})
	return err
}

// drop resets the connections in the queue.
func (l *listener) drop() {
	for {
		select {
		case conn := <-l.queue:
			conn.reset()
		default:
			return
		}
	}
}

func (l *listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Addr returns the address of the listener, with the port that stands for port 0.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) error(op string, err error) error {
	return &net.OpError{Op: op, Net: memory, Addr: l.addr, Err: err}
}
