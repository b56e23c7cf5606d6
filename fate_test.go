package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What became of a message, and what the Client says about it.

func TestContext(t *testing.T) {
	testkit.EachTransportParallel(t, func(t *testing.T, tr testkit.Transport) {
		t.Run("that is done lets no call do anything", func(t *testing.T) { // P2, FAULTS L9
			c, p := tr.Connect(t, tcpclient.Dialer{})
			p.Send("waits")
			testkit.Eventually(t, "a message waits", func() bool { return c.Stats().MessagesReceived == 1 })
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
			c, p := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 10_000})
			sent := testkit.Stall(t, c)
			unsent := make(map[string]bool)
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
				began := time.Now()
				err := f(ctx, []byte(msg))
				assert.Less(t, time.Since(began), time.Second)
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

		t.Run("that ends for the one who writes leaves the others' messages to somebody", func(t *testing.T) { // P2
			c, p := tr.Connect(t, tcpclient.Dialer{})
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
	})

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
							msg += string(testkit.Pattern(rand.IntN(20_000)))
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

// A fate is what a call has said about its message.
type fate struct {
	msg string
	err error
}

func TestUnsent(t *testing.T) {
	t.Run("is exact for each message of a batch that was cut off", func(t *testing.T) { // P4, FAULTS S18
		// The first message keeps the network busy while the others gather in a batch, of
		// which the network takes cut bytes.
		msgs := testkit.Numbered(10, 20)
		total := len(testkit.Frames(msgs...))
		for cut := 0; cut <= total; cut++ {
			if cut%24 > 2 && cut%24 < 22 && cut%7 != 0 {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				calls, batch := 0, ""
				c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
				w.OnWrite = func(b []byte) (int, error) {
					if calls++; calls == 1 {
						<-gate
						return w.Conn.Write(b)
					}
					batch = string(b)
					n, _ := w.Conn.Write(b[:cut])
					return n, syscall.EPIPE
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				fates := make(chan fate, len(msgs))
				for _, msg := range msgs {
					go func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} }()
				}
				synctest.Wait()
				close(gate)
				require.NoError(t, first())
				unsent := make(map[string]bool)
				for range msgs {
					f := <-fates
					at := strings.Index(batch, f.msg) - 4
					require.GreaterOrEqual(t, at, 0)
					if at+24 <= cut && cut == total {
						// All was handed over; the error came just behind it.
						continue
					}
					require.Error(t, f.err, f.msg)
					require.ErrorIs(t, f.err, syscall.EPIPE)
					require.ErrorIs(t, f.err, tcpclient.ErrDisconnected)
					require.Equal(t, at >= cut, testkit.OpError(t, f.err).Unsent, "message at %d, cut at %d", at, cut)
					unsent[f.msg] = testkit.OpError(t, f.err).Unsent
				}
				require.Equal(t, 2, calls, "no further byte")
				require.NoError(t, c.Close())
				got, _ := p.All()
				for _, msg := range got {
					require.False(t, unsent[msg], msg)
				}
			})
		}
	})

	t.Run("is exact when the network takes a batch bit by bit", func(t *testing.T) { // P4
		for _, cut := range []int{0, 1, 23, 24, 25, 100, 239, 240} {
			synctest.Test(t, func(t *testing.T) {
				msgs := testkit.Numbered(10, 20)
				n := &tcpclienttest.Network{Buffer: 9 + max(cut, 1)}
				var w *testkit.HookedConn
				d := tcpclient.Dialer{WriteTimeout: 3 * time.Second, DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					w = &testkit.HookedConn{Conn: conn}
					return w
				})}
				c, p := testkit.ListenNetwork(t, n).Connect(t, d)
				// "first" and a part of the batch fit.
				gate := make(chan struct{})
				batch := ""
				w.OnWrite = func(b []byte) (int, error) {
					if gate != nil {
						<-gate
						gate = nil
					} else if batch == "" {
						batch = string(b)
					}
					if cut == 0 {
						return w.Conn.Write(b[:min(len(b), 9-w.Writes()/2*9)])
					}
					return w.Conn.Write(b)
				}
				if cut == 0 {
					w.OnWrite = func(b []byte) (int, error) {
						if gate != nil {
							<-gate
							gate = nil
							return w.Conn.Write(b)
						}
						if batch == "" {
							batch = string(b)
						}
						<-time.After(time.Second) // the deadlines are shorter
						return 0, context.DeadlineExceeded
					}
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				fates := make(chan fate, len(msgs))
				for _, msg := range msgs {
					go func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} }()
				}
				synctest.Wait()
				close(gate)
				require.NoError(t, first())
				for range msgs {
					f := <-fates
					at := strings.Index(batch, f.msg) - 4
					if cut == 240 {
						require.NoError(t, f.err)
						continue
					}
					require.Error(t, f.err)
					require.Equal(t, at >= cut, testkit.OpError(t, f.err).Unsent, "message at %d, cut at %d: %v", at, cut, f.err)
				}
				c.Close()
				got, _ := p.All()
				require.Len(t, got, 1+cut/24)
			})
		}
	})

	t.Run("is known to a record over TLS", func(t *testing.T) { // P4
		msgs := testkit.Numbered(10, 10_000)
		for cut := 0; cut <= 110_000; cut += 5_500 {
			synctest.Test(t, func(t *testing.T) {
				n := &tcpclienttest.Network{Buffer: 1 << 20}
				l := testkit.ListenNetwork(t, n)
				testkit.Secure(l)
				var w *testkit.HookedConn
				c, p := l.Connect(t, tcpclient.Dialer{WriteBuffer: 1 << 20, DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					w = &testkit.HookedConn{Conn: conn}
					return w
				})})
				gate := make(chan struct{})
				calls, left := 0, cut
				w.OnWrite = func(b []byte) (int, error) {
					if calls++; calls == 1 {
						<-gate
						return w.Conn.Write(b)
					}
					k, _ := w.Conn.Write(b[:min(left, len(b))])
					if left -= k; k < len(b) {
						return k, syscall.EPIPE
					}
					return k, nil
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				fates := make(chan fate, len(msgs))
				for _, msg := range msgs {
					go func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} }()
					synctest.Wait() // in this order
				}
				close(gate)
				require.NoError(t, first())
				synctest.Wait()
				c.Close()
				got, _ := p.All()
				require.Equal(t, msgs[:len(got)-1], got[1:])
				for range msgs {
					f := <-fates
					at := slices.Index(msgs, f.msg)
					if f.err == nil {
						require.Less(t, at, len(got)-1)
						continue
					}
					require.ErrorIs(t, f.err, syscall.EPIPE)
					unsent := testkit.OpError(t, f.err).Unsent
					require.False(t, unsent && at*10_004 < cut-2000, "message at %d, cut at %d: its record was begun", at*10_004, cut)
					require.False(t, unsent && at < len(got)-1, "Unsent and received")
					require.True(t, unsent || cut > 0, "no byte was handed over")
					require.True(t, unsent || at*10_004 < cut+16<<10, "message at %d, cut at %d: its record was not begun", at*10_004, cut)
				}
			})
		}
	})

	t.Run("holds against a server that reads, resets and reads the rest", func(t *testing.T) { // P4
		testkit.EachTransportParallel(t, func(t *testing.T, tr testkit.Transport) {
			for round := range 9 {
				testFate(t, tr, round)
			}
		})
	})

	t.Run("is true for all behind a record of TLS that was not begun", func(t *testing.T) { // P4
		l := testkit.ListenTCP(t)
		testkit.Secure(l)
		c, p := l.Connect(t, tcpclient.Dialer{WriteTimeout: 100 * time.Millisecond, WriteBuffer: 4 << 20})
		testkit.Stall(t, c)
		fates := make(chan fate, 40)
		var wg sync.WaitGroup
		for _, msg := range testkit.Numbered(40, 30_000) {
			wg.Go(func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} })
		}
		testkit.RequireFast(t, "Send", wg.Wait)
		close(fates)
		got, _ := p.All()
		n := 0
		for f := range fates {
			require.ErrorIs(t, f.err, tcpclient.ErrWriteTimeout)
			if testkit.OpError(t, f.err).Unsent {
				n++
			}
			require.NotContains(t, got, f.msg)
		}
		require.Equal(t, 40, n)
	})
}

