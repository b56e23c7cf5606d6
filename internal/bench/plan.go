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

// A plan is what is to be measured.
type plan struct {
	workloads  []workload
	contenders []contender
	rounds     int
	span       time.Duration
	idle       int // clients of the idle workloads; 0: as many as these say
	profile    string
}

// main returns p without what is in the tables of all results only.
func (p *plan) main() *plan {
	main := *p
	main.contenders = slices.DeleteFunc(slices.Clone(p.contenders), func(c contender) bool { return c.aside })
	return &main
}

// A pair names what was measured.
type pair struct{ workload, contender string }

// results are the measurements of all rounds, and the one that counted system calls.
type results struct {
	rounds   map[pair][]measurement // in round order; failed ones have an Err
	counts   map[pair]measurement
	count    int
	failures int
}

// execute measures all. Contenders take turns, in another order each round.
func (p *plan) execute(log io.Writer) (*results, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &results{rounds: make(map[pair][]measurement), counts: make(map[pair]measurement)}
	for _, w := range p.workloads {
		fmt.Fprintf(log, "%-26s", w.name)
		for round := range p.rounds {
			if round > 0 && w.work == nil && !strings.Contains(w.name, "=1000") || round > 2 && strings.HasSuffix(w.name, "=10000") {
				break
			}
			fmt.Fprintf(log, " %d", round+1)
			for _, i := range rand.Perm(len(p.contenders)) {
				c := p.contenders[i]
				if !takesPart(c, w) || w.work == nil && round >= 3 {
					continue
				}
				m := p.measure(self, c, w, false)
				r.add(log, pair{w.name, c.name}, m)
				if round == 0 && (w.work != nil && !w.one || w.calls) {
					if m := p.measure(self, c, w, true); m.Err == "" && !m.Unfit {
						r.counts[pair{w.name, c.name}] = m
					}
				}
			}
		}
		fmt.Fprintln(log)
	}
	return r, nil
}

func takesPart(c contender, w workload) bool {
	word, _, _ := strings.Cut(w.name, "/")
	if strings.HasSuffix(w.name, "=10000") && c.wire != "prefix" {
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
func (p *plan) measure(self string, c contender, w workload, count bool) measurement {
	a := assignment{
		Contender: c.name, Workload: w.name, Span: p.span, Count: count, Idle: p.idle,
		Small:   strings.HasPrefix(w.name, "idle") || strings.HasPrefix(w.name, "conns"),
		Profile: p.profile,
	}
	if c.heavy && w.work == nil && a.Idle == 0 {
		a.Idle = 100
	}
	if count {
		a.Span = p.span / 8
	}
	cpus := [2]int{0, min(1, runtime.NumCPU()-1)} // of the server, of the client
	if w.one {
		cpus[0] = cpus[1]
	}
	s, err := startServer(self, c.wire, cpus[0], a)
	if err != nil {
		return measurement{Err: err.Error()}
	}
	defer s.stop()
	a.Addr = s.addr

	cmd := child(self, "client", cpus[1])
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

// child is this program again, on one processor if that can be had.
func child(self, role string, cpu int) *exec.Cmd {
	cmd := pinned(cpu, self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GOMAXPROCS=1",
		"GORACE=atexit_sleep_ms=0") // else each child of a test with -race sleeps a second
	cmd.Stderr = os.Stderr
	return cmd
}

// taskset pins processes. It belongs to util-linux; where it is missing nothing is pinned,
// and the report says so.
var taskset, _ = exec.LookPath("taskset")

func pinned(cpu int, name string, args ...string) *exec.Cmd {
	if taskset == "" {
		return exec.Command(name, args...)
	}
	return exec.Command(taskset, append([]string{"-c", fmt.Sprint(cpu), name}, args...)...)
}

// A serverProcess is one of ours, a redis-server or a natsd.
type serverProcess struct {
	cmd  *exec.Cmd
	quit io.Closer
	addr string
	once sync.Once
}

func startServer(self, wire string, cpu int, a assignment) (*serverProcess, error) {
	switch wire {
	case "redis":
		return startRedis(cpu)
	case "nats":
		var err error
		if self, err = natsd(); err != nil {
			return nil, err
		}
	}
	cmd := child(self, "server", cpu)
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
func startRedis(cpu int) (*serverProcess, error) {
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
