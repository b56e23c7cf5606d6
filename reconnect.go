package tcpclient

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// run is the Client's goroutine: it dials, reads until the connection has ended, and
// begins again if there is a Backoff. dialing is Dial's context.
func (c *Client) run(dialing context.Context) {
	defer c.done.Close()
	conn, err := c.firstConnection(dialing)
	if err != nil && !c.config.onDemand() && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		c.attemptFailed(err) // for Dial
	}
	for err == nil {
		began := time.Now()
		o := c.use(c.attach(conn))
		if err = o.reason; c.config.backoff == nil || Classify(err) == ClassPermanent {
			break // permanent: our own end, or a Disconnect for good
		}
		c.producer.lose(err)
		if c.isEnding() {
			err = ErrClosed // a loss is reported once, this for good
			break
		}
		c.connector.ended(o, time.Since(began))
		conn, err = c.nextConnection()
	}
	if c.connecting.isOver() && c.isEnding() && (c.config.backoff != nil || !errors.Is(err, ErrDisconnected)) {
		err = ErrClosed
	}
	if verdict := c.lastVerdict(); verdict != nil && err != ErrClosed {
		err = verdict
	}
	c.finish(err)
}

// firstConnection makes the first connection, for a Dial whose context is dialing, or later.
func (c *Client) firstConnection(dialing context.Context) (*Conn, error) {
	if c.config.onDemand() {
		return c.nextConnection()
	}
	ctx, done := c.connecting.begin(dialing)
	defer done()
	return c.connector.connect(ctx, c.config.backoff != nil && c.config.backoff.FirstDial)
}

// nextConnection makes a connection, trying until there is one or it is clear that there will be none.
func (c *Client) nextConnection() (*Conn, error) {
	ctx, done := c.connecting.begin(c.connecting.values)
	defer done()
	return c.connector.connect(ctx, true)
}

// use reads from l until it has ended, and returns how it has.
func (c *Client) use(l *link) (o outcome) {
	err := errGoexit // until the reader returns
	defer func() {
		o = c.detach(l, err)
		if err == errGoexit {
			reason := o.reason
			if c.config.backoff != nil && reason != ErrClosed {
				c.producer.lose(reason) // run does not come to it
				if reason = errGoexit; c.isEnding() {
					reason = ErrClosed
				}
			}
			c.finish(reason) // likewise
		}
	}()
	if err = l.reader.run(); err == ErrClosed {
		err = &wire.DisconnectedError{Cause: err} // a Framer's or the connection's word, not ours
	}
	return // o, from detach
}

// attach puts a new connection to use.
func (c *Client) attach(conn *Conn) *link {
	l := newLink(c.config, conn, c.producer, &c.count, c.trace, c.takeLoss())
	c.count.connects.Add(1)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.dialErr = l, nil
	c.connector.unhurry()
	c.connector.demand.satisfy()
	c.changedLocked()
	if c.phase != clientRunning {
		l.wire.Kill(ErrClosed) // and neither Close nor Shutdown is to see this one
		return l
	}
	c.link.Store(l)
	if c.verdict != nil {
		l.wire.Kill(c.verdict) // Disconnect came between the attempt and us
		return l
	}
	c.taker.Store(l)
	return l
}

// detach ends l, which err has made unreadable. It returns, when no one uses l any more, how it
// has ended.
func (c *Client) detach(l *link, err error) outcome {
	o := l.end(err, c.isClosing())
	c.leaving.add(l.wire)

	c.mu.Lock()
	defer c.mu.Unlock()
	if loss := l.out.takeLoss(); loss != nil { // under our lock, or who asks in between would not find it
		c.pendingLoss = loss
	}
	if c.phase != clientRunning {
		c.ended = o
	}
	c.link.Store(nil)
	c.taker.Store(nil)
	c.rounds++
	c.changedLocked()
	c.trace.disconnected(l.addr, o.reason)
	return o
}

// attemptFailed notes why there is no connection.
func (c *Client) attemptFailed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialErr = err
	c.rounds++
	c.changedLocked()
}

// whyNotLocked returns why there is no connection, while there is none: the last failure to make
// one, or else the end of the last. nil: no attempt was made.
func (c *Client) whyNotLocked() error {
	switch {
	case c.dialErr != nil:
		return c.dialErr
	case c.last != nil:
		return c.last.wire.Cause()
	}
	return nil
}

// finish tells everybody that there will be no other connection.
func (c *Client) finish(err error) {
	c.producer.closeSlab()
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.changedLocked()
	c.mu.Unlock()
	c.in.finish(err)
}

