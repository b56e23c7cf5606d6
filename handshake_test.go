package tcpclient_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
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

func TestHandshake(t *testing.T) {
	testkit.EachTransport(t, transporttest.Handshake)

	onlyBubble := func(name string, test func(t *testing.T)) { t.Run(name, testkit.InBubble(test)) }

	onlyBubble("the Conn is finished with it", func(t *testing.T) {
		var kept *tcpclient.Conn
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
			kept = conn
			return nil
		}}, func(p *testkit.Peer) { p.Echo() })
		require.NoError(t, err)
		require.ErrorIs(t, kept.Send(t.Context(), []byte("afterwards")), tcpclient.ErrClosed)
		_, err = kept.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.NoError(t, c.Close())
	})

	onlyBubble("a context that is done does no I/O and leaves the connection alone", func(t *testing.T) { // P2
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			assert.ErrorIs(t, conn.Send(testkit.Canceled(t), []byte("never")), context.Canceled)
			_, err := conn.Receive(testkit.Canceled(t))
			assert.ErrorIs(t, err, context.Canceled)
			assert.False(t, testkit.OpError(t, err).Unsent, "a Receive sends nothing")
			return nil
		}}, func(p *testkit.Peer) { p.Echo() })
		require.NoError(t, err)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.NoError(t, c.Close())
	})

	t.Run("a context that ends while a Send returns ends the attempt", func(t *testing.T) { // P2, P9
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		l.Each(func(conn net.Conn) { io.Copy(io.Discard, conn) })
		for range 300 {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := l.TryDial(t.Context(), tcpclient.Dialer{
				DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					return &testkit.HookedConn{Conn: conn, OnWrite: func(p []byte) (int, error) {
						cancel()
						return conn.Write(p)
					}}
				}),
				Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
					assert.ErrorIs(t, conn.Send(ctx, []byte("optional")), context.Canceled)
					return nil
				},
			})
			require.ErrorIs(t, err, context.Canceled, "and not the connection in use some time later")
		}
	})

	onlyBubble("what the server said before a Send failed is received", func(t *testing.T) { // P1
		boo := errors.New("boo")
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		l.Each(func(conn net.Conn) {
			conn.Write(testkit.Frame("too many connections"))
			io.Copy(io.Discard, conn)
		})
		_, err := l.TryDial(t.Context(), tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				return &testkit.HookedConn{Conn: conn, OnWrite: func([]byte) (int, error) { return 0, boo }}
			}),
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				assert.ErrorIs(t, conn.Send(ctx, []byte("login")), boo)
				msg, err := conn.Receive(ctx)
				assert.NoError(t, err)
				assert.Equal(t, "too many connections", string(msg))
				return nil
			},
		})
		require.ErrorIs(t, err, boo)
	})

	onlyBubble("that goes on after a Receive that failed does not make a connection", func(t *testing.T) { // P1
		for name, test := range map[string]struct {
			framer tcpclient.Framer
			sent   []string // a second apart
			want   error
		}{
			"no frame":              {tcpclient.Netstring(), []string{"5:hello;3:abc,"}, tcpclient.ErrInvalidFrame},
			"a frame that is late":  {tcpclient.LengthPrefix{}, []string{"\x00\x00\x00\x10aaaaaaaa", "\x00\x00\x00\x04lost"}, tcpclient.ErrFrameTimeout},
			"the end of the stream": {tcpclient.LengthPrefix{}, nil, io.EOF},
		} {
			_, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
				Framer:       test.framer,
				FrameTimeout: time.Second / 2,
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					_, err := conn.Receive(ctx)
					assert.ErrorIs(t, err, test.want, name)
					_, err = conn.Receive(ctx)
					assert.ErrorIs(t, err, test.want, name)
					return nil
				},
			}, func(p *testkit.Peer) {
				for _, bytes := range test.sent {
					p.Write([]byte(bytes))
					time.Sleep(time.Second)
				}
				p.Close()
			})
			require.ErrorIs(t, err, test.want, name)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
		}
	})

	onlyBubble("a Send that has failed on the way may have sent a part", func(t *testing.T) { // P4
		n := tcpclienttest.NewNetwork()
		boo := errors.New("boo")
		_, err := testkit.ListenNetwork(t, n).TryDial(t.Context(), tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				return &testkit.HookedConn{Conn: conn, OnWrite: func([]byte) (int, error) { return 3, boo }}
			}),
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				err := conn.Send(ctx, []byte("login"))
				assert.False(t, testkit.OpError(t, err).Unsent)
				return err
			},
		})
		require.ErrorIs(t, err, boo)
	})

	onlyBubble("a message that the Framer refuses leaves the connection healthy", func(t *testing.T) {
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
			Framer: tcpclient.LengthPrefix{MaxSize: 8},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				err := conn.Send(ctx, []byte("too long for it"))
				var tooLarge *tcpclient.FrameTooLargeError
				assert.ErrorAs(t, err, &tooLarge)
				assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
				assert.True(t, testkit.OpError(t, err).Unsent, "not a byte of it was sent")
				return testkit.Login(ctx, conn)
			},
		}, func(p *testkit.Peer) {
			assert.Equal(t, "login", p.Receive())
			p.Send("welcome")
			p.Echo()
		})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})

	onlyBubble("what the server sends ahead is kept, also half of it", func(t *testing.T) { // R6
		for cut := range len(testkit.Frames("a", "bc")) + 1 {
			c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: testkit.Login}, func(p *testkit.Peer) {
				p.Receive()
				rest := testkit.Frames("a", "bc")
				p.Raw(append(testkit.Frame("welcome"), rest[:cut]...))
				time.Sleep(time.Second)
				p.Write(rest[cut:])
				io.Copy(io.Discard, p)
			})
			require.NoError(t, err)
			for _, want := range []string{"a", "bc"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
			require.NoError(t, c.Close())
		}
	})

	onlyBubble("FrameTimeout rules here too", func(t *testing.T) {
		start := time.Now()
		_, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{FrameTimeout: 2 * time.Second, Handshake: testkit.Login}, func(p *testkit.Peer) {
			p.Raw(testkit.Frame("welcome")[:6])
			io.Copy(io.Discard, p)
		})
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.Equal(t, 2*time.Second, time.Since(start))
	})

	onlyBubble("a long Handshake does not count as silence of the peer", func(t *testing.T) { // P5
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
			Timeout: time.Hour, Heartbeat: testkit.Pinging(),
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				time.Sleep(time.Minute)
				_, err := conn.Receive(ctx) // silent for another minute, unwatched
				return err
			},
		}, func(p *testkit.Peer) {
			time.Sleep(2 * time.Minute)
			p.Send("at last")
			for {
				msg, err := p.Next()
				if err != nil {
					return
				}
				assert.Equal(t, "ping", msg)
				p.Write(testkit.Frame("pong"))
			}
		})
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.True(t, c.Stats().Connected)
		require.NoError(t, c.Close())
	})

	onlyBubble("it has what lookup and TCP have left of Timeout", func(t *testing.T) {
		l := testkit.ListenMemory(t)
		inner := new(tcpclient.Dialer)
		l.Setup(inner)
		start := time.Now()
		_, err := l.TryDial(t.Context(), tcpclient.Dialer{
			Timeout: 5 * time.Second,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				time.Sleep(4 * time.Second)
				return inner.DialContext(ctx, network, address)
			},
			Handshake: testkit.Login,
		})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, "handshake", testkit.OpError(t, err).Op)
		require.Equal(t, 5*time.Second, time.Since(start))
		require.ErrorContains(t, err, "in the Handshake")
	})

	onlyBubble("a panic is a permanent error with the stack", func(t *testing.T) { // L17
		boo := errors.New("boo")
		for _, value := range []any{"boo", boo} {
			closed := make(chan struct{})
			_, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{FirstDial: true},
				Handshake: func(context.Context, *tcpclient.Conn) error { panic(value) },
			}, func(p *testkit.Peer) { io.Copy(io.Discard, p); close(closed) })
			require.ErrorContains(t, err, "panic: boo")
			require.ErrorContains(t, err, "handshake_test.go")
			require.Equal(t, "handshake", testkit.OpError(t, err).Op)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			if value == any(boo) {
				require.ErrorIs(t, err, boo)
			}
			<-closed
		}
	})

	onlyBubble("one that ends its goroutine does not hang Dial", func(t *testing.T) { // as require in a test would
		for _, hook := range []string{"Handshake", "DialContext"} {
			d := tcpclient.Dialer{Handshake: func(context.Context, *tcpclient.Conn) error { runtime.Goexit(); return nil }}
			l := testkit.ListenMemory(t)
			if hook == "DialContext" {
				d = tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { runtime.Goexit(); return nil, nil }}
			}
			start := time.Now()
			_, err := l.TryDial(testkit.Within(t, time.Hour), d)
			require.Error(t, err)
			require.NotErrorIs(t, err, context.DeadlineExceeded, hook)
			require.Less(t, time.Since(start), time.Minute)
		}
	})

	onlyBubble("one that ends its goroutine leaves no connection open", func(t *testing.T) { // P6
		ended := make(chan error, 1)
		_, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
			Handshake: func(context.Context, *tcpclient.Conn) error { runtime.Goexit(); return nil },
		}, func(p *testkit.Peer) { _, err := p.Next(); ended <- err })
		require.Error(t, err)
		synctest.Wait()
		require.Len(t, ended, 1)
	})

	onlyBubble("may close the Client", func(t *testing.T) { // P7, L5
		l := testkit.ListenMemory(t)
		rec := testkit.NewRecorder()
		var c *tcpclient.Client
		var took time.Duration
		inside := make(chan error, 1)
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace(), Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if c == nil {
				return nil
			}
			start := time.Now()
			err := c.Close()
			took = time.Since(start)
			assert.Error(t, ctx.Err(), "Close ends the Handshake's context")
			assert.Error(t, conn.Send(context.Background(), []byte("too late")))
			inside <- err
			return nil
		}}
		client, p := l.Connect(t, d)
		c = client
		testkit.HangUp(p)
		require.NoError(t, <-inside)
		require.LessOrEqual(t, took, 1100*time.Millisecond)
		synctest.Wait()
		_, end := l.AcceptPeer(t).Next()
		require.Error(t, end)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.Len(t, rec.All("Connected"), 1)
		require.NoError(t, c.Close())
	})

	onlyBubble("Close ends it, and a connection that it hands over late is closed", func(t *testing.T) { // P7, L3
		for name, hang := range map[string]func(ctx context.Context, conn *tcpclient.Conn) error{
			"receiving": func(ctx context.Context, conn *tcpclient.Conn) error {
				_, err := conn.Receive(context.Background())
				return err
			},
			"heeding":      func(ctx context.Context, conn *tcpclient.Conn) error { <-ctx.Done(); return ctx.Err() },
			"heeding, nil": func(ctx context.Context, conn *tcpclient.Conn) error { <-ctx.Done(); return nil },
			"deaf":         func(ctx context.Context, conn *tcpclient.Conn) error { time.Sleep(time.Minute); return nil },
		} {
			l := testkit.ListenMemory(t)
			rec := testkit.NewRecorder()
			var n atomic.Int32
			c, p := l.Connect(t, tcpclient.Dialer{Timeout: -1, Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace(), Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				if n.Add(1) == 1 {
					return nil
				}
				return hang(ctx, conn)
			}})
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
			synctest.Wait()
			start := time.Now()
			require.NoError(t, c.Close())
			if name == "deaf" {
				require.Equal(t, time.Second, time.Since(start))
			} else {
				require.Zero(t, time.Since(start), name)
			}
			_, end := p.Next()
			require.Error(t, end)
			time.Sleep(2 * time.Minute) // until the deaf one has returned
			synctest.Wait()
			require.Len(t, rec.All("Connected"), 1, name)
			rec.RequireOrder(t, 1)
		}
	})

	onlyBubble("Permanent(nil) is no error, and Permanent keeps its cause", func(t *testing.T) {
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
			Handshake: func(context.Context, *tcpclient.Conn) error { return tcpclient.Permanent(nil) },
		}, func(p *testkit.Peer) { p.Echo() })
		require.NoError(t, err)
		require.NoError(t, c.Close())
		_, err = testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{
			Handshake: func(context.Context, *tcpclient.Conn) error { return tcpclient.Permanent(io.ErrNoProgress) },
		}, func(p *testkit.Peer) { p.Echo() })
		require.ErrorIs(t, err, io.ErrNoProgress)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})

	onlyBubble("is made anew on every connection", func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		var count atomic.Int32
		wait := l.StartDial(t, t.Context(), tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			count.Add(1)
			return testkit.Login(ctx, conn)
		}})
		p := l.AcceptPeer(t)
		p.Send("welcome")
		c := wait()
		for i := range 10 {
			require.Equal(t, "login", p.Receive(), "nothing goes ahead of it")
			require.NoError(t, c.Send(t.Context(), []byte("hello")))
			require.Equal(t, "hello", p.Receive())
			require.EqualValues(t, i+1, count.Load())
			testkit.HangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			sent := make(chan error, 1)
			go func() { sent <- c.Send(t.Context(), []byte("waits for the handshake")) }()
			p = l.AcceptPeer(t)
			synctest.Wait()
			require.Empty(t, sent)
			p.Send("welcome")
			require.NoError(t, <-sent)
			require.Equal(t, "login", p.Receive())
			require.Equal(t, "waits for the handshake", p.Receive())
			require.NoError(t, c.Send(t.Context(), []byte("x")))
			require.Equal(t, "x", p.Receive())
			testkit.HangUp(p)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			p = l.AcceptPeer(t)
			p.Send("welcome")
			count.Add(-1)
		}
	})
}

