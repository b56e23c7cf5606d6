package tcpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestBackoffCeiling(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

	t.Run("starts at Min, doubles, ends at Max", func(t *testing.T) { // P8
		b := Backoff{Min: 100 * ms, Max: 2 * sec}
		want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2 * sec, 2 * sec}
		for i, want := range want {
			require.Equal(t, want, b.ceiling(i+1, refused), "after %d failures", i+1)
		}
	})

	for _, b := range []Backoff{
		{}, {Min: 1}, {Max: 1}, {Min: 1, Max: math.MaxInt64}, {Max: math.MaxInt64}, {Min: math.MaxInt64},
		{Min: math.MaxInt64, Max: math.MaxInt64}, {Min: math.MaxInt64 / 2, Max: math.MaxInt64},
		{Min: 3 * sec, Max: 3 * sec}, {Min: time.Hour}, {Min: 7, Max: math.MaxInt64 - 1},
	} {
		t.Run(fmt.Sprintf("Min %d, Max %d: never overflows, never falls", b.Min, b.Max), func(t *testing.T) { // R1
			before := time.Duration(0)
			for _, failures := range []int{1, 2, 3, 10, 36, 37, 38, 62, 63, 64, 65, 127, 1000, 1e6, math.MaxInt} {
				c := b.ceiling(failures, refused)
				require.GreaterOrEqual(t, c, max(before, b.min()), "after %d failures", failures)
				require.LessOrEqual(t, c, b.max(), "after %d failures", failures)
				before = c
				for range 100 {
					var d time.Duration
					require.NotPanics(t, func() { d = jitter(c) }, "ceiling %d", c)
					require.GreaterOrEqual(t, d, time.Duration(0))
					require.LessOrEqual(t, d, c)
				}
			}
			require.Equal(t, b.max(), before, "the cap is reached")
		})
	}

	t.Run("defaults", func(t *testing.T) {
		require.Equal(t, 100*ms, (&Backoff{}).ceiling(1, refused))
		require.Equal(t, 30*sec, (&Backoff{}).ceiling(1e6, refused))
		require.Equal(t, 50*ms, (&Backoff{Max: 50 * ms}).ceiling(1, refused), "Max below the default Min")
		require.Equal(t, time.Minute, (&Backoff{Min: time.Minute}).ceiling(9, refused), "Min above the default Max")
	})

	t.Run("without free ports is the longest at once", func(t *testing.T) { // D12
		numbers := []syscall.Errno{syscall.EADDRNOTAVAIL}
		if runtime.GOOS == "windows" {
			numbers = []syscall.Errno{10048, 10055} // WSAEADDRINUSE, WSAENOBUFS
		}
		for _, number := range numbers {
			err := &OpError{Op: opDial, Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", number)}}
			require.Equal(t, 30*sec, (&Backoff{}).ceiling(1, err))
			require.Equal(t, 30*sec, (&Backoff{}).ceiling(1, &OpError{Op: opDial, Err: multiError{err, err}}))
			require.Equal(t, 100*ms, (&Backoff{}).ceiling(1, &OpError{Op: opDial, Err: multiError{err, refused}}), "only one address") // C6
			require.Equal(t, 100*ms, (&Backoff{}).ceiling(1, &OpError{Op: opDial, Err: multiError{refused, err}}), "only one address")
			require.Equal(t, 100*ms, (&Backoff{}).ceiling(1, &triedError{err, []string{"[::1]:80", "127.0.0.1:80"}}), "a host without one of the families")
			require.Equal(t, 30*sec, (&Backoff{}).ceiling(1, &triedError{err, []string{"127.0.0.1:80", "127.0.0.2:80"}}))
		}
	})
}

func TestJitter(t *testing.T) {
	t.Run("covers the whole range evenly", func(t *testing.T) { // P8
		const n, buckets = 100_000, 10
		var histogram [buckets]int
		for range n {
			histogram[jitter(sec-1)*buckets/sec]++
		}
		for i, k := range histogram {
			require.InDelta(t, n/buckets, k, 600, "bucket %d of %v", i, histogram) // six sigma
		}
	})
	t.Run("zero stays zero", func(t *testing.T) { require.Zero(t, jitter(0)) })
}

