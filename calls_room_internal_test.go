package tcpclient

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCallsWaitForRoom(t *testing.T) {
	t.Run("is found by those who wait when calls are abandoned", func(t *testing.T) {
		// With more ids than are kept for abandoned calls, these come free at once.
		synctest.Test(t, func(t *testing.T) {
			k := newCalls(narrow{max: maxKept + 1}, new(counters))
			var entered []*call
			for range maxKept + 1 {
				entered = append(entered, mustEnter(t, k))
			}
			requireFull(t, k)
			found := make(chan error, 1)
			go func() { found <- k.wait(t.Context()) }()
			synctest.Wait()
			require.Empty(t, found)
			k.abandon(entered[0])
			synctest.Wait()
			require.Len(t, found, 1, "there is room, and one still waits for it")
			require.NoError(t, <-found)
			mustEnter(t, k)
		})
	})

	t.Run("is not waited for once calls are refused", func(t *testing.T) { // P7
		// A Call that was refused for want of room, and comes to wait when Close has been.
		synctest.Test(t, func(t *testing.T) {
			for _, k := range []*calls{newCalls(nil, new(counters)), newCalls(narrow{max: 3}, new(counters))} {
				for range k.limit {
					mustEnter(t, k)
				}
				requireFull(t, k)
				k.close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				require.ErrorIs(t, k.wait(ctx), ErrClosed)
				cancel()
			}
		})
	})
}

func TestCallsStall(t *testing.T) {
	t.Run("who has only begun to wait for room does not fail with those who have waited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newCalls(narrow{max: 1}, new(counters))
			require.NotNil(t, k.enter())
			wait := func(ctx context.Context) <-chan error {
				ended := make(chan error, 1)
				go func() { ended <- k.wait(ctx) }()
				synctest.Wait()
				return ended
			}
			ctx, cancel := context.WithCancel(t.Context())
			first := wait(ctx)
			cancel()
			require.ErrorIs(t, <-first, context.Canceled)
			for range stallTicks {
				k.stall(false)
			}
			second := wait(t.Context())
			k.stall(true)
			synctest.Wait()
			require.Empty(t, second)
			for range stallTicks {
				k.stall(true)
			}
			require.ErrorIs(t, <-second, ErrInboxFull)
		})
	})
}
