package tcpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Dialer holds the settings of a Client. The zero value is ready to use: frames with a
// 4-byte big-endian length prefix, TCP_NODELAY, keep-alive, no heartbeat, no reconnect.
//
// Zero means the default. Negative means off for Timeout, WriteTimeout and FrameTimeout,
// and is refused elsewhere. Dial copies the settings, so any number of goroutines may Dial
// at once, and the Dialer may be changed when they have.
type Dialer struct {
	// NetDialer makes the connections. nil: a net.Dialer with keep-alive after 15 s,
	// then every 5 s, 3 probes.
	NetDialer *net.Dialer

	// TLSConfig switches TLS on. Its ServerName defaults to the host of the address.
	TLSConfig *tls.Config

	// DialContext replaces NetDialer: proxies, tests. TLSConfig still applies. It may
	// block until its context ends. A connection that it returns later is closed.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout bounds the attempt to connect to one address: lookup, TCP, TLS and
	// Handshake together. 0: 10 s.
	Timeout time.Duration

	// Nagle lets the kernel hold back small writes until earlier ones are
	// acknowledged. The default is TCP_NODELAY.
	Nagle bool

	// UserTimeout is TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before
	// the kernel ends the connection. 0: not set.
	//
	// It finds the dead peer of a busy writer, for whom the kernel suspends keep-alive. It
	// does nothing by itself on an idle connection. It overrides the keep-alive's count,
	// and it ends a connection whose live peer keeps its window shut for so long. It
	// must not be below the Heartbeat's Timeout. Linux only: elsewhere Dial refuses it with
	// errors.ErrUnsupported.
	UserTimeout time.Duration

	// Framer marks the messages in the stream. nil: LengthPrefix{}.
	Framer Framer

	// Handshake is called on every new connection before it is used for anything else: a
	// login, a subscription. It may block until its context ends, which is when Timeout is
	// over; then the connection is closed. If it returns an error, the attempt fails. If
	// that error is [Permanent], the Client ends.
	Handshake func(ctx context.Context, conn *Conn) error

	// Heartbeat finds a peer that vanished in silence. Zero: none.
	Heartbeat Heartbeat

	// Reconnect makes the Client dial again when a connection ends. nil: the Client
	// ends with its connection.
	Reconnect *Backoff

	// Correlator puts ids into the requests of Call and finds them in the replies. nil:
	// replies come in the order of the requests.
	Correlator Correlator

	// WriteTimeout ends a connection to which we write when the peer's TCP takes no byte
	// for so long. 0: 10 s.
	WriteTimeout time.Duration

	// FrameTimeout ends a connection when the rest of a frame does not arrive within this
	// time after its first byte. 0: 30 s, which is 1.1 Mbit/s for a frame of 4 MiB.
	FrameTimeout time.Duration

	// FlushDelay is the time after which written messages are flushed without a call of
	// Flush. 0: never.
	FlushDelay time.Duration

	// ReadBuffer and WriteBuffer are the most bytes that are read and written at once,
	// unless a frame is larger. The buffers start small and grow with use. A Write that
	// finds WriteBuffer bytes waiting flushes them first. 0: 64 KiB.
	ReadBuffer, WriteBuffer int

	// Inbox is the number of bytes that are kept for Receive, where each message counts its
	// length + 64. When the Inbox is full, TCP pushes back. One message always fits.
	// 0: 256 KiB.
	Inbox int

	// Trace is called when connections are made and lost. nil: none.
	Trace *Trace
}

// Dial connects with the settings of the zero Dialer. See [Dialer.Dial].
func Dial(ctx context.Context, network string, addresses ...string) (*Client, error) {
	return new(Dialer).Dial(ctx, network, addresses...)
}

// Dial connects to the first address that answers, and returns when that connection is
// ready, Handshake included. The networks are "tcp", "tcp4", "tcp6" and "unix", or with
// DialContext whatever that understands.
//
// Addresses are alternatives, tried in order, each with a Timeout of its own. If all fail,
// the error names each, and [errors.As] finds an [OpError] with Op "dial" or "handshake".
//
// ctx bounds Dial, not the life of the Client. When ctx is done, Dial returns an error
// that Is ctx.Err(). An attempt that ends by Timeout Is os.ErrDeadlineExceeded instead.
// Wrong settings are refused at once, with an error of [ClassPermanent] that names each
// field and value.
func (d *Dialer) Dial(ctx context.Context, network string, addresses ...string) (*Client, error) {
	settings := d.copy()
	if err := settings.validate(network, addresses); err != nil {
		return nil, &OpError{Op: opDial, Addr: strings.Join(addresses, ", "), Err: Permanent(err)}
	}
	c := newClient(settings, network, addresses)
	if err := ctx.Err(); err != nil {
		return nil, c.opError(opDial, false, err)
	}
	return c.start(ctx)
}

