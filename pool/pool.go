package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

const (
	// lookSoonest and lookLatest are how often a connection is looked for while Calls wait for one.
	lookSoonest = time.Millisecond
	lookLatest  = 100 * time.Millisecond
)

// A Pool is several Clients that take requests together. [Dial] makes one. All methods may be called
// by any number of goroutines at once.
type Pool struct {
	addresses string // all, for errors
	clients   []*tcpclient.Client
	places    int           // of requests that a connection takes at once; 0: of any number
	over      chan struct{} // closed when Shutdown or Close begins
	closed    chan struct{} // closed when the first Close is over

	// A Pool owns one goroutine while Calls wait for a connection, which looks for one, and one
	// for each Client whose first attempt has failed, until its second. Shutdown and Close wait
	// for them. What reconnects are the Clients' own.
	group sync.WaitGroup

	mu      sync.Mutex // guards following
	phase   phase
	waiting int           // Calls that wait for a connection
	found   chan struct{} // closed when there may be one; nil: none waits
}

// A phase is how far a Pool is in its life.
type phase int

const (
	running  phase = iota
	draining       // by Shutdown
	closing        // by Close
)

func newPool(clients []*tcpclient.Client, addresses []string, places int) *Pool {
	return &Pool{
		addresses: strings.Join(addresses, ", "),
		clients:   clients,
		places:    places,
		over:      make(chan struct{}),
		closed:    make(chan struct{}),
	}
}

// Call sends request on one of the connections and returns the reply, which is owned by the caller.
// The connection is that with fewer requests in flight of two that are chosen at random, so that
// a slow server gets less. If these have as many as MaxInFlight allows, it is one that has fewer; if there
// is none, Call waits for a place on the one that was chosen.
//
// If the request is certain not to have been sent, because the connection has ended or takes none,
// Call sends it on another. If the server may have seen it, Call returns the error, an
// [*tcpclient.OpError] whose Unsent is false. An error about the request itself, which a Framer or a
// Correlator refuses, is returned at once.
//
// Call blocks until the reply has arrived, the connection has ended that the request was sent on,
// or ctx is done. While no Client is connected, it waits for one; when ctx ends that wait, the
// error Is ctx.Err() and [ErrNoConnection], and says why there is none. If all Clients have ended
// for good, Call fails at once. After Shutdown or Close it returns [tcpclient.ErrClosed]. It
// borrows request until it returns.
//
// Messages of Client.Write that were lost with their connection are for the first call to report,
// as a [tcpclient.LossError]. Call does not: it sends its request elsewhere. They are counted in
// MessagesLost of the Client's Stats.
func (p *Pool) Call(ctx context.Context, request []byte) (reply []byte, err error) {
	var tried []bool // Clients that could not send it; nil: none was tried
	for {
		if over := p.usable(ctx); over != nil {
			if err != nil && errors.Is(over, ctx.Err()) {
				over = joinedErrors{over, err} // why it was not sent in time
			}
			return nil, p.opError("call", true, over)
		}
		i := p.choose(tried)
		if i < 0 {
			if tcpclient.Classify(err) == tcpclient.ClassTemporary {
				return nil, err // they are connected, and take no request
			}
			if err := p.await(ctx); err != nil {
				return nil, p.opError("call", true, err)
			}
			clear(tried)
			continue
		}
		if reply, err = p.callOn(ctx, p.clients[i], request); err == nil || !isForAnother(ctx, err) {
			return reply, err
		}
		if tried == nil {
			tried = make([]bool, len(p.clients))
		}
		tried[i] = true
	}
}

// callOn sends request on the present connection of c. A Call of c itself would wait, on demand or
// for room, and then take the next.
func (p *Pool) callOn(ctx context.Context, c *tcpclient.Client, request []byte) ([]byte, error) {
	session, err := c.Session()
	if err != nil {
		return nil, err
	}
	return session.Call(ctx, request)
}

// isForAnother reports whether a request that has failed with err may be sent to another server.
func isForAnother(ctx context.Context, err error) bool {
	var op *tcpclient.OpError
	if !errors.As(err, &op) || !op.Unsent {
		return false
	}
	if end := ctx.Err(); end != nil && errors.Is(err, end) {
		return false
	}
	// What is permanent and of the connection is no reason not to try another.
	return tcpclient.Classify(err) != tcpclient.ClassPermanent ||
		errors.Is(err, tcpclient.ErrDisconnected) || errors.Is(err, tcpclient.ErrClosed)
}

