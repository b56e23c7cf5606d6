package tcpclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/liveness"
)

// Call sends request and returns the reply to it, which is owned by the caller. Any
// number of goroutines may Call at once: their requests share system calls, and each gets
// its own reply.
//
// Without a [Dialer].Correlator each message that arrives is the reply to the oldest
// unanswered request. The server must then answer every request, in order, with one
// message, or with as many as [Dialer].More says. A message that may come at any time, and is no
// reply, is for [Dialer].IsPush to tell. If a reply is several lines, as with Redis, memcached and SMTP,
// either the [Framer] makes one message of them, or More says that they go on. With a Correlator the id decides, and a message
// that is no reply goes to Receive. If no goroutine receives and the Inbox stays full for a
// second, the Calls that have waited as long end with ErrInboxFull.
//
// Call blocks until the reply has arrived, ctx is done, the connection has ended or the
// Client is closed; while disconnected it waits for the next connection. It borrows
// request until it returns. When ctx ends, Call returns at once, and the connection lives on.
// The request stays in flight until its late reply has come, which is for [Trace].LateReply
// only. If all places are in flight (see [Dialer].MaxInFlight), Call waits for one.
//
// With [Dialer].More the reply is all the replies to the request, one after the other. If they
// take more bytes than [Dialer].Inbox, Call ends with ErrInboxFull, the connection lives on, and
// the rest is late. See [Client.Replies] for a reply at a time.
//
// A server that loses requests is found by [Dialer].ReplyTimeout. Call never repeats a
// request. When it fails, [errors.As] finds an [*OpError] whose Unsent field says whether the
// server has certainly not seen the request.
func (c *Client) Call(ctx context.Context, request []byte) (reply []byte, err error) {
	return exchange(ctx, c, request)
}

