package transporttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Close is for Client.Close.
func Close(t *testing.T, tr testkit.Transport) {
	t.Run("returns nil, also again and concurrently", func(t *testing.T) { // P7
		c, _ := tr.Connect(t, tcpclient.Dialer{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { assert.NoError(t, c.Close()) })
		}
		testkit.RequireFast(t, "Close", wg.Wait)
		require.NoError(t, c.Close())
	})

	t.Run("shows the peer an orderly end", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Close())
		_, err := p.All()
		require.Equal(t, io.EOF, err)
	})

	t.Run("shows the peer an orderly end after messages", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Send(t.Context(), []byte("one")))
		require.NoError(t, c.Write(t.Context(), []byte("two")))
		wait := testkit.Start(t, c.Close)
		msgs, err := p.All()
		require.Equal(t, []string{"one", "two"}, msgs)
		require.Equal(t, io.EOF, err)
		require.NoError(t, wait())
	})

	t.Run("delivers what a short-lived client wrote", func(t *testing.T) {
		l := tr.Listen(t)
		for _, size := range []int{5, 30_000} {
			done := make(chan error, 1)
			go func() {
				c, err := l.TryDial(t.Context(), tcpclient.Dialer{})
				if err == nil {
					err = c.Write(t.Context(), testkit.Pattern(size))
				}
				if err == nil {
					err = c.Close()
				}
				done <- err
			}()
			p := l.AcceptPeer(t)
			msgs, err := p.All()
			require.Equal(t, io.EOF, err)
			require.Equal(t, []string{testkit.PatternText(size)}, msgs)
			require.NoError(t, <-done)
		}
	})

	t.Run("delivers what it wrote to a peer whose messages were not received", func(t *testing.T) {
		// Closing a socket with unread data on it sends RST, which may overtake
		// what was flushed.
		c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1})
		wait := testkit.Start(t, func() error {
			_, err := p.Write(testkit.Frames(testkit.Numbered(100, 300)...))
			return err
		})
		require.NoError(t, wait())
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(20_000)))
		closed := testkit.Start(t, c.Close)
		require.Equal(t, testkit.PatternText(20_000), p.Receive())
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		require.NoError(t, closed())
	})

	t.Run("wakes all who wait with ErrClosed", func(t *testing.T) { // P7, FAULTS L1, L2
		testkit.SkipIfShort(t)
		c, _ := tr.ConnectSmall(t, tcpclient.Dialer{WriteBuffer: 1000})
		testkit.Stall(t, c)
		var wg sync.WaitGroup
		wake := func(what string, f func() error) {
			for range 2 {
				wg.Go(func() {
					err := f()
					assert.ErrorIs(t, err, tcpclient.ErrClosed, what)
					assert.ErrorIs(t, err, net.ErrClosed, what)
					assert.NotErrorIs(t, err, tcpclient.ErrDisconnected, what)
					assert.NotErrorIs(t, err, io.EOF, what)
					assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), what)
				})
			}
		}
		wake("Receive", func() error { _, err := c.Receive(t.Context()); return err })
		wake("ReceiveInto", func() error { _, err := c.ReceiveInto(t.Context(), nil); return err })
		wake("Messages", func() (end error) {
			for _, err := range c.Messages(t.Context()) {
				end = err
			}
			return end
		})
		wake("Send", func() error { return c.Send(t.Context(), testkit.Pattern(2000)) })
		wake("Write", func() (err error) {
			for err == nil { // until the buffer is full
				err = c.Write(t.Context(), testkit.Pattern(2000))
			}
			return err
		})
		wake("Flush", func() error { return c.Flush(t.Context()) })
		testkit.WaitBlocked(t, "(*Client).Flush", "(*outbox).await")
		testkit.WaitBlocked(t, "(*Client).Write", "(*outbox).await")
		testkit.WaitBlocked(t, "(*Client).Messages")
		watch := testkit.StartStopwatch(t)
		testkit.RequireFast(t, "Close", func() { c.Close() })
		assert.Less(t, watch.Ran(), testkit.CloseTime, "P7: within a second")
		testkit.RequireFast(t, "the others", wg.Wait)
	})

	t.Run("returns within a second when the peer has stopped reading, and tells of the loss", func(t *testing.T) { // P4, P7
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		sent := testkit.Stall(t, c)
		require.NoError(t, c.Write(t.Context(), []byte("never")))
		watch := testkit.StartStopwatch(t)
		err := c.Close()
		require.Less(t, watch.Ran(), testkit.CloseTime)
		require.Error(t, err, "what was written could not be flushed")
		require.Equal(t, "close", testkit.OpError(t, err).Op)
		require.NoError(t, c.Close())
		msgs, _ := p.All()
		require.Less(t, len(msgs), len(sent)+1)
		require.NotContains(t, msgs, "never")
	})

	t.Run("flushes to a peer that is slow but reads", func(t *testing.T) {
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		sent := testkit.Stall(t, c)
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		first, err := p.Next() // that it reads is to be seen in 200 ms
		require.NoError(t, err)
		msgs := []string{first}
		read := testkit.Start(t, func() error {
			rest, err := p.All()
			msgs = append(msgs, rest...)
			return err
		})
		require.NoError(t, c.Close())
		require.Equal(t, io.EOF, read())
		require.True(t, msgs[len(msgs)-1] == "last")
		require.Len(t, msgs, len(sent)+1)
	})

	t.Run("drops the Inbox, and everything says ErrClosed from then on", func(t *testing.T) { // P7, FAULTS L24
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("unreceived", "too")
		testkit.Eventually(t, "the messages are in the Inbox", func() bool { return c.Stats().MessagesReceived == 2 })
		require.NoError(t, c.Close())
		for name, err := range testkit.EveryMethod(t, t.Context(), c) {
			require.ErrorIs(t, err, tcpclient.ErrClosed, name)
			require.NotErrorIs(t, err, tcpclient.ErrDisconnected, name)
		}
		require.False(t, c.Stats().Connected)
		require.NotNil(t, c.LocalAddr())
		require.NotNil(t, c.RemoteAddr())
	})

	t.Run("returns nil after a connection that died without a loss", func(t *testing.T) { // P4, P9
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.HalfClose()
		_, first := c.Receive(t.Context())
		require.ErrorIs(t, first, io.EOF)
		require.NoError(t, c.Close())
		for name, err := range testkit.EveryMethod(t, t.Context(), c) {
			require.ErrorIs(t, err, io.EOF, "%s: the first error stays, also after Close", name)
			require.NotErrorIs(t, err, tcpclient.ErrClosed, name)
		}
	})

	t.Run("while others write, loses nothing in silence", func(t *testing.T) { // P4
		for range 20 {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			got := testkit.Start(t, func() []string { msgs, _ := p.All(); return msgs })
			var mu sync.Mutex
			taken, unsent := map[string]bool{}, map[string]bool{}
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 10_000 {
						msg := string(rune('a'+g)) + testkit.Numbered(i+1, 0)[i]
						var err error
						if i%3 == 0 {
							err = c.Send(t.Context(), []byte(msg))
						} else {
							err = c.Write(t.Context(), []byte(msg))
						}
						mu.Lock()
						switch {
						case err == nil:
							taken[msg] = true
						case testkit.OpError(t, err).Unsent:
							unsent[msg] = true
						}
						mu.Unlock()
						if err != nil {
							assert.ErrorIs(t, err, tcpclient.ErrClosed)
							return
						}
					}
				})
			}
			err := c.Close()
			testkit.RequireFast(t, "writers", wg.Wait)
			msgs := got()
			for _, msg := range msgs {
				require.False(t, unsent[msg], "%s is Unsent and was received", msg)
			}
			if err == nil {
				for msg := range taken {
					require.True(t, slices.Contains(msgs, msg), "Close returned nil, but %q did not arrive", msg)
				}
			}
		}
	})
}

