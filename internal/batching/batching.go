// Package batching decides whether the writer of a batch yields before it writes, so that others
// may join.
//
// Messages that share a batch share a system call, and many callers are best served so. For a few
// who wait for replies it depends. If the server works on a request for some microseconds and has
// a processor of its own, it could begin with the first while the others are still being written;
// batches wait for each other in turn instead. If the server does next to nothing, or shares a
// processor with the client, all those system calls cost more than they bring. No batch shows which
// it is, so a Rule tries: now and then a stretch of frames goes out one by one, and as long as
// that brings more frames in the same time, longer ones follow.
package batching

import (
	"sync/atomic"
	"time"
)

const (
	// maxAlone is how many batches in a row may carry one frame before a writer no longer
	// yields. Once in retryShared batches it tries again.
	maxAlone    = 4
	retryShared = 16

	// maxFew is the most frames in a batch, on average, that are from a few callers.
	maxFew = 16

	// better is what a frame apart may cost at most of one together, to go on. A stretch that is too
	// short to tell only shows what is hopeless: the first one also bears the time of the last batch
	// together, which may be half of it.
	better   = 0.9
	hopeless = 2

	// busiest is the part of all frames of the process that a connection has which goes apart.
	// With several that are busy the process does not wait for a server: it has others to write to,
	// and what one of them gained by going first the others would lose.
	busiest = 0.75
)

// Lengths of stretches, in frames.
const (
	unit          = 32
	firstTogether = 64 * unit
	firstApart    = unit        // and the next one is twice as long, while they are better
	telling       = 4 * unit    // for a stretch apart that is compared in earnest
	maxApart      = 256 * unit  // then it is time to compare again
	minTogether   = 16 * unit   // to compare, after all that were apart were better
	maxTogether   = 2048 * unit // after one that was not: twice as many as the last time, up to this
)

// recorded is how many frames all Rules of the process have recorded.
var recorded atomic.Uint64

// A Rule is that of one connection. The zero Rule is ready. It is not for concurrent use.
type Rule struct {
	alone   int32 // batches in a row with one frame, up to maxAlone
	begun   int32 // batches that Next has begun
	frames  int32 // of this unit
	batches int32
	course  *course // nil before the end of the first unit
}

// Next begins the next batch, and reports whether its writer is to yield.
func (r *Rule) Next() bool {
	if r.isApart() {
		return false
	}
	r.begun++
	return r.alone < maxAlone || r.begun%retryShared == 0
}

func (r *Rule) isApart() bool { return r.course != nil && r.course.apart }

// Record notes how many frames a batch has that is about to be written.
func (r *Rule) Record(frames int) {
	switch {
	case frames > 1 || r.isApart():
		r.alone = 0
	case r.alone < maxAlone:
		r.alone++
	}
	r.frames += int32(frames)
	r.batches++
	if r.frames < unit {
		return
	}
	all := recorded.Add(uint64(r.frames))
	if r.course == nil {
		r.course = &course{length: firstTogether, together: firstTogether, began: moment{time.Now(), all}}
	} else {
		r.course.add(int(r.frames), int(r.batches), all)
	}
	r.frames, r.batches = 0, 0
}

// A course is the stretch that a Rule is in, and what is to be known of those before.
type course struct {
	apart   bool // each frame is written by itself
	length  int  // how many frames it is to have
	frames  int
	batches int
	began   moment

	together int     // the length of the last stretch together
	cost     float64 // of a frame in that, in nanoseconds
}

// A moment is a point in the life of the process.
type moment struct {
	at       time.Time
	recorded uint64 // frames until then
}

// add adds a unit to the stretch.
func (c *course) add(frames, batches int, all uint64) {
	c.frames += frames
	c.batches += batches
	if c.frames >= c.length {
		c.next(moment{time.Now(), all})
	}
}

// next begins the next stretch.
func (c *course) next(now moment) {
	cost := float64(now.at.Sub(c.began.at)) / float64(c.frames)
	isBusiest := float64(c.frames) > busiest*float64(now.recorded-c.began.recorded)
	switch {
	case !c.apart:
		c.cost = cost
		if isBusiest && c.hasFew() {
			c.apart, c.length = true, firstApart
		}
	case !isBusiest, cost == 0, cost > c.bound(): // no time at all: the clock is a coarse one
		c.join(min(2*c.together, maxTogether))
	case c.length >= maxApart:
		c.join(minTogether)
	default:
		c.length *= 2
	}
	c.began, c.frames, c.batches = now, 0, 0
}

// bound returns what a frame of this stretch apart may cost at most, to go on.
func (c *course) bound() float64 {
	if c.length < telling {
		return hopeless * c.cost
	}
	return better * c.cost
}

// join makes the next stretch one together.
func (c *course) join(length int) {
	c.apart, c.together, c.length = false, length, length
}

// hasFew reports whether the batches have carried what a few callers write.
func (c *course) hasFew() bool {
	return c.frames > c.batches && c.frames <= maxFew*c.batches
}
