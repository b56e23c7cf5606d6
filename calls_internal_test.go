package tcpclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The table of calls.go without a connection.

// narrow is IDPrefix with few ids.
type narrow struct {
	IDPrefix
	max uint64
}

func (n narrow) MaxID() uint64 { return n.max }

// newTestCalls returns the calls of a connection without MaxInFlight.
func newTestCalls(correlator Correlator) *calls {
	settings := (&Dialer{Correlator: correlator}).callSettings()
	return newCalls(&settings, new(counters), new(tracer), &wakes{}, newInbox(1<<20, nil))
}

// wakes are the times by which the reader was asked to look.
type wakes struct{ due []time.Time }

func (w *wakes) ReadBy(due time.Time) { w.due = append(w.due, due) }

// reply is the reply to id.
func reply(correlator Correlator, id uint64) []byte {
	width := 8
	if f, ok := correlator.(IDField); ok {
		width = f.Width
	}
	msg, _ := correlator.AppendRequest(nil, id, make([]byte, width))
	return msg
}

// replyTo is the reply of IDPrefix to id.
func replyTo(id uint64) []byte { return append(binary.BigEndian.AppendUint64(nil, id), "reply"...) }

// answer brings msg, for which there is room, to k.
func answer(k *calls, msg []byte) bool {
	isReply, _ := k.answer(msg, roomy{})
	return isReply
}

// roomy has room for every reply.
type roomy struct{}

func (roomy) hasRoom(int) bool                 { return true }
func (roomy) awaitRoom(int, func() bool) error { return nil }
func (roomy) stored(int)                       {}

// mustEnter enters a call for which there is room.
func mustEnter(t *testing.T, k *calls) *call {
	c, err := k.enter(ticket{batch: 1}, 0, false)
	if err != nil {
		t.Helper()
		require.NoError(t, err, "there should be room")
	}
	return c
}

// requireSame is require.Equal for loops of which that would take most of the time.
func requireSame[T comparable](t *testing.T, want, got T, msgAndArgs ...any) {
	if want != got {
		t.Helper()
		require.Equal(t, want, got, msgAndArgs...)
	}
}

func requireFull(t *testing.T, k *calls) {
	t.Helper()
	_, err := k.enter(ticket{batch: 1}, 0, false)
	require.Equal(t, errFull, err)
}

// resultOf is what became of c: "waits", its reply or its error.
func resultOf(k *calls, c *call) string {
	if !c.ended {
		return "waits"
	}
	defer k.recycle(c)
	if c.err != nil {
		return "error: " + c.err.Error()
	}
	return string(c.reply)
}

func TestCallsInOrder(t *testing.T) {
	t.Run("a message is for the oldest, whoever has gone", func(t *testing.T) {
		k := newTestCalls(nil)
		a, b, c := mustEnter(t, k), mustEnter(t, k), mustEnter(t, k)
		k.abandon(b)
		require.True(t, answer(k, []byte("1")))
		require.Equal(t, "waits", resultOf(k, c))
		require.True(t, answer(k, []byte("2")), "late, and nobody's")
		require.True(t, answer(k, []byte("3")))
		require.Equal(t, "1", resultOf(k, a))
		require.Equal(t, "3", resultOf(k, c))
		require.False(t, answer(k, []byte("4")), "nothing is asked: a push")
	})

	t.Run("a call that is retracted leaves no place", func(t *testing.T) {
		k := newTestCalls(nil)
		a, b := mustEnter(t, k), mustEnter(t, k)
		k.retract(b)
		c := mustEnter(t, k)
		answer(k, []byte("1"))
		answer(k, []byte("2"))
		require.Equal(t, "1", resultOf(k, a))
		require.Equal(t, "2", resultOf(k, c))
		require.False(t, answer(k, []byte("3")))
	})

	t.Run("a failed call keeps its place", func(t *testing.T) {
		k := newTestCalls(nil)
		a := mustEnter(t, k)
		failAll(k, ErrInboxFull)
		b := mustEnter(t, k)
		require.True(t, answer(k, []byte("1")), "late")
		require.True(t, answer(k, []byte("2")))
		require.Equal(t, "error: "+ErrInboxFull.Error(), resultOf(k, a))
		require.Equal(t, "2", resultOf(k, b))
	})

	t.Run("65,536 may be outstanding, abandoned ones included", func(t *testing.T) {
		k := newTestCalls(nil)
		for range maxInOrder {
			k.abandon(mustEnter(t, k))
		}
		requireFull(t, k)
		answer(k, []byte("late"))
		c := mustEnter(t, k)
		requireFull(t, k)
		for range maxInOrder - 1 {
			require.True(t, answer(k, []byte("late")))
			require.False(t, c.ended)
		}
		require.True(t, answer(k, []byte("mine")))
		require.Equal(t, "mine", resultOf(k, c))
	})

	// A queue that is never empty must not grow: what was answered is compacted away.
	t.Run("the queue is compacted", func(t *testing.T) {
		for _, standing := range []int{1, 63, 64, 65, 200} {
			k := newTestCalls(nil)
			var open []*call // nil: abandoned
			late := uint64(0)
			for range standing {
				open = append(open, mustEnter(t, k))
			}
			for i := range 4000 {
				open = append(open, mustEnter(t, k))
				require.True(t, answer(k, fmt.Append(nil, i)))
				if open[0] == nil {
					late++
				} else {
					requireSame(t, fmt.Sprint(i), resultOf(k, open[0]), "with %d outstanding", standing)
				}
				requireSame(t, late, k.count.lateReplies.Load(), "reply %d with %d outstanding", i, standing)
				open = open[1:]
				if i%3 == 0 { // the middle one goes: its own place waits for a late reply
					gone := len(open) / 2
					k.abandon(open[gone])
					open[gone] = nil
				}
			}
			q := k.pending.(*callQueue).calls
			require.LessOrEqual(t, cap(q), 8*(standing+64), "with %d outstanding", standing)
			for _, c := range q[len(q):cap(q)] {
				require.Nil(t, c, "what is after the queue should be free for the garbage collector")
			}
		}
	})
}

