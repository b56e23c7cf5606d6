package tcpclient

import (
	"context"
	"runtime"
)

// This file is what a leader does: from the open batch to the network, and back to those
// who wait. See outbox.

// promoteLocked gives the turn to lead to the first who waits for the open batch.
func (o *outbox) promoteLocked() bool {
	for w := o.open.first; w != nil; w = w.next {
		if !w.gone {
			w.turn = true
			w.wakeLocked()
			return true
		}
	}
	return false
}

// leadLocked makes the caller, who waits for the frame at start in the open batch, the
// leader, and returns the fate of that frame. As long as the network takes the batch at once
// this needs no waiter. It releases the lock.
func (o *outbox) leadLocked(ctx context.Context, start int) (unsent bool, err error) {
	w := o.leadOpenLocked(start)
	if w == nil {
		return false, nil
	}
	return o.await(ctx, w)
}

// leadOpenLocked makes the caller the leader, who writes the open batch. It returns nil when
// that was done, or start is calling, else a waiter for it. It releases the lock.
func (o *outbox) leadOpenLocked(start int) (w *waiter) {
	o.leading, o.wanted = true, true
	o.turns++
	if o.alone < maxAlone || o.turns%retryShared == 0 {
		o.mu.Unlock()
		runtime.Gosched() // so that others may join
		o.mu.Lock()
	}
	handed := o.flyLocked()
	if !handed {
		if start != calling {
			o.mu.Lock()
			w = o.waiterLocked(start)
			o.flight.add(w)
			o.mu.Unlock()
		}
		if !o.wire.settled() {
			return w // drained goes on from here
		}
	}
	if o.land() {
		o.wire.drains.Go(o.leadOn)
	}
	return w
}

// lead writes the urgent batch, and the open one if it is wanted. The caller has, or was
// given, the leadership, and it is no longer the caller's when lead returns.
func (o *outbox) lead() {
	if o.leadOnce() {
		o.wire.drains.Go(o.leadOn)
	}
}

// leadOn leads until nothing is left to write, or somebody else leads.
func (o *outbox) leadOn() {
	for o.leadOnce() {
	}
}

// leadOnce does the work of lead. It returns true when there is more to write and
// nobody waiting for it: the leadership is still the caller's.
func (o *outbox) leadOnce() (more bool) {
	o.mu.Lock()
	if !o.flyLocked() && !o.wire.settled() {
		return false // drained goes on from here
	}
	return o.land()
}

// flyLocked gives the urgent batch, and the open one if it is wanted, to the network. It
// reports whether that took all of them at once; else the wire knows. It releases the lock.
func (o *outbox) flyLocked() (handed bool) {
	if o.urgent != nil && o.urgent.size() > 0 {
		o.urgent, o.ahead = o.ahead, o.urgent
	}
	if o.wanted && o.open.frames > 0 || o.open.first != nil {
		o.departLocked()
	}
	ahead, flight := o.ahead, o.flight
	o.mu.Unlock()

	if ahead != nil && ahead.size() > 0 {
		o.put(ahead)
		o.sentUrgent()
	}
	return flight != nil && o.put(flight)
}

// departLocked makes the open batch the flight.
func (o *outbox) departLocked() {
	o.wanted = false
	o.number++
	if o.open.frames > 1 {
		o.alone = 0
	} else {
		o.alone++
	}
	o.flight, o.open, o.spare = o.open, o.spare, nil
	if o.open == nil {
		o.open = new(batch)
	}
}

// sentUrgent remembers where in the stream the last urgent message ends.
func (o *outbox) sentUrgent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.urged = o.wire.position()
}

// put gives a batch to the network. It reports whether that took it, and all before it, at
// once; else the wire knows.
func (o *outbox) put(b *batch) (handed bool) {
	p := b.seal()
	if o.top == o.wire {
		var err error
		b.taken = len(p)
		b.base, handed, err = o.wire.post(p, inlineWrite)
		b.denied = err != nil
		return handed
	}
	b.base = o.wire.begin(inlineWrite)
	for len(p) > 0 {
		n := min(len(p), record)
		b.pieces = append(b.pieces, o.wire.position())
		b.taken += n
		if _, err := o.top.Write(p[:n]); err != nil {
			b.denied = true
			o.wire.failWrite(err) // TLS itself may have refused
			return false
		}
		p = p[n:]
	}
	return false
}

