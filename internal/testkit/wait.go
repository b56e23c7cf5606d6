package testkit

import (
	"context"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience is how long a test waits for what has to happen. It only passes when
// something is wrong.
const Patience = 20 * time.Second

// Canceled returns a context that is done.
func Canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// Within returns a context that is done after d.
func Within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until condition holds. Inside a synctest bubble, use synctest.Wait.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !condition() {
		if time.Now().After(deadline) {
			require.FailNow(t, "waited in vain until "+what)
		}
		runtime.Gosched()
		time.Sleep(100 * time.Microsecond) // between looks, not to synchronise
	}
}

// RequireFast fails unless f returns soon, and then shows who does what.
func RequireFast(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(Patience):
		require.FailNow(t, what+" did not return", Stacks())
	}
}

// Start runs f on a goroutine and returns how to wait for its result.
func Start[T any](t testing.TB, f func() T) (wait func() T) {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return func() T {
		t.Helper()
		select {
		case r := <-result:
			return r
		case <-time.After(Patience):
			require.FailNow(t, "did not return", Stacks())
			panic("unreachable")
		}
	}
}

// InBubble runs test in virtual time.
func InBubble(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

// SkipIfShort skips a test that waits for real time or fills memory if -short is set.
func SkipIfShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes its time: not with -short")
	}
}

// Rounds is how often a test repeats what it draws at random: n times, or a quarter of that
// with -short.
func Rounds(n int) int {
	if testing.Short() {
		return (n + 3) / 4
	}
	return n
}

// slowVariable asks for the tests that SkipUnlessSlow skips.
const slowVariable = "TCPCLIENT_TEST_SLOW"

// SkipUnlessSlow skips a test that takes several seconds of real time to find what seldom
// breaks, unless the environment asks for it, as .ci/run does.
func SkipUnlessSlow(t testing.TB) {
	t.Helper()
	if os.Getenv(slowVariable) == "" {
		t.Skipf("takes long: set %s=1 to run it", slowVariable)
	}
}

// heavyVariable asks for the tests that SkipUnlessHeavy skips.
const heavyVariable = "TCPCLIENT_TEST_HEAVY"

// SkipUnlessHeavy skips a test of a server that is large to install and slow to start, unless the
// environment asks for it, as .ci/run does.
func SkipUnlessHeavy(t testing.TB) {
	t.Helper()
	if os.Getenv(heavyVariable) == "" {
		t.Skipf("needs a large server: set %s=1 to run it", heavyVariable)
	}
}