func TestCallsByID(t *testing.T) {
	t.Run("ids count from 1 and are not used again", func(t *testing.T) {
		k := newTestCalls(IDPrefix{})
		for id := uint64(1); id < 300; id++ {
			c := mustEnter(t, k)
			require.Equal(t, id, c.id)
			require.True(t, answer(k, replyTo(id)))
			require.Equal(t, "reply", resultOf(k, c))
		}
	})

	t.Run("tells late from unknown", func(t *testing.T) {
		k := newTestCalls(IDPrefix{})
		k.abandon(mustEnter(t, k))
		mustEnter(t, k)
		require.True(t, answer(k, replyTo(1)), "late")
		require.True(t, answer(k, replyTo(1)), "late again")
		require.True(t, answer(k, replyTo(2)))
		require.True(t, answer(k, replyTo(2)), "a duplicate")
		require.False(t, answer(k, replyTo(0)))
		require.False(t, answer(k, replyTo(3)))
		require.False(t, answer(k, replyTo(math.MaxUint64)))
		require.False(t, answer(k, []byte("short")))
	})

	// A server that leaves one request in a hundred without an answer must not fill the
	// memory of a client that lives for months.
	t.Run("abandoned ids are in flight until their reply, and no more than 65,536 of them are kept", func(t *testing.T) { // P6
		for _, correlator := range []Correlator{IDPrefix{}, IDField{Width: 8}, IDField{Width: 4}} {
			k := newTestCalls(correlator)
			for n := range 3 << 15 {
				requireSame(t, min(n, maxKept), k.inFlight())
				k.abandon(mustEnter(t, k))
			}
			require.True(t, answer(k, reply(correlator, 3)), "late")
			require.Equal(t, maxKept-1, k.inFlight())
			require.True(t, answer(k, reply(correlator, maxKept+1)), "late, though it was forgotten")
			require.Equal(t, maxKept-1, k.inFlight())
			k.abandon(mustEnter(t, k))
			require.Equal(t, maxKept, k.inFlight(), "there was room for another")
		}
	})

	t.Run("ids start again at 1 and skip those in use", func(t *testing.T) {
		k := newTestCalls(narrow{max: 5})
		var open []*call
		for range 5 {
			open = append(open, mustEnter(t, k))
		}
		requireFull(t, k)
		answer(k, replyTo(2))
		answer(k, replyTo(4))
		k.abandon(open[4]) // 5: abandoned, and not free
		require.Equal(t, uint64(2), mustEnter(t, k).id)
		require.Equal(t, uint64(4), mustEnter(t, k).id)
		requireFull(t, k)
		require.True(t, answer(k, replyTo(5)), "late")
		require.Equal(t, uint64(5), mustEnter(t, k).id)
		requireFull(t, k)
		for _, unknown := range []uint64{0, 6, 1 << 40} {
			require.False(t, answer(k, replyTo(unknown)))
		}
	})

	t.Run("before the ids have started again, a higher one is a push, and after it late", func(t *testing.T) {
		k := newTestCalls(narrow{max: 3})
		mustEnter(t, k)
		require.False(t, answer(k, replyTo(2)))
		for range 3 {
			answer(k, replyTo(k.pending.(*idTable).issued))
			mustEnter(t, k)
		}
		require.Equal(t, uint64(1), k.pending.(*idTable).issued)
		require.True(t, answer(k, replyTo(2)))
	})

	t.Run("one id is enough", func(t *testing.T) {
		for _, limit := range []uint64{0, 1} { // 0 makes no sense, and shall not hang
			k := newTestCalls(narrow{max: limit})
			for range 10 {
				c := mustEnter(t, k)
				require.Equal(t, uint64(1), c.id)
				requireFull(t, k)
				answer(k, replyTo(1))
				require.Equal(t, "reply", resultOf(k, c))
			}
		}
	})

	t.Run("a retracted id is free, and its reply nobody's", func(t *testing.T) {
		k := newTestCalls(narrow{max: 2})
		k.retract(mustEnter(t, k))
		a, b := mustEnter(t, k), mustEnter(t, k)
		requireFull(t, k)
		require.Equal(t, []uint64{2, 1}, []uint64{a.id, b.id})
	})
}

