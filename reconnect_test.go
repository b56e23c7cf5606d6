package tcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An event is what a Trace was told.
type event struct {
	at      time.Duration // since the recorder was made
	kind    string        // the name of the Trace's field
	address string
	attempt int
	delay   time.Duration // Waiting; Connected's took; Pong's rtt
	err     error
}

func (e event) String() string {
	return fmt.Sprintf("%v %s %s %d %v %v", e.at, e.kind, e.address, e.attempt, e.delay, e.err)
}

// A recorder keeps the events of one Client.
type recorder struct {
	start  time.Time
	mu     sync.Mutex // guards following
	events []event
}

func newRecorder() *recorder { return &recorder{start: time.Now()} }

func (r *recorder) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.at = time.Since(r.start)
	r.events = append(r.events, e)
}

func (r *recorder) trace() *tcpclient.Trace {
	return &tcpclient.Trace{
		Connecting: func(a string, n int) { r.add(event{kind: "Connecting", address: a, attempt: n}) },
		Connected: func(a string, n int, d time.Duration) {
			r.add(event{kind: "Connected", address: a, attempt: n, delay: d})
		},
		ConnectFailed: func(a string, n int, err error) {
			r.add(event{kind: "ConnectFailed", address: a, attempt: n, err: err})
		},
		Disconnected: func(a string, err error) { r.add(event{kind: "Disconnected", address: a, err: err}) },
		Waiting:      func(n int, d time.Duration) { r.add(event{kind: "Waiting", attempt: n, delay: d}) },
		Pong:         func(d time.Duration) { r.add(event{kind: "Pong", delay: d}) },
	}
}

func (r *recorder) all(kinds ...string) (events []event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if len(kinds) == 0 || slices.Contains(kinds, e.kind) {
			events = append(events, e)
		}
	}
	return events
}

// requireOrder wants the events to be a possible history of a Client with these addresses.
func (r *recorder) requireOrder(t testing.TB, addresses int) {
	t.Helper()
	state, tried := "start", 0
	events := r.all()
	for i, e := range events {
		next := map[string]string{"Connecting": "connecting", "Connected": "connected", "ConnectFailed": "failed", "Disconnected": "down", "Waiting": "waiting", "Pong": "connected"}[e.kind]
		allowed := map[string][]string{
			"Connecting":    {"start", "waiting", "failed"},
			"Connected":     {"connecting"},
			"ConnectFailed": {"connecting"},
			"Disconnected":  {"connected"},
			"Waiting":       {"failed", "down"},
			"Pong":          {"connected"},
		}[e.kind]
		if !slices.Contains(allowed, state) {
			require.Fail(t, "no possible history", "event %d: %v in state %s\n%v", i, e, state, events)
		}
		switch {
		case e.kind == "Connecting" && state == "failed":
			tried++
		case e.kind == "Connecting":
			tried = 1
		}
		if tried > addresses {
			require.Fail(t, "more addresses than there are", "event %d: %v", i, e)
		}
		state = next
	}
	require.Contains(t, []string{"down", "waiting", "failed", "start"}, state, "a Connected without its Disconnected")
}

var down = syscall.ECONNREFUSED

// accepting hands every connection of l to handle, on its own goroutine.
func (l *listener) each(handle func(conn net.Conn)) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
}