// notConnectedLocked is the error of a call that does not wait for a connection.
func (c *Client) notConnectedLocked() error {
	why := c.whyNotLocked()
	if errors.Is(why, ErrDisconnected) {
		return why
	}
	return withReason(ErrDisconnected, why)
}

func (c *Client) lastVerdict() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.verdict
}

// A connecting makes the contexts of a Client's attempts. While it is connected there is no context
// of them: an idle Client should cost little.
type connecting struct {
	values context.Context // Dial's, without its end

	mu     sync.Mutex // guards following
	over   bool
	cancel context.CancelFunc // ends the attempts that are under way; nil: none are
}

// begin returns a context for attempts, until done. It ends with parent, and at end.
func (t *connecting) begin(parent context.Context) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(parent)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		cancel()
	}
	t.cancel = cancel
	return ctx, t.done
}

// done ends the attempts that are under way.
func (t *connecting) done() { t.take(false)() }

// end ends the attempts, and there are no others.
func (t *connecting) end() { t.take(true)() }

// take returns what ends the attempts that are under way. over says that there are to be no
// others.
func (t *connecting) take(over bool) context.CancelFunc {
	t.mu.Lock()
	defer t.mu.Unlock()
	cancel := t.cancel
	t.over, t.cancel = t.over || over, nil
	if cancel == nil {
		return func() {}
	}
	return cancel
}

func (t *connecting) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// A connector makes the connections of a Client. The Client's goroutine owns it.
type connector struct {
	config    *config
	network   string
	addresses []string
	trace     *tracer
	leaving   *leaving
	demand    *demand         // nil: there always is
	failed    func(err error) // is told of a failed attempt that is to be followed by another

	retries  retries
	first    int           // address with which the next round begins
	current  int           // that of the last connection
	unneeded time.Duration // how long there was no demand for that

	tried atomic.Pointer[string] // the addresses tried in this round, or the last, for any goroutine
	hurry nudge                  // the next wait is not to be
}

func newConnector(config *config, network string, addresses []string, trace *tracer, leaving *leaving, failed func(error)) *connector {
	r := &connector{
		config:    config,
		network:   network,
		addresses: slices.Clone(addresses),
		trace:     trace,
		leaving:   leaving,
		failed:    failed,
		retries:   retries{backoff: config.backoff},
	}
	if config.onDemand() {
		r.demand = newDemand()
	}
	return r
}

// address returns what the connector is at, for an error: the addresses that were tried in this
// round, or all before the first.
func (r *connector) address() string {
	if tried := r.tried.Load(); tried != nil {
		return *tried
	}
	return strings.Join(r.addresses, ", ")
}

// hurryUp cuts the wait for the next attempt short, the present one or the next.
func (r *connector) hurryUp() { r.hurry.give() }

// unhurry forgets a hurryUp.
func (r *connector) unhurry() { r.hurry.take() }

// ended records how the last connection has ended, which has lived so long, and chooses the
// address that comes next.
func (r *connector) ended(o outcome, lived time.Duration) {
	switch verdict := r.retries.ended(o, lived, r.unneeded); {
	case r.hurry.isGiven(): // by Disconnect
		r.retries.restart()
		fallthrough
	case verdict == tooShort:
		r.first = (r.current + 1) % len(r.addresses)
	case verdict == orderly && o.answered: // it is of use
		r.first = r.current
	case verdict == orderly:
		r.first = (r.current + 1) % len(r.addresses)
	default:
		r.first = 0
	}
}

// errGoexit is the error of a hook that has called runtime.Goexit, as t.FailNow does.
var errGoexit = Permanent(errors.New("a hook has ended its goroutine"))

// connect makes the next connection, waiting before each attempt but the first, and
// trying again until ctx ends, the attempts are used up or an error is permanent.
func (r *connector) connect(ctx context.Context, again bool) (*Conn, error) {
	r.unneeded = 0
	for {
		if err := r.awaitTurn(ctx); err != nil {
			return nil, err
		}
		conn, err := r.dialApart(ctx)
		if err == nil || !again || ctx.Err() != nil || Classify(err) == ClassPermanent {
			return conn, err
		}
		r.retries.failed(err)
		r.failed(err)
	}
}

