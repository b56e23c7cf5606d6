package interop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A kind is a real server, with what the treatment has to know of it.
type kind struct {
	name string // of the server

	// start runs the server until the test ends.
	start func(t *testing.T) *host

	// dialer is how to talk to it: framing, ids, handshake, and a Heartbeat of a few hundred
	// milliseconds with the protocol's own ping. The treatment sets Reconnect.
	dialer func() tcpclient.Dialer

	// ask makes question n, and the check that a reply is the answer to it and to no other.
	ask func(n int) (request []byte, check func(reply []byte) error)

	// add makes request n, which the server executes. executed asks the server over c, a new connection, how often it
	// has done so. nil: the server keeps nothing that tells. Numbers are never used again.
	add      func(n int) []byte
	executed func(t *testing.T, c *tcpclient.Client, n int) int

	// oneWay says that the server answers nothing: what it has taken, executed tells.
	oneWay bool

	// saysMore says that the server may send messages that are no answers.
	saysMore bool

	// resets says that the server may answer FIN with RST.
	resets bool

	// heavy says that the server is run only if the environment asks for it.
	heavy bool

	// without are the parts of the treatment that it cannot take, and why.
	without map[string]string
}

// kinds are all servers that take the treatment.
func kinds() []kind {
	return slices.Concat(cacheKinds(), queueKinds(), databaseKinds(), textKinds(), dnsKinds(), industryKinds())
}

// parts are the treatment. SIGKILL comes last: most servers forget then.
var parts = []struct {
	name string
	take func(*trial, *testing.T)
}{
	{"64 goroutines", (*trial).manyGoroutines},
	{"idle", (*trial).idle},
	{"Shutdown under load", (*trial).shutdown},
	{"Unsent", (*trial).unsent},
	{"SIGSTOP", (*trial).stopped},
	{"SIGKILL and restart under load", (*trial).killed},
}

// Each real server is asked by many, left alone, stopped, killed, and cut off.
func TestServers(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			if k.heavy {
				testkit.SkipUnlessHeavy(t)
			}
			for part := range k.without {
				require.Contains(t, partNames(), part)
			}
			tr := &trial{kind: k, host: k.start(t)}
			for _, part := range parts {
				t.Run(part.name, func(t *testing.T) {
					if reason := k.reasonAgainst(part.name); reason != "" {
						t.Log("not run: " + reason)
						return
					}
					part.take(tr, t)
				})
			}
		})
	}
}

// doc.go lists each server, and the parts that it does not take.
func TestListOfServers(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	for _, k := range kinds() {
		row := regexp.MustCompile(`(?m)^//\t` + regexp.QuoteMeta(k.name) + `  .*$`).FindString(string(doc))
		require.NotEmpty(t, row, k.name)
		for _, part := range partNames() {
			require.Equal(t, k.reasonAgainst(part) != "", strings.Contains(row, part), "%s: %s", k.name, part)
		}
	}
}

func partNames() (names []string) {
	for _, part := range parts {
		names = append(names, part.name)
	}
	return names
}

// reasonAgainst returns why the kind does not take a part, "" if it does.
func (k *kind) reasonAgainst(part string) string {
	d := k.dialer()
	switch {
	case k.without[part] != "":
		return k.without[part]
	case part == "idle" && d.Heartbeat.Interval == 0:
		return "the protocol has no ping"
	case part == "Unsent" && k.add == nil:
		return "the server keeps nothing that tells what it has executed"
	}
	return ""
}

// A trial is the treatment of one kind.
type trial struct {
	kind
	host  *host
	used  atomic.Int64 // numbers of requests
	wrong atomic.Int64 // answers
}

const (
	// few answers mean that a load is under way.
	few = 4 * callers

	// slack is what may pass on a busy machine between an event and what is done about it.
	slack = 3 * time.Second
)

// many is how many requests a part takes.
func many() int {
	if testing.Short() {
		return 500
	}
	return 2000
}

// exchange sends request and waits for the reply, if the kind has any.
func (k *kind) exchange(ctx context.Context, c caller, request []byte) ([]byte, error) {
	if k.oneWay {
		return nil, c.(*tcpclient.Client).Send(ctx, request)
	}
	return c.Call(ctx, request)
}

// question asks question n. A wrong answer is an error of the test, else the Call's is returned.
func (tr *trial) question(t *testing.T, ctx context.Context, c caller, n int) error {
	request, check := tr.ask(n)
	reply, err := tr.exchange(ctx, c, request)
	if err == nil && !tr.oneWay {
		if wrong := check(reply); wrong != nil && tr.wrong.Add(1) <= 10 { // P3
			t.Errorf("the answer to question %d (%.60q) is %.100q: %v", n, request, reply, wrong)
		}
	}
	return err
}

