package tcpclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// Connections that are not sockets: streams of multiplexers, WebSockets, proxies.

// A muxStream is a connection in memory that behaves as a stream of yamux does. Its expired deadlines
// are errors of its own, a Write that has ended at one says that it has written nothing,
// and Close is a half-close: Read goes on until the peer has closed, too, or a deadline has passed.
type muxStream struct {
	net.Conn
	read atomic.Int32 // Reads under way
}

type muxTimeoutError struct{}

func (muxTimeoutError) Error() string { return "i/o deadline reached" }
func (muxTimeoutError) Timeout() bool { return true }

func (s *muxStream) Read(p []byte) (int, error) {
	s.read.Add(1)
	defer s.read.Add(-1)
	n, err := s.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = muxTimeoutError{}
	}
	return n, err
}

func (s *muxStream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, muxTimeoutError{}
	}
	return n, err
}

func (s *muxStream) Close() error { return s.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// A deafStream is a muxStream that heeds no deadline.
type deafStream struct{ *muxStream }

func (deafStream) SetDeadline(time.Time) error { return nil }

// connectStream makes a Client on a muxStream, with that much room each way.
func connectStream(t testing.TB, room int, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer, *muxStream) {
	t.Helper()
	n := &tcpclienttest.Network{Buffer: room}
	var stream *muxStream
	d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
		stream = &muxStream{Conn: conn}
		return stream
	})
	c, p := testkit.ListenNetwork(t, n).Connect(t, d)
	return c, p, stream
}

