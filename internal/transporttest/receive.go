package transporttest

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Receive is for Client.Receive.
func Receive(t *testing.T, tr testkit.Transport) {
	t.Run("returns messages in the order of their arrival", func(t *testing.T) { // P3
		c, p := tr.Connect(t, tcpclient.Dialer{})
		want := testkit.Numbered(1000, 50)
		go p.Write(testkit.Frames(want...))
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want[i], string(msg))
		}
	})

	t.Run("returns an empty message", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("", "a", "")
		for _, want := range []string{"", "a", ""} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.NotNil(t, msg, "nil reads as no message at all")
			require.Equal(t, want, string(msg))
		}
	})

	t.Run("returns messages of every size around the buffers", func(t *testing.T) { // P1, FAULTS S4
		c, p := tr.Connect(t, tcpclient.Dialer{ReadBuffer: 16 << 10, Inbox: 64 << 10})
		var want []string
		for _, n := range boundaries(16<<10, 64<<10) {
			want = append(want, testkit.PatternText(n))
		}
		go p.Write(testkit.Frames(want...))
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.True(t, want[i] == string(msg), "message %d: got %d bytes, want %d", i, len(msg), len(want[i]))
		}
	})

	t.Run("returns whole what comes after a silence, however much", func(t *testing.T) { // P1, P3
		c, p := tr.Connect(t, tcpclient.Dialer{})
		for round := range 3 {
			for _, size := range []int{0, 1, 507, 508, 509, 3000, 70_000} {
				for _, n := range []int{1, 2, 200_000 / (size + 64)} {
					want := testkit.Numbered(n, size)
					go p.Write(testkit.Frames(want...))
					for i := range want {
						msg, err := c.Receive(t.Context())
						require.NoError(t, err)
						require.True(t, want[i] == string(msg), "round %d, size %d, message %d of %d", round, size, i, n)
					}
				}
			}
		}
	})

	t.Run("gives away what it returns", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		want := append(testkit.Numbered(200, 30), testkit.Numbered(20, 6000)...)
		go p.Write(testkit.Frames(want...))
		var got [][]byte
		for range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			got = append(got, msg)
		}
		for i := range want {
			require.Equal(t, want[i], string(got[i]))
			for j := range got[i] {
				got[i][j] = '!'
			}
			_ = append(got[i], "after"...)
		}
	})

	t.Run("keeps a half-read frame when its context ends", func(t *testing.T) { // P1, P2
		c, p := tr.Connect(t, tcpclient.Dialer{})
		for _, size := range []int{1, 9000} {
			msg := testkit.PatternText(size)
			stream := testkit.Frame(msg)
			for _, cut := range []int{1, 3, 4, len(stream)/2 + 2, len(stream) - 1} {
				p.Raw(stream[:cut])
				_, err := c.Receive(testkit.Within(t, 2*time.Millisecond))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				p.Raw(stream[cut:])
				got, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.True(t, msg == string(got), "got %d bytes, want %d", len(got), len(msg))
			}
		}
	})

	t.Run("returns soon after its context ends, and the connection lives on", func(t *testing.T) { // P2
		c, p := tr.Connect(t, tcpclient.Dialer{})
		ctx, cancel := context.WithCancel(t.Context())
		wait := testkit.Start(t, func() error { _, err := c.Receive(ctx); return err })
		cancel()
		err := wait()
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "receive", testkit.OpError(t, err).Op)
		require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
		require.NotErrorIs(t, err, tcpclient.ErrDisconnected)
		testkit.RequireAlive(t, c, p)
	})

	t.Run("returns what came before the end first", func(t *testing.T) { // P1
		c, p := tr.Connect(t, tcpclient.Dialer{})
		want := testkit.Numbered(300, 500)
		go p.Finish(want...)
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, want, got)
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected) // P9
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	})

	t.Run("gives concurrent callers different messages, each once", func(t *testing.T) { // FAULTS L8
		c, p := tr.Connect(t, tcpclient.Dialer{})
		want := testkit.Numbered(2000, 40)
		go p.Finish(want...)
		var mu sync.Mutex
		got := make(map[string]int)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				last := ""
				for {
					msg, err := c.Receive(t.Context())
					if err != nil {
						assert.ErrorIs(t, err, io.EOF)
						return
					}
					assert.Less(t, last, string(msg), "one caller's messages are in order")
					last = string(msg)
					mu.Lock()
					got[last]++
					mu.Unlock()
				}
			})
		}
		testkit.RequireFast(t, "Receive", wg.Wait)
		require.Len(t, got, len(want))
		for msg, n := range got {
			require.Equal(t, 1, n, msg)
		}
	})

	t.Run("wakes all who wait when the connection ends", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := c.Receive(t.Context())
				assert.ErrorIs(t, err, io.EOF)
			})
		}
		testkit.WaitBlocked(t, "(*inbox).receive")
		p.HalfClose()
		testkit.RequireFast(t, "Receive", wg.Wait)
	})
}

