package tcpclient_test

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
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// streamFaults are the rows S of FAULTS.md, and Y14.
var streamFaults = map[string]func(t *testing.T){
	"S1 segments of one byte":                         faultOneByte,
	"S2 every split point":                            faultSplit,
	"S3 many frames in one read":                      faultCoalesced,
	"S4 frames around the size of the read buffer":    faultStraddle,
	"S5 FIN between frames":                           faultFIN,
	"S6 FIN inside a frame":                           faultFINInside,
	"S7 RST inside a frame":                           faultRST,
	"S15 stalled peer":                                faultStalled,
	"S16 slow reader":                                 faultSlowReader,
	"S17 frame that trickles for ever":                faultTrickle,
	"S18 partial write, then an error":                faultPartialWrite,
	"S19 short write without an error":                faultShortWrite,
	"S20 server half-close":                           faultHalfClose,
	"S21 client half-close":                           faultClientHalfClose,
	"S23 reads that return data and an error":         faultDataAndError,
	"S23 reads that return nothing":                   faultEmptyReads,
	"S23 reads that lie":                              faultLyingReads,
	"S24 data after Close":                            faultDataAfterClose,
	"S25 context ends inside a frame":                 faultContextInside,
	"S26 write to a peer that has gone":               faultGonePeer,
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
	c, p := connectNarrow(t, 1, tcpclient.Dialer{})
	go p.echo()
	want := append(numbered(50, 30), "", string(pattern(5000)))
	sent := start(t, func() error {
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
	stream := frames(want...)
	for cut := range len(stream) + 1 {
		synctest.Test(t, func(t *testing.T) {
			c, p := connectMemory(t, tcpclient.Dialer{})
			p.raw(stream[:cut])
			synctest.Wait() // it was read
			p.raw(stream[cut:])
			p.Close()
			got, err := receiveAll(t, c)
			require.Equal(t, want, got, "cut at %d", cut)
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func faultCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		network := &tcpclienttest.Network{Buffer: 4 << 20}
		var w *wrapper
		c, p := listenNetwork(t, network).connect(t, tcpclient.Dialer{Inbox: 4 << 20, DialContext: wrapping(network.DialContext, func(conn net.Conn) net.Conn {
			w = &wrapper{Conn: conn}
			return w
		})})
		p.send(numbered(n, 10)...)
		synctest.Wait()
		require.Equal(t, uint64(n), c.Stats().MessagesReceived, "nobody receives, the Inbox has room")
		require.Less(t, w.reads(), 25, "reads follow the bytes, not the messages")
		for i := range n {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, numbered(1, 10)[0][6:], string(msg[6:])[:1]+strings.Repeat("a", 3))
			require.Equal(t, fmt.Sprintf("%06d", i), string(msg[:6]))
		}
	})
}

func faultStraddle(t *testing.T) {
	for _, readBuffer := range []int{1, 16, 17, 100, 2048, 4096} {
		c, p := connectMemory(t, tcpclient.Dialer{ReadBuffer: readBuffer})
		var want []string
		for _, around := range []int{16, 100, 2048, 4096, 8192} {
			for d := -6; d <= 6; d++ {
				want = append(want, string(pattern(around+d)))
			}
		}
		go p.Write(frames(want...))
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.True(t, want[i] == string(msg), "ReadBuffer %d, message %d of %d bytes", readBuffer, i, len(want[i]))
		}
	}
}

func faultFIN(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		c, p := tr.connect(t, tcpclient.Dialer{})
		p.send("one", "two")
		p.halfClose()
		got, err := receiveAll(t, c)
		require.Equal(t, []string{"one", "two"}, got)
		require.ErrorIs(t, err, io.EOF)
		require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	})
}

func faultFINInside(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		l := tr.listen(t)
		stream := frames("one", "two!")
		for cut := range stream {
			c, p := l.connect(t, tcpclient.Dialer{})
			p.raw(stream[:cut])
			p.halfClose()
			got, err := receiveAll(t, c)
			if cut >= 7 {
				require.Equal(t, []string{"one"}, got)
			} else {
				require.Empty(t, got)
			}
			if cut == 0 || cut == 7 {
				require.ErrorIs(t, err, io.EOF)
			} else {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", cut)
				require.NotErrorIs(t, err, io.EOF)
			}
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			require.NoError(t, c.Close())
		}
	})
}

