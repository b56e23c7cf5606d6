package tcpclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// An attempt makes one connection to one address.
type attempt struct {
	config  *config
	network string
	address string
	timeout time.Duration // 0: none
	leaving *leaving      // gets the connection if the attempt fails
	op      string        // what it is at, of an [OpError]
	doing   string        // and in words
	raw     net.Conn
	conn    *Conn
}

// connect makes a connection: lookup, TCP, TLS and Handshake, all within the timeout.
func (a *attempt) connect(ctx context.Context) (*Conn, error) {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if a.timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, a.timeout)
	}
	defer cancel()
	if err := a.run(bounded); err != nil {
		return nil, &OpError{Op: a.op, Addr: a.address, Err: a.explain(ctx, bounded, err)}
	}
	return a.conn, nil
}

// run takes the steps, and leaves no connection after an error.
func (a *attempt) run(ctx context.Context) (err error) {
	err = errGoexit // until the hooks return
	defer func() {
		if p := recover(); p != nil {
			err = Permanent(panicked(p))
		}
		switch {
		case err == nil:
		case a.conn != nil:
			a.conn.abort(err)
			a.leaving.add(a.conn.wire)
		case a.raw != nil:
			closeQuietly(a.raw)
		}
	}()
	err = a.steps(ctx)
	return err
}

func (a *attempt) steps(ctx context.Context) (err error) {
	c := a.config
	a.op, a.doing = opDial, "connecting"
	if a.raw, err = a.dial(ctx); err != nil {
		return err
	}
	a.conn = newConn(a.raw, a.address, c.framing, c)
	if err := ctx.Err(); err != nil {
		return err // the hook has handed it over late
	}
	if err := a.prepare(); err != nil {
		return err
	}
	stop := a.conn.guard(ctx)
	defer stop()
	if c.tlsConfig != nil {
		a.op, a.doing = opHandshake, "in the TLS handshake"
		if err := a.conn.startTLS(ctx, c.tlsConfig); err != nil {
			return err
		}
	}
	if c.handshake != nil {
		a.op, a.doing = opHandshake, "in the Handshake"
		if err := c.handshake(ctx, a.conn); err != nil {
			return err
		}
	}
	stop()
	// Asked only now: a context is done a moment before what waits for it is called.
	if err := ctx.Err(); err != nil {
		return err
	}
	return a.conn.handOver()
}

// A hookError is an error of the user's, about a connection of its own: net.ErrClosed is not the
// end of ours, but of this attempt, and io.EOF no word of our peer.
type hookError struct{ err error }

func (e *hookError) Error() string { return e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }

// explain says of an error what the caller of Dial, whose context ctx is, has to know; bounded
// is what the timeout has left of that.
func (a *attempt) explain(ctx, bounded context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*permanentError)): // whatever else it is
		return err
	case errors.Is(err, net.ErrClosed) && bounded.Err() == nil:
		return &hookError{err}
	case bounded.Err() == nil && !wire.IsTimeout(err) && !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	// A socket's deadline may fire a moment before its context does. When Dial returns,
	// the two are to agree.
	if due, ok := ctx.Deadline(); ok && !time.Now().Before(due) {
		late := time.NewTimer(dialGrace)
		defer late.Stop()
		select {
		case <-ctx.Done():
		case <-late.C:
		}
		return context.DeadlineExceeded
	}
	return attemptTimeout{a.doing, err}
}

// closeQuietly closes a connection that has panicked in another method, and may do so in this
// one: a nil pointer in an interface.
func closeQuietly(raw net.Conn) {
	defer func() { _ = recover() }()
	raw.Close()
}

