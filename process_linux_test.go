package tcpclient_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// The other processes of tests with several: servers that can be stopped and killed, and
// Clients that can be.

func init() {
	children["host"] = hostProcess
	children["client"] = clientProcess
}

// argumentVariable has the argument of a child.
const argumentVariable = "TCPCLIENT_TEST_ARGUMENT"

// A process is a child of the test. It takes commands and answers with lines.
type process struct {
	*exec.Cmd
	in   io.WriteCloser
	pipe *os.File
	out  *bufio.Reader
}

// startProcess starts the child of that name. It is killed with the test; it also ends
// by itself when the test does.
func startProcess(t testing.TB, name string, attr *syscall.SysProcAttr, environment ...string) *process {
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
	return &process{Cmd: cmd, in: in, pipe: out.(*os.File), out: bufio.NewReader(out)}
}

// line returns the next line that the process writes.
func (p *process) line(t testing.TB) string {
	t.Helper()
	p.pipe.SetReadDeadline(time.Now().Add(patience))
	line, err := p.out.ReadString('\n')
	require.NoError(t, err, "the process says no more: %q", line)
	return strings.TrimSuffix(line, "\n")
}

// do gives the process a command and returns its answer.
func (p *process) do(t testing.TB, command string) string {
	t.Helper()
	_, err := io.WriteString(p.in, command+"\n")
	require.NoError(t, err)
	return p.line(t)
}

// stop suspends the process, and returns when it stands still.
func (p *process) stop(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGSTOP))
	eventually(t, "the process is suspended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		require.NoError(t, err)
		_, state, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(state, "T")
	})
}

// resume lets a suspended process go on.
func (p *process) resume(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGCONT))
}

// kill ends the process at once.
func (p *process) kill(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Kill())
	p.Wait()
}

// commands hands the lines of the standard input to handle, and ends the process with
// them.
func commands(handle func(line string) string) int {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(handle(lines.Text()))
	}
	return 0
}

// hostProcess is a machine with servers: "serve ADDRESS" starts one, which answers pings
// with pongs and sends back all else. Other commands are run.
func hostProcess() int {
	return commands(func(line string) string {
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

// startHost starts a host on this network.
func startHost(t testing.TB) (host *process, address string) {
	t.Helper()
	host = startProcess(t, "host", nil)
	address = host.do(t, "serve 127.0.0.1:0")
	require.NotEmpty(t, address)
	return host, address
}

// startNeighbour starts a host with a network of its own at the other end of a cable:
// here is v0 with 10.9.0.1, there v1 with 10.9.0.2. It needs a namespace.
func startNeighbour(t testing.TB) (host *process, address string) {
	t.Helper()
	host = startProcess(t, "host", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	command(t, "ip link add v0 type veth peer name v1")
	command(t, fmt.Sprintf("ip link set v1 netns %d", host.Process.Pid))
	for _, line := range []string{"ip link set lo up", "ip addr add 10.9.0.2/24 dev v1", "ip link set v1 up"} {
		require.Equal(t, "done", host.do(t, line))
	}
	command(t, "ip addr add 10.9.0.1/24 dev v0")
	command(t, "ip link set v0 up")
	return host, host.do(t, "serve 10.9.0.2:0")
}

// clientProcess is a program with a Client. Its argument is an address to dial, and
// Interval and Timeout of a heartbeat. It tells what it receives, and how a connection
// ends, after which it reconnects. The command "spin N" starts N goroutines that never
// rest, "measure" tells how much processor time passes in a while.
func clientProcess() int {
	argument := strings.Fields(os.Getenv(argumentVariable))
	interval, _ := time.ParseDuration(argument[1])
	timeout, _ := time.ParseDuration(argument[2])
	var attempts atomic.Int32
	d := tcpclient.Dialer{
		Heartbeat: heartbeat(interval, timeout),
		Reconnect: &tcpclient.Backoff{},
		Trace:     &tcpclient.Trace{Connecting: func(string, int) { attempts.Add(1) }},
	}
	c, err := d.Dial(context.Background(), "tcp", argument[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("connected")
	go func() {
		for {
			msg, err := c.Receive(context.Background())
			if err != nil {
				fmt.Println("lost:", err)
				continue
			}
			fmt.Printf("received %s\n", msg)
		}
	}()
	return commands(func(line string) string {
		var n int
		if _, err := fmt.Sscanf(line, "spin %d", &n); err == nil {
			for range n {
				go func() {
					for rounds := 0; ; rounds++ {
					}
				}()
			}
			return "spinning"
		}
		used := processorTime()
		time.Sleep(measured)
		return fmt.Sprintf("used %d ms, %d attempts", (processorTime() - used).Milliseconds(), attempts.Load())
	})
}

// measured is how long clientProcess measures.
const measured = 2 * time.Second

// processorTime is what the process has used.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