// A message may come in the moment between the entry of a call and the refusal of its
// request: a push that a server sends while nothing is asked, or a hostile guess.
func TestCallsRetract(t *testing.T) {
	for name, correlator := range map[string]Correlator{"in order": nil, "by id": IDPrefix{}, "by few ids": narrow{max: 3}} {
		t.Run(name+" after an answer to what was not asked", func(t *testing.T) {
			for others := range 3 {
				k := newTestCalls(correlator)
				var before []*call
				for range others {
					before = append(before, mustEnter(t, k))
				}
				refused := mustEnter(t, k)
				id := refused.id
				for i := range before {
					require.True(t, answer(k, replyTo(uint64(i+1))))
				}
				answer(k, replyTo(id))
				require.NotPanics(t, func() { k.retract(refused) })
				for _, c := range before {
					require.Contains(t, resultOf(k, c), "reply")
				}
				require.Zero(t, k.live, "calls that are waited for")
				c := mustEnter(t, k)
				require.True(t, answer(k, replyTo(c.id)))
				require.Contains(t, resultOf(k, c), "reply")
				require.Zero(t, k.live)
				select {
				case <-k.whenDrained():
				default:
					require.Fail(t, "nobody waits, and yet Shutdown would")
				}
			}
		})
	}
}

// The Inbox may have been full for a second in that very moment. The call has failed, and
// still nothing was sent that the server could answer.
func TestCallsRetractFailed(t *testing.T) {
	t.Run("in order, nobody else's reply is dropped for it", func(t *testing.T) {
		k := newTestCalls(nil)
		before, refused := mustEnter(t, k), mustEnter(t, k)
		failAll(k, ErrInboxFull)
		k.retract(refused)
		after := mustEnter(t, k)
		require.True(t, answer(k, []byte("late, to the one before")))
		require.True(t, answer(k, []byte("mine")))
		require.Equal(t, "error: "+ErrInboxFull.Error(), resultOf(k, before))
		require.Equal(t, "mine", resultOf(k, after))
	})

	t.Run("by id, the id is free", func(t *testing.T) {
		k := newTestCalls(narrow{max: 1})
		refused := mustEnter(t, k)
		failAll(k, ErrInboxFull)
		k.retract(refused)
		mustEnter(t, k)
	})
}

