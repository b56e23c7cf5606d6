package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

var (
	soakFor  = flag.Duration("soak", 0, "how long TestSoak runs; 0: 1.5 s, or 200 ms with -short")
	soakSeed = flag.Uint64("seed", 0, "what TestSoak draws its faults from; 0: at random")
)

const (
	soakLanes   = 6                      // sessions at a time
	soakTimeout = 300 * time.Millisecond // WriteTimeout, FrameTimeout and so on
	soakGrace   = 500 * time.Millisecond // for a connection to end in which a reply is overdue
	soakMargin  = 5 * time.Second        // for a call to return after its context has ended
	soakClose   = 2 * time.Second        // for Close, which promises one
)

// TestSoak runs sessions, each a Client with a server of its own and faults drawn at
// random, and compares what its callers were told with what has arrived:
//
//	go test -race ./internal/soak -run '^TestSoak$' -soak=1m -seed=N
//
// The seed decides on settings, faults, sizes and contexts. The scheduler has its part in
// what comes of them, so that a failure may take more than one run to come again; with
// -run '^TestSoak$/^17_' a run is one of session 17 alone.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	length := *soakFor
	switch {
	case length == 0 && testing.Short():
		length = 200 * time.Millisecond
	case length == 0:
		length = 1500 * time.Millisecond
	}
	t.Logf("-soak=%v -seed=%d", length, seed)
	totals := soakTotals{length: length}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { totals.watch(done) })
	defer watching.Wait()
	defer close(done)
	soakRun(t, seed, 0, &totals) // whatever is allocated once is not a leak
	alive, files, memory := runtime.NumGoroutine(), testkit.OpenFiles(t), testkit.MemoryInUse()

	var next atomic.Int64
	var lanes sync.WaitGroup
	deadline := time.Now().Add(length)
	for range soakLanes {
		lanes.Go(func() {
			for time.Now().Before(deadline) && totals.failed.Load() < 3 {
				soakRun(t, seed, int(next.Add(1)), &totals)
			}
		})
	}
	lanes.Wait()
	t.Log(totals.String())
	testkit.RequireNoGoroutines(t)
	testkit.Eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= alive })
	testkit.Eventually(t, "all descriptors are closed", func() bool { return testkit.OpenFiles(t) <= files })
	require.Less(t, testkit.MemoryInUse(), memory+8<<20, "P6: bytes in use after %d sessions", next.Load())
}

// soakTotals are the numbers of a whole run.
type soakTotals struct {
	length time.Duration // of the run

	sessions, connections, losses, orderly, failedDials atomic.Int64
	sent, calls, pushes, unsent, unknown, failed        atomic.Int64
	overdue, disconnects, rotations, rests              atomic.Int64
	slowest, starved                                    atomic.Int64 // the longest Close; see watch
}

// watch measures how long this process did not get to run, which is no fault of the library.
func (n *soakTotals) watch(done <-chan struct{}) {
	const beat = 5 * time.Millisecond
	for last := time.Now(); ; {
		select {
		case <-done:
			return
		default:
			pause(beat, done)
		}
		now := time.Now()
		if late := now.Sub(last) - beat; late > 4*beat {
			n.starved.Add(int64(late))
		}
		last = now
	}
}

func (n *soakTotals) String() string {
	return fmt.Sprintf("%d sessions, %d connections (%d lost, %d ended by us and received to the end), %d dials failed; %d messages handed over, %d calls answered, "+
		"%d pushes received; %d unsent, %d of unknown fate; %d replies overdue, %d Disconnects, the address changed %d times, %d rests without demand; slowest Close %v; not running for %v; %d sessions failed",
		n.sessions.Load(), n.connections.Load(), n.losses.Load(), n.orderly.Load(), n.failedDials.Load(), n.sent.Load(), n.calls.Load(),
		n.pushes.Load(), n.unsent.Load(), n.unknown.Load(),
		n.overdue.Load(), n.disconnects.Load(), n.rotations.Load(), n.rests.Load(), time.Duration(n.slowest.Load()),
		time.Duration(n.starved.Load()).Round(time.Millisecond), n.failed.Load())
}

// The ways in which a session makes calls.
const (
	soakPushes  = "pushes" // none: the server pushes
	soakInOrder = "in order"
	soakIDs     = "ids"
)

