package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dialFaults are the rows D of FAULTS.md.
var dialFaults = map[string]func(t *testing.T){
	"D1 connection refused":                      faultRefused,
	"D2 SYN blackhole":                           faultBlackhole,
	"D2 SYN dropped by a packet filter":          faultDropped,
	"D3 ICMP unreachable or no route":            faultUnreachable,
	"D4 dead neighbour":                          faultNeighbour,
	"D5 no such name":                            faultNoSuchName,
	"D6 DNS server refuses":                      faultResolver,
	"D7 slow DNS":                                beside(faultSlowDNS),
	"D8 first family dead":                       faultFamily,
	"D9 both families dead":                      faultFamilies,
	"D10 many addresses, most of them dead":      faultManyAddresses,
	"D11 no file descriptor left":                faultFiles,
	"D12 no local port left":                     faultPorts,
	"D13 TLS handshake stalls":                   beside(faultTLSStall),
	"D14 TLS handshake trickles":                 beside(faultTLSTrickle),
	"D15 certificate is not to be trusted":       faultCertificate,
	"D16 client certificate is missing":          faultClientCertificate,
	"D17 server without TLS":                     faultPlainServer,
	"D17 client without TLS":                     faultPlainClient,
	"D18 DialContext panics":                     faultDialerPanics,
	"D18 DialContext returns nothing":            faultDialerNil,
	"D18 DialContext ignores its context":        testkit.InBubble(faultDialerIgnores),
	"D19 connection comes after the context":     faultLateConnection,
	"connection to itself":                       faultItself,
	"address without a port, network unknown":    faultAddress,
	"many addresses in the call, one of them up": faultAlternatives,
}

// closedPort is an address where no program listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// requireDialError checks what all errors of a failed Dial have in common.
func requireDialError(t testing.TB, err error, op string, class tcpclient.Class) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, op, testkit.OpError(t, err).Op, err)
	require.Equal(t, class, tcpclient.Classify(err), err)
	require.Equal(t, 1, strings.Count(err.Error(), "tcpclient: "), err)
}

// requireOurTimeout checks for the end of a Timeout of ours, as opposed to the caller's
// context.
func requireOurTimeout(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, testkit.OpError(t, err).Timeout())
}

// requireTook wants d to have passed, and little more. A busy machine may be late, it is not early.
func requireTook(t testing.TB, d time.Duration, watch *testkit.Stopwatch) {
	t.Helper()
	require.Greater(t, watch.Elapsed(), d-10*time.Millisecond)
	require.Less(t, watch.Ran(), d+time.Second)
}

func faultRefused(t *testing.T) {
	address := closedPort(t)
	watch := testkit.StartStopwatch(t)
	c, err := tcpclient.Dial(t.Context(), "tcp", address)
	require.Nil(t, c)
	require.Less(t, watch.Ran(), time.Second)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	testkit.RequireErrno(t, err, syscall.ECONNREFUSED)
	require.Equal(t, address, testkit.OpError(t, err).Addr)
	require.False(t, testkit.OpError(t, err).Timeout())
}

func faultBlackhole(t *testing.T) {
	testkit.SkipIfShort(t)
	address := testkit.Blackhole(t)
	before := testkit.OpenFiles(t)

	watch := testkit.StartStopwatch(t)
	_, err := (&tcpclient.Dialer{Timeout: 100 * time.Millisecond}).Dial(t.Context(), "tcp", address)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	requireOurTimeout(t, err)
	requireTook(t, 100*time.Millisecond, watch)

	watch = testkit.StartStopwatch(t)
	_, err = tcpclient.Dial(testkit.Within(t, 100*time.Millisecond), "tcp", address)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireTook(t, 100*time.Millisecond, watch)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = tcpclient.Dial(ctx, "tcp", address)
	require.ErrorIs(t, err, context.Canceled)

	// The next address gets a budget of its own.
	l := testkit.ListenTCP(t)
	c, err := (&tcpclient.Dialer{Timeout: 300 * time.Millisecond}).Dial(t.Context(), "tcp", address, address, l.Addr().String())
	require.NoError(t, err)
	require.Equal(t, l.Addr().String(), c.RemoteAddr().String())
	require.NoError(t, c.Close())
	l.Close()
	testkit.Eventually(t, "all files are closed", func() bool { return testkit.OpenFiles(t) <= before })
}

