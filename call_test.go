package tcpclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

func TestCall(t *testing.T) {
	testkit.EachTransport(t, transporttest.Call)
}

func TestCallInOrder(t *testing.T) {
	t.Run("keeps the place of a cancelled Call, whose late reply is dropped", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		ctx, cancel := context.WithCancel(t.Context())
		first := testkit.Start(t, func() error { _, err := c.Call(ctx, []byte("first")); return err })
		require.Equal(t, "first", p.Receive())
		cancel()
		require.ErrorIs(t, first(), context.Canceled)
		second := testkit.Start(t, func() string { reply, _ := c.Call(t.Context(), []byte("second")); return string(reply) })
		require.Equal(t, "second", p.Receive())
		p.Send("to the first", "to the second", "a push")
		require.Equal(t, "to the second", second())
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "a push", string(msg))
	})

	t.Run("leaves messages to Receive while nothing is asked", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		p.Send("push")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "push", string(msg))
	})
}

// pushes is a Correlator to which long messages are no replies.
type pushes struct{ tcpclient.IDField }

func (k pushes) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	id, reply, ok = k.IDField.SplitReply(msg)
	return id, reply, ok && len(msg) < 50
}

// withID is a message with an id of IDPrefix.
func withID(id uint64, msg string) string {
	return string(binary.BigEndian.AppendUint64(nil, id)) + msg
}

func TestCallByID(t *testing.T) {
	t.Run("tells replies, late replies and pushes apart", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
		ctx, cancel := context.WithCancel(t.Context())
		first := testkit.Start(t, func() error { _, err := c.Call(ctx, []byte("first")); return err })
		require.Equal(t, withID(1, "first"), p.Receive())
		cancel()
		require.ErrorIs(t, first(), context.Canceled)
		second := testkit.Start(t, func() string { reply, _ := c.Call(t.Context(), []byte("second")); return string(reply) })
		require.Equal(t, withID(2, "second"), p.Receive())
		p.Send(withID(0, "push"), withID(1, "late"), withID(3, "unknown"), "short", withID(2, "reply"), withID(2, "twice"), withID(0, "end"))
		require.Equal(t, "reply", second())
		for _, want := range []string{withID(0, "push"), withID(3, "unknown"), "short", withID(0, "end")} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg), "whole, in order, without the late ones")
		}
	})

	t.Run("lets no more than 255 ids of one byte out, and reuses them safely", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDField{Width: 1}})
		cancelled, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 255 {
			wg.Go(func() {
				_, err := c.Call(cancelled, []byte{0})
				assert.ErrorIs(t, err, context.Canceled)
			})
			p.Receive()
		}
		cancel()
		wg.Wait()
		// All ids are abandoned; the next caller waits for one.
		_, err := c.Call(testkit.Within(t, 20*time.Millisecond), []byte{0, 'x'})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, testkit.OpError(t, err).Unsent)
		reply := testkit.Start(t, func() string { r, _ := c.Call(t.Context(), []byte{0, 'y'}); return string(r) })
		p.Send("\x07late")
		require.Equal(t, "\x07y", p.Receive(), "the id that has become free")
		p.Send("\x07z")
		require.Equal(t, "\x07z", reply())
	})

	t.Run("replies to the Handshake that come after it go to Receive, with ids that no Call had", testkit.InBubble(func(t *testing.T) { // P8
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{
			Correlator: tcpclient.IDField{Width: 1},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				return errors.Join(conn.Send(ctx, []byte("\x00subscribe")), conn.Send(ctx, []byte("\xfesubscribe")))
			},
		})
		require.Equal(t, "\x00subscribe", p.Receive())
		require.Equal(t, "\xfesubscribe", p.Receive())
		call := startCall(t, t.Context(), c, "\x00request")
		p.Send("\xfesubscribed", "\x00subscribed", p.Receive())
		reply, err := call()
		require.NoError(t, err)
		require.Equal(t, "\x01request", reply)
		for _, want := range []string{"\xfesubscribed", "\x00subscribed"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}

		go p.Echo()
		for id := 2; id <= 256; id++ {
			reply, err := c.Call(t.Context(), []byte("\x00request"))
			require.NoError(t, err)
			require.Equal(t, byte((id-1)%255+1), reply[0])
		}
		p.Send("\xfesubscribed", "\x00subscribed")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "\x00subscribed", string(msg))
		require.EqualValues(t, 1, c.Stats().LateReplies, "a Call has had the other id")
	}))

	t.Run("refuses a request without room for the id", func(t *testing.T) { // P4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDField{Width: 4}})
		_, err := c.Call(t.Context(), []byte("abc"))
		require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
		require.True(t, testkit.OpError(t, err).Unsent)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		go p.Echo()
		_, err = c.Call(t.Context(), []byte("abcd"))
		require.NoError(t, err)
	})
}

