package tcpclient

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxInOrder is how many calls may be outstanding without ids, abandoned ones
	// included.
	maxInOrder = 1 << 16

	// maxKept is how many ids there may be for abandoned ones to be kept out of use.
	maxKept = 1 << 16

	// stallTime is how long the Inbox may be full while calls wait behind it.
	stallTime = time.Second

	// stallTicks is how often the reader looks in that time, each stallTick.
	stallTicks = 4
	stallTick  = stallTime / stallTicks
)

// calls are the requests of one connection that are not answered yet. Without a
// Correlator they are a queue, with one a table by id.
//
// A call is entered under the lock of the outbox, so that the queue has the order of the
// frames, and taken out by whoever ends it: the reader with a reply, or the caller.
type calls struct {
	correlator Correlator // nil: in order
	count      *counters
	limit      uint64        // of ids, or of calls in order
	room       chan struct{} // one slot: somebody waits for room, and there may be some
	used       atomic.Bool   // there was a call: messages may be replies

	mu      sync.Mutex // guards following
	over    error      // why no reply will come any more; set once
	broken  bool       // calls waited when the connection ended
	closed  bool       // by Close: nobody is to wait for room
	epoch   int        // counts the ticks of a reader that waits for room in the Inbox
	issued  uint64     // the last id; in order: the number of the last call
	wrapped bool       // ids have started again at 1
	byID    callTable
	queue   []*call // in order, from first on; nil: abandoned
	first   int     // index of the oldest, which has the number oldest
	oldest  uint64
	live    int           // calls that are waited for
	waiting int           // callers that wait for room
	failure *failure      // what ends their wait; nil: none has begun
	quiet   chan struct{} // closed when live is 0, for Shutdown; nil: nobody asks
	idle    *call
}

// A call is one request that is waited for.
//
// It does not wait for its request to be written: where that fails, the outbox ends it.
type call struct {
	waiter waiter // its signal tells of the end, too; in a batch only if it may have to lead
	number uint64 // of the batch, in which the request begins at waiter.start; guarded by outbox.mu
	next   *call

	// Guarded by calls.mu.
	id    uint64      // in order: its number
	epoch int         // when it was entered
	ended atomic.Bool // for good, with this, which its caller may then read without the lock:
	reply []byte
	err   error
}

// A failure ends the waits for room while the connection goes on.
type failure struct {
	done  chan struct{} // closed when err is set
	err   error
	epoch int // when the first began to wait
}

func newCalls(correlator Correlator, count *counters) *calls {
	k := &calls{correlator: correlator, count: count, limit: maxInOrder, oldest: 1, room: make(chan struct{}, 1)}
	if correlator != nil {
		k.limit = math.MaxUint64
		if narrow, ok := correlator.(interface{ MaxID() uint64 }); ok {
			k.limit = max(narrow.MaxID(), 1)
		}
	}
	return k
}

// enter adds a call; nil when there is no room.
func (k *calls) enter() *call {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fullLocked() {
		return nil
	}
	c := k.idle
	if c == nil {
		c = &call{waiter: waiter{signal: make(chan struct{}, 1), quiet: true, parked: true}}
	} else {
		k.idle, c.next = c.next, nil
	}
	c.epoch = k.epoch
	k.live++
	k.used.Store(true)
	if k.correlator == nil {
		k.issued++
		c.id = k.issued
		k.queue = append(k.queue, c)
		return c
	}
	for {
		if k.issued == k.limit {
			k.issued, k.wrapped = 0, true
		}
		k.issued++
		if _, taken := k.byID.get(k.issued); !taken {
			break
		}
	}
	c.id = k.issued
	k.byID.put(c.id, c)
	return c
}

func (k *calls) fullLocked() bool {
	if k.correlator == nil {
		return len(k.queue)-k.first >= maxInOrder
	}
	return uint64(k.byID.n) >= k.limit
}

// retract takes back a call of which nothing was written, the last one entered.
func (k *calls) retract(c *call) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.correlator != nil:
		k.byID.remove(c.id)
	case c.id >= k.oldest: // else the server has answered what it was not asked
		k.queue = k.queue[:len(k.queue)-1]
		k.issued--
	}
	if !c.ended.Load() {
		k.leftLocked()
	}
	k.recycleLocked(c)
	k.roomLocked()
}