// awaitTurn returns when the next attempt is to be made.
func (r *connector) awaitTurn(ctx context.Context) error {
	if r.retries.failures > 0 {
		if r.retries.exhausted() {
			return exhausted(r.retries.attempts, r.retries.err)
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	began := time.Now()
	err := r.demand.await(ctx)
	r.unneeded += time.Since(began)
	if r.demand != nil {
		r.unhurry() // what it was for is over
	}
	return err
}

// wait lets the delay before the next attempt pass.
func (r *connector) wait(ctx context.Context) error {
	delay := r.retries.delay()
	if r.hurry.take() {
		delay = 0
	}
	r.trace.waiting(r.retries.attempt(), delay)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.hurry.given():
		r.hurry.take()
	case <-ctx.Done():
	}
	return ctx.Err()
}

// A nudge is for one who waits, now or the next time.
type nudge struct {
	mu     sync.Mutex // guards following
	isHere bool
	wake   chan struct{} // closed when it is given; nil: no one waits
}

func (n *nudge) give() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isHere = true
	n.wakeLocked()
}

func (n *nudge) wakeLocked() {
	if n.wake != nil {
		close(n.wake)
		n.wake = nil
	}
}

// take uses the nudge up, and reports whether there was one.
func (n *nudge) take() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.isHere
	n.isHere = false
	return was
}

// isGiven reports whether there is one.
func (n *nudge) isGiven() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.isHere
}

// given returns what is closed when there is one.
func (n *nudge) given() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	wake := make(chan struct{})
	n.wake = wake
	if n.isHere {
		n.wakeLocked()
	}
	return wake
}

// dialApart is dialRound on a goroutine of its own, for which it waits. Dialing needs a
// deeper stack than reading, and a goroutine that has once grown it keeps it: 4 KiB for every
// idle Client.
func (r *connector) dialApart(ctx context.Context) (conn *Conn, err error) {
	made := make(chan struct{})
	err = errGoexit
	go func() {
		defer close(made)
		conn, err = r.dialRound(ctx)
	}()
	<-made
	return conn, err
}

// dialRound tries all addresses once.
func (r *connector) dialRound(ctx context.Context) (*Conn, error) {
	var tried []string
	var errs multiError
	for i := range r.addresses {
		r.current = (r.first + i) % len(r.addresses)
		address := r.addresses[r.current]
		tried = append(tried, address)
		all := strings.Join(tried, ", ")
		r.tried.Store(&all)

		r.trace.connecting(address, r.retries.attempt())
		began := time.Now()
		a := attempt{config: r.config, network: r.network, address: address, timeout: r.share(ctx, len(r.addresses)-i), leaving: r.leaving}
		conn, err := a.connect(ctx)
		if err == nil {
			r.trace.connected(address, r.retries.attempt(), time.Since(began))
			return conn, nil
		}
		r.trace.connectFailed(address, r.retries.attempt(), err)
		over := ctx.Err() != nil
		if !over || len(errs) == 0 { // else err says no more than that
			errs = append(errs, err)
		}
		if over {
			break
		}
	}
	if len(tried) == 1 {
		return nil, errs[0]
	}
	return nil, &OpError{Op: opDial, Addr: *r.tried.Load(), Err: errs}
}

// share returns the time for the next of so many addresses that are left: the Timeout, or less if
// ctx ends so soon that the others would have none. 0: without bound.
func (r *connector) share(ctx context.Context, left int) time.Duration {
	timeout := r.config.timeout
	if due, ok := ctx.Deadline(); ok && left > 1 {
		if share := max(time.Until(due)/time.Duration(left), 1); timeout == 0 || share < timeout {
			return share
		}
	}
	return timeout
}

// A demand is the calls that wait for a connection. The nil demand never ends.
type demand struct {
	begun chan struct{} // one slot: a call has begun to wait

	mu      sync.Mutex // guards following
	waiting int        // calls
	asked   bool       // by one that does not wait, since there last was a connection or an attempt began
}

func newDemand() *demand { return &demand{begun: make(chan struct{}, 1)} }

// begin notes that a call waits, until end.
func (d *demand) begin() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting++
	d.wakeLocked()
}

// ask has one attempt made, for who does not wait.
func (d *demand) ask() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = true
	d.wakeLocked()
}

// satisfy ends what ask began: there is a connection.
func (d *demand) satisfy() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = false
}

func (d *demand) wakeLocked() {
	select {
	case d.begun <- struct{}{}:
	default:
	}
}

func (d *demand) end() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
}

// take reports whether an attempt is wanted, which is then made.
func (d *demand) take() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := d.waiting > 0 || d.asked
	d.asked = false
	return wanted
}

// await returns when a call waits, or ctx is done.
func (d *demand) await(ctx context.Context) error {
	for d != nil && !d.take() {
		select {
		case <-d.begun:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