// exchange is Call.
func exchange(ctx context.Context, a access, request []byte) (reply []byte, err error) {
	l, c, err := begin(ctx, a, request, false)
	if err != nil {
		return nil, err
	}
	select { // await would add a mispredicted branch, its return
	case <-c.signal:
		err = c.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	reply, unsent, err := l.out.endCall(c, err)
	return reply, a.opError(opCall, unsent, err)
}

// begin enters a call on a connection and has its request written. inSeries says that its replies
// are read one by one, else they are one. An error is the user's.
func begin(ctx context.Context, a access, request []byte, inSeries bool) (*link, *call, error) {
	for over, most := (*link)(nil), a.mostRounds(); ; {
		l, err := a.connected(ctx, over, most)
		if err != nil {
			return nil, nil, a.opError(opCall, true, err)
		}
		c, err := l.out.enterCall(ctx, request, inSeries)
		if err == errFull {
			if err = l.calls.wait(ctx); err == nil {
				continue
			}
		}
		switch err {
		case nil:
			l.out.writeCallLocked()
			return l, c, nil
		case errOver:
			over = l
		default:
			return nil, nil, a.opError(opCall, true, err)
		}
	}
}

// writeCallLocked has the request written that was entered. A call waits for its reply, and not for
// its batch. It releases the lock.
func (o *outbox) writeCallLocked() {
	if o.canWriteLocked() {
		o.writeInlineLocked()
		return
	}
	o.requestFlushLocked()
	o.mu.Unlock()
}

// endCall forgets c. Its reply has come if err is nil; else c has ended with err, or its caller gives up
// because of that.
func (o *outbox) endCall(c *call, err error) (reply []byte, unsent bool, _ error) {
	if err != nil {
		unsent, err = o.release(c, err)
	}
	if err == nil { // else there may be a part of it
		reply = c.reply
	}
	o.calls.recycle(c)
	return reply, unsent, err
}

// enterCall enters a call and frames its request, marked with an id if there is a Correlator, both
// under the lock, so that replies in order find the calls in order. It returns errFull when there are
// too many. The lock is held then; if enterCall fails, it is not.
func (o *outbox) enterCall(ctx context.Context, request []byte, inSeries bool) (c *call, err error) {
	if err := o.lockRoom(ctx); err != nil {
		return nil, err
	}
	framed := false
	defer func() {
		if framed {
			return
		}
		if c != nil {
			o.calls.retract(c)
		}
		o.mu.Unlock() // also in a panic of the Correlator or the Framer
	}()
	id := uint64(0)
	if o.calls.identifier != nil {
		if id, err = o.calls.chosenID(request); err != nil {
			return nil, err
		}
	}
	if c, err = o.calls.enter(ticket{batch: o.batches.number, start: o.batches.open.size()}, id, inSeries); err != nil {
		return nil, err
	}
	if request, err = o.markLocked(c, request); err != nil {
		return c, err
	}
	_, err = o.frameLocked(request)
	framed = err == nil
	return c, err
}

// markLocked returns request with the id of c in it, in memory that is good until the lock
// is released.
func (o *outbox) markLocked(c *call, request []byte) ([]byte, error) {
	correlator := o.calls.correlator
	if correlator == nil {
		return request, nil
	}
	marked, err := correlator.AppendRequest(o.marked.take(len(request), o.limit), c.id, request)
	if err != nil {
		return nil, &permanentError{err}
	}
	o.marked.learn(len(marked)-len(request), o.limit)
	return marked, nil
}

// A scratch is memory for requests with their ids. It keeps nothing but what it has made: what a
// Correlator returns may be memory of another.
type scratch struct {
	buf   []byte
	extra int // the most bytes that a Correlator has added
}

// take returns memory for a request of size bytes with its id, for the moment. It keeps up to
// limit bytes.
func (s *scratch) take(size, limit int) []byte {
	need := size + max(s.extra, minExtra)
	if need > limit {
		return make([]byte, 0, need)
	}
	if cap(s.buf) < need {
		s.buf = make([]byte, 0, min(2*need, limit))
	}
	return s.buf[:0]
}

// learn notes how many bytes a Correlator has added.
func (s *scratch) learn(extra, limit int) { s.extra = min(max(s.extra, extra), limit) }

// release lets the outbox forget c, which has ended with err or whose caller gives up because
// of it. It returns how c has ended, and whether the request is certain not to have been sent.
func (o *outbox) release(c *call, err error) (unsent bool, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Under the lock: who gives up has not been told of a loss, and is counted before there is one.
	if !o.calls.abandon(c) {
		err = c.err
	}
	switch {
	case err == nil || c.replies > 0 || o.batches.written.Load() >= c.ticket.batch:
	case o.phase == phaseDead:
		unsent = o.batches.unsent(c.ticket)
	default:
		o.batches.numbered(c.ticket.batch).unawaited++
	}
	return unsent, err
}

// errFull is what an outbox says to a call for which there is no room.
var errFull = errors.New("too many calls outstanding")

const (
	// stallTime is how long the Inbox may be full while calls wait for replies after it.
	stallTime = time.Second

	// stallTicks is how often the reader looks in that time, each stallTick.
	stallTicks = 4
	stallTick  = stallTime / stallTicks

	// minExtra is how many bytes a Correlator is expected to add to a request.
	minExtra = 16

	// starvedTime is how long abandoned requests may take all places, without ReplyTimeout.
	starvedTime = 10 * time.Second

	// lastPoll is how long the socket is still read if that time was over before it was watched.
	// This process may have been suspended, and a reply may lie there.
	lastPoll = 10 * time.Millisecond
)

// callSettings are the settings of a Dialer for its Calls.
type callSettings struct {
	correlator   Correlator              // nil: in order
	identifier   RequestIdentifier       // the correlator, if it is one; else nil
	isPush       func(msg []byte) bool   // nil: no message is that might be a reply
	more         func(reply []byte) bool // nil: there is one reply
	maxSum       int                     // the most bytes of replies that are kept for one Call; a single one always is
	maxInFlight  int                     // 0: as many as there are ids
	replyTimeout time.Duration           // 0: none
}

// calls are the requests of one connection that are not answered yet.
//
// A call is entered under the lock of the outbox, so that a queue has the order of the
// frames, and taken out by whoever ends it: the reader with a reply, or the caller.
type calls struct {
	*callSettings
	inbox   *inbox // where replies count that were not read
	count   *counters
	trace   *tracer
	reads   waker
	used    atomic.Bool // there was a call: messages may be replies
	watched atomic.Bool // replies may be overdue: the reader has to look. Set with mu

	mu         sync.Mutex // guards following
	pending    pending
	over       error         // why no call is to wait for room here: Close, or the end
	hadPending bool          // calls waited when the connection ended
	epoch      int           // counts the ticks of a reader that waits for room in the Inbox
	live       int           // calls that are waited for
	streams    int           // of these, that have a series
	answers    int           // requests that had all their replies, late ones included
	waiting    int           // callers that wait for room
	room       chan struct{} // one slot: one of them is to look; made by the first
	roomFailed *roomFailure  // what ends their wait; nil: none has begun
	drained    chan struct{} // closed when live is 0, for Shutdown; nil: no one asks
	idle       idleCalls
	replies    liveness.ReplyClock
	starvation starvation // without ReplyTimeout
}

// A starvation is that abandoned requests take all places. Its times are by the clock of replies.
type starvation struct {
	filled moment    // when a request last took the last place
	since  time.Time // zero: there is none
}

// fill notes that the last place was taken.
func (s *starvation) fill(m moment) { s.filled = m }

// begin notes that abandoned requests take all places. The time counts from when the last was taken,
// if the reader has not waited for room in the Inbox since.
func (s *starvation) begin(now moment) {
	s.since = now.at
	if s.filled.epoch == now.epoch {
		s.since = s.filled.at
		if spent := now.at.Add(lastPoll - starvedTime); s.since.Before(spent) {
			s.since = spent
		}
	}
}

// restart makes the time count from then; zero ends it.
func (s *starvation) restart(since time.Time) { s.since = since }

func (s *starvation) isThere() bool { return !s.since.IsZero() }

// A moment is a time by the clock of replies, and in the life of a reader.
type moment struct {
	at    time.Time
	epoch int
}

// A waker makes the reader look again at the latest at due.
type waker interface{ ReadBy(due time.Time) }

// A call is one request that is waited for. It does not wait for its request to be written:
// where that fails, the outbox ends it.
type call struct {
	signal chan struct{} // one slot: it has ended, with reply or err
	ticket ticket        // of its request
	next   *call
	age    *age    // nil: there was none yet. Guarded by calls.mu
	series *series // of its replies; nil: they are one

	// Guarded by calls.mu, until it has ended.
	id      uint64
	epoch   int // since when it waits: it was entered, or its loop last had nothing to read
	ended   bool
	replies int // that have come
	reply   []byte
	err     error
}

// begin has c, which was idle, wait for the reply to the request of t.
func (c *call) begin(t ticket, epoch int) { c.ticket, c.epoch, c.next = t, epoch, nil }

// end ends c for good.
func (c *call) end(reply []byte, err error) {
	c.ended, c.reply, c.err = true, reply, err
	c.wake()
}

// wake has the caller of c look at it.
func (c *call) wake() {
	select {
	case c.signal <- struct{}{}:
	default: // it is to look already
	}
}

// await waits until c is to be looked at, or ctx is done.
func (c *call) await(ctx context.Context) {
	select {
	case <-c.signal:
	case <-ctx.Done():
	}
}

// answerIn has the replies to c read one by one, by a loop that waits for the first.
func (c *call) answerIn(s *series) {
	c.series = s
	s.begin()
}

// count counts a reply.
func (c *call) count() { c.replies++ }

// waitsSince notes when its loop last had nothing to read.
func (c *call) waitsSince(epoch int) { c.epoch = epoch }

// isRead reports whether c is a loop that does not wait for a reply: it has some to read.
func (c *call) isRead() bool { return c.series != nil && !c.series.waits }

// A roomFailure ends the waits for room while the connection goes on.
type roomFailure struct {
	epoch int           // when the first began to wait
	done  chan struct{} // closed when err and until are set
	err   error
	until int // who began to wait later goes on
}

// join adds one who began to wait then.
func (f *roomFailure) join(began int) { f.epoch = min(f.epoch, began) }

func (f *roomFailure) end(epoch int, err error) {
	f.err, f.until = err, epoch
	close(f.done)
}

func newCalls(s *callSettings, count *counters, trace *tracer, reads waker, in *inbox) *calls {
	k := &calls{
		callSettings: s,
		inbox:        in,
		count:        count,
		trace:        trace,
		reads:        reads,
		pending:      newPending(*s),
	}
	k.watched.Store(s.replyTimeout > 0)
	return k
}

// inFlight returns how many requests are outstanding, abandoned ones included.
func (k *calls) inFlight() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pending.outstanding()
}

