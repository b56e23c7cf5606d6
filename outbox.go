package tcpclient

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// errOver is what an outbox says to a message that it did not take because its
// connection has ended. The Client knows what comes next.
var errOver = errors.New("connection over")

// errFull is what an outbox says to a call for which there is no room.
var errFull = errors.New("too many calls outstanding")

// An outbox is the writing side of one connection: group commit.
//
// Messages are framed into the open batch under a lock that is never held across I/O.
// Whoever needs them written and finds nobody leading becomes the leader: yields once,
// so that others may join, makes the open batch the flight and writes it in one call.
// The others wait for the result of their batch, or for their turn to lead the next. A call
// waits for its reply instead, and is ended by calls.lose if its request is lost.
//
// A leader is held no longer than the wire's Write blocks. When the wire kept
// something back, its drain goroutine inherits the leadership until that is written.
type outbox struct {
	framer Framer
	plain  uint64        // as in Conn
	limit  int           // bytes in the open batch that make the next message wait
	delay  time.Duration // FlushDelay; 0: only explicit flushes
	wire   *wire
	top    io.Writer // the wire, or TLS on it
	count  *counters
	calls  *calls        // whose requests go out here
	ended  chan struct{} // closed when the outbox is over and nobody leads
	landed atomic.Uint64 // the number of the last batch that was handed over

	mu      sync.Mutex    // guards following
	over    error         // why no further message is taken; set once
	last    bool          // FIN comes next: pings and their answers are not taken either
	failed  bool          // the wire is dead and everybody was told; ended is closed
	lost    error         // the end that took frames of finished Writes with it, if nobody was told
	told    bool          // Close has told of all that is here
	leading bool          // somebody is responsible for what has to be written
	vacant  chan struct{} // closed when nobody is any more; nil: nobody asks
	turns   int           // times that a caller became the leader
	number  uint64        // of the open batch; the flight before it has the one before
	wreck   *batch        // the flight that the wire took only in part, when it died
	reached int64         // where in the wire's stream that was
	alone   int           // flights in a row that carried one frame: yielding brings nothing
	wanted  bool          // the open batch is to be written though nobody waits for it
	open    *batch        // takes frames
	flight  *batch        // is being written; nil: none
	spare   *batch        // was written last; nil during a flight
	urgent  *batch        // pings and their answers: written first, waited for by nobody
	ahead   *batch        // the urgent batch that is being written, else empty
	urged   int64         // where the last urgent batch ends in the wire's stream
	timer   *time.Timer
	armed   bool // timer will call flushDue
	idle    *waiter
	marked  []byte // memory for requests with their ids
}

// A waiter is somebody who waits for a batch: for its fate, or, if it is a call's, only for the
// turn to lead.
type waiter struct {
	signal chan struct{} // one slot: look at turn, at done, and at the call whose waiter it is
	start  int           // where its own frame begins in the batch; flushing: none
	quiet  bool          // it is a call's: that its batch was written is no news
	next   *waiter
	batch  *batch

	// Guarded by outbox.mu.
	parked bool  // it waits for the signal
	turn   bool  // to lead
	done   bool  // with this result:
	err    error //
	unsent bool  //
	gone   bool  // nobody waits any more: it is recycled with the batch, or, if it is a call's, dropped
}

// wakeLocked makes the waiting goroutine look.
func (w *waiter) wakeLocked() {
	if w.parked {
		w.wake()
	}
}

// wake is wakeLocked for one that is parked for certain, as a call is.
func (w *waiter) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

const (
	// flushing is the start of a waiter without a frame of its own.
	flushing = -1

	// calling is the start of a leader that waits for a reply, and not for its batch.
	calling = -2

	// maxAlone is how many flights in a row may carry one frame before a leader no longer
	// yields for others to join. Once in retryShared turns it tries again.
	maxAlone    = 4
	retryShared = 16

	// maxUrgent is how many bytes of pings and answers are kept for a peer that does
	// not read them.
	maxUrgent = 16 << 10
)