func TestReconnect(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		t.Run("goes on with the next connection, after one ErrDisconnected in its place", func(t *testing.T) { // P8
			l := tr.listen(t)
			rec := newRecorder()
			c, p := l.connect(t, tcpclient.Dialer{Reconnect: fast(), Trace: rec.trace()})
			for i := range 5 {
				p.send(fmt.Sprint("last words ", i))
				hangUp(p)
				p = l.accept(t)
				p.send(fmt.Sprint("first words ", i+1))
			}
			for i := range 5 {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint("last words ", i), string(msg))
				_, err = c.Receive(t.Context())
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
				require.Equal(t, "receive", opError(t, err).Op)
				msg, err = c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint("first words ", i+1), string(msg))
			}
			requireAlive(t, c, p)
			require.EqualValues(t, 6, c.Stats().Connects)
			require.NoError(t, c.Close())
			rec.requireOrder(t, 1)
			require.Len(t, rec.all("Connected"), 6)
			require.Len(t, rec.all("Disconnected"), 6)
			last := rec.all("Disconnected")[5].err
			require.True(t, last == tcpclient.ErrClosed, "our own Close: %v", last)
		})

		t.Run("Messages ends at each lost connection and can go on", func(t *testing.T) {
			l := tr.listen(t)
			c, p := l.connect(t, tcpclient.Dialer{Reconnect: fast()})
			for i := range 3 {
				p.send("a", "b")
				hangUp(p)
				if i < 2 {
					p = l.accept(t)
				}
			}
			for range 3 {
				var got []string
				for msg, err := range c.Messages(t.Context()) {
					if err != nil {
						require.ErrorIs(t, err, tcpclient.ErrDisconnected)
						continue
					}
					got = append(got, string(msg))
				}
				require.Equal(t, []string{"a", "b"}, got)
			}
		})
	})

	t.Run("off unless asked for", func(t *testing.T) { // P8
		l := listenTCP(t)
		c, p := l.connect(t, tcpclient.Dialer{})
		hangUp(p)
		for range 3 {
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorIs(t, err, io.EOF)
		}
		for _, err := range []error{c.Send(t.Context(), nil), c.Write(t.Context(), nil), c.Flush(t.Context())} {
			require.ErrorIs(t, err, io.EOF, "the first error is final for every method")
		}
		require.EqualValues(t, 1, c.Stats().Connects)
	})

	t.Run("the first attempt of Dial is the only one, unless FirstDial", inBubble(func(t *testing.T) { // P8
		n := tcpclienttest.NewNetwork()
		dials := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return n.DialContext(ctx, network, address)
		}}
		_, err := d.Dial(t.Context(), "tcp", "server:1")
		require.ErrorIs(t, err, down)
		require.Equal(t, 1, dials)

		d.Reconnect = &tcpclient.Backoff{FirstDial: true}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = d.Dial(ctx, "tcp", "server:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		require.Equal(t, "dial", opError(t, err).Op)
		require.Greater(t, dials, 5)

		d.Reconnect = &tcpclient.Backoff{FirstDial: true, MaxAttempts: 3}
		dials = 0
		_, err = d.Dial(t.Context(), "tcp", "server:1")
		require.ErrorIs(t, err, down)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Equal(t, 3, dials)

		d.Reconnect = &tcpclient.Backoff{FirstDial: true}
		var l *listener
		time.AfterFunc(time.Minute, func() { l = listenNetwork(t, n); assert.Equal(t, "server:1", l.Addr().String()) })
		c, err := d.Dial(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		requireAlive(t, c, l.accept(t))
		require.NoError(t, c.Close())
	}))

	t.Run("FirstDial: a cancelled Dial ends at once, in a wait or in an attempt", inBubble(func(t *testing.T) { // P8: cancellable
		n := tcpclienttest.NewNetwork()
		for _, partition := range []bool{false, true} {
			if partition {
				n.Partition() // every attempt hangs
			}
			for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Second, 11 * time.Second} {
				d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FirstDial: true}, DialContext: n.DialContext}
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				time.AfterFunc(after, cancel)
				_, err := d.Dial(ctx, "tcp", "server:1")
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, after, time.Since(start))
				synctest.Wait()
			}
		}
	}))

	t.Run("Dial's context is forgotten once it has returned", inBubble(func(t *testing.T) { // P2
		l := listenMemory(t)
		ctx, cancel := context.WithCancel(t.Context())
		wait := startDial(t, ctx, l, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		p := l.accept(t)
		c := wait()
		cancel()
		requireAlive(t, c, p)
		hangUp(p)
		p = l.accept(t)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		requireAlive(t, c, p)
	}))

	t.Run("a connection that lasted is followed by a first attempt, one that did not by a further one", inBubble(func(t *testing.T) { // P8
		l := listenMemory(t)
		rec := newRecorder()
		_, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.trace()})
		for _, lives := range []time.Duration{0, 0, 10*time.Second - 1, 0, 10 * time.Second, 0, time.Hour, 0} {
			time.Sleep(lives)
			hangUp(p)
			p = l.accept(t)
		}
		synctest.Wait()
		var attempts []int
		for _, e := range rec.all("Connected") {
			attempts = append(attempts, e.attempt)
		}
		require.Equal(t, []int{1, 2, 3, 4, 5, 1, 2, 1, 2}, attempts)
		row := 0
		for i, e := range rec.all("Waiting") {
			if row++; attempts[i+1] == 1 {
				row = 1
			}
			require.LessOrEqual(t, e.delay, 50*time.Millisecond<<row, "wait %d", i)
			require.Equal(t, attempts[i+1], e.attempt)
		}
	}))

	t.Run("neither a handshake nor a message makes a connection last", inBubble(func(t *testing.T) { // P8
		l := listenMemory(t)
		l.each(func(conn net.Conn) {
			conn.Write(frames("welcome", "too many connections"))
			conn.Close()
		})
		attempts := 0
		c := l.dial(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				attempts++
				msg, err := conn.Receive(ctx)
				if err == nil && string(msg) != "welcome" {
					err = errors.New("no welcome")
				}
				return err
			},
		})
		time.Sleep(10 * time.Minute)
		require.NoError(t, c.Close())
		require.Less(t, attempts, 100, "10 minutes at 15 s each, and the beginning")
		require.Greater(t, attempts, 15)
	}))

	t.Run("Send, Write, Flush and Call wait for the next connection", inBubble(func(t *testing.T) {
		for name, op := range map[string]func(c *tcpclient.Client) error{
			"send": func(c *tcpclient.Client) error { return c.Send(t.Context(), []byte("hello")) },
			"write": func(c *tcpclient.Client) error {
				return errors.Join(c.Write(t.Context(), []byte("hello")), c.Flush(t.Context()))
			},
			"call": func(c *tcpclient.Client) error { _, err := c.Call(t.Context(), []byte("hello")); return err },
		} {
			n := tcpclienttest.NewNetwork()
			l := listenNetwork(t, n)
			c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
			l.Close()
			hangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			done := make(chan error, 1)
			go func() { done <- op(c) }()
			time.Sleep(time.Hour)
			require.Empty(t, done, "%s does not wait", name)
			again, err := n.Listen(l.Addr().String())
			require.NoError(t, err)
			conn, err := again.Accept()
			require.NoError(t, err)
			p = newPeer(t, conn)
			require.Equal(t, "hello", p.receive())
			p.send("reply")
			require.NoError(t, <-done, name)
			require.NoError(t, c.Close())
			again.Close()
		}
	}))

	t.Run("a context ends the wait for a connection, Unsent", inBubble(func(t *testing.T) { // P2, P4
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		l.Close()
		hangUp(p)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		for name, op := range map[string]func(ctx context.Context) error{
			"send":    func(ctx context.Context) error { return c.Send(ctx, []byte("hello")) },
			"write":   func(ctx context.Context) error { return c.Write(ctx, []byte("hello")) },
			"flush":   c.Flush,
			"call":    func(ctx context.Context) error { _, err := c.Call(ctx, []byte("hello")); return err },
			"receive": func(ctx context.Context) error { _, err := c.Receive(ctx); return err },
		} {
			start := time.Now()
			err := op(within(t, time.Minute))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Minute, time.Since(start))
			require.Equal(t, name, opError(t, err).Op)
			require.Equal(t, name == "send" || name == "write" || name == "call", opError(t, err).Unsent, name)
			require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
		}
	}))

	t.Run("losses are merged once 16 wait, and hold nothing up", inBubble(func(t *testing.T) { // P8
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: time.Millisecond}})
		for range 100 {
			hangUp(p)
			p = l.accept(t)
		}
		p.send("here")
		synctest.Wait()
		losses := 0
		for {
			msg, err := c.Receive(t.Context())
			if err == nil {
				require.Equal(t, "here", string(msg))
				break
			}
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			losses++
		}
		require.Equal(t, 16, losses)
	}))

	t.Run("a permanent error ends the Client, behind the loss", inBubble(func(t *testing.T) { // P8, R14
		l := listenMemory(t)
		closed := errors.New("account closed")
		n := 0
		rec := newRecorder()
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.trace(), Handshake: func(context.Context, *tcpclient.Conn) error {
			if n++; n == 1 {
				return nil
			}
			return tcpclient.Permanent(closed)
		}})
		p.send("bye")
		hangUp(p)
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "bye", string(msg))
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		for range 3 {
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, closed)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		}
		for _, err := range []error{c.Send(t.Context(), nil), c.Write(t.Context(), nil), c.Flush(t.Context())} {
			require.ErrorIs(t, err, closed)
		}
		require.True(t, opError(t, c.Send(t.Context(), nil)).Unsent)
		require.NoError(t, c.Close())
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, closed, "the first error stays, also after Close")
		rec.requireOrder(t, 1)
		require.Equal(t, 2, n)
	}))

	t.Run("an inbound frame that is too large is a lost connection like others", inBubble(func(t *testing.T) {
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		p.raw([]byte("HTTP/1.1 503 Service Unavailable\r\n"))
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		var tooLarge *tcpclient.FrameTooLargeError
		require.ErrorAs(t, err, &tooLarge)
		requireAlive(t, c, l.accept(t))
	}))

	t.Run("a server that answers the handshake with something else is tried again", inBubble(func(t *testing.T) { // P8
		l := listenMemory(t)
		wait := startDial(t, t.Context(), l, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Handshake: login})
		p := l.accept(t)
		p.send("welcome")
		c := wait()
		hangUp(p)
		p = l.accept(t)
		p.raw([]byte("HTTP/1.1 503 Service Unavailable\r\n"))
		p = l.accept(t)
		p.send("welcome")
		require.Equal(t, "login", p.receive())
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		requireAlive(t, c, p)
	}))

	t.Run("an Inbox that is full stays bounded over many connections", inBubble(func(t *testing.T) { // P6
		l := listenMemory(t)
		const size = 1 << 20
		var received atomic.Int64
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: time.Millisecond}, Inbox: 1000})
		big := frame(strings.Repeat("x", size))
		flood := func(p *peer) {
			p.Write(big) // blocks until the client has read it, or reads no more
		}
		connections := 0
		for range 100 {
			wrote := make(chan struct{})
			go func() { defer close(wrote); flood(p) }()
			synctest.Wait()
			// Nobody receives. Only a failing write tells the client of the end.
			p.reset()
			<-wrote
			var err error
			for range 10 {
				if err = c.Send(t.Context(), []byte("x")); err != nil {
					break
				}
				synctest.Wait()
			}
			received.Store(int64(c.Stats().BytesReceived))
			accepted := make(chan *peer, 1)
			go func() {
				if conn, err := l.Accept(); err == nil {
					accepted <- newPeer(t, conn)
				}
			}()
			time.Sleep(3 * time.Second) // the last words of the peer have a second
			if len(accepted) == 0 {
				break // held up: that would be a bound as well
			}
			p = <-accepted
			connections++
		}
		require.LessOrEqual(t, received.Load(), int64(10*size), "%d connections: an Inbox of 1000 bytes holds what nobody receives", connections)
		require.NoError(t, c.Close())
		l.Close()
		synctest.Wait()
	}))
}

