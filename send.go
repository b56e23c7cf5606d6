package tcpclient

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/batching"
	"github.com/seed-d0aa0aa7/tcpclient/internal/liveness"
	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// errOver is what an outbox says to a message that it did not take because its connection
// has ended. The Client knows what comes next.
var errOver = errors.New("connection over")

// errHeldUp is the loss that Close reports when it cannot look.
var errHeldUp = errors.New("a WriteFrame has not returned, what was not flushed before it is lost: it must not block")

// A phase is how far the writing side of a connection is in its life.
type phase uint8

const (
	phaseOpen      phase = iota // takes messages
	phaseSealed                 // takes only pings and answers; writes what it took
	phaseFinishing              // writes what it took, then FIN
	phaseDead                   // writes nothing, and has told all that waited
)

// A writer is who hands batches to the network. There is one at a time.
type writer uint8

const (
	writerNone   writer = iota // there is nothing to write that must be written now
	writerInline               // the goroutine of a caller, which waits for the network with a large message only
	writerHelper               // the outbox's own, which waits
)

// A finState is what became of our FIN.
type finState int32

const (
	finPending     finState = iota
	finBegun                // it may have been sent
	finSent                 // or the connection was dead before
	finUnsupported          // there is no half of this connection to close
)

const (
	// maxControl is how many bytes of pings and answers are kept for a peer that does not
	// read them.
	maxControl = 16 << 10

	// answerTime is how long the reader waits at the end for the helper to hand over answers to
	// pings, and alerts of TLS. The helper has only to come by a processor.
	answerTime = 100 * time.Millisecond

	// minLent is the size of messages that are written from the caller's memory, if the caller
	// can write.
	minLent = 16 << 10

	// lentWait is how long the caller waits for the network to take more of it. A peer that is
	// slower than that is not kept waiting by a copy of the rest.
	lentWait = 2 * time.Millisecond
)

// A ticket is what a caller has handed in at an outbox, and asks for the fate of: a frame, or
// with flush all frames up to the end of a batch.
type ticket struct {
	batch uint64 // its number
	start int    // where the frame begins in it
	flush bool
}

// An outbox is the writing side of one connection: group commit.
//
// Messages are framed into the open batch under a lock that is never held across I/O.
// Who needs them written, and finds no writer, becomes the writer: it may yield once, so that
// others may join, makes the open batch the flight, and hands the network what that takes at
// once, or of a large message of its own while it takes some. What is left, or has joined
// meanwhile, is for the helper: a goroutine that ends when there is nothing to do. The others
// wait for their batch. A call waits for its reply instead, and calls.lose ends it if its request
// is lost.
type outbox struct {
	framing   framing
	limit     int // bytes in the open batch that make the next message wait
	transport transport
	wire      *wire.Conn
	calls     *calls // whose requests go out here
	count     *counters
	ended     wire.Latch     // closed when the phase is dead
	running   sync.WaitGroup // the helper, and the timer while it is set

	helper func() // help, made once

	mu             sync.Mutex // guards following, and what is in batches
	phase          phase
	writer         writer
	flushRequested bool          // the open batch is to be written
	fin            atomic.Int32  // a finState; read without the lock
	finishing      uint64        // in phaseFinishing: number of the last batch with messages
	finished       chan struct{} // made by finish, and closed when FIN was sent, or will not be
	batches        batches
	loss           unreported
	control        controlState
	timer          flushTimer
	idleWaiters    waitList
	marked         *scratch // nil without a Correlator
}

// newOutbox returns the writing side of a connection. loss is that of the one before, if it
// was not reported.
func newOutbox(c *config, f framing, w *wire.Conn, t transport, calls *calls, count *counters, loss error) *outbox {
	o := &outbox{
		framing:   f,
		limit:     c.writeBuffer,
		transport: t,
		wire:      w,
		calls:     calls,
		count:     count,
		batches:   batches{number: 1, open: new(batch)},
		loss:      unreported{err: loss},
		timer:     flushTimer{delay: c.flushDelay},
	}
	o.helper = o.help
	if calls.correlator != nil {
		o.marked = new(scratch)
	}
	return o
}

