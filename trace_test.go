package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTrace(t *testing.T) {
	t.Run("tells every transition, in order", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		rec := testkit.NewRecorder()
		fails := 0
		inner := new(tcpclient.Dialer)
		l.Setup(inner)
		c, p := l.Connect(t, tcpclient.Dialer{
			Trace: rec.Trace(), Heartbeat: testkit.Pinging(), Reconnect: &tcpclient.Backoff{},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if fails > 0 {
					fails--
					return nil, testkit.ErrRefused
				}
				return inner.DialContext(ctx, network, address)
			},
		})
		require.Equal(t, "ping", p.Receive())
		time.Sleep(time.Second)
		p.Send("pong")
		fails = 2
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		testkit.RequireAliveAfterLoss(t, c, p)
		require.NoError(t, c.Close())

		addr := l.Addr().String()
		var got []string
		for _, e := range rec.All() {
			if e.Address != "" {
				require.Equal(t, addr, e.Address)
			}
			got = append(got, fmt.Sprint(e.Kind, " ", e.Attempt))
		}
		require.Equal(t, []string{
			"Connecting 1", "Connected 1", "Pong 0", "Disconnected 0",
			"Waiting 1", "Connecting 1", "ConnectFailed 1",
			"Waiting 2", "Connecting 2", "ConnectFailed 2",
			"Waiting 3", "Connecting 3", "Connected 3", "Disconnected 0",
		}, got)
		lost := rec.All("Disconnected")
		require.ErrorIs(t, lost[0].Err, io.EOF)
		require.ErrorIs(t, lost[0].Err, tcpclient.ErrDisconnected)
		require.True(t, lost[1].Err == tcpclient.ErrClosed)
		require.Equal(t, time.Second, rec.All("Pong")[0].Delay)
		for _, e := range rec.All("ConnectFailed") {
			require.ErrorIs(t, e.Err, testkit.ErrRefused)
			require.Equal(t, "dial", testkit.OpError(t, e.Err).Op)
		}
	}))

	t.Run("a failed Dial is told as well", testkit.InBubble(func(t *testing.T) {
		rec := testkit.NewRecorder()
		l := testkit.ListenMemory(t)
		l.Close()
		_, err := l.TryDial(t.Context(), tcpclient.Dialer{Trace: rec.Trace()})
		require.ErrorIs(t, err, testkit.ErrRefused)
		require.Len(t, rec.All("Connecting"), 1)
		require.Len(t, rec.All("ConnectFailed"), 1, "Dial returns when it was told")
	}))

	t.Run("our own end is ErrClosed, whoever hangs up first", func(t *testing.T) {
		testkit.EachTransport(t, transporttest.OwnEnd)
	})

	t.Run("without a function nothing happens", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Trace: &tcpclient.Trace{}, Reconnect: &tcpclient.Backoff{}, Heartbeat: testkit.Pinging()})
		require.Equal(t, "ping", p.Receive())
		p.Send("pong")
		testkit.HangUp(p)
		testkit.RequireAliveAfterLoss(t, c, l.AcceptPeer(t))
		require.NoError(t, c.Close())
	}))

	t.Run("a function that blocks delays Close by its second and nothing else", testkit.InBubble(func(t *testing.T) { // L16, P7
		block := make(chan struct{})
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{Connected: func(string, int, time.Duration) { <-block }}})
		testkit.RequireAlive(t, c, p)
		start := time.Now()
		require.NoError(t, c.Close())
		require.Equal(t, time.Second, time.Since(start))
		close(block)
		synctest.Wait()
	}))

	t.Run("its goroutine is gone when nothing happens", func(t *testing.T) { // P6
		rec := testkit.NewRecorder()
		c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Trace: rec.Trace()})
		testkit.RequireAlive(t, c, p)
		testkit.Eventually(t, "the tracer has ended", func() bool {
			return !strings.Contains(testkit.Stacks(), "tracer") && strings.Contains(testkit.Stacks(), "tcpclient.(*Client).run")
		})
		require.NoError(t, c.Close())
	})
}