func faultRST(t *testing.T) {
	for _, name := range []string{"tcp", "tls", "memory"} {
		tr := transportNamed(name)
		l := tr.listen(t)
		for _, rest := range []int{0, 2, 6} {
			c, p := l.connect(t, tcpclient.Dialer{})
			want := numbered(200, 100)
			p.raw(append(frames(want...), frame("torn")[:rest]...))
			eventually(t, "the frames have arrived", func() bool { return c.Stats().MessagesReceived == 200 })
			p.reset()
			got, err := receiveAll(t, c)
			require.Equal(t, want, got)
			testkit.RequireErrno(t, err, syscall.ECONNRESET)
			for range 2 {
				for method, err := range everyMethod(t, t.Context(), c) {
					testkit.RequireErrno(t, err, syscall.ECONNRESET, method)
					require.NotErrorIs(t, err, io.EOF, method)
					require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
				}
			}
		}
	}
}

func faultStalled(t *testing.T) {
	atOnce(t, func(t *testing.T, tr transport) {
		c, p := tr.connect(t, tcpclient.Dialer{WriteTimeout: 100 * time.Millisecond})
		stall(t, c)
		err := c.Send(t.Context(), []byte("more"))
		require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
		require.True(t, opError(t, err).Unsent, "it lay behind what was stuck")
		go io.Copy(io.Discard, p) // too late
		for range 3 {
			require.ErrorIs(t, c.Send(t.Context(), []byte("again")), tcpclient.ErrWriteTimeout)
		}
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
	})
}

func faultSlowReader(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the sizes of buffers and steps are those of Linux")
	}
	t.Parallel() // it waits
	slow := func(t *testing.T, name string) {
		// A socket becomes writable again when a third of its buffer is free. At this pace, and
		// with a buffer as large as Linux may make it, that takes longer than the WriteTimeout.
		c, p := transportNamed(name).connect(t, tcpclient.Dialer{WriteTimeout: 1500 * time.Millisecond,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					err = conn.(*net.TCPConn).SetWriteBuffer(4 << 20) // as far as the system lets us
				}
				return conn, err
			}})
		msg := pattern(1 << 20)
		raw := p.Conn
		if secure, ok := raw.(*tls.Conn); ok {
			raw = secure.NetConn()
		}
		// A receiver opens its window in steps of a sixteenth of its buffer, or of a segment. With
		// a large buffer that may take longer than the WriteTimeout, too.
		require.NoError(t, raw.(*net.TCPConn).SetReadBuffer(64<<10))
		var stop atomic.Bool
		received := start(t, func() (err error) {
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
		err := c.Send(within(t, 5*time.Millisecond), pattern(4<<20))
		require.ErrorIs(t, err, context.DeadlineExceeded, "the caller's context bounds the whole")
		stop.Store(true)
		require.NoError(t, received())
	}
	for _, name := range []string{"tcp", "tls"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow(t, name)
		})
	}
}