// newOutbox returns the writing side of conn.
func newOutbox(d *Dialer, conn *Conn, count *counters) *outbox {
	o := &outbox{
		framer: conn.framer,
		plain:  conn.plain,
		limit:  d.writeBuffer(),
		delay:  d.FlushDelay,
		wire:   conn.wire,
		top:    conn.top,
		count:  count,
		calls:  conn.calls,
		ended:  make(chan struct{}),
		open:   new(batch),
		number: 1,
	}
	conn.wire.landed = o.drained
	return o
}

// write frames msg as soon as there is room for it.
func (o *outbox) write(ctx context.Context, msg []byte) (unsent bool, err error) {
	if _, err := o.enter(ctx, msg); err != nil {
		return true, err
	}
	o.open.kept++
	if o.delay > 0 {
		o.flushSoonLocked()
	}
	o.mu.Unlock()
	return false, nil
}

// join frames msg if that can be done at once, and returns the number of its batch and where in
// that the frame begins. If leads is true the caller is to lead, and holds the lock. Number 0 says
// that nothing was done: msg is too large or for another Framer, there is no room, or the
// connection has an end or a loss to tell of.
func (o *outbox) join(msg []byte) (number uint64, start int, leads bool) {
	o.mu.Lock()
	if !o.fitsLocked(msg) {
		o.mu.Unlock()
		return 0, 0, false
	}
	o.open.frames++
	number, start = o.number, o.open.prefixed(msg)
	if !o.leading {
		return number, start, true
	}
	o.mu.Unlock()
	return number, start, false
}

// fitsLocked reports whether msg can be framed at once, by prefixed.
func (o *outbox) fitsLocked(msg []byte) bool {
	return o.plain > 0 && uint64(len(msg)) <= o.plain && len(o.open.bytes) < o.limit && o.over == nil && o.lost == nil
}

// send frames msg and returns when it was handed over.
func (o *outbox) send(ctx context.Context, msg []byte) (unsent bool, err error) {
	start, err := o.enter(ctx, msg)
	if err != nil {
		return true, err
	}
	if !o.leading {
		return o.leadLocked(ctx, start)
	}
	number := o.number
	o.mu.Unlock()
	runtime.Gosched() // as in Client.Send
	return o.settle(ctx, number, start)
}

// enter frames msg as soon as there is room for it, and returns where it begins. The
// lock is held then; if enter fails, it is not.
func (o *outbox) enter(ctx context.Context, msg []byte) (start int, err error) {
	o.mu.Lock()
	if o.fitsLocked(msg) {
		o.open.frames++
		return o.open.prefixed(msg), nil
	}
	o.mu.Unlock()
	return o.enterSlowly(ctx, msg)
}

// enterSlowly is enter for what may have to wait, or does not go in at all, or runs code of
// the user.
func (o *outbox) enterSlowly(ctx context.Context, msg []byte) (start int, err error) {
	if err := o.lockRoom(ctx); err != nil {
		return 0, err
	}
	entered := false
	defer func() {
		if !entered {
			o.mu.Unlock()
		}
	}()
	start, err = o.frameLocked(o.open, msg)
	entered = err == nil
	return start, err
}

// lockRoom takes the lock when there is room for a message. While the open batch is full
// it flushes that first, and tells of its fate; then the lock is not held.
func (o *outbox) lockRoom(ctx context.Context) error {
	for {
		o.mu.Lock()
		if err := o.overLocked(); err != nil {
			o.mu.Unlock()
			return err
		}
		if o.open.size() < o.limit {
			return nil
		}
		if _, err := o.flushLocked(ctx, flushing); err != nil {
			return err
		}
	}
}

// frameLocked puts a frame into b and returns where it begins. If the framer refuses msg
// or panics, nothing of it stays.
func (o *outbox) frameLocked(b *batch, msg []byte) (int, error) {
	if o.plain > 0 {
		if uint64(len(msg)) > o.plain {
			return 0, &permanentError{&FrameTooLargeError{Size: uint64(len(msg)), Max: int(o.plain)}}
		}
		b.frames++
		return b.prefixed(msg), nil
	}
	return o.frameOtherLocked(b, msg)
}

// frameOtherLocked is frameLocked for what a Framer does.
func (o *outbox) frameOtherLocked(b *batch, msg []byte) (int, error) {
	start, framed := b.size(), false
	defer func() {
		if !framed {
			b.truncate(start)
		}
	}()
	if err := o.framer.WriteFrame(b.writer(min(minBatch, o.limit)), msg); err != nil {
		return 0, &permanentError{err}
	}
	framed = true
	b.frames++
	return start, nil
}