// overRaw runs test on the kinds of connections that may be below TLS: a socket, one in memory that
// is used as one, and a foreign one, of which the deadlines are emulated.
func overRaw(t *testing.T, test func(t *testing.T, tr testkit.Transport)) {
	t.Run("tcp", func(t *testing.T) { test(t, testkit.TransportNamed("tcp")) })
	t.Run("memory", testkit.InBubble(func(t *testing.T) { test(t, testkit.TransportNamed("memory")) }))
	t.Run("foreign", testkit.InBubble(func(t *testing.T) {
		test(t, testkit.Transport{Name: "foreign", Listen: func(t testing.TB) *testkit.Listener {
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			l.Setup = func(d *tcpclient.Dialer) {
				d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return &muxStream{Conn: conn} })
			}
			return l
		}})
	}))
}

func TestConnSetFramer(t *testing.T) {
	greet := func(ctx context.Context, conn *tcpclient.Conn) error { // as with RFB
		version, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		if err := conn.Send(ctx, version); err != nil {
			return err
		}
		return conn.SetFramer(nil)
	}
	line := func(t *testing.T, p *testkit.Peer) string {
		s, err := p.In.ReadString('\n')
		assert.NoError(t, err)
		return s
	}

	t.Run("counts from the next message on, both ways, in the Handshake and after it", func(t *testing.T) { // P1, E7
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			c, err := tr.ShakeHands(t, tcpclient.Dialer{Framer: tcpclient.Lines{}, Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				if err := greet(ctx, conn); err != nil {
					return err
				}
				return testkit.Login(ctx, conn)
			}}, func(p *testkit.Peer) {
				p.Raw(append([]byte("RFB 003.008\n"), testkit.Frames("welcome", "and more")...)) // all in one
				assert.Equal(t, "RFB 003.008\n", line(t, p))
				assert.Equal(t, "login", p.Receive())
				p.Echo()
			})
			require.NoError(t, err)
			for _, want := range []string{"and more", "with\na line end"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
				require.NoError(t, c.Send(t.Context(), []byte("with\na line end")))
			}
			require.NoError(t, c.Close())
		})
	})

	t.Run("keeps what was read ahead, wherever that is cut", testkit.InBubble(func(t *testing.T) { // P1, E7
		stream := append([]byte("hello\n"), testkit.Frames("a", "bc")...)
		for cut := range len(stream) + 1 {
			c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Framer: tcpclient.Lines{}, Handshake: greet}, func(p *testkit.Peer) {
				p.Raw(stream[:cut])
				time.Sleep(time.Second)
				p.Write(stream[cut:])
				io.Copy(io.Discard, p)
			})
			require.NoError(t, err)
			for _, want := range []string{"a", "bc"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
			require.NoError(t, c.Close())
		}
	}))

	t.Run("gives a Framer of the user all of ReadBuffer", testkit.InBubble(func(t *testing.T) { // E7
		const size = 60 << 10
		whole := testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			p, err := r.Peek(size)
			if err != nil {
				return dst, err
			}
			dst = append(dst, p...)
			r.Discard(size)
			return dst, nil
		}}
		want := testkit.PatternText(size)
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Framer: tcpclient.Lines{}, Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil {
				return err
			}
			if err := conn.SetFramer(whole); err != nil {
				return err
			}
			msg, err := conn.Receive(ctx)
			assert.True(t, want == string(msg))
			return err
		}}, func(p *testkit.Peer) {
			p.Raw([]byte("hello\n" + want))
			p.Raw([]byte(want))
			io.Copy(io.Discard, p)
		})
		require.NoError(t, err)
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.True(t, want == string(msg))
		require.NoError(t, c.Close())
	}))

	t.Run("refuses bad settings, and the old Framer stays", testkit.InBubble(func(t *testing.T) { // E7
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			err := conn.SetFramer(tcpclient.LengthPrefix{Width: 9})
			assert.ErrorContains(t, err, "LengthPrefix.Width 9")
			assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			return testkit.Login(ctx, conn)
		}}, func(p *testkit.Peer) {
			assert.Equal(t, "login", p.Receive())
			p.Send("welcome")
			p.Echo()
		})
		require.NoError(t, err)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.NoError(t, c.Close())
	}))

	t.Run("fails after the Handshake, and on a connection that has ended", testkit.InBubble(func(t *testing.T) {
		var kept *tcpclient.Conn
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
			kept = conn
			return nil
		}}, func(p *testkit.Peer) { p.Echo() })
		require.NoError(t, err)
		require.ErrorIs(t, kept.SetFramer(tcpclient.Lines{}), tcpclient.ErrClosed)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.NoError(t, c.Close())

		_, err = testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			_, err := conn.Receive(testkit.Within(t, time.Second))
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.ErrorIs(t, conn.SetFramer(nil), tcpclient.ErrDisconnected)
			return nil
		}}, func(p *testkit.Peer) { p.Echo() })
		require.Error(t, err)
	}))

	t.Run("is forgotten with its connection", testkit.InBubble(func(t *testing.T) { // P8, E7
		l := testkit.ListenMemory(t)
		wait := l.StartDial(t, t.Context(), tcpclient.Dialer{Framer: tcpclient.Lines{}, Handshake: greet, Reconnect: &tcpclient.Backoff{}})
		for i := range 3 {
			p := l.AcceptPeer(t)
			p.Raw(append([]byte("hello\n"), testkit.Frame("two\nlines")...))
			require.Equal(t, "hello\n", line(t, p))
			c := wait()
			wait = func() *tcpclient.Client { return c }
			msg, err := c.Receive(t.Context())
			require.NoError(t, err, i)
			require.Equal(t, "two\nlines", string(msg))
			require.NoError(t, c.Send(t.Context(), []byte("x")))
			require.Equal(t, "x", p.Receive())
			testkit.HangUp(p)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		}
	}))
}

