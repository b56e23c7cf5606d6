//go:build !linux

package testkit

import "testing"

// InNamespace skips the test.
func InNamespace(t *testing.T, _ func(t *testing.T)) {
	t.Helper()
	t.Skip("needs network namespaces, which only Linux has")
}

// Command skips the test.
func Command(t testing.TB, _ string) string {
	t.Helper()
	t.Skip("needs a network namespace")
	return ""
}

// Blackhole skips the test.
func Blackhole(t testing.TB) (address string) {
	t.Helper()
	t.Skip("needs a backlog that is known to be full")
	return ""
}

// LimitFiles skips the test.
func LimitFiles(t testing.TB) (restore func()) {
	t.Helper()
	t.Skip("needs RLIMIT_NOFILE")
	return nil
}

// OpenFiles returns 0: how many files are open is not known here.
func OpenFiles(testing.TB) int { return 0 }