// write frames msg as soon as there is room for it.
func (o *outbox) write(ctx context.Context, msg []byte) (unsent bool, err error) {
	if len(msg) >= o.limit { // else it costs less to gather more
		canceled := ctx.Done()
		if _, to, err := o.lend(ctx, msg); err != nil {
			return true, err
		} else if to != nil {
			o.batches.open.unawaited++
			o.writeLentLocked(to, canceled)
			return false, nil
		}
	}
	if _, err := o.enter(ctx, msg); err != nil {
		return true, err
	}
	o.batches.open.unawaited++
	if o.timer.delay > 0 && !o.timer.set {
		o.timer.start(o.flushDue)
		o.running.Add(1)
	}
	o.mu.Unlock()
	return false, nil
}

// join frames msg if that can be done at once. If writes is true the caller is to write, and
// holds the lock. Batch 0 says that nothing was done: msg is too large or for another Framer,
// there is no room, or the connection has an end or a loss to report.
func (o *outbox) join(msg []byte) (t ticket, writes bool) {
	o.mu.Lock()
	if !o.fitsLocked(msg) {
		o.mu.Unlock()
		return ticket{}, false
	}
	t = o.appendLocked(msg)
	if o.canWriteLocked() {
		return t, true
	}
	o.requestFlushLocked()
	o.mu.Unlock()
	return t, false
}

// fitsLocked reports whether msg can be framed at once, by appendLengthPrefixed.
func (o *outbox) fitsLocked(msg []byte) bool {
	return o.framing.fits(msg) && len(o.batches.open.bytes) < o.limit && o.phase == phaseOpen && o.loss.err == nil
}

// send frames msg and returns when it was handed over.
func (o *outbox) send(ctx context.Context, msg []byte) (unsent bool, err error) {
	canceled := ctx.Done() // the writer calls no code of the user
	t, to, err := o.lend(ctx, msg)
	switch {
	case err != nil:
		return true, err
	case to != nil && o.writeLentLocked(to, canceled):
		return false, nil
	case to != nil:
		return o.await(ctx, t)
	}
	if t, err = o.enter(ctx, msg); err != nil {
		return true, err
	}
	return o.flushLocked(ctx, t)
}

// lend frames msg as the last of the open batch, in the memory of the caller, who is to write that.
// Then the lock is held. to is nil if msg is too small for that, the Framer changes or ends it, another
// writes, or the transport does not have it: with TLS the records are a copy anyway.
func (o *outbox) lend(ctx context.Context, msg []byte) (t ticket, to lender, err error) {
	if len(msg) < minLent {
		return ticket{}, nil, nil
	}
	to, ok := o.transport.(lender)
	f := asHeaded(o.framing.framer)
	if !ok || f == nil {
		return ticket{}, nil, nil
	}
	if err := o.lockRoom(ctx); err != nil {
		return ticket{}, nil, err
	}
	lent := false
	defer func() {
		if !lent {
			o.mu.Unlock() // also in a panic of a Size
		}
	}()
	if !o.canWriteLocked() {
		return ticket{}, nil, nil
	}
	open := o.batches.open
	start, err := open.lend(f, msg)
	if err != nil {
		return ticket{}, nil, &permanentError{err}
	}
	lent = true
	open.frames++
	return ticket{batch: o.batches.number, start: start}, to, nil
}

// appendLocked frames msg, which fits.
func (o *outbox) appendLocked(msg []byte) ticket {
	open := o.batches.open
	open.frames++
	return ticket{batch: o.batches.number, start: open.appendLengthPrefixed(msg)}
}