func TestConnDeliver(t *testing.T) {
	// subscribe is a Handshake for servers that send before they answer, as those of MQTT do.
	subscribe := func(ctx context.Context, conn *tcpclient.Conn) error {
		if err := conn.Send(ctx, []byte("subscribe")); err != nil {
			return err
		}
		for {
			msg, err := conn.Receive(ctx)
			if err != nil || string(msg) == "subscribed" {
				return err
			}
			conn.Deliver(msg)
			clear(msg)
		}
	}
	requireReceived := func(t *testing.T, c *tcpclient.Client, want ...string) {
		t.Helper()
		for _, want := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
	}

	t.Run("hands over what came ahead of the answer, before all that follows", func(t *testing.T) { // P3, E5
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			c, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: subscribe}, func(p *testkit.Peer) {
				assert.Equal(t, "subscribe", p.Receive())
				p.Send("one", "", "three", "subscribed", "four")
				p.Echo()
			})
			require.NoError(t, err)
			require.NoError(t, c.Send(t.Context(), []byte("five")))
			requireReceived(t, c, "one", "", "three", "four", "five")
			require.EqualValues(t, 5, c.Stats().MessagesReceived)
			require.NoError(t, c.Close())
		})
	})

	t.Run("may exceed the Inbox, after which the connection is read once there is room", testkit.InBubble(func(t *testing.T) { // P6, E5
		want := append(testkit.Numbered(100, 1000), testkit.PatternText(1<<20))
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Inbox: 1000, Handshake: subscribe}, func(p *testkit.Peer) {
			p.Receive()
			p.Send(append(want, "subscribed", "later")...)
			p.Echo()
		})
		require.NoError(t, err)
		synctest.Wait()
		require.Greater(t, c.Stats().InboxBytes, 1<<20)
		require.EqualValues(t, len(want), c.Stats().MessagesReceived, "the connection was read although there was no room")
		requireReceived(t, c, append(want, "later")...)
		require.NoError(t, c.Close())
	}))

	t.Run("passes neither the Heartbeat nor the Calls", testkit.InBubble(func(t *testing.T) { // E5
		h := testkit.Pinging()
		h.Answer = func(msg []byte) ([]byte, bool) { return []byte("answer"), string(msg) == "ping?" }
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Heartbeat: h, Handshake: subscribe}, func(p *testkit.Peer) {
			assert.Equal(t, "subscribe", p.Receive())
			p.Send("pong", "ping?", "subscribed")
			assert.Equal(t, "request", p.Receive())
			p.Send("reply")
			io.Copy(io.Discard, p)
		})
		require.NoError(t, err)
		reply, err := c.Call(t.Context(), []byte("request"))
		require.NoError(t, err)
		require.Equal(t, "reply", string(reply))
		requireReceived(t, c, "pong", "ping?")
		require.NoError(t, c.Close())
	}))

	t.Run("is in its place in the stream, and dropped with an attempt that fails", testkit.InBubble(func(t *testing.T) { // P3, P8, E5
		l := testkit.ListenMemory(t)
		wait := l.StartDial(t, t.Context(), tcpclient.Dialer{Handshake: subscribe, Reconnect: &tcpclient.Backoff{}})
		p := l.AcceptPeer(t)
		p.Send("a1", "subscribed", "a2")
		c := wait()
		synctest.Wait()
		testkit.HangUp(p)

		p = l.AcceptPeer(t)
		p.Send("b1")
		synctest.Wait()
		testkit.HangUp(p)

		p = l.AcceptPeer(t)
		p.Send("c1", "subscribed", "c2")
		synctest.Wait()
		requireReceived(t, c, "a1", "a2")
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		requireReceived(t, c, "c1", "c2")
		require.EqualValues(t, 4, c.Stats().MessagesReceived)
	}))

	t.Run("does nothing after the Handshake", testkit.InBubble(func(t *testing.T) { // E5
		var kept *tcpclient.Conn
		c, err := testkit.TransportNamed("memory").ShakeHands(t, tcpclient.Dialer{Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
			kept = conn
			conn.Deliver([]byte("before"))
			return nil
		}}, func(p *testkit.Peer) { p.Echo() })
		require.NoError(t, err)
		kept.Deliver([]byte("after"))
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		requireReceived(t, c, "before", "hello")
		require.NoError(t, c.Close())
	}))
}

