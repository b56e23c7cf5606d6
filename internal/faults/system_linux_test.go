package faults

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rows of FAULTS.md for which it takes the kernel: other processes, networks that
// fail. They wait for real time, and so they run side by side.
func init() {
	maps.Copy(systemFaults, map[string]func(t *testing.T){
		"B8 processor time while idle and while the server is down": slow(faultProcessorTime),
		"H8 ping behind our own data on a slow link":                apart(faultSlowLink),
		"L20 fork and exec":                               beside(faultInherited),
		"S10 connection aborted by the system":            apart(faultAborted),
		"S11 half-open while we write":                    apart(faultHalfOpenWriting),
		"S12 half-open while we receive":                  apart(faultHalfOpenIdle),
		"S14 short outage":                                apart(faultOutage),
		"Y1 one processor and goroutines that never rest": slow(faultBusy),
		"Y2 peer process is suspended":                    beside(faultPeerSuspended),
		"Y2 client process is suspended":                  slow(faultSuspended),
		"Y2 client process is suspended in Close":         beside(faultSuspendedInClose),
		"Y3 peer process is killed":                       beside(faultKilled),
		"Y4 peer host vanishes":                           apart(faultHostVanishes),
		"Y5 local link down for a while":                  apart(faultLinkDown),
		"Y6 local address removed":                        apart(faultAddressRemoved),
		"Y8 packets are lost":                             apart(faultLoss),
		"Y9 packets are late, out of order and doubled":   apart(faultDisorder),
		"Y11 firewall forgets an idle connection":         apart(faultForgotten),
		"Y12 middlebox resets an idle connection":         apart(faultMiddlebox),
	})
}

// apart runs a row beside the others, in a network of its own.
func apart(test func(t *testing.T)) func(t *testing.T) {
	return beside(func(t *testing.T) { testkit.InNamespace(t, test) })
}

// soon is a heartbeat that finds a dead peer in less than a second, forgiving is one
// that bears several seconds of silence.
var (
	soon      = testkit.RealHeartbeat(200*time.Millisecond, 600*time.Millisecond)
	forgiving = testkit.RealHeartbeat(200*time.Millisecond, 15*time.Second)
)

// listenAnswering listens with a server that answers.
func listenAnswering(t testing.TB, network, address string) *testkit.Listener {
	l := testkit.ListenOn(t, network, address)
	l.Each(func(conn net.Conn) { testkit.NewPeer(t, conn).Answer() })
	return l
}

// port is the port of an address.
func port(address net.Addr) string {
	_, port, _ := net.SplitHostPort(address.String())
	return port
}

// cut drops all packets to and from a port of this network.
func cut(t testing.TB, port string) (heal func()) {
	t.Helper()
	testkit.Command(t, "iptables -I INPUT -p tcp --dport "+port+" -j DROP")
	testkit.Command(t, "iptables -I INPUT -p tcp --sport "+port+" -j DROP")
	return func() {
		testkit.Command(t, "iptables -D INPUT -p tcp --dport "+port+" -j DROP")
		testkit.Command(t, "iptables -D INPUT -p tcp --sport "+port+" -j DROP")
	}
}

// echoed sends messages, and wants them back, each once and in order.
func echoed(t testing.TB, c *tcpclient.Client, want ...string) {
	t.Helper()
	sent := testkit.Start(t, func() error { return sendAll(t, c, want) })
	requireNext(t, c, want)
	require.NoError(t, sent())
}

func sendAll(t testing.TB, c *tcpclient.Client, msgs []string) error {
	for _, msg := range msgs {
		if err := c.Send(t.Context(), []byte(msg)); err != nil {
			return err
		}
	}
	return nil
}

// survives wants the connection to outlive an outage of a second in which we send.
func survives(t testing.TB, c *tcpclient.Client, outage func() (heal func())) {
	t.Helper()
	echoed(t, c, "before")
	heal := outage()
	want := testkit.Numbered(50, 200)
	require.NoError(t, sendAll(t, c, want))
	<-time.After(time.Second) // the outage
	heal()
	requireNext(t, c, want)
	echoed(t, c, "after")
	require.EqualValues(t, 1, c.Stats().Connects)
}

