package testkit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const namespaceVariable = "TCPCLIENT_TEST_NAMESPACE"

// InNamespace runs test in a network of its own, with only a loopback interface, where it
// may change everything: addresses, routes, packet filters. No privilege is needed: the
// test binary runs itself again in new user and network namespaces, with this test only.
// Where that is refused the test is skipped, and fails in CI.
//
//	func TestX(t *testing.T) {
//		inNamespace(t, func(t *testing.T) {
//			command(t, "iptables -A INPUT -p tcp --dport 9 -j DROP")
//			…
//		})
//	}
func InNamespace(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if os.Getenv(namespaceVariable) == t.Name() {
		// Some systems grant the namespace, but no right in it.
		if _, err := runCommand("ip link set lo up"); err != nil {
			unavailable(t, "no network namespaces here: %v", err)
		}
		test(t)
		return
	}
	if testing.CoverMode() == "" && os.Getenv(namespaceVariable) != "" {
		t.Skip("in the namespace of another test")
	}
	out, err := runAgain(t, namespaceVariable, &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.ENOSYS):
		unavailable(t, "no network namespaces here: %v", err)
	case err != nil:
		t.Fatalf("in the namespace: %v\n%s", err, out)
	case strings.Contains(out, "--- SKIP"):
		t.Skipf("in the namespace:\n%s", out)
	}
	requireRan(t, out)
}

// unavailable skips a test for which the system lacks something, and fails it in CI.
func unavailable(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Command runs a command of the system and returns what it prints.
func Command(t testing.TB, line string) string {
	t.Helper()
	out, err := runCommand(line)
	if errors.Is(err, exec.ErrNotFound) {
		unavailable(t, "%v", err)
	}
	require.NoError(t, err)
	return out
}

func runCommand(line string) (out string, err error) {
	words := strings.Fields(line)
	path, err := exec.LookPath(words[0])
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // not in every PATH
		if _, missing := os.Stat(dir + words[0]); err != nil && missing == nil {
			path, err = dir+words[0], nil
		}
	}
	if err != nil {
		return "", err
	}
	b, err := exec.Command(path, words[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", line, err, b)
	}
	return string(b), err
}

// Blackhole listens on an address of which the kernel drops all further attempts to
// connect: the backlog of 0 is full with one connection, and no goroutine accepts.
func Blackhole(t testing.TB) (address string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	address = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 2 { // fill it
		if conn, err := net.DialTimeout("tcp", address, 50*time.Millisecond); err == nil {
			t.Cleanup(func() { conn.Close() })
		}
	}
	return address
}

// LimitFiles lets the process open no more files until the test has ended.
func LimitFiles(t testing.TB) (restore func()) {
	t.Helper()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	restore = func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }
	t.Cleanup(restore)
	none := limit
	none.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	return restore
}

// OpenFiles returns how many files the process has open.
func OpenFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries) - 1 // without that of the directory
}
