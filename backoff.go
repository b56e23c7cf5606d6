package tcpclient

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"time"
)

const (
	defaultMin = 100 * time.Millisecond
	defaultMax = 30 * time.Second

	// stableTime is the longest that a connection must live to end a row of attempts.
	stableTime = 10 * time.Second

	// orderlyTime is how long one must live that the peer then ended in order.
	orderlyTime = time.Second

	// unhurriedTime is for how long a connection that had answered a Call must have been of no use,
	// or not asked for, if the next one is to be made as if nothing had happened. Where requests
	// wait already, the answer may have been that the server is full.
	unhurriedTime = orderlyTime / 2

	// hurriedMax is the longest wait where they do.
	hurriedMax = 5 * time.Second
)

// A Backoff makes a Client reconnect. Before each attempt the Client waits for a random
// time between zero and a ceiling, which starts at Min and doubles with each attempt in a
// row, up to Max. This "full jitter" spreads the clients of a server over the whole wait,
// so that they do not return all at once.
//
// An attempt tries all addresses once, and resolves their names anew. A connection that
// has lived for Max or 10 s, whichever is less, ends the row of attempts. So does one that the
// peer has ended in order, between two messages and with no reply missing, if it had lived for a
// second or had answered a Call: servers close connections that are idle, and some close each
// after its answer. Any other connection continues the row, even if its Handshake succeeded and
// messages arrived: a server that is full may say so in a message. It may also say so in the
// answer to a Call. So if the peer ends a connection that answered one, and it had lived for less than
// half a second, with OnDemand that before it in which no call waited included, or still owed a
// reply, the waits grow up to 5 s, or Min if that is more, but never use up MaxAttempts.
//
// After a connection that has lived for Max or 10 s, an attempt begins with the first address;
// after one that ended the row otherwise and had answered a Call, with that of the connection;
// after any other, and after a Disconnect, with the one that follows.
//
// An error of [ClassPermanent] ends the Client: the Client does not try again.
//
// What the server knows of a connection ends with it: a transaction, a selected database, a
// subscription. Logins and subscriptions belong in [Dialer].Handshake, which each new connection
// runs; requests that belong together go through a [Session], which stays with one connection.
type Backoff struct {
	// Min is the first ceiling, Max the highest. Min 0: 100 ms, or Max if that is less.
	// Max 0: 30 s, or Min if that is more. A server that comes back may be found that much later.
	Min, Max time.Duration

	// MaxAttempts is the number of attempts in a row after which the Client ends. The last
	// error becomes that of the Client, as one of ClassPermanent. 0: no limit.
	MaxAttempts int

	// FirstDial makes Dial itself try again, until its context ends. Without it Dial
	// returns the error of its first attempt.
	FirstDial bool

	// OnDemand connects only when a call needs a connection: a Write, Flush, Send, Call or Replies, or
	// a Receive that waits. Dial returns at once then, and connects nothing; FirstDial has no
	// effect. A lost connection is made again at the next such call. Attempts stop while no
	// call waits.
	OnDemand bool

	// FailFast makes Write, Flush, Send, Call and Replies fail at once when there is no connection,
	// with the reason: the last attempt's failure, or before one has failed the end of the last
	// connection. The error is of [ClassDisconnected], and [OpError].Unsent is true. With OnDemand
	// a call waits for one attempt, that under way or the next, and for the delay before that.
	// Receive waits, as ever.
	FailFast bool
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

// isPortShortage reports whether err says, of all addresses that were tried, that no local port
// is free. Of one alone that may mean that this host has no IPv6. Windows has two numbers of its
// own for a shortage: WSAEADDRINUSE and WSAENOBUFS.
func isPortShortage(err error) bool {
	var several multiError
	if errors.As(err, &several) {
		return !slices.ContainsFunc(several, func(err error) bool { return !isPortShortage(err) })
	}
	if tried := (*triedError)(nil); errors.As(err, &tried) && tried.isMixed() {
		return false // it is the error of the first
	}
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
	hurried  bool     // that was the end of a connection that answered, while others wait
}

// A lifetime is what the life of a connection means for the row of attempts.
type lifetime int

const (
	stable   lifetime = iota // long enough, however it has ended
	orderly                  // ended by a healthy server
	tooShort                 // the row goes on
)

// ended records the end of a connection that has lived so long. Before it was made no call waited
// for one, for as long as unneeded.
func (r *retries) ended(o outcome, lived, unneeded time.Duration) lifetime {
	r.failed(o.reason)
	switch answered := o.answered && o.isEOF(); {
	case lived >= r.backoff.stable():
		r.attempts, r.failures = 0, 1
		return stable
	case o.hungUp() && (lived >= orderlyTime || answered && lived+unneeded >= unhurriedTime):
		r.attempts, r.failures = 0, 1
		return orderly
	case answered:
		r.attempts, r.hurried = 0, true
	}
	return tooShort
}

// restart forgets the last end, which was not the server's.
func (r *retries) restart() { r.attempts, r.failures = 0, max(r.failures-1, 1) }

// failed records the end of an attempt.
func (r *retries) failed(err error) {
	r.attempts++
	r.failures++
	r.err, r.hurried = err, false
}

// attempt returns the number of the next attempt.
func (r *retries) attempt() int { return r.attempts + 1 }

// delay returns how long to wait before that.
func (r *retries) delay() time.Duration {
	ceiling := r.backoff.ceiling(r.failures, r.err)
	if r.hurried {
		ceiling = min(ceiling, max(r.backoff.min(), hurriedMax))
	}
	return jitter(ceiling)
}

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