func TestForeignConnection(t *testing.T) {
	t.Run("lives through pings that are answered", testkit.InBubble(func(t *testing.T) { // P5, D1
		c, p, _ := connectStream(t, 1000, tcpclient.Dialer{Heartbeat: testkit.Pinging()})
		go p.Answer()
		time.Sleep(time.Hour)
		got, err := c.Call(t.Context(), []byte("hello"))
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.EqualValues(t, 1, c.Stats().Connects)
	}))

	t.Run("hands over a burst to a slow reader", testkit.InBubble(func(t *testing.T) { // P1, D1, D2
		c, p, _ := connectStream(t, 1000, tcpclient.Dialer{})
		msgs := testkit.Numbered(300, 1000)
		sent := testkit.Start(t, func() error {
			for _, msg := range msgs {
				if err := c.Send(t.Context(), []byte(msg)); err != nil {
					return err
				}
			}
			return nil
		})
		for _, want := range msgs {
			time.Sleep(70 * time.Millisecond) // longer than a write waits before it looks up
			require.Equal(t, want, p.Receive())
		}
		require.NoError(t, sent())
	}))

	t.Run("takes a frame in two pieces", testkit.InBubble(func(t *testing.T) { // P1, D1
		c, p, _ := connectStream(t, 1000, tcpclient.Dialer{FrameTimeout: 10 * time.Second})
		whole := testkit.Frame("in two pieces")
		p.Raw(whole[:7])
		time.Sleep(9 * time.Second)
		p.Raw(whole[7:])
		got, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "in two pieces", string(got))
		time.Sleep(time.Hour)
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("ends with the verdict of the frame timeout", testkit.InBubble(func(t *testing.T) { // P5, D1
		c, p, _ := connectStream(t, 1000, tcpclient.Dialer{FrameTimeout: 10 * time.Second})
		p.Raw(testkit.Frame("half")[:6])
		began := time.Now()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.Equal(t, 10*time.Second, time.Since(began))
	}))

	t.Run("ends with the verdict of the write timeout", testkit.InBubble(func(t *testing.T) { // P5, D1
		c, _, _ := connectStream(t, 1000, tcpclient.Dialer{WriteTimeout: 3 * time.Second})
		began := time.Now()
		require.ErrorIs(t, c.Send(t.Context(), testkit.Pattern(5000)), tcpclient.ErrWriteTimeout)
		require.Equal(t, 3*time.Second, time.Since(began))
	}))

	t.Run("leaves no goroutine in its Read after Close", testkit.InBubble(func(t *testing.T) { // P6, P7, D1
		c, _, s := connectStream(t, 1000, tcpclient.Dialer{})
		synctest.Wait()
		require.EqualValues(t, 1, s.read.Load())
		requireTakes(t, 0, func() { require.NoError(t, c.Close()) })
		require.Zero(t, s.read.Load())
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	}))
}

// A wrapper of a socket passes the tests of sockets, but for what takes half-close, which it hides.
func TestForeignConnectionInASlowStream(t *testing.T) {
	t.Run("messages that come before and after a ping are all received, though none was when it went", testkit.InBubble(func(t *testing.T) { // P1, D1
		pings := 0
		c, p, _ := connectStream(t, 1<<20, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { pings++; return []byte("ping") },
		}})
		sent := testkit.Numbered(160, 1<<10)
		p.Send(sent[:80]...) // enough at once to be read straight into the Inbox
		synctest.Wait()
		p.Send(sent[80:120]...)
		time.Sleep(3 * time.Second)
		p.Send(sent[120:]...)
		synctest.Wait()
		require.Positive(t, pings, "the reader has looked up")
		for _, want := range sent {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
	}))
}

func TestForeignConnectionPassesTheTestsOfSockets(t *testing.T) {
	testkit.SkipIfShort(t)
	wrapped := testkit.Transport{Name: "wrapped", Listen: func(t testing.TB) *testkit.Listener {
		l := testkit.ListenTCP(t)
		return &testkit.Listener{Listener: l.Listener, Network: "tcp", Setup: func(d *tcpclient.Dialer) {
			if d.DialContext == nil {
				d.DialContext = testkit.Wrapping(nil, func(conn net.Conn) net.Conn {
					conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
					return struct{ net.Conn }{conn}
				})
			}
		}}
	}}
	for name, test := range transporttest.Tests {
		if name == "Shutdown" || name == "HalfClose" || name == "LargeMessagesBeforeFIN" {
			continue // it has no CloseWrite
		}
		t.Run(name, func(t *testing.T) { // D1
			if name != "Helper" { // which counts goroutines
				t.Parallel()
			}
			test(t, wrapped)
		})
	}

	t.Run("Shutdown closes it after the flush", func(t *testing.T) { // P7, D1
		c, p := wrapped.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		require.NoError(t, c.Shutdown(t.Context()))
		got, err := p.All()
		require.Equal(t, []string{"last"}, got)
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
	})
}

// When closing a connection does not end its Read, nothing waits for that Read.
func TestForeignConnectionThatReadsOnAfterItsClose(t *testing.T) {
	connect := func(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer, *muxStream) {
		n := &tcpclienttest.Network{Buffer: 1000}
		l := testkit.ListenNetwork(t, n)
		var stream *muxStream
		d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
			if stream != nil {
				return conn // the next connection is a good one
			}
			stream = &muxStream{Conn: conn}
			return deafStream{stream}
		})
		c, p := l.Connect(t, d)
		t.Cleanup(func() { stream.Conn.Close() })
		go l.Each(func(conn net.Conn) { testkit.NewPeer(t, conn).Answer() })
		return c, p, stream
	}
	heartbeat := testkit.Pinging() // 10 s, 25 s

	t.Run("the verdict of the heartbeat comes in time", testkit.InBubble(func(t *testing.T) { // P5, D1
		c, _, _ := connect(t, tcpclient.Dialer{Heartbeat: heartbeat})
		began := time.Now()
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 25*time.Second, time.Since(began))
	}))

	t.Run("the next connection is made", testkit.InBubble(func(t *testing.T) { // P8, D1
		c, _, s := connect(t, tcpclient.Dialer{Heartbeat: heartbeat, Reconnect: &tcpclient.Backoff{}})
		began := time.Now()
		_, err := c.Receive(t.Context())
		testkit.RequireHeartbeatTimeout(t, err)
		require.Equal(t, 25*time.Second, time.Since(began))
		got, err := c.Call(testkit.Within(t, time.Minute), []byte("hello"))
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.EqualValues(t, 1, s.read.Load(), "the first connection still reads")
	}))

	t.Run("Close returns within its second, and nothing is wrong", testkit.InBubble(func(t *testing.T) { // P7, D1
		c, _, s := connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Send(t.Context(), []byte("x")))
		synctest.Wait() // Read has begun
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
		require.EqualValues(t, 1, s.read.Load())
	}))

	t.Run("those who wait learn of Close at once", testkit.InBubble(func(t *testing.T) { // P7, D1
		c, _, _ := connect(t, tcpclient.Dialer{})
		received := testkit.Start(t, func() error { _, err := c.Receive(context.Background()); return err })
		called := testkit.Start(t, func() error { _, err := c.Call(context.Background(), []byte("x")); return err })
		synctest.Wait()
		began := time.Now()
		go c.Close()
		require.ErrorIs(t, received(), tcpclient.ErrClosed)
		require.ErrorIs(t, called(), tcpclient.ErrClosed)
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond)
	}))

	t.Run("a Handshake that gives up does not wait for it", testkit.InBubble(func(t *testing.T) { // P2, D1
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		var stream *muxStream
		began := time.Now()
		_, err := (&tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				stream = &muxStream{Conn: conn}
				return deafStream{stream}
			}),
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				_, err := conn.Receive(ctx)
				return err
			},
		}).Dial(testkit.Within(t, 3*time.Second), "tcp", l.Addr().String())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(began))
		stream.Conn.Close()
	}))
}

