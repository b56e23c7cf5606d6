package transporttest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Loss is for messages that die with their connection.
func Loss(t *testing.T, tr testkit.Transport) {
	for name, call := range LossCalls {
		t.Run("of written messages is told once, by "+name, func(t *testing.T) { // P4
			c, p := tr.Connect(t, tcpclient.Dialer{})
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			lose(t, c, p)
			err := call(t.Context(), c)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			if name == "Write" || name == "Send" || name == "Call" {
				require.True(t, testkit.OpError(t, err).Unsent, "the call's own message was not taken")
			}
			require.NoError(t, c.Close(), "the loss was told already")
		})
	}

	t.Run("is not told where there was none", func(t *testing.T) { // P4
		c, p := tr.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("one")))
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Send(t.Context(), []byte("two")))
		require.Equal(t, "one", p.Receive())
		require.Equal(t, "two", p.Receive())
		lose(t, c, p)
		require.NoError(t, c.Close())
	})

	t.Run("is told to a Flush that waits, and to no other caller", func(t *testing.T) { // P4
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		testkit.Stall(t, c)
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		flush := testkit.Start(t, func() error { return c.Flush(t.Context()) })
		testkit.WaitBlocked(t, "(*Client).Flush")
		p.Reset()
		require.ErrorIs(t, flush(), tcpclient.ErrDisconnected)
		require.NoError(t, c.Close())
	})

	for name, call := range LossCalls {
		t.Run("is told to a Flush that finds no writer, and not again by "+name, func(t *testing.T) { // P4
			// The reader waits for room in the Inbox: it is the Flush that learns of the reset.
			c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1})
			p.Send("one", "two", "three", "four")
			testkit.Eventually(t, "the Inbox is full", func() bool { return c.Stats().MessagesReceived >= 1 })
			p.Reset()
			var flush error
			testkit.Eventually(t, "a Flush fails", func() bool {
				require.NoError(t, c.Write(t.Context(), []byte("lost")))
				flush = c.Flush(t.Context())
				return flush != nil
			})
			require.ErrorIs(t, flush, tcpclient.ErrDisconnected)
			require.ErrorContains(t, flush, "messages that were written are lost")
			RequireNotToldAgain(t, name, call(t.Context(), c))
			require.NoError(t, c.Close(), "the loss was told already")
		})
	}

	t.Run("of messages that a flush under way would have taken is told", func(t *testing.T) { // P4
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		testkit.Stall(t, c)
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		require.ErrorIs(t, c.Flush(testkit.Within(t, time.Millisecond)), context.DeadlineExceeded)
		p.Reset()
		require.Error(t, c.Close())
		require.NoError(t, c.Close())
	})
}

// lose makes the connection end, and waits until the Client has noticed.
func lose(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
	t.Helper()
	p.Reset()
	_, err := c.Receive(t.Context())
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	testkit.Eventually(t, "the Client has noticed", func() bool { return !c.Stats().Connected })
}

// Unsent is for what a failed call says of its message.
func Unsent(t *testing.T, tr testkit.Transport) {
	for round := range 9 {
		testFate(t, tr, round)
	}
}

// testFate lets many goroutines write while the peer stops reading somewhere and resets
// or closes, and compares what it has got with what they were told.
func testFate(t *testing.T, tr testkit.Transport, round int) {
	c, p := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 20_000, WriteTimeout: 200 * time.Millisecond})
	var mu sync.Mutex
	unsent := make(map[string]bool) // by what messages begin with
	var end error                   // what the writers were told
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			var msg []byte
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d/%d/", g, i)
				msg = append(append(msg[:0], name...), testkit.PatternText(rand.IntN(3000))...)
				if i%8 == 7 {
					msg = append(msg, testkit.PatternText(rand.IntN(100_000))...) // the sockets are to be full soon
				}
				send := c.Send
				if g == 0 {
					send = c.Write
				}
				if err := send(t.Context(), msg); err != nil {
					mu.Lock()
					defer mu.Unlock()
					assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
					end = err
					if testkit.OpError(t, err).Unsent {
						unsent[name] = true
					}
					return
				}
			}
		})
	}
	got := make(map[string]bool)
	var msg []byte
	next := func() (err error) {
		if msg, err = p.NextInto(msg); err == nil {
			name := nameOf(msg)
			require.False(t, got[name], "received twice")
			got[name] = true
		}
		return err
	}
	var early error
	for n := rand.IntN(600); n > 0 && early == nil; n-- {
		early = next()
	}
	switch round % 3 {
	case 0:
		p.Reset()
	case 1:
		testkit.HangUp(p.Conn)
	case 2: // stop reading; after the WriteTimeout read what is left
	}
	testkit.RequireFast(t, "writers", wg.Wait)
	if early != nil {
		require.ErrorIs(t, end, tcpclient.ErrWriteTimeout, "on a busy machine this peer may be that slow")
	}
	if round%3 == 2 {
		for next() == nil {
		}
	}
	for name := range got {
		require.False(t, unsent[name], "%q is Unsent and was received", name)
	}
}

// nameOf returns what tells a message of testFate from the others.
func nameOf(msg []byte) string {
	end := 0
	for range 2 {
		end += 1 + bytes.IndexByte(msg[end:], '/')
	}
	return string(msg[:end])
}

// LossCalls are the calls that may be the first after a loss.
var LossCalls = map[string]func(ctx context.Context, c *tcpclient.Client) error{
	"Write": func(ctx context.Context, c *tcpclient.Client) error { return c.Write(ctx, []byte("next")) },
	"Flush": func(ctx context.Context, c *tcpclient.Client) error { return c.Flush(ctx) },
	"Send":  func(ctx context.Context, c *tcpclient.Client) error { return c.Send(ctx, []byte("next")) },
	"Call": func(ctx context.Context, c *tcpclient.Client) error {
		_, err := c.Call(ctx, []byte("next"))
		return err
	},
	"Shutdown": func(ctx context.Context, c *tcpclient.Client) error { return c.Shutdown(ctx) },
	"Close":    func(_ context.Context, c *tcpclient.Client) error { return c.Close() },
}

// RequireNotToldAgain wants err, of the call of that name, to tell of no loss.
func RequireNotToldAgain(t testing.TB, name string, err error) {
	t.Helper()
	if name == "Close" {
		require.NoError(t, err, "the loss was told already")
		return
	}
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.NotContains(t, err.Error(), "are lost")
}
