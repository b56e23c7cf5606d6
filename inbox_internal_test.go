package tcpclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What only the inside of the Inbox can show: whose memory is whose, and moments between two locks.

// A calmUpstream is a connection that lives. It records how often a producer has begun to wait for
// room.
type calmUpstream struct{ stalls int }

func (*calmUpstream) Dead() <-chan struct{} { return nil }
func (*calmUpstream) ReadUntil() time.Time  { return time.Time{} }
func (*calmUpstream) Cause() error          { return nil }
func (u *calmUpstream) stall(bool)          { u.stalls++ }
func (*calmUpstream) stallOver()            {}

func (*calmUpstream) whileFull() (again time.Duration, err error) { return 0, nil }

// newTestInbox returns an inbox of that size and its producer.
func newTestInbox(limit int) (*inbox, *producer) {
	in := newInbox(limit, nil)
	p := newProducer(in, new(counters))
	p.budget = limit
	return in, p
}

// put adds a message as the reader does.
func (t *producer) put(msg string, from upstream) error {
	return t.add(append(t.storage(), msg...), true, from)
}

// takeAll takes what c has without the lock.
func (in *inbox) takeAll(c *cursor) (n int) {
	for ; ; n++ {
		if _, ok := in.next(c); !ok {
			return n
		}
	}
}

func TestSlabPool(t *testing.T) {
	ofSize := func(size int) *slab { return &slab{data: make([]byte, 0, size)} }
	count := func(p *slabPool) (n, bytes int) {
		for s := p.first; s != nil; s = s.next {
			n++
			bytes += cap(s.data)
		}
		return n, bytes
	}

	t.Run("keeps no more memory than the limit, in every round", func(t *testing.T) { // P6
		const limit = 10 << 10
		var p slabPool
		require.NotNil(t, p.get(4<<10))
		for range 5 {
			for range 100 {
				p.put(ofSize(1<<10), limit)
			}
			n, bytes := count(&p)
			require.Equal(t, 10, n)
			require.Equal(t, p.bytes, bytes)
			for range n {
				require.Equal(t, 1<<10, cap(p.get(4<<10).data))
			}
			require.Zero(t, p.bytes)
			require.Nil(t, p.get(4<<10).data)
		}
	})

	t.Run("keeps two above the limit", func(t *testing.T) { // P12
		var p slabPool
		p.get(1 << 20)
		for _, size := range []int{1 << 20, 1 << 19, 10} {
			p.put(ofSize(size), 1000)
		}
		n, bytes := count(&p)
		require.Equal(t, 2, n)
		require.Equal(t, 1<<20+1<<19, bytes)
		require.Equal(t, 1<<19, cap(p.get(1<<20).data))
		require.Equal(t, 1<<20, cap(p.get(1<<20).data))
	})

	t.Run("gives up memory of more than most, wherever it is", func(t *testing.T) { // P6, E2
		var p slabPool
		p.get(1 << 20)
		for _, size := range []int{1 << 20, 100, 1 << 20, 200, 4 << 10} {
			p.put(ofSize(size), 1<<30)
		}
		require.Equal(t, 4<<10, cap(p.get(4<<10).data))
		n, bytes := count(&p)
		require.Equal(t, 4, n)
		require.Equal(t, 300, bytes)
		require.Equal(t, 300, p.bytes)
		p.put(ofSize(4<<10+1), 1<<30)
		_, bytes = count(&p)
		require.Equal(t, 300, bytes, "nor is more taken")
	})
}