// dead checks that the peer was found dead after began, and not before its time.
func dead(t testing.TB, err error, began time.Time) {
	t.Helper()
	testkit.RequireHeartbeatTimeout(t, err)
	require.GreaterOrEqual(t, time.Since(began), soon.Timeout)
	require.Less(t, time.Since(began), testkit.Patience)
}

func faultAborted(t *testing.T) {
	l := testkit.ListenTCP(t)
	c, p := l.Connect(t, tcpclient.Dialer{Reconnect: testkit.FastBackoff()})
	testkit.RequireAlive(t, c, p)
	if killed := testkit.Command(t, "ss -K dst "+l.Addr().String()); !strings.Contains(killed, port(l.Addr())) {
		t.Skip("this kernel cannot abort connections (INET_DIAG_DESTROY)")
	}
	_, err := c.Receive(testkit.Within(t, testkit.Patience))
	require.ErrorIs(t, err, syscall.ECONNABORTED)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	testkit.RequireAlive(t, c, l.AcceptPeer(t))
}

func faultHalfOpenWriting(t *testing.T) {
	l := listenAnswering(t, "tcp", "127.0.0.1:0")
	tests := []struct {
		name string
		d    tcpclient.Dialer
		want error
	}{
		{"Heartbeat", tcpclient.Dialer{Heartbeat: soon}, tcpclient.ErrHeartbeatTimeout},
		{"UserTimeout", tcpclient.Dialer{UserTimeout: 700 * time.Millisecond}, syscall.ETIMEDOUT},
		{"WriteTimeout", tcpclient.Dialer{WriteTimeout: 700 * time.Millisecond}, tcpclient.ErrWriteTimeout},
	}
	clients := make([]*tcpclient.Client, len(tests))
	for i := range tests {
		clients[i] = l.Dial(t, tests[i].d)
		echoed(t, clients[i], "alive")
	}
	cut(t, port(l.Addr()))
	began := time.Now()
	var wg sync.WaitGroup
	for i, test := range tests {
		wg.Go(func() {
			var err error
			for err == nil {
				err = clients[i].Send(testkit.Within(t, testkit.Patience), testkit.Pattern(100_000))
			}
			assert.ErrorIs(t, err, test.want, test.name)
			assert.ErrorIs(t, err, tcpclient.ErrDisconnected, test.name)
			assert.Less(t, time.Since(began), testkit.Patience, "%s: the kernel alone takes a quarter of an hour", test.name)
		})
	}
	wg.Wait()
}

func faultHalfOpenIdle(t *testing.T) {
	l := listenAnswering(t, "tcp", "127.0.0.1:0")
	c := l.Dial(t, tcpclient.Dialer{Heartbeat: soon, Reconnect: testkit.FastBackoff(), Timeout: time.Second})
	began := time.Now()
	echoed(t, c, "before")
	heal := cut(t, port(l.Addr()))
	_, err := c.Receive(testkit.Within(t, testkit.Patience))
	dead(t, err, began)
	heal()
	echoed(t, c, "after")
}

func faultOutage(t *testing.T) {
	l := listenAnswering(t, "tcp", "127.0.0.1:0")
	c := l.Dial(t, tcpclient.Dialer{Heartbeat: forgiving})
	survives(t, c, func() (heal func()) { return cut(t, port(l.Addr())) })
}

