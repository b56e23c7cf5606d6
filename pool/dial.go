package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// Dial connects to all addresses, to each with size connections, and returns when all these first
// attempts have ended. Each takes at most the Dialer's Timeout, or until ctx is done. In contrast to
// [tcpclient.Dialer.Dial], the addresses are no alternatives.
//
// Each connection is that of a Client of its own, with the settings of d. A nil d is the zero Dialer.
// Reconnect is d's, or &Backoff{} if that is nil, with FailFast. OnDemand is refused. The Clients
// share the hooks of d: each calls the functions of its Trace one at a time, but several Clients
// may at once. Dial copies the settings.
//
// Dial fails if no connection was made. Its error is an [*tcpclient.OpError] that names the errors of
// all addresses, and is permanent if all of these are. With FirstDial, Dial goes on instead until there
// is a connection, all errors are permanent, or ctx is done.
//
// If at least one connection was made, the Clients that have none go on trying in the background. One
// whose error was permanent does not: it has ended with that.
func Dial(ctx context.Context, d *tcpclient.Dialer, network string, size int, addresses ...string) (*Pool, error) {
	s := newSettings(d, network, size, addresses)
	if err := s.validate(); err != nil {
		return nil, s.opError(tcpclient.Permanent(err))
	}
	clients, errs := s.dialAll(ctx)
	failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	none := len(failed) == len(clients)
	if none && (ctx.Err() != nil || !s.firstDial || tcpclient.Classify(joinedErrors(failed)) == tcpclient.ClassPermanent) {
		return nil, s.opError(join(failed))
	}
	p := newPool(clients, addresses, s.dialer.MaxInFlight)
	var err error
	for i, failure := range errs {
		if failure != nil && err == nil {
			clients[i], err = s.dialLater(ctx, p, i, failure)
		}
	}
	if err == nil && none {
		err = p.awaitFirst(ctx)
	}
	if err != nil {
		p.Close()
		return nil, s.opError(err)
	}
	return p, nil
}

// settings are what the Clients of a Pool are dialed with.
type settings struct {
	dialer    tcpclient.Dialer
	network   string
	size      int
	addresses []string
	firstDial bool // try again until there is a connection
}

func newSettings(d *tcpclient.Dialer, network string, size int, addresses []string) *settings {
	s := &settings{network: network, size: size, addresses: addresses}
	if d != nil {
		s.dialer = *d
	}
	backoff := tcpclient.Backoff{}
	if s.dialer.Reconnect != nil {
		backoff = *s.dialer.Reconnect
	}
	s.firstDial = backoff.FirstDial
	backoff.FirstDial, backoff.FailFast = false, true
	s.dialer.Reconnect = &backoff
	return s
}

// validate checks what Dialer.Dial does not.
func (s *settings) validate() error {
	switch {
	case s.size < 1:
		return fmt.Errorf("size %d is below 1", s.size)
	case len(s.addresses) == 0:
		return errors.New("no address")
	case s.dialer.Reconnect.OnDemand:
		return errors.New("Dialer.Reconnect.OnDemand is set: a Pool chooses among the connections that there are")
	}
	return nil
}

func (s *settings) opError(err error) error {
	return &tcpclient.OpError{Op: "dial", Addr: strings.Join(s.addresses, ", "), Err: err}
}

// dialAll makes the first attempts, all at once. Client i is for address i/size.
func (s *settings) dialAll(ctx context.Context) (clients []*tcpclient.Client, errs []error) {
	n := len(s.addresses) * s.size
	clients, errs = make([]*tcpclient.Client, n), make([]error, n)
	var attempts sync.WaitGroup
	for i := range n {
		attempts.Go(func() {
			clients[i], errs[i] = s.dialer.Dial(ctx, s.network, s.addresses[i/s.size])
		})
	}
	attempts.Wait()
	return clients, errs
}

// dialLater returns Client i, whose first attempt has failed. It makes the next after a while, and
// goes on as a Client does that has lost its connection. If failure is permanent, it has ended.
//
// A Dialer makes a Client without a connection only on demand. Then the demand is to have no end: it
// is renewed when an attempt has failed, and when a connection is lost. What a Trace whose function
// blocks has dropped the next Call makes up for.
func (s *settings) dialLater(ctx context.Context, p *Pool, i int, failure error) (*tcpclient.Client, error) {
	var c *tcpclient.Client
	demand := func() { _, _ = c.Session() } // asks for a connection, and never waits
	d := s.dialer
	d.Trace = demanding(d.Trace, demand)
	backoff := *d.Reconnect
	backoff.OnDemand = true
	d.Reconnect = &backoff
	c, err := d.Dial(context.WithoutCancel(ctx), s.network, s.addresses[i/s.size])
	switch {
	case err != nil:
		return nil, err // the address is one that no attempt is made with
	case tcpclient.Classify(failure) == tcpclient.ClassPermanent:
		c.Disconnect(tcpclient.Permanent(failure))
		return c, nil
	}
	p.group.Go(func() {
		first := time.NewTimer(rand.N(firstDelay(&backoff)))
		defer first.Stop()
		select {
		case <-first.C:
			demand()
		case <-p.over:
		}
	})
	return c, nil
}

// firstDelay returns the most that a Backoff waits before its second attempt.
func firstDelay(b *tcpclient.Backoff) time.Duration {
	switch {
	case b.Min > 0:
		return b.Min
	case b.Max > 0:
		return min(b.Max, defaultMin)
	}
	return defaultMin
}

// defaultMin is the default of Backoff.Min.
const defaultMin = 100 * time.Millisecond

// demanding returns a Trace that calls what trace does, and demand first when there is no
// connection.
func demanding(trace *tcpclient.Trace, demand func()) *tcpclient.Trace {
	t := tcpclient.Trace{}
	if trace != nil {
		t = *trace
	}
	failed, lost := t.ConnectFailed, t.Disconnected
	t.ConnectFailed = func(address string, attempt int, err error) {
		demand()
		if failed != nil {
			failed(address, attempt, err)
		}
	}
	t.Disconnected = func(address string, err error) {
		demand()
		if lost != nil {
			lost(address, err)
		}
	}
	return &t
}