func TestSlab(t *testing.T) {
	t.Run("that takes more messages is not traded", func(t *testing.T) { // P1
		in, p := newTestInbox(1 << 20)
		first := string(make([]byte, 5000))
		require.NoError(t, p.put(first, &calmUpstream{}))
		p.publish()
		s := p.slab
		require.NotNil(t, s, "it is open")
		msg, err := in.receive(t.Context(), make([]byte, 0, 100))
		require.NoError(t, err)
		require.Equal(t, first, string(msg))
		require.NotSame(t, &msg[0], &s.view[0], "what comes next goes there")

		require.NoError(t, p.put("second", &calmUpstream{}))
		p.publish()
		msg, err = in.receive(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "second", string(msg))
	})

	t.Run("that a loop is in is not traded", func(t *testing.T) { // P1
		in, p := newTestInbox(1 << 20)
		first := string(make([]byte, 10<<10))
		require.NoError(t, p.put(first, &calmUpstream{}))
		p.closeSlab()
		var at cursor
		msg, err := in.advance(t.Context(), &at)
		require.NoError(t, err)
		_, err = in.receive(ended(t), nil)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, p.put("second, elsewhere", &calmUpstream{}))
		require.Equal(t, first, string(msg))
		in.release(&at)
	})

	t.Run("is anybody else's only when what was read after its messages is copied", func(t *testing.T) { // P1
		in, p := newTestInbox(1 << 20)
		in.demand = newDemand()
		p.typical = minDirect
		p.rotate(nil)
		large, next := strings.Repeat("a", 50<<10), "the start of the next frame"
		frames := append(binary.BigEndian.AppendUint32(nil, uint32(len(large))), large+next...)
		left, err := p.cut(p.slab.lay(frames), 1<<20, new(calmUpstream))
		require.NoError(t, err)
		require.Equal(t, len(next), left)
		rest := p.slab.free()[:left]

		// The test is the one who waits. It is woken while the slab is being closed, and holds up the
		// reader there: what it is to do with the memory it does at once.
		in.waiting, in.demand.waiting = 1, 1
		in.demand.mu.Lock()
		rotated := make(chan struct{})
		go func() {
			defer close(rotated)
			p.rotate(rest)
		}()
		<-in.ready
		clear(rest)
		in.demand.mu.Unlock()
		<-rotated
		require.Equal(t, next, string(p.slab.free()[:left]))

		msg, err := in.receive(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, large, string(msg))
		require.Same(t, &rest[0], &msg[:len(msg)+1][len(msg)], "who received owns all of it")
	})
}

// A gatedContext holds whoever waits for its end before it begins to: past the lock of the inbox,
// where it counts as waiting, and not yet in its select.
type gatedContext struct {
	context.Context
	gate <-chan struct{}
}

func (c gatedContext) Done() <-chan struct{} {
	<-c.gate
	return c.Context.Done()
}

func TestInboxWaitersThatLeaveTakeTheirSignalWithThem(t *testing.T) { // P8
	for waiters := 1; waiters <= 3; waiters++ {
		for messages := range 3 {
			t.Run(fmt.Sprintf("%d waiters, %d messages", waiters, messages), func(t *testing.T) {
				for range 50 { // a waiter that may take a signal and whose context is over chooses at random
					synctest.Test(t, func(t *testing.T) {
						in, p := newTestInbox(1 << 20)
						in.demand = newDemand()
						gate := make(chan struct{})
						ctx, cancel := context.WithCancel(t.Context())
						var all sync.WaitGroup
						for range waiters {
							all.Go(func() { in.receive(gatedContext{ctx, gate}, nil) })
						}
						synctest.Wait()
						for range messages {
							require.NoError(t, p.put("a message", new(calmUpstream)))
							p.publish()
						}
						cancel()
						close(gate)
						all.Wait()
						require.Zero(t, in.waiting)
						require.Empty(t, in.ready)
						require.Zero(t, in.demand.waiting)
					})
				}
			})
		}
	}
}