func faultSlowLink(t *testing.T) {
	// 4 Mbit/s: a ping waits in the kernel for 2 s, after 1 MiB of our own. The shaper
	// drops packets as large as those of loopback normally are.
	testkit.Command(t, "ip link set lo mtu 1500")
	testkit.Command(t, "tc qdisc add dev lo root tbf rate 4mbit burst 20kb limit 60kb")
	const size = 1 << 20
	l := testkit.ListenTCP(t)
	l.Each(func(conn net.Conn) {
		p := testkit.NewPeer(t, conn)
		for {
			msg, err := p.Next()
			switch {
			case err != nil:
				return
			case msg == "ping":
				msg = "pong"
			case len(msg) == size:
				msg = "all"
			}
			p.Write(testkit.Frame(msg))
		}
	})
	c := l.Dial(t, tcpclient.Dialer{Heartbeat: testkit.RealHeartbeat(200*time.Millisecond, 1200*time.Millisecond)})
	began := time.Now()
	require.NoError(t, c.Send(t.Context(), testkit.Pattern(size)))
	requireNext(t, c, []string{"all"})
	require.Greater(t, time.Since(began), 1500*time.Millisecond, "the link is slow")
	echoed(t, c, "alive")
	require.EqualValues(t, 1, c.Stats().Connects)
}

func faultPeerSuspended(t *testing.T) {
	host, address := testkit.StartHost(t)
	c, err := (&tcpclient.Dialer{Heartbeat: soon}).Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer c.Close()
	began := time.Now()
	echoed(t, c, "alive")
	host.Stop(t)
	require.NoError(t, c.Send(t.Context(), []byte("its kernel takes it")))
	_, err = c.Receive(testkit.Within(t, testkit.Patience))
	dead(t, err, began)
}

func faultSuspended(t *testing.T) {
	// When it goes on, a timer has passed long ago: that for the next ping, or that for
	// the answer to the last.
	for name, want := range map[string][]string{
		"while nothing is said":                       nil,
		"while its ping is answered and more is said": testkit.Numbered(100, 10),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := testkit.ListenTCP(t)
			client := testkit.StartProcess(t, "client", nil, argument(l.Addr(), testkit.RealHeartbeat(200*time.Millisecond, 3*time.Second)))
			p := l.AcceptPeer(t)
			require.Equal(t, "connected", client.Line(t))
			require.Equal(t, "ping", p.Receive())
			if want == nil {
				p.Send("pong")
			}
			client.Stop(t)
			if want != nil {
				p.Send(append([]string{"pong"}, want...)...)
			}
			<-time.After(5 * time.Second) // more than Interval and Timeout
			go p.Answer()
			client.Resume(t)
			for _, msg := range want {
				require.Equal(t, "received "+msg, client.Line(t), "no peer was dead")
			}
			p.Write(testkit.Frame("alive"))
			require.Equal(t, "received alive", client.Line(t), "no peer was dead")
		})
	}
}

func faultSuspendedInClose(t *testing.T) {
	for _, kind := range []string{"tcp", "tls"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := testkit.TransportNamed(kind).Listen(t)
			client := testkit.StartProcess(t, "closing client", nil, fmt.Sprintf("%s=%s %s", argumentVariable, kind, l.Addr()))
			p := l.AcceptPeer(t)
			client.AwaitStop(t)
			<-time.After(2 * time.Second) // more than Close takes
			client.Resume(t)
			require.Equal(t, "closed: <nil>", client.Line(t))
			require.Equal(t, "written: <nil>", client.Line(t))
			require.Equal(t, "nothing is left", client.Line(t))
			require.Equal(t, "flushed", p.Receive())
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
		})
	}
}

// argument is that of a client process.
func argument(address net.Addr, h tcpclient.Heartbeat) string {
	return fmt.Sprintf("%s=%s %v %v", argumentVariable, address, h.Interval, h.Timeout)
}