func TestPreamble(t *testing.T) {
	// readLine reads from conn, byte by byte, so that what follows stays there.
	readLine := func(conn net.Conn) (line string, err error) {
		for b := make([]byte, 1); err == nil && !strings.HasSuffix(line, "\n"); {
			if _, err = io.ReadFull(conn, b); err == nil {
				line += string(b)
			}
		}
		return line, err
	}
	const header = "PROXY TCP4 192.0.2.1 192.0.2.2 50000 6000\r\n"
	// exchange is the Handshake of a protocol that begins with a header and two versions.
	exchange := func(ctx context.Context, conn *tcpclient.Conn) error {
		if _, err := io.WriteString(conn.NetConn(), header+"version 1\n"); err != nil {
			return err
		}
		version, err := readLine(conn.NetConn())
		assert.Equal(t, "version 2\n", version)
		if err != nil {
			return err
		}
		return testkit.Login(ctx, conn)
	}
	answer := func(t *testing.T, p *testkit.Peer) {
		for _, want := range []string{header, "version 1\n"} {
			line, err := p.In.ReadString('\n')
			assert.NoError(t, err)
			assert.Equal(t, want, line)
		}
		p.Raw(append([]byte("version 2\n"), testkit.Frames("welcome", "and more")...)) // ahead of the login
		assert.Equal(t, "login", p.Receive())
		p.Echo()
	}
	requireFrames := func(t *testing.T, c *tcpclient.Client) {
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		for _, want := range []string{"and more", "hello"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
		require.NoError(t, c.Close())
	}

	test := func(t *testing.T, tr testkit.Transport) {
		c, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: exchange}, func(p *testkit.Peer) { answer(t, p) })
		require.NoError(t, err)
		requireFrames(t, c)
	}
	t.Run("goes through NetConn ahead of the frames, in the clear", func(t *testing.T) { // P1, E6
		overRaw(t, test)
	})

	t.Run("goes through NetConn ahead of the frames, in TLS", func(t *testing.T) { // P1, E6
		test(t, testkit.TransportNamed("tls"))
	})

	t.Run("goes ahead of TLS, and another one into it", func(t *testing.T) { // P1, E6
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			server, client := clientTLS(tr)
			c, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				if _, err := conn.NetConn().Write([]byte("\x00\x00\x00\x08\x04\xd2\x16\x2f")); err != nil { // SSLRequest of PostgreSQL
					return err
				}
				agreed := make([]byte, 1)
				if _, err := io.ReadFull(conn.NetConn(), agreed); err != nil {
					return err
				}
				assert.Equal(t, "S", string(agreed))
				if err := conn.StartTLS(ctx, client); err != nil {
					return err
				}
				return exchange(ctx, conn)
			}}, func(p *testkit.Peer) {
				request := make([]byte, 8)
				_, err := io.ReadFull(p.In, request)
				assert.NoError(t, err)
				p.Raw([]byte("S"))
				answer(t, upgraded(t, p, server))
			})
			require.NoError(t, err)
			requireFrames(t, c)
		})
	})

	t.Run("that does not come ends with the Timeout", func(t *testing.T) { // P5
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			_, err := tr.ShakeHands(t, tcpclient.Dialer{Timeout: 100 * time.Millisecond, Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
				_, err := readLine(conn.NetConn())
				return err
			}}, func(p *testkit.Peer) { io.Copy(io.Discard, p) })
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	})
}