// flush returns when all that was framed before was handed over.
func (o *outbox) flush(ctx context.Context) error {
	o.mu.Lock()
	if err := o.overLocked(); err != nil {
		o.mu.Unlock()
		return err
	}
	_, err := o.flushLocked(ctx, flushing)
	return err
}

// overLocked returns nil while messages are taken, the loss to the first who asks after
// frames were lost, and errOver then.
func (o *outbox) overLocked() error {
	switch {
	case o.lost != nil:
		return o.lossLocked()
	case o.over != nil:
		return errOver
	}
	return nil
}

func (o *outbox) lossLocked() error {
	err := o.lost
	o.lost = nil
	return err
}

// flushLocked waits until the batch is written in which the caller's frame begins at
// start; a flushing caller waits for all there is. It releases the lock.
func (o *outbox) flushLocked(ctx context.Context, start int) (unsent bool, err error) {
	b := o.open
	if start == flushing && b.frames == 0 {
		b = o.flight
	}
	if b == nil {
		o.mu.Unlock()
		return false, nil
	}
	if !o.leading {
		return o.leadLocked(ctx, start)
	}
	w := o.waiterLocked(start)
	b.add(w)
	o.mu.Unlock()
	runtime.Gosched() // as in Client.Send
	return o.await(ctx, w)
}

// settle is what a send does whose batch, of that number, was not written when it looked.
func (o *outbox) settle(ctx context.Context, number uint64, start int) (unsent bool, err error) {
	o.mu.Lock()
	b := o.open
	switch {
	case o.landed.Load() >= number:
		o.mu.Unlock()
		return false, nil
	case o.failed:
		defer o.mu.Unlock()
		return o.unsentLocked(number, start), o.wire.reason()
	case number < o.number:
		b = o.flight
	case !o.leading:
		return o.leadLocked(ctx, start)
	}
	w := o.waiterLocked(start)
	b.add(w)
	o.mu.Unlock()
	return o.await(ctx, w)
}

// unsentLocked reports, of an outbox that has failed, whether the frame at start in the batch of
// that number, which has not landed, is certain not to have been sent.
func (o *outbox) unsentLocked(number uint64, start int) bool {
	return number == o.number || o.wreck.unsent(start, o.reached)
}

// await returns the result of w's batch, or leaves when ctx is done.
func (o *outbox) await(ctx context.Context, w *waiter) (unsent bool, err error) {
	for {
		o.mu.Lock()
		switch {
		case w.done:
			unsent, err = w.unsent, w.err
			o.recycleLocked(w)
			o.mu.Unlock()
			return unsent, err
		case ctx.Err() != nil:
			o.giveUpLocked(w)
			o.mu.Unlock()
			return false, ctx.Err()
		}
		turn := w.turn
		w.turn, w.parked = false, !turn
		o.mu.Unlock()
		if turn {
			o.lead()
			continue
		}
		select {
		case <-w.signal:
		case <-ctx.Done():
		}
	}
}

// giveUpLocked is leaveLocked for a frame of which its caller does not know what became of it:
// if it is lost, that is to be told like the loss of a Write's.
func (o *outbox) giveUpLocked(w *waiter) {
	if w.start != flushing {
		w.batch.kept++
	}
	o.leaveLocked(w)
}

// leaveLocked lets w go. What it waited for is written all the same: if w was to lead, a
// goroutine of the outbox does. Not the next who waits: where all are impatient that one might
// be gone, too, and the next, and nobody would ever write.
func (o *outbox) leaveLocked(w *waiter) {
	w.gone = true
	o.wanted = true
	if w.turn {
		w.turn = false
		o.wire.drains.Go(o.leadOn)
	}
}

// end is called when the wire is dead. It returns when the last leader has noticed.
func (o *outbox) end() {
	o.mu.Lock()
	if !o.leading {
		o.failLocked()
	}
	o.mu.Unlock()
	<-o.ended

	o.mu.Lock()
	defer o.mu.Unlock()
	if o.armed && o.timer.Stop() { // and nobody sets it again: no message is taken any more
		o.armed = false
		o.wire.drains.Done()
	}
}