// Pick returns a connected Client, chosen as Call chooses: for a Session, for Replies, for requests
// that belong together. It never waits. The connection may have ended when the Client is used; see
// [Pool.Clients] for what it does then.
//
// If no Client is connected, the error Is [ErrNoConnection] and says why. After Shutdown or Close it
// Is [tcpclient.ErrClosed].
func (p *Pool) Pick() (*tcpclient.Client, error) {
	if err := p.usable(context.Background()); err != nil {
		return nil, p.opError("pick", true, err)
	}
	i := p.choose(nil)
	if i < 0 {
		return nil, p.opError("pick", true, noConnection(p.outlook()))
	}
	return p.clients[i], nil
}

// Clients returns all Clients, connected or not: size for each address, in the order that they
// were given in. They are the same for the life of the Pool. They are for loops over Receive, for
// Stats, and for requests that belong to one server. The slice is owned by the caller.
//
// Close and Shutdown are for the Pool to call. A Client that was closed by itself is not used any
// more.
//
// A call on a Client without connection fails fast. Only a Client whose first attempt had failed
// makes it wait for one attempt, that under way or the next (see [tcpclient.Backoff].OnDemand).
func (p *Pool) Clients() []*tcpclient.Client { return slices.Clone(p.clients) }

// Shutdown ends the exchange of all Clients in an orderly way, all at once, as
// [tcpclient.Client.Shutdown] does: it refuses further Calls, waits for the replies to those in
// flight, and returns when all servers have closed their side, or ctx is done. It returns the
// errors of the Clients as one. A Client that had ended before has none, unless messages are lost.
//
// If ctx is done already, Shutdown does nothing, and its error Is ctx.Err(). After Shutdown or Close
// it does nothing and returns [tcpclient.ErrClosed].
func (p *Pool) Shutdown(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return p.opError("close", false, err)
	}
	if !p.enter(draining) {
		return p.opError("close", false, tcpclient.ErrClosed)
	}
	err := p.each(func(c *tcpclient.Client) error {
		_, end := c.Session()
		if tcpclient.Classify(end) == tcpclient.ClassPermanent || c.Stats().Connects == 0 {
			return c.Close() // there is nothing to end in order, and why is no failure of Shutdown
		}
		return c.Shutdown(ctx)
	})
	p.group.Wait()
	return p.opError("close", false, err)
}

// Close closes all Clients, all at once, as [tcpclient.Client.Close] does. Calls that wait return
// [tcpclient.ErrClosed].
//
// Close returns within a second, and after all goroutines have ended, unless they are in code of
// the user that does not return. It returns the errors of the Clients as one: messages that could
// not be flushed, or were lost. Further calls wait for the first and return nil.
func (p *Pool) Close() error {
	if !p.enter(closing) {
		<-p.closed
		return nil
	}
	defer close(p.closed)
	err := p.each((*tcpclient.Client).Close)
	p.group.Wait()
	return p.opError("close", false, err)
}

// each calls f with all Clients at once, and returns the errors.
func (p *Pool) each(f func(*tcpclient.Client) error) error {
	errs := make([]error, len(p.clients))
	var calls sync.WaitGroup
	for i, c := range p.clients {
		if c != nil { // Dial may have been refused one
			calls.Go(func() { errs[i] = f(c) })
		}
	}
	calls.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 0 {
		return nil
	}
	return join(errs)
}

// enter begins a phase. It returns false if that, or a later one, has begun.
func (p *Pool) enter(next phase) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase >= next {
		return false
	}
	if p.phase == running {
		close(p.over)
	}
	p.phase = next
	return true
}

// usable returns why no request is to be sent, if there is a reason.
func (p *Pool) usable(ctx context.Context) error {
	select {
	case <-p.over:
		return tcpclient.ErrClosed
	default:
		return ctx.Err()
	}
}

func (p *Pool) opError(op string, unsent bool, err error) error {
	if err == nil {
		return nil
	}
	return &tcpclient.OpError{Op: op, Addr: p.addresses, Unsent: unsent, Err: err}
}