// A soakSession is a Client, its server, those who use it, and the model of both.
type soakSession struct {
	t         *testing.T
	seed      uint64
	number    int
	name      string
	transport string
	mode      string
	prefix    int // bytes in front of a parcel
	handshake bool
	tunnel    bool
	switches  bool     // there are calls of Disconnect
	addresses []string // one or two
	dialer    tcpclient.Dialer
	model     *soakModel
	totals    *soakTotals

	client   *tcpclient.Client
	stop     chan struct{} // closed when the workers are to leave
	closing  atomic.Bool   // Close or Shutdown may have been called
	ended    chan struct{} // closed with the Client
	failures atomic.Int64
	dozing   atomic.Bool  // the receiver does not receive
	dozed    atomic.Int64 // for so long it has not

	mu     sync.Mutex // guards following
	dialed []net.Conn // the Client's connections, where DialContext makes them
}

// soakRun runs one session as a subtest.
func soakRun(t *testing.T, seed uint64, number int, totals *soakTotals) {
	s := &soakSession{seed: seed, number: number, totals: totals, stop: make(chan struct{}), ended: make(chan struct{})}
	s.draw()
	totals.sessions.Add(1)
	if !t.Run(s.name, func(t *testing.T) {
		s.t = t
		s.run()
	}) {
		totals.failed.Add(1)
	}
}

// random returns a source of its own for each part of the session.
func (s *soakSession) random(part int) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, uint64(s.number)<<16+uint64(part)))
}

// draw chooses the settings.
func (s *soakSession) draw() {
	r := s.random(0)
	s.model = &soakModel{s: s, rounds: soakRounds{s: s}, lastOf: map[[2]int]int{}, pushed: map[int]int{}, from: -1}
	s.transport = []string{"tcp", "tls", "unix"}[r.IntN(3)]
	s.mode = []string{soakPushes, soakInOrder, soakIDs}[r.IntN(3)]
	s.name = fmt.Sprintf("%d %s %s", s.number, s.transport, s.mode)
	chosen := func(name string) bool {
		yes := r.IntN(2) == 0
		if yes {
			s.name += " " + name
		}
		return yes
	}
	d := &s.dialer
	d.Timeout, d.WriteTimeout, d.FrameTimeout = 2*soakTimeout, soakTimeout, soakTimeout
	d.Framer = []tcpclient.Framer{tcpclient.LengthPrefix{}, tcpclient.Varint{}, testkit.FuncFramer{}}[r.IntN(3)]
	d.Trace = &tcpclient.Trace{
		Connecting:   func(address string, _ int) { s.model.rounds.connecting(address) },
		Connected:    func(string, int, time.Duration) { s.model.connected() },
		Disconnected: s.model.disconnected,
		Waiting:      func(_ int, delay time.Duration) { s.model.rounds.waiting(delay) },
	}
	if s.mode == soakIDs {
		d.Correlator, s.prefix = tcpclient.IDPrefix{}, 8
	}
	s.drawReturn(r, chosen)
	if chosen("heartbeat") {
		d.Heartbeat = tcpclient.Heartbeat{
			Interval: soakTimeout / 3,
			Timeout:  soakTimeout,
			Ping:     func() []byte { return []byte("ping") },
			IsPong:   func(msg []byte) bool { return string(msg) == "pong" },
			Answer:   func(msg []byte) ([]byte, bool) { return []byte("pong"), string(msg) == "ping" },
		}
	}
	if s.handshake = chosen("handshake"); s.handshake {
		d.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, []byte("hello")); err != nil {
				return err
			}
			msg, err := conn.Receive(ctx)
			if err == nil && string(msg) != "welcome" {
				s.fail("the handshake got %.20q", msg)
			}
			return err
		}
	}
	if chosen("small buffers") {
		d.ReadBuffer, d.WriteBuffer, d.Inbox = 1<<10, 1<<10, 4<<10
	}
	s.drawDial(chosen("small socket buffers"), chosen("tunnel"))
	if chosen("flush delay") {
		d.FlushDelay = time.Millisecond
	}
}

