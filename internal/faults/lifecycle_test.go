package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lifecycleFaults are the rows L of FAULTS.md.
var lifecycleFaults = map[string]func(t *testing.T){
	"L1 Close while others receive":            onEach(transporttest.CloseWhileReceiving),
	"L2 Close while a flush is stuck":          besideOnEach(transporttest.CloseWhileFlushing),
	"L3 context ends during the TLS handshake": faultCancelTLS,
	"L5 Close in callbacks":                    faultCloseInCallbacks,
	"L6 Close twice and at once":               besideOnEach(transporttest.CloseTwice),
	"L7 many writers":                          faultManyWriters,
	"L8 several receive at once":               onEach(transporttest.ManyReceivers),
	"L9 context is done already":               faultDoneContext,
	"L10 context ends in a wait":               faultContextEnds,
	"L17 Framer panics while reading":          faultFramerPanics,
	"L17 Framer consumes nothing":              faultFramerIdle,
	"L17 Framer returns nonsense":              faultFramerNonsense,
	"L17 Framer gives up":                      faultFramerGivesUp,
	"L17 Framer needs a look at much":          faultFramerPeeks,
	"L18 nothing is left behind":               alone(faultLeftBehind),
}

func faultCancelTLS(t *testing.T) {
	l := testkit.ListenTCP(t)
	var config tcpclient.Dialer
	secured := testkit.ListenTLS(t)
	secured.Setup(&config)
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Read(make([]byte, 1)) // the handshake has begun
			accepted <- conn
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	dial := testkit.Start(t, func() error { _, err := l.TryDial(ctx, config); return err })
	conn := <-accepted
	defer conn.Close()
	cancel()
	require.ErrorIs(t, dial(), context.Canceled)
	io.Copy(io.Discard, conn) // it was closed
	testkit.Eventually(t, "no goroutine is left", func() bool { return testkit.Goroutines() == 0 })
}

func faultCloseInCallbacks(t *testing.T) {
	t.Run("Framer.ReadFrame", testkit.InBubble(func(t *testing.T) { // P7
		var c *tcpclient.Client
		set := make(chan struct{})
		var took time.Duration
		done := make(chan struct{})
		client, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := tcpclient.LengthPrefix{}.ReadFrame(r, dst)
			if string(msg) == "close" {
				<-set
				began := time.Now()
				c.Close()
				took = time.Since(began)
				close(done)
			}
			return msg, err
		}}})
		c = client
		close(set)
		p.Send("close")
		testkit.RequireFast(t, "Close", func() { <-done })
		require.LessOrEqual(t, took, time.Second)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})) // the end of the bubble waits for that of the Client's goroutine

	for _, hook := range []string{"Connected", "Disconnected"} {
		t.Run("Trace."+hook, testkit.InBubble(func(t *testing.T) {
			clients := make(chan *tcpclient.Client, 1)
			done := make(chan time.Duration, 1)
			closing := func() {
				c := <-clients
				began := time.Now()
				c.Close()
				done <- time.Since(began)
			}
			trace := &tcpclient.Trace{}
			if hook == "Connected" {
				trace.Connected = func(string, int, time.Duration) { closing() }
			} else {
				trace.Disconnected = func(string, error) { closing() }
			}
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: trace})
			clients <- c
			if hook == "Disconnected" {
				p.Close()
			}
			select {
			case took := <-done:
				require.LessOrEqual(t, took, time.Second)
			case <-time.After(testkit.Patience):
				require.FailNow(t, "Close in a callback does not return", testkit.Stacks())
			}
			testkit.RequireFast(t, "Close", func() { c.Close() })
		}))
	}
}