// chosenID returns the id that the identifier has chosen for request; 0: none. It runs code of the
// user.
func (k *calls) chosenID(request []byte) (id uint64, err error) {
	id, chosen := k.identifier.RequestID(request)
	if !chosen {
		return 0, nil
	}
	if most := k.pending.most(); id < 1 || id > most {
		return 0, &permanentError{fmt.Errorf("request id %d of %T.RequestID: want 1 to %d", id, k.identifier, most)}
	}
	return id, nil
}

// enter adds a call, with the ticket of its request and the id that was chosen for it; 0: the next
// one is to be. It returns errFull when there is no room.
func (k *calls) enter(t ticket, id uint64, inSeries bool) (*call, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if id > 0 && k.pending.has(id) {
		return nil, &permanentError{fmt.Errorf("request id %d is in flight", id)}
	}
	if k.pending.full() {
		return nil, errFull
	}
	c := k.idle.takeCall()
	c.begin(t, k.epoch)
	c.id = k.pending.enter(c, id)
	if inSeries {
		c.answerIn(k.idle.takeSeries())
		k.streams++
	}
	k.live++
	if !k.used.Load() {
		k.used.Store(true)
	}
	if k.replyTimeout > 0 {
		k.oweLocked(c)
	} else if k.pending.full() {
		k.starvation.fill(moment{k.replies.At(time.Now()), k.epoch})
	}
	return c, nil
}