// While those who wait are not in their select yet, one signal is all that fits into ready. Each who
// took something wakes the next.
func TestInboxWakesAllForWhatCameBeforeTheirSelect(t *testing.T) {
	type event struct {
		name  string
		comes func(in *inbox, p *producer)
	}
	end := errors.New("the end")
	loss := event{"a loss", func(_ *inbox, p *producer) { p.lose(errors.New("a loss")) }}
	message := event{"a message", func(_ *inbox, p *producer) {
		_ = p.put("a message", new(calmUpstream)) // there is room
		p.publish()
	}}
	finish := event{"the end", func(in *inbox, p *producer) {
		p.closeSlab()
		in.finish(end)
	}}

	receivers := map[string]func(ctx context.Context, in *inbox) (string, error){
		"receive": func(ctx context.Context, in *inbox) (string, error) {
			msg, err := in.receive(ctx, nil)
			return string(msg), err
		},
		"advance": func(ctx context.Context, in *inbox) (string, error) {
			var at cursor
			defer in.release(&at)
			msg, err := in.advance(ctx, &at)
			return string(msg), err
		},
	}
	for name, receive := range receivers {
		for _, events := range [][2]event{
			{loss, message}, {loss, loss}, {loss, finish},
			{message, message}, {message, loss}, {message, finish},
			{finish, finish},
		} {
			t.Run(fmt.Sprintf("%s: %s, then %s", name, events[0].name, events[1].name), func(t *testing.T) { // P8
				synctest.Test(t, func(t *testing.T) {
					in, p := newTestInbox(1 << 20)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					gate := make(chan struct{})
					var got []string // guarded by in.mu
					for range events {
						go func() {
							msg, err := receive(gatedContext{ctx, gate}, in)
							in.mu.Lock()
							defer in.mu.Unlock()
							if err != nil {
								msg = err.Error()
							}
							got = append(got, msg)
						}()
					}
					synctest.Wait()
					require.EqualValues(t, 2, in.waiting)
					for _, e := range events {
						e.comes(in, p)
					}
					require.Len(t, in.ready, 1)
					close(gate)
					synctest.Wait()
					in.mu.Lock()
					defer in.mu.Unlock()
					require.ElementsMatch(t, []string{events[0].name, events[1].name}, got, "one sleeps beside what there is")
				})
			})
		}
	}
}

