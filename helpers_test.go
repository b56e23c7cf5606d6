package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what has to happen. It only passes when
// something is wrong.
const patience = 20 * time.Second

// A transport is a kind of connection between a Client and its peer.
type transport struct {
	name   string
	secure bool // TLS
	real   bool // with sockets of the kernel
	listen func(t testing.TB) *listener
}

// transports are what all promises are tested on.
var transports = []transport{
	{name: "tcp", real: true, listen: listenTCP},
	{name: "tls", real: true, secure: true, listen: listenTLS},
	{name: "unix", real: true, listen: listenUnix},
	{name: "memory", listen: listenMemory},
}

// onTransports runs test once for each transport.
func onTransports(t *testing.T, test func(t *testing.T, tr transport)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { test(t, tr) })
	}
}

// atOnce runs test once for each transport, all at the same time: for tests that spend
// theirs waiting. They must not count what the process has.
func atOnce(t *testing.T, test func(t *testing.T, tr transport)) {
	onTransports(t, func(t *testing.T, tr transport) {
		t.Parallel()
		test(t, tr)
	})
}

// transportNamed returns one of the transports.
func transportNamed(name string) transport {
	for _, tr := range transports {
		if tr.name == name {
			return tr
		}
	}
	panic("no transport " + name)
}

// A listener waits for Clients, and knows how they get there.
type listener struct {
	net.Listener
	network string
	setup   func(d *tcpclient.Dialer) // makes d dial this listener
}

func listenTCP(t testing.TB) *listener { return listenOn(t, "tcp", "127.0.0.1:0") }

func listenUnix(t testing.TB) *listener {
	testkit.SkipUnderWine(t, "Unix sockets")
	// t.TempDir has long names, and a socket's must not exceed 108 bytes.
	return listenOn(t, "unix", filepath.Join(shortDir(t), "s"))
}

func listenOn(t testing.TB, network, address string) *listener {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return &listener{Listener: l, network: network, setup: func(*tcpclient.Dialer) {}}
}

func listenTLS(t testing.TB) *listener {
	l := listenTCP(t)
	secure(l)
	return l
}

// secure puts TLS on a listener.
func secure(l *listener) {
	server, client := tcpclienttest.NewTLSConfig()
	l.Listener = tls.NewListener(l.Listener, server)
	setup := l.setup
	l.setup = func(d *tcpclient.Dialer) {
		setup(d)
		if d.TLSConfig == nil {
			d.TLSConfig = client
			if _, _, err := net.SplitHostPort(l.Addr().String()); err != nil || l.network != "tcp" || d.DialContext != nil {
				d.TLSConfig = client.Clone()
				d.TLSConfig.ServerName = "localhost"
			}
		}
	}
}

func listenMemory(t testing.TB) *listener {
	return listenNetwork(t, tcpclienttest.NewNetwork())
}

// listenNetwork listens on a network in memory.
func listenNetwork(t testing.TB, n *tcpclienttest.Network) *listener {
	t.Helper()
	l, err := n.Listen("server:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return &listener{Listener: l, network: "tcp", setup: func(d *tcpclient.Dialer) {
		if d.DialContext == nil {
			d.DialContext = n.DialContext
		}
	}}
}

// dial makes a Client, which is closed with the test.
func (l *listener) dial(t testing.TB, d tcpclient.Dialer) *tcpclient.Client {
	t.Helper()
	c, err := l.tryDial(t.Context(), d)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (l *listener) tryDial(ctx context.Context, d tcpclient.Dialer) (*tcpclient.Client, error) {
	l.setup(&d)
	return d.Dial(ctx, l.network, l.Addr().String())
}

// accept returns the next connection, after the handshake of TLS.
func (l *listener) accept(t testing.TB) *peer {
	t.Helper()
	conn, err := l.Accept()
	require.NoError(t, err)
	if secure, ok := conn.(*tls.Conn); ok {
		require.NoError(t, secure.Handshake())
	}
	return newPeer(t, conn)
}

// connect makes a Client on a transport, and the other end of its connection.
func (tr transport) connect(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *peer) {
	t.Helper()
	return tr.listen(t).connect(t, d)
}

func (l *listener) connect(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *peer) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if secure, ok := conn.(*tls.Conn); ok && secure.Handshake() != nil {
			conn.Close()
			return
		}
		accepted <- conn
	}()
	c := l.dial(t, d)
	conn := <-accepted
	require.NotNil(t, conn, "the peer's side of the connection failed")
	return c, newPeer(t, conn)
}

// connectMemory makes a Client on a network in memory, for tests in a synctest bubble.
func connectMemory(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *peer) {
	t.Helper()
	return transportNamed("memory").connect(t, d)
}

// A peer is the other end of a Client's connection, and speaks LengthPrefix{}.
type peer struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	t.Cleanup(func() { hangUp(conn) })
	return &peer{Conn: conn, t: t, in: bufio.NewReader(conn)}
}

// frame is msg as LengthPrefix{} writes it.
func frame(msg string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
}