// boundaries are sizes around those of the buffers inside, and around the given ones.
func boundaries(sizes ...int) []int {
	all := []int{0, 1}
	for _, size := range append([]int{64, 512, 2 << 10, 4 << 10, 8 << 10, 32 << 10}, sizes...) {
		for d := -65; d <= 1; d++ {
			if d == -65 || d == -64 || d == -63 || d >= -5 {
				all = append(all, max(0, size+d))
			}
		}
	}
	return all
}

// ReceiveInto is for Client.ReceiveInto.
func ReceiveInto(t *testing.T, tr testkit.Transport) {
	t.Run("returns the message in storage that the caller owns", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		var want []string
		for _, n := range []int{10, 5000, 1, 0, 40000, 3, 9000, 9000, 9000, 20} {
			want = append(want, testkit.PatternText(n))
		}
		for range 20 {
			wait := testkit.Start(t, func() error { _, err := p.Write(testkit.Frames(want...)); return err })
			var buf []byte
			for i := range want {
				var err error
				buf, err = c.ReceiveInto(t.Context(), buf)
				require.NoError(t, err)
				require.Equal(t, want[i], string(buf))
				scribble(buf)
			}
			require.NoError(t, wait())
		}
	})

	t.Run("works for many callers with buffers of their own", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		const n = 1500
		go func() {
			for i := range n {
				p.Write(testkit.Frame(testkit.PatternText(i * 7 % 9000)))
			}
			p.HalfClose()
		}()
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for range 4 {
			wg.Go(func() {
				var buf []byte
				for {
					msg, err := c.ReceiveInto(t.Context(), buf)
					if err != nil {
						assert.ErrorIs(t, err, io.EOF)
						return
					}
					assert.True(t, testkit.PatternText(len(msg)) == string(msg))
					scribble(msg)
					buf = msg
					mu.Lock()
					total++
					mu.Unlock()
				}
			})
		}
		testkit.RequireFast(t, "ReceiveInto", wg.Wait)
		require.Equal(t, n, total)
	})

	t.Run("returns the buffer with an error", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		buf := make([]byte, 10, 100)
		for _, ctx := range []context.Context{testkit.Canceled(t), testkit.Within(t, time.Millisecond)} {
			got, err := c.ReceiveInto(ctx, buf)
			require.ErrorIs(t, err, ctx.Err())
			require.Empty(t, got)
			require.Equal(t, 100, cap(got))
			require.Same(t, &buf[0], &got[:1][0])
		}
		p.HalfClose()
		got, err := c.ReceiveInto(t.Context(), buf)
		require.ErrorIs(t, err, io.EOF)
		require.Empty(t, got)
		require.Equal(t, 100, cap(got))
		got, err = c.ReceiveInto(t.Context(), nil)
		require.ErrorIs(t, err, io.EOF)
		require.Empty(t, got)
	})
}

// scribble writes on all of b's storage, which is the caller's.
func scribble(b []byte) {
	b = b[:cap(b)]
	copy(b, bytes.Repeat([]byte("!"), len(b)))
}

