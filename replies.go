package tcpclient

import (
	"context"
	"errors"
	"iter"
)

// Replies sends request and returns a loop over the replies to it: until [Dialer].More says that
// no other follows, or one without More. A reply is valid until the next one or the end of the loop.
//
//	for row, err := range client.Replies(ctx, query) {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// If there will be no further reply although one is to follow, the error is yielded once, last, with a
// nil reply. Replies that have come before the end of a connection are yielded before it. When ctx
// is done the loop ends at once with ctx's error, and after Close with [ErrClosed], unless all replies
// were read. The error is an [*OpError] as that of [Client.Call]. Its Unsent field is false if a reply has come.
//
// Each loop sends the request once, when it begins, and borrows it until then. Like Call, it
// waits for a connection, and for a place among the requests in flight. Breaking out of the loop, or
// the end of ctx, gives the request up. Its replies that have come and were not read are dropped, and
// each that still comes is late (see [Trace].LateReply). The place of the request is free when its last reply
// has come. Leave the loop early only where the rest is short or can be canceled: the
// Client has to take it in all the same.
//
// Replies that were not read count in the Inbox, each its length + 64, and when that is full
// TCP pushes back: also the replies to others. If nothing is received and no loop reads for a second,
// Calls, and loops that have nothing to read, end with ErrInboxFull if they have waited as long.
// The memory for what was not read is up to four times the Inbox, and each loop keeps up to 32 KiB
// beside that.
//
// Loops may run concurrently, and with calls of every other method. A loop may Call, if the Inbox has
// room for what comes before the reply to that, since it does not read meanwhile. Otherwise the Call
// ends with ErrInboxFull after a second.
func (c *Client) Replies(ctx context.Context, request []byte) iter.Seq2[[]byte, error] {
	return replies(ctx, c, request)
}

// replies is Replies.
func replies(ctx context.Context, a access, request []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		l, c, err := begin(ctx, a, request, true)
		if err != nil {
			yield(nil, err)
			return
		}
		if unsent, err := l.out.eachReply(ctx, c, yield); err != nil {
			yield(nil, a.opError(opCall, unsent, err))
		}
	}
}

var (
	// errAnswered says that all replies were read, and errGivenUp that a loop has ended before.
	errAnswered = errors.New("all replies were read")
	errGivenUp  = errors.New("the request was given up")
)

// eachReply yields the replies to c, and forgets it. An error says why there is no other.
func (o *outbox) eachReply(ctx context.Context, c *call, yield func([]byte, error) bool) (unsent bool, err error) {
	end := errGivenUp // also by a panic in yield
	defer func() { unsent = o.leave(c, end) }()
	c.await(ctx)
	for {
		reply, err := o.calls.nextReply(ctx, c)
		switch {
		case err == nil:
			if !yield(reply, nil) {
				return false, nil
			}
		case errors.Is(err, errAnswered):
			end = nil
			return false, nil
		default:
			end = err
			return false, err
		}
	}
}

// leave forgets c, whose loop is over because of end; nil: it has all its replies.
func (o *outbox) leave(c *call, end error) (unsent bool) {
	if end != nil {
		unsent, _ = o.release(c, end)
	}
	o.calls.discard(c)
	return unsent
}

// nextReply waits for the next reply to c, and returns it. It is valid until the next call. errAnswered
// says that there is no other.
func (k *calls) nextReply(ctx context.Context, c *call) (reply []byte, err error) {
	for {
		if c.series.isOver() {
			return nil, errAnswered
		}
		if err := ctx.Err(); err != nil {
			return nil, k.endOf(c, err)
		}
		if k.inbox.isDropped() {
			return nil, k.endOf(c, ErrClosed)
		}
		if reply, ok := c.series.read.take(); ok {
			k.inbox.replyRead(len(reply) + overhead)
			return reply, nil
		}
		if refilled, err := k.refill(c); err != nil {
			return nil, err
		} else if !refilled {
			c.await(ctx)
		}
	}
}