func faultBusy(t *testing.T) {
	// 80 goroutines that take 10 ms each: the Client's gets its turn every 800 ms.
	l := testkit.ListenTCP(t)
	client := testkit.StartProcess(t, "client", nil, argument(l.Addr(), testkit.RealHeartbeat(200*time.Millisecond, 2*time.Second)), "GOMAXPROCS=1")
	p := l.AcceptPeer(t)
	stop := make(chan struct{})
	answered := testkit.Start(t, func() error { // from the beginning
		for {
			select {
			case <-stop:
				_, err := p.Write(testkit.Frame("alive"))
				return err
			default:
			}
			if msg, err := p.Next(); err != nil || msg != "ping" {
				return fmt.Errorf("%q, %w", msg, err)
			}
			if _, err := p.Write(testkit.Frame("pong")); err != nil {
				return err
			}
		}
	})
	require.Equal(t, "connected", client.Line(t))
	require.Equal(t, "spinning", client.Do(t, "spin 80"))
	time.Sleep(4 * time.Second) // so long no goroutine rests
	close(stop)
	require.NoError(t, answered())
	require.Equal(t, "received alive", client.Line(t), "no peer was dead")
}

func faultKilled(t *testing.T) {
	for _, unread := range []bool{false, true} {
		host, address := testkit.StartHost(t)
		c, err := tcpclient.Dial(t.Context(), "tcp", address)
		require.NoError(t, err)
		defer c.Close()
		echoed(t, c, "alive")
		if unread { // then the kernel says RST
			host.Stop(t)
			require.NoError(t, c.Send(t.Context(), testkit.Pattern(100_000)))
		}
		host.Kill(t)
		_, err = c.Receive(testkit.Within(t, testkit.Patience))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		if unread {
			require.ErrorIs(t, err, syscall.ECONNRESET)
		} else {
			require.ErrorIs(t, err, io.EOF)
		}
	}
}

func faultHostVanishes(t *testing.T) {
	host, address := testkit.StartNeighbour(t)
	d := tcpclient.Dialer{Heartbeat: soon}
	idle, err := d.Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer idle.Close()
	writing, err := d.Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer writing.Close()
	began := time.Now()
	echoed(t, idle, "alive")
	echoed(t, writing, "alive")
	// Without a last word: first the cable, then the process and with it the network.
	require.Equal(t, "done", host.Do(t, "ip link set v1 down"))
	host.Kill(t)
	for err == nil {
		err = writing.Send(testkit.Within(t, testkit.Patience), testkit.Pattern(1000))
	}
	dead(t, err, began)
	_, err = idle.Receive(testkit.Within(t, testkit.Patience))
	dead(t, err, began)
}

func faultLinkDown(t *testing.T) {
	_, address := testkit.StartNeighbour(t)
	c, err := (&tcpclient.Dialer{Heartbeat: forgiving}).Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer c.Close()
	survives(t, c, func() (heal func()) {
		testkit.Command(t, "ip link set v0 down")
		return func() { testkit.Command(t, "ip link set v0 up") }
	})
}

func faultAddressRemoved(t *testing.T) {
	_, address := testkit.StartNeighbour(t)
	c, err := (&tcpclient.Dialer{Heartbeat: soon, Reconnect: testkit.FastBackoff()}).Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer c.Close()
	began := time.Now()
	echoed(t, c, "before")
	require.Contains(t, c.LocalAddr().String(), "10.9.0.1:")
	testkit.Command(t, "ip addr del 10.9.0.1/24 dev v0")
	_, err = c.Receive(testkit.Within(t, testkit.Patience))
	dead(t, err, began)
	testkit.Command(t, "ip addr add 10.9.0.3/24 dev v0")
	echoed(t, c, "after")
	require.Contains(t, c.LocalAddr().String(), "10.9.0.3:")
}

func faultLoss(t *testing.T) {
	// What is lost is sent again after 200 ms, and then after twice that.
	there, both := []string{"--dport"}, []string{"--dport", "--sport"}
	for _, test := range []struct {
		percent, messages int
		sides             []string // with 30 % both ways TCP itself gives up now and then
	}{{1, 1000, both}, {10, 100, both}, {30, 15, there}} {
		t.Run(fmt.Sprintf("%d %%", test.percent), func(t *testing.T) {
			t.Parallel()
			l := listenAnswering(t, "tcp", "127.0.0.1:0")
			c := l.Dial(t, tcpclient.Dialer{NetDialer: &net.Dialer{KeepAlive: -1}}) // three lost probes would end it
			for _, side := range test.sides {
				testkit.Command(t, fmt.Sprintf("iptables -w -A INPUT -p tcp %s %s -m statistic --mode random --probability 0.%02d -j DROP", side, port(l.Addr()), test.percent))
			}
			echoed(t, c, testkit.Numbered(test.messages, 1000)...)
			require.EqualValues(t, 1, c.Stats().Connects)
		})
	}
}