func faultManyWriters(t *testing.T) {
	const writers, each = 64, 15
	pattern := testkit.Pattern(each * 70)
	for _, name := range []string{"tcp", "tls", "memory"} {
		c, p := testkit.TransportNamed(name).Connect(t, tcpclient.Dialer{})
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				for i := range each {
					assert.NoError(t, c.Send(t.Context(), fmt.Appendf(nil, "%d %d %s", g, i, pattern[:i*70])))
				}
			})
		}
		next := make(map[int]int)
		for range writers * each {
			// Scanning would take longer than all else: fmt looks at each rune of the rest.
			first, rest, _ := strings.Cut(p.Receive(), " ")
			second, rest, _ := strings.Cut(rest, " ")
			g, err := strconv.Atoi(first)
			require.NoError(t, err)
			i, err := strconv.Atoi(second)
			require.NoError(t, err)
			require.Equal(t, next[g], i, "the order of one goroutine")
			require.Equal(t, string(pattern[:i*70]), rest)
			next[g]++
		}
		wg.Wait()
	}
}

func faultDoneContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
		p.Send("waits")
		require.NoError(t, c.Write(t.Context(), []byte("written")))
		synctest.Wait()
		reads, writes, stats := w.Reads(), w.Writes(), c.Stats()
		for name, err := range testkit.EveryMethod(t, testkit.Canceled(t), c) {
			require.ErrorIs(t, err, context.Canceled, name)
		}
		require.ErrorIs(t, c.Shutdown(testkit.Canceled(t)), context.Canceled)
		synctest.Wait()
		require.Equal(t, reads, w.Reads(), "no I/O")
		require.Equal(t, writes, w.Writes(), "no I/O")
		require.Equal(t, stats, c.Stats())
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, "written", p.Receive())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "waits", string(msg))
	})
}

func faultContextEnds(t *testing.T) {
	big := testkit.Pattern(50_000)
	// Each wait begins in a Client whose peer reads nothing and says nothing.
	for name, wait := range map[string]struct {
		before func(c *tcpclient.Client) // what holds the network up
		call   func(ctx context.Context, c *tcpclient.Client) error
	}{
		"Receive": {nil, func(ctx context.Context, c *tcpclient.Client) error { _, err := c.Receive(ctx); return err }},
		"Messages": {nil, func(ctx context.Context, c *tcpclient.Client) (end error) {
			for _, err := range c.Messages(ctx) {
				end = err
			}
			return end
		}},
		"Send, leading":       {nil, func(ctx context.Context, c *tcpclient.Client) error { return c.Send(ctx, big) }},
		"Send, following":     {func(c *tcpclient.Client) { c.Send(context.Background(), big) }, func(ctx context.Context, c *tcpclient.Client) error { return c.Send(ctx, []byte("small")) }},
		"Flush, leading":      {nil, func(ctx context.Context, c *tcpclient.Client) error { c.Write(ctx, big); return c.Flush(ctx) }},
		"Flush, following":    {func(c *tcpclient.Client) { c.Send(context.Background(), big) }, func(ctx context.Context, c *tcpclient.Client) error { return c.Flush(ctx) }},
		"Write, leading":      {nil, func(ctx context.Context, c *tcpclient.Client) error { c.Write(ctx, big); return c.Write(ctx, big) }},
		"Write, following":    {func(c *tcpclient.Client) { c.Send(context.Background(), big) }, func(ctx context.Context, c *tcpclient.Client) error { c.Write(ctx, big); return c.Write(ctx, big) }},
		"Call, for its turn":  {func(c *tcpclient.Client) { c.Send(context.Background(), big) }, func(ctx context.Context, c *tcpclient.Client) error { _, err := c.Call(ctx, []byte("q")); return err }},
		"Call, for its reply": {nil, func(ctx context.Context, c *tcpclient.Client) error { _, err := c.Call(ctx, []byte("q")); return err }},
	} {
		for _, secured := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, secured), func(t *testing.T) { // P2
				synctest.Test(t, func(t *testing.T) {
					l := testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 4000})
					if secured {
						testkit.Secure(l)
					}
					c, p := l.Connect(t, tcpclient.Dialer{WriteBuffer: 10_000, WriteTimeout: -1})
					var held sync.WaitGroup
					if wait.before != nil {
						held.Go(func() { wait.before(c) })
						time.Sleep(time.Second)
					}
					for _, d := range []time.Duration{time.Second, time.Minute} {
						began := time.Now()
						err := wait.call(testkit.Within(t, d), c)
						require.ErrorIs(t, err, context.DeadlineExceeded)
						require.InDelta(t, d, time.Since(began), float64(5*time.Millisecond))
						require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
					}
					// The connection lives on, and what arrives is whole.
					end := make(chan error, 1)
					go func() { end <- c.Send(context.Background(), []byte("end")) }()
					for msg := p.Receive(); msg != "end"; msg = p.Receive() {
						require.Contains(t, []string{string(big), "small", "q"}, msg)
					}
					require.NoError(t, <-end)
					held.Wait()
					p.Send("here")
					if !strings.HasPrefix(name, "Call") {
						msg, err := c.Receive(t.Context())
						require.NoError(t, err)
						require.Equal(t, "here", string(msg))
					}
				})
			})
		}
	}
}