func faultDropped(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel() // in a process of its own
	testkit.InNamespace(t, func(t *testing.T) {
		l := testkit.ListenTCP(t)
		testkit.Command(t, "iptables -A INPUT -d 127.0.0.2 -p tcp -j DROP")
		watch := testkit.StartStopwatch(t)
		_, err := (&tcpclient.Dialer{Timeout: 200 * time.Millisecond}).Dial(t.Context(), "tcp", "127.0.0.2:9")
		requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
		requireOurTimeout(t, err)
		require.Less(t, watch.Ran(), time.Second)
		c, err := (&tcpclient.Dialer{Timeout: time.Second}).Dial(t.Context(), "tcp", "127.0.0.2:9", l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})
}

func faultUnreachable(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel() // in a process of its own
	testkit.InNamespace(t, func(t *testing.T) {
		l := testkit.ListenTCP(t)
		testkit.Command(t, "iptables -A OUTPUT -d 127.0.0.2 -p tcp -j REJECT --reject-with icmp-host-unreachable")
		for address, want := range map[string]error{"127.0.0.2:9": syscall.EHOSTUNREACH, "192.0.2.1:9": syscall.ENETUNREACH} {
			watch := testkit.StartStopwatch(t)
			_, err := tcpclient.Dial(t.Context(), "tcp", address)
			requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
			require.ErrorIs(t, err, want)
			require.Less(t, watch.Ran(), 3*time.Second)
			c, err := tcpclient.Dial(t.Context(), "tcp", address, l.Addr().String())
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
	})
}

func faultNeighbour(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel() // in a process of its own
	testkit.InNamespace(t, func(t *testing.T) {
		testkit.Command(t, "ip link add v0 type veth peer name v1")
		testkit.Command(t, "ip addr add 10.9.0.1/24 dev v0")
		testkit.Command(t, "ip link set v0 up")
		testkit.Command(t, "ip link set v1 up")
		watch := testkit.StartStopwatch(t)
		_, err := (&tcpclient.Dialer{Timeout: 300 * time.Millisecond}).Dial(t.Context(), "tcp", "10.9.0.99:9")
		requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
		requireOurTimeout(t, err)
		require.Less(t, watch.Ran(), time.Second)
		_, err = tcpclient.Dial(t.Context(), "tcp", "10.9.0.99:9")
		requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
	})
}

// A zone answers DNS queries: the addresses of a name. Names it does not have do not exist.
type zone map[string][]netip.Addr

// resolver returns a Resolver that asks a server with these names.
func (z zone) resolver() *net.Resolver {
	return resolverOf(func(server net.Conn) {
		for {
			var size [2]byte // as over TCP
			if _, err := io.ReadFull(server, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(server, query); err != nil {
				return
			}
			reply := z.answer(query)
			server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}
	})
}

// resolverOf returns a Resolver whose queries a server in memory gets. No packet filter of a
// test gets between, and Wine has no UDP for Go.
func resolverOf(serve func(server net.Conn)) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			serve(server)
		}()
		return client, nil
	}}
}

// answer answers one query (RFC 1035, 4.1).
func (z zone) answer(query []byte) []byte {
	name, at := "", 12
	for n := int(query[at]); n > 0; n = int(query[at]) {
		name += string(query[at+1:at+1+n]) + "."
		at += 1 + n
	}
	question := query[12 : at+5]
	kind := binary.BigEndian.Uint16(query[at+1:])
	addrs, known := z[strings.TrimSuffix(name, ".")]
	var answers []byte
	count := 0
	for _, addr := range addrs {
		if addr.Is4() != (kind == 1) || kind != 1 && kind != 28 {
			continue
		}
		count++
		answers = append(answers, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0)
		answers = binary.BigEndian.AppendUint16(answers, uint16(len(addr.AsSlice())))
		answers = append(answers, addr.AsSlice()...)
	}
	code := byte(0)
	if !known {
		code = 3 // NXDOMAIN
	}
	reply := append([]byte{query[0], query[1], 0x84, code, 0, 1, 0, byte(count), 0, 0, 0, 0}, question...)
	return append(reply, answers...)
}