// Messages is for Client.Messages.
func Messages(t *testing.T, tr testkit.Transport) {
	t.Run("yields all messages and then the end, once", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		var want []string
		for i := range 500 {
			want = append(want, testkit.PatternText(i*37%9000))
		}
		go p.Finish(want...)
		i, ends := 0, 0
		for msg, err := range c.Messages(t.Context()) {
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, "receive", testkit.OpError(t, err).Op)
				require.Nil(t, msg)
				ends++
				continue
			}
			require.Zero(t, ends)
			require.True(t, want[i] == string(msg), "message %d", i)
			i++
		}
		require.Equal(t, len(want), i)
		require.Equal(t, 1, ends)
	})

	t.Run("keeps a message valid until the next", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 2000})
		go func() {
			for _, msg := range testkit.Numbered(500, 100) {
				p.Write(testkit.Frame(msg))
			}
			p.HalfClose()
		}()
		want := testkit.Numbered(500, 100)
		i := 0
		for msg, err := range c.Messages(t.Context()) {
			if err != nil {
				break
			}
			require.Equal(t, want[i], string(msg))
			if i++; i%10 == 0 && i < len(want) {
				// Others receive, and the reader fills what they have emptied.
				for range 5 {
					other, err := c.Receive(t.Context())
					require.NoError(t, err)
					require.Equal(t, want[i], string(other))
					i++
				}
				require.Equal(t, want[i-6], string(msg), "valid until the next of this loop")
			}
		}
		require.Equal(t, len(want), i)
	})

	t.Run("loses nothing when broken out of", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		want := testkit.Numbered(100, 20)
		p.Send(want...)
		for i := 0; i < len(want); i++ {
			for msg, err := range c.Messages(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, want[i], string(msg))
				break
			}
			if i++; i < len(want) {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want[i], string(msg))
			}
		}
	})

	t.Run("can be ranged over by several at once", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 4000})
		want := testkit.Numbered(3000, 60)
		go p.Finish(want...)
		var mu sync.Mutex
		got := make(map[string]int)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				ends := 0
				for msg, err := range c.Messages(t.Context()) {
					if err != nil {
						ends++
						assert.ErrorIs(t, err, io.EOF)
						continue
					}
					mu.Lock()
					got[string(msg)]++
					mu.Unlock()
				}
				assert.Equal(t, 1, ends)
			})
		}
		testkit.RequireFast(t, "Messages", wg.Wait)
		require.Len(t, got, len(want))
		for msg, n := range got {
			require.Equal(t, 1, n, msg)
		}
	})

	t.Run("ends with its context, and can be begun again", func(t *testing.T) { // P2
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("one")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []error
		for msg, err := range c.Messages(ctx) {
			if err == nil {
				require.Equal(t, "one", string(msg))
				cancel()
				continue
			}
			got = append(got, err)
		}
		require.Len(t, got, 1)
		require.ErrorIs(t, got[0], context.Canceled)
		testkit.RequireAlive(t, c, p)
	})

	t.Run("releases its message when the loop panics", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("one", "two")
		require.Panics(t, func() {
			for range c.Messages(t.Context()) {
				panic("in the loop")
			}
		})
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "two", string(msg))
	})

	t.Run("lets Close be called inside", func(t *testing.T) { // P7
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("one", "two", "three")
		n := 0
		for msg, err := range c.Messages(t.Context()) {
			if n++; n == 1 {
				require.NoError(t, c.Close())
				require.Equal(t, "one", string(msg))
				continue
			}
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		}
		require.Equal(t, 2, n)
	})
}

// ManyReceivers is for several goroutines that receive at once.
func ManyReceivers(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
	const n = 2000
	go p.Write(testkit.Frames(testkit.Numbered(n, 50)...))
	var mu sync.Mutex
	got := make(map[string]int)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	take := func(msg []byte) {
		mu.Lock()
		defer mu.Unlock()
		if got[string(msg)]++; len(got) == n {
			cancel()
		}
	}
	for range 3 {
		wg.Go(func() {
			for {
				msg, err := c.Receive(ctx)
				if err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				take(msg)
			}
		})
		wg.Go(func() {
			for msg, err := range c.Messages(ctx) {
				if err == nil {
					take(msg)
				}
			}
		})
		wg.Go(func() {
			var buf []byte
			for {
				var err error
				if buf, err = c.ReceiveInto(ctx, buf); err != nil {
					return
				}
				take(buf)
			}
		})
	}
	testkit.RequireFast(t, "receivers", wg.Wait)
	cancel()
	require.Len(t, got, n)
	for msg, times := range got {
		require.Equal(t, 1, times)
		require.Len(t, msg, 50)
		require.Equal(t, strings.Repeat(msg[7:8], 43), msg[7:], "torn")
	}
}
