package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Operations of ZooKeeper, kinds of nodes, and what it answers.
const (
	zkCreate, zkExists, zkGetChildren, zkSync, zkPing, zkClose = 1, 3, 8, 9, 11, -11
	zkEphemeral, zkSequential                                  = 1, 2
	zkNoNode                                                   = -101
	zkNodeCreated, zkNodeDeleted                               = 1, 2
)

// zkString has its length in front.
func zkString(s string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s
}

// zkRequest makes a request, whose id is filled in.
func zkRequest(operation int32, arguments ...string) []byte {
	request := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(operation))
	for _, argument := range arguments {
		request = append(request, argument...)
	}
	return request
}

// zkCreating makes the request that creates a node, open to all.
func zkCreating(path, data string, flags byte) []byte {
	const all, one = "\x00\x00\x00\x1f", "\x00\x00\x00\x01"
	return zkRequest(zkCreate, zkString(path), zkString(data), one+all+zkString("world")+zkString("anyone"), string([]byte{0, 0, 0, flags}))
}

// zkCut returns the string at the beginning of p, and the rest.
func zkCut(p []byte) (s string, rest []byte) {
	n := binary.BigEndian.Uint32(p)
	return string(p[4 : 4+n]), p[4+n:]
}

// zkResult returns the error code of a reply and what follows.
func zkResult(reply []byte) (code int32, body []byte) {
	const xidAndZxid = 4 + 8
	return int32(binary.BigEndian.Uint32(reply[xidAndZxid:])), reply[xidAndZxid+4:]
}

// zkEvent is what a watch has seen.
type zkEvent struct {
	kind int
	path string
}

func parseZKEvent(msg []byte) (e zkEvent, ok bool) {
	_, body := zkResult(msg)
	if !bytes.HasPrefix(msg, []byte("\xff\xff\xff\xff")) {
		return e, false
	}
	e.kind = int(binary.BigEndian.Uint32(body))
	e.path, _ = zkCut(body[8:]) // after the state
	return e, true
}

// A zkSession is what outlives a connection.
type zkSession struct {
	timeout time.Duration

	mu       sync.Mutex // guards following
	id       [8]byte
	password [16]byte
}

// take is a Handshake. It begins the session, or continues it.
func (s *zkSession) take(ctx context.Context, conn *tcpclient.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	request := binary.BigEndian.AppendUint32(make([]byte, 12), uint32(s.timeout.Milliseconds())) // version, last zxid seen
	request = append(request, s.id[:]...)
	request = append(request, 0, 0, 0, byte(len(s.password)))
	request = append(append(request, s.password[:]...), 0) // not read-only
	if err := conn.Send(ctx, request); err != nil {
		return err
	}
	reply, err := conn.Receive(ctx)
	if err != nil {
		return err
	}
	if timeout := binary.BigEndian.Uint32(reply[4:]); timeout != uint32(s.timeout.Milliseconds()) {
		return fmt.Errorf("zookeeper: a timeout of %d ms: the session has expired", timeout)
	}
	copy(s.id[:], reply[8:])
	copy(s.password[:], reply[20:])
	return nil
}

// number returns the id, which a session that has expired does not keep.
func (s *zkSession) number() (id [8]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// zkDialer has a session for all connections, or, if that is nil, one for each.
func zkDialer(session *zkSession) tcpclient.Dialer {
	ping := zkRequest(zkPing)
	copy(ping, "\xff\xff\xff\xfe")
	return tcpclient.Dialer{
		Timeout:    2 * time.Second, // a server that starts may accept a connection and never answer on it
		Correlator: tcpclient.IDField{Width: 4, Max: 0x7fffffff},
		Heartbeat:  pinging(string(ping), func(msg []byte) bool { return bytes.HasPrefix(msg, ping[:4]) }),
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if session == nil {
				return (&zkSession{timeout: patience}).take(ctx, conn)
			}
			return session.take(ctx, conn)
		},
	}
}

