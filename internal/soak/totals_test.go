package soak

import (
	"fmt"
	"sync/atomic"
	"time"
)

// soakTotals are the numbers of a whole run.
type soakTotals struct {
	length time.Duration // of the run

	cases, ran, connections, losses, orderly, failedDials     atomic.Int64
	sent, calls, pushes, unsent, unknown, failed              atomic.Int64
	replies, left, late, given, cut                           atomic.Int64 // see countAnswers
	transactions, transactionsLost                            atomic.Int64
	pooled                                                    atomic.Int64
	overdue, disconnects, rotations, rests, delivered, chosen atomic.Int64
	slowest, starved                                          atomic.Int64 // the longest Close; see watch
}

// watch measures how long this process did not get to run, which is no fault of the library.
func (n *soakTotals) watch(done <-chan struct{}) {
	const beat = 5 * time.Millisecond
	for last := time.Now(); ; {
		select {
		case <-done:
			return
		default:
			pause(beat, done)
		}
		now := time.Now()
		if late := now.Sub(last) - beat; late > 4*beat {
			n.starved.Add(int64(late))
		}
		last = now
	}
}

// countAnswers counts what became of the replies to a call.
func (n *soakTotals) countAnswers(a *soakAnswers) {
	n.given.Add(int64(a.given))
	if a.read > 0 && a.read < a.wanted {
		n.cut.Add(1)
	}
}

// complete reports whether everything that a case may be about had a part in the run.
func (n *soakTotals) complete() bool {
	for _, part := range []*atomic.Int64{&n.calls, &n.pushes, &n.left, &n.late, &n.transactions, &n.pooled, &n.disconnects, &n.rotations, &n.delivered, &n.chosen} {
		if part.Load() == 0 {
			return false
		}
	}
	return true
}

func (n *soakTotals) String() string {
	return fmt.Sprintf("%d cases, %d connections (%d lost, %d ended by us and received to the end), %d dials failed; %d messages handed over, %d pushes received; %d unsent, %d of unknown fate; "+
		"%d calls answered, %d replies read of %d given, %d late, %d loops left, %d calls that got a part; %d requests to Pools; %d transactions, %d on connections that were lost; "+
		"%d replies overdue, %d Disconnects, the address changed %d times, %d rests without demand, %d pushes came during a handshake, %d ids chosen; slowest Close %v; not running for %v; %d cases failed",
		n.cases.Load(), n.connections.Load(), n.losses.Load(), n.orderly.Load(), n.failedDials.Load(), n.sent.Load(),
		n.pushes.Load(), n.unsent.Load(), n.unknown.Load(),
		n.calls.Load(), n.replies.Load(), n.given.Load(), n.late.Load(), n.left.Load(), n.cut.Load(), n.pooled.Load(), n.transactions.Load(), n.transactionsLost.Load(),
		n.overdue.Load(), n.disconnects.Load(), n.rotations.Load(), n.rests.Load(), n.delivered.Load(), n.chosen.Load(), time.Duration(n.slowest.Load()),
		time.Duration(n.starved.Load()).Round(time.Millisecond), n.failed.Load())
}