func TestConnStartTLSAndBytesInTheClear(t *testing.T) {
	t.Run("nothing that came in the clear is read after a StartTLS that failed", testkit.InBubble(func(t *testing.T) { // E6
		l := testkit.ListenMemory(t)
		var msg []byte
		var startErr, err error
		dial := testkit.Start(t, func() error {
			_, dialErr := l.TryDial(t.Context(), tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				if _, err := conn.Receive(ctx); err != nil {
					return err
				}
				startErr = conn.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true})
				msg, err = conn.Receive(ctx)
				return nil
			}})
			return dialErr
		})
		p := l.AcceptPeer(t)
		p.Send("go ahead", "injected")
		require.Error(t, dial())
		require.Error(t, startErr)
		require.Error(t, err, "received %q", msg)
		require.Empty(t, msg)
	}))
}

func TestConnDeliverMoreThanTheInbox(t *testing.T) {
	t.Run("more than the Inbox, and a Call at once", testkit.InBubble(func(t *testing.T) { // E5
		l := testkit.ListenMemory(t)
		wait := l.StartDial(t, t.Context(), tcpclient.Dialer{Inbox: 1000, Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			for range 3 {
				conn.Deliver(make([]byte, 600))
			}
			return nil
		}})
		p := l.AcceptPeer(t)
		c := wait()
		go p.Echo()
		call := startCall(t, t.Context(), c, "x")
		for range 3 {
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
		reply, err := call()
		require.NoError(t, err)
		require.Equal(t, "x", reply)
		require.Zero(t, c.Stats().InboxBytes)
		require.EqualValues(t, 4, c.Stats().MessagesReceived)
	}))
}