func faultTrickle(t *testing.T) {
	c, p := transportNamed("tcp").connect(t, tcpclient.Dialer{FrameTimeout: 100 * time.Millisecond})
	sender := start(t, func() error {
		for _, b := range frame(string(pattern(1 << 20))) {
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
		c, p, w := connectWrapped(t, tcpclient.Dialer{}, nil)
		w.write = func(b []byte) (int, error) {
			n, _ := w.Conn.Write(b[:len(b)/2])
			return n, syscall.ECONNRESET
		}
		err := c.Send(t.Context(), []byte("half of this"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.False(t, opError(t, err).Unsent)
		for range 3 {
			err := c.Send(t.Context(), []byte("nothing of this"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.True(t, opError(t, err).Unsent)
		}
		c.Close()
		require.Equal(t, 1, w.writes(), "the remainder was sent, or more")
		got, _ := io.ReadAll(p)
		require.Equal(t, string(frame("half of this")[:8]), string(got))
	})
}

func faultShortWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, w := connectWrapped(t, tcpclient.Dialer{}, nil)
		w.write = func(b []byte) (int, error) { return w.Conn.Write(b[:len(b)/2]) }
		err := c.Send(t.Context(), []byte("half of this"))
		require.ErrorIs(t, err, io.ErrShortWrite)
		require.False(t, opError(t, err).Unsent)
		require.ErrorIs(t, c.Send(t.Context(), []byte("more")), io.ErrShortWrite)
		require.Equal(t, 1, w.writes())
		c.Close()
		got, _ := io.ReadAll(p)
		require.Equal(t, string(frame("half of this")[:8]), string(got))
	})
}

func faultLyingWrites(t *testing.T) {
	for _, lie := range []int{-1, 1000, 1 << 30} {
		for _, err := range []error{nil, io.ErrClosedPipe} {
			c, _, _ := connectWrapped(t, tcpclient.Dialer{}, func(w *wrapper) {
				w.write = func([]byte) (int, error) { return lie, err }
			})
			got := c.Send(t.Context(), []byte("x"))
			if got != nil {
				require.ErrorIs(t, got, tcpclient.ErrDisconnected)
				require.False(t, opError(t, got).Unsent, "who lies about the number may have sent it")
			}
			got = c.Send(t.Context(), []byte("y"))
			require.ErrorIs(t, got, tcpclient.ErrDisconnected)
			require.True(t, opError(t, got).Unsent)
			c.Close()
		}
	}
}

func faultHalfClose(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		c, p := tr.connect(t, tcpclient.Dialer{})
		p.halfClose()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
		eventually(t, "the connection is over both ways", func() bool {
			return errors.Is(c.Send(t.Context(), []byte("late")), io.EOF)
		})
	})
}

func faultClientHalfClose(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		c, p := tr.connect(t, tcpclient.Dialer{})
		done := start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.next()
		require.Equal(t, io.EOF, err, "FIN, behind a close_notify with TLS")
		want := numbered(500, 1000)
		p.send(want...)
		p.halfClose()
		require.NoError(t, done())
		got, err := receiveAll(t, c)
		require.Equal(t, want, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})
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
		stream := frame("the message")
		for cut := 1; cut < len(stream); cut++ {
			synctest.Test(t, func(t *testing.T) {
				c, p := connectMemory(t, tcpclient.Dialer{})
				p.raw(stream[:cut])
				began := time.Now()
				_, err := read(c, within(t, time.Second))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, time.Second, time.Since(began))
				p.raw(stream[cut:])
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
			want := numbered(30, 20)
			stream := bytes.NewReader(append(frames(want...), frame("torn")[:torn]...))
			c, _, _ := connectWrapped(t, tcpclient.Dialer{}, func(w *wrapper) {
				source := iotest.DataErrReader(io.MultiReader(stream, iotest.ErrReader(last)))
				w.read = source.Read
			})
			got, err := receiveAll(t, c)
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
			l := listenNetwork(t, n)
			if tls {
				secure(l)
			}
			empty := 0
			c, p := l.connect(t, tcpclient.Dialer{DialContext: wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				w := &wrapper{Conn: conn}
				w.read = func(b []byte) (int, error) {
					if empty++; empty%20 != 0 || forever.Load() {
						return 0, nil
					}
					return conn.Read(b)
				}
				return w
			})})
			requireAlive(t, c, p)
			forever.Store(true)
			p.Write(frame("wakes the last real read, if it is not over already"))
			_, err := receiveAll(t, c)
			require.ErrorIs(t, err, io.ErrNoProgress)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		})
	}
}

func faultLyingReads(t *testing.T) {
	for _, lie := range []int{-1, 1 << 20} {
		c, _, _ := connectWrapped(t, tcpclient.Dialer{}, func(w *wrapper) {
			w.read = func([]byte) (int, error) { return lie, nil }
		})
		var err error
		prompt(t, "Receive", func() { _, err = c.Receive(t.Context()) })
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.NoError(t, c.Close())
	}
}

func faultDataAfterClose(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		c, p := tr.connect(t, tcpclient.Dialer{})
		sender := start(t, func() error {
			for {
				if _, err := p.Write(frame("more")); err != nil {
					return err
				}
			}
		})
		_, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Close())
		for range 3 {
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			require.NotErrorIs(t, err, tcpclient.ErrDisconnected)
		}
		require.Error(t, sender())
	})
}