// drawReturn chooses what ends a connection early, and what comes after it.
func (s *soakSession) drawReturn(r *rand.Rand, chosen func(name string) bool) {
	d := &s.dialer
	if s.mode != soakPushes && chosen("reply timeout") {
		d.ReplyTimeout = soakTimeout
	}
	if s.mode != soakPushes && chosen("few in flight") {
		d.MaxInFlight = 1 + r.IntN(8)
	}
	if chosen("reconnect") {
		d.Reconnect = &tcpclient.Backoff{Min: time.Millisecond, Max: []time.Duration{20, 400}[r.IntN(2)] * time.Millisecond, FirstDial: r.IntN(2) == 0}
		d.Reconnect.OnDemand = chosen("on demand")
		d.Reconnect.FailFast = chosen("fail fast")
	}
	s.switches = chosen("disconnect")
	s.addresses = make([]string, 1)
	if chosen("two addresses") {
		s.addresses = make([]string, 2)
	}
}

// drawDial chooses what connections are made of.
func (s *soakSession) drawDial(small, foreign bool) {
	if !small && !foreign && len(s.addresses) == 1 {
		return // NetDialer
	}
	random := s.random(3)
	s.dialer.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		s.model.rounds.dialing()
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dialed = append(s.dialed, conn)
		if small { // writes have to wait
			conn.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(4 << 10)
		}
		if foreign {
			return newTunnel(s, conn, random), nil
		}
		return conn, nil
	}
	s.tunnel = foreign
}

// excused returns for how long replies that were due did not count.
func (s *soakSession) excused() time.Duration {
	return time.Duration(2*s.totals.starved.Load() + s.dozed.Load())
}

// fail reports what must not happen.
func (s *soakSession) fail(format string, args ...any) {
	if s.failures.Add(1) > 5 {
		return // one thing leads to another
	}
	s.t.Errorf("-seed=%d, session %s: %s", s.seed, s.name, fmt.Sprintf(format, args...))
}

func (s *soakSession) run() {
	listen := testkit.ListenTCP
	if s.transport == "unix" {
		listen = testkit.ListenUnix
	}
	server := &soakServer{s: s, shut: -1, ending: s.ended}
	var network string
	for i := range s.addresses {
		l := listen(s.t)
		network, s.addresses[i] = l.Network, l.Addr().String()
		server.listeners = append(server.listeners, l)
	}
	if r := s.random(4); len(s.addresses) > 1 && s.dialer.Reconnect != nil && r.IntN(2) == 0 {
		server.shut = r.IntN(2)
	}
	if s.transport == "tls" {
		server.tls, s.dialer.TLSConfig = tcpclienttest.NewTLSConfig()
	}
	for i := range s.addresses {
		server.running.Go(func() { server.accept(i) })
	}

	ctx, cancel := context.WithTimeout(context.Background(), 4*soakTimeout)
	defer cancel()
	var err error
	s.timed("Dial", 4*soakTimeout+soakMargin, func() { s.client, err = s.dialer.Dial(ctx, network, s.addresses...) })
	if err != nil {
		s.totals.failedDials.Add(1)
		s.check(ctx, "dial", err)
	} else {
		if s.dialer.Reconnect != nil && s.dialer.Reconnect.OnDemand {
			s.rest()
		}
		s.use(s.random(1))
	}
	s.checkForgotten()
	server.close()
	s.model.verify(server.conns)
}

// rest wants that a Client on demand makes no connection while no call needs one: not after
// Dial, nor after a loss that nobody waits for.
func (s *soakSession) rest() {
	w := &soakWorker{soakSession: s, index: 0, random: s.random(5)}
	s.model.addWorkers(1)
	attempts := 0
	for range 2 {
		pause(time.Duration(w.random.IntN(20))*time.Millisecond, nil)
		if n := s.model.rounds.attempts(); n != attempts {
			s.fail("P8, C12: there were %d attempts to connect, %d of them without demand", n, n-attempts)
		}
		s.totals.rests.Add(1)
		if w.send("send", parcelSent, s.client.Send) != nil {
			return // an attempt may be under way
		}
		w.disconnect()
		testkit.Eventually(s.t, "the connection has ended", func() bool { return s.model.paired(s.client.Stats()) })
		attempts = s.model.rounds.attempts()
	}
}