// refill gives the loop of c the replies that have come. If there are none, it notes that the loop
// waits, or returns why none will come.
func (k *calls) refill(c *call) (refilled bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case c.series.refill():
		if c.ended && c.err == nil {
			c.series.noFurther()
		}
		return true, nil
	case c.ended && c.err == nil:
		return false, errAnswered
	case c.ended:
		return false, c.err
	}
	for _, memory := range c.series.wait() {
		k.idle.keepMemory(memory, k.maxSum)
	}
	c.waitsSince(k.epoch)
	return false, nil
}

// endOf returns why no reply to c is read any more: because of err, unless all were read.
func (k *calls) endOf(c *call, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch all := c.ended && c.series.unread() == 0; {
	case all && c.err == nil:
		return errAnswered
	case all && err == ErrClosed:
		return c.err
	}
	return err
}

// awaitsSeries reports whether replies with that id are for a loop.
func (k *calls) awaitsSeries(id uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, _ := k.pending.find(id)
	return c != nil && c.series != nil
}

// storeLocked keeps a reply for the loop of c, for which there is room in the Inbox.
func (k *calls) storeLocked(c *call, a *arrival) {
	c.count()
	k.inbox.replies.Add(int64(len(a.reply) + overhead))
	if c.series.come.isBare() {
		c.series.come.fillInto(k.idle.takeMemory())
	}
	woken := c.series.store(a.reply)
	if !a.more {
		k.endLocked(c, nil, nil)
	} else if woken {
		c.wake()
	}
}

// discard drops what was not read of the replies to c, which has ended, and takes it back.
func (k *calls) discard(c *call) {
	k.mu.Lock()
	unread := k.takeBackLocked(c)
	k.mu.Unlock()
	k.inbox.replyRead(unread)
}

// takeBackLocked recycles c, and returns what was not read of its replies, as the Inbox counts it.
func (k *calls) takeBackLocked(c *call) (unread int) {
	if c.series != nil {
		unread = c.series.unread()
	}
	k.recycleLocked(c)
	return unread
}

// idleCalls are calls, series and memory for the next ones.
type idleCalls struct {
	calls  *call // a list
	series []*series
	spare  [2][]byte // what series that wait have given up; one loop that is busy needs two
}

// takeCall returns a call that is to begin. It may have an age of before.
func (i *idleCalls) takeCall() *call {
	c := i.calls
	if c == nil {
		return &call{signal: make(chan struct{}, 1)}
	}
	i.calls = c.next
	return c
}

// keepCall keeps c, of which no one else knows any more.
func (i *idleCalls) keepCall(c *call) {
	if s := c.series; s != nil && len(i.series) < maxIdleSeries {
		s.reset()
		i.series = append(i.series, s)
	}
	*c = call{signal: c.signal, age: c.age, next: i.calls} // no reply is kept for the next one
	i.calls = c
}

// takeSeries returns an empty series.
func (i *idleCalls) takeSeries() *series {
	last := len(i.series) - 1
	if last < 0 {
		return new(series)
	}
	s := i.series[last]
	i.series = i.series[:last]
	return s
}

// keepMemory keeps memory for the next series that has none, if it is not more than most.
func (i *idleCalls) keepMemory(memory []byte, most int) {
	for n, kept := range i.spare {
		if cap(kept) < cap(memory) && cap(memory) <= most {
			i.spare[n], memory = memory, kept
		}
	}
}

// takeMemory returns the largest memory that was kept, if there is some.
func (i *idleCalls) takeMemory() []byte {
	memory := i.spare[0]
	i.spare[0], i.spare[1] = i.spare[1], nil
	return memory
}

const (
	// maxIdleSeries is how many series are kept for their memory, and keptReplies how much
	// of that each queue keeps in any case, also while its loop waits.
	maxIdleSeries = 4
	keptReplies   = 16 << 10
)