// choose returns the less loaded of two random Clients that are connected and were not tried,
// -1 if there is none.
func (p *Pool) choose(tried []bool) int {
	n := len(p.clients)
	if n > 1 && tried == nil {
		i := rand.IntN(n)
		j := (i + 1 + rand.IntN(n-1)) % n
		a := p.clients[i].Stats()
		if a.Connected && a.InFlight == 0 {
			return i
		}
		b := p.clients[j].Stats()
		if b.InFlight < a.InFlight {
			i = j
		}
		if a.Connected && b.Connected && !p.isFull(min(a.InFlight, b.InFlight)) {
			return i
		}
	}
	return p.chooseAmongAll(tried)
}

// isFull reports whether a connection with so many requests takes no more.
func (p *Pool) isFull(inFlight int) bool { return p.places > 0 && inFlight >= p.places }

// chooseAmongAll is choose where not all may be chosen, or two were full.
func (p *Pool) chooseAmongAll(tried []bool) int {
	var candidates, full []int
	for i, c := range p.clients {
		if tried != nil && tried[i] {
			continue
		}
		switch stats := c.Stats(); {
		case !stats.Connected:
			_, _ = c.Session() // on demand it asks for one: dialLater may not have heard of the loss
		case p.isFull(stats.InFlight):
			full = append(full, i)
		default:
			candidates = append(candidates, i)
		}
	}
	if len(candidates) == 0 {
		candidates = full
	}
	switch n := len(candidates); n {
	case 0:
		return -1
	case 1:
		return candidates[0]
	default:
		k := rand.IntN(n)
		i, j := candidates[k], candidates[(k+1+rand.IntN(n-1))%n]
		if p.clients[j].Stats().InFlight < p.clients[i].Stats().InFlight {
			return j
		}
		return i
	}
}

// await blocks until there may be a connection. It returns an error if there will be none, ctx is
// done, or the Pool is closed.
func (p *Pool) await(ctx context.Context) error {
	if o, whys := p.outlook(); o == ended {
		return noConnection(o, whys)
	}
	found := p.beginWait()
	if found == nil {
		return tcpclient.ErrClosed
	}
	defer p.endWait()
	select {
	case <-found:
		return nil
	case <-p.over:
		return tcpclient.ErrClosed
	case <-ctx.Done():
		if o, whys := p.outlook(); o != connected {
			return joinedErrors{ctx.Err(), noConnection(o, whys)}
		}
		return ctx.Err()
	}
}

// awaitFirst blocks until there is a connection, or fails as await does.
func (p *Pool) awaitFirst(ctx context.Context) error {
	for {
		if o, _ := p.outlook(); o == connected {
			return nil
		}
		if err := p.await(ctx); err != nil {
			return err
		}
	}
}

// beginWait counts a Call that waits. It returns what is closed when there may be a connection, nil if
// the Pool is closed.
func (p *Pool) beginWait() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != running {
		return nil
	}
	p.waiting++
	if p.found == nil {
		p.found = make(chan struct{})
		p.group.Go(p.look)
	}
	return p.found
}

func (p *Pool) endWait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

// look looks for a connection while Calls wait for one, and also finds that there will be none. No
// Client tells when it has one. So look asks again and again, less often the longer it has waited:
// a Call then waits little longer than it has to.
func (p *Pool) look() {
	began := time.Now()
	pause := time.NewTimer(lookSoonest)
	defer pause.Stop()
	for {
		select {
		case <-p.over:
			return
		case <-pause.C:
		}
		if p.isSettled() {
			return
		}
		pause.Reset(min(max(time.Since(began)/16, lookSoonest), lookLatest))
	}
}

// isSettled reports whether look is to end: no Call waits any more, or those that wait are told to
// look for themselves.
func (p *Pool) isSettled() bool {
	o, _ := p.outlook()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting > 0 && o == disconnected {
		return false
	}
	close(p.found)
	p.found = nil
	return true
}

// An outlook is what a Call can hope for.
type outlook int

const (
	connected    outlook = iota // a Client has a connection
	disconnected                // none has, some try
	ended                       // none has, and none ever will
)

// outlook returns that, and why no Client is connected. Clients that connect on demand are asked to.
func (p *Pool) outlook() (outlook, []error) {
	o := ended
	whys := make([]error, 0, len(p.clients))
	for _, c := range p.clients {
		_, err := c.Session()
		if err == nil {
			return connected, nil
		}
		if tcpclient.Classify(err) != tcpclient.ClassPermanent {
			o = disconnected
		}
		whys = append(whys, err)
	}
	return o, whys
}