// Close and the other methods from every callback there is.
func TestCallbacksMayCallTheClient(t *testing.T) {
	var client atomic.Pointer[tcpclient.Client]
	// hooks are the callbacks; each makes a Dialer in which hook is called.
	hooks := map[string]func(hook func()) tcpclient.Dialer{
		"Connecting": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{Connecting: func(string, int) { hook() }}}
		},
		"Connected": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{Connected: func(string, int, time.Duration) { hook() }}}
		},
		"ConnectFailed": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{ConnectFailed: func(string, int, error) { hook() }}}
		},
		"Disconnected": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{Disconnected: func(string, error) { hook() }}}
		},
		"Waiting": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{Waiting: func(int, time.Duration) { hook() }}}
		},
		"Pong": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{Pong: func(time.Duration) { hook() }}}
		},
		"LateReply": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Trace: &tcpclient.Trace{LateReply: func([]byte) { hook() }}}
		},
		"Ping": func(hook func()) tcpclient.Dialer {
			h := testkit.Pinging()
			h.Ping = func() []byte { hook(); return []byte("ping") }
			return tcpclient.Dialer{Heartbeat: h}
		},
		"IsPong": func(hook func()) tcpclient.Dialer {
			h := testkit.Pinging()
			h.IsPong = func(msg []byte) bool { hook(); return string(msg) == "pong" }
			return tcpclient.Dialer{Heartbeat: h}
		},
		"Answer": func(hook func()) tcpclient.Dialer {
			h := testkit.Pinging()
			h.Answer = func([]byte) ([]byte, bool) { hook(); return nil, false }
			return tcpclient.Dialer{Heartbeat: h}
		},
		"Handshake": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Handshake: func(context.Context, *tcpclient.Conn) error { hook(); return nil }}
		},
		"DialContext": func(hook func()) tcpclient.Dialer { return tcpclient.Dialer{} }, // below
		"SplitReply":  func(hook func()) tcpclient.Dialer { return tcpclient.Dialer{Correlator: hookedCorrelator{hook}} },
		"ReadFrame": func(hook func()) tcpclient.Dialer {
			return tcpclient.Dialer{Framer: hookedFramer{tcpclient.LengthPrefix{}, hook}}
		},
	}
	for name, with := range hooks {
		for _, method := range []string{"Close", "Shutdown", "Stats"} {
			t.Run(fmt.Sprintf("%s from %s", method, name), testkit.InBubble(func(t *testing.T) { // L5, P7
				client.Store(nil)
				var once sync.Once
				took := make(chan time.Duration, 1)
				hook := func() {
					c := client.Load()
					if c == nil {
						return
					}
					once.Do(func() {
						start := time.Now()
						switch method {
						case "Close":
							c.Close()
						case "Shutdown":
							ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
							defer cancel()
							c.Shutdown(ctx)
						case "Stats":
							c.Stats()
							c.LocalAddr()
							c.RemoteAddr()
						}
						took <- time.Since(start)
					})
				}
				d := with(hook)
				l := testkit.ListenMemory(t)
				l.Setup(&d)
				dial := d.DialContext
				fails := 0
				d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if name == "DialContext" {
						hook()
					}
					if fails > 0 {
						fails--
						return nil, testkit.ErrRefused
					}
					return dial(ctx, network, address)
				}
				if d.Heartbeat.Interval == 0 {
					d.Heartbeat = testkit.Pinging()
				}
				d.Reconnect = &tcpclient.Backoff{}
				c, p := l.Connect(t, d)
				client.Store(c)
				if name == "SplitReply" {
					go c.Call(t.Context(), []byte("calls are used"))
				}
				if name == "LateReply" {
					giveUp(t, c, "the reply is late")
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					for i := 0; len(took) == 0 && i < 3; i++ {
						p.Write(testkit.Frame("data"))
						for range 3 {
							if _, err := p.Next(); err != nil {
								break
							}
							if _, err := p.Write(testkit.Frames("pong", "data")); err != nil {
								break
							}
						}
						fails = 1
						testkit.HangUp(p)
						if i < 2 {
							conn, err := l.Accept()
							if err != nil {
								return
							}
							p = testkit.NewPeer(t, conn)
						}
					}
				}()
				select {
				case d := <-took:
					require.LessOrEqual(t, d, 1200*time.Millisecond)
				case <-time.After(10 * time.Minute):
					require.Fail(t, "the callback was not called, or has not returned", testkit.Stacks())
				}
				l.Close()
				c.Close()
				<-done
				time.Sleep(time.Minute)
				_, err := c.Receive(t.Context())
				for errors.Is(err, tcpclient.ErrDisconnected) || err == nil {
					_, err = c.Receive(t.Context())
				}
				require.ErrorIs(t, err, tcpclient.ErrClosed)
			}))
		}
	}
}