// copy returns the settings as they are now. TLSConfig is its owner's not to change, as ever.
func (d *Dialer) copy() *Dialer {
	settings := *d
	settings.NetDialer = clone(d.NetDialer)
	settings.Reconnect = clone(d.Reconnect)
	settings.Trace = clone(d.Trace)
	return &settings
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

const (
	defaultTimeout      = 10 * time.Second
	defaultWriteTimeout = 10 * time.Second
	defaultFrameTimeout = 30 * time.Second
	defaultBuffer       = 64 << 10
	defaultInbox        = 256 << 10
)

// orDefault resolves a setting of which negative means off, which is 0 from here on.
func orDefault(setting, def time.Duration) time.Duration {
	switch {
	case setting < 0:
		return 0
	case setting == 0:
		return def
	}
	return setting
}

func (d *Dialer) timeout() time.Duration      { return orDefault(d.Timeout, defaultTimeout) }
func (d *Dialer) writeTimeout() time.Duration { return orDefault(d.WriteTimeout, defaultWriteTimeout) }
func (d *Dialer) frameTimeout() time.Duration { return orDefault(d.FrameTimeout, defaultFrameTimeout) }

func (d *Dialer) readBuffer() int  { return sizeOr(d.ReadBuffer, defaultBuffer) }
func (d *Dialer) writeBuffer() int { return sizeOr(d.WriteBuffer, defaultBuffer) }
func (d *Dialer) inbox() int       { return sizeOr(d.Inbox, defaultInbox) }

func sizeOr(setting, def int) int {
	if setting == 0 {
		return def
	}
	return setting
}

func (d *Dialer) framer() Framer {
	if d.Framer == nil {
		return LengthPrefix{}
	}
	return d.Framer
}

// validate checks all settings together, so that one look at the error mends them all.
func (d *Dialer) validate(network string, addresses []string) error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if len(addresses) == 0 {
		refuse("no address")
	}
	if d.DialContext == nil && slices.Contains(addresses, "") {
		refuse("an address is empty")
	}
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		if d.DialContext == nil {
			errs = append(errs, net.UnknownNetworkError(network))
		}
	}
	if d.TLSConfig != nil && d.TLSConfig.ServerName == "" && !d.TLSConfig.InsecureSkipVerify {
		for _, address := range addresses {
			if host, _, err := net.SplitHostPort(address); err != nil && network == "unix" || err == nil && host == "" {
				refuse("Dialer.TLSConfig.ServerName is empty and %q names no host", address)
			}
		}
	}
	for _, setting := range []struct {
		name  string
		value time.Duration
	}{
		{"FlushDelay", d.FlushDelay}, {"UserTimeout", d.UserTimeout},
		{"Heartbeat.Interval", d.Heartbeat.Interval}, {"Heartbeat.Timeout", d.Heartbeat.Timeout},
	} {
		if setting.value < 0 {
			refuse("Dialer.%s %v is negative", setting.name, setting.value)
		}
	}
	for _, size := range []struct {
		name  string
		value int
	}{
		{"ReadBuffer", d.ReadBuffer}, {"WriteBuffer", d.WriteBuffer}, {"Inbox", d.Inbox},
	} {
		if size.value < 0 {
			refuse("Dialer.%s %d is negative", size.name, size.value)
		}
	}
	if f, ok := asBuiltin(d.framer()); ok {
		if err := f.validate(); err != nil {
			refuse("Dialer.Framer: %w", err)
		}
	}
	if k, ok := d.Correlator.(interface{ validate() error }); ok {
		if err := k.validate(); err != nil {
			refuse("Dialer.Correlator: %w", err)
		}
	}
	if h := d.Heartbeat; h.Interval == 0 && h.Timeout != 0 {
		refuse("Dialer.Heartbeat.Timeout %v needs an Interval", h.Timeout)
	} else if h.Timeout != 0 && h.Timeout <= h.Interval {
		refuse("Dialer.Heartbeat.Timeout %v must exceed Interval %v", h.Timeout, h.Interval)
	}
	if d.UserTimeout > 0 {
		if h := d.Heartbeat; h.Interval > 0 && d.UserTimeout < h.timeout() {
			refuse("Dialer.UserTimeout %v is below Heartbeat.Timeout %v", d.UserTimeout, h.timeout())
		}
		if !hasUserTimeout {
			refuse("Dialer.UserTimeout %v: TCP_USER_TIMEOUT: %w", d.UserTimeout, errors.ErrUnsupported)
		}
	}
	if b := d.Reconnect; b != nil {
		if b.Min < 0 {
			refuse("Dialer.Reconnect.Min %v is negative", b.Min)
		}
		if b.Max < 0 {
			refuse("Dialer.Reconnect.Max %v is negative", b.Max)
		}
		if b.Max > 0 && b.Max < b.Min {
			refuse("Dialer.Reconnect.Max %v is below Min %v", b.Max, b.Min)
		}
		if b.MaxAttempts < 0 {
			refuse("Dialer.Reconnect.MaxAttempts %d is negative", b.MaxAttempts)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return multiError(errs)
}

// connect makes one connection to address: lookup, TCP, TLS and Handshake, all within
// the Timeout.
func (d *Dialer) connect(ctx context.Context, network, address string) (conn *Conn, err error) {
	attempt, cancel := ctx, context.CancelFunc(func() {})
	if t := d.timeout(); t > 0 {
		attempt, cancel = context.WithTimeout(ctx, t)
	}
	defer cancel()

	op, doing := opDial, "connecting"
	raw := net.Conn(nil)
	defer func() {
		if r := recover(); r != nil {
			err = Permanent(panicked(r))
		}
		if err == nil {
			return
		}
		if conn != nil {
			conn.end(err)
			conn = nil
		} else if raw != nil {
			closeQuietly(raw)
		}
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.As(err, new(*permanentError)): // whatever else it is
		case attempt.Err() != nil, isTimeout(err), errors.Is(err, context.DeadlineExceeded):
			// A socket's deadline may fire a moment before its context does. When Dial returns,
			// the two are to agree.
			if due, ok := ctx.Deadline(); ok && !time.Now().Before(due) {
				await(ctx.Done(), dialGrace)
				err = context.DeadlineExceeded
			} else {
				err = attemptTimeout{doing, err}
			}
		}
		err = &OpError{Op: op, Addr: address, Err: err}
	}()

	err = errGoexit // until a hook returns
	if raw, err = d.dial(attempt, network, address); err != nil {
		return nil, err
	}
	conn = d.newConn(raw, address)
	err = errGoexit // likewise
	if err := attempt.Err(); err != nil {
		return conn, err // the hook has handed it over late
	}
	if err := d.prepare(raw); err != nil {
		return conn, err
	}
	stop := conn.guard(attempt)
	defer stop()
	if d.TLSConfig != nil {
		op, doing = opHandshake, "in the TLS handshake"
		if err := conn.startTLS(attempt, d.TLSConfig, address); err != nil {
			return conn, err
		}
	}
	if d.Handshake != nil {
		op, doing = opHandshake, "in the Handshake"
		if err := d.Handshake(attempt, conn); err != nil {
			return conn, err
		}
	}
	conn.taken.Store(true)
	stop()
	// Asked only now: a context is done a moment before what waits for it is called.
	if err := attempt.Err(); err != nil {
		return conn, err
	}
	return conn, conn.wire.reason()
}