// A lingeringConn takes its time to close.
type lingeringConn struct {
	net.Conn
	closed atomic.Bool
}

func (l *lingeringConn) Close() error {
	time.Sleep(300 * time.Millisecond)
	l.closed.Store(true)
	return l.Conn.Close()
}

func TestForeignConnectionThatTakesItsTimeToClose(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(c *tcpclient.Client) error
		took time.Duration
	}{
		"Close":    {(*tcpclient.Client).Close, 300 * time.Millisecond},
		"Shutdown": {func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) }, 400 * time.Millisecond},
	} {
		t.Run("is closed when "+name+" returns", testkit.InBubble(func(t *testing.T) { // P6, P7, D1
			n := tcpclienttest.NewNetwork()
			var conn *lingeringConn
			c, _ := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
				DialContext: testkit.Wrapping(n.DialContext, func(raw net.Conn) net.Conn {
					conn = &lingeringConn{Conn: raw}
					return conn
				}),
			})
			began := time.Now()
			require.NoError(t, end.by(c))
			require.Equal(t, end.took, time.Since(began))
			require.True(t, conn.closed.Load())
		}))
	}

	t.Run("is closed when Close returns, if it is in its Handshake", testkit.InBubble(func(t *testing.T) { // P6, P7, D1
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		var conn *lingeringConn
		c := l.Dial(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{OnDemand: true},
			DialContext: testkit.Wrapping(n.DialContext, func(raw net.Conn) net.Conn {
				conn = &lingeringConn{Conn: raw}
				return conn
			}),
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				_, err := conn.Receive(ctx)
				return err
			},
		})
		send := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("x")) })
		l.AcceptPeer(t)
		synctest.Wait()
		began := time.Now()
		require.NoError(t, c.Close())
		require.Equal(t, 300*time.Millisecond, time.Since(began))
		require.True(t, conn.closed.Load())
		require.ErrorIs(t, send(), tcpclient.ErrClosed)
	}))

	t.Run("is closed when Close returns, if it was the connection before", testkit.InBubble(func(t *testing.T) { // P6, P7, D1
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		var first *lingeringConn
		c, _ := l.Connect(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{},
			DialContext: testkit.Wrapping(n.DialContext, func(raw net.Conn) net.Conn {
				if first != nil {
					return raw
				}
				first = &lingeringConn{Conn: raw}
				return first
			}),
		})
		c.Disconnect(nil)
		testkit.RequireAliveAfterLoss(t, c, l.AcceptPeer(t))
		require.False(t, first.closed.Load())
		require.NoError(t, c.Close())
		require.True(t, first.closed.Load())
	}))

	t.Run("holds up neither the report of its loss nor the next connection", testkit.InBubble(func(t *testing.T) { // P5, P8, D1
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		c, p := l.Connect(t, tcpclient.Dialer{
			Reconnect:   &tcpclient.Backoff{Min: time.Nanosecond, Max: time.Nanosecond},
			DialContext: testkit.Wrapping(n.DialContext, func(raw net.Conn) net.Conn { return &lingeringConn{Conn: raw} }),
		})
		began := time.Now()
		testkit.HangUp(p)
		testkit.RequireAliveAfterLoss(t, c, l.AcceptPeer(t))
		require.LessOrEqual(t, time.Since(began), time.Millisecond)
	}))
}

// A forgetfulConn is one whose Write that has ended at its deadline says that it has written nothing,
// although bytes went out: a socket on Windows (go.dev/issue/24727).
type forgetfulConn struct{ net.Conn }

func (f forgetfulConn) Write(p []byte) (int, error) {
	n, err := f.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return n, err
}

func TestConnectionThatForgetsWhatItHasWritten(t *testing.T) {
	t.Run("gives the peer each message once", testkit.InBubble(func(t *testing.T) { // P1, P4, D2
		n := &tcpclienttest.Network{Buffer: 1000}
		c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return forgetfulConn{conn} }),
		})
		msgs := testkit.Numbered(200, 3000)
		go func() {
			for _, msg := range msgs {
				if c.Send(context.Background(), []byte(msg)) != nil {
					break
				}
			}
			c.Close()
		}()
		time.Sleep(time.Second)
		got, err := p.All()
		require.Equal(t, io.EOF, err)
		require.Equal(t, msgs, got)
	}))
}

// A wrapperWithRealDeadlines is what the documentation of DialContext tells users to write.
type wrapperWithRealDeadlines struct{ net.Conn }

func (wrapperWithRealDeadlines) RealDeadlines() bool { return true }