// EndWhileAWriteFrameHangs is for code of the user that holds the writing side: it does not keep the
// connection open. What it wrote is lost then, and that is told. In a bubble the time of Close would
// not pass: to wait for a lock, as Close does here, is not durable.
func EndWhileAWriteFrameHangs(t *testing.T, tr testkit.Transport) {
	// start returns a Client in whose Framer a Write hangs until it is let go.
	start := func(t *testing.T) (c *tcpclient.Client, p *testkit.Peer, letGo func(), write func() error) {
		inside, leave := make(chan struct{}), make(chan struct{})
		letGo = sync.OnceFunc(func() { close(leave) })
		c, p = tr.Connect(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
			close(inside)
			<-leave
			return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
		}}})
		t.Cleanup(letGo) // before the Client is closed
		write = testkit.Start(t, func() error { return c.Write(t.Context(), []byte("hang")) })
		<-inside
		return c, p, letGo, write
	}

	t.Run("by Close", func(t *testing.T) { // P4, P7
		testkit.SkipIfShort(t)
		c, p, letGo, write := start(t)
		watch := testkit.StartStopwatch(t)
		closed := testkit.Start(t, c.Close)
		testkit.RequireFast(t, "the peer's Read", func() {
			msgs, err := p.All()
			assert.Empty(t, msgs)
			assert.Error(t, err)
		})
		assert.Less(t, watch.Ran(), testkit.CloseTime)
		letGo()
		require.NoError(t, write(), "it was taken before Close was called")
		require.ErrorContains(t, closed(), "messages that were written are lost")
	})

	t.Run("by a Shutdown whose context ends", func(t *testing.T) { // P2, P4
		c, p, letGo, write := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		down := testkit.Start(t, func() error { return c.Shutdown(ctx) })
		testkit.WaitBlocked(t, "(*Client).Shutdown", "sync.(*Mutex).Lock")
		cancel()
		testkit.RequireFast(t, "the peer's Read", func() {
			msgs, err := p.All()
			assert.Empty(t, msgs)
			assert.Error(t, err)
		})
		letGo()
		require.NoError(t, write(), "it was taken before Shutdown was called")
		err := down()
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		told := fmt.Sprint(err, c.Close())
		require.Equal(t, 1, strings.Count(told, "messages that were written are lost"), told)
	})
}