func faultFramerPanics(t *testing.T) {
	for name, value := range map[string]any{"an error": errors.New("cause"), "no error": "text", "out of range": nil} {
		t.Run(name, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
				msg, err := tcpclient.LengthPrefix{}.ReadFrame(r, dst)
				if string(msg) == "bad" {
					if value == nil {
						return msg[:10*cap(msg)+1], nil
					}
					panic(value)
				}
				return msg, err
			}}})
			p.Send("one", "two", "bad", "three")
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, []string{"one", "two"}, got)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorContains(t, err, "panic")
			require.ErrorContains(t, err, "faultFramerPanics", "the stack is in the error")
			if cause, ok := value.(error); ok {
				require.ErrorIs(t, err, cause)
			}
			require.Error(t, c.Send(t.Context(), []byte("x")))
			require.NoError(t, c.Close())
		})
	}
}

func faultFramerIdle(t *testing.T) {
	for name, read := range map[string]func(r *bufio.Reader, dst []byte) ([]byte, error){
		"with nothing there": func(_ *bufio.Reader, dst []byte) ([]byte, error) { return append(dst, "made up"...), nil },
		"after a look": func(r *bufio.Reader, dst []byte) ([]byte, error) {
			_, err := r.Peek(1)
			return dst, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: read}})
			p.Write(testkit.Frame("x"))
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorContains(t, err, "FuncFramer", "the error names the Framer")
			require.NoError(t, c.Close())
		})
	}
}

func faultFramerNonsense(t *testing.T) {
	t.Run("memory of the reader", func(t *testing.T) {
		// Against the contract, but an easy mistake: the message is not appended to dst,
		// it is a slice of the reader's buffer.
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, _ []byte) ([]byte, error) {
			b, err := r.Peek(8)
			if err != nil {
				return nil, err
			}
			r.Discard(8)
			return b, nil
		}}})
		sent := testkit.Start(t, func() error {
			for i := range 2000 {
				if _, err := fmt.Fprintf(p, "%08d", i); err != nil {
					return err
				}
			}
			return p.Close()
		})
		require.NoError(t, sent())
		testkit.Eventually(t, "all has arrived", func() bool { return !c.Stats().Connected })
		got, _ := testkit.ReceiveAll(t, c)
		for i, msg := range got {
			require.Equal(t, fmt.Sprintf("%08d", i), msg, "either it is copied, or refused with an error")
		}
	})

	t.Run("a message and an error", func(t *testing.T) {
		value := errors.New("mine")
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := tcpclient.LengthPrefix{}.ReadFrame(r, dst)
			if string(msg) == "bad" {
				err = value
			}
			return msg, err
		}}})
		p.Send("one", "bad", "two")
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"one"}, got)
		require.ErrorIs(t, err, value)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	})

	t.Run("nil for an empty message", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, _ []byte) ([]byte, error) {
			_, err := r.Discard(1)
			return nil, err
		}}})
		p.Raw([]byte("abc"))
		for range 3 {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Empty(t, msg)
		}
	})

	t.Run("memory of its own", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, _ []byte) ([]byte, error) {
			line, err := r.ReadBytes('\n')
			return line, err
		}}})
		want := testkit.Numbered(100, 30)
		go p.Raw([]byte(strings.Join(want, "\n") + "\n"))
		for i := range want {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want[i]+"\n", string(msg))
		}
	})
}

