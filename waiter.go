package tcpclient

// A waiter blocks until its batch is written or lost. It learns which from the outbox.
type waiter struct {
	signal     chan struct{} // one slot: look at the outbox
	prev, next *waiter
}

// wake makes the waiting goroutine look.
func (w *waiter) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// A waitList holds waiters, which recycles those that have left.
type waitList struct{ first *waiter }

func (l *waitList) add(w *waiter) {
	if l.first != nil {
		l.first.prev = w
	}
	w.next, l.first = l.first, w
}

func (l *waitList) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

// wake wakes all waiters and empties the list.
func (l *waitList) wake() {
	for w := l.first; w != nil; {
		next := w.next
		w.prev, w.next = nil, nil
		w.wake()
		w = next
	}
	l.first = nil
}

// take returns a waiter from a list of idle ones, or a new one.
func (l *waitList) take() *waiter {
	w := l.first
	if w == nil {
		return &waiter{signal: make(chan struct{}, 1)}
	}
	l.remove(w)
	return w
}

// put keeps w, which is on no list, for its next use.
func (l *waitList) put(w *waiter) {
	select {
	case <-w.signal: // its context won the select against this
	default:
	}
	l.add(w)
}
