package tcpclient

import (
	"errors"
	"runtime"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// This file is what a writer does: from the open batch to the network, and back to those who
// wait. See outbox.

// canWriteLocked reports whether the caller may become the writer, on its own goroutine.
func (o *outbox) canWriteLocked() bool {
	return o.writer == writerNone && o.transport.canTry()
}

// requestFlushLocked has the open batch written: by the writer there is, or by the helper.
func (o *outbox) requestFlushLocked() {
	o.flushRequested = true
	if o.writer == writerNone {
		o.helpLocked()
	}
}

// helpLocked starts the helper if no one writes.
func (o *outbox) helpLocked() {
	if o.writer == writerNone && o.phase != phaseDead {
		o.writer = writerHelper
		o.running.Add(1)
		go o.helper()
	}
}

// tlsAdded hands over what TLS has to send, on account of what it has read, if no one writes.
// The reader calls it from within TLS, with a lock of that, and so it waits for nothing: neither
// for the network, nor for code of the user that holds ours.
func (o *outbox) tlsAdded() {
	if !o.mu.TryLock() {
		o.running.Go(func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.helpLocked()
		})
		return
	}
	defer o.mu.Unlock()
	if !o.canWriteLocked() {
		o.helpLocked()
		return
	}
	o.writer = writerInline
	o.mu.Unlock()
	o.transport.tryFlush()
	o.mu.Lock()
	o.stepDownLocked()
}

// writeInlineLocked makes the caller the writer of the open batch, and reports whether all of
// that was handed over. What is left is for the helper. It releases the lock.
func (o *outbox) writeInlineLocked() (done bool) {
	o.writer = writerInline
	o.yieldLocked()
	done = o.trySealedLocked()
	o.stepDownLocked()
	o.mu.Unlock()
	return done
}

// yieldLocked lets others join the open batch, if the rule says so. The lock is released meanwhile.
func (o *outbox) yieldLocked() {
	if o.batches.rule.Next() {
		o.mu.Unlock()
		runtime.Gosched()
		o.mu.Lock()
	}
}

// writeLentLocked makes the caller the writer of the open batch, which ends with a message of its
// own, and reports whether all of that was handed over. What is left is for the helper. It releases
// the lock.
func (o *outbox) writeLentLocked(to lender, canceled <-chan struct{}) (done bool) {
	o.writer = writerInline
	b := o.sealLocked()
	o.mu.Unlock()
	done = to.writeLent(canceled, b)
	o.mu.Lock()
	if done {
		o.completeLocked()
	}
	o.stepDownLocked()
	o.mu.Unlock()
	return done
}

// trySealedLocked seals the open batch and hands over what the network takes of it at once. The
// lock is released meanwhile.
func (o *outbox) trySealedLocked() (done bool) {
	b := o.sealLocked()
	o.mu.Unlock()
	done = o.transport.tryWrite(b)
	o.mu.Lock()
	if done {
		o.completeLocked()
	}
	return done
}

// finishInlineLocked makes the caller the writer of the open batch, and of FIN if nothing else
// is left: the peer may hang up as soon as it has the last message, and our FIN should not come
// late. The lock is released meanwhile.
func (o *outbox) finishInlineLocked() {
	o.writer = writerInline
	done := o.batches.open.frames == 0 || o.trySealedLocked()
	if done && o.batches.open.frames == 0 && o.transport.readerCanTry() && !o.wire.IsDead() {
		o.closeWriteLocked() // else an answer to a ping has joined, or TLS has last words
	}
	o.stepDownLocked()
}

// stepDownLocked ends the work of an inline writer. What is left is for the helper.
func (o *outbox) stepDownLocked() {
	o.writer = writerNone
	switch {
	case o.wire.IsDead():
		o.failLocked()
	case o.hasWorkLocked():
		o.helpLocked()
	}
}

// hasWorkLocked reports whether there is something for the helper to do.
func (o *outbox) hasWorkLocked() bool {
	return o.batches.flight != nil || o.flushRequested && o.batches.open.frames > 0 ||
		o.transport.owed() || o.isFinishingLocked()
}