func faultNoSuchName(t *testing.T) {
	d := tcpclient.Dialer{NetDialer: &net.Dialer{Resolver: zone{}.resolver()}}
	_, err := d.Dial(t.Context(), "tcp", "nowhere.test:9")
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	require.True(t, dns.IsNotFound)

	// What does not exist today may exist tomorrow.
	l := testkit.ListenTCP(t)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	d.NetDialer = &net.Dialer{Resolver: zone{"nowhere.test": {netip.MustParseAddr("127.0.0.1")}}.resolver()}
	c, err := d.Dial(t.Context(), "tcp", "nowhere.test:"+port)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func faultResolver(t *testing.T) {
	d := tcpclient.Dialer{NetDialer: &net.Dialer{Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		},
	}}}
	_, err := d.Dial(t.Context(), "tcp", "name.test:9")
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	require.False(t, dns.IsNotFound)
}

func faultSlowDNS(t *testing.T) {
	resolver := resolverOf(func(server net.Conn) {
		go io.Copy(io.Discard, server)
		<-t.Context().Done() // or the resolver would wait on when the test has ended
	})
	dial := resolver.Dial
	resolver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := t.Context().Err(); err != nil {
			return nil, err
		}
		return dial(ctx, network, address)
	}
	d := tcpclient.Dialer{Timeout: 300 * time.Millisecond, NetDialer: &net.Dialer{Resolver: resolver}}

	watch := testkit.StartStopwatch(t)
	_, err := d.Dial(t.Context(), "tcp", "name.test:9")
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	requireOurTimeout(t, err)
	requireTook(t, 300*time.Millisecond, watch)

	watch = testkit.StartStopwatch(t)
	_, err = d.Dial(testkit.Within(t, 50*time.Millisecond), "tcp", "name.test:9")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireTook(t, 50*time.Millisecond, watch)
}