func faultGonePeer(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport) {
		for range 10 {
			c, p := tr.connect(t, tcpclient.Dialer{})
			go hangUp(p.Conn)
			// The first ones may be handed over, which does not mean that they arrive.
			for {
				err := c.Send(t.Context(), []byte("anybody there?"))
				if err == nil {
					continue
				}
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				break
			}
			require.ErrorIs(t, c.Send(t.Context(), []byte("again")), tcpclient.ErrDisconnected)
			require.NoError(t, c.Close(), "what was handed over is not lost in our hands")
		}
	})
}

// noDeadlines is a connection as an SSH channel is: it refuses deadlines. It hides what
// else the connection can do, such as SyscallConn and CloseWrite.
func noDeadlines(conn net.Conn) net.Conn {
	return &wrapper{Conn: conn, deadline: func() error { return errors.ErrUnsupported }}
}

// connectPipe makes a Client on a net.Pipe.
func connectPipe(t testing.TB, d tcpclient.Dialer, wrap func(net.Conn) net.Conn) (*tcpclient.Client, *peer) {
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
	return c, newPeer(t, far)
}

func faultPipe(t *testing.T, wrap func(net.Conn) net.Conn) {
	t.Run("talks both ways", func(t *testing.T) {
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		for range 3 {
			sent := start(t, func() error { return c.Send(t.Context(), []byte("there?")) })
			require.Equal(t, "there?", p.receive())
			require.NoError(t, sent())
			p.send("here")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "here", string(msg))
		}
	})

	t.Run("carries much", func(t *testing.T) { // P1, P3
		c, p := connectPipe(t, tcpclient.Dialer{WriteBuffer: 3000}, wrap)
		go p.echo()
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprint(i, "/")+string(pattern(rand.IntN(9000))))
		}
		sent := start(t, func() error {
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
		_, err := c.Receive(within(t, time.Millisecond))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var maybe []string
		for i := range 10 {
			msg := fmt.Sprint(i, "/") + string(pattern(i*500))
			began := time.Now()
			err := c.Send(within(t, 3*time.Millisecond), []byte(msg))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(began), time.Second)
			if !opError(t, err).Unsent {
				maybe = append(maybe, msg)
			}
		}
		flushed := start(t, func() error { return c.Flush(t.Context()) })
		for _, want := range maybe {
			require.True(t, want == p.receive())
		}
		require.NoError(t, flushed())
	})

	t.Run("delivers on Close", func(t *testing.T) { // P7
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		closed := start(t, c.Close)
		msgs, err := p.all()
		require.Equal(t, []string{"last"}, msgs)
		require.Equal(t, io.EOF, err)
		require.NoError(t, closed())
	})

	t.Run("is closed by Shutdown after the flush, as it has no half-close", func(t *testing.T) {
		c, p := connectPipe(t, tcpclient.Dialer{}, wrap)
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		done := start(t, func() error { return c.Shutdown(t.Context()) })
		msgs, err := p.all()
		require.Equal(t, []string{"last"}, msgs)
		require.Equal(t, io.EOF, err)
		done()
	})

	t.Run("closes in time when the peer has stopped reading", func(t *testing.T) { // P4, P7
		c, _ := connectPipe(t, tcpclient.Dialer{}, wrap)
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		began := time.Now()
		require.Error(t, c.Close())
		require.Less(t, time.Since(began), closeTime)
		requireNoGoroutines(t)
	})
}