// enter frames msg as soon as there is room for it. The lock is held then; if enter fails, it
// is not.
func (o *outbox) enter(ctx context.Context, msg []byte) (t ticket, err error) {
	o.mu.Lock()
	if o.fitsLocked(msg) {
		return o.appendLocked(msg), nil
	}
	o.mu.Unlock()
	return o.enterSlowly(ctx, msg)
}

// enterSlowly is enter for what may have to wait, or does not go in at all, or runs code of
// the user.
func (o *outbox) enterSlowly(ctx context.Context, msg []byte) (t ticket, err error) {
	if err := o.lockRoom(ctx); err != nil {
		return ticket{}, err
	}
	entered := false
	defer func() {
		if !entered {
			o.mu.Unlock() // also in a panic of the Framer
		}
	}()
	t, err = o.frameLocked(msg)
	entered = err == nil
	return t, err
}

// lockRoom takes the lock when there is room for a message. While the open batch is full it
// flushes that first, and reports its fate; then the lock is not held.
func (o *outbox) lockRoom(ctx context.Context) error {
	for {
		o.mu.Lock()
		if err := o.overLocked(); err != nil {
			o.mu.Unlock()
			return err
		}
		if o.batches.open.size() < o.limit {
			return nil
		}
		if _, err := o.flushLocked(ctx, ticket{batch: o.batches.number, flush: true}); err != nil {
			return err
		}
	}
}

// frameLocked puts a frame into the open batch.
func (o *outbox) frameLocked(msg []byte) (ticket, error) {
	open := o.batches.open
	start, err := o.framing.write(&open.frameBuffer, msg, o.limit)
	if err == nil {
		open.frames++
	}
	return ticket{batch: o.batches.number, start: start}, err
}

// flush returns when all that was framed before was handed over.
func (o *outbox) flush(ctx context.Context) error {
	o.mu.Lock()
	if err := o.overLocked(); err != nil {
		o.mu.Unlock()
		return err
	}
	_, err := o.flushLocked(ctx, ticket{batch: o.batches.last(), flush: true})
	return err
}

// overLocked returns nil while messages are taken, the loss to the first who asks after
// frames were lost, and errOver then.
func (o *outbox) overLocked() error {
	switch {
	case o.loss.err != nil:
		return o.loss.take()
	case o.phase != phaseOpen:
		return errOver
	}
	return nil
}

// flushLocked has the batch of t written, and returns the fate of t. It releases the lock.
func (o *outbox) flushLocked(ctx context.Context, t ticket) (unsent bool, err error) {
	if o.batches.written.Load() >= t.batch {
		o.mu.Unlock()
		return false, nil
	}
	if t.flush {
		o.batches.numbered(t.batch).flushing++ // also before it waits it is the one to report a loss
	}
	isOpen := t.batch == o.batches.number
	if isOpen && o.canWriteLocked() {
		if o.writeInlineLocked() {
			return false, nil
		}
		return o.await(ctx, t)
	}
	if isOpen {
		o.requestFlushLocked()
	}
	o.mu.Unlock()
	runtime.Gosched() // as in Client.Send
	return o.await(ctx, t)
}

// await waits until the fate of t is known, or ctx is done. Then a frame is still sent, and if
// it is lost that is reported like the loss of a Write's.
func (o *outbox) await(ctx context.Context, t ticket) (unsent bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.isFateKnownLocked(t) {
		return o.fateLocked(t)
	}
	w := o.idleWaiters.take()
	defer o.idleWaiters.put(w) // before the lock is released
	o.batches.numbered(t.batch).waiters.add(w)
	for {
		o.mu.Unlock()
		select {
		case <-w.signal:
		case <-ctx.Done():
		}
		o.mu.Lock()
		switch {
		case o.isFateKnownLocked(t):
			return o.fateLocked(t)
		case ctx.Err() != nil:
			o.batches.numbered(t.batch).abandon(w, t)
			return false, ctx.Err()
		}
	}
}