// testFate lets many goroutines write while the peer stops reading somewhere and resets
// or closes, and compares what it has got with what they were told.
func testFate(t *testing.T, tr testkit.Transport, round int) {
	c, p := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 20_000, WriteTimeout: 200 * time.Millisecond})
	var mu sync.Mutex
	sure, unsent := make(map[string]bool), make(map[string]bool)
	var end error // what the writers were told
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				msg := fmt.Sprintf("%d/%d/", g, i) + string(testkit.Pattern(rand.IntN(3000)))
				if i%8 == 7 {
					msg += string(testkit.Pattern(rand.IntN(100_000))) // the sockets are to be full soon
				}
				send := c.Send
				if g == 0 {
					send = c.Write
				}
				err := send(t.Context(), []byte(msg))
				mu.Lock()
				if err == nil {
					sure[msg] = true
				} else {
					assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
					end = err
					if testkit.OpError(t, err).Unsent {
						unsent[msg] = true
					}
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	got := make(map[string]bool)
	var early error
	for range rand.IntN(600) {
		msg, err := p.Next()
		if early = err; err != nil {
			break
		}
		got[msg] = true
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
		rest, err := p.All()
		require.Error(t, err)
		for _, msg := range rest {
			require.False(t, got[msg], "received twice")
			got[msg] = true
		}
	}
	for msg := range got {
		require.False(t, unsent[msg], "%.20q is Unsent and was received", msg)
	}
}