func faultDisorder(t *testing.T) {
	// A network that is a program: what is sent to 10.8.0.2 comes back from there.
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no network of our own: /dev/net/tun: %v", err)
	}
	request := struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}{name: [16]byte{'t', 'u', 'n', '0'}, flags: syscall.IFF_TUN | syscall.IFF_NO_PI}
	_, _, failed := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request)))
	require.Zero(t, failed, failed)
	tun := os.NewFile(uintptr(fd), "tun0") // only now: it cannot be polled before
	defer tun.Close()
	testkit.Command(t, "ip addr add 10.8.0.1/24 dev tun0")
	testkit.Command(t, "ip link set tun0 up")
	var forwarded, doubled atomic.Int32
	go forward(tun, func() (delay time.Duration, copies int) {
		forwarded.Add(1)
		if copies = 1; rand.IntN(10) == 0 {
			copies = 2
			doubled.Add(1)
		}
		return 50*time.Millisecond + rand.N(100*time.Millisecond), copies
	})
	l := listenAnswering(t, "tcp", "10.8.0.1:0")
	c, err := (&tcpclient.Dialer{Heartbeat: forgiving}).Dial(t.Context(), "tcp", "10.8.0.2:"+port(l.Addr()))
	require.NoError(t, err)
	defer c.Close()
	echoed(t, c, testkit.Numbered(100, 3000)...)
	require.EqualValues(t, 1, c.Stats().Connects)
	require.Greater(t, forwarded.Load(), int32(100))
	require.Positive(t, doubled.Load())
}

// forward hands the packets that are sent into tun back, with their addresses
// exchanged, which leaves their checksums right, after a delay and as often as fate says.
func forward(tun *os.File, fate func() (delay time.Duration, copies int)) {
	for {
		packet := make([]byte, 2000)
		n, err := tun.Read(packet)
		if err != nil {
			return
		}
		if packet = packet[:n]; packet[0]>>4 != 4 {
			continue
		}
		var source [4]byte
		copy(source[:], packet[12:16])
		copy(packet[12:16], packet[16:20])
		copy(packet[16:20], source[:])
		delay, copies := fate()
		for i := range copies {
			time.AfterFunc(delay*time.Duration(i+1), func() { tun.Write(packet) })
		}
	}
}

func faultForgotten(t *testing.T) {
	// The list has those who were heard of in the last seconds; others are dropped.
	forget := func(t *testing.T, port string, after int) {
		for _, rule := range []string{
			"--dport %[1]s --syn -m recent --name f%[1]s --set -j ACCEPT",
			"--dport %[1]s -m recent --name f%[1]s --update --seconds %[2]d -j ACCEPT",
			"--sport %[1]s -m recent --name f%[1]s --update --seconds %[2]d -j ACCEPT",
		} {
			testkit.Command(t, "iptables -w -A INPUT -p tcp "+fmt.Sprintf(rule, port, after))
		}
		testkit.Command(t, "iptables -w -A INPUT -p tcp --dport "+port+" -j DROP")
		testkit.Command(t, "iptables -w -A INPUT -p tcp --sport "+port+" -j DROP")
	}
	t.Run("which pings keep alive", func(t *testing.T) {
		t.Parallel()
		l := listenAnswering(t, "tcp", "127.0.0.1:0")
		forget(t, port(l.Addr()), 2)
		pongs := make(chan struct{}, 1000)
		c := l.Dial(t, tcpclient.Dialer{
			Heartbeat: testkit.RealHeartbeat(150*time.Millisecond, 10*time.Second),
			Trace:     &tcpclient.Trace{Pong: func(time.Duration) { pongs <- struct{}{} }},
		})
		for began := time.Now(); time.Since(began) < 3*time.Second; {
			<-pongs
		}
		echoed(t, c, "alive")
		require.EqualValues(t, 1, c.Stats().Connects)
	})
	t.Run("which pings come too late for", func(t *testing.T) {
		t.Parallel()
		l := listenAnswering(t, "tcp", "127.0.0.1:0")
		forget(t, port(l.Addr()), 1)
		c := l.Dial(t, tcpclient.Dialer{
			Heartbeat: testkit.RealHeartbeat(1500*time.Millisecond, 2*time.Second), Reconnect: testkit.FastBackoff(),
		})
		_, err := c.Receive(testkit.Within(t, testkit.Patience))
		testkit.RequireHeartbeatTimeout(t, err)
		echoed(t, c, "alive")
	})
}

