package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

// asItIs is a Framer whose frames are the bytes of their messages: of an empty message
// there is nothing.
type asItIs struct{}

func (asItIs) WriteFrame(w *bufio.Writer, msg []byte) error {
	_, err := w.Write(msg)
	return err
}

func (asItIs) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	b, err := r.ReadByte()
	return append(dst, b), err
}

// A Framer may have nothing to write for a message. Its batch is
// written without bytes, and what comes after it goes on.
func TestFrameWithoutBytesIsSentLikeAnyOther(t *testing.T) { // P7
	ops := map[string]func(ctx context.Context, c *tcpclient.Client) error{
		"Send": func(ctx context.Context, c *tcpclient.Client) error { return c.Send(ctx, nil) },
		"Call": func(ctx context.Context, c *tcpclient.Client) error {
			_, err := c.Call(ctx, nil)
			return err
		},
		"Write and Flush": func(ctx context.Context, c *tcpclient.Client) error {
			if err := c.Write(ctx, nil); err != nil {
				return err
			}
			return c.Flush(ctx)
		},
	}
	testkit.EachTransport(t, func(t *testing.T, tr testkit.Transport) {
		for name, op := range ops {
			t.Run(name, func(t *testing.T) {
				l := tr.Listen(t)
				accepted := make(chan *testkit.Peer, 1)
				go func() { accepted <- l.AcceptPeer(t) }()
				c, err := l.TryDial(t.Context(), tcpclient.Dialer{Framer: asItIs{}})
				require.NoError(t, err)
				p := <-accepted
				done := testkit.Start(t, func() (err error) {
					assert.NotPanics(t, func() { err = op(t.Context(), c) })
					return err
				})
				if name == "Call" {
					testkit.Eventually(t, "the request is written", func() bool { return c.Stats().MessagesSent > 0 })
					p.Raw([]byte("y"))
				}
				assert.NoError(t, done())
				testkit.RequireFast(t, "Send and Close after it", func() {
					assert.NoError(t, c.Send(t.Context(), []byte("x")))
					assert.NoError(t, c.Close())
				})
				b, err := p.In.ReadByte()
				require.NoError(t, err)
				require.Equal(t, byte('x'), b)
			})
		}
	})
}

// Also the contexts of those who write may end soon. What they leave is written by the helper and
// not by the next caller, who may be gone, too: no caller would ever write.
func TestSendersWhoseContextsEndSoonDoNotStarveEachOther(t *testing.T) { // P2, P5
	for name, op := range map[string]func(ctx context.Context, c *tcpclient.Client){
		"Send": func(ctx context.Context, c *tcpclient.Client) { c.Send(ctx, nil) },
		"Call": func(ctx context.Context, c *tcpclient.Client) { c.Call(ctx, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			l := testkit.ListenTCP(t)
			go func() { l.AcceptPeer(t).All() }()
			c, err := l.TryDial(t.Context(), tcpclient.Dialer{})
			require.NoError(t, err)
			var enough atomic.Bool
			var senders sync.WaitGroup
			for range 1024 {
				senders.Go(func() {
					for !enough.Load() && c.Stats().MessagesSent < 50_000 { // there is room for 65536 Calls
						ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
						op(ctx, c)
						cancel()
					}
				})
			}
			for range 5 {
				last := c.Stats()
				testkit.Eventually(t, "something is written", func() bool {
					now := c.Stats()
					return now.Flushes > last.Flushes || now.MessagesSent >= 50_000
				})
			}
			enough.Store(true)
			senders.Wait()
			c.Close()
		})
	}
}

