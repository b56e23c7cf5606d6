package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestClose(t *testing.T) {
	testkit.EachTransportParallel(t, transporttest.Close)

	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run("says close_notify over "+name, func(t *testing.T) {
			for _, last := range []string{"", "flushed by Close"} {
				l := testkit.ListenMemory(t)
				testkit.Secure(l)
				d := tcpclient.Dialer{}
				l.Setup(&d)
				d.TLSConfig.MaxVersion = version
				c, p := l.Connect(t, d)
				var stream bytes.Buffer
				raw := p.Conn.(*tls.Conn).NetConn()
				if last != "" {
					require.NoError(t, c.Write(t.Context(), []byte(last)))
				}
				wait := testkit.Start(t, c.Close)
				_, err := io.Copy(&stream, raw)
				require.NoError(t, err)
				testkit.HangUp(raw)
				require.NoError(t, wait())
				typ, length := lastRecord(t, stream.Bytes())
				if version == tls.VersionTLS12 {
					require.Equal(t, byte(21), typ, "the last record is no alert")
				} else {
					require.Equal(t, 2+1+16, length, "the last record has not the length of an alert")
				}
			}
		})
	}

	t.Run("wakes all who receive, also while a hook holds the Client's goroutine", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			stuck := make(chan struct{})
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{IsPong: func(msg []byte) bool {
				if string(msg) == "stuck" {
					<-stuck
				}
				return false
			}}})
			p.Send("one") // leaves memory in the Inbox that is not full
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
			var woken atomic.Int32
			for range 3 {
				go func() {
					_, err := c.Receive(t.Context())
					assert.ErrorIs(t, err, tcpclient.ErrClosed)
					woken.Add(1)
				}()
			}
			p.Send("stuck")
			synctest.Wait()
			go c.Close()
			synctest.Wait()
			assert.EqualValues(t, 3, woken.Load())
			close(stuck)
			require.NoError(t, c.Close())
		})
	})

	t.Run("returns when the connection's own Close is all that helps", func(t *testing.T) { // P7
		testkit.SkipIfShort(t)
		// Neither reading nor writing heeds a deadline.
		stuck := make(chan struct{})
		var once sync.Once
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { <-stuck; return 0, net.ErrClosed }
			w.OnRead = func([]byte) (int, error) { <-stuck; return 0, net.ErrClosed }
			w.OnClose = func() { once.Do(func() { close(stuck) }) }
		})
		wait := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("stuck")) })
		testkit.WaitBlocked(t, "wire.(*Conn).Write")
		watch := testkit.StartStopwatch(t)
		testkit.RequireFast(t, "Close", func() { c.Close() })
		require.Less(t, watch.Ran(), testkit.CloseTime)
		require.ErrorIs(t, wait(), tcpclient.ErrClosed)
	})

	t.Run("tells of a loss that the last words of the peer keep from sight", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			c, _, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, io.ErrClosedPipe }
			})
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			require.ErrorIs(t, c.Send(t.Context(), []byte("knows")), io.ErrClosedPipe)
			require.Equal(t, 1, w.Writes())
			require.ErrorIs(t, c.Close(), io.ErrClosedPipe, "no caller was told of the first message")
			require.NoError(t, c.Close())
		})
	})
}

// lastRecord returns type and length of the last of some TLS records.
func lastRecord(t testing.TB, stream []byte) (typ byte, length int) {
	t.Helper()
	require.NotEmpty(t, stream, "no record at all")
	for len(stream) > 0 {
		require.GreaterOrEqual(t, len(stream), 5)
		typ, length = stream[0], int(stream[3])<<8|int(stream[4])
		require.GreaterOrEqual(t, len(stream), 5+length)
		stream = stream[5+length:]
	}
	return typ, length
}

// Close and Shutdown while code of the user does not return: they give up on it, and no other
// caller has to wait.

