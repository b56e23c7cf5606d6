package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// streamFaults are the rows S of FAULTS.md, and Y14.
var streamFaults = map[string]func(t *testing.T){
	"S1 segments of one byte":                         faultOneByte,
	"S2 every split point":                            faultSplit,
	"S3 many frames in one read":                      faultCoalesced,
	"S4 frames around the size of the read buffer":    faultStraddle,
	"S5 FIN between frames":                           onEach(transporttest.FIN),
	"S6 FIN inside a frame":                           onEach(transporttest.FINInside),
	"S7 RST inside a frame":                           faultRST,
	"S15 stalled peer":                                besideOnEach(transporttest.StalledPeer),
	"S16 slow reader":                                 slow(faultSlowReader),
	"S17 frame that trickles for ever":                beside(faultTrickle),
	"S18 partial write, then an error":                faultPartialWrite,
	"S19 short write without an error":                faultShortWrite,
	"S20 server half-close":                           onEach(transporttest.PeerHalfClose),
	"S21 client half-close":                           onEach(transporttest.HalfClose),
	"S23 reads that return data and an error":         faultDataAndError,
	"S23 reads that return nothing":                   faultEmptyReads,
	"S23 reads that lie":                              faultLyingReads,
	"S24 data after Close":                            onEach(transporttest.DataAfterClose),
	"S25 context ends inside a frame":                 faultContextInside,
	"S26 write to a peer that has gone":               onEach(transporttest.GonePeer),
	"writes that lie":                                 faultLyingWrites,
	"Y14 net.Pipe":                                    func(t *testing.T) { faultPipe(t, nil) },
	"Y14 connection that refuses deadlines":           func(t *testing.T) { faultPipe(t, noDeadlines) },
	"Y14 timeouts on a connection without deadlines":  faultNoDeadlines,
	"Y14 Close on a connection without deadlines":     faultNoDeadlinesClose,
	"Y14 tls.Conn from DialContext, slow peer":        faultDialedTLS,
	"Y14 tls.Conn from DialContext, Close when stuck": faultDialedTLSClose,
}

func faultOneByte(t *testing.T) {
	// A network that carries one byte at a time, both ways.
	c, p := testkit.ConnectNarrow(t, 1, tcpclient.Dialer{})
	go p.Echo()
	want := append(testkit.Numbered(50, 30), "", testkit.PatternText(5000))
	sent := testkit.Start(t, func() error {
		for _, msg := range want {
			if err := c.Write(t.Context(), []byte(msg)); err != nil {
				return err
			}
		}
		return c.Flush(t.Context())
	})
	for i := range want {
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, want[i], string(msg))
	}
	require.NoError(t, sent())
}

func faultSplit(t *testing.T) {
	want := []string{"one", "", "three three three"}
	stream := testkit.Frames(want...)
	for cut := range len(stream) + 1 {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			p.Raw(stream[:cut])
			synctest.Wait() // it was read
			p.Raw(stream[cut:])
			p.Close()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got, "cut at %d", cut)
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func faultCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		network := &tcpclienttest.Network{Buffer: 4 << 20}
		var w *testkit.HookedConn
		c, p := testkit.ListenNetwork(t, network).Connect(t, tcpclient.Dialer{Inbox: 4 << 20, DialContext: testkit.Wrapping(network.DialContext, func(conn net.Conn) net.Conn {
			w = &testkit.HookedConn{Conn: conn}
			return w
		})})
		p.Send(testkit.Numbered(n, 10)...)
		synctest.Wait()
		require.Equal(t, uint64(n), c.Stats().MessagesReceived, "no call receives, the Inbox has room")
		require.Less(t, w.Reads(), 25, "reads follow the bytes, not the messages")
		for i := range n {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, testkit.Numbered(1, 10)[0][6:], string(msg[6:])[:1]+strings.Repeat("a", 3))
			require.Equal(t, fmt.Sprintf("%06d", i), string(msg[:6]))
		}
	})
}

func faultStraddle(t *testing.T) {
	for _, readBuffer := range []int{1, 16, 17, 100, 2048, 4096} {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{ReadBuffer: readBuffer})
		var want []string
		for _, around := range []int{16, 100, 2048, 4096, 8192} {
			for d := -6; d <= 6; d++ {
				want = append(want, testkit.PatternText(around+d))
			}
		}
		go p.Write(testkit.Frames(want...))
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.True(t, want[i] == string(msg), "ReadBuffer %d, message %d of %d bytes", readBuffer, i, len(want[i]))
		}
	}
}