func TestContext(t *testing.T) {
	t.Parallel() // it waits for real time

	testkit.EachTransportParallel(t, transporttest.Context)

	t.Run("that ends at any moment tears nothing", func(t *testing.T) { // P1, P2, FAULTS L10, S25
		for _, name := range []string{"tcp", "tls"} {
			t.Run(name, func(t *testing.T) {
				c, p := testkit.TransportNamed(name).Connect(t, tcpclient.Dialer{WriteBuffer: 20_000, Inbox: 20_000})
				go p.Echo()
				var mu sync.Mutex
				unsent, maybe := make(map[string]bool), make(map[string]bool)
				var wg sync.WaitGroup
				for g := range 4 {
					wg.Go(func() {
						for i := range 150 {
							msg := fmt.Sprintf("%d/%d/", g, i)
							msg += testkit.PatternText(rand.IntN(20_000))
							msg += fmt.Sprintf("/%d", len(msg))
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(300))*time.Microsecond)
							err := c.Send(ctx, []byte(msg))
							cancel()
							mu.Lock()
							if err == nil || !testkit.OpError(t, err).Unsent {
								maybe[msg] = true
							} else {
								assert.ErrorIs(t, err, context.DeadlineExceeded)
								unsent[msg] = true
							}
							mu.Unlock()
						}
					})
				}
				done := make(chan struct{})
				go func() {
					wg.Wait()
					assert.NoError(t, c.Send(t.Context(), []byte("the end")))
					close(done)
				}()
				got := make(map[string]int)
				for {
					msg, err := c.Receive(testkit.Within(t, time.Duration(rand.IntN(500))*time.Microsecond))
					if err != nil {
						require.ErrorIs(t, err, context.DeadlineExceeded)
						continue
					}
					if string(msg) == "the end" {
						break
					}
					require.Equal(t, fmt.Sprint(bytes.LastIndexByte(msg, '/')), string(msg[bytes.LastIndexByte(msg, '/')+1:]), "torn")
					got[string(msg)]++
				}
				<-done
				for msg, n := range got {
					require.Equal(t, 1, n)
					require.False(t, unsent[msg], "%.20q is Unsent", msg)
					require.True(t, maybe[msg])
				}
			})
		}
	})
}

func TestRefused(t *testing.T) {
	tooLarge := tcpclient.LengthPrefix{Width: 1}
	for name, call := range map[string]func(c *tcpclient.Client, msg []byte) error{
		"Write": func(c *tcpclient.Client, msg []byte) error { return c.Write(context.Background(), msg) },
		"Send":  func(c *tcpclient.Client, msg []byte) error { return c.Send(context.Background(), msg) },
	} {
		t.Run(name+" of a message that the Framer refuses leaves all as it was", func(t *testing.T) { // P4, FAULTS F17
			synctest.Test(t, func(t *testing.T) { // where no write takes long
				c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{Framer: tooLarge}, nil)
				for range 3 {
					require.NoError(t, c.Write(t.Context(), []byte("before")))
					err := call(c, testkit.Pattern(256))
					var e *tcpclient.FrameTooLargeError
					require.ErrorAs(t, err, &e)
					require.Equal(t, uint64(256), e.Size)
					require.True(t, testkit.OpError(t, err).Unsent)
					require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
					require.NoError(t, c.Send(t.Context(), []byte("after")))
				}
				require.Equal(t, 3, w.Writes())
				require.NoError(t, c.Close())
				all, err := io.ReadAll(p)
				require.NoError(t, err)
				require.Equal(t, strings.Repeat("\x06before\x05after", 3), string(all))
			})
		})
	}

	for _, size := range []int{10, 600, 70_000} {
		nasty := errors.New("changed its mind")
		panics, before := false, strings.Repeat("b", size/2)
		framer := testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
			if !bytes.HasPrefix(msg, []byte("bad")) {
				return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
			}
			w.Write(testkit.Pattern(size))
			if size == 70_000 {
				w.Flush() // against its contract
			}
			if panics {
				panic(nasty)
			}
			return nasty
		}}
		t.Run(fmt.Sprintf("nothing stays of %d bytes that a Framer wrote before it refused", size), func(t *testing.T) { // P4
			panics = false
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: framer})
			require.NoError(t, c.Write(t.Context(), []byte(before)))
			err := c.Write(t.Context(), []byte("bad"))
			require.ErrorIs(t, err, nasty)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.NoError(t, c.Write(t.Context(), []byte("after")))
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, before, p.Receive())
			require.Equal(t, "after", p.Receive())
			testkit.RequireAlive(t, c, p)
		})

		t.Run(fmt.Sprintf("nothing stays of %d bytes that a Framer wrote before it panicked", size), func(t *testing.T) { // P4, FAULTS L17
			panics = true
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: framer})
			require.NoError(t, c.Write(t.Context(), []byte(before)))
			for range 3 {
				require.PanicsWithError(t, nasty.Error(), func() { c.Write(t.Context(), []byte("bad")) })
				require.PanicsWithError(t, nasty.Error(), func() { c.Send(t.Context(), []byte("bad")) })
				require.PanicsWithError(t, nasty.Error(), func() { c.Call(t.Context(), []byte("bad")) })
			}
			require.NoError(t, c.Write(t.Context(), []byte("after")))
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, before, p.Receive())
			require.Equal(t, "after", p.Receive())
			testkit.RequireAlive(t, c, p)
			require.NoError(t, c.Close())
		})
	}

	t.Run("a Framer's panic hurts none of those who write at the same time", func(t *testing.T) { // FAULTS L17
		framer := testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
			if bytes.HasPrefix(msg, []byte("bad")) {
				w.Write(testkit.Pattern(1 + rand.IntN(2000)))
				panic("bad")
			}
			return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
		}}
		c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Framer: framer})
		var want []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 200 {
					if (i+g)%5 == 0 {
						assert.Panics(t, func() { c.Send(t.Context(), []byte("bad")) })
						continue
					}
					msg := fmt.Sprintf("good %d/%d", g, i)
					assert.NoError(t, c.Send(t.Context(), []byte(msg)))
					mu.Lock()
					want = append(want, msg)
					mu.Unlock()
				}
			})
		}
		got := testkit.Start(t, func() []string { msgs, _ := p.All(); return msgs })
		testkit.RequireFast(t, "Send", wg.Wait)
		require.NoError(t, c.Close())
		msgs := got()
		slices.Sort(msgs)
		slices.Sort(want)
		require.Equal(t, want, msgs)
	})
}