func TestConnDeliverOnManyConnections(t *testing.T) {
	t.Run("of which none is received from takes no more than the Inbox and one Handshake bring", testkit.InBubble(func(t *testing.T) { // P6, E5
		l := testkit.ListenMemory(t)
		l.Each(func(conn net.Conn) { io.Copy(io.Discard, conn) })
		c, err := l.TryDial(t.Context(), tcpclient.Dialer{
			Inbox:     1000,
			Reconnect: &tcpclient.Backoff{Min: 1, Max: 1},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				for range 3 {
					conn.Deliver(make([]byte, 600))
				}
				return nil
			},
		})
		require.NoError(t, err)
		for range 50 {
			synctest.Wait()
			c.Disconnect(nil)
			time.Sleep(time.Second)
		}
		require.Greater(t, c.Stats().Connects, uint64(50))
		require.Less(t, c.Stats().InboxBytes, 1000+4*1000)
		require.NoError(t, c.Close())
	}))
}

func TestConnSetFramerAfterReadingAhead(t *testing.T) {
	t.Run("to a user's Framer that peeks at all that was read ahead", testkit.InBubble(func(t *testing.T) { // E7
		l := testkit.ListenMemory(t)
		peeker := testkit.FuncFramer{
			Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
				p, err := r.Peek(3000)
				if err != nil {
					if len(p) == 0 {
						return dst, err
					}
					return dst, io.ErrUnexpectedEOF
				}
				dst = append(dst, p...)
				r.Discard(3000)
				return dst, nil
			},
			Write: tcpclient.LengthPrefix{}.WriteFrame,
		}
		wait := l.StartDial(t, t.Context(), tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil {
				return err
			}
			return conn.SetFramer(peeker)
		}})
		p := l.AcceptPeer(t)
		p.Raw(append(testkit.Frame("hello"), []byte(strings.Repeat("a", 3000)+strings.Repeat("b", 3000))...))
		c := wait()
		for _, want := range []string{"a", "b"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, strings.Repeat(want, 3000), string(msg))
		}
	}))
}