func TestCallsDrained(t *testing.T) {
	for name, finish := range map[string]func(k *calls, c *call){
		"a reply":        func(k *calls, c *call) { answer(k, replyTo(c.id)) },
		"a context":      func(k *calls, c *call) { k.abandon(c) },
		"a refusal":      func(k *calls, c *call) { k.retract(c) },
		"the connection": func(k *calls, _ *call) { k.end(ErrDisconnected) },
	} {
		t.Run("when the last call has ended by "+name, func(t *testing.T) {
			for _, correlator := range []Correlator{nil, IDPrefix{}, narrow{max: 9}} {
				k := newTestCalls(correlator)
				<-k.whenDrained()
				first, second := mustEnter(t, k), mustEnter(t, k)
				k.abandon(first)
				drained := k.whenDrained()
				select {
				case <-drained:
					t.Fatal("drained too soon")
				default:
				}
				if correlator == nil && name == "a reply" {
					answer(k, []byte("late"))
				}
				finish(k, second)
				<-drained
			}
		})
	}
}

func TestCallsEnd(t *testing.T) {
	boom := errors.New("boom")
	for name, correlator := range map[string]Correlator{"in order": nil, "by id": IDPrefix{}, "by few ids": narrow{max: 9}} {
		t.Run(name, func(t *testing.T) {
			k := newTestCalls(correlator)
			answered, gone, open := mustEnter(t, k), mustEnter(t, k), mustEnter(t, k)
			answer(k, replyTo(1))
			k.abandon(gone)
			k.end(boom)
			k.end(errors.New("a second end"))
			require.Contains(t, resultOf(k, answered), "reply")
			require.Equal(t, "error: boom", resultOf(k, open), "the first end counts")
			require.NoError(t, k.wait(t.Context()), "nobody waits for room on a connection that is over")
		})
	}
}

// Room is handed from one who waits to the next: nobody is forgotten while there is
// some, whoever gives up meanwhile.
func TestCallsRoom(t *testing.T) {
	const waiters = 20
	setup := func(t *testing.T) (*calls, chan *call, *sync.WaitGroup) {
		k := newTestCalls(narrow{max: 8})
		entered := make(chan *call, waiters)
		wg := new(sync.WaitGroup)
		for range waiters {
			wg.Go(func() {
				for {
					if c, err := k.enter(ticket{batch: 1}, 0, false); err == nil {
						entered <- c
						return
					}
					if k.wait(t.Context()) != nil {
						return
					}
				}
			})
		}
		return k, entered, wg
	}

	t.Run("many places that come free at once are all taken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k, entered, wg := setup(t)
			for taken := 0; taken < waiters; {
				synctest.Wait()
				batch := len(entered)
				require.Equal(t, min(8, waiters-taken), batch, "those who could enter should have")
				for range batch {
					require.True(t, answer(k, replyTo((<-entered).id)))
				}
				taken += batch
			}
			wg.Wait()
		})
	})

	t.Run("the end of the connection wakes all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newTestCalls(narrow{max: 1})
			mustEnter(t, k)
			var wg sync.WaitGroup
			for range waiters {
				wg.Go(func() { require.NoError(t, k.wait(t.Context())) })
			}
			synctest.Wait()
			k.end(ErrDisconnected)
			wg.Wait()
		})
	})
}

// A naive table beside the real one, and the same random events for both.
func TestCallsModel(t *testing.T) {
	for name, correlator := range map[string]Correlator{
		"in order": nil, "by id": IDPrefix{}, "by 1 id": narrow{max: 1}, "by 7 ids": narrow{max: 7}, "by 255 ids": IDField{Width: 1},
	} {
		for _, maxInFlight := range []int{0, 1, 5} {
			t.Run(fmt.Sprint(name, ", MaxInFlight ", maxInFlight), func(t *testing.T) {
				for seed := range uint64(12) {
					s := callSettings{correlator: correlator, maxInFlight: maxInFlight}
					compare(t, s, rand.New(rand.NewPCG(seed, 1)))
				}
			})
		}
	}
}

// A modelled call is what the model knows of one.
type modelled struct {
	*call
	id   uint64
	want string // "waits" until it has ended
}