// A panicking Correlator.
type explosive struct{ tcpclient.IDPrefix }

func (e explosive) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if string(request) == "boom" {
		panic("boom")
	}
	return e.IDPrefix.AppendRequest(dst, id, request)
}

func (e explosive) SplitReply(msg []byte) (uint64, []byte, bool) {
	if len(msg) == 4 {
		panic(errors.New("bad reply"))
	}
	return e.IDPrefix.SplitReply(msg)
}

func TestCallFate(t *testing.T) {
	t.Run("a panic in AppendRequest reaches the caller and leaves nothing locked", func(t *testing.T) { // FAULTS L17
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: explosive{}})
		require.PanicsWithValue(t, "boom", func() { c.Call(t.Context(), []byte("boom")) })
		go p.Echo()
		reply, err := c.Call(t.Context(), []byte("fine"))
		require.NoError(t, err)
		require.Equal(t, "fine", string(reply))
	})

	t.Run("a panic in SplitReply ends the connection", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: explosive{}})
		call := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("x")); return err })
		p.Receive()
		p.Send("boom")
		err := call()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorContains(t, err, "bad reply")
	})

	t.Run("the end of the connection ends every Call", func(t *testing.T) { // P4
		testkit.EachTransport(t, transporttest.CallFate)
	})

	t.Run("a Call with a context that is done asks nothing", func(t *testing.T) { // P2, FAULTS L9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		_, err := c.Call(testkit.Canceled(t), []byte("x"))
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, testkit.OpError(t, err).Unsent)
		testkit.RequireAlive(t, c, p)
	})

	t.Run("Close ends waiting Calls with ErrClosed", func(t *testing.T) { // P7
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		call := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("x")); return err })
		p.Receive()
		require.NoError(t, c.Close())
		require.ErrorIs(t, call(), tcpclient.ErrClosed)
	})

	t.Run("Shutdown lets outstanding Calls finish", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		call := testkit.Start(t, func() string { r, _ := c.Call(t.Context(), []byte("x")); return string(r) })
		p.Receive()
		down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		p.RequireSilence(20 * time.Millisecond) // no FIN yet
		p.Send("reply")
		require.Equal(t, "reply", call())
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		p.Close()
		require.NoError(t, down())
	})

	t.Run("pushes that are not received end Calls with ErrInboxFull, not in silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, Inbox: 1000})
			call := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("x")); return err })
			p.Receive()
			began := time.Now()
			for range 20 {
				p.Send(withID(0, testkit.PatternText(100)))
			}
			p.Send(withID(1, "reply"))
			err := call()
			require.ErrorIs(t, err, tcpclient.ErrInboxFull)
			require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
			require.Equal(t, time.Second, time.Since(began))
			for range 20 {
				_, err := c.Receive(t.Context())
				require.NoError(t, err)
			}
			go p.Echo()
			reply, err := c.Call(t.Context(), []byte("again"))
			require.NoError(t, err, "the connection lives on, and the late reply is gone")
			require.Equal(t, "again", string(reply))
		})
	})

	t.Run("Calls that wait for room learn of a full Inbox too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := pushes{tcpclient.IDField{Width: 1}}
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: k, Inbox: 1000})
			go io.Copy(io.Discard, p)
			var ended atomic.Int32
			for range 255 + 3 { // ids, and those who wait for one
				go func() {
					_, err := c.Call(t.Context(), []byte("request"))
					assert.ErrorIs(t, err, tcpclient.ErrInboxFull)
					ended.Add(1)
				}()
			}
			synctest.Wait()
			for range 20 {
				p.Send(testkit.PatternText(100))
			}
			time.Sleep(time.Second)
			synctest.Wait()
			require.EqualValues(t, 255+3, ended.Load())
		})
	})

	t.Run("a loop over Messages may Call: what it has taken takes no room", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, Inbox: 1})
			push := withID(0, testkit.PatternText(1000))
			p.Send(push, push)
			go func() {
				for {
					request, err := p.Next()
					if err != nil {
						return
					}
					p.Write(testkit.Frames(push, request))
				}
			}()
			n := 0
			for msg, err := range c.Messages(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, push, string(msg))
				if n++; n == 2 {
					_, err := c.Call(t.Context(), []byte("request"))
					require.NoError(t, err)
					break
				}
			}
		})
	})

	t.Run("a Call within a loop over Messages ends when a full Inbox keeps its reply away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}, Inbox: 1})
			push := withID(0, "push")
			p.Send(push, push, push, push)
			synctest.Wait()
			for _, err := range c.Messages(t.Context()) {
				require.NoError(t, err)
				began := time.Now()
				_, err = c.Call(t.Context(), []byte("request"))
				require.ErrorIs(t, err, tcpclient.ErrInboxFull)
				require.InDelta(t, time.Second, time.Since(began), float64(time.Second/4))
				break
			}
		})
	})

	t.Run("with Reconnect the next Call waits for the next connection, and none is repeated", func(t *testing.T) { // P4, P8
		var asked atomic.Int32
		s := tcpclienttest.NewServer(tcpclient.LengthPrefix{}, func(conn *tcpclienttest.Conn) {
			for msg := range conn.Messages() {
				if asked.Add(1) == 1 {
					return // hangs up on the first question
				}
				conn.Send(msg)
			}
		})
		defer s.Close()
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: 5 * time.Millisecond}}
		c, err := d.Dial(t.Context(), "tcp", s.Addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Call(t.Context(), []byte("one"))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.False(t, testkit.OpError(t, err).Unsent)
		reply, err := c.Call(t.Context(), []byte("two"))
		require.NoError(t, err)
		require.Equal(t, "two", string(reply))
		require.EqualValues(t, 2, asked.Load())
	})

	t.Run("Calls and heartbeats go on side by side", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
				Interval: time.Second,
				Ping:     func() []byte { return []byte("ping") },
				IsPong:   func(msg []byte) bool { return string(msg) == "ping" },
			}})
			go p.Echo()
			for i := range 10 {
				time.Sleep(1500 * time.Millisecond) // fake
				request := fmt.Sprint("request ", i)
				reply, err := c.Call(t.Context(), []byte(request))
				require.NoError(t, err)
				require.Equal(t, request, string(reply))
			}
		})
	})
}