// A hook is code of the user that is inside until it is let go.
type hook struct{ inside, leave chan struct{} }

// hang is what the hook does, once.
func (h *hook) hang() {
	close(h.inside)
	<-h.leave
}

func (h *hook) letGo() {
	select {
	case <-h.leave:
	default:
		close(h.leave)
	}
}

// reading is a Framer that hangs with the first byte it reads, and then says that the
// stream has ended.
func (h *hook) reading() tcpclient.Framer {
	return testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
		if _, err := r.ReadByte(); err != nil {
			return dst, err
		}
		h.hang()
		return dst, io.EOF
	}}
}

func newHook(t testing.TB) *hook {
	h := &hook{make(chan struct{}), make(chan struct{})}
	t.Cleanup(h.letGo)
	return h
}

// requireTakes wants f to take so long on the clock of the bubble.
func requireTakes(t testing.TB, atMost time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	require.LessOrEqual(t, time.Since(began), atMost)
}

func TestCloseWakes(t *testing.T) {
	for name, end := range map[string]func(c *tcpclient.Client) error{
		"Close":    (*tcpclient.Client).Close,
		"Shutdown": func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
	} {
		t.Run("those who wait for a connection while a DialContext hangs: "+name, testkit.InBubble(func(t *testing.T) { // P7
			n, dials, hanging := tcpclienttest.NewNetwork(), 0, newHook(t)
			c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{Min: 1, Max: 1},
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					if dials++; dials == 1 {
						return n.DialContext(ctx, network, address)
					}
					hanging.hang()
					return nil, errors.New("late")
				},
			})
			testkit.HangUp(p.Conn)
			<-hanging.inside
			calls := map[string]func() error{
				"Send":  func() error { return c.Send(context.Background(), []byte("x")) },
				"Write": func() error { return c.Write(context.Background(), []byte("x")) },
				"Flush": func() error { return c.Flush(context.Background()) },
				"Call":  func() error { _, err := c.Call(context.Background(), []byte("x")); return err },
			}
			ended := make(chan error, len(calls))
			for name, call := range calls {
				go func() {
					err := call()
					assert.ErrorIs(t, err, tcpclient.ErrClosed, name)
					ended <- err
				}()
			}
			synctest.Wait()
			requireTakes(t, 0, func() {
				go end(c)
				for range calls {
					<-ended
				}
			})
			hanging.letGo()
		}))
	}

	t.Run("Calls that wait for an id while a Correlator hangs", testkit.InBubble(func(t *testing.T) { // P7
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: hangingReplies{tcpclient.IDField{Width: 1}, hanging}})
		errs := make(chan error, 3)
		for range cap(errs) {
			go func() {
				_, err := c.Call(context.Background(), []byte("?"))
				errs <- err
			}()
		}
		p.Receive() // the one that has got the id
		p.Send("!")
		<-hanging.inside
		synctest.Wait()
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
		for range cap(errs) {
			select {
			case err := <-errs:
				require.ErrorIs(t, err, tcpclient.ErrClosed)
			case <-time.After(time.Second):
				require.FailNow(t, "a Call still waits")
			}
		}
	}))
}

// hangingReplies has one id, and hangs when it looks at a reply.
type hangingReplies struct {
	tcpclient.IDField
	hook *hook
}

func (h hangingReplies) MaxID() uint64 { return 1 }

func (h hangingReplies) SplitReply(msg []byte) (uint64, []byte, bool) {
	h.hook.hang()
	return 0, nil, false
}