type hookedCorrelator struct{ hook func() }

func (k hookedCorrelator) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	return tcpclient.IDPrefix{}.AppendRequest(dst, id, request)
}

func (k hookedCorrelator) SplitReply(msg []byte) (uint64, []byte, bool) {
	k.hook()
	return tcpclient.IDPrefix{}.SplitReply(msg)
}

type hookedFramer struct {
	tcpclient.LengthPrefix
	hook func()
}

func (f hookedFramer) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg, err := f.LengthPrefix.ReadFrame(r, dst)
	f.hook()
	return msg, err
}

func TestSlogTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "delay" {
				return slog.Attr{}
			}
			return a
		}}))
		l := testkit.ListenMemory(t)
		fails := 0
		inner := new(tcpclient.Dialer)
		l.Setup(inner)
		c, p := l.Connect(t, tcpclient.Dialer{
			Trace: tcpclient.SlogTrace(log), Heartbeat: testkit.Pinging(), Reconnect: &tcpclient.Backoff{},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if fails > 0 {
					fails--
					return nil, testkit.ErrRefused
				}
				return inner.DialContext(ctx, network, address)
			},
		})
		require.Equal(t, "ping", p.Receive())
		time.Sleep(time.Second)
		p.Send("pong")
		fails = 1
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		testkit.RequireAliveAfterLoss(t, c, p)
		giveUp(t, c, "payment")
		p.Send("receipt")
		synctest.Wait()
		require.NoError(t, c.Close())
		require.Equal(t, `level=DEBUG msg=connecting address=server:1 attempt=1
level=INFO msg=connected address=server:1 attempt=1 took=0s
level=DEBUG msg=pong rtt=1s
level=WARN msg=disconnected address=server:1 error="disconnected: EOF"
level=INFO msg="waiting to reconnect" attempt=1
level=DEBUG msg=connecting address=server:1 attempt=1
level=WARN msg="connect failed" address=server:1 attempt=1 error="tcpclient: dial server:1: connection refused"
level=INFO msg="waiting to reconnect" attempt=2
level=DEBUG msg=connecting address=server:1 attempt=2
level=INFO msg=connected address=server:1 attempt=2 took=0s
level=INFO msg="late reply" bytes=7
level=INFO msg=disconnected address=server:1 error="client closed"
`, out.String())
	})
}