// drained is called by the wire's drain goroutine, which leads, when a flight is over.
func (o *outbox) drained() {
	if o.land() {
		o.leadOn()
	}
}

// land ends the flight: it tells those who wait for it, and passes the leadership on.
// It returns true when there is more to write and nobody waiting for it.
func (o *outbox) land() (more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if b := o.ahead; b != nil && b.size() > 0 {
		if handed, _ := o.wire.progressed(); !b.denied && handed >= o.urged { // not what was kept back
			o.count.sent(b.frames, b.taken)
		}
		b.reset(o.limit)
	}
	if o.wire.isDead() {
		o.failLocked()
		return false
	}
	if b := o.flight; b != nil {
		o.landLocked(b)
		b.reset(o.limit)
		o.flight, o.spare = nil, b
	}
	switch {
	case o.promoteLocked():
		return false
	case o.wanted && o.open.frames > 0 || o.urgent != nil && o.urgent.size() > 0:
		return true
	}
	o.stepDownLocked()
	return false
}

// landLocked tells all who wait for b, the flight, that it was handed over.
func (o *outbox) landLocked(b *batch) {
	o.count.sent(b.frames, b.taken)
	o.landed.Store(o.number - 1)
	o.tellLocked(b, nil)
}

// stepDownLocked ends the leadership.
func (o *outbox) stepDownLocked() {
	o.leading = false
	if o.vacant != nil {
		close(o.vacant)
		o.vacant = nil
	}
}

// tellLocked gives all who wait for b their result. It reports whether one of them was
// flushing: that one now knows of the frames that are lost.
func (o *outbox) tellLocked(b *batch, err error) (told bool) {
	var handed int64
	if err != nil {
		handed, _ = o.wire.progressed()
	}
	for w := b.first; w != nil; {
		next := w.next
		if w.gone {
			if !w.quiet {
				o.recycleLocked(w)
			}
		} else {
			w.done, w.err = true, err
			w.unsent = err != nil && w.start != flushing && b.unsent(w.start, handed)
			if err != nil && w.start == flushing {
				if !told && (b.kept > 0 || o.lost != nil) {
					w.err = &lossError{err}
				}
				told = true
			}
			if !w.quiet { // else the call is told by calls.lose, or need not be
				w.wakeLocked()
			}
		}
		w = next
	}
	b.first, b.last = nil, nil
	return told
}

// failLocked ends the outbox; nobody leads any more.
func (o *outbox) failLocked() {
	if o.failed {
		return
	}
	o.failed = true
	reason := o.wire.reason()
	if o.over == nil {
		o.over = reason
	}
	o.stepDownLocked()
	if b := o.flight; b != nil {
		o.flight = nil
		if handed, all := o.wire.progressed(); all && b.taken == b.size() && !b.denied {
			// The wire took every byte, and the end came just behind them.
			o.landLocked(b)
		} else {
			o.wreck, o.reached = b, handed
			o.loseLocked(b, reason)
		}
	}
	o.loseLocked(o.open, reason)
	if o.told {
		o.lost = nil
	}
	o.calls.lose(o.landed.Load(), reason)
	o.open.reset(o.limit)
	close(o.ended)
}

// loseLocked tells those who wait for b that it will not be written, and remembers the
// frames that nobody waits for. Our own Close tells of all that it has not flushed, whoever
// else was told (P7).
func (o *outbox) loseLocked(b *batch, reason error) {
	told := o.tellLocked(b, reason)
	switch {
	case reason == ErrClosed:
		if b.frames > 0 {
			o.lost = &lossError{reason}
		}
	case told:
		o.lost = nil
	case b.kept > 0:
		o.lost = &lossError{reason}
	}
}