// addIPv6 gives the namespace the address 2001:db8::1. That the address is its own comes a moment
// after the route to it: till then a SYN is lost, or the network unreachable.
func addIPv6(t *testing.T) {
	t.Helper()
	testkit.Command(t, "ip addr add 2001:db8::1/128 dev lo nodad")
	testkit.Eventually(t, "the address is local", func() bool {
		conn, err := net.DialTimeout("tcp", "[2001:db8::1]:9", 100*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func faultFamily(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel() // in a process of its own
	testkit.InNamespace(t, func(t *testing.T) {
		addIPv6(t)
		testkit.Command(t, "ip6tables -A INPUT -d 2001:db8::1 -p tcp -j DROP")
		l := testkit.ListenTCP(t)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		both := zone{"both.test": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")}}
		d := tcpclient.Dialer{NetDialer: &net.Dialer{Resolver: both.resolver()}}
		before := testkit.OpenFiles(t)
		watch := testkit.StartStopwatch(t)
		c, err := d.Dial(t.Context(), "tcp", "both.test:"+port)
		require.NoError(t, err)
		require.Less(t, watch.Ran(), 3*time.Second, "the other family is tried after 300 ms")
		require.Equal(t, l.Addr().String(), c.RemoteAddr().String())
		require.NoError(t, c.Close())
		testkit.Eventually(t, "the loser is closed", func() bool { return testkit.OpenFiles(t) <= before })
	})
}

func faultFamilies(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel() // in a process of its own
	testkit.InNamespace(t, func(t *testing.T) {
		addIPv6(t)
		testkit.Command(t, "ip6tables -A INPUT -d 2001:db8::1 -p tcp -j DROP")
		testkit.Command(t, "iptables -A INPUT -d 127.0.0.2 -p tcp -j DROP")
		both := zone{"both.test": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.2")}}
		d := tcpclient.Dialer{Timeout: 3 * time.Second, NetDialer: &net.Dialer{Resolver: both.resolver()}}
		watch := testkit.StartStopwatch(t)
		_, err := d.Dial(t.Context(), "tcp", "both.test:9")
		requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
		require.Less(t, watch.Ran(), 4*time.Second)
		require.ErrorContains(t, err, "[2001:db8::1]:9")
		require.ErrorContains(t, err, "127.0.0.2:9")
		require.True(t, testkit.OpError(t, err).Timeout(), "%v", err)
	})
}

func faultManyAddresses(t *testing.T) {
	testkit.SkipIfShort(t)
	l := testkit.ListenOn(t, "tcp", "127.0.20.20:0") // at 127.0.0.1 somebody else may have the port
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var addrs []netip.Addr
	for i := range 20 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 20, byte(i + 1)}))
	}
	d := tcpclient.Dialer{NetDialer: &net.Dialer{Resolver: zone{"many.test": addrs}.resolver()}}
	c, err := d.Dial(t.Context(), "tcp", "many.test:"+port)
	require.NoError(t, err)
	require.Equal(t, l.Addr().String(), c.RemoteAddr().String())
	require.NoError(t, c.Close())

	l.Close()
	_, err = d.Dial(t.Context(), "tcp", "many.test:"+port)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	for _, addr := range addrs {
		require.ErrorContains(t, err, addr.String()+":"+port)
	}
	testkit.RequireErrno(t, err, syscall.ECONNREFUSED)

	// The budget is for all of them.
	hole := testkit.Blackhole(t)
	_, port, _ = net.SplitHostPort(hole)
	at := netip.MustParseAddrPort(hole).Addr()
	d.Timeout = 500 * time.Millisecond
	watch := testkit.StartStopwatch(t)
	d.NetDialer = &net.Dialer{Resolver: zone{"many.test": {at, at, at, at}}.resolver()}
	_, err = d.Dial(t.Context(), "tcp", "many.test:"+port)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	requireTook(t, 500*time.Millisecond, watch)
}

func faultAlternatives(t *testing.T) {
	l := testkit.ListenTCP(t)
	dead := []string{closedPort(t), closedPort(t)}
	c, err := tcpclient.Dial(t.Context(), "tcp", dead[0], dead[1], l.Addr().String())
	require.NoError(t, err)
	require.Equal(t, l.Addr().String(), c.RemoteAddr().String())
	require.NoError(t, c.Close())

	_, err = tcpclient.Dial(t.Context(), "tcp", dead...)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	require.ErrorContains(t, err, dead[0])
	require.ErrorContains(t, err, dead[1])
	testkit.RequireErrno(t, err, syscall.ECONNREFUSED)
	require.NotContains(t, err.Error(), "\n", "an error is one line")
}

func faultFiles(t *testing.T) {
	l := testkit.ListenTCP(t)
	restore := testkit.LimitFiles(t)
	c, err := tcpclient.Dial(t.Context(), "tcp", l.Addr().String())
	restore()
	require.Nil(t, c)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	require.ErrorIs(t, err, syscall.EMFILE)
}

func faultPorts(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel() // in a process of its own
	testkit.InNamespace(t, func(t *testing.T) {
		l := testkit.ListenOn(t, "tcp", "127.0.0.1:39999") // none of these:
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40009"), 0))
		for range 10 {
			c, err := tcpclient.Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
		}
		_, err := tcpclient.Dial(t.Context(), "tcp", l.Addr().String())
		requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
		require.Greater(t, firstWait(t, l.Addr().String()), time.Minute, "the longest at once, drawn from 292 years: only time frees ports")

		// The same error, since this host has no IPv6, of one address of two. (C6)
		const noIPv6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
		if _, err := os.Stat(noIPv6); err != nil {
			t.Skip("this kernel has no IPv6 to disable")
		}
		require.NoError(t, os.WriteFile(noIPv6, []byte("1"), 0))
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("41000 41009"), 0))
		_, err = tcpclient.Dial(t.Context(), "tcp", "[::1]:9")
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
		require.Less(t, firstWait(t, "[::1]:9", closedPort(t)), time.Minute, "as after any other failure")
	})
}