// A lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestStats(t *testing.T) {
	t.Run("counts over all connections", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		require.Equal(t, tcpclient.Stats{Connects: 1, Connected: true}, c.Stats())
		for range 3 {
			require.NoError(t, c.Send(t.Context(), []byte("four")))
			require.Equal(t, "four", p.Receive())
			p.Send("fives", "")
			synctest.Wait()
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
			synctest.Wait()
		}
		require.Equal(t, tcpclient.Stats{
			MessagesReceived: 6, BytesReceived: 15, MessagesSent: 3, BytesSent: 24, Flushes: 3, Connects: 4, Connected: true,
			InboxBytes: 6*64 + 15,
		}, c.Stats())
		require.NoError(t, c.Close())
		require.False(t, c.Stats().Connected)
	}))

	t.Run("Connected follows the connection", testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		l.Close()
		testkit.HangUp(p)
		synctest.Wait()
		require.False(t, c.Stats().Connected)
		require.EqualValues(t, 1, c.Stats().Connects)
		require.NoError(t, c.Close())
	}))

	t.Run("may be polled while everything goes on", func(t *testing.T) {
		testkit.SkipIfShort(t)
		l := testkit.ListenTCP(t)
		l.Each(func(conn net.Conn) {
			io.CopyN(conn, conn, int64(rand.IntN(1000)))
			conn.Close()
		})
		c := l.Dial(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				last := tcpclient.Stats{}
				for {
					select {
					case <-stop:
						return
					default:
					}
					s := c.Stats()
					if s.MessagesReceived < last.MessagesReceived || s.BytesSent < last.BytesSent || s.Connects < last.Connects {
						assert.Fail(t, "a counter went back", "%+v after %+v", s, last)
					}
					last = s
					runtime.Gosched() // the others have more to do
				}
			})
		}
		for c.Stats().Connects < 20 {
			if err := c.Send(t.Context(), []byte("hello")); err != nil {
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			c.Receive(ctx)
			cancel()
		}
		close(stop)
		wg.Wait()
		require.NoError(t, c.Close())
	})

	t.Run("does not allocate", func(t *testing.T) { // P12
		c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{})
		require.Zero(t, testing.AllocsPerRun(100, func() { c.Stats() }))
	})
}

func TestStatsCountMessagesAndBytes(t *testing.T) {
	c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
	require.Equal(t, tcpclient.Stats{Connects: 1, Connected: true}, c.Stats())
	require.NoError(t, c.Write(t.Context(), []byte("one")))
	require.Zero(t, c.Stats().MessagesSent, "not handed to the network yet")
	require.NoError(t, c.Send(t.Context(), []byte("three")))
	p.Send("twelve bytes", "", "x")
	for range 3 {
		_, err := c.Receive(t.Context())
		require.NoError(t, err)
	}
	want := tcpclient.Stats{MessagesReceived: 3, BytesReceived: 13, MessagesSent: 2, BytesSent: 16, Flushes: 1, Connects: 1, Connected: true}
	require.Equal(t, want, c.Stats())
	require.NoError(t, c.Close())
	want.Connected = false
	require.Equal(t, want, c.Stats(), "the counters stay")
}

func TestStatsAtTheEnd(t *testing.T) {
	t.Run("count messages that came with the end of their connection", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		p.Raw(append(testkit.Frames("one", "two"), 0xff, 0xff, 0xff, 0xff))
		msgs, end := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"one", "two"}, msgs)
		require.ErrorIs(t, end, tcpclient.ErrDisconnected)
		require.NoError(t, c.Close())
		require.EqualValues(t, 2, c.Stats().MessagesReceived)
		require.EqualValues(t, 6, c.Stats().BytesReceived)
	}))
}

// A ping that was never handed over does not count as sent.
func TestStatsDoNotCountAPingThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { return testkit.Pattern(1000) },
		}})
		time.Sleep(1500 * time.Millisecond) // a tenth of it has left
		p.Reset()
		_, err := c.Receive(t.Context())
		require.Error(t, err)
		require.Zero(t, c.Stats().MessagesSent)
		require.Zero(t, c.Stats().BytesSent)
	})
}