// reconnecting is the kind's Dialer, with Reconnect.
func (k *kind) reconnecting() tcpclient.Dialer {
	d := k.dialer()
	d.Reconnect = &tcpclient.Backoff{Min: time.Millisecond, Max: 50 * time.Millisecond}
	return d
}

// dial connects until the test ends. The messages that are no answers are received.
func (tr *trial) dial(t *testing.T, d tcpclient.Dialer, address string) *tcpclient.Client {
	t.Helper()
	c := dial(t, d, address)
	var receiver sync.WaitGroup
	receiver.Go(func() { // until c is closed, or lost
		for {
			if _, err := c.Receive(context.Background()); d.Reconnect == nil && err != nil || tcpclient.Classify(err) == tcpclient.ClassPermanent {
				return
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		receiver.Wait()
	})
	return c
}

// each runs do for count numbers, once for each, on 64 goroutines.
func (tr *trial) each(count int, do func(n int)) {
	var begun atomic.Int64
	tr.load(func(n int) bool {
		if begun.Add(1) > int64(count) {
			return false
		}
		do(n)
		return true
	})()
}

// load runs do for ever new numbers on 64 goroutines, on each until it returns false. wait returns
// when all have.
func (tr *trial) load(do func(n int) bool) (wait func()) {
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for do(int(tr.used.Add(1))) {
			}
		})
	}
	return group.Wait
}

// manyGoroutines: each of 64 goroutines has its own answers, on one connection.
func (tr *trial) manyGoroutines(t *testing.T) { // P3
	ctx, d := bounded(t), tr.dialer()
	if d.Heartbeat.Interval > 0 {
		d.Heartbeat.Interval, d.Heartbeat.Timeout = time.Hour, 0 // pings are messages sent
	}
	var pongs atomic.Uint64 // and so are answers to the server's pings
	if answer := d.Heartbeat.Answer; answer != nil {
		d.Heartbeat.Answer = func(msg []byte) (reply []byte, ok bool) {
			if reply, ok = answer(msg); reply != nil && ok {
				pongs.Add(1)
			}
			return reply, ok
		}
	}
	c := tr.dial(t, d, tr.host.address)
	tr.each(many(), func(n int) {
		if err := tr.question(t, ctx, c, n); err != nil {
			t.Errorf("question %d: %v", n, err)
		}
	})
	want := uint64(many())
	sent := func() uint64 { return c.Stats().MessagesSent - pongs.Load() }
	received := func() uint64 { return c.Stats().MessagesReceived }
	// The last batch is counted a moment after its Calls have returned, on either side.
	waitFor(t, func() bool { return sent() == want && (tr.oneWay || received() >= want) })
	stats := c.Stats()
	if d.More == nil && !tr.oneWay && !tr.saysMore {
		require.Equal(t, want, stats.MessagesReceived)
	}
	require.EqualValues(t, 1, stats.Connects)
	require.Zero(t, stats.InFlight)
	require.Zero(t, stats.LateReplies)
	require.Zero(t, stats.MessagesLost)
}

// idle: pings keep a connection that no one uses.
func (tr *trial) idle(t *testing.T) { // P5
	const pings = 4
	ctx, d := bounded(t), tr.dialer()
	var pongs atomic.Int64
	var end atomic.Pointer[error]
	d.Trace = &tcpclient.Trace{
		Pong:         func(time.Duration) { pongs.Add(1) },
		Disconnected: func(_ string, err error) { end.CompareAndSwap(nil, &err) },
	}
	began := time.Now() // no later than the first Interval, whatever the machine does meanwhile
	c := tr.dial(t, d, tr.host.address)
	require.NoError(t, tr.question(t, ctx, c, int(tr.used.Add(1))))
	waitFor(t, func() bool { return pongs.Load() >= pings || end.Load() != nil })
	if lost := end.Load(); lost != nil {
		t.Fatal(*lost)
	}
	require.GreaterOrEqual(t, time.Since(began), pings*d.Heartbeat.Interval, "a ping each Interval, and no more")
	require.NoError(t, tr.question(t, ctx, c, int(tr.used.Add(1))))
	require.EqualValues(t, 1, c.Stats().Connects)
	require.Positive(t, c.Stats().RTT)
}

