//go:build !linux

package tcpclient_test

import "testing"

func inNamespace(t *testing.T, _ func(t *testing.T)) {
	t.Helper()
	t.Skip("needs network namespaces, which only Linux has")
}

func command(t testing.TB, _ string) string {
	t.Helper()
	t.Skip("needs a network namespace")
	return ""
}

func blackhole(t testing.TB) (address string) {
	t.Helper()
	t.Skip("needs a backlog that is known to be full")
	return ""
}

func limitFiles(t testing.TB) (restore func()) {
	t.Helper()
	t.Skip("needs RLIMIT_NOFILE")
	return nil
}

func openFiles(testing.TB) int { return 0 }
