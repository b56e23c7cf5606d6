package tcpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
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

	// TLSConfig switches TLS on, from the first byte. Its ServerName defaults to the host of the
	// address. For TLS after some messages in the clear see [Conn.StartTLS].
	TLSConfig *tls.Config

	// DialContext replaces NetDialer: proxies, tunnels, tests. TLSConfig still applies. It may
	// block until its context ends. A connection that it returns later is closed.
	// The context ends with the attempt: it is not one for what the connection does later.
	//
	// Deadlines are set only on a *net.TCPConn, a *net.UnixConn and the connections of
	// tcpclienttest: those of other types may end the connection, or say that bytes were not
	// written that were. Every other connection, such as a stream of a multiplexer, a
	// WebSocket, an SSH channel, a *tls.Conn or a wrapper of a socket, is used without. That
	// costs a goroutine and a copy for each read, of up to ReadBuffer bytes, and for each
	// write, of up to 64 KiB. After a failed write all its bytes may have been sent. For TLS over
	// TCP, TLSConfig costs less than a *tls.Conn from here.
	//
	// Only Close and Shutdown of the Client wait for the Close of such a connection, for up to a second. After
	// its Close a deadline in the past is set, which ends a Read that goes on. Of a connection that has a
	// method NetConn() net.Conn, as a *tls.Conn has, the Client closes what that returns, and never
	// the connection itself, whose Close may wait for the peer to say good-bye.
	//
	// The author of a wrapper can give it the method
	//
	//	RealDeadlines() bool
	//
	// If it returns true, the Client uses the connection as it uses a socket. Then it has to keep
	// what a socket keeps. Read and Write return at their deadline, with an error that Is
	// os.ErrDeadlineExceeded and the number of bytes that were read or written, and the
	// connection is as good as before. Close returns at once, and ends a Read and a Write that
	// wait. None of them panics: elsewhere that ends the connection, here the program. A wrapper that passes calls on to a socket keeps that, except on Windows, where a
	// socket does not know what it has written by its deadline (go.dev/issue/24727). The
	// Client sets no write deadline on a socket there, nor on a wrapper below which it finds one
	// (see Nagle). The method of another wrapper of a socket has to return false there.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout bounds the attempt to connect to one address: lookup, TCP, TLS and
	// Handshake together. 0: 10 s.
	Timeout time.Duration

	// Nagle lets the kernel hold back small writes until earlier ones are
	// acknowledged. The default is TCP_NODELAY.
	//
	// Nagle and UserTimeout are set on the TCP socket. If DialContext returns a wrapper, that is
	// looked for below it: by its method NetConn() net.Conn, or in a struct's embedded
	// exported field. If none is found, the attempt fails with errors.ErrUnsupported, of
	// [ClassPermanent].
	Nagle bool

	// UserTimeout is TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before
	// the kernel ends the connection. 0: not set.
	//
	// It finds the dead peer of a busy writer, for whom the kernel suspends keep-alive. It
	// does nothing by itself on an idle connection. It overrides the keep-alive's count,
	// and it ends a connection whose live peer keeps its window shut for so long. It
	// must not be below the Heartbeat's Timeout. Linux only: elsewhere Dial refuses it with
	// errors.ErrUnsupported. Of wrapped sockets see Nagle.
	UserTimeout time.Duration

	// Framer marks the messages in the stream. nil: LengthPrefix{}. A Handshake may change it
	// for its connection: see [Conn.SetFramer].
	Framer Framer

	// Handshake is called on every new connection before it is used for anything else: a
	// login, a subscription, TLS after a word in the clear, another framing. It may block until
	// its context ends, which is when Timeout is over; then the connection is closed. If it
	// returns an error, the attempt fails. If that error is [Permanent], the Client ends.
	Handshake func(ctx context.Context, conn *Conn) error

	// Heartbeat finds a peer that vanished in silence. Zero: none.
	Heartbeat Heartbeat

	// Reconnect makes the Client dial again when a connection ends. nil: the Client
	// ends with its connection. What the server knew of the old connection is lost: logins belong
	// in Handshake, sequences of requests in a [Session].
	Reconnect *Backoff

	// Correlator puts ids into the requests of Call and finds them in the replies. nil:
	// replies come in the order of the requests.
	Correlator Correlator

	// IsPush reports whether msg is no reply, although a request waits for one: it goes to Receive,
	// and the Correlator does not see it. Servers that answer in order and also push need it, as Redis
	// with RESP3 does. It is called on the Client's reading goroutine, after the hooks of the
	// Heartbeat, and only for messages that may be replies. It must not block and must not keep msg. nil: the
	// Correlator decides; in order, every message is a reply while a request waits for one.
	IsPush func(msg []byte) bool

	// More reports whether further replies to the same request follow this one: rows before the end
	// of a result, entries before the end of a search. In order they are the messages that come
	// next, with a Correlator those with the same id. It is given what SplitReply returned, on the
	// Client's reading goroutine, also of a reply that is late and of a message that no request
	// waits for. It must not block and must not keep reply. nil: each request has one reply.
	More func(reply []byte) bool

	// MaxInFlight is how many requests of Calls may be outstanding at once on a connection.
	// Further Calls wait. A request whose Call was given up counts until its (last) late reply has
	// come. 1 is for servers that take one request at a time, as those of Modbus. 0: as many
	// as the Correlator has ids, with a [RequestIdentifier] at most 65536. Without a Correlator it
	// is never more than 65536.
	MaxInFlight int

	// ReplyTimeout ends a connection with ErrReplyTimeout when a reply to a Call does not come
	// for so long, whether a Call waits for it or has given up. The Call's own context ends
	// only its wait; ReplyTimeout finds a server that has lost a request, and frees the
	// place that this takes. With a Correlator the time of each request counts from when it
	// was framed, in order from the later of that and the reply before it. With More each reply
	// but the last starts the time anew. A request that the server
	// was told to forget without an answer, as by Abandon of LDAP, is lost in this sense, too. A frame that is
	// arriving, which may be the reply, has FrameTimeout more. Time in which the Inbox is full does not count.
	//
	// In order it also takes the Heartbeat's place while requests are outstanding: see
	// [Heartbeat]. 0: none, except that a connection ends so, too, when requests that were
	// given up take all places (see MaxInFlight), and 10 s have passed since the last request
	// and the last reply.
	ReplyTimeout time.Duration

	// WriteTimeout ends a connection to which we write when the peer's TCP takes no byte
	// for so long, during a Handshake, too. 0: 10 s.
	WriteTimeout time.Duration

	// FrameTimeout ends a connection when the rest of a frame does not arrive within this
	// time after its first byte. 0: 30 s, which is 1.1 Mbit/s for a frame of 4 MiB.
	//
	// A frame is what one call of ReadFrame consumes. A Framer that makes one message of many
	// lines has to have them all within this time: see More. What it skips before a frame counts as its
	// first bytes. With TLS the bytes of a record that is not whole count as well, also during the
	// TLS handshake and a Handshake. Only time in which the Client waits for the network counts.
	FrameTimeout time.Duration

	// FlushDelay is the time after which written messages are flushed without a call of
	// Flush. 0: never.
	FlushDelay time.Duration

	// ReadBuffer and WriteBuffer are the most bytes that are read and written at once,
	// unless a frame is larger. The buffers start small and grow with use. A Write that
	// finds WriteBuffer bytes waiting flushes them first. 0: 64 KiB.
	//
	// While nothing comes, a TCP or Unix connection without TLS has no read buffer (on Windows
	// it has one). With a Framer that is not of this package a read buffer has ReadBuffer bytes from
	// the start: then each pong that comes to an idle connection may allocate so many.
	ReadBuffer, WriteBuffer int

	// Inbox is the number of bytes that are kept for Receive and Replies, where each message counts its
	// length + 64. When the Inbox is full, TCP pushes back. One message always fits. The
	// memory for them is mostly no more than that. Where tiny and large messages alternate it
	// is up to twice as much, and in a fast stream of those with LengthPrefix{} up to eight times.
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
// Addresses are alternatives, tried in order, each with a Timeout of its own, or with an equal share
// of the time that ctx leaves, if that is less. If all fail, the error names each, and [errors.As]
// finds an [OpError] with Op "dial" or "handshake".
//
// ctx bounds Dial, not the life of the Client. Its values are there in every later attempt and
// Handshake; its end is not. When ctx is done, Dial returns an error
// that Is ctx.Err(). An attempt that ends by Timeout Is os.ErrDeadlineExceeded instead.
// Wrong settings are refused at once, with an error of [ClassPermanent] that names each
// field and value.
func (d *Dialer) Dial(ctx context.Context, network string, addresses ...string) (*Client, error) {
	if err := d.validate(network, addresses); err != nil {
		return nil, &OpError{Op: opDial, Addr: strings.Join(addresses, ", "), Err: Permanent(err)}
	}
	c := newClient(ctx, d.config(), network, addresses)
	if err := ctx.Err(); err != nil {
		return nil, c.opError(opDial, false, err)
	}
	return c.start(ctx)
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

func sizeOr(setting, def int) int {
	if setting == 0 {
		return def
	}
	return setting
}

// A config is the settings of a Dialer as they were when Dial was called, with the defaults
// resolved. What TLSConfig points to is its owner's not to change, as ever.
type config struct {
	netDialer   *net.Dialer                                                          // nil: one with keep-alive
	dialContext func(ctx context.Context, network, address string) (net.Conn, error) // nil: netDialer's
	tlsConfig   *tls.Config
	nagle       bool
	framing     framing
	handshake   func(ctx context.Context, conn *Conn) error
	heartbeat   Heartbeat
	backoff     *Backoff
	calls       callSettings
	trace       *Trace

	// 0: none.
	timeout, writeTimeout, frameTimeout, userTimeout, flushDelay time.Duration

	readBuffer, writeBuffer, inbox int
}

func (d *Dialer) config() *config {
	return &config{
		netDialer:    clone(d.NetDialer),
		dialContext:  d.DialContext,
		tlsConfig:    d.TLSConfig,
		nagle:        d.Nagle,
		framing:      newFraming(d.Framer),
		handshake:    d.Handshake,
		heartbeat:    d.Heartbeat,
		backoff:      clone(d.Reconnect),
		calls:        d.callSettings(),
		trace:        clone(d.Trace),
		timeout:      orDefault(d.Timeout, defaultTimeout),
		writeTimeout: orDefault(d.WriteTimeout, defaultWriteTimeout),
		frameTimeout: orDefault(d.FrameTimeout, defaultFrameTimeout),
		userTimeout:  d.UserTimeout,
		flushDelay:   d.FlushDelay,
		readBuffer:   sizeOr(d.ReadBuffer, defaultBuffer),
		writeBuffer:  sizeOr(d.WriteBuffer, defaultBuffer),
		inbox:        sizeOr(d.Inbox, defaultInbox),
	}
}

func (d *Dialer) callSettings() callSettings {
	identifier, _ := d.Correlator.(RequestIdentifier)
	return callSettings{
		correlator:   d.Correlator,
		identifier:   identifier,
		isPush:       d.IsPush,
		more:         d.More,
		maxSum:       sizeOr(d.Inbox, defaultInbox),
		maxInFlight:  d.MaxInFlight,
		replyTimeout: d.ReplyTimeout,
	}
}

// onDemand reports whether connections are made when a call needs one.
func (c *config) onDemand() bool { return c.backoff != nil && c.backoff.OnDemand }

// failsFast reports whether calls that find no connection do not wait for one.
func (c *config) failsFast() bool { return c.backoff != nil && c.backoff.FailFast }

// validateFramer checks the settings of f, if it is a Framer of this package.
func validateFramer(f Framer) error {
	if f, ok := asBuiltin(f); ok {
		if v := reflect.ValueOf(f); v.Kind() == reflect.Pointer && v.IsNil() {
			return fmt.Errorf("%T is nil", f)
		}
		return f.validate()
	}
	return nil
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// newFraming returns how f frames messages. nil is LengthPrefix{}.
func newFraming(f Framer) framing {
	if f == nil {
		f = LengthPrefix{}
	}
	_, builtin := asBuiltin(f)
	s := framing{framer: f, builtin: builtin}
	if f, ok := f.(LengthPrefix); ok && f.isDefault() {
		s.largest = min(sizeLimit(f.MaxSize, defaultMaxSize), math.MaxUint32)
	}
	return s
}

// validate checks all settings together, so that one look at the error mends them all.
func (d *Dialer) validate(network string, addresses []string) error {
	errs := slices.Concat(d.validateTarget(network, addresses), d.validateNumbers(), d.validateParts())
	if len(errs) == 0 {
		return nil
	}
	return multiError(errs)
}

// validateTarget checks what is dialed.
func (d *Dialer) validateTarget(network string, addresses []string) (errs []error) {
	if len(addresses) == 0 {
		errs = append(errs, errors.New("no address"))
	}
	if d.DialContext == nil {
		if slices.Contains(addresses, "") {
			errs = append(errs, errors.New("an address is empty"))
		}
		if !slices.Contains([]string{"tcp", "tcp4", "tcp6", "unix"}, network) {
			errs = append(errs, net.UnknownNetworkError(network))
		}
	}
	if d.TLSConfig != nil {
		for _, address := range addresses {
			if _, err := withServerName(d.TLSConfig, address); err != nil {
				errs = append(errs, fmt.Errorf("Dialer.TLSConfig.ServerName is empty and %w", err))
			}
		}
	}
	return errs
}

// validateNumbers checks the settings that negative does not switch off.
func (d *Dialer) validateNumbers() (errs []error) {
	for _, setting := range []struct {
		name     string
		value    any
		negative bool
	}{
		{"FlushDelay", d.FlushDelay, d.FlushDelay < 0},
		{"UserTimeout", d.UserTimeout, d.UserTimeout < 0},
		{"ReadBuffer", d.ReadBuffer, d.ReadBuffer < 0},
		{"WriteBuffer", d.WriteBuffer, d.WriteBuffer < 0},
		{"Inbox", d.Inbox, d.Inbox < 0},
		{"ReplyTimeout", d.ReplyTimeout, d.ReplyTimeout < 0},
		{"MaxInFlight", d.MaxInFlight, d.MaxInFlight < 0},
	} {
		if setting.negative {
			errs = append(errs, fmt.Errorf("Dialer.%s %v is negative", setting.name, setting.value))
		}
	}
	if d.UserTimeout > 0 {
		if h := d.Heartbeat; h.Interval > 0 && d.UserTimeout < h.timeout() {
			errs = append(errs, fmt.Errorf("Dialer.UserTimeout %v is below Heartbeat.Timeout %v", d.UserTimeout, h.timeout()))
		}
		if !wire.HasUserTimeout {
			errs = append(errs, fmt.Errorf("Dialer.UserTimeout %v: TCP_USER_TIMEOUT: %w", d.UserTimeout, errors.ErrUnsupported))
		}
	}
	return errs
}

// validateParts has those settings checked that know how.
func (d *Dialer) validateParts() (errs []error) {
	if err := validateFramer(d.Framer); err != nil {
		errs = append(errs, fmt.Errorf("Dialer.Framer: %w", err))
	}
	if err := validateCorrelator(d.Correlator); err != nil {
		errs = append(errs, fmt.Errorf("Dialer.Correlator: %w", err))
	}
	errs = append(errs, d.Heartbeat.validate()...)
	if d.Reconnect != nil {
		errs = append(errs, d.Reconnect.validate()...)
	}
	return errs
}
