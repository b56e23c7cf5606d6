package tcpclient

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

const (
	defaultMin = 100 * time.Millisecond
	defaultMax = 30 * time.Second

	// stableTime is how long a connection must have lived, at the most, before the
	// next failure counts as the first.
	stableTime = 10 * time.Second
)

// A Backoff makes a Client reconnect, and says how long it waits before each attempt: a
// random time between zero and a ceiling that starts at Min and doubles with every
// attempt in a row, up to Max. This "full jitter" spreads the clients of a server that
// has gone over the whole time, so that it is not overrun when it comes back.
//
// An attempt is one round over all addresses; names are resolved anew each time. A
// connection that has lived for Max or 10 s, whichever is less, ends the row. One that
// ends sooner continues it, even if a handshake succeeded and messages arrived: a
// server may well take the time to say that it is full.
//
// An error of [ClassPermanent] ends the Client instead of being tried again.
type Backoff struct {
	// Min and Max bound the ceiling. 0: 100 ms and 30 s.
	Min, Max time.Duration

	// MaxAttempts in a row, after which the Client ends with the last error, as a
	// permanent one. 0: no limit.
	MaxAttempts int

	// FirstDial makes Dial itself try again until its context ends. Without it Dial
	// returns the error of its first attempt.
	FirstDial bool
}

// validate checks the settings.
func (b *Backoff) validate() (errs []error) {
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("Dialer.Reconnect."+format, args...))
	}
	if b.Min < 0 {
		refuse("Min %v is negative", b.Min)
	}
	if b.Max < 0 {
		refuse("Max %v is negative", b.Max)
	}
	if b.Max > 0 && b.Max < b.Min {
		refuse("Max %v is below Min %v", b.Max, b.Min)
	}
	if b.MaxAttempts < 0 {
		refuse("MaxAttempts %d is negative", b.MaxAttempts)
	}
	return errs
}

func (b *Backoff) min() time.Duration { return orDefault(b.Min, min(defaultMin, b.max())) }
func (b *Backoff) max() time.Duration { return orDefault(b.Max, max(defaultMax, b.Min)) }

// stable is how long a connection must have lived to end a row of attempts.
func (b *Backoff) stable() time.Duration { return min(b.max(), stableTime) }

// ceiling is the longest wait after that many failures in a row, the last of them err.
func (b *Backoff) ceiling(failures int, err error) time.Duration {
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return b.max() // out of local ports: only time frees them, and we are part of it
	}
	ceiling := b.min()
	for ; failures > 1 && ceiling < b.max(); failures-- {
		ceiling *= 2
		if ceiling <= 0 {
			break // overflow
		}
	}
	if ceiling <= 0 {
		return b.max()
	}
	return min(ceiling, b.max())
}

// retries is a row of attempts to connect.
type retries struct {
	backoff  *Backoff // nil: one attempt is all
	attempts int      // in this row; one that made a connection which ended too soon counts
	failures int      // what the next wait depends on: these, or the one end of a lasting connection
	err      error    // the last failure
}

// ended records the end of a connection.
func (r *retries) ended(err error, lived time.Duration) {
	r.failed(err)
	if lived >= r.backoff.stable() {
		r.attempts, r.failures = 0, 1
	}
}

// failed records the end of an attempt.
func (r *retries) failed(err error) {
	r.attempts++
	r.failures++
	r.err = err
}

// attempt returns the number of the next attempt.
func (r *retries) attempt() int { return r.attempts + 1 }

// delay returns how long to wait before that.
func (r *retries) delay() time.Duration { return jitter(r.backoff.ceiling(r.failures, r.err)) }

// exhausted reports whether there is to be no further attempt.
func (r *retries) exhausted() bool {
	return r.backoff.MaxAttempts > 0 && r.attempts >= r.backoff.MaxAttempts
}

// exhausted is the end of a Client whose attempts are used up.
func exhausted(attempts int, err error) error {
	return Permanent(&exhaustedError{attempts, err})
}

type exhaustedError struct {
	attempts int
	last     error
}

func (e *exhaustedError) Error() string {
	return fmt.Sprintf("gave up after %d attempts: %s", e.attempts, reasonText(e.last))
}

func (e *exhaustedError) Unwrap() error { return e.last }

// jitter returns a random time from zero to ceiling.
func jitter(ceiling time.Duration) time.Duration { return rand.N(max(ceiling, 1)) }