func TestRealDeadlines(t *testing.T) {
	faulty := 0
	if runtime.GOOS == "windows" {
		faulty = 1 // the write deadlines of a socket do not hold there
	}
	for name, test := range map[string]struct {
		wrap func(net.Conn) net.Conn
		want int
	}{
		"a wrapper costs a goroutine":              {func(conn net.Conn) net.Conn { return struct{ net.Conn }{conn} }, 1},
		"one that has RealDeadlines costs none":    {func(conn net.Conn) net.Conn { return wrapperWithRealDeadlines{conn} }, 0},
		"so do faults of the test kit on a socket": {tcpclienttest.Faults{}.Wrap, faulty},
	} {
		t.Run(name, func(t *testing.T) { // P6, D1
			emulating := func() int { return strings.Count(testkit.Stacks(), "wire.(*pendingIO).run(") }
			testkit.Eventually(t, "those of other tests have ended", func() bool { return emulating() == 0 })
			c, p := testkit.ListenTCP(t).Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(nil, test.wrap)})
			testkit.RequireAlive(t, c, p)
			testkit.WaitBlocked(t, "wire.(*Conn).Read")
			testkit.Eventually(t, "only the one that reads is left", func() bool { return emulating() == test.want })
			require.NoError(t, c.Close())
		})
	}
}

func TestSocketOptions(t *testing.T) {
	refused := map[string]tcpclient.Dialer{"Nagle": {Nagle: true}}
	if runtime.GOOS == "linux" {
		refused["UserTimeout 1m0s"] = tcpclient.Dialer{UserTimeout: time.Minute}
	}
	for option, d := range refused {
		t.Run(option+" without a socket is refused for good", func(t *testing.T) { // P9, D3
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			dials := 0
			d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials++
				return n.DialContext(ctx, network, address)
			}
			d.Reconnect = &tcpclient.Backoff{FirstDial: true}
			_, err := d.Dial(t.Context(), "tcp", l.Addr().String())
			require.ErrorIs(t, err, errors.ErrUnsupported)
			require.ErrorContains(t, err, "Dialer."+option)
			require.ErrorContains(t, err, "*tcpclienttest.end")
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.Equal(t, 1, dials)
		})
	}

	t.Run("neither asked for needs no socket", func(t *testing.T) { // D3
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		testkit.RequireAlive(t, c, p)
	})
}

// A sizedReads is a *tls.Conn that notes the size of each Read.
type sizedReads struct {
	net.Conn
	largest atomic.Int64
	reads   atomic.Int64
}

func (s *sizedReads) NetConn() net.Conn { return s.Conn.(*tls.Conn).NetConn() }

func (s *sizedReads) Read(p []byte) (int, error) {
	s.reads.Add(1)
	s.largest.Store(max(s.largest.Load(), int64(len(p))))
	return s.Conn.Read(p)
}

func TestLargeReadsThroughTLSOfDialContext(t *testing.T) {
	t.Run("take a goroutine for each record, not for each 512 bytes", func(t *testing.T) { // P12, D4
		server, client := tcpclienttest.NewTLSConfig()
		l := testkit.ListenTCP(t)
		l.Listener = tls.NewListener(l.Listener, server)
		var secure sizedReads
		c, p := l.Connect(t, tcpclient.Dialer{
			ReadBuffer: 128 << 10,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := (&tls.Dialer{Config: client}).DialContext(ctx, network, address)
				secure.Conn = conn
				return &secure, err
			},
		})
		const size, count = 64 << 10, 64 // 4 MiB
		go func() {
			for range count {
				p.Write(testkit.Frame(testkit.PatternText(size)))
			}
		}()
		for range count {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Len(t, msg, size)
		}
		require.GreaterOrEqual(t, secure.largest.Load(), int64(16<<10), "a record fits")
		require.Less(t, secure.reads.Load(), int64(2*4<<20/(16<<10)+50), "reads of 4 MiB")
	})
}

// A slowFIN is a tunnel whose CloseWrite takes longer than it is waited for.
type slowFIN struct{ net.Conn }

func (s slowFIN) CloseWrite() error {
	time.Sleep(150 * time.Millisecond)
	return s.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func TestShutdownOfForeignConnectionWhoseFINIsLate(t *testing.T) {
	t.Run("waits for the last words all the same", testkit.InBubble(func(t *testing.T) { // P1, D1
		n := tcpclienttest.NewNetwork()
		dial := testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return slowFIN{conn} })
		c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{DialContext: dial})
		began := time.Now()
		shutdown := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.Next()
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 150*time.Millisecond, time.Since(began))
		p.Send("last words")
		require.NoError(t, p.Close())
		require.NoError(t, shutdown())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "last words", string(msg))
	}))
}