func TestCloseWithAStuckReader(t *testing.T) {
	narrow := func(t testing.TB) *testkit.Listener {
		return testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 100})
	}

	t.Run("tells of the frames that are lost", testkit.InBubble(func(t *testing.T) { // P4, P7
		hanging := newHook(t)
		c, p := narrow(t).Connect(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		var err error
		requireTakes(t, time.Second, func() { err = c.Close() })
		require.Error(t, err)
		require.Equal(t, "close", testkit.OpError(t, err).Op)
	}))

	t.Run("returns nil when nothing is lost", testkit.InBubble(func(t *testing.T) { // P7
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		require.NoError(t, c.Write(t.Context(), []byte("whole")))
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
		require.Equal(t, "whole", p.Receive())
	}))

	t.Run("takes no longer when a Trace function hangs too", testkit.InBubble(func(t *testing.T) { // P7
		hanging, tracing := newHook(t), newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Framer: hanging.reading(),
			Trace:  &tcpclient.Trace{Connected: func(string, int, time.Duration) { tracing.hang() }},
		})
		p.Send("x")
		<-hanging.inside
		<-tracing.inside
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		select {
		case err := <-closed:
			require.NoError(t, err)
		case <-time.After(2 * time.Second):
			assert.Fail(t, "Close has not returned after two seconds")
			tracing.letGo()
			<-closed
		}
	}))
}

func TestEndWhileTheWriteFrameOfAPingHangs(t *testing.T) {
	for name, heartbeat := range map[string]tcpclient.Heartbeat{
		"ping":   {Interval: time.Second, Ping: func() []byte { return []byte("hang") }},
		"answer": {Answer: func(msg []byte) ([]byte, bool) { return []byte("hang"), string(msg) == "ping" }},
	} {
		// connect returns a Client that has something to flush, and a reader that hangs with the lock.
		connect := func(t *testing.T) *tcpclient.Client {
			hanging := newHook(t)
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
				Heartbeat: heartbeat,
				Framer: testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
					if string(msg) == "hang" {
						hanging.hang()
					}
					return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
				}},
			})
			require.NoError(t, c.Write(t.Context(), []byte("kept")))
			p.Send("ping")
			<-hanging.inside
			return c
		}
		t.Run("Close returns, and cannot tell what is lost: "+name, testkit.InBubble(func(t *testing.T) { // P4, P7
			c := connect(t)
			var err error
			requireTakes(t, time.Second, func() { err = c.Close() })
			require.Equal(t, "close", testkit.OpError(t, err).Op)
			require.ErrorContains(t, err, "WriteFrame")
		}))
		t.Run("Shutdown returns when its context ends: "+name, testkit.InBubble(func(t *testing.T) { // P2, P4
			c := connect(t)
			var err error
			requireTakes(t, 2*time.Second, func() { err = c.Shutdown(testkit.Within(t, time.Second)) })
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "WriteFrame")
		}))
	}
}

func TestConnectionEndsWhileAWriteFrameHangs(t *testing.T) {
	testkit.EachTransportParallel(t, transporttest.EndWhileAWriteFrameHangs)
}

func TestCloseInTrace(t *testing.T) {
	t.Run("of the end of the connection does not hold up the owner's Close", testkit.InBubble(func(t *testing.T) { // P7
		var c *tcpclient.Client
		in := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{Disconnected: func(string, error) {
			in.hang()
			assert.NoError(t, c.Close())
		}}})
		testkit.RequireAlive(t, c, p)
		closed := testkit.Start(t, c.Close)
		<-in.inside
		synctest.Wait()
		in.letGo()
		requireTakes(t, 200*time.Millisecond, func() { require.NoError(t, closed()) })
	}))
}

// slowClose is a connection whose Close waits, such as a stream of a stalled multiplexer.
type slowClose struct {
	net.Conn
	free <-chan struct{}
}

func (s slowClose) Close() error {
	<-s.free
	return s.Conn.Close()
}