func faultRST(t *testing.T) {
	for _, name := range []string{"tcp", "tls", "memory"} {
		tr := testkit.TransportNamed(name)
		l := tr.Listen(t)
		for _, rest := range []int{0, 2, 6} {
			c, p := l.Connect(t, tcpclient.Dialer{})
			want := testkit.Numbered(200, 100)
			p.Raw(append(testkit.Frames(want...), testkit.Frame("torn")[:rest]...))
			testkit.Eventually(t, "the frames have arrived", func() bool { return c.Stats().MessagesReceived == 200 })
			p.Reset()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			testkit.RequireErrno(t, err, syscall.ECONNRESET)
			for range 2 {
				for method, err := range testkit.EveryMethod(t, t.Context(), c) {
					testkit.RequireErrno(t, err, syscall.ECONNRESET, method)
					require.NotErrorIs(t, err, io.EOF, method)
					require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
				}
			}
		}
	}
}

func faultSlowReader(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the sizes of buffers and steps are those of Linux")
	}
	read := func(t *testing.T, name string) {
		// A socket becomes writable again when a third of its buffer is free. At this pace, and
		// with a buffer as large as Linux may make it, that takes longer than the WriteTimeout.
		c, p := testkit.TransportNamed(name).Connect(t, tcpclient.Dialer{WriteTimeout: 1500 * time.Millisecond,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					err = conn.(*net.TCPConn).SetWriteBuffer(4 << 20) // as far as the system lets us
				}
				return conn, err
			}})
		msg := testkit.Pattern(1 << 20)
		raw := p.Conn
		if secure, ok := raw.(*tls.Conn); ok {
			raw = secure.NetConn()
		}
		// A receiver opens its window in steps of a sixteenth of its buffer, or of a segment. With
		// a large buffer that may take longer than the WriteTimeout, too.
		require.NoError(t, raw.(*net.TCPConn).SetReadBuffer(64<<10))
		var stop atomic.Bool
		received := testkit.Start(t, func() (err error) {
			buf := make([]byte, 32<<10)
			for err == nil && !stop.Load() {
				time.Sleep(100 * time.Millisecond) // the peer's pace
				_, err = io.ReadFull(p, buf)
			}
			return err
		})
		began := time.Now()
		for time.Since(began) < 5*time.Second {
			require.NoError(t, c.Send(t.Context(), msg), "it makes progress")
		}
		err := c.Send(testkit.Within(t, 5*time.Millisecond), testkit.Pattern(4<<20))
		require.ErrorIs(t, err, context.DeadlineExceeded, "the caller's context bounds the whole")
		stop.Store(true)
		require.NoError(t, received())
	}
	for _, name := range []string{"tcp", "tls"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read(t, name)
		})
	}
}

func faultTrickle(t *testing.T) {
	c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{FrameTimeout: 100 * time.Millisecond})
	sender := testkit.Start(t, func() error {
		for _, b := range testkit.Frame(testkit.PatternText(1 << 20)) {
			if _, err := p.Write([]byte{b}); err != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond) // the peer's pace
		}
		return nil
	})
	_, err := c.Receive(t.Context())
	require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
	require.Error(t, sender())
}

func faultPartialWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
		w.OnWrite = func(b []byte) (int, error) {
			n, _ := w.Conn.Write(b[:len(b)/2])
			return n, syscall.ECONNRESET
		}
		err := c.Send(t.Context(), []byte("half of this"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.False(t, testkit.OpError(t, err).Unsent)
		for range 3 {
			err := c.Send(t.Context(), []byte("nothing of this"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.True(t, testkit.OpError(t, err).Unsent)
		}
		c.Close()
		require.Equal(t, 1, w.Writes(), "the remainder was sent, or more")
		got, _ := io.ReadAll(p)
		require.Equal(t, string(testkit.Frame("half of this")[:8]), string(got))
	})
}

func faultShortWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
		w.OnWrite = func(b []byte) (int, error) { return w.Conn.Write(b[:len(b)/2]) }
		err := c.Send(t.Context(), []byte("half of this"))
		require.ErrorIs(t, err, io.ErrShortWrite)
		require.False(t, testkit.OpError(t, err).Unsent)
		require.ErrorIs(t, c.Send(t.Context(), []byte("more")), io.ErrShortWrite)
		require.Equal(t, 1, w.Writes())
		c.Close()
		got, _ := io.ReadAll(p)
		require.Equal(t, string(testkit.Frame("half of this")[:8]), string(got))
	})
}