// The model: every Call returns once, with its own reply or an error; no late reply
// reaches Receive; whatever is cancelled or reset in between.
func TestCallModel(t *testing.T) { // P1, P2, P4
	for _, k := range transporttest.Correlators[:4] {
		t.Run(k.Name, func(t *testing.T) {
			s := tcpclienttest.NewServer(tcpclient.LengthPrefix{}, tcpclienttest.Echo)
			defer s.Close()
			d := tcpclient.Dialer{Correlator: k.Correlator, Reconnect: &tcpclient.Backoff{Max: time.Millisecond}}
			c, err := d.Dial(t.Context(), "tcp", s.Addr)
			require.NoError(t, err)
			var replies, ended atomic.Int32
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					random := rand.New(rand.NewPCG(uint64(g), 1))
					for i := range 60 {
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if random.IntN(4) == 0 {
							ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(300))*time.Microsecond)
						}
						request := append(make([]byte, k.Header), fmt.Sprintf("%d/%d", g, i)...)
						reply, err := c.Call(ctx, request)
						cancel()
						switch {
						case err == nil:
							replies.Add(1)
							assert.Equal(t, request[k.Header:], reply[k.Header:], "another caller's reply")
						case errors.Is(err, context.DeadlineExceeded), errors.Is(err, tcpclient.ErrDisconnected):
							ended.Add(1)
						default:
							assert.NoError(t, err)
						}
						if random.IntN(500) == 0 {
							s.ResetConnections()
						}
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 64*60, replies.Load()+ended.Load())
			require.Positive(t, replies.Load())
			// The end is to be that of a connection which the server knows already.
			testkit.Eventually(t, "a call is answered", func() bool {
				_, err := c.Call(t.Context(), append(make([]byte, k.Header), "last"...))
				return err == nil
			})
			s.CloseConnections()
			for {
				msg, err := c.Receive(t.Context())
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, "a late reply: %q", msg)
				if errors.Is(err, io.EOF) {
					break
				}
			}
			require.NoError(t, c.Close())
		})
	}
}