func TestLoss(t *testing.T) {
	// end makes the connection end and waits until the Client has noticed.
	end := func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
		t.Helper()
		p.Reset()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		testkit.Eventually(t, "the Client has noticed", func() bool { return !c.Stats().Connected })
	}
	calls := map[string]func(ctx context.Context, c *tcpclient.Client) error{
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
	testkit.EachTransportParallel(t, func(t *testing.T, tr testkit.Transport) {
		for name, call := range calls {
			t.Run("of written messages is told once, by "+name, func(t *testing.T) { // P4
				c, p := tr.Connect(t, tcpclient.Dialer{})
				require.NoError(t, c.Write(t.Context(), []byte("lost")))
				end(t, c, p)
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
			end(t, c, p)
			require.NoError(t, c.Close())
		})

		t.Run("is told to a Flush that waits, and to nobody else", func(t *testing.T) { // P4
			c, p := tr.Connect(t, tcpclient.Dialer{})
			testkit.Stall(t, c)
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			flush := testkit.Start(t, func() error { return c.Flush(t.Context()) })
			testkit.WaitBlocked(t, "(*Client).Flush")
			p.Reset()
			require.ErrorIs(t, flush(), tcpclient.ErrDisconnected)
			require.NoError(t, c.Close())
		})

		t.Run("of messages that a flush under way would have taken is told", func(t *testing.T) { // P4
			c, p := tr.Connect(t, tcpclient.Dialer{})
			testkit.Stall(t, c)
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			require.ErrorIs(t, c.Flush(testkit.Within(t, time.Millisecond)), context.DeadlineExceeded)
			p.Reset()
			require.Error(t, c.Close())
			require.NoError(t, c.Close())
		})
	})

	t.Run("is told next to a Send that fails with the same batch", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.ECONNRESET }
			})
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			err := c.Send(t.Context(), []byte("own"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.ErrorIs(t, c.Flush(t.Context()), syscall.ECONNRESET)
			require.NoError(t, c.Close())
		})
	})
}

func TestFirstError(t *testing.T) {
	testkit.EachTransport(t, func(t *testing.T, tr testkit.Transport) {
		t.Run("is everybody's, and stays", func(t *testing.T) { // P9
			c, p := tr.Connect(t, tcpclient.Dialer{})
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					_, err := c.Receive(t.Context())
					assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
				})
			}
			p.Raw([]byte{0, 0})
			p.HalfClose()
			testkit.RequireFast(t, "Receive", wg.Wait)
			for range 2 {
				for name, err := range testkit.EveryMethod(t, t.Context(), c) {
					require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
					require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
					require.NotErrorIs(t, err, tcpclient.ErrClosed, name)
					require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
				}
				require.NoError(t, c.Close())
			}
		})
	})

	t.Run("of writing is told to those who receive, behind the last words of the peer", func(t *testing.T) { // P1, P4, P9
		synctest.Test(t, func(t *testing.T) {
			c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.EPIPE }
			})
			want := testkit.Numbered(50, 100)
			require.ErrorIs(t, c.Send(t.Context(), []byte("refused")), syscall.EPIPE)
			p.Send(want...)
			p.HalfClose()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			require.ErrorIs(t, err, syscall.EPIPE)
			require.NotErrorIs(t, err, io.EOF)
			require.Equal(t, 1, w.Writes(), "no further byte")
		})
	})

	t.Run("of writing ends the connection though the peer goes on sending", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			c, p, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.EPIPE }
			})
			sender := testkit.Start(t, func() error {
				for {
					if _, err := p.Write(testkit.Frame("more")); err != nil {
						return err
					}
					time.Sleep(10 * time.Millisecond) // fake
				}
			})
			began := time.Now()
			require.ErrorIs(t, c.Send(t.Context(), []byte("refused")), syscall.EPIPE)
			_, err := testkit.ReceiveAll(t, c)
			require.ErrorIs(t, err, syscall.EPIPE)
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
			require.Error(t, sender())
		})
	})

	t.Run("of writing leaves what has arrived to a slow receiver behind a full Inbox", func(t *testing.T) { // P1
		synctest.Test(t, func(t *testing.T) {
			want := testkit.Numbered(100, 100)
			c, p, _ := testkit.ConnectHooked(t, tcpclient.Dialer{Inbox: 1000}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.EPIPE }
			})
			p.Send(want...) // all of it is in the read buffer soon
			synctest.Wait()
			require.ErrorIs(t, c.Send(t.Context(), []byte("refused")), syscall.EPIPE)
			synctest.Wait()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, len(want), len(got), "frames that arrived before an error are delivered before the error")
			require.ErrorIs(t, err, syscall.EPIPE)
		})
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