func faultFramerGivesUp(t *testing.T) {
	for _, value := range []error{io.EOF, context.Canceled, tcpclient.ErrClosed, bufio.ErrBufferFull, errors.New("mine")} {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			msg, err := tcpclient.LengthPrefix{}.ReadFrame(r, dst)
			if string(msg) == "bad" {
				return nil, value
			}
			return msg, err
		}}})
		p.Send("one", "bad", "two")
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"one"}, got)
		require.ErrorIs(t, err, value)
		if value != tcpclient.ErrClosed {
			require.ErrorIs(t, err, tcpclient.ErrDisconnected, value)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), value)
		}
		require.Error(t, c.Send(t.Context(), []byte("x")))
	}
}

func faultFramerPeeks(t *testing.T) {
	// The buffer grows with use, but a Framer may count on ReadBuffer bytes: ReadSlice
	// and Peek fail with bufio.ErrBufferFull where it is smaller.
	for name, read := range map[string]func(r *bufio.Reader, dst []byte) ([]byte, error){
		"ReadSlice": func(r *bufio.Reader, dst []byte) ([]byte, error) {
			line, err := r.ReadSlice('\n')
			return append(dst, line...), err
		},
		"Peek": func(r *bufio.Reader, dst []byte) ([]byte, error) {
			p, err := r.Peek(10_001)
			if err != nil {
				return dst, err
			}
			dst = append(dst, p...)
			_, err = r.Discard(len(p))
			return dst, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{ReadBuffer: 16 << 10, Framer: testkit.FuncFramer{Read: read}})
			want := testkit.PatternText(10_000) + "\n"
			for range 3 {
				p.Raw([]byte(want))
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.True(t, want == string(msg))
			}
		})
	}
}