// isFateKnownLocked reports whether the batch of t was written or lost.
func (o *outbox) isFateKnownLocked(t ticket) bool {
	return o.phase == phaseDead || o.batches.written.Load() >= t.batch
}

// fateLocked returns what has become of t.
func (o *outbox) fateLocked(t ticket) (unsent bool, err error) {
	switch {
	case o.batches.written.Load() >= t.batch:
		return false, nil
	case t.flush:
		return false, o.batches.numbered(t.batch).takeLoss(o.wire.Cause())
	}
	return o.batches.unsent(t), o.wire.Cause()
}

// end is called when the wire is dead. It returns when no goroutine of the outbox is left.
func (o *outbox) end() {
	o.mu.Lock()
	if o.writer == writerNone {
		o.failLocked()
	}
	o.mu.Unlock()
	<-o.ended.Wait()

	o.mu.Lock()
	if o.timer.stop() { // and it is not set again: no message is taken any more
		o.running.Done()
	}
	o.mu.Unlock()
	o.running.Wait()
}

// seal makes the outbox refuse further messages, but for pings and their answers. What it
// took is still written.
func (o *outbox) seal() {
	if o.lockToEnd() {
		defer o.mu.Unlock()
		o.phase = max(o.phase, phaseSealed)
	}
}

// lockToEnd takes the lock for who ends the connection, unless that dies while code of the user frames
// a ping or an answer, under the lock, and does not return.
func (o *outbox) lockToEnd() bool {
	for !o.control.tryFraming() {
		select {
		case <-time.After(closePoll):
		case <-o.wire.Dead():
			return false
		}
	}
	defer o.control.framing.Unlock()
	o.mu.Lock()
	return true
}

// finish has all written that was taken, and then FIN. What it returns is closed after that.
// What the network takes at once the caller writes: on a busy machine the helper may come late.
// finished is nil if the connection has died, and the lock was not to be had.
func (o *outbox) finish() (finished <-chan struct{}) {
	if !o.lockToEnd() {
		return nil
	}
	if o.finished != nil {
		defer o.mu.Unlock()
		return o.finished
	}
	o.finished = make(chan struct{})
	finished = o.finished
	if o.phase == phaseDead {
		defer o.mu.Unlock()
		close(o.finished)
		return finished
	}
	o.phase = phaseFinishing
	o.finishing = o.batches.last()
	if o.canWriteLocked() {
		o.finishInlineLocked()
	} else {
		o.requestFlushLocked()
	}
	o.mu.Unlock()
	return finished
}

// isFlushed reports whether all that was taken has been handed over.
func (o *outbox) isFlushed() bool {
	if !o.lockToEnd() {
		return false
	}
	defer o.mu.Unlock()
	return o.batches.flight == nil && o.batches.open.frames == 0
}

// finState returns what has become of our FIN. It takes no lock: code of the user may have that.
func (o *outbox) finState() finState { return finState(o.fin.Load()) }

// expectsFIN reports whether a FIN of the peer is no surprise: it may have seen ours, or there is no
// half of the connection to close.
func (o *outbox) expectsFIN() bool {
	return o.finState() != finPending
}

// hasLost reports, after end, whether messages that were taken were not handed over.
func (o *outbox) hasLost() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.batches.messages() > 0
}

// takeLoss returns, once, the end that took frames with it, if it was not reported.
func (o *outbox) takeLoss() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loss.take()
}

// takeLossNow is takeLoss while the reader is held up in code of the user and end was not
// called: whatever is still here after Kill is lost. If that code has the lock, nobody knows what is here.
func (o *outbox) takeLossNow() error {
	if !o.lockToEnd() {
		return errHeldUp
	}
	defer o.mu.Unlock()
	if o.writer == writerNone {
		o.failLocked()
	} else if lost := o.batches.lost(o.wire.Cause()); lost > 0 {
		o.loss.reported = true
		return &LossError{Messages: lost, Err: o.wire.Cause()}
	}
	return o.loss.take()
}