func TestCallAllocations(t *testing.T) { // P12
	if testkit.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
	go p.Echo()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request := []byte("request")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		if _, err := c.Call(ctx, request); err != nil {
			t.Fatal(err)
		}
	}), 1.0, "the reply")
}

// A hostile server answers ids that were never asked for, twice, in any order, cut off, with one reply or
// several. Of the three requests those in loops are read by Replies, and ids has two bits for each: the
// id that it has of its own, if that is not 0.
func FuzzCall(f *testing.F) {
	f.Add([]byte{1, 2, 3}, false, byte(0), byte(0))
	f.Add([]byte{3, 3, 0, 9, 255, 1, 1, 2}, false, byte(0), byte(0))
	f.Add([]byte{0x81, 0x82, 0x81, 3, 0, 0x89, 1, 1, 0x82, 2, 2}, true, byte(0b010), byte(0))
	f.Add([]byte{3, 0x83, 3, 2, 2, 1}, true, byte(0b101), byte(0b00_11_11)) // the second is refused
	f.Add([]byte{1, 1, 2, 3, 3}, false, byte(0b111), byte(0b00_11_01))      // the last has the second id
	f.Fuzz(func(t *testing.T, answers []byte, several bool, loops, ids byte) {
		answers = answers[:min(len(answers), 1000)] // the Inbox holds as many, and no call receives before all are sent
		synctest.Test(t, func(t *testing.T) {
			d := tcpclient.Dialer{Correlator: tcpclient.IDField{Width: 1}, Inbox: 1 << 20}
			if ids != 0 {
				d.Correlator = stans{tcpclient.IDField{Width: 1}}
			}
			if several {
				d.More = func(reply []byte) bool { return reply[len(reply)-1] == ',' }
			}
			c, p := testkit.ConnectMemory(t, d)
			type asked struct {
				loop bool
				wait func() error
				got  []byte // owned by the caller until wait returns
				want []byte
				over bool
			}
			inFlight := map[byte]*asked{}
			var all []*asked
			issued := byte(0) // the last id of the library
			for i := range 3 {
				own := ids >> (2 * i) & 3
				request := []byte{own, 'q'}
				a := &asked{loop: loops>>i&1 == 1}
				a.wait = testkit.Start(t, func() (err error) {
					ctx := testkit.Within(t, 50*time.Millisecond)
					if !a.loop {
						a.got, err = c.Call(ctx, request)
						return err
					}
					for reply, end := range c.Replies(ctx, request) {
						a.got, err = append(a.got, reply...), end
					}
					return err
				})
				if own != 0 && inFlight[own] != nil {
					err := a.wait()
					require.ErrorContains(t, err, "is in flight")
					require.True(t, testkit.OpError(t, err).Unsent)
					continue
				}
				id := p.Receive()[0]
				if own == 0 {
					for issued++; inFlight[issued] != nil; issued++ {
					}
					own = issued
				}
				require.Equal(t, own, id)
				inFlight[id] = a
				all = append(all, a)
			}
			pushes, late := 0, uint64(0)
			for _, id := range answers {
				answer := "answer"
				if several && id >= 0x80 {
					id, answer = id-0x80, "answer,"
				}
				if id == 0 {
					p.Raw([]byte{0, 0, 0, 0}) // no room for an id: a push
					pushes++
					continue
				}
				p.Send(string([]byte{id}) + answer)
				switch a := inFlight[id]; {
				case a != nil:
					a.want = append(append(a.want, id), answer...)
					if a.over = answer == "answer"; a.over {
						delete(inFlight, id)
					}
				case id <= issued:
					late++
				default:
					pushes++ // never issued
				}
			}
			for range pushes {
				_, err := c.Receive(testkit.Within(t, time.Second))
				require.NoError(t, err)
			}
			for _, a := range all {
				switch err := a.wait(); {
				case a.over:
					require.NoError(t, err)
					require.Equal(t, a.want, a.got)
				default:
					require.ErrorIs(t, err, context.DeadlineExceeded)
					if !a.loop {
						a.want = nil
					}
					require.Equal(t, a.want, a.got)
				}
			}
			synctest.Wait()
			require.Equal(t, late, c.Stats().LateReplies)
			require.Equal(t, len(inFlight), c.Stats().InFlight)
			c.Close()
		})
	})
}

