package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const processVariable = "TCPCLIENT_TEST_PROCESS"

// InProcess runs test in a process of its own, where it may count what the process has
// while other tests run: the test binary runs itself again, with this test only.
func InProcess(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if os.Getenv(processVariable) == t.Name() {
		test(t)
		return
	}
	out, err := runAgain(t, processVariable, nil)
	if err != nil {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	requireRan(t, out)
}

// runAgain runs this test alone in another process, which finds its name in the variable.
func runAgain(t *testing.T, variable string, attr *syscall.SysProcAttr) (output string, err error) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	run := fmt.Sprintf("^%s$", strings.ReplaceAll(quoteTest(t.Name()), "/", "$/^"))
	cmd := exec.Command(self, "-test.run", run, "-test.v", "-test.timeout", "2m", fmt.Sprintf("-test.short=%v", testing.Short()))
	cmd.Env = append(os.Environ(), variable+"="+t.Name(),
		"GORACE="+strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")) // a second otherwise
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// requireRan wants this test to have passed in the other process, and shows what it has
// said there if it is asked for.
func requireRan(t *testing.T, output string) {
	t.Helper()
	require.Contains(t, output, "--- PASS: "+t.Name(), "the test has not run in the other process")
	if testing.Verbose() {
		t.Log(output)
	}
}

// quoteTest quotes what regular expressions would take for more than letters.
func quoteTest(name string) string {
	var b strings.Builder
	for _, c := range name {
		if strings.ContainsRune(`\.+*?()|[]{}^$`, c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return b.String()
}