// startZooKeeper runs a server of its own, on a disk that it does not wait for.
func startZooKeeper(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := startHost(t, "java", func(port string) []string {
		config := filepath.Join(dir, "zoo.cfg")
		require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
tickTime=1000
maxSessionTimeout=%d
dataDir=%s
clientPort=%s
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
`, patience.Milliseconds(), dir, port), 0o600))
		return []string{"-Xmx256m", "-Dzookeeper.forceSync=no", "-cp", "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar",
			"org.apache.zookeeper.server.quorum.QuorumPeerMain", config}
	})
	d := zkDialer(nil)
	d.Reconnect = &tcpclient.Backoff{FirstDial: true, Max: 100 * time.Millisecond}
	code, _ := zkResult(mustCall(t, dial(t, d, h.address), zkCreating("/once", "", 0)))
	require.Zero(t, code)
	return h
}

// zookeeperKind is asked to sync paths, which it repeats. An add is a node of its own, each time that it is executed.
func zookeeperKind() kind {
	return kind{
		name:   "zookeeper",
		heavy:  true,
		start:  startZooKeeper,
		dialer: func() tcpclient.Dialer { return zkDialer(nil) },
		ask: func(n int) ([]byte, func([]byte) error) {
			path := fmt.Sprint("/question/", n, padding(n), fill(n))
			return zkRequest(zkSync, zkString(path)), func(reply []byte) error {
				code, body := zkResult(reply)
				if code != 0 {
					return fmt.Errorf("code %d", code)
				}
				return want(zkString(path))(body)
			}
		},
		add: func(n int) []byte { return zkCreating(fmt.Sprintf("/once/%d-", n), fill(n), zkSequential) },
		executed: counting(func(t *testing.T, c *tcpclient.Client, times map[int]int) {
			clear(times)
			code, body := zkResult(mustCall(t, c, zkRequest(zkGetChildren, zkString("/once"), "\x00")))
			require.Zero(t, code)
			count, body := binary.BigEndian.Uint32(body), body[4:]
			for range count {
				var name string
				name, body = zkCut(body)
				digits, _, _ := bytes.Cut([]byte(name), []byte("-"))
				times[atoi(t, digits)]++
			}
		}),
	}
}

// A watch is told in the stream of the messages that no one asked for. The session, and with it a node that lives as
// long, moves to the next connection, but not the watches; a server that is told of the end of a session hangs up.
func TestZooKeeper(t *testing.T) { // P1, P8
	testkit.SkipUnlessHeavy(t)
	h := startZooKeeper(t)
	session := &zkSession{timeout: patience}
	d := zkDialer(session)
	d.Reconnect = &tcpclient.Backoff{Min: time.Millisecond}
	owner, other := dial(t, d, h.address), dial(t, zkDialer(nil), h.address)
	result := func(c *tcpclient.Client, request []byte) int32 {
		code, _ := zkResult(mustCall(t, c, request))
		return code
	}
	next := func(c *tcpclient.Client) zkEvent {
		msg, err := c.Receive(bounded(t))
		require.NoError(t, err)
		e, ok := parseZKEvent(msg)
		require.True(t, ok, "% x", msg)
		return e
	}
	const watch, noWatch = "\x01", "\x00"
	require.EqualValues(t, zkNoNode, result(owner, zkRequest(zkExists, zkString("/here"), watch)))
	require.Zero(t, result(other, zkCreating("/here", "", 0)))
	require.Equal(t, zkEvent{zkNodeCreated, "/here"}, next(owner))

	require.Zero(t, result(owner, zkCreating("/mine", "", zkEphemeral)))
	require.Zero(t, result(other, zkRequest(zkExists, zkString("/mine"), watch)))
	before := session.number()
	require.NotZero(t, before)
	owner.Disconnect(errors.New("away"))
	_, err := owner.Receive(bounded(t))
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.Zero(t, result(owner, zkRequest(zkExists, zkString("/mine"), noWatch)))
	require.Equal(t, before, session.number())
	require.EqualValues(t, 2, owner.Stats().Connects)

	require.Zero(t, result(owner, zkRequest(zkClose)))
	_, err = owner.Receive(bounded(t))
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, zkEvent{zkNodeDeleted, "/mine"}, next(other))
}
