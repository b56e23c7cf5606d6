package interop

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	manyCalls = 10_000
	callers   = 64
)

// callMany runs exchange for every number below manyCalls, once, on 64 goroutines. After
// an error it starts no more.
func callMany(t *testing.T, exchange func(n int) error) {
	t.Helper()
	var next atomic.Int64
	var done atomic.Int64
	var failed atomic.Bool
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for n := int(next.Add(1)) - 1; n < manyCalls && !failed.Load(); n = int(next.Add(1)) - 1 {
				if err := exchange(n); err != nil {
					failed.Store(true)
					t.Errorf("call %d: %v", n, err)
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, manyCalls, done.Load())
}

// requireOnce checks that callMany took one connection, one request and one reply each.
func requireOnce(t *testing.T, c *tcpclient.Client) {
	t.Helper()
	// The last batch is counted a moment after its Calls have returned, on either side.
	waitFor(t, func() bool { return c.Stats().MessagesReceived >= manyCalls && c.Stats().MessagesSent >= manyCalls })
	stats := c.Stats()
	require.EqualValues(t, manyCalls, stats.MessagesReceived)
	require.EqualValues(t, manyCalls, stats.MessagesSent)
	require.EqualValues(t, 1, stats.Connects)
}

// Replies of three kinds and of very different lengths, each of which names its request.
func TestRedisManyCalls(t *testing.T) { // P3
	c := dial(t, tcpclient.Dialer{Framer: respFramer{}}, startRedis(t))
	padding := strings.Repeat(".", 3000)
	callMany(t, func(n int) error {
		var request []byte
		var want string
		switch n % 3 {
		case 0:
			word := fmt.Sprint("word ", n, padding[:n%len(padding)])
			request, want = command("ECHO", word), fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
		case 1:
			number := fmt.Sprint(n)
			request, want = command("INCRBY", "key "+number, number), ":"+number+"\r\n"
		case 2:
			name := fmt.Sprint("nonsense", n)
			request, want = command(name), "-ERR unknown command '"+name+"'"
		}
		reply, err := c.Call(t.Context(), request)
		if err != nil {
			return err
		}
		if got := string(reply); got != want && (n%3 != 2 || !strings.HasPrefix(got, want)) {
			return fmt.Errorf("want %.80q, got %.80q", want, got)
		}
		return nil
	})
	requireOnce(t, c)
}

// Every tenth name is one that unbound has to ask for, so that others overtake it.
func TestUnboundManyCalls(t *testing.T) {
	upstream := newUpstream(t)
	upstream.letGo()
	var localData strings.Builder
	name := func(n int) string {
		if n%10 == 0 {
			return fmt.Sprintf("n%d.slow.", n)
		}
		return fmt.Sprintf("n%d.test.", n)
	}
	for n := range manyCalls {
		if strings.HasSuffix(name(n), ".test.") {
			fmt.Fprintf(&localData, "  local-data: \"%s A %v\"\n", name(n), net.IP(numbered(n)))
		}
	}
	address := startServer(t, "unbound", func(port string) []string {
		return []string{"-d", "-c", unboundConfig(t, port, upstream.address(), localData.String())}
	}).address

	d := overTCP
	d.Correlator = tcpclient.IDField{Offset: 0, Width: 2, ReplyOffset: 0}
	c := dial(t, d, address)
	callMany(t, func(n int) error {
		msg, err := c.Call(t.Context(), query(t, 0, name(n)))
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(msg); err != nil {
			return err
		}
		if len(m.Questions) != 1 || m.Questions[0].Name.String() != name(n) {
			return fmt.Errorf("asked for %s, got the answer to %v", name(n), m.Questions)
		}
		if len(m.Answers) != 1 {
			return errors.New(m.GoString())
		}
		if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); !ok || a.A != [4]byte(numbered(n)) {
			return fmt.Errorf("%s: want %v, got %v", name(n), numbered(n), m.Answers[0].Body)
		}
		return nil
	})
	requireOnce(t, c)
}
