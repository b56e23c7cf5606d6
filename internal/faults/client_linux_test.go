package faults

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

func init() {
	children["host"] = testkit.HostProcess
	children["client"] = clientProcess
	children["closing client"] = closingProcess
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
		Heartbeat: testkit.RealHeartbeat(interval, timeout),
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
	return testkit.Commands(func(line string) string {
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

// closingProcess is a program that closes its Client, and is suspended while that writes: what was
// not flushed, or with "tls" the last words of that. Its argument is that or "tcp", and an address
// to dial. It tells what Close returns, and that nothing is left.
func closingProcess() int {
	ctx := context.Background()
	kind, address, _ := strings.Cut(os.Getenv(argumentVariable), " ")
	var conn *suspending
	d := tcpclient.Dialer{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := new(net.Dialer).DialContext(ctx, network, address)
		conn = &suspending{Conn: raw, written: make(chan error, 1)}
		return conn, err
	}}
	if kind == "tls" {
		d.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	c, err := d.Dial(ctx, "tcp", address)
	if err == nil {
		err = c.Write(ctx, []byte("flushed"))
	}
	if err == nil && kind == "tls" {
		err = c.Flush(ctx)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	conn.suspends.Store(true)
	fmt.Println("closed:", c.Close())
	fmt.Println("written:", <-conn.written)
	for range 1000 {
		if !strings.Contains(testkit.Stacks(), "(*Client).run") {
			fmt.Println("nothing is left")
			return 0
		}
		runtime.Gosched() // it may be on its way out
	}
	fmt.Println(testkit.Stacks())
	return 1
}

// A suspending is a connection whose process may suspend itself in a Write, and is slow to go on.
type suspending struct {
	net.Conn
	suspends atomic.Bool
	written  chan error // what became of that Write
}

func (c *suspending) Write(p []byte) (int, error) {
	if !c.suspends.CompareAndSwap(true, false) {
		return c.Conn.Write(p)
	}
	last := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return 0, err
	}
	for time.Since(last) < time.Second { // the signal may be for another thread, and takes a moment
		last = time.Now()
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	n, err := c.Conn.Write(p)
	c.written <- err
	return n, err
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

// argumentVariable has the argument of a child.
const argumentVariable = "TCPCLIENT_TEST_ARGUMENT"