// firstWait returns how long a Client waits after its first attempt, which fails: next to no time, unless
// it begins with the longest wait.
func firstWait(t *testing.T, addresses ...string) (wait time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waits := make(chan time.Duration, 1)
	_, err := (&tcpclient.Dialer{
		Reconnect: &tcpclient.Backoff{Min: 1, Max: math.MaxInt64, FirstDial: true},
		Trace: &tcpclient.Trace{Waiting: func(attempt int, delay time.Duration) {
			if attempt == 2 {
				waits <- delay
				cancel()
			}
		}},
	}).Dial(ctx, "tcp", addresses...)
	require.ErrorIs(t, err, context.Canceled)
	return <-waits
}

func faultTLSStall(t *testing.T) {
	for _, name := range []string{"tcp", "memory"} {
		_, trusting := tcpclienttest.NewTLSConfig()
		trusting.ServerName = "localhost"
		l := testkit.TransportNamed(name).Listen(t)
		stalled := stallAll(l, func() {})
		requireHandshakeTimeout(t, 200*time.Millisecond, func(timeout time.Duration) error {
			d := tcpclient.Dialer{TLSConfig: trusting, Timeout: timeout}
			if name == "tcp" {
				d.DialContext = dialLocal
			}
			_, err := l.TryDial(t.Context(), d)
			return err
		})
		testkit.Eventually(t, "the raw connection is closed", stalled.isOver)

		l = testkit.TransportNamed(name).Listen(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stalled = stallAll(l, cancel)
		_, err := l.TryDial(expiring{ctx}, tcpclient.Dialer{TLSConfig: trusting})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		testkit.Eventually(t, "the raw connection is closed", stalled.isOver)
	}
}

// A stall is a server that never says a word.
type stall struct{ accepted, open atomic.Int32 } // connections

// stallAll accepts all connections of l, and calls begun when a handshake has begun.
func stallAll(l net.Listener, begun func()) *stall {
	s := new(stall)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.open.Add(1)
			s.accepted.Add(1)
			go func() {
				defer s.open.Add(-1)
				defer conn.Close()
				conn.Read(make([]byte, 1))
				begun()
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	return s
}

// isOver reports whether there were connections, and all have ended.
func (s *stall) isOver() bool { return s.accepted.Load() > 0 && s.open.Load() == 0 }

// requireHandshakeTimeout wants the Timeout to end the handshake of a dial. If this process does not
// run for so long, it ends what comes before; then there is another dial, with twice the time.
func requireHandshakeTimeout(t testing.TB, timeout time.Duration, dial func(timeout time.Duration) error) {
	t.Helper()
	for ; ; timeout *= 2 {
		watch := testkit.StartStopwatch(t)
		err := dial(timeout)
		if testkit.OpError(t, err).Op == "dial" && timeout < 5*time.Second {
			continue
		}
		requireDialError(t, err, "handshake", tcpclient.ClassDisconnected)
		requireOurTimeout(t, err)
		requireTook(t, timeout, watch)
		return
	}
}

// An expiring context is one whose deadline passes when the context in it is canceled: not before there
// is a connection, however busy the machine is.
type expiring struct{ context.Context }

func (e expiring) Err() error {
	if e.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

func (expiring) Value(any) any { return nil } // else contexts made of it are made of the one in it

// dialLocal is a DialContext that does not look at its context: what takes too long is what follows.
func dialLocal(_ context.Context, network, address string) (net.Conn, error) {
	return net.Dial(network, address)
}

func faultTLSTrickle(t *testing.T) {
	// A server that answers, one byte at a time.
	server, trusting := tcpclienttest.NewTLSConfig()
	l := testkit.ListenTCP(t)
	trickle := func(conn net.Conn) {
		defer conn.Close()
		slow := &testkit.HookedConn{Conn: conn, OnWrite: func(p []byte) (n int, err error) {
			for i := range p {
				time.Sleep(20 * time.Millisecond) // the server's pace
				if _, err := conn.Write(p[i : i+1]); err != nil {
					return i, err
				}
			}
			return len(p), nil
		}}
		tls.Server(slow, server).Handshake()
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go trickle(conn)
		}
	}()
	requireHandshakeTimeout(t, 300*time.Millisecond, func(timeout time.Duration) error {
		_, err := l.TryDial(t.Context(), tcpclient.Dialer{TLSConfig: trusting, Timeout: timeout, DialContext: dialLocal})
		return err
	})
}

func faultCertificate(t *testing.T) {
	good, trusting := tcpclienttest.NewTLSConfig()
	_, stranger := tcpclienttest.NewTLSConfig()
	wrongName := trusting.Clone()
	wrongName.ServerName = "other.example"
	expired, expiredTrust := expiredCertificate(t)
	for name, test := range map[string]struct{ server, client *tls.Config }{
		"untrusted":  {good, stranger},
		"wrong name": {good, wrongName},
		"expired":    {expired, expiredTrust},
	} {
		l := testkit.ListenTCP(t)
		var spoke atomic.Int64
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				secure := tls.Server(conn, test.server)
				secure.Handshake()
				n, _ := io.Copy(io.Discard, secure)
				spoke.Add(n)
				conn.Close()
			}
		}()
		attempts := 0
		d := tcpclient.Dialer{
			TLSConfig: test.client,
			Reconnect: &tcpclient.Backoff{FirstDial: true, Min: time.Millisecond, Max: time.Millisecond},
			Trace:     &tcpclient.Trace{Connecting: func(string, int) { attempts++ }},
		}
		_, err := l.TryDial(testkit.Within(t, testkit.Patience), d)
		requireDialError(t, err, "handshake", tcpclient.ClassPermanent)
		var verification *tls.CertificateVerificationError
		require.ErrorAs(t, err, &verification, name)
		require.Equal(t, 1, attempts, "%s: an untrusted certificate is not tried again", name)
		require.Zero(t, spoke.Load(), "%s: never in the clear", name)
		l.Close()
	}
}