// shutdown: what was accepted is answered, and what was not has not been sent.
func (tr *trial) shutdown(t *testing.T) { // P4, P7
	ctx := bounded(t)
	c := tr.dial(t, tr.reconnecting(), tr.host.address)
	var f fates
	var answered atomic.Int64
	noted := func(n int, err error) bool {
		f.note(n, err)
		answered.Add(1)
		return err == nil
	}
	wait := tr.load(func(n int) bool {
		if tr.add == nil {
			return noted(n, tr.question(t, ctx, c, n))
		}
		_, err := tr.exchange(ctx, c, tr.add(n))
		return noted(n, err)
	})
	waitFor(t, func() bool { return answered.Load() >= few })
	if err := c.Shutdown(ctx); !tr.resets || !errors.Is(err, syscall.ECONNRESET) {
		require.NoError(t, err)
	}
	wait()
	for n, err := range f.errs {
		require.ErrorIs(t, err, tcpclient.ErrClosed, "request %d", n)
		require.True(t, isUnsent(err), "request %d is neither answered nor refused: %v", n, err)
	}
	_, err := tr.exchange(ctx, c, []byte("late"))
	require.ErrorIs(t, err, tcpclient.ErrClosed)
	_, err = c.Receive(ctx)
	if tr.resets && errors.Is(err, syscall.ECONNRESET) { // told once, here or to another receiver
		_, err = c.Receive(ctx)
	}
	require.ErrorIs(t, err, tcpclient.ErrClosed)
	if tr.add != nil {
		tr.requireFates(t, &f, true)
	}
}

// unsent: while connections are cut again and again, no request is executed twice, and none that is
// said not to have been sent.
func (tr *trial) unsent(t *testing.T) { // P4
	tr.cutOff(t, func(d tcpclient.Dialer, address string) (caller, func() error) {
		c := tr.dial(t, d, address)
		return c, c.Close
	})
}

// cutOff is unsent with a Client or a Pool.
func (tr *trial) cutOff(t *testing.T, connect func(d tcpclient.Dialer, address string) (caller, func() error)) {
	const cuts = 5 // at least: who waits for no answer may have said all before the first
	ctx := bounded(t)
	proxy := startCutter(t, tr.host.address, tr.meanSize())
	d := tr.reconnecting()
	d.Reconnect.FirstDial = true
	d.DialContext = dialNarrow
	c, closeAll := connect(d, proxy.address)
	var f fates
	var begun atomic.Int64
	tr.load(func(n int) bool {
		if begun.Add(1) > int64(many()) && proxy.numberOfCuts() >= cuts || ctx.Err() != nil {
			return false
		}
		call, cancel := ctx, context.CancelFunc(func() {})
		if n%5 == 0 { // one that may give up, also while there is no connection
			call, cancel = context.WithTimeout(ctx, rand.N(3*time.Millisecond))
		}
		defer cancel()
		_, err := tr.exchange(call, c, tr.add(n))
		f.note(n, err)
		if err != nil && !errors.Is(err, tcpclient.ErrDisconnected) && (call == ctx || !errors.Is(err, context.DeadlineExceeded)) {
			t.Errorf("request %d: %v", n, err)
		}
		return true
	})()
	closeAll()
	proxy.wait()
	t.Log(proxy.numberOfCuts(), "cuts,", &f)
	require.GreaterOrEqual(t, proxy.numberOfCuts(), cuts)
	tr.requireFates(t, &f, !tr.oneWay)
}

// meanSize is that of the requests of add.
func (tr *trial) meanSize() int {
	sum := 0
	for range callers {
		sum += len(tr.add(int(tr.used.Add(1))))
	}
	return sum / callers
}

// dialNarrow makes connections of which the kernel keeps little, so that requests wait to be written.
func dialNarrow(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Control: func(_, _ string, conn syscall.RawConn) (err error) {
		controlled := conn.Control(func(fd uintptr) {
			// With the segments of loopback, 64 KiB, each would wait for an acknowledgement that is delayed.
			err = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 16<<10))
		})
		return errors.Join(err, controlled)
	}}
	return dialer.DialContext(ctx, network, address)
}

