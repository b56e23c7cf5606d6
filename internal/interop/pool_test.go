package interop

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/stretchr/testify/require"
)

// poolSize is how many connections a Pool has to each server.
const poolSize = 2

// Two servers of a kind are asked through a Pool, and one of them is stopped, killed, and cut off.
func TestPools(t *testing.T) {
	for _, k := range []kind{redisKind(), memcachedKind(), beanstalkKind()} {
		t.Run(k.name, func(t *testing.T) {
			p := &poolTrial{trial: trial{kind: k, host: k.start(t)}, other: k.start(t)}
			t.Run("64 goroutines", p.manyGoroutines)
			t.Run("Unsent", p.unsent)
			t.Run("SIGSTOP", p.stopped)
			t.Run("SIGKILL and restart under load", p.killed)
		})
	}
}

// A poolTrial is the treatment of two servers of one kind.
type poolTrial struct {
	trial
	other *host // which nothing happens to
}

// dial connects to both, first to the one that something happens to.
func (p *poolTrial) dial(t *testing.T, d tcpclient.Dialer) *pool.Pool {
	t.Helper()
	return dialPool(t, d, p.host.address, p.other.address)
}

func dialPool(t *testing.T, d tcpclient.Dialer, addresses ...string) *pool.Pool {
	t.Helper()
	servers, err := pool.Dial(t.Context(), &d, "tcp", poolSize, addresses...)
	require.NoError(t, err)
	t.Cleanup(func() { servers.Close() })
	return servers
}

// received returns how many replies Clients have had.
func received(clients []*tcpclient.Client) (messages uint64) {
	for _, c := range clients {
		messages += c.Stats().MessagesReceived
	}
	return messages
}

// manyGoroutines: each of 64 goroutines has its own answers, and each connection its share.
func (p *poolTrial) manyGoroutines(t *testing.T) { // P3
	ctx, d := bounded(t), p.dialer()
	d.Heartbeat.Interval, d.Heartbeat.Timeout = time.Hour, 0 // pings are messages sent
	servers := p.dial(t, d)
	p.each(many(), func(n int) {
		if err := p.question(t, ctx, servers, n); err != nil {
			t.Errorf("question %d: %v", n, err)
		}
	})
	require.NoError(t, servers.Shutdown(ctx))
	var sent uint64
	for _, c := range servers.Clients() {
		stats := c.Stats()
		sent += stats.MessagesSent
		require.EqualValues(t, 1, stats.Connects)
		require.Greater(t, stats.MessagesReceived, uint64(many()/20), "its share is a quarter")
		require.Zero(t, stats.LateReplies)
		require.Zero(t, stats.MessagesLost)
	}
	require.EqualValues(t, many(), sent)
	require.EqualValues(t, many(), received(servers.Clients()))
	_, err := servers.Call(ctx, []byte("late"))
	require.ErrorIs(t, err, tcpclient.ErrClosed)
}

// unsent: what a Pool tries again it may.
func (p *poolTrial) unsent(t *testing.T) { // P4
	p.cutOff(t, func(d tcpclient.Dialer, address string) (caller, func() error) {
		servers := dialPool(t, d, address)
		return servers, servers.Close
	})
}

// stopped: Calls at a server that hangs fail in time, the other one takes the rest, and the first has
// its share again when it goes on.
func (p *poolTrial) stopped(t *testing.T) { // P5
	d := p.reconnecting()
	limit, cause := patienceOf(&d)
	load := p.begin(t, d, func(err error, took time.Duration) {
		if !errors.Is(err, cause) || took > limit+slack {
			t.Errorf("after %v: %v", took, err)
		}
	})
	p.host.signal(t, syscall.SIGSTOP)
	defer p.host.signal(t, syscall.SIGCONT)
	load.awaitAnswers(t)
	waitFor(t, func() bool { return load.failed.Load() > 0 })
	load.awaitAnswers(t)
	p.host.signal(t, syscall.SIGCONT)
	load.awaitShare(t)
	load.finish()
}

// killed: only what a server takes with it fails, and it has its share again when it is back.
func (p *poolTrial) killed(t *testing.T) { // P4, P8
	load := p.begin(t, p.reconnecting(), func(err error, _ time.Duration) {
		if !errors.Is(err, tcpclient.ErrDisconnected) || errors.Is(err, pool.ErrNoConnection) || errors.Is(err, tcpclient.ErrInvalidFrame) || isUnsent(err) {
			t.Error(err) // what was not sent is for the other one
		}
	})
	p.host.restart(t)
	load.awaitAnswers(t)
	load.awaitShare(t)
	load.finish()
}

// A poolLoad are questions that are asked without end.
type poolLoad struct {
	clients          []*tcpclient.Client // of the server that something happens to
	answered, failed atomic.Int64
	isOver           atomic.Bool
	wait             func()
}

// begin asks until finish is called. failed is told of each Call that fails.
func (p *poolTrial) begin(t *testing.T, d tcpclient.Dialer, failed func(err error, took time.Duration)) *poolLoad {
	t.Helper()
	ctx, servers := bounded(t), p.dial(t, d)
	l := &poolLoad{clients: servers.Clients()[:poolSize]}
	l.wait = p.load(func(n int) bool {
		began := time.Now()
		if err := p.question(t, ctx, servers, n); err == nil {
			l.answered.Add(1)
		} else if ctx.Err() == nil {
			l.failed.Add(1)
			failed(err, time.Since(began))
		}
		return !l.isOver.Load() && ctx.Err() == nil
	})
	t.Cleanup(l.finish)
	l.awaitAnswers(t)
	return l
}

func (l *poolLoad) finish() {
	l.isOver.Store(true)
	l.wait()
}

// awaitAnswers waits for some answers of whatever server.
func (l *poolLoad) awaitAnswers(t *testing.T) {
	t.Helper()
	before := l.answered.Load()
	waitFor(t, func() bool { return l.answered.Load() >= before+few })
}

// awaitShare waits for some answers of the server that something happens to.
func (l *poolLoad) awaitShare(t *testing.T) {
	t.Helper()
	before := received(l.clients)
	waitFor(t, func() bool { return received(l.clients) >= before+few })
}
