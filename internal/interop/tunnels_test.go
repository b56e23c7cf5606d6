package interop

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"
	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/xtaci/smux"
	"golang.org/x/net/proxy"
)

// tunnels are connections that are no sockets, as users get them from other modules.
var tunnels = []testkit.Transport{
	{Name: "yamux", Listen: listenYamux},
	{Name: "smux", Listen: listenSmux},
	{Name: "websocket", Listen: listenWebSocket},
	{Name: "socks5", Listen: listenSOCKS},
}

func tunnel(name string) testkit.Transport {
	for _, tr := range tunnels {
		if tr.Name == name {
			return tr
		}
	}
	panic("no tunnel " + name)
}

// Buffers of all sockets are small: what a test leaves stuck does not find room in them later, not
// even in the four of a proxy. A receiver's that is smaller makes TCP slow.
const (
	smallRead  = 64 << 10
	smallWrite = 16 << 10
)

// dialSmall makes the connection below a tunnel.
func dialSmall(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		shrink(conn)
	}
	return conn, err
}

func shrink(conn net.Conn) {
	tcp := conn.(*net.TCPConn)
	tcp.SetReadBuffer(smallRead)
	tcp.SetWriteBuffer(smallWrite)
}

// A dialFunc is for the field of that name in the Dialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// listener returns a Listener on l, whose Clients come by dial.
func listener(l net.Listener, dial dialFunc) *testkit.Listener {
	return &testkit.Listener{Listener: l, Network: "tcp", Setup: func(d *tcpclient.Dialer) {
		if d.DialContext == nil {
			d.DialContext = dial
		}
	}}
}

// An accepter makes the peer's end of a tunnel of each connection that it accepts.
type accepter struct {
	net.Listener
	open func(tcp *net.TCPConn) (net.Conn, error)
}

func (a accepter) Accept() (net.Conn, error) {
	tcp, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	shrink(tcp)
	return a.open(tcp.(*net.TCPConn))
}

// closeLater closes sessions when the test ends.
func closeLater(t testing.TB, session io.Closer) { t.Cleanup(func() { session.Close() }) }

// A meeting lets a peer begin when the client has its stream. The first frame of a stream may
// arrive before the client's OpenStream has returned, which then fails if the peer hangs up.
type meeting struct{ opened sync.Map }

// of returns what is closed when the client whose connection has that address has its stream.
func (m *meeting) of(client net.Addr) chan struct{} {
	opened, _ := m.opened.LoadOrStore(client.String(), make(chan struct{}))
	return opened.(chan struct{})
}

func listenYamux(t testing.TB) *testkit.Listener {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	var m meeting
	l := accepter{testkit.ListenTCP(t).Listener, func(tcp *net.TCPConn) (net.Conn, error) {
		session, err := yamux.Server(tcp, config)
		if err != nil {
			return nil, err
		}
		closeLater(t, session)
		stream, err := session.AcceptStream()
		if err != nil {
			return nil, err
		}
		<-m.of(tcp.RemoteAddr())
		// Close of a stream is a half-close.
		return newPeerEnd(stream, tcp, stream.Close, func() { stream.Close(); session.Close() }), nil
	}}
	return listener(l, func(ctx context.Context, network, address string) (net.Conn, error) {
		tcp, err := dialSmall(ctx, network, address)
		if err != nil {
			return nil, err
		}
		session, err := yamux.Client(tcp, config)
		if err != nil {
			return nil, err
		}
		closeLater(t, session)
		defer close(m.of(tcp.LocalAddr()))
		return session.OpenStream()
	})
}

func listenSmux(t testing.TB) *testkit.Listener {
	config := smux.DefaultConfig()
	config.Version = 2 // with flow control for each stream
	config.KeepAliveDisabled = true
	var m meeting
	l := accepter{testkit.ListenTCP(t).Listener, func(tcp *net.TCPConn) (net.Conn, error) {
		session, err := smux.Server(tcp, config)
		if err != nil {
			return nil, err
		}
		closeLater(t, session)
		stream, err := session.AcceptStream()
		if err != nil {
			return nil, err
		}
		<-m.of(tcp.RemoteAddr())
		return newPeerEnd(stream, tcp, stream.CloseWrite, func() { stream.Close(); session.Close() }), nil
	}}
	return listener(l, func(ctx context.Context, network, address string) (net.Conn, error) {
		tcp, err := dialSmall(ctx, network, address)
		if err != nil {
			return nil, err
		}
		session, err := smux.Client(tcp, config)
		if err != nil {
			return nil, err
		}
		closeLater(t, session)
		defer close(m.of(tcp.LocalAddr()))
		return session.OpenStream()
	})
}

// A queue is a Listener of connections that somebody else has accepted.
type queue struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func (q queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return q.Listener.Close()
}

type tcpKey struct{}

func listenWebSocket(t testing.TB) *testkit.Listener {
	l := testkit.ListenTCP(t).Listener
	q := queue{l, make(chan net.Conn), make(chan struct{}), new(sync.Once)}
	server := &http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			shrink(conn)
			return context.WithValue(ctx, tcpKey{}, conn)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			conn := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
			finish := func() error { return ws.Close(websocket.StatusNormalClosure, "") }
			end := newPeerEnd(conn, r.Context().Value(tcpKey{}).(*net.TCPConn), finish, func() {
				late := time.AfterFunc(200*time.Millisecond, func() { ws.CloseNow() })
				defer late.Stop()
				ws.Close(websocket.StatusNormalClosure, "")
			})
			select {
			case q.conns <- end:
			case <-q.closed:
				ws.CloseNow()
				end.Close() // with what it has read
			}
		}),
	}
	go server.Serve(l)
	t.Cleanup(func() { q.Close(); server.Close() })
	client := &http.Client{Transport: &http.Transport{DialContext: dialSmall, DisableKeepAlives: true}}
	return listener(q, func(ctx context.Context, _, address string) (net.Conn, error) {
		ws, _, err := websocket.Dial(ctx, "ws://"+address, &websocket.DialOptions{HTTPClient: client})
		if err != nil {
			return nil, err
		}
		return websocket.NetConn(context.Background(), ws, websocket.MessageBinary), nil
	})
}