// expiredCertificate returns configurations with a certificate of long ago.
func expiredCertificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1e9, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}
}

func faultClientCertificate(t *testing.T) {
	// With TLS 1.3 the client's handshake succeeds, and the server's alert comes as the
	// answer to the first read.
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		server, trusting := tcpclienttest.NewTLSConfig()
		server.ClientAuth = tls.RequireAnyClientCert
		server.MaxVersion = version
		l := testkit.ListenTCP(t)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			tls.Server(conn, server).Handshake()
			io.Copy(io.Discard, conn)
		}()
		c, err := l.TryDial(t.Context(), tcpclient.Dialer{TLSConfig: trusting})
		if version == tls.VersionTLS12 {
			require.Equal(t, "handshake", testkit.OpError(t, err).Op)
		} else {
			require.NoError(t, err)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.ErrorContains(t, err, "handshake rejected")
			require.ErrorContains(t, err, "certificate")
			c.Close()
		}
		require.ErrorContains(t, err, "tls: ")
		l.Close()
	}
}

func faultPlainServer(t *testing.T) {
	_, trusting := tcpclienttest.NewTLSConfig()
	l := testkit.ListenTCP(t)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "220 mail.example ESMTP\r\n")
		io.Copy(io.Discard, conn)
	}()
	_, err := l.TryDial(t.Context(), tcpclient.Dialer{TLSConfig: trusting})
	requireDialError(t, err, "handshake", tcpclient.ClassDisconnected)
	var header tls.RecordHeaderError
	require.ErrorAs(t, err, &header)
	require.ErrorContains(t, err, `"220 m"`)
	require.ErrorContains(t, err, "server without TLS?")
}

func faultPlainClient(t *testing.T) {
	l := testkit.ListenTCP(t)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Read(make([]byte, 100))
		conn.Write([]byte{0x15, 3, 1, 0, 2, 2, 70}) // fatal alert: protocol version
		io.Copy(io.Discard, conn)
	}()
	c, err := tcpclient.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Send(t.Context(), []byte("hello there")))
	_, err = c.Receive(t.Context())
	var e *tcpclient.FrameTooLargeError
	require.ErrorAs(t, err, &e)
	require.ErrorContains(t, err, "15 03")
	require.ErrorContains(t, err, "TLS")
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
}