// What becomes of a Call whose request is not written yet.

// gateWrites makes each write of w wait for a token, and hands it to write then.
func gateWrites(w *testkit.HookedConn, write func(n int, b []byte) (int, error)) (tokens chan struct{}) {
	tokens = make(chan struct{}, 100)
	n := 0
	w.OnWrite = func(b []byte) (int, error) {
		<-tokens
		n++
		return write(n, b)
	}
	return tokens
}

// passing lets a write through as it is.
func passing(w *testkit.HookedConn) func(int, []byte) (int, error) {
	return func(_ int, b []byte) (int, error) { return w.Conn.Write(b) }
}

// startCall starts a Call in a bubble and returns when it waits.
func startCall(t *testing.T, ctx context.Context, c *tcpclient.Client, request string) (wait func() (string, error)) {
	var reply []byte
	ended := testkit.Start(t, func() (err error) {
		reply, err = c.Call(ctx, []byte(request))
		return err
	})
	synctest.Wait()
	return func() (string, error) { err := ended(); return string(reply), err }
}

// holding is IDPrefix that is held up by "hold", on the reading goroutine.
type holding struct {
	tcpclient.IDPrefix
	release chan struct{}
}

func (h holding) SplitReply(msg []byte) (uint64, []byte, bool) {
	if string(msg) == "hold" {
		<-h.release
	}
	return h.IDPrefix.SplitReply(msg)
}

func TestCallWhoseRequestIsLost(t *testing.T) {
	t.Run("ends also while the reader is held up, and no other does", testkit.InBubble(func(t *testing.T) { // P4, P5
		hold := holding{release: make(chan struct{})}
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{Correlator: hold}, nil)
		tokens := gateWrites(w, func(n int, b []byte) (int, error) {
			if n == 1 {
				return w.Conn.Write(b)
			}
			return 0, syscall.ECONNRESET
		})
		tokens <- struct{}{}
		asked := startCall(t, t.Context(), c, "asked")
		request := p.Receive()
		p.Send("hold", request) // the reply is here, after what holds the reader up
		synctest.Wait()

		flight := startCall(t, t.Context(), c, "flight")
		first := startCall(t, t.Context(), c, "first of the next batch")
		second := startCall(t, t.Context(), c, "second of the next batch")
		tokens <- struct{}{}
		for _, lost := range []func() (string, error){flight, first, second} {
			_, err := lost()
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.True(t, testkit.OpError(t, err).Unsent)
		}
		close(hold.release)
		reply, err := asked()
		require.NoError(t, err)
		require.Equal(t, "asked", reply)
		require.NoError(t, c.Close(), "each was told")
	}))

	t.Run("is told exactly what was sent of it", func(t *testing.T) { // P4
		requests := testkit.Numbered(5, 20)
		for cut := 0; cut < 5*24; cut += 6 {
			for _, more := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					batch := ""
					c, _, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
					tokens := gateWrites(w, func(n int, b []byte) (int, error) {
						if n == 1 {
							return w.Conn.Write(b)
						}
						batch = string(b)
						k, _ := w.Conn.Write(b[:cut])
						return k, syscall.ECONNRESET
					})
					first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
					synctest.Wait()
					var calls []func() (string, error)
					for _, request := range requests {
						calls = append(calls, startCall(t, t.Context(), c, request))
					}
					tokens <- struct{}{}
					require.NoError(t, first())
					synctest.Wait() // they are on their way
					if more {
						requests := []string{"after", "them"}
						for _, request := range requests {
							wait := startCall(t, t.Context(), c, request)
							defer func() {
								_, err := wait()
								require.True(t, testkit.OpError(t, err).Unsent)
							}()
						}
					}
					tokens <- struct{}{}
					for i, wait := range calls {
						_, err := wait()
						require.ErrorIs(t, err, syscall.ECONNRESET)
						at := strings.Index(batch, requests[i]) - 4
						require.Equal(t, at >= cut, testkit.OpError(t, err).Unsent, "request at %d, cut at %d", at, cut)
					}
				})
			}
		}
	})
}

