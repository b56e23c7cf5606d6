package tcpclient

import (
	"context"
	"errors"
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

// newTestInbox returns an inbox of that size and its producer.
func newTestInbox(limit int) (*inbox, *producer) {
	in := newInbox(limit)
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

	t.Run("keeps one above the limit", func(t *testing.T) { // P12
		var p slabPool
		p.get(1 << 20)
		p.put(ofSize(1<<20), 1000)
		p.put(ofSize(10), 1000)
		n, bytes := count(&p)
		require.Equal(t, 1, n)
		require.Equal(t, 1<<20, bytes)
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
		p.rotate(nil)
		s := p.slab
		p.record(copy(s.free(), "message"), len("message"))
		rest := s.free()[:copy(s.free(), "the start of the next")]
		p.publish()
		_, err := in.receive(t.Context(), nil)
		require.NoError(t, err)
		p.rotate(rest) // s is over, and used again as soon as it is closed
		again := in.free.first
		require.Same(t, s, again)
		require.Equal(t, "the start of the next", string(p.slab.free()[:len(rest)]))
	})
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
		require.NoError(t, p.makeRoom(1000-10, from))
		require.Zero(t, from.stalls, "there is room")
		in.release(&at)
	})

	t.Run("counts what loops take while it is being woken", func(t *testing.T) { // P2
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
				got := make(chan error, 1)
				go func() { got <- p.makeRoom(1000-10, from) }()
				synctest.Wait()
				require.Equal(t, 1, from.stalls)
				// The first wakes it, and from then on the others need no lock.
				require.Equal(t, 4, in.takeAll(&at))
				require.NoError(t, <-got)
				require.Zero(t, time.Since(began), "it did not wait for its timer")
				in.release(&at)
			})
		}
	})
}

// A loss is an event like a message: whoever takes it wakes the next one who waits.
func TestReceiverOfALossWakesTheNext(t *testing.T) {
	lost := []error{errors.New("first"), errors.New("second"), errors.New("third")}
	for name, more := range map[string]func(in *inbox, p *producer){
		"for a message": func(in *inbox, p *producer) {
			s := new(slab)
			s.allocate(1)
			s.add(0, 0)
			in.publishLocked(s, overhead)
		},
		"for another loss": func(in *inbox, p *producer) {
			in.queue.push(&slab{loss: lost[1]})
			in.losses++
			in.passOnLocked()
		},
		"for the end": func(in *inbox, p *producer) {
			in.end = lost[2]
			in.passOnLocked()
		},
	} {
		t.Run(name, func(t *testing.T) { // P8
			synctest.Test(t, func(t *testing.T) {
				in, p := newTestInbox(1000)
				for range 2 {
					go in.receive(context.Background(), nil)
				}
				synctest.Wait()
				in.mu.Lock() // no one comes in between
				in.queue.push(&slab{loss: lost[0]})
				in.losses++
				in.passOnLocked()
				more(in, p)
				in.mu.Unlock()
				synctest.Wait()
				in.mu.Lock()
				defer in.mu.Unlock()
				assert.Zero(t, in.waiting, "someone waits for what is there")
				in.end = lost[2]
				in.passOnLocked()
			})
		})
	}
}
