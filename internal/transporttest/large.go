package transporttest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// LargeMessages is for messages that go another way than small ones.
func LargeMessages(t *testing.T, tr testkit.Transport) {
	for name, call := range lendings {
		t.Run("arrive as they were, in order, alone and after small ones: "+name, func(t *testing.T) { // P1, P3, P12
			c, p := tr.Connect(t, tcpclient.Dialer{})
			type result struct {
				got []int
				end error
			}
			read := testkit.Start(t, func() (r result) { r.got, r.end = requireChecked(t, p); return r })
			want := 0
			var msg []byte
			next := func(size int, call func(context.Context, *tcpclient.Client, []byte) error) {
				msg = testkit.AppendCheckable(msg[:0], want, size)
				want++
				require.NoError(t, call(t.Context(), c, msg))
				spoil(msg)
			}
			write := func(ctx context.Context, c *tcpclient.Client, msg []byte) error { return c.Write(ctx, msg) }
			for _, size := range largeSizes {
				next(size, call)
				next(8, write)
				next(100, write)
				next(size, call)
				next(size, write)
				next(size, write)
			}
			require.NoError(t, c.Flush(t.Context()))
			require.NoError(t, c.Close())
			r := read()
			require.Len(t, r.got, want)
			require.True(t, slices.IsSorted(r.got), "%v", r.got)
		})
	}

	t.Run("of many who send at once arrive whole, each in its order", func(t *testing.T) { // P1, P3
		const senders = 64
		each := testkit.Rounds(12)
		c, p := tr.Connect(t, tcpclient.Dialer{})
		var all sync.WaitGroup
		for s := range senders {
			all.Go(func() {
				var msg []byte
				for i := range each {
					size := 8 + (s+i)%100
					if s%8 == 0 {
						size = largeSizes[(s+i)%len(largeSizes)]
					}
					msg = testkit.AppendCheckable(msg[:0], s*each+i, size)
					call := lendings["Send"]
					if i%3 == 2 {
						call = lendings["Write and Flush"]
					}
					assert.NoError(t, call(t.Context(), c, msg))
					spoil(msg)
				}
			})
		}
		go func() { all.Wait(); c.Close() }()
		got, _ := requireChecked(t, p)
		require.Len(t, got, senders*each)
		next := make([]int, senders)
		for _, i := range got {
			require.Equal(t, next[i/each], i%each, "of sender %d", i/each)
			next[i/each]++
		}
	})

	t.Run("whose contexts end before they are written are read as they were", func(t *testing.T) { // P1, P2, P4
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{WriteTimeout: -1})
		type result struct {
			got []int
			end error
		}
		read := testkit.Start(t, func() (r result) {
			r.got, r.end = requireCheckedSlowly(t, p, time.Millisecond) // slower than what is sent
			return r
		})
		var msg []byte
		unsent := make(map[int]bool)
		n, ended := 0, 0
		watch := testkit.StartStopwatch(t)
		for _, d := range []time.Duration{0, time.Microsecond, 100 * time.Microsecond, 3 * time.Millisecond} {
			for _, size := range largeSizes {
				for name, call := range lendings {
					msg = testkit.AppendCheckable(msg[:0], n, size)
					began := watch.Ran()
					err := call(testkit.Within(t, d), c, msg)
					spoil(msg)
					require.Less(t, watch.Ran()-began, 5*time.Second)
					if err != nil {
						require.ErrorIs(t, err, context.DeadlineExceeded, name)
						unsent[n] = testkit.OpError(t, err).Unsent
						ended++
					}
					n++
				}
			}
		}
		require.Positive(t, ended)
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Close())
		r := read()
		require.ErrorIs(t, r.end, io.EOF)
		require.True(t, slices.IsSorted(r.got))
		for _, i := range r.got {
			require.False(t, unsent[i], "message %d is Unsent and came", i)
			unsent[i] = true
		}
		for i := range n {
			require.Contains(t, unsent, i, "message %d was taken and has not come", i)
		}
	})

	t.Run("to a peer that reads slowly arrive as they were", func(t *testing.T) { // P1
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		sent := testkit.Start(t, func() error {
			var msg []byte
			for i, size := range largeSizes {
				msg = testkit.AppendCheckable(msg[:0], i, size)
				if err := c.Send(t.Context(), msg); err != nil {
					return err
				}
				spoil(msg)
			}
			return c.Close()
		})
		var msg []byte
		for i := range largeSizes {
			time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond) // slower and faster than a Send waits
			var err error
			msg, err = p.NextInto(msg)
			require.NoError(t, err)
			k, err := testkit.Check(msg)
			require.NoError(t, err)
			require.Equal(t, i, k)
		}
		require.NoError(t, sent())
	})

	t.Run("end with Close, in the middle of one", func(t *testing.T) { // P4, P7
		testkit.SkipIfShort(t)
		for _, method := range []func(*tcpclient.Client, context.Context, []byte) error{(*tcpclient.Client).Send, (*tcpclient.Client).Write} {
			c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
			sending := testkit.Start(t, func() error {
				var msg []byte
				for i := 0; ; i++ {
					msg = testkit.AppendCheckable(msg[:0], i, 300<<10)
					err := method(c, context.Background(), msg)
					spoil(msg)
					if err != nil {
						return err
					}
				}
			})
			p.Next()
			testkit.RequireFast(t, "Close", func() { c.Close() })
			require.ErrorIs(t, sending(), tcpclient.ErrClosed)
			requireChecked(t, p)
		}
	})

	t.Run("that die with their connection are Unsent only if the server has read nothing of them", func(t *testing.T) { // P4
		for round := range testkit.Rounds(6) {
			c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
			fates := make(chan error, 1)
			start := testkit.Start(t, func() (at int) { // of the one that fails
				var msg []byte
				for i := 0; ; i++ {
					msg = testkit.AppendCheckable(msg[:0], i, 100+i%3*(500<<10))
					err := c.Send(context.Background(), msg)
					spoil(msg)
					if err != nil {
						fates <- err
						return at
					}
					at += len(testkit.Frame("")) + len(msg)
				}
			})
			read, _ := p.In.Discard(rand.IntN(2 << 20))
			read += p.In.Buffered()
			if round%2 == 0 {
				p.Reset()
			} else {
				p.Close()
			}
			at, err := start(), <-fates
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, testkit.OpError(t, err).Unsent && read > at, "the server has read %d bytes, the message is at %d", read, at)
			require.NoError(t, c.Close(), "no message is lost that no Send has told of")
		}
	})
}