// closeQuietly closes a connection that has panicked in another method, and may do so in this
// one: a nil pointer in an interface.
func closeQuietly(raw net.Conn) {
	defer func() { recover() }()
	raw.Close()
}

// isNil reports whether raw is nil, or a nil pointer in an interface.
func isNil(raw net.Conn) bool {
	v := reflect.ValueOf(raw)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// dial makes the raw connection.
func (d *Dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.DialContext != nil {
		raw, err := d.DialContext(ctx, network, address)
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
	if d.NetDialer != nil {
		dialer = *d.NetDialer
	}
	tried := watchAddresses(&dialer)
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, tried.explain(err)
	}
	return raw, nil
}

// prepare sets the options of a new connection.
func (d *Dialer) prepare(raw net.Conn) error {
	// On loopback a dial to a port of the ephemeral range can meet itself in a
	// simultaneous open, and would then block the port for the real server.
	if addr, ok := raw.LocalAddr().(*net.TCPAddr); ok && addr.String() == raw.RemoteAddr().String() {
		if conn, ok := raw.(*net.TCPConn); ok {
			conn.SetLinger(0) // a reset: no TIME_WAIT on that port
		}
		return fmt.Errorf("connected to itself at %v: %w", addr, syscall.ECONNREFUSED)
	}
	conn, ok := raw.(*net.TCPConn)
	if !ok {
		return nil
	}
	if d.UserTimeout > 0 {
		if err := setUserTimeout(conn, d.UserTimeout); err != nil {
			return fmt.Errorf("setting TCP_USER_TIMEOUT: %w", err)
		}
	}
	return conn.SetNoDelay(!d.Nagle)
}

// attempts are the addresses that a net.Dialer has tried for one name. Its own error
// tells of the first only.
type attempts struct {
	mu    sync.Mutex // guards following; the families are tried concurrently
	tried []string
}

func watchAddresses(dialer *net.Dialer) *attempts {
	a := new(attempts)
	control, controlContext := dialer.Control, dialer.ControlContext
	dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		a.mu.Lock()
		a.tried = append(a.tried, address)
		a.mu.Unlock()
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

// explain adds the addresses that were tried to err, if there were several.
func (a *attempts) explain(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tried) < 2 {
		return err
	}
	return fmt.Errorf("%w (tried %s)", err, strings.Join(a.tried, ", "))
}