func TestCallThatGivesUp(t *testing.T) {
	t.Run("leaves its request, and those after it, to another goroutine", func(t *testing.T) { // P2, P4
		for _, others := range []string{"no other call", "a Send", "a Call", "a Write"} {
			t.Run(others, testkit.InBubble(func(t *testing.T) {
				c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
				tokens := gateWrites(w, passing(w))
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				impatient := startCall(t, ctx, c, "impatient")
				other := func() error { return nil }
				switch others {
				case "a Send":
					other = testkit.Start(t, func() error { return c.Send(t.Context(), []byte("other")) })
				case "a Call":
					other = testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("other")); return err })
				case "a Write":
					require.NoError(t, c.Write(t.Context(), []byte("other")))
				}
				synctest.Wait()
				cancel()
				_, err := impatient()
				require.ErrorIs(t, err, context.Canceled)
				require.False(t, testkit.OpError(t, err).Unsent)
				again := startCall(t, t.Context(), c, "again") // what was recycled is in use again
				close(tokens)
				require.NoError(t, first())
				require.Equal(t, "first", p.Receive())
				require.Equal(t, "impatient", p.Receive())
				p.Send("late")
				if others != "no other call" {
					require.Equal(t, "other", p.Receive())
				}
				if others == "a Call" {
					p.Send("reply")
				}
				require.NoError(t, other())
				require.Equal(t, "again", p.Receive())
				p.Send("reply to again")
				reply, err := again()
				require.NoError(t, err)
				require.Equal(t, "reply to again", reply)
			}))
		}
	})

	t.Run("has its request's loss told to the next", func(t *testing.T) { // P4, P7
		for _, where := range []string{"on its way", "in the open batch", "after others in the open batch"} {
			t.Run(where, testkit.InBubble(func(t *testing.T) {
				n := &tcpclienttest.Network{Buffer: 100}
				c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{DialContext: n.DialContext, WriteTimeout: -1})
				ctx, cancel := context.WithCancel(t.Context())
				var told []func() (string, error)
				if where != "on its way" {
					told = append(told, startCall(t, t.Context(), c, strings.Repeat("!", 200)))
				}
				if where == "after others in the open batch" {
					told = append(told, startCall(t, t.Context(), c, "before"))
				}
				impatient := startCall(t, ctx, c, strings.Repeat("?", 200))
				cancel()
				_, err := impatient()
				require.ErrorIs(t, err, context.Canceled)
				require.False(t, testkit.OpError(t, err).Unsent)
				p.Reset()
				for i, wait := range told {
					_, err := wait()
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
					require.Equal(t, i > 0, testkit.OpError(t, err).Unsent)
				}
				synctest.Wait()
				err = c.Close()
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.ErrorContains(t, err, "lost")
			}))
		}
	})

	t.Run("at the moment of the loss is told, or the next is", testkit.InBubble(func(t *testing.T) { // P4, P7
		n := &tcpclienttest.Network{Buffer: 100}
		c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{DialContext: n.DialContext, WriteTimeout: -1})
		ctx := &slowToEnd{Context: t.Context(), done: make(chan struct{})}
		ctx.asked = sync.OnceFunc(func() {
			p.Reset() // after the look for a reply, before the Call is given up
			synctest.Wait()
		})
		call := startCall(t, ctx, c, strings.Repeat("?", 200))
		close(ctx.done)
		_, err := call()
		require.False(t, testkit.OpError(t, err).Unsent)
		if lost := c.Close(); !errors.Is(err, tcpclient.ErrDisconnected) {
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorContains(t, lost, "lost")
		}
	}))

	t.Run("is certain of nothing once its request is written, and of all once that was lost", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		ctx, cancel := context.WithCancel(t.Context())
		call := startCall(t, ctx, c, "x")
		p.Receive()
		cancel()
		_, err := call()
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, testkit.OpError(t, err).Unsent)
		p.Close()
		synctest.Wait()
		require.NoError(t, c.Close(), "the network took it: it is not lost")
	}))
}

// slowToEnd is a context during whose Err, once it is done, something happens.
type slowToEnd struct {
	context.Context
	done  chan struct{}
	asked func()
}

func (c *slowToEnd) Done() <-chan struct{} { return c.done }