// isNil reports whether raw is nil, or a nil pointer in an interface.
func isNil(raw net.Conn) bool {
	v := reflect.ValueOf(raw)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// dial makes the raw connection.
func (a *attempt) dial(ctx context.Context) (net.Conn, error) {
	if a.config.dialContext != nil {
		raw, err := a.config.dialContext(ctx, a.network, a.address)
		if err == nil && isNil(raw) {
			return nil, errors.New("DialContext returned neither a connection nor an error")
		}
		return raw, err
	}
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable:   true,
		Idle:     15 * time.Second,
		Interval: 5 * time.Second,
		Count:    3,
	}}
	if a.config.netDialer != nil {
		dialer = *a.config.netDialer
	}
	tried := watchAddresses(&dialer)
	raw, err := dialer.DialContext(ctx, a.network, a.address)
	if err != nil {
		return nil, tried.explain(err)
	}
	return raw, nil
}

// prepare sets the options of a new connection.
func (a *attempt) prepare() error {
	raw := a.raw
	// On loopback a dial to a port of the ephemeral range can meet itself in a
	// simultaneous open, and would then block the port for the real server.
	if addr, ok := raw.LocalAddr().(*net.TCPAddr); ok && addr != nil && addr.Port != 0 && raw.RemoteAddr() != nil && addr.String() == raw.RemoteAddr().String() {
		if conn, ok := raw.(*net.TCPConn); ok {
			conn.SetLinger(0) // a reset: no TIME_WAIT on that port
		}
		return fmt.Errorf("connected to itself at %v: %w", addr, syscall.ECONNREFUSED)
	}
	return a.setOptions(wire.Socket(raw))
}

// setOptions sets what the Dialer asks for on the socket. What it asks for without one, which is
// nil then, is refused: it would be missed in silence.
func (a *attempt) setOptions(socket *net.TCPConn) error {
	c := a.config
	switch {
	case socket != nil:
	case c.userTimeout > 0:
		return a.noSocket(fmt.Sprintf("UserTimeout %v", c.userTimeout))
	case c.nagle:
		return a.noSocket("Nagle")
	default:
		return nil
	}
	if c.userTimeout > 0 {
		if err := wire.SetUserTimeout(socket, c.userTimeout); err != nil {
			return fmt.Errorf("setting TCP_USER_TIMEOUT: %w", err)
		}
	}
	return socket.SetNoDelay(!c.nagle)
}

// noSocket refuses a setting that no attempt can fulfil: it is of ClassPermanent.
func (a *attempt) noSocket(setting string) error {
	return fmt.Errorf("Dialer.%s: no TCP socket can be seen below a %T: %w", setting, a.raw, errors.ErrUnsupported)
}

// addressWatch is the addresses that a net.Dialer has tried for one name. Its own error
// tells of the first only.
type addressWatch struct {
	mu    sync.Mutex // guards following; the families are tried concurrently
	tried []string
}

func watchAddresses(dialer *net.Dialer) *addressWatch {
	a := new(addressWatch)
	control, controlContext := dialer.Control, dialer.ControlContext
	dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		a.add(address)
		switch {
		case controlContext != nil:
			return controlContext(ctx, network, address, c)
		case control != nil:
			return control(network, address, c)
		}
		return nil
	}
	return a
}

func (a *addressWatch) add(address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tried = append(a.tried, address)
}

// explain adds the addresses that were tried to err, if there were several.
func (a *addressWatch) explain(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tried) < 2 {
		return err
	}
	return &triedError{err, slices.Clone(a.tried)}
}

// A triedError is the error of the first of several addresses of a name.
type triedError struct {
	err   error
	tried []string
}

func (e *triedError) Error() string {
	return fmt.Sprintf("%v (tried %s)", e.err, strings.Join(e.tried, ", "))
}

func (e *triedError) Unwrap() error { return e.err }

// isMixed reports whether the addresses are of both families.
func (e *triedError) isMixed() bool {
	isIPv6 := func(address string) bool { return strings.HasPrefix(address, "[") }
	return slices.ContainsFunc(e.tried, isIPv6) && slices.ContainsFunc(e.tried, func(a string) bool { return !isIPv6(a) })
}