// isFinishingLocked reports whether FIN is to be sent when all is written.
func (o *outbox) isFinishingLocked() bool {
	return o.phase == phaseFinishing && o.finState() == finPending
}

// help is the helper: it writes until there is nothing to do, or the connection is dead.
func (o *outbox) help() {
	defer o.running.Done()
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.wire.IsDead() {
		switch {
		case o.batches.flight != nil:
			o.writeFlightLocked()
		case o.flushRequested && o.batches.open.frames > 0:
			o.yieldLocked()
			o.sealLocked()
		case o.transport.owed():
			o.mu.Unlock()
			o.transport.flush()
			o.mu.Lock()
		case o.isFinishingLocked():
			o.closeWriteLocked()
		default:
			o.writer = writerNone
			return
		}
	}
	o.failLocked()
}

// writeFlightLocked hands over the flight, and waits for the network. The lock is released
// meanwhile.
func (o *outbox) writeFlightLocked() {
	b := o.batches.flight
	o.mu.Unlock()
	done := o.transport.write(b)
	o.mu.Lock()
	if done {
		o.completeLocked()
	}
}

// closeWriteLocked sends FIN. Where there is no half-close, it is for who has asked for it to close
// the connection. A FIN that is only late may have been sent. The lock is released meanwhile.
func (o *outbox) closeWriteLocked() {
	o.fin.Store(int32(finBegun))
	o.mu.Unlock()
	err := o.transport.closeWrite()
	o.mu.Lock()
	o.fin.Store(int32(finSent))
	if err != nil && !errors.Is(err, wire.ErrWriteTimeout) && !o.wire.IsDead() {
		o.fin.Store(int32(finUnsupported))
	}
	close(o.finished)
}

// sealLocked makes the open batch the flight.
func (o *outbox) sealLocked() *batch {
	o.flushRequested = false
	o.batches.seal()
	return o.batches.flight
}

// completeLocked ends the flight, which was handed over.
func (o *outbox) completeLocked() {
	b := o.batches.flight
	o.count.sent(b.frames, b.size())
	if b.control > 0 {
		end := b.base + int64(b.controlEnd)
		if len(b.pieces) > 0 {
			end = o.transport.position()
		}
		o.control.wrote(b.control, end)
	}
	o.batches.complete(o.limit)
}

// failLocked ends the outbox: the wire is dead, and no one writes.
func (o *outbox) failLocked() {
	if o.phase == phaseDead {
		return
	}
	o.phase, o.writer = phaseDead, writerNone
	reason := o.wire.Cause()
	o.batches.fail(o.wire.Handed())
	if o.batches.flight != nil {
		o.loseLocked(o.batches.flight, reason)
	}
	o.loseLocked(o.batches.open, reason)
	if o.loss.reported {
		o.loss.err = nil
	}
	o.calls.lose(o.batches.written.Load(), reason)
	o.ended.Close()
	if o.finished != nil && o.finState() == finPending {
		close(o.finished)
	}
}

// loseLocked sees to it that the loss of the frames in b is reported that no one waits for: by
// the first who flushes b, or by the next call. Our own Close reports all that it has not
// flushed, whoever else does (P7).
func (o *outbox) loseLocked(b *batch, reason error) {
	if lost := b.lost(reason); lost > 0 {
		o.loss.add(lost, reason)
		o.count.lost(lost)
	}
	var toFlush error
	if b.flushing > 0 {
		toFlush = o.loss.err
		if reason != ErrClosed {
			o.loss.err = nil
		}
	}
	b.lose(toFlush)
}

// takeLoss returns the loss to the first who has flushed b, and to the others the reason, with
// which the connection has ended. Of our own Close it takes nothing away.
func (b *batch) takeLoss(reason error) error {
	loss := b.loss
	if reason != ErrClosed {
		b.loss = nil
	}
	if loss == nil {
		return reason
	}
	return loss
}