// oweLocked notes that a reply is owed to c from now on, or, in order, from when the reply
// before it has come. It wakes the reader if it does not know that one is owed.
func (k *calls) oweLocked(c *call) {
	first := k.pending.outstanding() == 1
	if !first && k.correlator == nil {
		return
	}
	since := k.replies.At(time.Now())
	k.pending.owe(c, since)
	if first {
		k.reads.ReadBy(k.replies.Due(since.Add(k.replyTimeout)))
	}
}

// starveLocked begins to watch, without ReplyTimeout, when abandoned requests take all
// places.
func (k *calls) starveLocked() {
	if k.watched.Load() || k.live > 0 || k.over != nil || !k.pending.full() {
		return
	}
	k.starvation.begin(moment{k.replies.At(time.Now()), k.epoch})
	k.watched.Store(true)
	k.reads.ReadBy(k.replies.Due(k.starvation.since.Add(starvedTime)))
}

// starvedAgainLocked has the 10 s count from now, if abandoned requests take all places: a reply
// has come that did not free one.
func (k *calls) starvedAgainLocked() {
	if k.starvation.isThere() {
		k.starvation.restart(k.replies.At(time.Now()))
		return
	}
	k.starveLocked()
}

// feedLocked ends that, when a place has come free.
func (k *calls) feedLocked() {
	if k.starvation.isThere() && !k.pending.full() {
		k.starvation.restart(time.Time{})
		k.watched.Store(false)
	}
}

