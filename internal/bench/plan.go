package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// patience is how long a child may take for one measurement.
const patience = 90 * time.Second

// longSpans is how many spans a long workload is measured for.
const longSpans = 4

// A plan is what is to be measured.
type plan struct {
	workloads  []workload
	contenders []contender
	rounds     int
	span       time.Duration
	idle       int    // clients of the idle workloads; 0: as many as these say
	profiles   string // a directory; "": none
}

// main returns p without what is in the tables of all results only.
func (p *plan) main() *plan {
	main := *p
	main.contenders = slices.DeleteFunc(slices.Clone(p.contenders), func(c contender) bool { return c.aside })
	return &main
}

// A pair names what was measured.
type pair struct{ workload, contender string }

// results are the measurements of all rounds.
type results struct {
	rounds   map[pair][]measurement // in round order; failed ones have an Err
	count    int
	failures int
}

// execute measures all. Contenders take turns, in another order each round.
func (p *plan) execute(log io.Writer) (*results, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &results{rounds: make(map[pair][]measurement)}
	for _, w := range p.workloads {
		fmt.Fprintf(log, "%-26s", w.name)
		for round := range p.rounds {
			fmt.Fprintf(log, " %d", round+1)
			for _, i := range rand.Perm(len(p.contenders)) {
				if c := p.contenders[i]; takesPart(c, w) {
					r.add(log, pair{w.name, c.name}, p.measure(self, c, w))
				}
			}
		}
		fmt.Fprintln(log)
	}
	return r, nil
}

func takesPart(c contender, w workload) bool {
	word, _, _ := strings.Cut(w.name, "/")
	if w.prefix && c.wire != "prefix" {
		return false
	}
	for _, does := range strings.Fields(c.does) {
		if does == word {
			return true
		}
	}
	return false
}

func (r *results) add(log io.Writer, p pair, m measurement) {
	if m.Unfit {
		return
	}
	r.count++
	if m.Err != "" {
		r.failures++
		fmt.Fprintf(log, "\n%s: %s: %s\n", p.workload, p.contender, m.Err)
	}
	r.rounds[p] = append(r.rounds[p], m)
}

// measure runs one server and one client.
func (p *plan) measure(self string, c contender, w workload) measurement {
	a := assignment{
		Contender: c.name, Workload: w.base(), Span: p.span, Idle: p.idle,
		Small: strings.HasPrefix(w.name, "idle") || strings.HasPrefix(w.name, "conns"),
	}
	if c.heavy && w.work == nil && a.Idle == 0 {
		a.Idle = 100
	}
	if w.long {
		a.Span *= longSpans
	}
	if p.profiles != "" {
		a.Profiles = filepath.Join(p.profiles, strings.NewReplacer("/", "-", " ", "-").Replace(w.name+" "+c.name))
	}
	server, client := "0", fmt.Sprint(min(1, runtime.NumCPU()-1))
	if w.one {
		server = client
	}
	if w.procs > 0 {
		client = ""
	}
	s, err := startServer(self, c.wire, server, a)
	if err != nil {
		return measurement{Err: err.Error()}
	}
	defer s.stop()
	a.Addr = s.addr

	cmd := child(self, "client", client, max(1, w.procs))
	stdin, err := json.Marshal(a)
	if err != nil {
		return measurement{Err: err.Error()}
	}
	cmd.Stdin = strings.NewReader(string(stdin))
	impatience := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer impatience.Stop()
	out, err := cmd.Output()
	var m measurement
	if err == nil {
		err = json.Unmarshal(out, &m)
	}
	if err != nil {
		m.Err = err.Error()
	}
	return m
}

// child is this program again.
func child(self, role, cpu string, procs int) *exec.Cmd {
	cmd := pinned(cpu, self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, fmt.Sprint("GOMAXPROCS=", procs),
		"GORACE=atexit_sleep_ms=0") // else each child of a test with -race sleeps a second
	cmd.Stderr = os.Stderr
	return cmd
}

// taskset pins processes. It belongs to util-linux; where it is missing nothing is pinned,
// and the report says so.
var taskset, _ = exec.LookPath("taskset")

// pinned is a command that runs on that processor; "": on any.
func pinned(cpu, name string, args ...string) *exec.Cmd {
	if taskset == "" || cpu == "" {
		return exec.Command(name, args...)
	}
	return exec.Command(taskset, append([]string{"-c", cpu, name}, args...)...)
}

// A serverProcess is one of ours, a redis-server or a natsd.
type serverProcess struct {
	cmd  *exec.Cmd
	quit io.Closer
	addr string
	once sync.Once
}

func startServer(self, wire, cpu string, a assignment) (*serverProcess, error) {
	switch wire {
	case "redis":
		return startRedis(cpu)
	case "nats":
		var err error
		if self, err = natsd(); err != nil {
			return nil, err
		}
	}
	cmd := child(self, "server", cpu, 1)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &serverProcess{cmd: cmd, quit: stdin}
	if err := json.NewEncoder(stdin).Encode(a); err != nil {
		s.stop()
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("server: %w", err)
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// natsd builds the program of that name, beside this one and not over its folder, and returns where it is.
var natsd = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "bench-natsd")
	if out, err := exec.Command("go", "build", "-o", path, "./natsd").CombinedOutput(); err != nil {
		return "", fmt.Errorf("natsd: %w\n%s", err, out)
	}
	return path, nil
})

// startRedis starts a redis-server that keeps nothing.
func startRedis(cpu string) (*serverProcess, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := pinned(cpu, path, "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--daemonize", "no")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &serverProcess{cmd: cmd, addr: net.JoinHostPort(host, port)}
	for range 500 {
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			conn.Close()
			return s, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	return nil, errors.New("redis-server does not start")
}

func (s *serverProcess) stop() {
	s.once.Do(func() {
		if s.quit != nil {
			s.quit.Close()
		}
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
}
