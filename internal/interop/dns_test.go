package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// overTCP is how DNS is framed on TCP: RFC 1035, 4.2.2.
var overTCP = tcpclient.Dialer{Framer: tcpclient.LengthPrefix{Width: 2}}

func TestDnsmasq(t *testing.T) {
	address := startServer(t, "dnsmasq", func(port string) []string {
		return []string{"-k", "-C", "/dev/null", "--listen-address=127.0.0.1", "--bind-interfaces", "--port=" + port,
			"--no-resolv", "--no-hosts", "--local=/test/", "--host-record=a.test,192.0.2.78", "--user=root", "--pid-file"}
	}).address
	testDNS(t, address)
}

func TestUnbound(t *testing.T) {
	upstream := newUpstream(t)
	address := startServer(t, "unbound", func(port string) []string {
		return []string{"-d", "-c", unboundConfig(t, port, upstream.address(), "")}
	}).address
	testDNS(t, address)

	t.Run("answers out of order", func(t *testing.T) { // RFC 7766, 6.2.1.1
		c := dial(t, overTCP, address)
		require.NoError(t, c.Write(t.Context(), query(t, 1, "held.slow.")))
		require.NoError(t, c.Write(t.Context(), query(t, 2, "a.test.")))
		require.NoError(t, c.Flush(t.Context()))

		first := receiveAnswer(t, c)
		require.Equal(t, uint16(2), first.ID, "what unbound knows should overtake what it has to ask for")
		upstream.letGo()
		second := receiveAnswer(t, c)
		require.Equal(t, uint16(1), second.ID)
		require.Equal(t, "192.0.2.99", addressIn(t, second))
	})
}

// testDNS is what any DNS server that knows a.test as 192.0.2.78 can do.
func testDNS(t *testing.T, address string) {
	t.Run("answers", func(t *testing.T) {
		c := dial(t, overTCP, address)
		require.NoError(t, c.Send(t.Context(), query(t, 7, "a.test.")))
		answer := receiveAnswer(t, c)
		require.Equal(t, uint16(7), answer.ID)
		require.Equal(t, "192.0.2.78", addressIn(t, answer))
	})

	t.Run("says that there is no such name", func(t *testing.T) {
		c := dial(t, overTCP, address)
		require.NoError(t, c.Send(t.Context(), query(t, 8, "nobody.test.")))
		require.Equal(t, dnsmessage.RCodeNameError, receiveAnswer(t, c).RCode)
	})

	t.Run("answers a pipeline", func(t *testing.T) { // RFC 7766, 6.2.1.1
		const n = 90 // dnsmasq hangs up after 100 queries on one connection
		c := dial(t, overTCP, address)
		open := make(map[uint16]bool)
		for id := range uint16(n) {
			open[id] = true
			require.NoError(t, c.Write(t.Context(), query(t, id, "a.test.")))
		}
		require.NoError(t, c.Flush(t.Context()))
		for len(open) > 0 {
			answer := receiveAnswer(t, c)
			require.True(t, open[answer.ID], "id %d was not open", answer.ID)
			require.Equal(t, "192.0.2.78", addressIn(t, answer))
			delete(open, answer.ID)
		}
	})

	t.Run("gives concurrent Calls their own answers", func(t *testing.T) {
		d := overTCP
		d.Correlator = tcpclient.IDField{Width: 2}
		c := dial(t, d, address)
		want := map[string]dnsmessage.RCode{"a.test.": dnsmessage.RCodeSuccess, "nobody.test.": dnsmessage.RCodeNameError}
		var group sync.WaitGroup
		for name, code := range want {
			for range 40 {
				group.Go(func() {
					msg, err := c.Call(t.Context(), query(t, 0, name))
					var m dnsmessage.Message
					if err == nil {
						err = m.Unpack(msg)
					}
					if err != nil || m.Questions[0].Name.String() != name || m.RCode != code {
						t.Errorf("%s: %v, %v", name, m, err)
					}
				})
			}
		}
		group.Wait()
	})

	t.Run("ends an exchange in an orderly way", func(t *testing.T) {
		c := dial(t, overTCP, address)
		require.NoError(t, c.Send(t.Context(), query(t, 9, "a.test.")))
		require.Equal(t, uint16(9), receiveAnswer(t, c).ID)
		require.NoError(t, c.Shutdown(t.Context()))
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})
}

// query makes a question for the address of name.
func query(t *testing.T, id uint16, name string) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
		}},
	}
	packed, err := m.Pack()
	require.NoError(t, err)
	return packed
}

func receiveAnswer(t *testing.T, c *tcpclient.Client) dnsmessage.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	msg, err := c.Receive(ctx)
	require.NoError(t, err)
	var m dnsmessage.Message
	require.NoError(t, m.Unpack(msg))
	require.True(t, m.Response)
	return m
}

// addressIn returns the address that an answer gives.
func addressIn(t *testing.T, answer dnsmessage.Message) string {
	t.Helper()
	require.Equal(t, dnsmessage.RCodeSuccess, answer.RCode)
	require.Len(t, answer.Answers, 1)
	require.IsType(t, &dnsmessage.AResource{}, answer.Answers[0].Body)
	a := answer.Answers[0].Body.(*dnsmessage.AResource).A
	return net.IP(a[:]).String()
}

// unboundConfig writes a configuration that knows a.test and localData, and asks upstream
// for what is below slow.
func unboundConfig(t *testing.T, port, upstream, localData string) (path string) {
	t.Helper()
	config := fmt.Sprintf(`
server:
  interface: 127.0.0.1@%s
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "iterator"
  num-threads: 1
  chroot: ""
  username: ""
  directory: ""
  pidfile: ""
  use-syslog: no
  local-zone: "test." static
  local-data: "a.test. A 192.0.2.78"
%s
remote-control:
  control-enable: no
forward-zone:
  name: "slow."
  forward-addr: %s
`, port, localData, strings.Replace(upstream, ":", "@", 1))
	path = filepath.Join(t.TempDir(), "unbound.conf")
	require.NoError(t, os.WriteFile(path, []byte(config), 0o600))
	return path
}

// numbered is the address of the n-th of many names.
func numbered(n int) []byte { return []byte{10, byte(n >> 16), byte(n >> 8), byte(n)} }

// An upstream is a DNS server over UDP that answers everything with 192.0.2.99, and
// n17.slow with numbered(17), but not before it is let go.
type upstream struct {
	conn   net.PacketConn
	hold   chan struct{}
	letGo  func()
	served sync.WaitGroup
}

func newUpstream(t *testing.T) *upstream {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &upstream{conn: conn, hold: make(chan struct{})}
	u.letGo = sync.OnceFunc(func() { close(u.hold) })
	u.served.Go(func() { u.serve(t) }) // ends when conn is closed
	t.Cleanup(func() {
		u.letGo()
		conn.Close()
		u.served.Wait()
	})
	return u
}

func (u *upstream) address() string { return u.conn.LocalAddr().String() }

func (u *upstream) serve(t *testing.T) {
	buf := make([]byte, 4096)
	for {
		n, from, err := u.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil {
			t.Error(err)
			return
		}
		m.Response, m.Additionals = true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			address := []byte{192, 0, 2, 99}
			var n int
			if _, err := fmt.Sscanf(q.Name.String(), "n%d.slow.", &n); err == nil {
				address = numbered(n)
			}
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte(address)},
			}}
		}
		answer, err := m.Pack()
		if err != nil {
			t.Error(err)
			return
		}
		<-u.hold
		u.conn.WriteTo(answer, from)
	}
}