// writeControl puts a ping or an answer after what was framed before it, past the limit of
// the batch, and has that written. It never waits: what a peer that does not read would pile up
// here is dropped, and taken is false. The goroutine that reads calls it. That may write itself,
// except through TLS, where it may be inside a handshake of its own.
func (o *outbox) writeControl(msg []byte) (taken bool, err error) {
	if taken, err = o.enterControl(msg); !taken {
		return false, err
	}
	if o.writer == writerNone && o.transport.readerCanTry() {
		o.writer = writerInline
		o.trySealedLocked()
		o.stepDownLocked()
	} else {
		o.requestFlushLocked()
	}
	o.mu.Unlock()
	return true, nil
}

// enterControl frames a ping or an answer, unless such are no longer taken. The lock is held
// then; if it has not entered, it is not.
func (o *outbox) enterControl(msg []byte) (entered bool, err error) {
	o.control.framing.Lock()
	defer o.control.framing.Unlock()
	o.mu.Lock()
	defer func() {
		if !entered {
			o.mu.Unlock() // also in a panic of the Framer
		}
	}()
	if !o.takesControlLocked() {
		return false, nil
	}
	t, err := o.frameLocked(msg)
	if err != nil {
		return false, err
	}
	o.batches.open.addControl(t.start)
	o.control.left.Add(1)
	return true, nil
}