// seal makes the outbox refuse further messages, but for pings and their answers. What it
// took is still written.
func (o *outbox) seal() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over == nil {
		o.over = ErrClosed
	}
}

// finish is flush after seal. It leaves losses for loss to tell.
func (o *outbox) finish(ctx context.Context) error {
	o.mu.Lock()
	if o.wire.reason() != nil {
		o.mu.Unlock()
		return nil
	}
	if _, err := o.flushLocked(ctx, flushing); err != nil {
		return err
	}
	select {
	case <-o.vacancy(): // pings and answers go out too, if they were framed
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// vacancy returns a channel that is closed when nobody leads any more: nobody else begins to.
func (o *outbox) vacancy() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = true
	if o.vacant == nil {
		o.vacant = make(chan struct{})
	}
	vacant := o.vacant
	if !o.leading {
		o.stepDownLocked()
	}
	return vacant
}

// unsettled is loss while the reader is held up in code of the user and end was not
// called: whatever is still here after kill is lost.
func (o *outbox) unsettled() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.leading {
		o.failLocked()
	} else if o.open.frames > 0 || o.flight != nil && o.flight.frames > 0 {
		o.told = true
		return &lossError{o.wire.reason()}
	}
	return o.lossLocked()
}

// loss returns, once, the end that took frames with it of which nobody was told.
func (o *outbox) loss() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lossLocked()
}

// urge writes msg ahead of all that waits, and never waits for room: what a peer that
// does not read would pile up here is dropped.
func (o *outbox) urge(msg []byte) error {
	o.mu.Lock()
	lead, err := o.enterUrgentLocked(msg)
	if lead {
		o.lead()
	}
	return err
}

// enterUrgentLocked frames msg into the urgent batch. It reports whether the caller is to
// lead. It releases the lock.
func (o *outbox) enterUrgentLocked(msg []byte) (lead bool, err error) {
	defer o.mu.Unlock()
	if o.urgent == nil {
		o.urgent, o.ahead = new(batch), new(batch)
	}
	if o.last || o.failed || o.urgent.size() > maxUrgent {
		return false, nil
	}
	if _, err := o.frameLocked(o.urgent, msg); err != nil {
		return false, err
	}
	lead = !o.leading
	o.leading = true
	return lead, nil
}

// outbound says how far the network is, of whose kernel buffer that many bytes are not
// acknowledged.
func (o *outbox) outbound(unacknowledged int) outbound {
	o.mu.Lock()
	defer o.mu.Unlock()
	handed, all := o.wire.progressed()
	acked := handed - int64(unacknowledged)
	waits := o.urgent != nil && o.urgent.size()+o.ahead.size() > 0
	return outbound{
		acked:  acked,
		queued: !all || unacknowledged > 0 || o.leading,
		behind: waits || acked < o.urged,
	}
}

// flushSoonLocked sets the timer of FlushDelay. An armed timer counts as a goroutine of
// the wire, which it may become.
func (o *outbox) flushSoonLocked() {
	switch {
	case o.armed:
		return
	case o.timer == nil:
		o.timer = time.AfterFunc(o.delay, o.flushDue)
	default:
		o.timer.Reset(o.delay)
	}
	o.armed = true
	o.wire.drains.Add(1)
}

// flushDue writes the open batch for the timer.
func (o *outbox) flushDue() {
	defer o.wire.drains.Done()
	o.mu.Lock()
	o.armed = false
	if o.leading || o.open.frames == 0 || o.wire.reason() != nil {
		o.wanted = o.open.frames > 0
		o.mu.Unlock()
		return
	}
	o.leading, o.wanted = true, true
	o.mu.Unlock()
	o.leadOn()
}

// waiterLocked returns a waiter for a frame that begins at start.
func (o *outbox) waiterLocked(start int) *waiter {
	w := o.idle
	if w == nil {
		w = &waiter{signal: make(chan struct{}, 1)}
	} else {
		o.idle = w.next
	}
	*w = waiter{signal: w.signal, start: start}
	return w
}

func (o *outbox) recycleLocked(w *waiter) {
	select {
	case <-w.signal: // its context won the select against this
	default:
	}
	w.next = o.idle
	o.idle = w
}