// stopped: a server that hangs is noticed, and used again when it goes on.
func (tr *trial) stopped(t *testing.T) { // P5, P8
	ctx, d := bounded(t), tr.reconnecting()
	limit, cause := patienceOf(&d)
	isNoticed := !errors.Is(cause, context.DeadlineExceeded) // else only the caller's patience ends
	c := tr.dial(t, d, tr.host.address)
	var answered atomic.Int64
	var f failures
	wait := tr.load(func(n int) bool {
		call, cancel := ctx, context.CancelFunc(func() {})
		if !isNoticed {
			call, cancel = context.WithTimeout(ctx, limit)
		}
		defer cancel()
		err := tr.question(t, call, c, n)
		answered.Add(1)
		return !f.note(err)
	})
	waitFor(t, func() bool { return answered.Load() >= few })
	tr.host.signal(t, syscall.SIGSTOP)
	at := time.Now()
	defer tr.host.signal(t, syscall.SIGCONT)
	wait()
	for _, failed := range f.all {
		require.ErrorIs(t, failed.err, cause)
		require.Less(t, failed.at.Sub(at), limit+slack)
		require.Equal(t, isNoticed, errors.Is(failed.err, tcpclient.ErrDisconnected))
	}
	tr.host.signal(t, syscall.SIGCONT)
	waitFor(t, func() bool { return tr.question(t, ctx, c, int(tr.used.Add(1))) == nil })
	if !isNoticed {
		require.EqualValues(t, 1, c.Stats().Connects)
	}
}

// patienceOf returns for how long d waits for a server that is silent, and what it then says.
func patienceOf(d *tcpclient.Dialer) (limit time.Duration, cause error) {
	h := d.Heartbeat
	if h.Timeout == 0 {
		h.Timeout = 2 * h.Interval
	}
	switch {
	case d.ReplyTimeout > 0 && (d.Correlator == nil || h.Interval == 0 || d.ReplyTimeout < h.Timeout):
		return d.ReplyTimeout, tcpclient.ErrReplyTimeout // in order it takes the Heartbeat's place
	case h.Interval > 0:
		return h.Interval + h.Timeout, tcpclient.ErrHeartbeatTimeout
	}
	return time.Second, context.DeadlineExceeded // no one notices but the caller
}

// killed: requests that a server takes with it fail, and the others are answered when it is back.
func (tr *trial) killed(t *testing.T) { // P4, P8
	ctx := bounded(t)
	c := tr.dial(t, tr.reconnecting(), tr.host.address)
	var answered, afterwards atomic.Int64
	var isBack atomic.Bool
	wait := tr.load(func(n int) bool {
		counts := isBack.Load()
		err := tr.question(t, ctx, c, n)
		switch {
		case errors.Is(err, tcpclient.ErrDisconnected) && !errors.Is(err, tcpclient.ErrInvalidFrame) && tcpclient.Classify(err) == tcpclient.ClassDisconnected:
			return true
		case err != nil:
			t.Errorf("question %d: %v", n, err)
			return false
		case counts:
			afterwards.Add(1)
		}
		answered.Add(1)
		return afterwards.Load() < few
	})
	waitFor(t, func() bool { return answered.Load() >= few })
	tr.host.restart(t)
	isBack.Store(true)
	wait()
	require.GreaterOrEqual(t, c.Stats().Connects, uint64(2))
}

// fates are what is known of requests.
type fates struct {
	mu       sync.Mutex // guards following
	answered []int
	errs     map[int]error
}

func (f *fates) note(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.answered = append(f.answered, n)
		return
	}
	if f.errs == nil {
		f.errs = make(map[int]error)
	}
	f.errs[n] = err
}

func (f *fates) String() string {
	unsent := 0
	for _, err := range f.errs {
		if isUnsent(err) {
			unsent++
		}
	}
	return fmt.Sprintf("%d answered, %d unsent, %d of unknown fate", len(f.answered), unsent, len(f.errs)-unsent)
}

func isUnsent(err error) bool {
	var op *tcpclient.OpError
	return errors.As(err, &op) && op.Unsent
}

// requireFates compares what is known with what the server has executed. certain says that what was
// answered is.
func (tr *trial) requireFates(t *testing.T, f *fates, certain bool) {
	t.Helper()
	c := tr.dial(t, tr.dialer(), tr.host.address)
	for _, n := range f.answered {
		if got := tr.executed(t, c, n); got > 1 || certain && got != 1 {
			t.Errorf("request %d was answered, and executed %d times", n, got)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(f.errs)) {
		got := tr.executed(t, c, n)
		if err := f.errs[n]; got > 1 || isUnsent(err) && got != 0 {
			t.Errorf("request %d was executed %d times: %v", n, got, err)
		}
	}
}

// failures are errors of Calls, and when they came.
type failures struct {
	mu  sync.Mutex // guards following
	all []failure
}

type failure struct {
	at  time.Time
	err error
}

// note reports whether err is one.
func (f *failures) note(err error) bool {
	if err == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, failure{time.Now(), err})
	return true
}