// use lets workers loose on the Client, and ends it in one of several ways.
func (s *soakSession) use(r *rand.Rand) {
	workers := make([]*soakWorker, 1+r.IntN([]int{4, 4, 16}[r.IntN(3)]))
	var working, receiving sync.WaitGroup
	for i := range workers {
		workers[i] = &soakWorker{soakSession: s, index: i, random: s.random(10 + i)}
	}
	s.model.addWorkers(len(workers))
	for _, w := range workers {
		working.Go(w.run)
	}
	receiver := &soakWorker{soakSession: s, random: s.random(2)}
	receiving.Go(receiver.receive)
	life := 1500 * time.Millisecond
	if s.dialer.Reconnect != nil {
		life = 4 * time.Second
	}
	pause(time.Duration(r.Float64()*float64(min(life, s.totals.length/4))), nil)

	calm, shut, twice := r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(4) == 0
	if calm {
		close(s.stop)
		s.join("the workers", &working)
		last := workers[0]
		for range r.IntN(20) {
			last.write()
		}
	}
	s.closing.Store(true)
	orderly := calm
	if twice {
		working.Go(func() { s.close() })
	}
	if shut {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(1000))*time.Millisecond)
		err := s.client.Shutdown(ctx)
		s.check(ctx, "shutdown", err)
		cancel()
		orderly = orderly && err == nil
		if !twice && (err == nil || errors.Is(err, tcpclient.ErrDisconnected)) { // else it may not have begun
			s.join("the receiver", &receiving)
			s.model.allReceived = true
		}
	}
	starved, began := s.totals.starved.Load(), time.Now()
	err := s.close()
	if s.totals.starved.Load() > starved || time.Since(began) > time.Second { // after its second Close gives up
		testkit.Eventually(s.t, "the Client has ended", func() bool { return s.model.paired(s.client.Stats()) && s.forgotten() == nil })
	}
	if !calm {
		close(s.stop)
	}
	s.join("the workers", &working)
	s.join("the receiver", &receiving)
	s.model.ended(s.client.Stats(), orderly && err == nil && !twice)
}

// checkForgotten fails if a connection is not closed. Nobody waits for the Close of a tunnel that
// was lost.
func (s *soakSession) checkForgotten() {
	if s.tunnel {
		testkit.Eventually(s.t, "all tunnels are closed", func() bool { return s.forgotten() == nil })
	}
	if conn := s.forgotten(); conn != nil {
		s.fail("P6: connection %v was not closed", conn.LocalAddr())
	}
}

// forgotten returns a connection that is not closed. To count descriptors is not enough:
// the garbage collector closes those without a reference.
func (s *soakSession) forgotten() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.dialed {
		if !errors.Is(conn.SetDeadline(time.Time{}), net.ErrClosed) {
			return conn
		}
	}
	return nil
}

// close closes the Client.
func (s *soakSession) close() (err error) {
	took := s.timed("P7: Close", soakClose, func() { err = s.client.Close() })
	for old := s.totals.slowest.Load(); int64(took) > old && !s.totals.slowest.CompareAndSwap(old, int64(took)); {
		old = s.totals.slowest.Load()
	}
	return err
}

// timed fails if f takes longer than budget, or more on a machine that is busy otherwise:
// there each of the goroutines that f waits for is late.
func (s *soakSession) timed(what string, budget time.Duration, f func()) time.Duration {
	began, starved := time.Now(), s.totals.starved.Load()
	f()
	took := time.Since(began)
	budget += 5 * time.Duration(s.totals.starved.Load()-starved)
	if took > budget {
		s.fail("%s took %v, want at most %v", what, took, budget)
	}
	return took
}

// join waits for goroutines that have nothing to wait for. One that is stuck is the end
// of the run: its Client cannot be got rid of.
func (s *soakSession) join(what string, g *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { defer close(done); g.Wait() }()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		panic(fmt.Sprintf("-seed=%d, session %s: %s did not return\n%s", s.seed, s.name, what, testkit.Stacks()))
	}
}