func faultLyingWrites(t *testing.T) {
	for _, lie := range []int{-1, 1000, 1 << 30} {
		for _, err := range []error{nil, io.ErrClosedPipe} {
			c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return lie, err }
			})
			got := c.Send(t.Context(), []byte("x"))
			if got != nil {
				require.ErrorIs(t, got, tcpclient.ErrDisconnected)
				require.False(t, testkit.OpError(t, got).Unsent, "who lies about the number may have sent it")
			}
			got = c.Send(t.Context(), []byte("y"))
			require.ErrorIs(t, got, tcpclient.ErrDisconnected)
			require.True(t, testkit.OpError(t, got).Unsent)
			c.Close()
		}
	}
}

func faultContextInside(t *testing.T) {
	for _, read := range []func(c *tcpclient.Client, ctx context.Context) ([]byte, error){
		(*tcpclient.Client).Receive,
		func(c *tcpclient.Client, ctx context.Context) ([]byte, error) { return c.ReceiveInto(ctx, nil) },
		func(c *tcpclient.Client, ctx context.Context) (msg []byte, err error) {
			for msg, err = range c.Messages(ctx) {
				break
			}
			return msg, err
		},
	} {
		stream := testkit.Frame("the message")
		for cut := 1; cut < len(stream); cut++ {
			synctest.Test(t, func(t *testing.T) {
				c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
				p.Raw(stream[:cut])
				began := time.Now()
				_, err := read(c, testkit.Within(t, time.Second))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, time.Second, time.Since(began))
				p.Raw(stream[cut:])
				msg, err := read(c, t.Context())
				require.NoError(t, err)
				require.Equal(t, "the message", string(msg))
			})
		}
	}
}

func faultDataAndError(t *testing.T) {
	for name, last := range map[string]error{"EOF": io.EOF, "RST": syscall.ECONNRESET} {
		for _, torn := range []int{0, 3} {
			want := testkit.Numbered(30, 20)
			stream := bytes.NewReader(append(testkit.Frames(want...), testkit.Frame("torn")[:torn]...))
			c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				source := iotest.DataErrReader(io.MultiReader(stream, iotest.ErrReader(last)))
				w.OnRead = source.Read
			})
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			switch {
			case name == "EOF" && torn > 0:
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			default:
				require.ErrorIs(t, err, last)
			}
		}
	}
}

func faultEmptyReads(t *testing.T) {
	for name, tls := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			// Some are borne, for ever is not.
			var forever atomic.Bool
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			if tls {
				testkit.Secure(l)
			}
			empty := 0
			c, p := l.Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				w := &testkit.HookedConn{Conn: conn}
				w.OnRead = func(b []byte) (int, error) {
					if empty++; empty%20 != 0 || forever.Load() {
						return 0, nil
					}
					return conn.Read(b)
				}
				return w
			})})
			testkit.RequireAlive(t, c, p)
			forever.Store(true)
			p.Write(testkit.Frame("wakes the last real read, if it is not over already"))
			_, err := testkit.ReceiveAll(t, c)
			require.ErrorIs(t, err, io.ErrNoProgress)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		})
	}
}

func faultLyingReads(t *testing.T) {
	for _, lie := range []int{-1, 1 << 20} {
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnRead = func([]byte) (int, error) { return lie, nil }
		})
		var err error
		testkit.RequireFast(t, "Receive", func() { _, err = c.Receive(t.Context()) })
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.NoError(t, c.Close())
	}
}

// noDeadlines is a connection as an SSH channel is: it refuses deadlines. It hides what
// else the connection can do, such as SyscallConn and CloseWrite.
func noDeadlines(conn net.Conn) net.Conn {
	return &testkit.HookedConn{Conn: conn, OnDeadline: func() error { return errors.ErrUnsupported }}
}