// awaitLastWords returns when the pings and answers that are here, and what the reader has made
// TLS send, were handed over, or soon, if the peer does not take them. The reader calls it before the end of
// the connection, which would take with it the answer to a ping that came before the peer's
// FIN, or the alert that says what was wrong. It takes no lock: code of the user may have that.
func (o *outbox) awaitLastWords() {
	if !o.hasLastWords() {
		return
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for range answerTime / time.Millisecond { // looks, not time: this process may not run meanwhile
		select {
		case <-look.C:
		case <-o.ended.Wait():
			return
		}
		if !o.hasLastWords() {
			return
		}
	}
}

// hasLastWords is false, too, if a Write has failed that waits for what the reader has to say.
func (o *outbox) hasLastWords() bool {
	return (o.control.left.Load() > 0 || o.transport.readerOwes()) && !o.wire.AwaitsReader()
}

// takesControlLocked reports whether pings and answers are written: until all messages are, and
// FIN comes next, and not without bound.
func (o *outbox) takesControlLocked() bool {
	if o.phase >= phaseFinishing && o.batches.written.Load() >= o.finishing || o.phase == phaseDead {
		return false
	}
	return o.batches.open.controls <= maxControl
}

// outbound says how far the network is with what we send.
func (o *outbox) outbound() liveness.Outbound {
	unacknowledged := o.wire.Unacknowledged()
	o.mu.Lock()
	defer o.mu.Unlock()
	acked := o.wire.Handed() - int64(unacknowledged)
	return liveness.Outbound{
		Acked:  acked,
		Queued: unacknowledged > 0 || o.writer != writerNone || !o.transport.readerCanTry(), // a ping waits for the helper
		Behind: o.control.left.Load() > 0 || acked < o.control.end,
		Handed: o.wire.HandedAt(),
	}
}

// flushDue has the open batch written for the timer.
func (o *outbox) flushDue() {
	defer o.running.Done()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer.set = false
	if o.batches.open.frames > 0 && o.phase != phaseDead {
		o.requestFlushLocked()
	}
}

// A flushTimer is that of FlushDelay.
type flushTimer struct {
	delay time.Duration // 0: there are only explicit flushes
	timer *time.Timer
	set   bool // f was not called yet
}

// start sets the timer to call f.
func (t *flushTimer) start(f func()) {
	t.set = true
	if t.timer == nil {
		t.timer = time.AfterFunc(t.delay, f)
		return
	}
	t.timer.Reset(t.delay)
}

// stop reports whether it has kept the timer from calling f.
func (t *flushTimer) stop() bool {
	if !t.set || !t.timer.Stop() {
		return false
	}
	t.set = false
	return true
}

// An unreported is a loss of frames that no one who waits for them reports. The next call does.
type unreported struct {
	err      error // a LossError; nil: there is none
	reported bool  // Close has reported all there may be
}

// add adds messages that were lost for that reason.
func (u *unreported) add(messages int, reason error) {
	var before *LossError
	if errors.As(u.err, &before) {
		messages += before.Messages
	}
	u.err = &LossError{Messages: messages, Err: reason}
}

// take returns the loss, once.
func (u *unreported) take() error {
	err := u.err
	u.err = nil
	return err
}

// batches are the two batches of an outbox, guarded by its lock: one takes frames while the
// other one is written.
type batches struct {
	written  atomic.Uint64 // number of the last batch that was handed over
	number   uint64        // of the open batch; the flight has the one before
	open     *batch
	flight   *batch // nil: none
	spare    *batch // was written last; nil during a flight, and if it is the open one again
	failedAt int64  // how far the stream was handed over when the connection died
	rule     batching.Rule
}

// numbered returns the batch of that number, which was not handed over.
func (b *batches) numbered(number uint64) *batch {
	if number == b.number {
		return b.open
	}
	return b.flight
}

// last returns the number of the last batch that has frames.
func (b *batches) last() uint64 {
	if b.open.frames == 0 {
		return b.number - 1
	}
	return b.number
}

// seal makes the open batch the flight.
func (b *batches) seal() {
	b.number++
	b.rule.Record(b.open.frames)
	b.flight, b.open, b.spare = b.open, b.spare, nil
	b.flight.setNotBegun()
	if b.open == nil {
		b.open = newBatches.Get().(*batch)
	}
}

// complete ends the flight, which was handed over.
func (b *batches) complete(limit int) {
	b.written.Store(b.number - 1)
	b.flight.waiters.wake()
	b.flight.reset(limit)
	if b.open.isNew() { // as nearly always, and an idle outbox does without a second one
		newBatches.Put(b.open)
		b.open, b.flight = b.flight, nil
		return
	}
	b.flight, b.spare = nil, b.flight
}

// fail keeps what is here as it is, for those who ask: the connection is dead, of whose stream
// handed bytes were handed over.
func (b *batches) fail(handed int64) {
	b.failedAt = handed
	b.open.waiters.wake()
	if b.flight != nil {
		b.flight.waiters.wake()
	}
}

// unsent reports, after fail, whether the frame of t, whose batch was not handed over, is certain
// not to have been sent.
func (b *batches) unsent(t ticket) bool {
	return t.batch == b.number || b.flight.unsent(t.start, b.failedAt)
}

// lost returns how many messages are here that a loss for that reason has to report.
func (b *batches) lost(reason error) int {
	n := b.open.lost(reason)
	if b.flight != nil {
		n += b.flight.lost(reason)
	}
	return n
}

// messages returns how many frames of the application are here.
func (b *batches) messages() int {
	n := b.open.messages()
	if b.flight != nil {
		n += b.flight.messages()
	}
	return n
}

// A controlState is how far pings and answers are.
type controlState struct {
	framing sync.Mutex   // held while one is framed, by code of the user; taken before outbox.mu
	left    atomic.Int32 // of them in batches that were not handed over
	end     int64        // where the last of the others ends in the stream of the connection; guarded by outbox.mu
}

// tryFraming takes framing, unless who has it keeps it for longer than others take to frame.
func (c *controlState) tryFraming() bool {
	for range 100 {
		if c.framing.TryLock() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// wrote records that n were handed over, and where the last ends.
func (c *controlState) wrote(n int, end int64) {
	c.end = end
	c.left.Add(int32(-n))
}