// check fails if err is not one that may come of op.
func (s *soakSession) check(ctx context.Context, op string, err error) {
	if err == nil {
		return
	}
	var e *tcpclient.OpError
	switch {
	case !errors.As(err, &e):
		s.fail("P9: %s: not an OpError: %v", op, err)
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			s.fail("P2: %s: %v, but its context says %v", op, err, ctx.Err())
		}
	case errors.Is(err, tcpclient.ErrClosed):
		if !s.closing.Load() {
			s.fail("P9: %s: %v, but we have not closed", op, err)
		}
	case op == "call" && errors.Is(err, tcpclient.ErrInboxFull), op == "dial":
	case !errors.Is(err, tcpclient.ErrDisconnected):
		s.fail("P9: %s: unexpected: %v", op, err)
	case tcpclient.Classify(err) != tcpclient.ClassDisconnected:
		s.fail("P9: %s: class %v: %v", op, tcpclient.Classify(err), err)
	}
}

// final reports whether the Client has ended.
func (s *soakSession) final(err error) bool {
	return errors.Is(err, tcpclient.ErrClosed) || s.dialer.Reconnect == nil && errors.Is(err, tcpclient.ErrDisconnected)
}

// A soakWorker is one goroutine that uses the Client.
type soakWorker struct {
	*soakSession
	index  int
	random *rand.Rand
}

// run sends and calls until it is told to stop or the Client has ended.
func (w *soakWorker) run() {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		var err error
		switch n := w.random.IntN(20); {
		case n < 8:
			err = w.send("send", parcelSent, w.client.Send)
		case n < 14 && w.mode != soakPushes:
			err = w.call()
		case n < 19:
			err = w.burst()
		case w.switches && w.random.IntN(20) == 0:
			w.disconnect()
		default:
			pause(time.Duration(w.random.IntN(5))*time.Millisecond, w.stop)
		}
		if err != nil && w.failsFast() {
			pause(time.Millisecond, w.stop)
		}
		if w.final(err) {
			return
		}
	}
}

