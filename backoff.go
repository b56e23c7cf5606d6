package tcpclient

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"time"
)

const (
	defaultMin = 100 * time.Millisecond
	defaultMax = 30 * time.Second

	// stableTime is the longest that a connection must live to end a row of attempts.
	stableTime = 10 * time.Second
)

// A Backoff makes a Client reconnect. Before each attempt the Client waits for a random
// time between zero and a ceiling, which starts at Min and doubles with each attempt in a
// row, up to Max. This "full jitter" spreads the clients of a server over the whole wait,
// so that they do not return all at once.
//
// An attempt tries all addresses once, and resolves their names anew. A connection that
// has lived for Max or 10 s, whichever is less, ends the row of attempts. One that ends
// sooner continues the row, even if its Handshake succeeded and messages arrived: a server
// that is full may say so in a message.
//
// An error of [ClassPermanent] ends the Client: the Client does not try again.
type Backoff struct {
	// Min is the first ceiling, Max the highest. Min 0: 100 ms, or Max if that is less.
	// Max 0: 30 s, or Min if that is more.
	Min, Max time.Duration

	// MaxAttempts is the number of attempts in a row after which the Client ends. The last
	// error becomes that of the Client, as one of ClassPermanent. 0: no limit.
	MaxAttempts int

	// FirstDial makes Dial itself try again, until its context ends. Without it Dial
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

// stable returns how long a connection must live to end a row of attempts.
func (b *Backoff) stable() time.Duration { return min(b.max(), stableTime) }

// isPortShortage reports whether err says that no local port is free. Windows has two numbers
// of its own for that: WSAEADDRINUSE and WSAENOBUFS.
func isPortShortage(err error) bool {
	if runtime.GOOS == "windows" {
		return errors.Is(err, syscall.Errno(10048)) || errors.Is(err, syscall.Errno(10055))
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL)
}

// ceiling returns the longest wait after so many failures in a row, the last of them err.
func (b *Backoff) ceiling(failures int, err error) time.Duration {
	if isPortShortage(err) {
		return b.max() // our attempts use the ports up, only time frees them
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

// exhausted returns the error of a Client whose attempts are used up.
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

// jitter returns a random time, at least zero and below ceiling.
func jitter(ceiling time.Duration) time.Duration { return rand.N(max(ceiling, 1)) }