func TestConnectionWithSlowClose(t *testing.T) {
	// connect returns a Client on such a connection.
	connect := func(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer) {
		free := make(chan struct{})
		n := tcpclienttest.NewNetwork()
		d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return slowClose{conn, free} })
		c, p := testkit.ListenNetwork(t, n).Connect(t, d)
		t.Cleanup(func() { close(free) })
		return c, p
	}

	t.Run("does not hold up Close", testkit.InBubble(func(t *testing.T) { // P7
		c, _ := connect(t, tcpclient.Dialer{})
		requireTakes(t, time.Second, func() { require.NoError(t, c.Close()) })
	}))

	t.Run("and real deadlines is closed when Close returns", testkit.InBubble(func(t *testing.T) { // P7
		var closed atomic.Bool
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnClose = func() {
				w.Conn.Close() // the reader returns
				time.Sleep(100 * time.Millisecond)
				closed.Store(true)
			}
		})
		require.NoError(t, c.Close())
		require.True(t, closed.Load())
	}))

	t.Run("and real deadlines is closed when a Dial returns whose Handshake has failed", testkit.InBubble(func(t *testing.T) { // P7
		var closed atomic.Bool
		n := tcpclienttest.NewNetwork()
		_, err := testkit.ListenNetwork(t, n).TryDial(t.Context(), tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				return &testkit.HookedConn{Conn: conn, OnClose: func() {
					time.Sleep(100 * time.Millisecond)
					closed.Store(true)
				}}
			}),
			Handshake: func(context.Context, *tcpclient.Conn) error { return io.ErrNoProgress },
		})
		require.ErrorIs(t, err, io.ErrNoProgress)
		require.True(t, closed.Load())
	}))

	t.Run("does not hold up a Shutdown whose context ends", testkit.InBubble(func(t *testing.T) { // P2
		c, _ := connect(t, tcpclient.Dialer{})
		requireTakes(t, 500*time.Millisecond, func() {
			// All was flushed, and there is no half-close to answer.
			require.NoError(t, c.Shutdown(testkit.Within(t, 100*time.Millisecond)))
		})
	}))

	t.Run("does not hold up the verdict of a heartbeat", testkit.InBubble(func(t *testing.T) { // P5
		c, _ := connect(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: time.Second}, Correlator: tcpclient.IDPrefix{}})
		requireTakes(t, 3*time.Second, func() {
			require.ErrorIs(t, c.Send(t.Context(), []byte("x")), nil)
			_, err := c.Call(testkit.Within(t, time.Minute), []byte("x"))
			require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
		})
	}))
}

func TestCloseOfADyingConnection(t *testing.T) {
	t.Run("leaves the first error to all callers", func(t *testing.T) { // P9
		// The reader waits for room in the Inbox, a write has found the reset.
		c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Inbox: 1})
		p.Send("one", "two", "three", "four")
		testkit.Eventually(t, "the Inbox is full", func() bool { return c.Stats().MessagesReceived >= 1 })
		p.Reset()
		var first error
		testkit.Eventually(t, "a write fails", func() bool { first = c.Send(t.Context(), []byte("x")); return first != nil })
		require.ErrorIs(t, first, tcpclient.ErrDisconnected)
		c.Close()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
	})
}

func TestCloseThatWrites(t *testing.T) {
	t.Run("ends though the connection's deadlines do nothing and the peer takes nothing", testkit.InBubble(func(t *testing.T) { // P7
		closed := make(chan struct{})
		var once sync.Once
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnDeadline = func() error { return nil }
			w.OnClose = func() { once.Do(func() { close(closed) }) }
			w.OnWrite = func([]byte) (int, error) { <-closed; return 0, io.ErrClosedPipe }
		})
		require.NoError(t, c.Write(t.Context(), []byte("x")))
		began := time.Now()
		require.Error(t, c.Close())
		require.LessOrEqual(t, time.Since(began), time.Second)
	}))
}

func TestCloseWithAStalledPeer(t *testing.T) {
	t.Run("takes no more than its second, to the tick", testkit.InBubble(func(t *testing.T) { // P4, P7
		c, _ := narrowly(t, tcpclient.Dialer{})
		sent := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(1000)) })
		synctest.Wait()
		require.NoError(t, c.Write(t.Context(), []byte("never")))
		began := time.Now()
		require.Error(t, c.Close(), "what was written could not be flushed")
		require.LessOrEqual(t, time.Since(began), time.Second)
		require.Error(t, sent())
	}))
}