// A function that blocks holds up no more than so many events. What is dropped is counted, and of a
// connection both events are dropped or none.
func TestTraceWhoseFunctionBlocks(t *testing.T) {
	testkit.SkipIfShort(t)
	const most = 1024
	for name, test := range map[string]struct {
		connecting, connected bool // are told, too
		eventsPerConnection   int
	}{
		"Connecting and the two":           {true, true, 3},
		"Connected and Disconnected":       {false, true, 2},
		"Disconnected without a Connected": {false, false, 1},
		"Connecting and Disconnected":      {true, false, 2},
	} {
		t.Run("keeps a bounded number of events: "+name, testkit.InBubble(func(t *testing.T) { // P6, F7
			const conns = most + most/2
			l := testkit.ListenMemory(t)
			release := make(chan struct{})
			rec := testkit.NewRecorder()
			all, trace := rec.Trace(), new(tcpclient.Trace)
			trace.Disconnected = func(address string, err error) {
				<-release
				all.Disconnected(address, err)
			}
			if test.connected {
				trace.Connected = all.Connected
			}
			if test.connecting {
				trace.Connecting = all.Connecting
			}
			c, p := l.Connect(t, tcpclient.Dialer{Trace: trace, Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond}})
			for i := range conns {
				testkit.HangUp(p.Conn)
				_, err := c.Receive(t.Context())
				require.ErrorIs(t, err, io.EOF)
				if p = l.AcceptPeer(t); i == conns-1 {
					p.Send("last")
					_, err := c.Receive(t.Context())
					require.NoError(t, err)
				}
			}
			dropped := c.Stats().TraceDropped
			require.Positive(t, dropped)
			close(release)
			synctest.Wait()
			require.LessOrEqual(t, len(rec.All()), most+3, "beside those that wait one is being told, and one that waits belongs to that")
			require.GreaterOrEqual(t, len(rec.All()), most)

			testkit.HangUp(p.Conn) // that of a connection that was not told
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, io.EOF)
			l.AcceptPeer(t)
			synctest.Wait()               // it is in use
			require.NoError(t, c.Close()) // that of one that was
			require.Equal(t, uint64(conns+2), c.Stats().Connects)
			require.Equal(t, (conns+2)*test.eventsPerConnection, len(rec.All())+int(c.Stats().TraceDropped))

			connected := 0
			for _, e := range rec.All() {
				switch e.Kind {
				case "Connected":
					connected++
				case "Disconnected":
					connected--
				}
				if test.connected {
					require.Contains(t, []int{0, 1}, connected, "Connected and Disconnected in pairs")
				}
			}
			if test.connected {
				require.Zero(t, connected, "a Connected without its Disconnected")
			}
			last := rec.All()[len(rec.All())-1]
			require.Equal(t, "Disconnected", last.Kind)
			require.ErrorIs(t, last.Err, tcpclient.ErrClosed)
		}))
	}

	t.Run("keeps a bounded number of bytes of late replies", testkit.InBubble(func(t *testing.T) { // P6, F7
		const most, size, many = 1 << 20, 100 << 10, 64
		text := strings.Repeat("a", 2*most)
		release := make(chan struct{})
		defer close(release)
		var told []int // sizes
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Framer: tcpclient.LengthPrefix{MaxSize: 4 * most},
			Trace: &tcpclient.Trace{LateReply: func(reply []byte) {
				<-release
				told = append(told, len(reply))
			}},
		})
		comesLate := func(size int) {
			giveUp(t, c, "request")
			p.Receive()
			p.Send(text[:size])
			synctest.Wait()
		}
		tell := func(n int) {
			for range n {
				release <- struct{}{}
			}
			synctest.Wait()
		}

		comesLate(size) // the reader has its memory for such messages
		tell(1)
		before := testkit.MemoryInUse()
		for range many {
			comesLate(size)
		}
		require.Less(t, testkit.MemoryInUse()-before, int64(4*most))
		const kept = most / size // the one that is being told included
		require.EqualValues(t, many-kept, c.Stats().TraceDropped)
		require.EqualValues(t, 1+many, c.Stats().LateReplies, "what is not told is counted")
		tell(kept)
		require.Equal(t, slices.Repeat([]int{size}, 1+kept), told)

		comesLate(2 * most) // one always may, and nothing beside it
		comesLate(1)
		require.EqualValues(t, many-kept+1, c.Stats().TraceDropped)
		tell(1)
		comesLate(most)
		tell(1)
		require.Equal(t, []int{2 * most, most}, told[1+kept:], "told, they are no longer in the way")
		require.EqualValues(t, many-kept+1, c.Stats().TraceDropped)
	}))
}