// frames are all messages as one stream.
func frames(msgs ...string) []byte {
	var b []byte
	for _, msg := range msgs {
		b = append(b, frame(msg)...)
	}
	return b
}

// send writes the messages in one piece.
func (p *peer) send(msgs ...string) { p.raw(frames(msgs...)) }

// raw writes bytes as they are.
func (p *peer) raw(b []byte) {
	p.t.Helper()
	_, err := p.Write(b)
	require.NoError(p.t, err)
}

// receive returns the next message.
func (p *peer) receive() string {
	p.t.Helper()
	msg, err := p.next()
	require.NoError(p.t, err)
	return msg
}

func (p *peer) next() (string, error) {
	msg, err := tcpclient.LengthPrefix{MaxSize: 1 << 30}.ReadFrame(p.in, nil)
	return string(msg), err
}

// all returns the messages until the end of the stream, and how that ends.
func (p *peer) all() (msgs []string, end error) {
	for {
		msg, err := p.next()
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, msg)
	}
}

// echo sends back what comes until the stream ends.
func (p *peer) echo() { io.Copy(p, p.in) }

// halfClose sends FIN, with TLS behind a close_notify, unless the client was faster.
func (p *peer) halfClose() {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		secure.CloseWrite()
	}
	bottom(p.Conn).(interface{ CloseWrite() error }).CloseWrite()
}

// finish sends the messages and FIN, as far as somebody takes them: for goroutines for
// which nobody waits.
func (p *peer) finish(msgs ...string) {
	p.Write(frames(msgs...))
	p.halfClose()
}

// reset sends RST, where there is such a thing.
func (p *peer) reset() {
	p.t.Helper()
	raw := bottom(p.Conn)
	if abrupt, ok := raw.(interface{ SetLinger(int) error }); ok {
		require.NoError(p.t, abrupt.SetLinger(0))
	}
	raw.Close()
}

// hangUp closes the raw connection.
func hangUp(conn net.Conn) { bottom(conn).Close() }

// bottom returns what is below TLS.
func bottom(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

// silence reports that the peer is sent nothing for a moment.
func (p *peer) requireSilence(d time.Duration) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(d))
	defer p.SetReadDeadline(time.Time{})
	b, err := p.in.Peek(1)
	require.ErrorContains(p.t, err, "timeout", "got %q", b)
}

// canceled returns a context that is done.
func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// within returns a context that is done after d.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until condition holds. Inside a synctest bubble, use synctest.Wait.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			require.FailNow(t, "waited in vain until "+what)
		}
		runtime.Gosched()
		time.Sleep(100 * time.Microsecond) // between looks, not to synchronise
	}
}

// prompt fails unless f returns soon, and then shows who does what.
func prompt(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(t, what+" did not return", stacks())
	}
}

// stacks are the stacks of all goroutines.
func stacks() string {
	for size := 64 << 10; ; size *= 4 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}

// start runs f on a goroutine and returns how to wait for its result.
func start[T any](t testing.TB, f func() T) (wait func() T) {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return func() T {
		t.Helper()
		select {
		case r := <-result:
			return r
		case <-time.After(patience):
			require.FailNow(t, "did not return", stacks())
			panic("unreachable")
		}
	}
}

// blocked waits until a goroutine is blocked with all of these functions on its stack.
// Only those count that the caller's goroutine has started, itself or through others:
// tests that run at the same time see nothing of each other.
func blocked(t testing.TB, functions ...string) {
	t.Helper()
	self := goroutineID(string(debug.Stack()))
	eventually(t, fmt.Sprintf("a goroutine is blocked in %q", functions), func() bool {
		all := strings.Split(stacks(), "\n\n")
		creator := make(map[string]string)
		for _, stack := range all {
			if at := strings.LastIndex(stack, " in goroutine "); at >= 0 {
				creator[goroutineID(stack)] = goroutineID(stack[at+len(" in "):])
			}
		}
		for _, stack := range all {
			if strings.Contains(stack, "[running]") || strings.Contains(stack, "[runnable]") {
				continue
			}
			ours := goroutineID(stack)
			for ours != "" && ours != self {
				ours = creator[ours]
			}
			if ours == self && !slices.ContainsFunc(functions, func(f string) bool { return !strings.Contains(stack, f) }) {
				return true
			}
		}
		return false
	})
}

// goroutineID returns the number of the goroutine with which a stack begins.
func goroutineID(stack string) string {
	fields := strings.Fields(stack)
	if len(fields) < 2 || fields[0] != "goroutine" {
		return ""
	}
	return fields[1]
}

// numbered returns n messages of the given size that begin with their number.
func numbered(n, size int) []string {
	msgs := make([]string, n)
	for i := range msgs {
		msgs[i] = fmt.Sprintf("%06d/", i)
		msgs[i] += strings.Repeat(string(rune('a'+i%26)), max(0, size-len(msgs[i])))
	}
	return msgs
}

// opError returns the OpError in err.
func opError(t testing.TB, err error) *tcpclient.OpError {
	t.Helper()
	var e *tcpclient.OpError
	require.ErrorAs(t, err, &e)
	return e
}