func faultDialerPanics(t *testing.T) {
	value := errors.New("in the dialer")
	attempts := 0
	d := tcpclient.Dialer{
		Reconnect: &tcpclient.Backoff{FirstDial: true, Min: time.Millisecond, Max: time.Millisecond},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			attempts++
			panic(value)
		},
	}
	_, err := d.Dial(t.Context(), "tcp", "server:9")
	requireDialError(t, err, "dial", tcpclient.ClassPermanent)
	require.ErrorIs(t, err, value)
	require.ErrorContains(t, err, "faultDialerPanics", "the stack is in the error")
	require.Equal(t, 1, attempts)
}

func faultDialerNil(t *testing.T) {
	d := tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}
	_, err := d.Dial(t.Context(), "tcp", "server:9")
	require.Equal(t, "dial", testkit.OpError(t, err).Op)
	require.ErrorContains(t, err, "DialContext")

	d.DialContext = func(context.Context, string, string) (net.Conn, error) {
		var none *net.TCPConn
		return none, nil // a nil in an interface
	}
	_, err = d.Dial(t.Context(), "tcp", "server:9")
	require.Error(t, err)
}

func faultDialerIgnores(t *testing.T) {
	// Dial does not wait for a hook that ignores its context, and what it hands over in
	// the end is closed.
	n := tcpclienttest.NewNetwork()
	l := testkit.ListenNetwork(t, n)
	release := make(chan struct{})
	d := tcpclient.Dialer{DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
		<-release
		return n.DialContext(context.Background(), network, address)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	began := time.Now()
	_, err := d.Dial(ctx, "tcp", l.Addr().String())
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(began), time.Second)
	close(release)
	conn, err := l.Accept()
	require.NoError(t, err)
	defer conn.Close()
	rest, err := io.ReadAll(conn)
	require.NoError(t, err, "the late connection was closed")
	require.Empty(t, rest)
}

func faultLateConnection(t *testing.T) {
	for _, how := range []string{"Timeout", "context"} {
		synctest.Test(t, func(t *testing.T) {
			var late *testkit.HookedConn
			closed := 0
			n := tcpclienttest.NewNetwork()
			d := tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				time.Sleep(15 * time.Second)
				late = &testkit.HookedConn{Conn: conn, OnClose: func() { closed++ }}
				return late
			})}
			l := testkit.ListenNetwork(t, n)
			ctx := t.Context()
			if how == "context" {
				ctx = testkit.Within(t, 5*time.Second)
			}
			_, err := l.TryDial(ctx, d)
			require.Equal(t, "dial", testkit.OpError(t, err).Op)
			if how == "context" {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			} else {
				requireOurTimeout(t, err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			require.NotNil(t, late)
			require.Positive(t, closed)
			require.Zero(t, late.Reads()+late.Writes(), "it was used")
		})
	}
}

func faultItself(t *testing.T) {
	// A simultaneous open with oneself: what a client on the server's host meets when the
	// server is down and the port is in the ephemeral range.
	address := closedPort(t)
	local, err := net.ResolveTCPAddr("tcp", address)
	require.NoError(t, err)
	d := tcpclient.Dialer{NetDialer: &net.Dialer{LocalAddr: local}}
	_, err = d.Dial(t.Context(), "tcp", address)
	requireDialError(t, err, "dial", tcpclient.ClassDisconnected)
	require.ErrorContains(t, err, "itself")
	l, err := net.Listen("tcp", address)
	require.NoError(t, err, "the port is free for the server again")
	l.Close()
}

func faultAddress(t *testing.T) {
	for network, address := range map[string]string{"tcp": "localhost", "tpc": "localhost:9", "tcp4": "localhost:http:80", "tcp6": "[::1", "udp": "localhost:9"} {
		attempts := 0
		d := tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{FirstDial: true, Min: time.Millisecond, Max: time.Millisecond},
			Trace:     &tcpclient.Trace{Connecting: func(string, int) { attempts++ }},
		}
		_, err := d.Dial(testkit.Within(t, testkit.Patience), network, address)
		if assert.Error(t, err) {
			assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), err)
			assert.LessOrEqual(t, attempts, 1)
		}
	}
	_, err := tcpclient.Dial(t.Context(), "tcp")
	require.ErrorContains(t, err, "no address")
	require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
}