func TestRetries(t *testing.T) {
	err := errors.New("down")

	t.Run("a connection that did not last continues the row", func(t *testing.T) { // P8
		r := retries{backoff: &Backoff{}}
		require.Equal(t, 1, r.attempt())
		r.failed(err)
		require.Equal(t, 2, r.attempt())
		require.Equal(t, tooShort, r.ended(outcome{reason: err}, 10*sec-1, 0))
		require.Equal(t, 3, r.attempt())
		require.Equal(t, 200*ms, r.backoff.ceiling(r.failures, err))
	})

	t.Run("a connection that lasted ends the row, and one waits after it as after a first failure", func(t *testing.T) { // P8
		for _, tt := range []struct{ max, stable time.Duration }{{0, 10 * sec}, {30 * sec, 10 * sec}, {3 * sec, 3 * sec}, {20 * ms, 20 * ms}} {
			b := Backoff{Max: tt.max}
			require.Equal(t, tt.stable, b.stable())
			r := retries{backoff: &b}
			for range 100 {
				r.failed(err)
			}
			require.Equal(t, stable, r.ended(outcome{reason: err}, tt.stable, 0))
			require.Equal(t, b.min(), b.ceiling(r.failures, err))
		}
	})

	t.Run("a healthy server that hangs up ends the row", func(t *testing.T) { // P8, C1, C3
		hangUp := wire.Disconnected(io.EOF)
		for name, tt := range map[string]struct {
			o               outcome
			lived, unneeded time.Duration
			want            lifetime
			attempts        int
			longest         time.Duration // wait
		}{
			"idle":                            {outcome{reason: hangUp}, sec, 0, orderly, 0, 100 * ms},
			"idle, soon":                      {outcome{reason: hangUp}, sec - 1, sec, tooShort, 6, 3200 * ms},
			"answered":                        {outcome{reason: hangUp, answered: true}, 500 * ms, 0, orderly, 0, 100 * ms},
			"answered, on demand":             {outcome{reason: hangUp, answered: true}, 0, 500 * ms, orderly, 0, 100 * ms},
			"answered, and others wait":       {outcome{reason: hangUp, answered: true}, 250 * ms, 250*ms - 1, tooShort, 0, 3200 * ms},
			"has answered and owes a reply":   {outcome{reason: hangUp, answered: true, unfinished: true}, 10*sec - 1, 0, tooShort, 0, 3200 * ms},
			"owes a reply":                    {outcome{reason: hangUp, unfinished: true}, 10*sec - 1, 0, tooShort, 6, 3200 * ms},
			"ends inside a message":           {outcome{reason: wire.Disconnected(io.ErrUnexpectedEOF), answered: true}, 10*sec - 1, 0, tooShort, 6, 3200 * ms},
			"resets, but has lived very long": {outcome{reason: wire.Disconnected(syscall.ECONNRESET)}, 10 * sec, 0, stable, 0, 100 * ms},
		} {
			r := retries{backoff: &Backoff{}}
			for range 5 {
				r.failed(err)
			}
			require.Equal(t, tt.want, r.ended(tt.o, tt.lived, tt.unneeded), name)
			require.Equal(t, tt.attempts, r.attempts, name)
			longest := time.Duration(0)
			for range 1000 {
				longest = max(longest, r.delay())
			}
			require.Less(t, longest, tt.longest, name)
			require.Greater(t, longest, tt.longest*9/10, name)
		}
	})

	t.Run("where others wait, a server that hangs up after each answer costs 5 s at the most, or Min", func(t *testing.T) { // P8
		for _, min := range []time.Duration{100 * ms, 7 * sec} {
			r := retries{backoff: &Backoff{Min: min}}
			longest := time.Duration(0)
			for range 1000 {
				r.ended(outcome{reason: wire.Disconnected(io.EOF), answered: true}, 0, 0)
				longest = max(longest, r.delay())
			}
			require.Less(t, longest, max(5*sec, min))
			require.Greater(t, longest, max(5*sec, min)*9/10)
		}
	})

	t.Run("MaxAttempts is the number of attempts, after a connection that lasted as at first", func(t *testing.T) { // R8
		for attempts := 1; attempts < 5; attempts++ {
			for _, lasted := range []bool{false, true} {
				r := retries{backoff: &Backoff{MaxAttempts: attempts}}
				if lasted {
					r.ended(outcome{reason: err}, time.Hour, 0)
				}
				made := 0
				for ; !r.exhausted(); made++ {
					r.failed(err)
				}
				require.Equal(t, attempts, made, "MaxAttempts %d, lasted %v", attempts, lasted)
			}
		}
	})

	t.Run("without MaxAttempts there is no last one", func(t *testing.T) {
		r := retries{backoff: &Backoff{}, failures: math.MaxInt - 1}
		require.False(t, r.exhausted())
	})

	t.Run("used up attempts are permanent and keep the last error", func(t *testing.T) { // R8
		err := exhausted(7, &OpError{Op: opDial, Err: syscall.ECONNREFUSED})
		require.Equal(t, ClassPermanent, Classify(err))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorContains(t, err, "7 attempts")
	})
}

