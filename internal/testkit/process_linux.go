package testkit

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// The other processes of tests with several: servers that can be stopped and killed, and
// Clients that can be.

// A Process is a child of the test. It takes commands and answers with lines.
type Process struct {
	*exec.Cmd
	in   io.WriteCloser
	pipe *os.File
	out  *bufio.Reader
}

// StartProcess starts the child of that name. It is killed with the test; it also ends
// by itself when the test does.
func StartProcess(t testing.TB, name string, attr *syscall.SysProcAttr, environment ...string) *Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), childVariable+"="+name), environment...)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &Process{Cmd: cmd, in: in, pipe: out.(*os.File), out: bufio.NewReader(out)}
}

// Line returns the next line that the process writes.
func (p *Process) Line(t testing.TB) string {
	t.Helper()
	p.pipe.SetReadDeadline(time.Now().Add(Patience))
	line, err := p.out.ReadString('\n')
	require.NoError(t, err, "the process says no more: %q", line)
	return strings.TrimSuffix(line, "\n")
}

// Do gives the process a command and returns its answer.
func (p *Process) Do(t testing.TB, command string) string {
	t.Helper()
	_, err := io.WriteString(p.in, command+"\n")
	require.NoError(t, err)
	return p.Line(t)
}

// Stop suspends the process, and returns when it stands still.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGSTOP))
	p.AwaitStop(t)
}

// AwaitStop returns when the process stands still.
func (p *Process) AwaitStop(t testing.TB) {
	t.Helper()
	Eventually(t, "the process is suspended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		require.NoError(t, err)
		_, state, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(state, "T")
	})
}

// Resume lets a suspended process go on.
func (p *Process) Resume(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGCONT))
}

// Kill ends the process at once.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Kill())
	p.Wait()
}

// Commands hands the lines of the standard input to handle, and ends the process with
// them.
func Commands(handle func(line string) string) int {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(handle(lines.Text()))
	}
	return 0
}

// HostProcess is a machine with servers: "serve ADDRESS" starts one, which answers pings
// with pongs and sends back all else. Other commands are run.
func HostProcess() int {
	return Commands(func(line string) string {
		address, serve := strings.CutPrefix(line, "serve ")
		if !serve {
			if _, err := runCommand(line); err != nil {
				return err.Error()
			}
			return "done"
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err.Error()
		}
		return tcpclienttest.NewServerOn(l, nil, answering).Addr
	})
}

// answering is a Handler that answers pings and echoes.
func answering(conn *tcpclienttest.Conn) {
	for msg := range conn.Messages() {
		if string(msg) == "ping" {
			msg = []byte("pong")
		}
		if conn.Send(msg) != nil {
			return
		}
	}
}

// StartHost starts a host on this network.
func StartHost(t testing.TB) (host *Process, address string) {
	t.Helper()
	host = StartProcess(t, "host", nil)
	address = host.Do(t, "serve 127.0.0.1:0")
	require.NotEmpty(t, address)
	return host, address
}

// StartNeighbour starts a host with a network of its own at the other end of a cable:
// here is v0 with 10.9.0.1, there v1 with 10.9.0.2. It needs a namespace.
func StartNeighbour(t testing.TB) (host *Process, address string) {
	t.Helper()
	host = StartProcess(t, "host", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	Command(t, "ip link add v0 type veth peer name v1")
	Command(t, fmt.Sprintf("ip link set v1 netns %d", host.Process.Pid))
	for _, line := range []string{"ip link set lo up", "ip addr add 10.9.0.2/24 dev v1", "ip link set v1 up"} {
		require.Equal(t, "done", host.Do(t, line))
	}
	Command(t, "ip addr add 10.9.0.1/24 dev v0")
	Command(t, "ip link set v0 up")
	return host, host.Do(t, "serve 10.9.0.2:0")
}