// A series is the replies to one request for a loop over Replies. The reader fills one queue while
// the loop reads the other.
type series struct {
	// Guarded by calls.mu.
	come  replyQueue
	waits bool // the loop waits for a reply, or is about to

	// Owned by the loop.
	read replyQueue
	last bool // no reply comes after those in read
}

// begin has s, which is empty, wait for the first reply.
func (s *series) begin() { s.waits = true }

// noFurther notes that all replies are in read.
func (s *series) noFurther() { s.last = true }

// isOver reports whether all replies were read.
func (s *series) isOver() bool { return s.last && s.read.isEmpty() }

// store adds a reply. It reports whether the loop waits for that.
func (s *series) store(reply []byte) (awaited bool) {
	s.come.add(reply)
	awaited, s.waits = s.waits, false
	return awaited
}

// refill swaps the queues, after all of the one was read, and reports whether there is something
// in the other.
func (s *series) refill() bool {
	if s.come.isEmpty() {
		return false
	}
	s.read.clear()
	s.come, s.read = s.read, s.come
	return true
}

// wait notes that the loop waits for a reply, after all that have come. It gives up memory of large
// ones, which it returns: it may be a long wait.
func (s *series) wait() (memory [2][]byte) {
	s.waits = true
	s.read.clear()
	return [2][]byte{s.read.trim(), s.come.trim()}
}

// unread returns what has come and was not read, as the Inbox counts it. The loop is over.
func (s *series) unread() int { return s.come.unread() + s.read.unread() }

// reset empties s for its next use.
func (s *series) reset() {
	s.waits, s.last = false, false
	for _, q := range []*replyQueue{&s.come, &s.read} {
		q.clear()
		q.trim()
	}
}

// A replyQueue is replies one after the other in one piece of memory.
type replyQueue struct {
	bytes   []byte
	ends    []int // of the replies
	taken   int   // how many were
	typical int   // bytes that were in it, of late
}

func (q *replyQueue) add(reply []byte) {
	q.bytes = append(q.bytes, reply...)
	q.ends = append(q.ends, len(q.bytes))
}

// take returns the next reply, which is valid until clear.
func (q *replyQueue) take() (reply []byte, ok bool) {
	if q.isEmpty() {
		return nil, false
	}
	start, end := q.start(), q.ends[q.taken]
	q.taken++
	if end == 0 {
		return []byte{}, true // q may have no memory yet
	}
	return q.bytes[start:end:end], true
}

// start returns where the next reply begins.
func (q *replyQueue) start() int {
	if q.taken == 0 {
		return 0
	}
	return q.ends[q.taken-1]
}

func (q *replyQueue) isEmpty() bool { return q.taken == len(q.ends) }

// unread returns what was not taken, as the Inbox counts it.
func (q *replyQueue) unread() int {
	return len(q.bytes) - q.start() + overhead*(len(q.ends)-q.taken)
}

// clear empties q. It gives up memory of much more than was of use of late.
func (q *replyQueue) clear() {
	for range q.ends {
		q.typical -= q.typical / 8
	}
	q.typical = max(len(q.bytes), q.typical)
	if cap(q.bytes) > max(keptReplies, 8*q.typical) {
		q.bytes = nil
	}
	q.bytes, q.ends, q.taken = q.bytes[:0], q.ends[:0], 0
}

// fillInto gives q memory.
func (q *replyQueue) fillInto(memory []byte) { q.bytes = memory[:0] }

// isBare reports whether q has no memory.
func (q *replyQueue) isBare() bool { return cap(q.bytes) == 0 }

// trim gives up memory of more than keptReplies, and returns it. q is empty.
func (q *replyQueue) trim() (memory []byte) {
	if cap(q.bytes) > keptReplies {
		memory, q.bytes = q.bytes, nil
	}
	if cap(q.ends) > keptReplies/8 {
		q.ends = nil
	}
	q.typical = 0
	return memory
}