// connectPipe makes a Client on a net.Pipe.
func connectPipe(t testing.TB, d tcpclient.Dialer, wrap func(net.Conn) net.Conn) (*tcpclient.Client, *testkit.Peer) {
	t.Helper()
	near, far := net.Pipe()
	d.DialContext = func(context.Context, string, string) (net.Conn, error) {
		if wrap != nil {
			return wrap(near), nil
		}
		return near, nil
	}
	c, err := d.Dial(t.Context(), "pipe", "far")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c, testkit.NewPeer(t, far)
}

func faultPipe(t *testing.T, wrap func(net.Conn) net.Conn) {
	t.Run("talks both ways", func(t *testing.T) {
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		for range 3 {
			sent := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("there?")) })
			require.Equal(t, "there?", p.Receive())
			require.NoError(t, sent())
			p.Send("here")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "here", string(msg))
		}
	})

	t.Run("carries much", func(t *testing.T) { // P1, P3
		c, p := connectPipe(t, tcpclient.Dialer{WriteBuffer: 3000}, wrap)
		go p.Echo()
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprint(i, "/")+testkit.PatternText(rand.IntN(9000)))
		}
		sent := testkit.Start(t, func() error {
			for i, msg := range want {
				write := c.Write
				if i%3 == 0 {
					write = c.Send
				}
				if err := write(t.Context(), []byte(msg)); err != nil {
					return err
				}
			}
			return c.Flush(t.Context())
		})
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.True(t, want[i] == string(msg), "message %d", i)
		}
		require.NoError(t, sent())
	})

	t.Run("lets contexts end, and tears nothing", func(t *testing.T) { // P1, P2
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		_, err := c.Receive(testkit.Within(t, time.Millisecond))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var maybe []string
		watch := testkit.StartStopwatch(t)
		for i := range 10 {
			msg := fmt.Sprint(i, "/") + testkit.PatternText(i*500)
			began := watch.Ran()
			err := c.Send(testkit.Within(t, 3*time.Millisecond), []byte(msg))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, watch.Ran()-began, time.Second)
			if !testkit.OpError(t, err).Unsent {
				maybe = append(maybe, msg)
			}
		}
		flushed := testkit.Start(t, func() error { return c.Flush(t.Context()) })
		for _, want := range maybe {
			require.True(t, want == p.Receive())
		}
		require.NoError(t, flushed())
	})

	t.Run("delivers on Close", func(t *testing.T) { // P7
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		closed := testkit.Start(t, c.Close)
		msgs, err := p.All()
		require.Equal(t, []string{"last"}, msgs)
		require.Equal(t, io.EOF, err)
		require.NoError(t, closed())
	})

	t.Run("is closed by Shutdown after the flush, as it has no half-close", func(t *testing.T) {
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		done := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		msgs, err := p.All()
		require.Equal(t, []string{"last"}, msgs)
		require.Equal(t, io.EOF, err)
		done()
	})

	t.Run("closes in time when the peer has stopped reading", func(t *testing.T) { // P4, P7
		c, _ := connectPipe(t, tcpclient.Dialer{}, wrap)
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		watch := testkit.StartStopwatch(t)
		require.Error(t, c.Close())
		require.Less(t, watch.Ran(), testkit.CloseTime)
		testkit.RequireNoGoroutines(t)
	})
}