func faultNoDeadlines(t *testing.T) {
	t.Run("WriteTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := connectPipe(t, tcpclient.Dialer{}, noDeadlines)
			began := time.Now()
			err := c.Send(t.Context(), []byte("stuck"))
			require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
			require.False(t, opError(t, err).Unsent, "it may have been taken")
			require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
			p.Close()
		})
	})
	t.Run("FrameTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := connectPipe(t, tcpclient.Dialer{}, noDeadlines)
			began := time.Now()
			p.raw(frame("torn")[:6])
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, 30*time.Second, time.Since(began))
		})
	})
	t.Run("progress", func(t *testing.T) {
		// A write of which nobody can say how far it is makes progress when it returns.
		synctest.Test(t, func(t *testing.T) {
			n := &tcpclienttest.Network{Buffer: 1000}
			l := listenNetwork(t, n)
			c, p := l.connect(t, tcpclient.Dialer{DialContext: wrapping(n.DialContext, noDeadlines)})
			for range 20 {
				sent := make(chan error, 1)
				go func() { sent <- c.Send(context.Background(), pattern(2000)) }()
				time.Sleep(8 * time.Second)
				require.Equal(t, string(pattern(2000)), p.receive())
				require.NoError(t, <-sent)
			}
		})
	})
	t.Run("Unsent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &tcpclienttest.Network{Buffer: 1000}
			l := listenNetwork(t, n)
			c, p := l.connect(t, tcpclient.Dialer{DialContext: wrapping(n.DialContext, noDeadlines)})
			first := make(chan error, 1)
			go func() { first <- c.Send(context.Background(), pattern(2000)) }()
			synctest.Wait()
			fates := make(chan fate, 10)
			for _, msg := range numbered(10, 10) {
				go func() { fates <- fate{msg, c.Send(context.Background(), []byte(msg))} }()
			}
			synctest.Wait()
			p.reset()
			err := <-first
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, opError(t, err).Unsent)
			for range 10 {
				f := <-fates
				require.ErrorIs(t, f.err, tcpclient.ErrDisconnected)
				require.True(t, opError(t, f.err).Unsent)
			}
		})
	})
}

func faultNoDeadlinesClose(t *testing.T) {
	// Neither reading nor writing ends before the connection is closed.
	for _, secured := range []bool{false, true} {
		n := &tcpclienttest.Network{Buffer: 2000}
		l := listenNetwork(t, n)
		if secured {
			secure(l)
		}
		c, _ := l.connect(t, tcpclient.Dialer{DialContext: wrapping(n.DialContext, noDeadlines)})
		require.NoError(t, c.Write(t.Context(), []byte("written")))
		var wg sync.WaitGroup
		wg.Go(func() { c.Send(t.Context(), pattern(10_000)) })
		wg.Go(func() { c.Receive(t.Context()) })
		blocked(t, "(*pendingWrite).write.func1", ".Write(")
		began := time.Now()
		require.Error(t, c.Close())
		require.Less(t, time.Since(began), closeTime)
		prompt(t, "the callers", wg.Wait)
		requireNoGoroutines(t)
	}
}

// connectDialedTLS makes a Client whose DialContext returns a *tls.Conn, as that of
// tls.Dialer does.
func connectDialedTLS(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *peer) {
	t.Helper()
	l := listenTLS(t)
	var config tcpclient.Dialer
	l.setup(&config)
	l.setup = func(*tcpclient.Dialer) {}
	d.DialContext = (&tls.Dialer{Config: config.TLSConfig}).DialContext
	return l.connect(t, d)
}

func faultDialedTLS(t *testing.T) {
	// A *tls.Conn is spoiled by a deadline that passes while it writes: "After a Write
	// has timed out, the TLS state is corrupt and all future writes will return the same
	// error."
	c, p := connectDialedTLS(t, tcpclient.Dialer{})
	requireAlive(t, c, p)
	var want []string
	for i := range 120 { // more than the sockets hold
		want = append(want, fmt.Sprint(i, "/")+string(pattern(100_000)))
	}
	sent := start(t, func() error {
		for _, msg := range want {
			if err := c.Send(t.Context(), []byte(msg)); err != nil {
				return err
			}
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond) // the peer's: it is slow
	for i := range want {
		msg, err := p.next()
		if err != nil {
			require.NoError(t, sent(), "the peer was only slow")
		}
		require.True(t, want[i] == msg, "message %d", i)
	}
	require.NoError(t, sent())
	requireAlive(t, c, p)
}

func faultDialedTLSClose(t *testing.T) {
	// Close of a *tls.Conn waits 5 s for a peer that does not read.
	c, _ := connectDialedTLS(t, tcpclient.Dialer{WriteTimeout: 300 * time.Millisecond})
	for {
		if err := c.Send(within(t, 20*time.Millisecond), pattern(200_000)); err != nil {
			break
		}
	}
	began := time.Now()
	c.Close()
	require.Less(t, time.Since(began), closeTime)
	eventually(t, "no goroutine is left", func() bool { return goroutines() == 0 })
	require.Less(t, time.Since(began), 2*time.Second)
}