// How long Close goes on for a peer that does not read. It looks each 10 ms.
func TestCloseGoesOnFlushing(t *testing.T) {
	closeTook := func(c *tcpclient.Client) (took time.Duration, err error) {
		began := time.Now()
		err = c.Close()
		return time.Since(began), err
	}
	takesSome := func(p *testkit.Peer) (all []byte) {
		buf := make([]byte, 100)
		for {
			time.Sleep(90 * time.Millisecond)
			n, err := p.Read(buf)
			if all = append(all, buf[:n]...); err != nil {
				return all
			}
		}
	}

	t.Run("for 200 ms after the last byte that the peer has taken", testkit.InBubble(func(t *testing.T) { // P7
		c, _ := narrowly(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		took, err := closeTook(c) // the network takes 100 bytes at once
		require.Error(t, err)
		require.Equal(t, 210*time.Millisecond, took)
	}))

	t.Run("for 500 ms to a peer that takes some each 90 ms", testkit.InBubble(func(t *testing.T) { // P7
		c, p := narrowly(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(10_000)))
		got := testkit.Start(t, func() []byte { return takesSome(p) })
		took, err := closeTook(c)
		require.Error(t, err)
		require.Equal(t, 500*time.Millisecond, took)
		require.Less(t, len(got()), 10_000)
	}))

	t.Run("until all is handed over to a peer that has it within 500 ms", testkit.InBubble(func(t *testing.T) { // P7
		c, p := narrowly(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(496)))
		got := testkit.Start(t, func() []byte { return takesSome(p) })
		took, err := closeTook(c)
		require.NoError(t, err)
		require.Greater(t, took, 300*time.Millisecond)
		require.Equal(t, testkit.Frame(testkit.PatternText(496)), got())
	}))

	t.Run("for 100 ms over TLS if only close_notify is left, and does not wait for the peer then", testkit.InBubble(func(t *testing.T) { // P7
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		testkit.Secure(l)
		var w *testkit.HookedConn
		c, p := l.Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
			w = &testkit.HookedConn{Conn: conn}
			return w
		})})
		require.NoError(t, c.Send(t.Context(), []byte("all there is")))
		require.Equal(t, "all there is", p.Receive())
		w.SetOnWrite(func([]byte) (int, error) {
			time.Sleep(10 * time.Millisecond)
			return 0, os.ErrDeadlineExceeded
		})
		took, err := closeTook(c)
		require.NoError(t, err)
		require.Less(t, took, 150*time.Millisecond)
		require.GreaterOrEqual(t, took, 100*time.Millisecond)
	}))

	t.Run("for no time over TLS if close_notify is left and taken at once, though the peer stays", testkit.InBubble(func(t *testing.T) { // P7
		l := testkit.ListenMemory(t)
		testkit.Secure(l)
		c, p := l.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Send(t.Context(), []byte("all there is")))
		require.Equal(t, "all there is", p.Receive())
		took, err := closeTook(c)
		require.NoError(t, err)
		require.Zero(t, took)
	}))
}

// A connection, a tunnel, may fail with an error that Is context.DeadlineExceeded. Close does not
// take it for a deadline of its own.
func TestCloseTellsOfALossThatIsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4, P7
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, context.DeadlineExceeded }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		require.Error(t, c.Close())
	})
}

// While Close waits for a connection that was dying already, what calls say does not change.
func TestCloseLeavesTheFirstErrorWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P9
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		p.Reset()
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
		closed := testkit.Start(t, c.Close)
		synctest.Wait()
		assert.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
		_, err := c.Receive(t.Context())
		assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
		closed()
	})
}