// fast is a Backoff for real time.
func fast() *tcpclient.Backoff {
	return &tcpclient.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond}
}

// login is a Handshake.
func login(ctx context.Context, conn *tcpclient.Conn) error {
	if err := conn.Send(ctx, []byte("login")); err != nil {
		return err
	}
	msg, err := conn.Receive(ctx)
	if err == nil && string(msg) != "welcome" {
		err = fmt.Errorf("refused: %s", msg)
	}
	return err
}

// What becomes of messages when their connection does not last.
func TestFateOverReconnects(t *testing.T) {
	t.Run("frames that die in the buffer are reported once, and not sent again", inBubble(func(t *testing.T) { // P4
		for name, report := range map[string]func(c *tcpclient.Client) error{
			"write":    func(c *tcpclient.Client) error { return c.Write(t.Context(), []byte("not taken")) },
			"flush":    func(c *tcpclient.Client) error { return c.Flush(t.Context()) },
			"send":     func(c *tcpclient.Client) error { return c.Send(t.Context(), []byte("not taken")) },
			"call":     func(c *tcpclient.Client) error { _, err := c.Call(t.Context(), []byte("not taken")); return err },
			"close":    func(c *tcpclient.Client) error { return c.Close() },
			"shutdown": func(c *tcpclient.Client) error { return c.Shutdown(t.Context()) },
		} {
			for _, moment := range []string{"at once", "while disconnected", "on the next connection", "three connections later"} {
				l := listenMemory(t)
				c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: time.Second}})
				for range 3 {
					require.NoError(t, c.Write(t.Context(), []byte("lost")))
				}
				hangUp(p)
				synctest.Wait()
				next := func() *peer { p := l.accept(t); synctest.Wait(); return p }
				switch moment {
				case "while disconnected":
					time.Sleep(time.Microsecond)
				case "on the next connection":
					p = next()
				case "three connections later":
					for range 3 {
						p = next()
						hangUp(p)
					}
					p = next()
				}
				connected := c.Stats().Connected
				if name == "shutdown" && connected {
					go func() { p.all(); hangUp(p) }()
				}
				err := report(c)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, "%s %s", name, moment)
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, name == "write" || name == "send" || name == "call", opError(t, err).Unsent, "%s %s", name, moment)
				if name == "close" || name == "shutdown" {
					require.NoError(t, c.Close())
				} else {
					if !connected {
						p = next()
					}
					require.NoError(t, c.Send(t.Context(), []byte("after")), "%s %s: reported once", name, moment)
					require.Equal(t, "after", p.receive(), "%s %s", name, moment)
					require.NoError(t, c.Close(), "%s %s: reported once", name, moment)
				}
				msgs, _ := p.all()
				require.Empty(t, msgs)
				hangUp(p)
			}
		}
	}))

	t.Run("a Flush that fails has told of the loss", inBubble(func(t *testing.T) { // P4
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, WriteTimeout: -1})
		require.NoError(t, c.Write(t.Context(), make([]byte, 1<<20)))
		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		require.NoError(t, c.Write(t.Context(), []byte("behind it")))
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		p.reset()
		for range 2 {
			err := <-flushed
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.False(t, opError(t, err).Unsent)
		}
		requireAliveAfterLoss(t, c, l.accept(t))
	}))

	t.Run("every Send learns its own fate, and nothing is sent twice", func(t *testing.T) { // P4
		l := listenTCP(t)
		var mu sync.Mutex
		seen := make(map[string]int)
		l.each(func(conn net.Conn) {
			p := newPeer(t, conn)
			for range 20 {
				msg, err := p.next()
				if err != nil {
					break
				}
				mu.Lock()
				seen[msg]++
				mu.Unlock()
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		})
		c := l.dial(t, tcpclient.Dialer{Reconnect: fast()})
		var wg sync.WaitGroup
		var ok, failed, unsent atomic.Int32
		for g := range 8 {
			wg.Go(func() {
				for i := 0; c.Stats().Connects < 100; i++ {
					msg := fmt.Sprintf("%d/%d", g, i)
					err := c.Send(t.Context(), []byte(msg))
					switch {
					case err == nil:
						ok.Add(1)
						continue
					case !errors.Is(err, tcpclient.ErrDisconnected):
						assert.NoError(t, err)
					}
					failed.Add(1)
					var e *tcpclient.OpError
					if assert.ErrorAs(t, err, &e); e.Unsent {
						unsent.Add(1)
						mu.Lock()
						if seen[msg] > 0 {
							t.Errorf("%s was seen, and is said to be Unsent", msg)
						}
						seen[msg] = -1000
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, c.Close())
		mu.Lock()
		defer mu.Unlock()
		for msg, n := range seen {
			if n != 1 && n != -1000 {
				t.Errorf("%s arrived %d times", msg, n)
			}
		}
		t.Logf("%d sent, %d failed, of these %d unsent, %d connections", ok.Load(), failed.Load(), unsent.Load(), c.Stats().Connects)
		require.Greater(t, failed.Load(), int32(50))
	})
}

// requireAliveAfterLoss is requireAlive, once Receive has told of the loss.
func requireAliveAfterLoss(t testing.TB, c *tcpclient.Client, p *peer) {
	t.Helper()
	_, err := c.Receive(t.Context())
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	requireAlive(t, c, p)
}

// countAttempts runs a Client against an address for some time and counts its attempts.
func countAttempts(t *testing.T, d tcpclient.Dialer, l *listener, span time.Duration) int {
	t.Helper()
	attempts := 0
	d.Trace = &tcpclient.Trace{Connecting: func(string, int) { attempts++ }}
	c := l.dial(t, d)
	time.Sleep(span)
	synctest.Wait()
	require.NoError(t, c.Close())
	return attempts
}

// reconnectFaults are the rows R, L and B of FAULTS.md that are about reconnecting.
var reconnectFaults = map[string]func(t *testing.T){
	"R1 server down for an hour": inBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := listenNetwork(t, n)
		rec := newRecorder()
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.trace()})
		time.Sleep(time.Minute)
		l.Close()
		hangUp(p)
		time.Sleep(time.Hour)
		synctest.Wait()
		waits := rec.all("Waiting")
		require.Greater(t, len(waits), 150)
		require.Less(t, len(waits), 400)
		ceiling, longest := 100*time.Millisecond, time.Duration(0)
		for i, e := range waits {
			require.Equal(t, i+1, e.attempt)
			require.GreaterOrEqual(t, e.delay, time.Duration(0))
			require.LessOrEqual(t, e.delay, ceiling, "attempt %d", e.attempt)
			longest = max(longest, e.delay)
			ceiling = min(2*ceiling, 30*time.Second)
		}
		require.Greater(t, longest, 25*time.Second, "the cap is reached")
		for i, e := range rec.all("Connecting")[1:] {
			require.Equal(t, waits[i].at+waits[i].delay, e.at, "the attempt comes when Waiting said")
			require.Equal(t, waits[i].attempt, e.attempt)
		}
		again, err := n.Listen(l.Addr().String())
		require.NoError(t, err)
		defer again.Close()
		conn, err := again.Accept()
		require.NoError(t, err)
		requireAliveAfterLoss(t, c, newPeer(t, conn))
		require.NoError(t, c.Close())
		rec.requireOrder(t, 1)
	}),

	"R2 flapping server": inBubble(func(t *testing.T) {
		var counts []int
		for range 100 {
			l := listenMemory(t)
			l.each(func(conn net.Conn) { conn.Close() })
			n := countAttempts(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l, 10*time.Second)
			require.LessOrEqual(t, n, 20)
			counts = append(counts, n)
			l.Close()
		}
		slices.Sort(counts)
		require.LessOrEqual(t, counts[50], 10, "median of %v", counts)
		require.GreaterOrEqual(t, counts[50], 5, "median of %v", counts)

		// The same with a welcome, and with a reset.
		for name, handle := range map[string]func(conn net.Conn){
			"welcome": func(conn net.Conn) { conn.Write(frame("welcome")); conn.Close() },
			"reset":   func(conn net.Conn) { conn.(interface{ SetLinger(int) error }).SetLinger(0); conn.Close() },
			"9 s":     func(conn net.Conn) { time.Sleep(9 * time.Second); conn.Close() },
		} {
			l := listenMemory(t)
			l.each(handle)
			n := countAttempts(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l, 10*time.Minute)
			require.LessOrEqual(t, n, 100, name)
			l.Close()
			time.Sleep(10 * time.Second)
		}
	}),

	"R4 handshake returns an error": inBubble(func(t *testing.T) {
		refused := errors.New("not yet")
		l := listenMemory(t)
		rec := newRecorder()
		fails := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.trace(), Handshake: func(context.Context, *tcpclient.Conn) error {
			if fails > 0 {
				fails--
				return fmt.Errorf("server says: %w", refused)
			}
			return nil
		}}
		c, p := l.connect(t, d)
		fails = 3
		hangUp(p)
		for range 3 {
			_, end := l.accept(t).all()
			require.Equal(t, io.EOF, end, "the connection is closed")
		}
		requireAliveAfterLoss(t, c, l.accept(t))
		require.NoError(t, c.Close())
		failed := rec.all("ConnectFailed")
		require.Len(t, failed, 3)
		for i, e := range failed {
			require.Equal(t, i+2, e.attempt)
			require.ErrorIs(t, e.err, refused)
			require.Equal(t, "handshake", opError(t, e.err).Op)
		}
		require.Len(t, rec.all("Connected"), 2, "a failed handshake is no Connected")
		rec.requireOrder(t, 1)

		fails = 1
		_, err := l.tryDial(t.Context(), d)
		require.ErrorIs(t, err, refused)
		require.Equal(t, "handshake", opError(t, err).Op)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))

		d.Reconnect.FirstDial = true
		d.Handshake = func(context.Context, *tcpclient.Conn) error { return tcpclient.Permanent(refused) }
		start := time.Now()
		_, err = l.tryDial(t.Context(), d)
		require.ErrorIs(t, err, refused)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Zero(t, time.Since(start))
	}),

	"R5 handshake hangs or ignores its context": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		l.each(func(conn net.Conn) { io.Copy(io.Discard, conn); conn.Close() })
		for name, hang := range map[string]func(ctx context.Context, conn *tcpclient.Conn) error{
			"heeds its context": func(ctx context.Context, _ *tcpclient.Conn) error { <-ctx.Done(); return ctx.Err() },
			"receives for ever": func(_ context.Context, conn *tcpclient.Conn) error {
				_, err := conn.Receive(context.Background())
				return err
			},
			"sends for ever": func(_ context.Context, conn *tcpclient.Conn) error {
				for {
					if err := conn.Send(context.Background(), make([]byte, 1000)); err != nil {
						return err
					}
					time.Sleep(time.Millisecond)
				}
			},
			"reads the raw connection": func(_ context.Context, conn *tcpclient.Conn) error {
				_, err := conn.NetConn().Read(make([]byte, 1))
				return err
			},
			"hides the error": func(_ context.Context, conn *tcpclient.Conn) error {
				conn.Receive(context.Background())
				return nil
			},
		} {
			start := time.Now()
			_, err := l.tryDial(t.Context(), tcpclient.Dialer{Timeout: 3 * time.Second, Handshake: hang})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
			require.NotErrorIs(t, err, context.DeadlineExceeded, name)
			require.Equal(t, "handshake", opError(t, err).Op)
			require.True(t, opError(t, err).Timeout())
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
			require.InDelta(t, 3*time.Second, time.Since(start), float64(time.Millisecond), name)

			start = time.Now()
			_, err = l.tryDial(within(t, 2*time.Second), tcpclient.Dialer{Timeout: 3 * time.Second, Handshake: hang})
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.InDelta(t, 2, time.Since(start).Seconds(), 0.002, name)
		}
		// Without any I/O only Dial itself can be saved.
		start := time.Now()
		_, err := l.tryDial(within(t, 2*time.Second), tcpclient.Dialer{Handshake: func(context.Context, *tcpclient.Conn) error {
			time.Sleep(time.Hour)
			return nil
		}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(start), 2200*time.Millisecond)
		time.Sleep(2 * time.Hour)
		l.Close()
		synctest.Wait()
	}),

	"R6 handshake reads past its own reply": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		l.each(func(conn net.Conn) {
			p := newPeer(t, conn)
			p.next()
			rest := frame("four")
			p.Write(append(frames("welcome", "one", "two", "three"), rest[:3]...))
			time.Sleep(time.Second)
			p.Write(rest[3:])
			io.Copy(io.Discard, conn)
		})
		for _, buffer := range []int{1, 16, 20, 0} {
			c := l.dial(t, tcpclient.Dialer{ReadBuffer: buffer, Handshake: login})
			for _, want := range []string{"one", "two", "three", "four"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
			require.NoError(t, c.Close())
		}
	}),

	"R7 thundering herd": inBubble(func(t *testing.T) {
		// 10 000 clients lose their server at one instant. With the race detector they
		// are fewer, and the chance that the margins below leave is the same.
		const bucket = 100 * time.Millisecond
		clients := 10_000
		if raceEnabled {
			clients = 2000
		}
		n := tcpclienttest.NewNetwork()
		n.Buffer = 64
		l := listenNetwork(t, n)
		var mu sync.Mutex
		var lost time.Time
		var conns []net.Conn
		l.each(func(conn net.Conn) {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
		})
		histogram := make(map[time.Duration]int)
		firsts := make(map[time.Duration]int)
		d := tcpclient.Dialer{
			Reconnect:  &tcpclient.Backoff{Min: time.Second, Max: 30 * time.Second},
			ReadBuffer: 16, WriteBuffer: 16,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				if !lost.IsZero() {
					histogram[time.Since(lost)/bucket]++
				}
				mu.Unlock()
				return n.DialContext(ctx, network, address)
			},
			Trace: &tcpclient.Trace{Waiting: func(attempt int, delay time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				if attempt == 2 {
					firsts[delay/bucket]++
				}
			}},
		}
		all := make([]*tcpclient.Client, clients)
		for i := range all {
			c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			all[i] = c
		}
		synctest.Wait()
		l.Close()
		lost = time.Now()
		for _, conn := range conns {
			conn.Close()
		}
		time.Sleep(120 * time.Second)
		synctest.Wait()
		mu.Lock()
		total, worst := 0, 0
		for at := 60 * time.Second / bucket; at < 120*time.Second/bucket; at++ {
			total += histogram[at]
			worst = max(worst, histogram[at])
		}
		mean := float64(total) / float64(60*time.Second/bucket)
		require.Greater(t, mean, float64(clients)/500, "they all go on")
		require.Less(t, float64(worst), mean+7*math.Sqrt(mean), "a minute later the attempts come in step: %d of %.0f", worst, mean)
		for at := time.Duration(0); at < time.Second/bucket; at++ {
			require.InDelta(t, clients/10, firsts[at], 8*math.Sqrt(float64(clients)/10), "the first waits are not even: %v", firsts)
		}
		mu.Unlock()
		var wg sync.WaitGroup
		for _, c := range all {
			wg.Go(func() { c.Close() })
		}
		wg.Wait()
	}),

	"R8 attempts used up": inBubble(func(t *testing.T) {
		for _, attempts := range []int{1, 2, 5} {
			l := listenMemory(t)
			rec := newRecorder()
			c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{MaxAttempts: attempts}, Trace: rec.trace()})
			time.Sleep(time.Minute)
			l.Close()
			hangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, io.EOF)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, down)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.ErrorContains(t, err, fmt.Sprintf("%d attempts", attempts))
			synctest.Wait()
			require.Len(t, rec.all("ConnectFailed"), attempts)
			require.ErrorIs(t, c.Send(t.Context(), nil), down)
			require.NoError(t, c.Close())
			rec.requireOrder(t, 1)
		}
	}),

	"R10 address changes between attempts": inBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		a, b := listenNetwork(t, n), listenNetwork(t, n)
		target := a.Addr().String()
		var asked []string
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			asked = append(asked, address)
			return n.DialContext(ctx, network, target)
		}}
		c, err := d.Dial(t.Context(), "tcp", "server.example:1")
		require.NoError(t, err)
		defer c.Close()
		p := a.accept(t)
		requireAlive(t, c, p)
		target = b.Addr().String()
		a.Close()
		hangUp(p)
		requireAliveAfterLoss(t, c, b.accept(t))
		require.Equal(t, []string{"server.example:1", "server.example:1"}, asked, "the name is asked for anew")
	}),

	"R11 one of several addresses hangs": inBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := listenNetwork(t, n)
		rec := newRecorder()
		d := tcpclient.Dialer{
			Timeout: 2 * time.Second, Reconnect: &tcpclient.Backoff{}, Trace: rec.trace(),
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if address == "dead:1" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return n.DialContext(ctx, network, address)
			},
		}
		start := time.Now()
		wait := func() *tcpclient.Client {
			c, err := d.Dial(t.Context(), "tcp", "dead:1", "dead:1", l.Addr().String())
			require.NoError(t, err)
			return c
		}
		c := wait()
		defer c.Close()
		require.Equal(t, 4*time.Second, time.Since(start))
		p := l.accept(t)
		for range 3 {
			time.Sleep(time.Minute)
			start = time.Now()
			hangUp(p)
			p = l.accept(t)
			require.LessOrEqual(t, time.Since(start), 4*time.Second+100*time.Millisecond)
			requireAliveAfterLoss(t, c, p)
		}
		require.NoError(t, c.Close())
		rec.requireOrder(t, 3)
		for _, e := range rec.all("ConnectFailed") {
			require.Equal(t, 1, e.attempt, "one round is one attempt")
			require.ErrorIs(t, e.err, os.ErrDeadlineExceeded)
		}
	}),

	"R15 many Sends wait for a connection": inBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := listenNetwork(t, n)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		l.Close()
		hangUp(p)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		ctx := within(t, time.Minute)
		var wg sync.WaitGroup
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		big := make([]byte, 1<<20)
		for range 1000 {
			wg.Go(func() {
				err := c.Send(ctx, big)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.True(t, opError(t, err).Unsent)
			})
		}
		kept := make(map[string]bool)
		for i := range 1000 {
			kept[fmt.Sprint("patient ", i)] = true
			wg.Go(func() { assert.NoError(t, c.Send(t.Context(), fmt.Append(nil, "patient ", i))) })
		}
		synctest.Wait()
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20), "1000 waiting messages of 1 MiB are not copied")
		time.Sleep(time.Hour)
		again, err := n.Listen(l.Addr().String())
		require.NoError(t, err)
		defer again.Close()
		conn, err := again.Accept()
		require.NoError(t, err)
		p = newPeer(t, conn)
		for range 1000 {
			msg := p.receive()
			require.True(t, kept[msg], "%.40q", msg)
			delete(kept, msg)
		}
		wg.Wait()
		require.NoError(t, c.Close())
		_, end := p.next()
		require.Equal(t, io.EOF, end)
	}),

	"L4 Close while waiting to reconnect": inBubble(func(t *testing.T) {
		for _, end := range []func(c *tcpclient.Client) error{
			func(c *tcpclient.Client) error { return c.Close() },
			func(c *tcpclient.Client) error { return c.Shutdown(t.Context()) },
		} {
			l := listenMemory(t)
			c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: 30 * time.Minute, Max: time.Hour}})
			hangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			waiting := make(chan error, 4)
			go func() { _, err := c.Receive(t.Context()); waiting <- err }()
			go func() { waiting <- c.Send(t.Context(), nil) }()
			go func() { waiting <- c.Write(t.Context(), nil) }()
			go func() { waiting <- c.Flush(t.Context()) }()
			synctest.Wait()
			start := time.Now()
			require.NoError(t, end(c))
			for range 4 {
				err := <-waiting
				require.ErrorIs(t, err, tcpclient.ErrClosed)
				require.ErrorIs(t, err, net.ErrClosed)
			}
			require.Zero(t, time.Since(start))
			require.NoError(t, c.Close())
			l.Close()
		}
	}),

	"L12 reconnect while a frame is in the buffer": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, WriteTimeout: -1})
		for i := range 200 {
			// Half of a frame is on the way, others lie behind it.
			sent := make(chan error, 1)
			go func() { sent <- c.Send(t.Context(), make([]byte, 100_000)) }()
			synctest.Wait()
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			if i%2 == 0 {
				p.reset()
			} else {
				hangUp(p)
			}
			err := <-sent
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, opError(t, err).Unsent)
			p = l.accept(t)
			err = c.Write(t.Context(), []byte("not taken"))
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.True(t, opError(t, err).Unsent)
			require.NoError(t, c.Send(t.Context(), []byte("whole")))
			require.Equal(t, "whole", p.receive())
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		}
	}),

	"L13 reconnect while Receive waits": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		type result struct {
			msg string
			err error
		}
		got := make(chan result)
		for range 4 {
			go func() {
				for {
					msg, err := c.Receive(t.Context())
					got <- result{string(msg), err}
					if errors.Is(err, tcpclient.ErrClosed) {
						return
					}
				}
			}()
		}
		for range 200 {
			synctest.Wait()
			hangUp(p)
			r := <-got
			require.ErrorIs(t, r.err, tcpclient.ErrDisconnected)
			p = l.accept(t)
			p.send("hello")
			r = <-got
			require.NoError(t, r.err)
			require.Equal(t, "hello", r.msg)
		}
		synctest.Wait()
		require.Empty(t, got)
		go c.Close()
		for range 4 {
			require.ErrorIs(t, (<-got).err, tcpclient.ErrClosed)
		}
	}),

	"L15 callbacks under flapping": func(t *testing.T) {
		l := listenTCP(t)
		l.each(func(conn net.Conn) { conn.Close() })
		rec := newRecorder()
		var inside atomic.Int32
		trace := rec.trace()
		flaps := make(chan struct{})
		count := 0
		next := trace.Disconnected
		trace.Disconnected = func(address string, err error) {
			assert.EqualValues(t, 1, inside.Add(1), "two callbacks at once")
			runtime.Gosched()
			next(address, err)
			inside.Add(-1)
			if count++; count == 1000 {
				close(flaps)
			}
		}
		nextUp := trace.Connected
		trace.Connected = func(address string, attempt int, took time.Duration) {
			assert.EqualValues(t, 1, inside.Add(1), "two callbacks at once")
			runtime.Gosched()
			nextUp(address, attempt, took)
			inside.Add(-1)
		}
		c := l.dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: time.Microsecond}, Trace: trace})
		select {
		case <-flaps:
		case <-time.After(patience):
			require.Fail(t, "1000 flaps take too long")
		}
		require.NoError(t, c.Close())
		rec.requireOrder(t, 1)
		require.Equal(t, len(rec.all("Connected")), len(rec.all("Disconnected")))
	},

	"L16 slow callback": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		rec := newRecorder()
		trace := rec.trace()
		block := make(chan struct{})
		next := trace.Connected
		trace.Connected = func(address string, attempt int, took time.Duration) {
			<-block
			next(address, attempt, took)
		}
		pings := pinging()
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Heartbeat: pings, Trace: trace})
		requireAlive(t, c, p)
		require.Equal(t, "ping", p.receive())
		p.send("pong")
		hangUp(p)
		p = l.accept(t)
		requireAliveAfterLoss(t, c, p)
		require.Equal(t, "ping", p.receive())
		p.send("pong")
		requireAlive(t, c, p)
		require.Empty(t, rec.all("Connected"))
		close(block)
		synctest.Wait()
		require.NoError(t, c.Close())
		rec.requireOrder(t, 1)
		require.Len(t, rec.all("Connected"), 2)
		require.Len(t, rec.all("Pong"), 2)
	}),

	"B4 timers after many reconnects": inBubble(func(t *testing.T) {
		// The bubble must end: a goroutine left over would fail the test. A timer left over would
		// let something happen later: nothing must.
		l := listenMemory(t)
		dials := 0
		var pings atomic.Int32
		h := pinging()
		h.Ping = func() []byte { pings.Add(1); return []byte("ping") }
		inner := new(tcpclient.Dialer)
		l.setup(inner)
		c, p := l.connect(t, tcpclient.Dialer{
			Heartbeat: h, FlushDelay: time.Hour, Reconnect: &tcpclient.Backoff{Max: time.Millisecond},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				dials++
				return inner.DialContext(ctx, network, address)
			},
		})
		reconnects := 10_000
		if raceEnabled {
			reconnects = 2000
		}
		for i := range reconnects {
			if i%100 == 0 {
				c.Write(t.Context(), []byte("for the timer of FlushDelay"))
			}
			hangUp(p)
			p = l.accept(t)
		}
		synctest.Wait()
		require.Equal(t, reconnects+1, dials)
		c.Close()
		before := pings.Load()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, reconnects+1, dials)
		require.Equal(t, before, pings.Load())
	}),

	"B10 callbacks in an outage": inBubble(func(t *testing.T) {
		l := listenMemory(t)
		rec := newRecorder()
		c, p := l.connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.trace()})
		l.Close()
		hangUp(p)
		before := len(rec.all())
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		attempts, events := len(rec.all("Connecting")), len(rec.all())
		require.Greater(t, attempts, 4000)
		require.Less(t, attempts, 8000)
		require.LessOrEqual(t, events-before, 3*attempts+3)
		require.NoError(t, c.Close())
	}),
}