func faultNoDeadlines(t *testing.T) {
	t.Run("WriteTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := connectPipe(t, tcpclient.Dialer{}, noDeadlines)
			began := time.Now()
			err := c.Send(t.Context(), []byte("stuck"))
			require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
			require.False(t, testkit.OpError(t, err).Unsent, "it may have been taken")
			require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
			p.Close()
		})
	})
	t.Run("FrameTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := connectPipe(t, tcpclient.Dialer{}, noDeadlines)
			began := time.Now()
			p.Raw(testkit.Frame("torn")[:6])
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, 30*time.Second, time.Since(began))
		})
	})
	t.Run("progress", func(t *testing.T) {
		// A write that does not tell how far it is makes progress when it returns.
		synctest.Test(t, func(t *testing.T) {
			n := &tcpclienttest.Network{Buffer: 1000}
			l := testkit.ListenNetwork(t, n)
			c, p := l.Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, noDeadlines)})
			for range 20 {
				sent := make(chan error, 1)
				go func() { sent <- c.Send(context.Background(), testkit.Pattern(2000)) }()
				time.Sleep(8 * time.Second)
				require.Equal(t, testkit.PatternText(2000), p.Receive())
				require.NoError(t, <-sent)
			}
		})
	})
	t.Run("Unsent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &tcpclienttest.Network{Buffer: 1000}
			l := testkit.ListenNetwork(t, n)
			c, p := l.Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, noDeadlines)})
			first := make(chan error, 1)
			go func() { first <- c.Send(context.Background(), testkit.Pattern(2000)) }()
			synctest.Wait()
			fates := make(chan error, 10)
			for _, msg := range testkit.Numbered(10, 10) {
				go func() { fates <- c.Send(context.Background(), []byte(msg)) }()
			}
			synctest.Wait()
			p.Reset()
			err := <-first
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, testkit.OpError(t, err).Unsent)
			for range 10 {
				err := <-fates
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.True(t, testkit.OpError(t, err).Unsent)
			}
		})
	})
}

func faultNoDeadlinesClose(t *testing.T) {
	// Neither reading nor writing ends before the connection is closed.
	for _, secured := range []bool{false, true} {
		n := &tcpclienttest.Network{Buffer: 2000}
		l := testkit.ListenNetwork(t, n)
		if secured {
			testkit.Secure(l)
		}
		c, _ := l.Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, noDeadlines)})
		require.NoError(t, c.Write(t.Context(), []byte("written")))
		var wg sync.WaitGroup
		wg.Go(func() { c.Send(t.Context(), testkit.Pattern(10_000)) })
		wg.Go(func() { c.Receive(t.Context()) })
		testkit.WaitBlocked(t, "(*pendingIO).run", ".Write(")
		watch := testkit.StartStopwatch(t)
		require.Error(t, c.Close())
		require.Less(t, watch.Ran(), testkit.CloseTime)
		testkit.RequireFast(t, "the callers", wg.Wait)
		testkit.RequireNoGoroutines(t)
	}
}

// connectDialedTLS makes a Client whose DialContext returns a *tls.Conn, as that of
// tls.Dialer does.
func connectDialedTLS(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer) {
	t.Helper()
	l := testkit.ListenTLS(t)
	var config tcpclient.Dialer
	l.Setup(&config)
	l.Setup = func(*tcpclient.Dialer) {}
	d.DialContext = (&tls.Dialer{Config: config.TLSConfig}).DialContext
	return l.Connect(t, d)
}

func faultDialedTLS(t *testing.T) {
	// A *tls.Conn is spoiled by a deadline that passes while it writes: "After a Write
	// has timed out, the TLS state is corrupt and all future writes will return the same
	// error."
	c, p := connectDialedTLS(t, tcpclient.Dialer{})
	testkit.RequireAlive(t, c, p)
	var want []string
	for i := range 120 { // more than the sockets hold
		want = append(want, fmt.Sprint(i, "/")+testkit.PatternText(100_000))
	}
	sent := testkit.Start(t, func() error {
		for _, msg := range want {
			if err := c.Send(t.Context(), []byte(msg)); err != nil {
				return err
			}
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond) // the peer's: it is slow
	for i := range want {
		msg, err := p.Next()
		if err != nil {
			require.NoError(t, sent(), "the peer was only slow")
		}
		require.True(t, want[i] == msg, "message %d", i)
	}
	require.NoError(t, sent())
	testkit.RequireAlive(t, c, p)
}

func faultDialedTLSClose(t *testing.T) {
	// Close of a *tls.Conn waits 5 s for a peer that does not read.
	c, _ := connectDialedTLS(t, tcpclient.Dialer{WriteTimeout: 300 * time.Millisecond})
	for {
		if err := c.Send(testkit.Within(t, 20*time.Millisecond), testkit.Pattern(200_000)); err != nil {
			break
		}
	}
	watch := testkit.StartStopwatch(t)
	c.Close()
	require.Less(t, watch.Ran(), testkit.CloseTime)
	testkit.Eventually(t, "no goroutine is left", func() bool { return testkit.Goroutines() == 0 })
	require.Less(t, watch.Ran(), 2*time.Second)
}
