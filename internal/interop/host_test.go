package interop

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A host is a server that can be stopped, continued, killed, and run again at the same address.
type host struct {
	server  // the present process
	command func() *exec.Cmd
	startup time.Duration // how long a process may take until it accepts connections
	output  logBuffer     // of all processes
}

// startHost is startServer for a server that the test restarts.
func startHost(t *testing.T, name string, args func(port string) []string) *host {
	t.Helper()
	return startHostAs(t, nil, name, args)
}

// startHostAs is startHost for a server that refuses to run as root. A nil user is our own.
func startHostAs(t *testing.T, user *syscall.Credential, name string, args func(port string) []string) *host {
	t.Helper()
	return startSlowHost(t, user, patience, name, args)
}

// startSlowHost is startHostAs for a server that may take so long until it accepts connections.
func startSlowHost(t *testing.T, user *syscall.Credential, startup time.Duration, name string, args func(port string) []string) *host {
	t.Helper()
	path, dir := find(t, name), directoryOf(t, user)
	// Between choosing a port and the server's bind somebody else may take it.
	for try := 1; ; try++ {
		port := freePort(t)
		h := &host{startup: startup}
		h.address = net.JoinHostPort("127.0.0.1", port)
		h.command = func() *exec.Cmd {
			cmd := exec.Command(path, args(port)...)
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
			cmd.Stdout, cmd.Stderr = &h.output, &h.output
			cmd.WaitDelay = patience // for those that it has started, and that hold its output
			return cmd
		}
		if h.run(t) {
			t.Cleanup(func() {
				h.kill()
				if t.Failed() {
					t.Logf("%s said:\n%s", name, h.output.String())
				}
			})
			return h
		}
		if try == 3 {
			t.Fatalf("%s did not accept connections on %s:\n%s", name, h.address, h.output.String())
		}
	}
}

// run starts the process. It reports whether that accepts connections. If not, it has ended.
func (h *host) run(t *testing.T) bool {
	t.Helper()
	cmd := h.command()
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() { // until the process has ended
		cmd.Wait()
		close(exited)
	}()
	h.process, h.exited = cmd.Process, exited
	if accepts(t, h.address, exited, h.startup) {
		return true
	}
	h.kill()
	return false
}

// signal sends a signal to the server and to all the processes that it has started.
func (h *host) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	// First to the server: one that is stopped starts no more.
	require.NoError(t, h.process.Signal(sig))
	for _, pid := range descendants(h.process.Pid) {
		_ = syscall.Kill(pid, sig) // it may have ended
	}
}

// restart kills the server and runs it again.
func (h *host) restart(t *testing.T) {
	t.Helper()
	h.kill()
	for deadline := time.Now().Add(h.startup); !h.run(t); {
		require.True(t, time.Now().Before(deadline), "it does not start again:\n%s", h.output.String())
	}
}

// kill ends the server, and all the processes that it has started, by SIGKILL. All are stopped first: what they
// start while they are counted would live on, and keep the port.
func (h *host) kill() {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	var started []int
	signal := func(sig syscall.Signal) {
		_ = h.process.Signal(sig) // it may have ended
		for _, pid := range started {
			_ = syscall.Kill(pid, sig)
		}
	}
	for isRunning(h.process.Pid) || slices.ContainsFunc(started, isRunning) {
		signal(syscall.SIGSTOP)
		<-again.C
		started = descendants(h.process.Pid)
	}
	signal(syscall.SIGKILL)
	<-h.exited
}

// isRunning reports whether a process has neither ended nor been stopped.
func isRunning(pid int) bool {
	state, _, exists := processStat(pid)
	return exists && state != 'T' && state != 'Z' && state != 'X'
}

// processStat returns the state and the parent of a process: proc_pid_stat(5).
func processStat(pid int) (state byte, parent int, exists bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	// pid (command) state parent …
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err == nil
}

// descendants returns the processes that the process pid has started, and those that they have.
func descendants(pid int) (pids []int) {
	children := make(map[int][]int)
	directories, _ := filepath.Glob("/proc/[0-9]*")
	for _, directory := range directories {
		child, _ := strconv.Atoi(filepath.Base(directory))
		if _, parent, exists := processStat(child); exists {
			children[parent] = append(children[parent], child)
		}
	}
	for next := children[pid]; len(next) > 0; next = next[1:] {
		pids = append(pids, next[0])
		next = append(next, children[next[0]]...)
	}
	return pids
}