// receiveAll returns the messages until the error that ends them.
func receiveAll(t testing.TB, c *tcpclient.Client) (msgs []string, end error) {
	for {
		msg, err := c.Receive(t.Context())
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, string(msg))
	}
}

// requireAlive sends a message each way and wants them to arrive next.
func requireAlive(t testing.TB, c *tcpclient.Client, p *peer) {
	t.Helper()
	require.NoError(t, c.Send(t.Context(), []byte("there?")))
	require.Equal(t, "there?", p.receive())
	p.send("here")
	msg, err := c.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, "here", string(msg))
}

// A wrapper is a connection of which a test replaces what it wants.
type wrapper struct {
	net.Conn
	read       func(p []byte) (int, error)
	write      func(p []byte) (int, error)
	onClose    func()
	deadline   func() error // of all three SetDeadlines, if it returns an error
	mu         sync.Mutex   // guards following
	writeCalls int
	readCalls  int
}

func (w *wrapper) Read(p []byte) (int, error) {
	w.mu.Lock()
	w.readCalls++
	w.mu.Unlock()
	if w.read != nil {
		return w.read(p)
	}
	return w.Conn.Read(p)
}

func (w *wrapper) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.writeCalls++
	w.mu.Unlock()
	if w.write != nil {
		return w.write(p)
	}
	return w.Conn.Write(p)
}

func (w *wrapper) Close() error {
	if w.onClose != nil {
		w.onClose()
	}
	return w.Conn.Close()
}

func (w *wrapper) SetDeadline(t time.Time) error {
	if w.deadline != nil {
		return w.deadline()
	}
	return w.Conn.SetDeadline(t)
}

func (w *wrapper) SetReadDeadline(t time.Time) error {
	if w.deadline != nil {
		return w.deadline()
	}
	return w.Conn.SetReadDeadline(t)
}

func (w *wrapper) SetWriteDeadline(t time.Time) error {
	if w.deadline != nil {
		return w.deadline()
	}
	return w.Conn.SetWriteDeadline(t)
}

func (w *wrapper) writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writeCalls
}

func (w *wrapper) reads() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.readCalls
}

// wrapping returns a DialContext whose connections are wrapped.
func wrapping(dial func(ctx context.Context, network, address string) (net.Conn, error), wrap func(net.Conn) net.Conn) func(context.Context, string, string) (net.Conn, error) {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}
}

// connectWrapped connects in memory through a wrapper.
func connectWrapped(t testing.TB, d tcpclient.Dialer, prepare func(*wrapper)) (*tcpclient.Client, *peer, *wrapper) {
	t.Helper()
	n := tcpclienttest.NewNetwork()
	var w *wrapper
	d.DialContext = wrapping(n.DialContext, func(conn net.Conn) net.Conn {
		w = &wrapper{Conn: conn}
		if prepare != nil {
			prepare(w)
		}
		return w
	})
	c, p := listenNetwork(t, n).connect(t, d)
	return c, p, w
}

type (
	bufioReader = bufio.Reader
	bufioWriter = bufio.Writer
)

// A funcFramer is a Framer made of two functions. nil: as LengthPrefix{} does.
type funcFramer struct {
	read  func(r *bufioReader, dst []byte) ([]byte, error)
	write func(w *bufioWriter, msg []byte) error
}

func (f funcFramer) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	if f.read == nil {
		return tcpclient.LengthPrefix{}.ReadFrame(r, dst)
	}
	return f.read(r, dst)
}

func (f funcFramer) WriteFrame(w *bufio.Writer, msg []byte) error {
	if f.write == nil {
		return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
	}
	return f.write(w, msg)
}

// pattern returns n bytes that tell where they are.
func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz"), n/36+1)[:n]
}

// shortDir is t.TempDir with a short name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcp")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// libraryStacks are the stacks of the goroutines that the library has.
func libraryStacks() (own []string) {
	for _, stack := range strings.Split(stacks(), "\n\n") {
		if strings.Contains(stack, "/tcpclient.(") && !strings.Contains(stack, "/tcpclient_test.") {
			own = append(own, stack)
		}
	}
	return own
}

// goroutines counts those that the library has.
func goroutines() int { return len(libraryStacks()) }

// requireNoGoroutines fails unless the library's goroutines have ended, but for their
// last steps: those take as long as the processors are busy with others.
func requireNoGoroutines(t testing.TB) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		left := libraryStacks()
		if len(left) == 0 {
			return
		}
		limit := 50 * time.Millisecond
		for _, stack := range left { // one that has no processor keeps the others waiting
			if strings.Contains(stack, "[running") || strings.Contains(stack, "[runnable") {
				limit = patience
			}
		}
		require.Less(t, time.Since(began), limit, "P7: Close returns after the last goroutine\n%s", stacks())
	}
}

// CloseWrite passes on, where there is something to pass on to.
func (w *wrapper) CloseWrite() error {
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok && w.deadline == nil {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