func compare(t *testing.T, s callSettings, random *rand.Rand) {
	t.Helper()
	k := newCalls(&s, new(counters), new(tracer), &wakes{}, newInbox(1<<20, nil))
	correlator, limit := s.correlator, 0 // of ids
	if narrow, ok := correlator.(interface{ MaxID() uint64 }); ok {
		limit = int(narrow.MaxID())
	}
	most := maxInOrder // places
	if limit > 0 {
		most = limit
	}
	if s.maxInFlight > 0 {
		most = min(most, s.maxInFlight)
	}
	message := func(id uint64, text string) []byte {
		if f, ok := correlator.(IDField); ok {
			msg, _ := f.AppendRequest(nil, id, append(make([]byte, f.Width), text...))
			return msg
		}
		if correlator != nil {
			return append(binary.BigEndian.AppendUint64(nil, id), text...)
		}
		return []byte(text)
	}
	var open []*modelled                 // not yet asked for their result
	var order []*modelled                // the queue: in order, everything unanswered
	places := make(map[uint64]*modelled) // by id: waiting and abandoned
	issued := make(map[uint64]bool)      // ids ever issued
	for step := range 3000 {
		taken := len(places)
		if correlator == nil {
			taken = len(order)
		}
		requireSame(t, taken, k.inFlight(), "step %d", step)
		switch op := random.IntN(20); {
		case op < 8: // enter
			c, err := k.enter(ticket{batch: 1}, 0, false)
			if err != nil {
				requireSame(t, most, taken, "step %d: there should be room", step)
				continue
			}
			if taken >= most {
				require.FailNow(t, "there should be no room", "step %d", step)
			}
			m := &modelled{call: c, id: c.id, want: "waits"}
			if random.IntN(10) == 0 {
				k.retract(c)
				if correlator == nil {
					continue
				}
				issued[m.id] = true
				continue
			}
			if correlator != nil {
				if places[m.id] != nil || m.id == 0 {
					require.FailNow(t, "no free id", "step %d: id %d", step, m.id)
				}
				places[m.id], issued[m.id] = m, true
			}
			open, order = append(open, m), append(order, m)
		case op < 14: // a message
			text := fmt.Sprint("message ", step)
			if correlator == nil {
				requireSame(t, len(order) > 0, answer(k, []byte(text)), "step %d", step)
				if len(order) > 0 {
					if order[0].want == "waits" {
						order[0].want = text
					}
					order = order[1:]
				}
				continue
			}
			id := random.Uint64N(k.pending.(*idTable).issued + 3)
			msg := message(id, text)
			if limit > 0 && id > uint64(limit) {
				continue
			}
			requireSame(t, issued[id], answer(k, msg), "step %d: id %d", step, id)
			if m := places[id]; m != nil {
				if m.want == "waits" {
					m.want = text
				}
				delete(places, id)
			}
		case op < 16 && len(open) > 0: // a context ends
			i := random.IntN(len(open))
			k.abandon(open[i].call)
			open[i].want = "abandoned"
			open = append(open[:i], open[i+1:]...)
		case op == 16 && random.IntN(20) == 0: // nobody receives
			failAll(k, ErrInboxFull)
			for _, m := range open {
				if m.want == "waits" {
					m.want = "error: " + ErrInboxFull.Error()
				}
			}
		case len(open) > 0: // somebody looks
			i := random.IntN(len(open))
			m := open[i]
			got := resultOf(k, m.call)
			if _, ok := correlator.(IDField); ok && m.want != "waits" && m.want[0] != 'e' {
				got = got[1:] // the reply is the whole message
			}
			if correlator != nil && m.want != "waits" && limit != 255 {
				requireSame(t, m.want, got, "step %d: id %d", step, m.id)
			} else {
				requireSame(t, m.want, got, "step %d", step)
			}
			if m.want != "waits" {
				open = append(open[:i], open[i+1:]...)
			}
		}
	}
	waiting := 0
	for _, m := range open {
		if m.want == "waits" {
			waiting++
		}
	}
	requireSame(t, waiting, k.live)
}

// failAll ends all calls that wait.
func failAll(k *calls, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failLocked(k.epoch, err)
}