func (c *slowToEnd) Err() error {
	select {
	case <-c.done:
		c.asked()
		return context.Canceled
	default:
		return nil
	}
}

func TestCallAnsweredTooSoon(t *testing.T) {
	// A server that answers before it was asked ends a Call whose request is still to be written.
	for n := range 3 {
		t.Run(fmt.Sprint("leaves its request to another goroutine: ", n, " after it"), testkit.InBubble(func(t *testing.T) { // P2
			c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
			tokens := gateWrites(w, passing(w))
			first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
			synctest.Wait()
			hasty := startCall(t, t.Context(), c, "hasty")
			var sends []func() error
			for range n {
				sends = append(sends, testkit.Start(t, func() error { return c.Send(t.Context(), []byte("other")) }))
				synctest.Wait()
			}
			p.Send("too soon")
			reply, err := hasty()
			require.NoError(t, err)
			require.Equal(t, "too soon", reply)
			close(tokens)
			require.NoError(t, first())
			require.Equal(t, "first", p.Receive())
			require.Equal(t, "hasty", p.Receive())
			for _, send := range sends {
				require.Equal(t, "other", p.Receive())
				require.NoError(t, send())
			}
		}))
	}
}

func TestCorrelatorThatReturnsTheRequest(t *testing.T) {
	for name, first := range map[string]func(request []byte) []byte{
		"the request":              func(request []byte) []byte { return request },
		"its end":                  func(request []byte) []byte { return request[1:] },
		"its start":                func(request []byte) []byte { return request[:5] },
		"nothing, in its memory":   func(request []byte) []byte { return request[:0] },
		"its start, appended to":   func(request []byte) []byte { return append(request[:3:5], 'i') },
		"memory that is not large": func([]byte) []byte { return make([]byte, 3) },
	} {
		t.Run(name+" makes no Call write into the memory of another", testkit.InBubble(func(t *testing.T) { // F6
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Correlator: alternating{new(int), first}})
			go p.All()
			request := []byte("the first request, which is as long as any")
			ours := make(chan string, 1)
			c.Call(testkit.Within(t, 1), request)
			ours <- string(request)
			c.Call(testkit.Within(t, 1), []byte("THE SECOND"))
			require.Equal(t, <-ours, string(request))
		}))
	}
}

// alternating breaks the contract of a Correlator first: what it returns is first's. Then it is
// IDPrefix.
type alternating struct {
	calls *int
	first func(request []byte) []byte
}

func (k alternating) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if *k.calls++; *k.calls == 1 {
		return k.first(request), nil
	}
	return tcpclient.IDPrefix{}.AppendRequest(dst, id, request)
}

func (alternating) SplitReply(msg []byte) (uint64, []byte, bool) {
	return tcpclient.IDPrefix{}.SplitReply(msg)
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

	t.Run("comes when a Call has waited for a place for a second, not when another has", testkit.InBubble(func(t *testing.T) {
		for _, later := range []time.Duration{0, 100, 740, 750, 760, 990} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 1, Correlator: tcpclient.IDPrefix{}, MaxInFlight: 1})
			call := func() (waited func() time.Duration) {
				began := time.Now()
				return testkit.Start(t, func() time.Duration {
					_, err := c.Call(testkit.Within(t, time.Minute), []byte("?"))
					assert.ErrorIs(t, err, tcpclient.ErrInboxFull)
					return time.Since(began)
				})
			}
			inFlight := call()
			synctest.Wait()
			one := call()
			time.Sleep(time.Second / 2)
			p.Send("a", "b", "c", "d")
			synctest.Wait()
			full := time.Now()
			time.Sleep(later * time.Millisecond)
			other := call()
			inFlight()
			require.GreaterOrEqual(t, one(), time.Second*3/2)
			waited := other()
			require.GreaterOrEqual(t, waited, time.Second, "the Inbox was full for %d ms before", later)
			require.Less(t, waited, 2*time.Second, "the Inbox was full for %d ms before", later)
			require.Less(t, time.Since(full), 3*time.Second)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("does not come while messages are received, though a large one finds no room", testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 100_000, Correlator: tcpclient.IDPrefix{}})
		for range 1400 {
			p.Send("1234567")
		}
		reply := string(append(binary.BigEndian.AppendUint64(nil, 1), '!'))
		go p.Write(testkit.Frames(testkit.PatternText(90_000), reply))
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