func TestConnStartTLSToAnUntrustedServer(t *testing.T) {
	t.Run("of a server that is not trusted ends the Client, whatever the Handshake returns", func(t *testing.T) { // E6, P8
		l := testkit.ListenTCP(t)
		server, _ := tcpclienttest.NewTLSConfig()
		go func() {
			for {
				raw, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					raw.Write(testkit.Frame("go ahead"))
					tls.Server(raw, server).Handshake()
					raw.Close()
				}()
			}
		}()
		attempts := 0
		_, err := l.TryDial(testkit.Within(t, 10*time.Second), tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond, FirstDial: true},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				attempts++
				conn.Receive(ctx)
				conn.StartTLS(ctx, &tls.Config{ServerName: "example.com", RootCAs: x509.NewCertPool()})
				return nil
			},
		})
		t.Log(err)
		require.Error(t, err)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Equal(t, 1, attempts)
	})
}

func TestConnStartTLSOnADeadConnection(t *testing.T) {
	t.Run("nor after a StartTLS that came too late", testkit.InBubble(func(t *testing.T) { // E6
		l := testkit.ListenMemory(t)
		var msg []byte
		var startErr, err error
		dial := testkit.Start(t, func() error {
			_, dialErr := l.TryDial(t.Context(), tcpclient.Dialer{Timeout: time.Second, Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				if _, err := conn.Receive(ctx); err != nil {
					return err
				}
				time.Sleep(2 * time.Second) // Timeout ends the connection meanwhile
				startErr = conn.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true})
				msg, err = conn.Receive(t.Context())
				return nil
			}})
			return dialErr
		})
		p := l.AcceptPeer(t)
		p.Send("go ahead", "injected")
		require.Error(t, dial())
		require.Error(t, startErr)
		require.Error(t, err, "received %q", msg)
		require.Empty(t, msg)
	}))
}