func listenSOCKS(t testing.TB) *testkit.Listener {
	server := startSOCKS(t)
	l := accepter{testkit.ListenTCP(t).Listener, func(tcp *net.TCPConn) (net.Conn, error) { return tcp, nil }}
	return listener(l, func(ctx context.Context, network, address string) (net.Conn, error) {
		d, err := proxy.SOCKS5(network, server, nil, smallDialer{})
		if err != nil {
			return nil, err
		}
		return d.(proxy.ContextDialer).DialContext(ctx, network, address)
	})
}

// A smallDialer makes the connections to the proxy.
type smallDialer struct{}

func (smallDialer) Dial(network, address string) (net.Conn, error) {
	return dialSmall(context.Background(), network, address)
}

func (smallDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return dialSmall(ctx, network, address)
}

// A peerEnd is the peer's end of a tunnel. It has what testkit.Peer needs: deadlines for Read,
// half-close, a reset.
type peerEnd struct {
	net.Conn
	tcp    *net.TCPConn // below all
	finish func() error // half-closes
	hangUp func()       // closes

	chunks chan chunk // from the goroutine that reads
	rest   []byte
	err    error

	once   sync.Once
	closed chan struct{}

	mu       sync.Mutex // guards following
	deadline time.Time
	reset    bool
}

// A chunk is what one Read has returned.
type chunk struct {
	p   []byte
	err error
}

func newPeerEnd(conn net.Conn, tcp *net.TCPConn, finish func() error, hangUp func()) *peerEnd {
	e := &peerEnd{Conn: conn, tcp: tcp, finish: finish, hangUp: hangUp, chunks: make(chan chunk), closed: make(chan struct{})}
	go e.pump()
	return e
}

// pump reads until the connection has ended.
func (e *peerEnd) pump() {
	for {
		p := make([]byte, 16<<10)
		n, err := e.Conn.Read(p)
		if errors.Is(err, io.EOF) {
			err = io.EOF // some add words to it
		}
		select {
		case e.chunks <- chunk{p[:n], err}:
		case <-e.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

func (e *peerEnd) Read(p []byte) (int, error) {
	e.mu.Lock()
	deadline := e.deadline
	e.mu.Unlock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	if len(e.rest) == 0 && e.err == nil {
		select {
		case c := <-e.chunks:
			e.rest, e.err = c.p, c.err
		case <-late:
			return 0, os.ErrDeadlineExceeded // "i/o timeout"
		case <-e.closed:
			return 0, net.ErrClosed
		}
	}
	if len(e.rest) == 0 && e.err != nil {
		return 0, e.err
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *peerEnd) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deadline = t
	return nil
}

func (e *peerEnd) CloseWrite() error { return e.finish() }

// SetLinger makes Close a reset of the connection below.
func (e *peerEnd) SetLinger(sec int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reset = sec == 0
	return e.tcp.SetLinger(sec)
}

func (e *peerEnd) Close() error {
	e.once.Do(func() {
		close(e.closed)
		e.mu.Lock()
		reset := e.reset
		e.mu.Unlock()
		if reset {
			e.tcp.Close()
		}
		e.hangUp()
	})
	return nil
}

// startSOCKS runs a SOCKS5 proxy (RFC 1928) until the test ends, and returns its address.
func startSOCKS(t testing.TB) string {
	l := testkit.ListenTCP(t)
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	keep := func(conn net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, conn)
	}
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			keep(conn)
			serving.Go(func() {
				defer conn.Close()
				target, err := acceptSOCKS(conn)
				if err != nil {
					return
				}
				defer target.Close()
				keep(target)
				relay(conn.(*net.TCPConn), target.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return l.Addr().String()
}

// acceptSOCKS takes a request without authentication, and connects to where it wants to.
func acceptSOCKS(conn net.Conn) (target net.Conn, err error) {
	shrink(conn)
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil { // version, number of methods
		return nil, err
	}
	if _, err := io.ReadFull(conn, make([]byte, head[1])); err != nil {
		return nil, err
	}
	conn.Write([]byte{5, 0})
	request := make([]byte, 10) // version, CONNECT, 0, IPv4, address, port
	if _, err := io.ReadFull(conn, request); err != nil {
		return nil, err
	}
	if request[1] != 1 || request[3] != 1 {
		return nil, errors.ErrUnsupported
	}
	address := net.TCPAddr{IP: request[4:8], Port: int(request[8])<<8 | int(request[9])}
	target, err = dialSmall(context.Background(), "tcp", address.String())
	if err != nil {
		conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}) // connection refused
		return nil, err
	}
	conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return target, nil
}

// relay copies both ways, FIN and RST included, until both have ended.
func relay(a, b *net.TCPConn) {
	pass := func(to, from *net.TCPConn) {
		// A proxy of the kernel's (splice) would have room for more.
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 4<<10))
		if err == nil {
			to.CloseWrite()
			return
		}
		for _, conn := range []*net.TCPConn{a, b} {
			conn.SetLinger(0)
			conn.Close()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { pass(a, b) })
	wg.Go(func() { pass(b, a) })
	wg.Wait()
}