// waysToSend are the two ways through Send: frames of LengthPrefix{} take the short one, those of
// a user's Framer, of which the bytes are the same here, the long one.
var waysToSend = map[string]tcpclient.Framer{
	"the short way": tcpclient.LengthPrefix{},
	"the long way":  testkit.FuncFramer{},
}

// sendWays runs test in virtual time for each way through Send.
func sendWays(t *testing.T, test func(t *testing.T, d tcpclient.Dialer)) {
	for name, framer := range waysToSend {
		t.Run(name, testkit.InBubble(func(t *testing.T) { test(t, tcpclient.Dialer{Framer: framer}) }))
	}
}

// A ping that is under way has no batch of which a Send could be taken for a part.
func TestSendDuringAPing(t *testing.T) {
	t.Run("returns when its own message was written", func(t *testing.T) { // P4
		sendWays(t, func(t *testing.T, d tcpclient.Dialer) {
			d.Heartbeat = testkit.Pinging()
			gate, inside := make(chan struct{}), make(chan struct{})
			open := sync.OnceFunc(func() { close(gate) })
			defer open()
			calls := 0
			c, p, _ := testkit.ConnectHooked(t, d, func(w *testkit.HookedConn) {
				w.OnWrite = func(b []byte) (int, error) {
					if calls++; calls == 1 {
						close(inside)
						<-gate
					}
					return w.Conn.Write(b)
				}
			})
			<-inside
			sent := make(chan error, 1)
			go func() { sent <- c.Send(t.Context(), []byte("after it")) }()
			synctest.Wait()
			require.Empty(t, sent, "nothing was written")
			open()
			require.NoError(t, <-sent)
			require.Equal(t, "ping", p.Receive())
			require.Equal(t, "after it", p.Receive())
			require.NoError(t, c.Close())
			rest, _ := p.All()
			require.Empty(t, rest)
		})
	})
}

