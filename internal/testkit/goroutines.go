package testkit

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Stacks are the stacks of all goroutines.
func Stacks() string {
	for size := 64 << 10; ; size *= 4 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}

// WaitBlocked waits until a goroutine is blocked with all of these functions on its stack.
// Only those count that the caller's goroutine has started, itself or through others:
// tests that run at the same time see nothing of each other.
func WaitBlocked(t testing.TB, functions ...string) {
	t.Helper()
	self := goroutineID(string(debug.Stack()))
	Eventually(t, fmt.Sprintf("a goroutine is blocked in %q", functions), func() bool { return isBlocked(self, functions...) })
}

// isBlocked reports whether a goroutine that self has started is blocked with all of these
// functions on its stack.
func isBlocked(self string, functions ...string) bool {
	all := strings.Split(Stacks(), "\n\n")
	creator := make(map[string]string)
	for _, stack := range all {
		if at := strings.LastIndex(stack, " in goroutine "); at >= 0 {
			creator[goroutineID(stack)] = goroutineID(stack[at+len(" in "):])
		}
	}
	for _, stack := range all {
		if strings.Contains(stack, "[running]") || strings.Contains(stack, "[runnable]") {
			continue
		}
		ours := goroutineID(stack)
		for ours != "" && ours != self {
			ours = creator[ours]
		}
		if ours == self && !slices.ContainsFunc(functions, func(f string) bool { return !strings.Contains(stack, f) }) {
			return true
		}
	}
	return false
}

// goroutineID returns the number of the goroutine with which a stack begins.
func goroutineID(stack string) string {
	fields := strings.Fields(stack)
	if len(fields) < 2 || fields[0] != "goroutine" {
		return ""
	}
	return fields[1]
}

// libraryStacks are the stacks of the goroutines that the library has: those that are in
// its methods or its internal packages, and in no test.
func libraryStacks() (own []string) {
	contains := func(stack string, any ...string) bool {
		return slices.ContainsFunc(any, func(s string) bool { return strings.Contains(stack, s) })
	}
	const module = "github.com/seed-d0aa0aa7/tcpclient"
	for _, stack := range strings.Split(Stacks(), "\n\n") {
		if contains(stack, module+".(", module+"/internal/") &&
			!contains(stack, module+"_test.", module+"/internal/testkit.", module+"/internal/transporttest.", module+"/internal/faults.", module+"/internal/soak.") {
			own = append(own, stack)
		}
	}
	return own
}

// Goroutines counts those that the library has.
func Goroutines() int { return len(libraryStacks()) }

// RequireNoGoroutines fails unless the library's goroutines have ended, but for their
// last steps: those take as long as the processors are busy with others.
func RequireNoGoroutines(t testing.TB) {
	t.Helper()
	waiting := 0 // looks at which none of them had only to get its turn
	for deadline := time.Now().Add(Patience); ; {
		left := libraryStacks()
		if len(left) == 0 {
			return
		}
		hasTurn := func(stack string) bool {
			return strings.Contains(stack, "[running") || strings.Contains(stack, "[runnable") || strings.Contains(stack, "[syscall")
		}
		if !slices.ContainsFunc(left, hasTurn) {
			waiting++
		}
		require.True(t, waiting <= 50 && time.Now().Before(deadline), "P7: Close returns after the last goroutine\n%s", Stacks())
		time.Sleep(time.Millisecond) // between looks, not to synchronise
	}
}

// Helpers counts the goroutines that write for the callers of all Clients.
func Helpers() int { return strings.Count(Stacks(), "(*outbox).help(") }