// replyDue returns when the reader has to ask replyOverdue; zero: never, as things stand. rests
// says that the Heartbeat rests: the server works on one request at a time, and answers no ping
// meanwhile. Only the reader calls it, and only when it waits for the socket or for room.
func (k *calls) replyDue() (due time.Time, rests bool) {
	if !k.watched.Load() {
		return time.Time{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	since, timeout := k.dateOwedLocked()
	if timeout == 0 {
		return time.Time{}, false
	}
	return k.replies.Due(since.Add(timeout)), k.correlator == nil && k.replyTimeout > 0
}

// dateOwedLocked dates the oldest request whose reply is owed, if it has no time yet, and returns since
// when that is owed, and for how long it may be; 0: none is.
func (k *calls) dateOwedLocked() (since time.Time, timeout time.Duration) {
	switch {
	case k.over != nil || k.pending.outstanding() == 0:
		return time.Time{}, 0
	case k.replyTimeout == 0:
		if !k.starvation.isThere() {
			return time.Time{}, 0
		}
		return k.starvation.since, starvedTime
	}
	if since = k.pending.oldest(); since.IsZero() {
		since = k.replies.At(time.Now())
		k.pending.owe(nil, since)
	}
	return since, k.replyTimeout
}

// replyOverdue returns ErrReplyTimeout if a reply is overdue at now, after a wait that was to
// end at due.
func (k *calls) replyOverdue(now, due time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	since, timeout := k.dateOwedLocked()
	if timeout > 0 && k.replies.Check(now, due, since.Add(timeout), timeout) {
		return ErrReplyTimeout
	}
	return nil
}

// retract takes back a call of which nothing was written, the last one entered.
func (k *calls) retract(c *call) {
	k.mu.Lock()
	k.pending.retract(c.id)
	if !c.ended {
		k.leftLocked(c)
	}
	if k.replyTimeout > 0 && k.pending.outstanding() == 0 {
		k.reads.ReadBy(time.Now()) // the reader may have seen this one, and have put the Heartbeat to rest
	}
	k.feedLocked()
	unread := k.takeBackLocked(c) // the server may have answered what it was not asked
	k.roomLocked()
	k.mu.Unlock()
	k.inbox.replyRead(unread)
}

// An arrival is a message that may be a reply.
type arrival struct {
	id    uint64
	size  int // of the message
	reply []byte
	more  bool // others to the same request follow
}

// A fate is what became of an arrival.
type fate uint8

const (
	notReply  fate = iota
	lateReply      // no call waits for it
	taken
	needsRoom // it is for a series, and has to wait for room in the Inbox
)

// A replyRoom is the reader's way to room in the Inbox, for replies that are read one by one.
type replyRoom interface {
	// hasRoom reports whether there is room for a reply of that size.
	hasRoom(size int) bool

	// awaitRoom waits for it, while the reply is wanted. After an error there must be no other
	// message, but this one is taken.
	awaitRoom(size int, wanted func() bool) error

	// stored says that such a reply was.
	stored(size int)
}

// answer routes a message. isReply is false for what is no reply. An error ends the connection.
func (k *calls) answer(msg []byte, room replyRoom) (isReply bool, err error) {
	if k.isPush != nil && k.isPush(msg) {
		return false, nil
	}
	id, reply := uint64(0), msg
	if k.correlator != nil {
		var ok bool
		if id, reply, ok = k.correlator.SplitReply(msg); !ok {
			return false, nil
		}
	}
	a := &arrival{id: id, size: len(msg), reply: reply, more: k.more != nil && k.more(reply)}
	k.mu.Lock()
	fate := k.takeLocked(a, room, false)
	k.mu.Unlock()
	if fate == needsRoom {
		err = room.awaitRoom(len(a.reply), func() bool { return k.awaitsSeries(id) })
		k.mu.Lock()
		fate = k.takeLocked(a, room, true) // its request may have been given up meanwhile
		k.mu.Unlock()
	}
	if fate == lateReply {
		k.trace.lateReply(a.reply) // without the lock
	}
	return fate != notReply, err
}

// takeLocked brings a reply to the call with its id. admitted says that it has waited for room.
func (k *calls) takeLocked(a *arrival, room replyRoom, admitted bool) fate {
	if k.streams > 0 && !admitted {
		if c, _ := k.pending.find(a.id); c != nil && c.series != nil && !room.hasRoom(len(a.reply)) {
			return needsRoom
		}
	}
	c, ok := k.findLocked(a)
	if !ok {
		return notReply
	}
	k.count.received(1, a.size)
	k.replies.Reply()
	switch {
	case c == nil:
		k.count.lateReplies.Add(1)
	case c.series != nil:
		k.storeLocked(c, a)
		room.stored(len(a.reply))
	default:
		k.addReplyLocked(c, a)
	}
	if a.more {
		k.continuesLocked(c, a.id)
	} else {
		k.answers++
		k.feedLocked()
		k.roomLocked()
	}
	if c == nil {
		return lateReply
	}
	return taken
}

// findLocked finds the call of a reply. Unless others follow, its place is free.
func (k *calls) findLocked(a *arrival) (c *call, ok bool) {
	if a.more {
		return k.pending.find(a.id)
	}
	return k.pending.match(a.id)
}

// addReplyLocked adds a reply to what Call returns of c, which has ended if there is none to follow.
func (k *calls) addReplyLocked(c *call, a *arrival) {
	c.count()
	switch {
	case c.replies == 1:
		c.reply = make([]byte, len(a.reply))
		copy(c.reply, a.reply)
	case len(a.reply) <= k.maxSum-len(c.reply):
		c.reply = append(c.reply, a.reply...)
	default:
		c.reply = nil
		if a.more {
			k.pending.abandon(c.id)
		}
		k.endLocked(c, nil, errRepliesTooLarge)
		return
	}
	if !a.more {
		k.endLocked(c, c.reply, nil)
	}
}

// continuesLocked gives the request with that id, which is c's or was abandoned, all the time for
// its next reply.
func (k *calls) continuesLocked(c *call, id uint64) {
	if c != nil && c.ended {
		c = nil // there were too many
	}
	switch {
	case k.replyTimeout > 0 && k.correlator == nil:
		k.pending.renew(id, c, time.Time{})
	case k.replyTimeout > 0:
		k.pending.renew(id, c, k.replies.At(time.Now()))
	case k.pending.full():
		k.starvation.fill(moment{k.replies.At(time.Now()), k.epoch})
		k.starvedAgainLocked()
	}
}

func (k *calls) endLocked(c *call, reply []byte, err error) {
	c.end(reply, err)
	k.leftLocked(c)
}

// leftLocked notes that c is no longer waited for.
func (k *calls) leftLocked(c *call) {
	k.live--
	if c.series != nil {
		k.streams--
	}
	if k.live == 0 && k.drained != nil {
		close(k.drained)
		k.drained = nil
	}
}

// roomLocked wakes one caller that waits for room, if there is some.
func (k *calls) roomLocked() {
	if k.waiting == 0 || k.over == nil && k.pending.full() {
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
	began := k.epoch
	for k.over == nil && k.pending.full() {
		if k.room == nil {
			k.room = make(chan struct{}, 1)
		}
		k.waiting++
		if k.roomFailed == nil {
			k.roomFailed = &roomFailure{done: make(chan struct{}), epoch: began}
		}
		room, failed := k.room, k.roomFailed
		failed.join(began)
		k.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-failed.done:
			if began <= failed.until {
				err = failed.err
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
		k.mu.Lock()
		if k.waiting--; k.waiting == 0 {
			k.roomFailed = nil // the next one begins to wait anew
		}
		if err != nil {
			return err
		}
	}
	k.roomLocked() // the next one may find some, too
	if k.over == ErrClosed {
		return ErrClosed
	}
	return nil
}

// abandon ends c because its caller gives up, unless it has ended.
func (k *calls) abandon(c *call) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.ended {
		return false
	}
	c.ended = true
	k.pending.abandon(c.id)
	k.leftLocked(c)
	k.starveLocked()
	k.roomLocked()
	return true
}

// stall is called by a reader that waits for room in the Inbox: when it begins to, and then
// stallTicks times in stallTime. If no one has received in all that time, those calls end
// that have waited as long, since their replies may come after what waits.
func (k *calls) stall(received bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epoch++
	if !received {
		since := k.epoch - stallTicks - 1
		k.failRoomLocked(since, ErrInboxFull)
		k.endWhereLocked(func(c *call) bool { return c.epoch <= since && !c.isRead() }, ErrInboxFull)
	}
	if k.watched.Load() {
		k.replies.Stop(time.Now())
	}
}

// stallOver is called by a reader when it has room in the Inbox, and goes on.
func (k *calls) stallOver() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.replies.Go(time.Now())
}

// lose ends the calls whose requests the outbox has lost: those in batches after written.
func (k *calls) lose(written uint64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = err // also for replies: the peer's last words are not to be cut short by one that is overdue
	k.endWhereLocked(func(c *call) bool { return c.ticket.batch > written }, err)
}

// close ends all calls, for Close.
func (k *calls) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = ErrClosed // no one is to wait for room
	k.failLocked(k.epoch, ErrClosed)
}

// notePending notes whether calls wait for a connection that ends. It comes before anybody ends them.
func (k *calls) notePending() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hadPending = k.live > 0
}