func TestCallsWaitForRoom(t *testing.T) {
	t.Run("is found by those who wait when calls are abandoned", func(t *testing.T) {
		// With more ids than are kept for abandoned calls, the others come free at once.
		synctest.Test(t, func(t *testing.T) {
			k := newTestCalls(narrow{max: maxKept + 1})
			var entered []*call
			for range maxKept + 1 {
				entered = append(entered, mustEnter(t, k))
			}
			requireFull(t, k)
			found := make(chan error, 1)
			go func() { found <- k.wait(t.Context()) }()
			synctest.Wait()
			for _, c := range entered[1:] {
				k.abandon(c)
			}
			synctest.Wait()
			require.Empty(t, found, "abandoned ids are kept")
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
			for _, k := range []*calls{newTestCalls(nil), newTestCalls(narrow{max: 3})} {
				for !k.pending.full() {
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
			k := newTestCalls(narrow{max: 1})
			mustEnter(t, k)
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
				k.stall(true)
			}
			second := wait(t.Context())
			k.stall(false)
			synctest.Wait()
			require.Empty(t, second)
			for range stallTicks {
				k.stall(false)
			}
			require.ErrorIs(t, <-second, ErrInboxFull)
		})
	})
}

func TestCallsReplyDue(t *testing.T) {
	t.Run("wakes the reader for the first request only", inBubble(func(t *testing.T) { // P5, P12
		for _, correlator := range []Correlator{nil, IDPrefix{}} {
			w := new(wakes)
			k := newCalls(&callSettings{correlator: correlator, replyTimeout: sec}, new(counters), new(tracer), w, newInbox(1<<20, nil))
			began := time.Now()
			due, _ := k.replyDue()
			require.Zero(t, due, "nothing is owed")
			mustEnter(t, k)
			time.Sleep(ms)
			mustEnter(t, k)
			require.Equal(t, []time.Time{began.Add(sec)}, w.due)
			due, rests := k.replyDue()
			require.Equal(t, began.Add(sec), due)
			require.Equal(t, correlator == nil, rests, "the Heartbeat rests in order")
			time.Sleep(ms)
			answer(k, replyTo(1))
			time.Sleep(ms) // until the reader waits for the socket again
			due, _ = k.replyDue()
			want := began.Add(ms + sec)
			if correlator == nil {
				want = began.Add(3*ms + sec)
			}
			require.Equal(t, want, due)
			answer(k, replyTo(2))
			due, rests = k.replyDue()
			require.Zero(t, due)
			require.False(t, rests)
			require.Len(t, w.due, 1)
		}
	}))

	t.Run("wakes the reader when the only request was taken back, which may have put the Heartbeat to rest", inBubble(func(t *testing.T) { // P5
		w := new(wakes)
		k := newCalls(&callSettings{replyTimeout: sec}, new(counters), new(tracer), w, newInbox(1<<20, nil))
		c := mustEnter(t, k)
		_, rests := k.replyDue()
		require.True(t, rests)
		time.Sleep(ms)
		k.retract(c)
		require.Len(t, w.due, 2)
		require.Equal(t, time.Now(), w.due[1])
		_, rests = k.replyDue()
		require.False(t, rests)
	}))

	t.Run("is over when a write has failed: the last words have their time", inBubble(func(t *testing.T) { // P1
		w := new(wakes)
		k := newCalls(&callSettings{maxInFlight: 1}, new(counters), new(tracer), w, newInbox(1<<20, nil))
		mustEnter(t, k)
		time.Sleep(time.Minute)
		k.lose(0, ErrDisconnected)
		require.Empty(t, w.due)
		due, _ := k.replyDue()
		require.Zero(t, due)
	}))

	t.Run("is over when the connection is", inBubble(func(t *testing.T) {
		k := newCalls(&callSettings{replyTimeout: sec}, new(counters), new(tracer), new(wakes), newInbox(1<<20, nil))
		mustEnter(t, k)
		k.end(ErrDisconnected)
		due, _ := k.replyDue()
		require.Zero(t, due)
		require.NoError(t, k.replyOverdue(time.Now().Add(time.Hour), time.Now().Add(time.Hour)))
	}))

	t.Run("without ReplyTimeout begins when abandoned requests take all places, and ends when one comes free", inBubble(func(t *testing.T) { // P5, B1
		w := new(wakes)
		k := newCalls(&callSettings{maxInFlight: 2}, new(counters), new(tracer), w, newInbox(1<<20, nil))
		a, b := mustEnter(t, k), mustEnter(t, k)
		began := time.Now()
		time.Sleep(sec)
		k.abandon(a)
		require.Empty(t, w.due, "one waits")
		k.abandon(b)
		require.Equal(t, []time.Time{began.Add(starvedTime)}, w.due)
		due, rests := k.replyDue()
		require.Equal(t, began.Add(starvedTime), due)
		require.False(t, rests)
		require.NoError(t, k.replyOverdue(due.Add(-1), due.Add(-1)))
		require.Equal(t, ErrReplyTimeout, k.replyOverdue(due, due))
		answer(k, []byte("late"))
		due, _ = k.replyDue()
		require.Zero(t, due)
		require.False(t, k.watched.Load())
	}))
}

// inBubble is testkit.InBubble, which imports this package.
func inBubble(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

func TestScratch(t *testing.T) {
	t.Run("is the same memory for every request, also of a Correlator that adds much", func(t *testing.T) { // P12, F6
		var s scratch
		for range 3 {
			s.take(100, 1000)
			s.learn(300, 1000)
		}
		p := s.take(100, 1000)
		require.GreaterOrEqual(t, cap(p), 400)
		require.True(t, &p[:1][0] == &s.take(50, 1000)[:1][0])
	})

	t.Run("keeps nothing above the limit", func(t *testing.T) { // P6
		var s scratch
		require.GreaterOrEqual(t, cap(s.take(2000, 1000)), 2000)
		require.Zero(t, cap(s.buf))
		s.learn(5000, 1000)
		s.take(10, 1000)
		require.LessOrEqual(t, cap(s.buf), 1000)
		s.take(900, 1000)
		require.LessOrEqual(t, cap(s.buf), 1000)
	})
}

func TestCallTable(t *testing.T) {
	t.Run("is a map, whatever comes and goes in whichever order", func(t *testing.T) {
		for seed := range uint64(50) {
			r := rand.New(rand.NewPCG(seed, 0))
			var table callTable
			model := make(map[uint64]*call)
			span := uint64(1) << r.IntN(10) // of ids: many that collide, or few
			for range 2000 {
				id := 1 + r.Uint64N(span)*(1+r.Uint64N(3)<<r.IntN(40))
				switch r.IntN(3) {
				case 0:
					c := new(call)
					if r.IntN(4) == 0 {
						c = nil
					}
					table.put(id, c)
					model[id] = c
				case 1:
					table.remove(id)
					delete(model, id)
				}
				c, ok := table.get(id)
				want, known := model[id]
				requireSame(t, known, ok)
				requireSame(t, true, c == want)
				requireSame(t, len(model), table.n)
			}
			for id, want := range model {
				c, ok := table.get(id)
				require.True(t, ok && c == want, "id %d", id)
			}
			var each []*call
			table.each(func(c *call) { each = append(each, c) })
			waited := 0
			for _, c := range model {
				if c != nil {
					waited++
				}
			}
			require.Len(t, each, waited)
		}
	})

	t.Run("gives the memory of a crowd back", func(t *testing.T) { // P6
		var table callTable
		for id := range uint64(10_000) {
			table.put(id+1, new(call))
		}
		for id := range uint64(10_000) {
			table.remove(id + 1)
		}
		require.Empty(t, table.entries)
		_, ok := table.get(1)
		require.False(t, ok)
	})
}

func TestIDTableOldest(t *testing.T) {
	t.Run("is the request that has waited longest, whoever waits for it, whichever ids are used again", func(t *testing.T) { // P5
		for seed := range uint64(50) {
			r := rand.New(rand.NewPCG(seed, 0))
			p := newPending(callSettings{correlator: narrow{max: 1 + r.Uint64N(20)}, replyTimeout: 1})
			var order []uint64 // ids outstanding, the oldest first
			since := make(map[uint64]time.Time)
			waiting := make(map[uint64]*call)
			var idle *call
			now := time.Unix(0, 0)
			for range 2000 {
				now = now.Add(1)
				i := 0
				if len(order) > 0 {
					i = r.IntN(len(order))
				}
				switch op := r.IntN(4); {
				case op < 2 && !p.full():
					c := &call{}
					if idle != nil {
						c, idle = idle, nil
					}
					*c = call{age: c.age}
					c.id = p.enter(c, 0)
					p.owe(c, now)
					order, waiting[c.id], since[c.id] = append(order, c.id), c, now
				case op == 2 && len(order) > 0:
					id := order[i]
					c, ok := p.match(id)
					requireSame(t, true, ok)
					requireSame(t, true, c == waiting[id])
					if c != nil {
						idle = c
					}
					delete(waiting, id)
					order = append(order[:i], order[i+1:]...)
				case op == 3 && len(order) > 0 && waiting[order[i]] != nil:
					id := order[i]
					p.abandon(id)
					idle = waiting[id]
					waiting[id] = nil
				}
				requireSame(t, len(order), p.outstanding())
				if len(order) > 0 {
					requireSame(t, since[order[0]], p.oldest())
				}
			}
		}
	})

	t.Run("forgets with the ids that are too many to keep", func(t *testing.T) { // P6
		p := newPending(callSettings{correlator: IDPrefix{}, replyTimeout: 1})
		for n := range 2 * maxKept {
			c := new(call)
			c.id = p.enter(c, 0)
			p.owe(c, time.Unix(int64(n), 0))
			p.abandon(c.id)
		}
		table := p.(*idTable)
		require.Equal(t, maxKept, p.outstanding())
		require.Len(t, table.ages.abandoned, maxKept)
		require.Equal(t, time.Unix(maxKept-1, 0), table.ages.last.since)
		require.Equal(t, time.Unix(0, 0), p.oldest())
	})
}

func TestSeries(t *testing.T) {
	t.Run("gives each reply once, in order, whatever is stored meanwhile", func(t *testing.T) { // P1
		r := rand.New(rand.NewPCG(1, 2))
		var s series
		var stored, read []string
		unread := 0
		for step := range 5000 {
			if r.IntN(2) == 0 {
				reply := strings.Repeat("r", r.IntN(20)) + fmt.Sprint(step)
				s.store([]byte(reply))
				stored = append(stored, reply)
				unread += len(reply) + overhead
			} else if reply, ok := s.read.take(); ok {
				read = append(read, string(reply))
				require.Equal(t, len(reply), cap(reply), "an append would write over the next")
				unread -= len(reply) + overhead
			} else {
				s.refill()
			}
			require.Equal(t, unread, s.unread(), "step %d", step)
		}
		require.Equal(t, stored[:len(read)], read)
		require.Greater(t, len(read), 1000)
	})

	t.Run("gives up the memory of replies that were large, and keeps that of the usual ones", func(t *testing.T) { // E2
		var s series
		exchange := func(size int) {
			s.store(make([]byte, size))
			require.True(t, s.refill())
			s.read.take()
		}
		exchange(4 << 20)
		for range 100 {
			exchange(100)
		}
		require.LessOrEqual(t, cap(s.come.bytes)+cap(s.read.bytes), 2*keptReplies)
		for range 4 {
			exchange(100 << 10)
		}
		before := cap(s.come.bytes)
		exchange(100)
		exchange(100)
		require.Equal(t, before, cap(s.come.bytes))
		s.reset()
		require.LessOrEqual(t, cap(s.come.bytes)+cap(s.read.bytes), 2*keptReplies)
	})

	t.Run("is used again, empty, and only so many are kept", func(t *testing.T) { // P12
		k := newTestCalls(nil)
		var all []*call
		for range 2 * maxIdleSeries {
			c, err := k.enter(ticket{batch: 1}, 0, true)
			require.NoError(t, err)
			all = append(all, c)
		}
		for _, c := range all {
			require.True(t, answer(k, []byte("reply")))
			require.True(t, c.ended)
			k.discard(c)
		}
		require.Zero(t, k.inbox.replies.Load())
		require.Zero(t, k.streams)
		require.Len(t, k.idle.series, maxIdleSeries)
		for _, s := range k.idle.series {
			require.Zero(t, s.unread())
		}
		c, err := k.enter(ticket{batch: 1}, 0, true)
		require.NoError(t, err)
		require.Len(t, k.idle.series, maxIdleSeries-1)
		k.retract(c)
		require.Len(t, k.idle.series, maxIdleSeries, "also one that was taken back")
	})

	t.Run("a reply that waited for room is late if its request was given up meanwhile", func(t *testing.T) {
		for _, correlator := range []Correlator{nil, IDPrefix{}} {
			k := newTestCalls(correlator)
			c, err := k.enter(ticket{batch: 1}, 0, true)
			require.NoError(t, err)
			isReply, err := k.answer(replyTo(1), fullUntil{func() { k.abandon(c); k.discard(c) }})
			require.True(t, isReply)
			require.ErrorIs(t, err, ErrDisconnected, "and the end that was found meanwhile is told")
			require.EqualValues(t, 1, k.count.lateReplies.Load())
			require.Zero(t, k.inbox.replies.Load())
			require.Zero(t, k.inFlight())
		}
	})
}

// fullUntil is a replyRoom that has none until something has happened, and the connection ends.
type fullUntil struct{ happens func() }

func (fullUntil) hasRoom(int) bool                   { return false }
func (f fullUntil) awaitRoom(int, func() bool) error { f.happens(); return ErrDisconnected }
func (fullUntil) stored(int)                         { panic("there is no one to have it") }