// Which errors end the row of attempts: what Classify says of them in the shape in which
// connect returns them.
func TestPermanentErrors(t *testing.T) {
	goOn := []error{
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EMFILE, syscall.ENETUNREACH, syscall.EADDRNOTAVAIL,
		attemptTimeout{"connecting", context.DeadlineExceeded},
		&net.DNSError{Err: "no such host", IsNotFound: true},
		errors.New("login refused"), context.Canceled, context.DeadlineExceeded,
		&OpError{Op: opReceive, Err: wire.Disconnected(&FrameTooLargeError{Size: 1 << 40, Max: 1})},
		&OpError{Op: opReceive, Err: wire.Disconnected(ErrInvalidFrame)},
	}
	stop := []error{Permanent(errors.New("account closed")), &net.AddrError{Err: "missing port"}, panicError2(t)}
	for _, err := range goOn {
		for _, op := range []string{opDial, opHandshake} {
			require.NotEqual(t, ClassPermanent, Classify(&OpError{Op: op, Err: err}), "%s: %v", op, err)
		}
	}
	for _, err := range stop {
		require.Equal(t, ClassPermanent, Classify(&OpError{Op: opHandshake, Err: err}), "%v", err)
		both := &OpError{Op: opDial, Err: errors.Join(&OpError{Op: opHandshake, Err: err}, &OpError{Op: opDial, Err: goOn[0]})}
		require.Equal(t, ClassDisconnected, Classify(both), "another address may still help")
	}
	require.False(t, slices.Contains(goOn, nil))
}

func panicError2(t *testing.T) (err error) {
	defer func() { err = Permanent(panicked(recover())) }()
	panic("hook")
}

const sec, ms = time.Second, time.Millisecond

func TestHeartbeatTimeout(t *testing.T) {
	require.Equal(t, 20*sec, (&Heartbeat{Interval: 10 * sec}).timeout(), "twice the interval")
	require.Equal(t, 11*sec, (&Heartbeat{Interval: 10 * sec, Timeout: 11 * sec}).timeout())
	require.Greater(t, (&Heartbeat{Interval: 1<<63 - 1}).timeout(), time.Duration(0), "never must not become at once")
}

func TestCloseBetweenTheEndsOfConnectionAndClient(t *testing.T) {
	t.Run("the first error stays", func(t *testing.T) { // P9
		config := new(Dialer).config()
		c := newClient(t.Context(), config, "tcp", []string{"x"})
		here, there := net.Pipe()
		defer there.Close()
		reason := c.detach(c.attach(newConn(here, "x", config.framing, config)), io.EOF)
		c.done.Close()
		require.NoError(t, c.Close())
		c.finish(reason.reason)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, c.Send(t.Context(), nil), io.EOF)
	})
}