func faultLeftBehind(t *testing.T) {
	paths := map[string]func(t *testing.T, c *tcpclient.Client, p *testkit.Peer){
		"Close":                  func(_ *testing.T, c *tcpclient.Client, _ *testkit.Peer) { c.Close() },
		"Close with a message":   func(t *testing.T, c *tcpclient.Client, _ *testkit.Peer) { c.Write(t.Context(), []byte("x")); c.Close() },
		"Close of a stalled one": func(t *testing.T, c *tcpclient.Client, _ *testkit.Peer) { testkit.Stall(t, c); c.Close() },
		"death, then Close": func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
			p.Reset()
			c.Receive(t.Context())
			c.Close()
		},
		"Shutdown": func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
			go func() { p.All(); p.Close() }()
			assert.NoError(t, c.Shutdown(t.Context()))
		},
		"Shutdown in vain": func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() { p.All(); cancel() }() // FIN has come, and stays without an answer
			assert.ErrorIs(t, c.Shutdown(ctx), context.Canceled)
		},
		"calls whose contexts ended": func(t *testing.T, c *tcpclient.Client, _ *testkit.Peer) {
			for range 20 {
				c.Send(testkit.Within(t, time.Millisecond), testkit.Pattern(300_000))
				c.Receive(testkit.Within(t, time.Millisecond))
			}
			c.Close()
		},
		"Close with a full Inbox": func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
			go p.Write(testkit.Frames(testkit.Numbered(1000, 1000)...))
			testkit.WaitBlocked(t, "(*producer).makeRoom")
			c.Close()
		},
	}
	for _, tr := range testkit.Transports {
		for name, path := range paths {
			t.Run(tr.Name+"/"+name, func(t *testing.T) { // P6, P7
				l := tr.Listen(t)
				files := testkit.OpenFiles(t)
				c, p := l.ConnectSmall(t, tcpclient.Dialer{FlushDelay: time.Hour})
				path(t, c, p)
				testkit.RequireNoGoroutines(t)
				testkit.HangUp(p.Conn)
				testkit.Eventually(t, "all files are closed", func() bool { return testkit.OpenFiles(t) <= files })
			})
		}
	}

	t.Run("at most two goroutines", func(t *testing.T) { // P6
		testkit.EachTransport(t, func(t *testing.T, tr testkit.Transport) {
			c, _ := tr.ConnectSmall(t, tcpclient.Dialer{FlushDelay: time.Hour})
			testkit.Eventually(t, "one goroutine reads", func() bool { return testkit.Goroutines() == 1 })
			testkit.Stall(t, c)
			require.NoError(t, c.Write(t.Context(), []byte("x")))
			require.ErrorIs(t, c.Flush(testkit.Within(t, time.Millisecond)), context.DeadlineExceeded)
			require.ErrorIs(t, c.Send(testkit.Within(t, time.Millisecond), []byte("x")), context.DeadlineExceeded)
			most := 2
			if runtime.GOOS == "windows" && tr.Name != "memory" {
				most++ // no write deadline is to be trusted there: a write that waits has a goroutine of its own
			}
			for range 20 {
				require.LessOrEqual(t, testkit.Goroutines(), most)
				runtime.Gosched()
			}
		})
	})

	t.Run("no goroutine for a Call, a loop over Replies or a Session", func(t *testing.T) { // P6
		testkit.EachTransport(t, func(t *testing.T, tr testkit.Transport) {
			const each = 50
			c, p := tr.Connect(t, tcpclient.Dialer{
				Correlator: tcpclient.IDPrefix{},
				More:       func(reply []byte) bool { return string(reply) == "row" },
			})
			ctx, cancel := context.WithCancel(t.Context())
			var users, reading sync.WaitGroup
			for range each {
				s, err := c.Session()
				require.NoError(t, err)
				for _, user := range []interface { // not inlined here: their goroutines would look like the test's
					Call(ctx context.Context, request []byte) ([]byte, error)
					Replies(ctx context.Context, request []byte) iter.Seq2[[]byte, error]
				}{c, s} {
					users.Go(func() {
						_, err := user.Call(ctx, []byte("call"))
						assert.ErrorIs(t, err, context.Canceled)
					})
					reading.Add(1)
					users.Go(func() {
						rows := 0
						for row, err := range user.Replies(ctx, []byte("search")) {
							if err != nil {
								assert.ErrorIs(t, err, context.Canceled)
								break
							}
							assert.Equal(t, "row", string(row))
							if rows++; rows == 2 {
								reading.Done()
							}
						}
					})
				}
			}
			for range 4 * each {
				if request := p.Receive(); strings.HasSuffix(request, "search") {
					row := request[:8] + "row"
					p.Send(row, row)
				}
			}
			testkit.RequireFast(t, "one of the loops", reading.Wait)
			require.Equal(t, 4*each, c.Stats().InFlight)
			testkit.Eventually(t, "one goroutine reads, and there is no other", func() bool { return testkit.Goroutines() == 1 })
			cancel()
			testkit.RequireFast(t, "one of the users", users.Wait)
		})
	})

	t.Run("timers", func(t *testing.T) {
		// A bubble panics when something is left in it that will never run.
		synctest.Test(t, func(t *testing.T) {
			c, _ := testkit.ConnectMemory(t, tcpclient.Dialer{FlushDelay: time.Hour})
			require.NoError(t, c.Write(t.Context(), []byte("x")))
			began := time.Now()
			require.NoError(t, c.Close())
			require.LessOrEqual(t, time.Since(began), 200*time.Millisecond)
		})
	})
}
