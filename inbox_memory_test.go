package tcpclient_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// requireHeap wants f to leave no more than so many bytes more on the heap.
func requireHeap(t testing.TB, atMost int64, f func()) {
	t.Helper()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what a finalizer or a pool has held in the first
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	f()
	require.Less(t, heap()-before, atMost, "bytes more on the heap")
}

func TestInboxMemory(t *testing.T) {
	// An Inbox of 256 KiB takes 3900 messages of a byte. However they are cut and
	// mixed, they must not have a slab of 8 KiB each.
	const many, atMost = 3900, 2 << 20

	for _, test := range []struct {
		name   string
		pieces []string // sent over and over, each for itself
		msgs   int      // in all pieces together
	}{
		{"a piece is a body and the next header", []string{"x\x00\x00\x00\x01"}, 1},
		{"a piece is a body and half a header", []string{"x\x00\x00", "\x00\x01"}, 1},
		{"a piece has two messages", []string{string(testkit.Frames("x", "y"))[4:] + "\x00\x00\x00\x01"}, 2},
		{"two in a piece and one", []string{"x\x00\x00\x00\x01x\x00\x00\x00\x01", "x\x00\x00\x00\x01"}, 3},
	} {
		t.Run("follows the bytes received: "+test.name, testkit.InBubble(func(t *testing.T) { // P6
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			p.Raw([]byte{0, 0, 0, 1})
			synctest.Wait()
			requireHeap(t, atMost, func() {
				for range many / test.msgs {
					for _, piece := range test.pieces {
						p.Raw([]byte(piece))
						synctest.Wait()
					}
				}
			})
			for range many / test.msgs * test.msgs {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Len(t, msg, 1)
			}
		}))
	}

	t.Run("follows the bytes received: two whole messages in a piece", testkit.InBubble(func(t *testing.T) { // P6
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		requireHeap(t, atMost, func() {
			for range many / 2 {
				p.Send("x", "y")
				synctest.Wait()
			}
		})
		for range many / 2 {
			for _, want := range []string{"x", "y"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		}
	}))

	t.Run("follows the bytes received: empty and larger messages in turn", testkit.InBubble(func(t *testing.T) { // P6
		// One kind is copied in runs, the other is not.
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		large := string(testkit.Pattern(513))
		requireHeap(t, atMost, func() {
			for range 400 {
				p.Send("", large)
				synctest.Wait()
			}
		})
		for range 400 {
			for _, want := range []string{"", large} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		}
	}))
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

func TestErrInboxFull(t *testing.T) {
	t.Run("comes when a Call has waited a second, not when the Inbox was full for one", testkit.InBubble(func(t *testing.T) {
		for _, full := range []time.Duration{0, 100, 740, 750, 760, 990, 1000, 9990, 10_000} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 1, Correlator: tcpclient.IDPrefix{}})
			p.Send("a", "b", "c", "d")
			synctest.Wait()
			time.Sleep(full * time.Millisecond)
			began := time.Now()
			_, err := c.Call(testkit.Within(t, time.Minute), []byte("?"))
			require.ErrorIs(t, err, tcpclient.ErrInboxFull)
			require.GreaterOrEqual(t, time.Since(began), time.Second, "the Inbox was full for %d ms before", full)
			require.Less(t, time.Since(began), 2*time.Second, "the Inbox was full for %d ms before", full)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("does not come while somebody receives, though a large message finds no room", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 100_000, Correlator: tcpclient.IDPrefix{}})
		for range 1400 {
			p.Send("1234567")
		}
		reply := string(append(binary.BigEndian.AppendUint64(nil, 1), '!'))
		go p.Write(testkit.Frames(string(testkit.Pattern(90_000)), reply))
		synctest.Wait()
		call := testkit.Start(t, func() error { _, err := c.Call(context.Background(), []byte("?")); return err })
		for range 1401 {
			time.Sleep(2 * time.Millisecond)
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
		}
		require.NoError(t, call())
	}))
}
