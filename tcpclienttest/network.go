package tcpclienttest

import (
	"context"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// backlog is how many dialed connections wait for Accept before a dial blocks, as on
// most kernels.
const backlog = 128

// A Network is a network in memory, for tests that need no kernel: its connections go
// through buffers of this process. It is safe in a bubble of package testing/synctest
// if its listeners and connections are made inside.
//
// The connections behave like TCP on Linux where a program can tell: a Write returns
// when its bytes are in the buffer and blocks when that is full, deadlines wake blocked
// calls, CloseWrite sends FIN, SetLinger(0) and Close send RST, and errors are a
// [*net.OpError] around ECONNREFUSED, ECONNRESET, EPIPE, [net.ErrClosed] or
// [os.ErrDeadlineExceeded]. What a peer wrote before it closed or reset the connection
// can still be read. Unlike TCP, Close sends FIN also when there was something left
// to read, and a Write to a peer that has closed fails at once.
//
// The zero value is ready to use. All methods may be called concurrently.
type Network struct {
	// Buffer is how many bytes fit into a connection, for each direction. 0: 64 KiB.
	// It must not be changed once a connection was made.
	Buffer int

	mu        sync.Mutex // guards following
	listeners map[string]*listener
	pipes     map[*pipe]struct{} // the open ones
	ports     int                // given out for port 0
	clients   int                // dialed so far, for their addresses
	healed    chan struct{}      // closed by Heal; nil: not partitioned
}

// NewNetwork returns a Network with the default settings.
func NewNetwork() *Network { return new(Network) }

// Listen announces address on the network: any text, usually "host:port". Port 0 stands
// for a free one, which the listener's Addr tells.
//
// It fails with EADDRINUSE while another listener has the address. 128 dialed connections wait for
// Accept, then DialContext blocks. Close resets those that still wait.
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

// DialContext connects to the listener at address, whatever the network's name. It has
// the signature of the field of [tcpclient.Dialer] and [net/http.Transport] that it is for.
//
// It blocks while the listener's queue is full or the network is partitioned, until ctx
// is done. Where nobody listens it fails with ECONNREFUSED.
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
			// The listener may have closed meanwhile, and have emptied its queue
			// before this.
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

// Partition cuts the network in two, as a pulled cable does: nobody is told. From now
// on nothing written arrives, no byte, no FIN and no RST; a Write blocks once the
// buffer is full, and DialContext blocks. What had arrived but was not yet read counts as on its way. Partition of a partitioned
// network does nothing.
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

// Heal ends a Partition. Everything that was on its way arrives, in order, as after
// TCP's retransmission.
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

// A listener is an address of a Network on which somebody listens.
type listener struct {
	network *Network
	addr    addr
	queue   chan *end // dialed, not yet accepted
	once    sync.Once
	closed  chan struct{}
}

// Accept returns the next connection dialed.
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

// Addr returns the address that was listened on.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) error(op string, err error) error {
	return &net.OpError{Op: op, Net: memory, Addr: l.addr, Err: err}
}