// end ends all calls with the connection, and reports whether it owed them replies, and whether
// it has answered any request. Those who wait for room may find it on the next.
func (k *calls) end(err error) (hadPending, answered bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = err
	k.roomLocked()
	k.roomFailed = nil
	k.failLocked(k.epoch, err)
	return k.hadPending, k.answers > 0
}

// failLocked ends the calls that wait since the given epoch, and the waits for room.
func (k *calls) failLocked(epoch int, err error) {
	k.failRoomLocked(epoch, err)
	k.endWhereLocked(func(c *call) bool { return c.epoch <= epoch }, err)
}

// failRoomLocked ends the waits for room since the given epoch.
func (k *calls) failRoomLocked(epoch int, err error) {
	if f := k.roomFailed; f != nil && f.epoch <= epoch {
		k.roomFailed = nil
		f.end(epoch, err)
	}
}

// endWhereLocked ends the calls of which which says so. Their places are kept.
func (k *calls) endWhereLocked(which func(c *call) bool, err error) {
	k.pending.each(func(c *call) {
		if which(c) {
			k.pending.abandon(c.id)
			k.endLocked(c, nil, err)
		}
	})
	k.starveLocked()
	k.roomLocked()
}

// whenDrained returns a channel that is closed when no call waits.
func (k *calls) whenDrained() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	drained := make(chan struct{})
	if k.live == 0 {
		close(drained)
	} else {
		k.drained = drained
	}
	return drained
}

// recycle takes back c, of which no one else knows any more.
func (k *calls) recycle(c *call) {
	k.mu.Lock()
	k.recycleLocked(c)
	k.mu.Unlock()
}

func (k *calls) recycleLocked(c *call) {
	if len(c.signal) > 0 {
		<-c.signal // its context won the select against this
	}
	k.idle.keepCall(c)
}
