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

func TestFrameWithoutBytesIsSentLikeAnyOther(t *testing.T) {
	testkit.EachTransport(t, transporttest.FrameWithoutBytes)
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
			watch := testkit.StartStopwatch(t)
			testkit.RequireFast(t, "Close", func() { c.Close() })
			require.Less(t, watch.Ran(), 900*time.Millisecond, "Close has waited for a timer")
		}
	})
}

func TestLargeMessages(t *testing.T) {
	t.Parallel() // it waits for real time

	testkit.EachTransportParallel(t, transporttest.LargeMessages)

	t.Run("that were taken arrive before the FIN of Shutdown", func(t *testing.T) {
		testkit.EachTransportParallel(t, transporttest.LargeMessagesBeforeFIN)
	})
}