// A connection whose write has failed is read on for its last words. These are not to be read in the
// clear, either.
func TestConnStartTLSAfterAFailedWrite(t *testing.T) { // E6
	l := testkit.ListenUnix(t)
	failed, done := make(chan struct{}), make(chan struct{})
	var served sync.WaitGroup
	served.Go(func() {
		s, err := l.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		s.(*net.UnixConn).CloseRead() // so that the client's next write fails
		s.Write([]byte("\x00\x00\x00\x02go"))
		<-failed // the client's write has failed; the socket is still read for readOnTime
		s.Write([]byte("\x00\x00\x00\x08injected"))
		<-done
	})
	defer served.Wait()
	defer close(done)
	var startErr, recvErr error
	var msg []byte
	_, err := (&tcpclient.Dialer{Timeout: 20 * time.Second, WriteTimeout: 100 * time.Millisecond,
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil {
				return err
			}
			err := conn.Send(ctx, []byte("x"))
			assert.Error(t, err)
			startErr = conn.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true})
			close(failed)
			msg, recvErr = conn.Receive(ctx)
			return nil
		}}).Dial(t.Context(), "unix", l.Addr().String())
	require.Error(t, err)
	require.Error(t, startErr)
	require.Error(t, recvErr, "received %q in the clear after a StartTLS that failed: %v", msg, startErr)
}