// CloseWhileReceiving is for a Close while others receive.
func CloseWhileReceiving(t *testing.T, tr testkit.Transport) {
	l := tr.Listen(t)
	for i := range 50 {
		c, p := l.Connect(t, tcpclient.Dialer{})
		if i%2 == 0 {
			go p.Write(testkit.Frames(testkit.Numbered(20, 10)...))
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					if _, err := c.Receive(t.Context()); err != nil {
						assert.ErrorIs(t, err, tcpclient.ErrClosed)
						assert.ErrorIs(t, err, net.ErrClosed)
						assert.NotErrorIs(t, err, tcpclient.ErrDisconnected)
						assert.NotErrorIs(t, err, io.EOF)
						return
					}
				}
			})
		}
		for range rand.IntN(20) {
			runtime.Gosched()
		}
		assert.NoError(t, c.Close())
		testkit.RequireFast(t, "Receive", wg.Wait)
	}
}

// CloseWhileFlushing is for a Close while a flush is stuck.
func CloseWhileFlushing(t *testing.T, tr testkit.Transport) {
	c, _ := tr.ConnectSmall(t, tcpclient.Dialer{})
	testkit.Stall(t, c)
	require.NoError(t, c.Write(t.Context(), []byte("x")))
	flush := testkit.Start(t, func() error { return c.Flush(t.Context()) })
	testkit.WaitBlocked(t, "(*Client).Flush")
	watch := testkit.StartStopwatch(t)
	c.Close()
	require.ErrorIs(t, flush(), tcpclient.ErrClosed)
	require.Less(t, watch.Ran(), testkit.CloseTime)
}

// CloseTwice is for many a Close and Shutdown at once.
func CloseTwice(t *testing.T, tr testkit.Transport) {
	for range 10 {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("x")))
		go p.All()
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				if i%3 == 0 {
					err := c.Shutdown(testkit.Within(t, time.Second))
					if err != nil {
						assert.True(t, errors.Is(err, tcpclient.ErrClosed) || errors.Is(err, context.DeadlineExceeded), err)
					}
					return
				}
				assert.NoError(t, c.Close())
			})
		}
		testkit.RequireFast(t, "Close", wg.Wait)
		require.NoError(t, c.Close())
	}
}
