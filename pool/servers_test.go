package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// A world is a network with servers that record each request that they execute.
type world struct {
	t       *testing.T
	network *tcpclienttest.Network // nil: loopback

	mu       sync.Mutex // guards following
	servers  map[string]*tcpclienttest.Server
	executed map[string][]string // by request: the addresses at which it was
	accepted map[string]int      // connections, by address
	work     func(address, request string)
}

// inWorld runs test in a bubble, on a network in memory.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.network = tcpclienttest.NewNetwork()
		test(t, w)
		w.stopAll()
	})
}

func newWorld(t *testing.T) *world {
	return &world{
		t:        t,
		servers:  make(map[string]*tcpclienttest.Server),
		executed: make(map[string][]string),
		accepted: make(map[string]int),
		work:     func(string, string) {},
	}
}

// dialer returns settings for this network. Replies come by id.
func (w *world) dialer() *tcpclient.Dialer {
	d := &tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}
	if w.network != nil {
		d.DialContext = w.network.DialContext
	}
	return d
}

// start starts a server at each address, which answers each request with its address.
func (w *world) start(addresses ...string) {
	w.t.Helper()
	for _, address := range addresses {
		w.serve(address, func(conn *tcpclienttest.Conn) { w.answer(address, conn) })
	}
}

// serve starts a server with that handler.
func (w *world) serve(address string, handler tcpclienttest.Handler) {
	w.t.Helper()
	listener, err := w.listen(address)
	require.NoError(w.t, err)
	w.serveOn(listener, handler)
}

// serveOn is serve on a listener that is there.
func (w *world) serveOn(listener net.Listener, handler tcpclienttest.Handler) {
	address := listener.Addr().String()
	server := tcpclienttest.NewServerOn(listener, nil, func(conn *tcpclienttest.Conn) {
		w.mu.Lock()
		w.accepted[address]++
		w.mu.Unlock()
		handler(conn)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[address] = server
}

func (w *world) listen(address string) (net.Listener, error) {
	if w.network == nil {
		return net.Listen("tcp", address)
	}
	return w.network.Listen(address)
}

func (w *world) server(address string) *tcpclienttest.Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[address]
}

// kill ends the connections of a server and the server.
func (w *world) kill(address string) {
	server := w.server(address)
	server.ResetConnections()
	server.Close()
}

func (w *world) stopAll() {
	w.mu.Lock()
	servers := w.servers
	w.servers = nil
	w.mu.Unlock()
	for _, server := range servers {
		server.Close()
	}
}

// answer executes requests, each on a goroutine of its own, and answers them.
func (w *world) answer(address string, conn *tcpclienttest.Conn) {
	var requests sync.WaitGroup
	defer requests.Wait()
	for msg := range conn.Messages() {
		id, body, _ := (tcpclient.IDPrefix{}).SplitReply(msg)
		request := string(body)
		w.execute(address, request)
		requests.Go(func() {
			w.work(address, request)
			reply, _ := tcpclient.IDPrefix{}.AppendRequest(nil, id, []byte(address))
			conn.Send(reply)
		})
	}
}

func (w *world) execute(address, request string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.executed[request] = append(w.executed[request], address)
}

// executedAt returns where request was executed.
func (w *world) executedAt(request string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.executed[request]
}

// connections returns how many connections each server has had.
func (w *world) connections(addresses ...string) (n []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, address := range addresses {
		n = append(n, w.accepted[address])
	}
	return n
}

// dial returns a Pool that the test closes before its servers.
func (w *world) dial(t *testing.T, d *tcpclient.Dialer, size int, addresses ...string) *pool.Pool {
	t.Helper()
	p, err := pool.Dial(t.Context(), d, "tcp", size, addresses...)
	require.NoError(t, err)
	return p
}

// connectedTo returns to which addresses the Clients are connected, "" for none.
func connectedTo(p *pool.Pool) (addresses []string) {
	for _, c := range p.Clients() {
		address := ""
		if c.Stats().Connected {
			address = c.RemoteAddr().String()
		}
		addresses = append(addresses, address)
	}
	return addresses
}

// call calls, and returns the address of the server that has answered.
func call(t *testing.T, p *pool.Pool, request string) string {
	t.Helper()
	reply, err := p.Call(t.Context(), []byte(request))
	require.NoError(t, err)
	return string(reply)
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// failing returns a DialContext that has the given errors for some addresses.
func (w *world) failing(errs map[string]error) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := errs[address]; err != nil {
			return nil, err
		}
		return w.network.DialContext(ctx, network, address)
	}
}

var errTurnedAway = errors.New("turned away")

// numbered returns request number i.
func numbered(i int) string { return fmt.Sprint("request ", i) }