// LargeMessagesBeforeFIN is for what was taken before a Shutdown.
func LargeMessagesBeforeFIN(t *testing.T, tr testkit.Transport) { // P1, P7
	c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
	const many = 5
	for i := range many {
		require.NoError(t, c.Write(t.Context(), testkit.Checkable(i, 20)))
	}
	sending := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Checkable(many, 1<<20)) })
	require.NotEmpty(t, p.Receive())
	down := testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
	got, end := requireChecked(t, p)
	require.ErrorIs(t, end, io.EOF)
	p.HalfClose()
	require.NoError(t, sending())
	require.NoError(t, down())
	require.Equal(t, []int{1, 2, 3, 4, 5}, got)
}

// What a call has borrowed is the caller's again when it returns, also if the context ended before
// all was written. These are the ways to lend a message.
var lendings = map[string]func(ctx context.Context, c *tcpclient.Client, msg []byte) error{
	"Send": func(ctx context.Context, c *tcpclient.Client, msg []byte) error { return c.Send(ctx, msg) },
	"Write and Flush": func(ctx context.Context, c *tcpclient.Client, msg []byte) error {
		if err := c.Write(ctx, msg); err != nil {
			return err
		}
		spoil(msg)
		return c.Flush(ctx)
	},
}

// largeSizes are those of messages around the sizes at which they go another way: from memory of
// the caller, larger than the WriteBuffer, into memory of their own.
var largeSizes = func() []int {
	sizes := []int{16<<10 - 1, 16 << 10, 16<<10 + 1, 64<<10 - 5, 64<<10 - 4, 64<<10 - 1, 64 << 10, 64<<10 + 4, 300 << 10, 1 << 20}
	if testkit.RaceEnabled { // which takes its time with each byte
		return sizes
	}
	return append(sizes, 1<<20-4, 1<<20+4)
}()

// spoil overwrites msg, as its owner may once a call that has borrowed it has returned.
func spoil(msg []byte) {
	for n := 0; n < len(msg); { // in pieces: the race detector takes its time with each byte
		n += copy(msg[n:], spoiled)
	}
}

var spoiled = bytes.Repeat([]byte{0xff}, 64<<10)

// requireChecked takes in messages of Checkable until the stream ends, and returns their numbers.
func requireChecked(t *testing.T, p *testkit.Peer) (got []int, end error) {
	return requireCheckedSlowly(t, p, 0)
}

// requireCheckedSlowly is requireChecked that waits after each message.
func requireCheckedSlowly(t *testing.T, p *testkit.Peer, pause time.Duration) (got []int, end error) {
	var msg []byte
	for {
		if msg, end = p.NextInto(msg); end != nil {
			return got, end
		}
		i, err := testkit.Check(msg)
		assert.NoError(t, err)
		got = append(got, i)
		time.Sleep(pause)
	}
}