// Close tells of all that it has not flushed, whoever was told of it, too.
func TestCloseTellsOfWhatItHasNotFlushed(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, c *tcpclient.Client){
		"a Write": func(t *testing.T, c *tcpclient.Client) {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2000)))
		},
		"a Send that has given up": func(t *testing.T, c *tcpclient.Client) {
			require.ErrorIs(t, c.Send(testkit.Within(t, time.Second), testkit.Pattern(2000)), context.DeadlineExceeded)
		},
		"a Call that has given up": func(t *testing.T, c *tcpclient.Client) {
			_, err := c.Call(testkit.Within(t, time.Second), testkit.Pattern(2000))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		},
		"a Write, and a Write that waits for room after it": func(t *testing.T, c *tcpclient.Client) {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2000)))
			testkit.Start(t, func() error { return c.Write(context.Background(), testkit.Pattern(2000)) })
		},
		"a Send that waits": func(t *testing.T, c *tcpclient.Client) {
			testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(2000)) })
		},
		"a Flush that waits": func(t *testing.T, c *tcpclient.Client) {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2000)))
			testkit.Start(t, func() error { return c.Flush(context.Background()) })
		},
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P4, P7
			c, _ := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, WriteBuffer: 1000})
			leave(t, c)
			synctest.Wait()
			err := c.Close()
			require.ErrorContains(t, err, "messages that were written are lost")
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		}))
	}
}

// What Close has told of, later calls do not tell again.
func TestCloseTellsALossThatNoLaterCallTellsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4, P7
		hanging := make(chan struct{})
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnDeadline = func() error { return nil }
			w.OnWrite = func([]byte) (int, error) { <-hanging; return 0, io.ErrClosedPipe }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		flush := testkit.Start(t, func() error { return c.Flush(context.Background()) })
		synctest.Wait()
		require.ErrorContains(t, c.Close(), "are lost")
		close(hanging)
		require.Error(t, flush())
		synctest.Wait()
		err := c.Send(t.Context(), []byte("x"))
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.NotContains(t, err.Error(), "are lost")
	})
}

// A round over several addresses that our own Shutdown or Close has ended is no loss, also if one
// of the addresses was lost in its handshake: ErrClosed is final.
func TestCloseDuringARoundOverSeveralAddressesIsNoLoss(t *testing.T) {
	for name, end := range map[string]func(*tcpclient.Client) error{
		"Shutdown": func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
		"Close":    (*tcpclient.Client).Close,
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P7, P9
			var n tcpclienttest.Network
			l, err := n.Listen("a:1")
			require.NoError(t, err)
			defer l.Close()
			welcome := make(chan bool, 2)
			welcome <- true
			welcome <- false
			go func() {
				for ok := range welcome {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if ok {
						conn.Write(testkit.Frame("welcome"))
						time.Sleep(time.Second)
					}
					conn.Close()
				}
			}()
			defer close(welcome)
			d := tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond},
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					if address == "b:1" {
						<-ctx.Done() // a host that does not answer
						return nil, ctx.Err()
					}
					return n.DialContext(ctx, network, address)
				},
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					_, err := conn.Receive(ctx)
					return err
				},
			}
			c, err := d.Dial(t.Context(), "tcp", "a:1", "b:1")
			require.NoError(t, err)
			defer c.Close()
			time.Sleep(2 * time.Second) // now it is in the second round, at b:1
			assert.NoError(t, end(c))
			err = c.Send(t.Context(), []byte("x"))
			assert.ErrorIs(t, err, tcpclient.ErrClosed)
			assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), "%v", err)
			if name == "Shutdown" {
				_, err = c.Receive(t.Context())
				assert.ErrorIs(t, err, tcpclient.ErrDisconnected, "the loss")
			}
			_, err = c.Receive(t.Context())
			assert.ErrorIs(t, err, tcpclient.ErrClosed)
			assert.NotErrorIs(t, err, tcpclient.ErrDisconnected)
		}))
	}
}