// ended returns a context that is done.
func ended(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestMakeRoom(t *testing.T) {
	t.Run("counts what loops have taken before it waits", func(t *testing.T) { // P2
		in, p := newTestInbox(1000)
		from := new(calmUpstream)
		for range 5 {
			require.NoError(t, p.put("a message", from))
		}
		p.publish()
		var at cursor
		_, err := in.advance(t.Context(), &at)
		require.NoError(t, err)
		require.Equal(t, 4, in.takeAll(&at))
		require.NoError(t, p.makeRoom(1000-10, from, nil))
		require.Zero(t, from.stalls, "there is room")
		in.release(&at)
	})

	for name, apart := range map[string]bool{
		"while it is being woken":      false, // the first wakes it, and from then on the others need no lock
		"after it was woken too early": true,
	} {
		t.Run("counts what loops take "+name, func(t *testing.T) { // P2
			for range 30 {
				synctest.Test(t, func(t *testing.T) {
					in, p := newTestInbox(1000)
					from := new(calmUpstream)
					for range 5 {
						require.NoError(t, p.put("a message", from))
					}
					p.publish()
					var at cursor
					_, err := in.advance(t.Context(), &at)
					require.NoError(t, err)
					began := time.Now()
					waited := make(chan time.Duration, 1)
					go func() {
						assert.NoError(t, p.makeRoom(1000-10, from, nil))
						waited <- time.Since(began)
					}()
					synctest.Wait()
					require.Equal(t, 1, from.stalls, "it waits")
					if apart {
						_, ok := in.next(&at)
						require.True(t, ok)
						synctest.Wait()
					}
					in.takeAll(&at)
					time.Sleep(time.Hour)
					in.release(&at) // at the latest now there is room
					require.Zero(t, <-waited, "it waited for more than the messages")
				})
			}
		})
	}
}

// A restingUpstream has nothing to do at the second call of whileFull, as when a request is outstanding
// for a moment.
type restingUpstream struct {
	calmUpstream
	calls int
}

func (u *restingUpstream) whileFull() (again time.Duration, err error) {
	if u.calls++; u.calls == 2 {
		return 0, nil
	}
	return time.Second, nil
}

func TestRoomWaitAsksAgain(t *testing.T) { // P5, A2, A3
	synctest.Test(t, func(t *testing.T) {
		in, p := newTestInbox(1)
		require.NoError(t, p.put("takes all room", new(calmUpstream)))
		from := new(restingUpstream)
		done := make(chan error)
		go func() { done <- p.put("waits", from) }()
		time.Sleep(10*time.Second + time.Millisecond)
		in.mu.Lock()
		in.phase.Store(int32(inboxRaised)) // ends the wait
		in.mu.Unlock()
		require.Equal(t, ErrInboxFull, <-done)
		require.Equal(t, 12, from.calls, "at once, every second, and after the second call when the reader looks around")
	})
}

func TestStorage(t *testing.T) {
	const limit = 1 << 20
	receive := func(t *testing.T, in *inbox) string {
		msg, err := in.receive(t.Context(), nil)
		require.NoError(t, err)
		return string(msg)
	}

	t.Run("is given up by whoever receives the last message while the reader rests", func(t *testing.T) { // P6
		in, p := newTestInbox(limit)
		require.NoError(t, p.put("a", nil))
		require.NoError(t, p.put("b", nil))
		p.rest()
		require.Nil(t, p.slab, "the reader would keep it")
		require.Equal(t, "a", receive(t, in))
		require.NotNil(t, in.queue.head)
		require.Equal(t, "b", receive(t, in))
		require.Nil(t, in.queue.head)
		require.Nil(t, in.free)
		require.Nil(t, in.resting)
		p.resume()
		require.NoError(t, p.put("c", nil))
		p.rest()
		require.Equal(t, "c", receive(t, in))
	})

	t.Run("is kept for a reader that goes on before the last message is received", func(t *testing.T) { // P1, P12
		in, p := newTestInbox(limit)
		require.NoError(t, p.put("a", nil))
		slab := p.slab
		p.rest()
		p.resume()
		require.Same(t, slab, p.slab)
		require.Equal(t, "a", receive(t, in))
		require.Same(t, slab, in.queue.head, "the reader is about to write there")
		require.NoError(t, p.put("b", nil))
		p.publish()
		require.Equal(t, "b", receive(t, in))
	})

	t.Run("is kept for a loop that is in it, until that waits", func(t *testing.T) { // P1
		in, p := newTestInbox(limit)
		require.NoError(t, p.put("a", nil))
		p.rest()
		var c cursor
		msg, err := in.advance(t.Context(), &c)
		require.NoError(t, err)
		require.NotNil(t, in.queue.head)
		require.Equal(t, "a", string(msg))
		in.release(&c)
		require.Nil(t, in.queue.head)
		require.Nil(t, in.free)
	})

	t.Run("that a loop has held through two pongs is given up when it lets go", func(t *testing.T) { // P6
		in, p := newTestInbox(1 << 20)
		require.NoError(t, p.put(strings.Repeat("a", 100<<10), nil))
		p.rest()
		var c cursor
		_, err := in.advance(t.Context(), &c)
		require.NoError(t, err)
		for range 2 {
			p.resume()
			p.rest()
		}
		in.release(&c)
		require.Nil(t, in.free)
	})

	t.Run("is given up, too, while no one receives a loss", func(t *testing.T) { // P6
		in, p := newTestInbox(limit)
		in.lose(io.ErrUnexpectedEOF)
		p.storage() // for a reply
		p.rest()
		require.Nil(t, in.free)
	})

	t.Run("of a reader that rests with nothing to receive is given up at once", func(t *testing.T) { // P6
		in, p := newTestInbox(limit)
		p.storage() // for a pong, which is no message
		p.rest()
		require.Nil(t, p.slab)
		require.Nil(t, in.free)
	})

	t.Run("of another is used within the limit", func(t *testing.T) { // P6
		all := slabPool{class: bits.UintSize} // which no one else uses
		for range 10 {
			all.most = 1 << 20
			all.put(&slab{data: make([]byte, 0, 1<<10)}, 1<<20)
		}
		all.giveUp()
		p := newSlabPool(bits.UintSize, 1<<10)
		if p.first == nil {
			t.Skip("the garbage collector or the race detector was here")
		}
		require.Equal(t, 2<<10, p.bytes, "two are always kept")
		require.Nil(t, p.first.next.next)
	})

	t.Run("is never in two hands", func(t *testing.T) { // P1, P3
		const many = 20_000
		in, p := newTestInbox(100 * many) // there is room for all
		go func() {
			for i := range many {
				p.resume()
				if p.add(fmt.Append(p.storage(), i), true, new(calmUpstream)) != nil {
					return
				}
				p.rest()
			}
		}()
		for i := range many {
			require.Equal(t, strconv.Itoa(i), receive(t, in))
		}
	})
}