// attempt makes one call with a context that may end at any time.
func (w *soakWorker) attempt(op string, f func(ctx context.Context) error) error {
	budget := time.Second
	switch w.random.IntN(10) {
	case 0:
		budget = time.Duration(w.random.IntN(2000)) * time.Microsecond
	case 1:
		budget = time.Duration(w.random.IntN(100)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	if w.random.IntN(2) == 0 {
		ctx, cancel = context.WithCancel(context.Background())
		defer cancel()
		defer time.AfterFunc(budget, cancel).Stop()
	}
	var err error
	before, starved := w.client.Stats(), w.totals.starved.Load()
	without := op != "receive" && w.failsFast() && !w.dialer.Reconnect.OnDemand && w.model.paired(before)
	took := w.timed("P2: "+op, budget+soakMargin, func() { err = f(ctx) })
	w.check(ctx, op, err)
	if without && w.client.Stats().Connects == before.Connects {
		w.checkFast(ctx, op, took-5*time.Duration(w.totals.starved.Load()-starved), err)
	}
	return err
}

func (s *soakSession) failsFast() bool {
	return s.dialer.Reconnect != nil && s.dialer.Reconnect.FailFast
}

// checkFast wants a call for which there was no connection to have failed at once, and to say that
// the peer has seen nothing.
func (s *soakSession) checkFast(ctx context.Context, op string, took time.Duration, err error) {
	var e *tcpclient.OpError
	switch {
	case took > soakTimeout:
		s.fail("P8: %s took %v to find that there is no connection: %v", op, took, err)
	case op == "flush" || ctx.Err() != nil:
	case !errors.As(err, &e) || !e.Unsent:
		s.fail("P4: %s without a connection: not unsent: %v", op, err)
	}
}

// disconnect ends the connection that there is.
func (w *soakWorker) disconnect() {
	cause := &soakCauseError{}
	before := w.client.Stats()
	w.client.Disconnect(cause)
	conn := 0
	if before.Connected && w.client.Stats().Connects == before.Connects && !w.closing.Load() {
		conn = int(before.Connects)
	}
	w.model.rounds.gave(cause, conn)
}

// send sends one parcel by one of the Client's methods, and takes note of its fate.
func (w *soakWorker) send(op string, kind byte, method func(ctx context.Context, msg []byte) error) error {
	number := w.model.sending(w.index)
	msg := parcel{kind, w.index, number}.pack(w.prefix, parcelFiller(w.random))
	if kind == parcelCall {
		msg = msg[w.prefix:] // the Correlator has a prefix of its own
	}
	before := w.client.Stats().Connects
	err := w.attempt(op, func(ctx context.Context) error { return method(ctx, msg) })
	conn := int(before)
	if w.client.Stats().Connects != before {
		conn = 0 // one of several
	}
	for i := range msg {
		msg[i] = 0xEE // it was only borrowed
	}
	var e *tcpclient.OpError
	switch {
	case err == nil && op == "write":
		w.model.told(w.index, number, soakWritten, conn)
	case err == nil:
		w.totals.sent.Add(1)
		w.model.told(w.index, number, soakHanded, conn)
	case errors.As(err, &e) && e.Unsent:
		w.totals.unsent.Add(1)
		w.model.told(w.index, number, soakUnsent, 0)
	default:
		w.totals.unknown.Add(1)
		w.model.told(w.index, number, soakUnknown, 0)
	}
	return err
}

func (w *soakWorker) write() error { return w.send("write", parcelSent, w.client.Write) }

// call makes a Call and looks at the reply.
func (w *soakWorker) call() error {
	return w.send("call", parcelCall, func(ctx context.Context, msg []byte) error {
		want, _ := unpack(0, msg)
		want.kind = parcelReply
		reply, err := w.client.Call(ctx, msg)
		if err != nil {
			return err
		}
		w.totals.calls.Add(1)
		if got, err := unpack(0, reply); err != nil { // the Correlator has taken the id off
			w.fail("P1: a Call got %v", err)
		} else if got != want {
			w.fail("a Call got %+v, want %+v", got, want)
		}
		return nil
	})
}

// burst writes some parcels and, mostly, flushes.
func (w *soakWorker) burst() error {
	before := w.client.Stats().Connects
	first := w.model.sentBy(w.index)
	for range 1 + w.random.IntN(20) {
		if err := w.write(); err != nil {
			return err
		}
	}
	if w.random.IntN(5) == 0 {
		return nil
	}
	err := w.attempt("flush", w.client.Flush)
	if err == nil && w.client.Stats().Connects == before {
		n := w.model.flushed(w.index, first)
		w.totals.sent.Add(int64(n))
	}
	return err
}

// receive takes what comes until the Client has ended, by all three methods.
func (w *soakWorker) receive() {
	var owned []byte // by us: no other goroutine writes there
	var buf []byte
	var last error
	taken := func(msg []byte, err error) (more bool) {
		if err == nil {
			w.model.received(msg)
			switch n := w.random.IntN(1000); {
			case n < 2:
				w.doze(time.Duration(w.random.IntN(1500)) * time.Millisecond)
			case n < 200:
				runtime.Gosched()
			}
			if _, err := unpack(w.prefix, msg); err != nil {
				w.fail("P1: a message was overwritten before the next was asked for: %v", err)
			}
			return true
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return true // it may say, too, why there is no connection
		}
		if !errors.Is(err, tcpclient.ErrDisconnected) {
			return !errors.Is(err, tcpclient.ErrClosed)
		}
		reason := errors.Unwrap(err)
		if reason == last { //nolint:errorlint // the same error, not one that wraps it
			return false // once more: it stays
		}
		last = reason
		w.model.lost(err)
		return true
	}
	for more := true; more; {
		switch w.random.IntN(3) {
		case 0:
			w.attempt("receive", func(ctx context.Context) error {
				msg, err := w.client.Receive(ctx)
				if owned != nil {
					if _, err := unpack(w.prefix, owned); err != nil {
						w.fail("a message that Receive has returned was overwritten: %v", err)
					}
				}
				owned = msg
				more = taken(msg, err)
				return err
			})
		case 1:
			w.attempt("receive", func(ctx context.Context) (err error) {
				buf, err = w.client.ReceiveInto(ctx, buf)
				more = taken(buf, err)
				return err
			})
		default:
			w.attempt("receive", func(ctx context.Context) error {
				left := w.random.IntN(100)
				for msg, err := range w.client.Messages(ctx) {
					more = taken(msg, err)
					if err != nil || left == 0 {
						return err
					}
					left--
				}
				return nil
			})
		}
	}
}

// doze lets the Inbox fill.
func (w *soakWorker) doze(d time.Duration) {
	w.dozing.Store(true)
	defer w.dozing.Store(false)
	defer w.dozed.Add(int64(d))
	pause(d, w.ended)
}

// pause lets d pass, or less when ended is closed: load, not a way to wait for something.
func pause(d time.Duration, ended <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
	}
}