// answer routes a message. It returns false for what is no reply.
func (k *calls) answer(msg []byte) bool {
	if k.correlator == nil {
		return k.answerOldest(msg)
	}
	id, reply, ok := k.correlator.SplitReply(msg)
	if !ok {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c, known := k.byID.get(id)
	if !known && (id == 0 || id > k.limit || !k.wrapped && id > k.issued) {
		return false // never asked for
	}
	k.count.received(1, len(msg))
	if known { // else late: it was abandoned
		k.byID.remove(id)
		k.deliverLocked(c, reply)
	}
	return true
}

func (k *calls) answerOldest(msg []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.first == len(k.queue) {
		return false
	}
	k.count.received(1, len(msg))
	c := k.queue[k.first]
	k.queue[k.first] = nil
	k.first++
	k.oldest++
	if k.first == len(k.queue) {
		k.queue, k.first = k.queue[:0], 0
	} else if k.first >= 64 && k.first >= len(k.queue)/2 {
		n := copy(k.queue, k.queue[k.first:])
		clear(k.queue[n:])
		k.queue, k.first = k.queue[:n], 0
	}
	k.deliverLocked(c, msg)
	return true
}

// deliverLocked ends c, which is in the table no longer, with a copy of reply.
func (k *calls) deliverLocked(c *call, reply []byte) {
	if c != nil { // else abandoned, and now its place is free
		c.reply = append(make([]byte, 0, len(reply)), reply...)
		k.endLocked(c, nil)
	}
	k.roomLocked()
}

func (k *calls) endLocked(c *call, err error) {
	c.err = err
	c.ended.Store(true)
	c.waiter.wake()
	k.leftLocked()
}

// leftLocked counts a call that is no longer waited for.
func (k *calls) leftLocked() {
	k.live--
	if k.live == 0 && k.quiet != nil {
		close(k.quiet)
		k.quiet = nil
	}
}

// roomLocked wakes one caller that waits for room, if there is some.
func (k *calls) roomLocked() {
	if k.waiting == 0 || k.over == nil && k.fullLocked() {
		return
	}
	select {
	case k.room <- struct{}{}:
	default:
	}
}

// wait waits until there is room, or the connection has ended. It fails with all calls.
func (k *calls) wait(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.over == nil && k.fullLocked() {
		if k.closed {
			return ErrClosed
		}
		k.waiting++
		if k.failure == nil {
			k.failure = &failure{done: make(chan struct{}), epoch: k.epoch}
		}
		failure := k.failure
		k.mu.Unlock()
		var err error
		select {
		case <-k.room:
		case <-failure.done:
			err = failure.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		k.mu.Lock()
		if k.waiting--; k.waiting == 0 {
			k.failure = nil // the next one begins to wait anew
		}
		if err != nil {
			return err
		}
	}
	k.roomLocked() // the next one may find some, too
	return nil
}

// abandon ends c because its caller gives up, unless it has ended. Its place is kept for the late
// reply, where an id does not tell that it is late.
func (k *calls) abandon(c *call) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.ended.Load() {
		return false
	}
	k.dropLocked(c)
	k.leftLocked()
	k.roomLocked()
	return true
}

// hasEnded is c.ended for one who has taken a signal that may have been that of a turn. Who ended c
// while that was still in the slot has sent none of its own, and a send that fails orders nothing:
// where memory is weakly ordered, c.ended alone might not show it yet, and nothing else would come.
// The lock puts the two in order.
func (k *calls) hasEnded(c *call) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return c.ended.Load()
}

// dropLocked makes an abandoned entry of c's.
func (k *calls) dropLocked(c *call) {
	switch {
	case k.correlator == nil:
		k.queue[k.first+int(c.id-k.oldest)] = nil
	case k.limit <= maxKept:
		k.byID.put(c.id, nil)
	default:
		// The id will not come again before very many other calls, if ever, and that it
		// was issued tells that its reply is late. To keep it would fill the memory.
		k.byID.remove(c.id)
	}
}

// stall is called by a reader that waits for room in the Inbox: when it begins to, and then
// stallTicks times in stallTime. nobody says that in all that time nobody has received; then
// those calls end that have waited as long, since their replies may be behind what waits.
func (k *calls) stall(nobody bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epoch++
	if nobody {
		k.failLocked(k.epoch-stallTicks-1, ErrInboxFull)
	}
}

// lose ends the calls whose requests the outbox has lost: those in batches behind landed.
func (k *calls) lose(landed uint64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.endWhereLocked(func(c *call) bool { return c.number > landed }, err)
}

// close ends all calls, for Close.
func (k *calls) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.failLocked(k.epoch, ErrClosed)
}

// ending notes whether calls wait for a connection that ends. It comes before anybody tells them.
func (k *calls) ending() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = k.live > 0
}

// end ends all calls with the connection. Those who wait for room may find it on the next.
func (k *calls) end(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = err
	k.roomLocked()
	k.failure = nil
	k.failLocked(k.epoch, err)
}

// owed reports whether calls waited for the connection when it ended.
func (k *calls) owed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.broken
}

// failLocked ends the calls that wait since the given epoch, and the waits for room.
func (k *calls) failLocked(epoch int, err error) {
	if f := k.failure; f != nil && f.epoch <= epoch {
		f.err, k.failure = err, nil
		close(f.done)
	}
	k.endWhereLocked(func(c *call) bool { return c.epoch <= epoch }, err)
}

// endWhereLocked ends the calls of which which says so. Their places are kept.
func (k *calls) endWhereLocked(which func(c *call) bool, err error) {
	for i, c := range k.queue {
		if c != nil && which(c) {
			k.queue[i] = nil
			k.endLocked(c, err)
		}
	}
	k.byID.each(func(c *call) {
		if which(c) {
			k.dropLocked(c)
			k.endLocked(c, err)
		}
	})
	k.roomLocked()
}

// settled returns a channel that is closed when no call waits.
func (k *calls) settled() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	quiet := make(chan struct{})
	if k.live == 0 {
		close(quiet)
	} else {
		k.quiet = quiet
	}
	return quiet
}

// recycle takes back c, of which nobody else knows any more.
func (k *calls) recycle(c *call) {
	k.mu.Lock()
	k.recycleLocked(c)
	k.mu.Unlock()
}

func (k *calls) recycleLocked(c *call) {
	select {
	case <-c.waiter.signal: // its context won the select against this
	default:
	}
	c.waiter = waiter{signal: c.waiter.signal, quiet: true, parked: true}
	c.reply, c.err = nil, nil
	c.ended.Store(false)
	c.next, k.idle = k.idle, c
}