func faultMiddlebox(t *testing.T) {
	l := listenAnswering(t, "tcp", "127.0.0.1:0")
	var lost atomic.Int32
	c := l.Dial(t, tcpclient.Dialer{
		Heartbeat: forgiving, Reconnect: testkit.FastBackoff(),
		Trace: &tcpclient.Trace{Disconnected: func(string, error) { lost.Add(1) }},
	})
	echoed(t, c, "alive")
	rule := "INPUT -p tcp --dport " + port(l.Addr()) + " -j REJECT --reject-with tcp-reset"
	testkit.Command(t, "iptables -A "+rule)
	_, err := c.Receive(testkit.Within(t, testkit.Patience))
	require.ErrorIs(t, err, syscall.ECONNRESET, "the answer to the next ping")
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	testkit.Command(t, "iptables -D "+rule)
	echoed(t, c, "alive")
	require.EqualValues(t, 1, lost.Load())
}

func faultInherited(t *testing.T) {
	for _, name := range []string{"tcp", "unix"} {
		c, p := testkit.TransportNamed(name).Connect(t, tcpclient.Dialer{})
		testkit.RequireAlive(t, c, p)
		other := testkit.StartProcess(t, "host", nil)
		require.Equal(t, "done", other.Do(t, "true"), "it runs")
		ours, theirs := sockets(t, os.Getpid()), sockets(t, other.Process.Pid)
		require.NotEmpty(t, ours)
		for socket := range theirs {
			require.NotContains(t, ours, socket)
		}
		require.NoError(t, c.Close())
		_, err := p.Next()
		require.Equal(t, io.EOF, err, "no other process holds the connection")
	}
}

// sockets are those that a process has open.
func sockets(t testing.TB, pid int) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	found := make(map[string]bool)
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			found[target] = true
		}
	}
	return found
}

func faultProcessorTime(t *testing.T) {
	host, address := testkit.StartHost(t)
	client := testkit.StartProcess(t, "client", nil, fmt.Sprintf("%s=%s %v %v", argumentVariable, address, soon.Interval, 10*time.Second))
	require.Equal(t, "connected", client.Line(t))
	measure := func() (ms, attempts int) {
		t.Helper()
		said := client.Do(t, "measure")
		for strings.HasPrefix(said, "lost: ") {
			said = client.Line(t)
		}
		_, err := fmt.Sscanf(said, "used %d ms, %d attempts", &ms, &attempts)
		require.NoError(t, err, said)
		t.Log(said)
		require.Less(t, time.Duration(ms)*time.Millisecond, measured/10)
		return ms, attempts
	}
	_, attempts := measure()
	require.Equal(t, 1, attempts)
	host.Kill(t) // its backlog may take one more connection
	require.Contains(t, client.Line(t), "lost: ")
	_, attempts = measure()
	require.Greater(t, attempts, 2, "it tries")
	require.Less(t, attempts, 1+20, "R2: never more in 10 s")
}