func TestFlushDelay(t *testing.T) {
	const delay = time.Second

	// arrival says when the next message is here, since began.
	arrival := func(t *testing.T, p *testkit.Peer, want string, began time.Time) time.Duration {
		t.Helper()
		require.Equal(t, want, p.Receive())
		return time.Since(began)
	}

	t.Run("flushes what was written, at the latest after itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FlushDelay: delay})
			for range 3 {
				began := time.Now()
				require.NoError(t, c.Write(t.Context(), []byte("one")))
				time.Sleep(delay - 1)
				require.NoError(t, c.Write(t.Context(), []byte("two")))
				require.Equal(t, delay, arrival(t, p, "one", began))
				require.Equal(t, delay, arrival(t, p, "two", began))
				time.Sleep(time.Hour)
			}
			require.Equal(t, uint64(3), c.Stats().Flushes)
		})
	})

	t.Run("does not hold back who flushes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FlushDelay: delay})
			began := time.Now()
			require.NoError(t, c.Write(t.Context(), []byte("one")))
			require.NoError(t, c.Flush(t.Context()))
			require.Zero(t, arrival(t, p, "one", began))
			require.NoError(t, c.Send(t.Context(), []byte("two")))
			require.Zero(t, arrival(t, p, "two", began))
			time.Sleep(delay / 2)
			require.NoError(t, c.Write(t.Context(), []byte("three")))
			require.LessOrEqual(t, arrival(t, p, "three", began), delay*3/2)
			time.Sleep(time.Hour)
			require.Equal(t, uint64(3), c.Stats().Flushes, "a timer with nothing to do does nothing")
		})
	})

	t.Run("is not waited for by Close and Shutdown", func(t *testing.T) { // P7
		for _, end := range []func(c *tcpclient.Client) error{
			(*tcpclient.Client).Close,
			func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
		} {
			synctest.Test(t, func(t *testing.T) {
				c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FlushDelay: time.Hour})
				began := time.Now()
				require.NoError(t, c.Write(t.Context(), []byte("one")))
				wait := testkit.Start(t, func() error { return end(c) })
				require.Zero(t, arrival(t, p, "one", began))
				p.Close()
				require.NoError(t, wait())
				require.Zero(t, time.Since(began))
			})
		}
	})

	t.Run("gives up with its connection", func(t *testing.T) { // P4, P6
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FlushDelay: time.Hour})
			began := time.Now()
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			p.Reset()
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorIs(t, c.Close(), tcpclient.ErrDisconnected)
			require.Zero(t, time.Since(began), "no flush waits for the timer")
		})
	})

	t.Run("works while the network is stuck", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{FlushDelay: delay, WriteTimeout: -1})
			for i := range 20 {
				require.NoError(t, c.Write(t.Context(), fmt.Appendf(nil, "%d%s", i, testkit.Pattern(500))))
				time.Sleep(2 * delay)
			}
			for i := range 20 {
				require.Equal(t, fmt.Sprintf("%d%s", i, testkit.Pattern(500)), p.Receive())
			}
			require.NoError(t, c.Close())
		})
	})

	t.Run("survives a connection that dies under its writers", func(t *testing.T) { // P6, P7
		for range 30 {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FlushDelay: time.Hour})
			writing := testkit.Start(t, func() error {
				for {
					if err := c.Write(context.Background(), []byte("x")); err != nil {
						return err
					}
				}
			})
			flushing := testkit.Start(t, func() error {
				for {
					if err := c.Flush(context.Background()); err != nil {
						return err
					}
				}
			})
			p.Receive()
			p.Reset()
			require.Error(t, writing())
			require.Error(t, flushing())
			began := time.Now()
			testkit.RequireFast(t, "Close", func() { c.Close() })
			require.Less(t, time.Since(began), 900*time.Millisecond, "Close has waited for a timer")
		}
	})
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

func TestLargeMessages(t *testing.T) {
	t.Parallel() // it waits for real time

	testkit.EachTransportParallel(t, func(t *testing.T, tr testkit.Transport) {
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
			for _, d := range []time.Duration{0, time.Microsecond, 100 * time.Microsecond, 3 * time.Millisecond} {
				for _, size := range largeSizes {
					for name, call := range lendings {
						msg = testkit.AppendCheckable(msg[:0], n, size)
						began := time.Now()
						err := call(testkit.Within(t, d), c, msg)
						spoil(msg)
						require.Less(t, time.Since(began), 5*time.Second)
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

		t.Run("that were taken arrive before the FIN of Shutdown", func(t *testing.T) { // P1, P7
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
	})
}
