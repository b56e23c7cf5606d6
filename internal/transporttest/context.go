package transporttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Context is for contexts that end.
func Context(t *testing.T, tr testkit.Transport) {
	t.Run("that is done lets no call do anything", func(t *testing.T) { // P2, FAULTS L9
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("waits")
		testkit.Eventually(t, "a message waits", func() bool { return c.Stats().MessagesReceived == 1 && c.Stats().InboxBytes > 0 })
		before := c.Stats()
		for name, err := range testkit.EveryMethod(t, testkit.Canceled(t), c) {
			require.ErrorIs(t, err, context.Canceled, name)
			require.NotErrorIs(t, err, tcpclient.ErrDisconnected, name)
			require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err), name)
		}
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, before, c.Stats())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "waits", string(msg))
		testkit.RequireAlive(t, c, p)
	})

	t.Run("that ends while the peer does not read ends the wait, not the connection", func(t *testing.T) { // P1, P2, P4, FAULTS L10, S16
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{WriteBuffer: 10_000})
		sent := testkit.Stall(t, c)
		unsent := make(map[string]bool)
		watch := testkit.StartStopwatch(t)
		var mu sync.Mutex
		n := 0
		next := func(size int) string {
			mu.Lock()
			defer mu.Unlock()
			n++
			return fmt.Sprintf("after %04d", n) + strings.Repeat("!", size)
		}
		try := func(f func(ctx context.Context, msg []byte) error, size int) {
			msg := next(size)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
			defer cancel()
			began := watch.Ran()
			err := f(ctx, []byte(msg))
			assert.Less(t, watch.Ran()-began, time.Second)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				sent = append(sent, msg)
				return
			}
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.NotErrorIs(t, err, tcpclient.ErrDisconnected)
			if testkit.OpError(t, err).Unsent {
				unsent[msg] = true
			}
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 30 {
					try(c.Write, i*100)
					try(c.Send, i*100)
					try(func(ctx context.Context, _ []byte) error {
						if err := c.Flush(ctx); err != nil {
							return err
						}
						return c.Write(ctx, []byte("flushed"))
					}, 0)
				}
			})
		}
		wg.Wait()
		_, err := c.Receive(testkit.Within(t, time.Millisecond))
		require.ErrorIs(t, err, context.DeadlineExceeded)

		wait := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("the end")) })
		got := make(map[string]int)
		for {
			msg := p.Receive()
			if got[msg]++; msg == "the end" {
				break
			}
			require.False(t, unsent[msg], "%.20q is Unsent", msg)
			if msg != "flushed" {
				require.Equal(t, 1, got[msg], "%.20q was sent twice", msg)
			}
		}
		require.NoError(t, wait())
		for _, msg := range sent {
			require.True(t, msg == "flushed" || got[msg] == 1 || strings.HasPrefix(msg, "after"), "%.20q is lost", msg)
		}
		testkit.RequireAlive(t, c, p)
	})

	t.Run("that ends for the one who writes leaves the others' messages to another goroutine", func(t *testing.T) { // P2
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		sent := testkit.Stall(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		impatient := testkit.Start(t, func() error { return c.Send(ctx, []byte("impatient")) })
		testkit.WaitBlocked(t, "(*outbox).await", "(*Client).Send")
		patient := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("patient")) })
		flush := testkit.Start(t, func() error { return c.Flush(t.Context()) })
		cancel()
		require.ErrorIs(t, impatient(), context.Canceled)
		for i := range sent {
			require.True(t, sent[i] == p.Receive())
		}
		require.ElementsMatch(t, []string{"impatient", "patient"}, []string{p.Receive(), p.Receive()})
		require.NoError(t, patient())
		require.NoError(t, flush())
		testkit.RequireAlive(t, c, p)
	})
}
