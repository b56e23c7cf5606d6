package tcpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

// An OpError is the error of every method that talks to the network. It says which
// operation failed, with which address, and whether it is safe to repeat.
type OpError struct {
	Op   string // "dial", "handshake", "write", "flush", "send", "receive", "call" (Replies, too), "session" or "close" (Shutdown, too); in package pool "pick", too
	Addr string // of the server, as given to Dial

	// Unsent is true when the peer has certainly not seen the message of this call: no
	// byte of it was handed to the network, and none will be. False means unknown.
	Unsent bool

	Err error // the reason; never nil
}

// Error returns the operation, the address and the reason in one line.
func (e *OpError) Error() string { return "tcpclient: " + e.text() }

// text returns Error without its prefix, for an OpError inside another error.
func (e *OpError) text() string {
	if e.Addr == "" {
		return e.Op + ": " + reasonText(e.Err)
	}
	return e.Op + " " + e.Addr + ": " + reasonText(e.Err)
}

// reasonText returns the text of err as part of another error.
func reasonText(err error) string {
	if e, ok := err.(*OpError); ok {
		return e.text()
	}
	return err.Error()
}

// Unwrap returns the reason.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether the reason was a timeout: of the caller's context, of an attempt
// to connect, or of the connection. [Classify] tells them apart.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// A multiError is several errors in one line, such as those of all addresses of a Dial or
// of all its settings.
type multiError []error

// Timeout reports whether one of them is a timeout. [errors.As] would ask the first that can say it.
func (e multiError) Timeout() bool {
	return slices.ContainsFunc(e, func(err error) bool {
		var t interface{ Timeout() bool }
		return errors.As(err, &t) && t.Timeout()
	})
}

func (e multiError) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = reasonText(err)
	}
	return strings.Join(texts, "; ")
}

func (e multiError) Unwrap() []error { return e }

// withReason returns err, and the reason for it if there is one that says more.
func withReason(err, reason error) error {
	if reason == nil || errors.Is(reason, err) {
		return err
	}
	return multiError{err, reason}
}

// The sentinels. [errors.Is] finds them in the [OpError] of a call.
var (
	// ErrClosed: Close or Shutdown has closed the Client. It Is [net.ErrClosed].
	ErrClosed = wire.ErrClosed

	// ErrDisconnected: the connection has ended, other than by our own Close or Shutdown.
	// The error also Is its cause: io.EOF, io.ErrUnexpectedEOF, ECONNRESET,
	// ErrHeartbeatTimeout, a [*FrameTooLargeError] and so on.
	ErrDisconnected = wire.ErrDisconnected

	// ErrInvalidFrame: the bytes received are not a frame, or the message to send cannot
	// be one.
	ErrInvalidFrame = errors.New("invalid frame")

	// ErrHeartbeatTimeout: the peer was silent for [Heartbeat].Timeout.
	ErrHeartbeatTimeout error = wire.TimeoutError("heartbeat timeout: the peer is silent")

	// ErrWriteTimeout: the peer's TCP took no byte for [Dialer].WriteTimeout.
	ErrWriteTimeout = wire.ErrWriteTimeout

	// ErrFrameTimeout: the rest of a frame did not arrive within [Dialer].FrameTimeout.
	ErrFrameTimeout error = wire.TimeoutError("frame timeout: the rest of a frame did not arrive")

	// ErrReplyTimeout: a reply did not come within [Dialer].ReplyTimeout. Without that:
	// requests that were given up hold all places, and 10 s have passed since the last request
	// and the last reply.
	ErrReplyTimeout error = wire.TimeoutError("reply timeout: a reply did not come")

	// ErrInboxFull: a Call, or a loop over Replies, waited for a second in which the Inbox was full and
	// nothing was received or read, or the replies to a Call take more than the Inbox (see [Dialer].More). The
	// connection goes on. During a Shutdown it ends a connection
	// that brings more than 8 times the Inbox, and more than 16 MiB, unreceived.
	ErrInboxFull = errors.New("inbox full: nobody receives")
)

// errRepliesTooLarge ends a Call with too many replies to be one.
var errRepliesTooLarge error = repliesTooLarge{}

type repliesTooLarge struct{}

func (repliesTooLarge) Error() string {
	return "inbox full: the replies to one Call take more than that"
}

func (repliesTooLarge) Unwrap() error { return ErrInboxFull }

// An attemptTimeout is the end of Dialer.Timeout for one address. It Is
// os.ErrDeadlineExceeded, but not context.DeadlineExceeded: that would say that the
// caller's context has ended.
type attemptTimeout struct {
	doing string
	err   error // of the interrupted operation
}

func (e attemptTimeout) Error() string      { return "timeout while " + e.doing + ": " + e.err.Error() }
func (attemptTimeout) Timeout() bool        { return true }
func (attemptTimeout) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// Unwrap returns the error of the interrupted operation, unless it is that of a context.
func (e attemptTimeout) Unwrap() error {
	if errors.Is(e.err, context.DeadlineExceeded) || errors.Is(e.err, context.Canceled) {
		return nil
	}
	return e.err
}

// A panicError is a panic in a user's Framer or hook on the Client's goroutine.
type panicError struct {
	value any
	stack []byte
}

// panicked makes an error of the value that recover returned. The deferred function itself
// must call it, while the stack is still that of the panic.
func panicked(value any) error { return &panicError{value, debug.Stack()} }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.value, e.stack) }

// Unwrap returns the value of the panic if it is an error.
func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}

// A LossError reports that messages were lost with their connection, or may be: those of
// finished Writes, and those whose Send or Call has given up. Of our own Close, or a Shutdown
// whose context ended, it reports all that was not flushed. [errors.As] finds it in the error of the first Write, Flush, Send, Call, Replies,
// Shutdown or Close that follows.
type LossError struct {
	Messages int   // that are lost, or may be
	Err      error // why the connection ended that took them
}

// Error says what is lost, and why.
func (e *LossError) Error() string { return "messages that were written are lost: " + e.Err.Error() }

// Unwrap returns why the connection ended.
func (e *LossError) Unwrap() error { return e.Err }

// lossIn returns err if it wraps a LossError, else nil.
func lossIn(err error) error {
	if errors.As(err, new(*LossError)) {
		return err
	}
	return nil
}

// A FrameTooLargeError is a frame above the limit of its Framer. If the peer announced it,
// the connection ends, before memory was allocated for the frame. If it was to be written,
// only the message is refused.
type FrameTooLargeError struct {
	Size   uint64 // of the message in bytes, as given, or announced as far as that has arrived; 0: unknown, but more than Max
	Max    int    // the limit in bytes
	Header []byte // the first bytes received, at most 16; nil on writing
}

// Error returns both sizes and, if Header looks like another protocol, its name.
func (e *FrameTooLargeError) Error() string {
	var b strings.Builder
	b.WriteString("frame too large: ")
	if e.Size == 0 {
		b.WriteString("no end in sight")
	} else {
		b.WriteString(strconv.FormatUint(e.Size, 10))
		b.WriteString(" bytes")
	}
	fmt.Fprintf(&b, ", limit %d", e.Max)
	b.WriteString(protocolHint(e.Size, e.Header))
	return b.String()
}

// A permanentError is an error that another attempt would meet again.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks err as [ClassPermanent]: if a Handshake returns it, the Client ends with
// err instead of trying again. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// A Class says what to do after an error.
type Class int

// The classes, from the mildest to the gravest. The zero Class is that of a nil error.
const (
	// ClassTemporary: your context has ended, or the Inbox is full. A connection goes on as it was;
	// try the call again on this Client.
	ClassTemporary Class = iota + 1

	// ClassDisconnected: the connection has ended or was never made; dial again, or
	// leave that to [Dialer].Reconnect.
	ClassDisconnected

	// ClassPermanent: give up this message if it was refused, else this Client.
	ClassPermanent
)

// String returns the name of the class in lower case.
func (c Class) String() string {
	switch c {
	case 0:
		return "none"
	case ClassTemporary:
		return "temporary"
	case ClassDisconnected:
		return "disconnected"
	case ClassPermanent:
		return "permanent"
	}
	return "class " + strconv.Itoa(int(c))
}

// Classify sorts err by what to do next. In a chain the outermost error with a class
// counts: an ECONNREFUSED that used up all attempts is permanent. Of joined errors, such as
// those of several addresses, the mildest counts. An error that Classify does not know is
// ClassPermanent, but ClassDisconnected if a dial or handshake failed with it.
// Classify(nil) is 0.
func Classify(err error) Class {
	if err == nil {
		return 0
	}
	if c := classify(err); c != 0 {
		return c
	}
	return ClassPermanent
}

// classify returns the class of the outermost error in err that has one, or 0.
func classify(err error) Class {
	if c := ownClass(err); c != 0 {
		return c
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		mildest := Class(0)
		for _, err := range e.Unwrap() {
			if c := classify(err); c != 0 && (mildest == 0 || c < mildest) {
				mildest = c
			}
		}
		return mildest
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			if c := classify(inner); c != 0 {
				return c
			}
		}
	}
	// An unknown error of a user's Handshake or DialContext may not come again: servers
	// start up, balancers lose a backend.
	if e, ok := err.(*OpError); ok && (e.Op == opDial || e.Op == opHandshake) {
		return ClassDisconnected
	}
	return 0
}

// ownClass returns the class of err itself, whatever it wraps, or 0.
func ownClass(err error) Class {
	switch err {
	case ErrClosed, net.ErrClosed:
		return ClassPermanent
	case context.Canceled, context.DeadlineExceeded:
		return ClassTemporary // the caller's context ended, not the connection (P2)
	case ErrInboxFull:
		return ClassTemporary // the connection lives on; the application has to receive
	case ErrInvalidFrame:
		return ClassPermanent // a message was refused; inbound, a DisconnectedError is around it
	case ErrDisconnected, ErrHeartbeatTimeout, ErrWriteTimeout, ErrFrameTimeout, ErrReplyTimeout,
		io.EOF, io.ErrUnexpectedEOF, io.ErrShortWrite, io.ErrNoProgress, io.ErrClosedPipe:
		return ClassDisconnected
	case os.ErrDeadlineExceeded:
		return ClassDisconnected // Dialer.Timeout; our calls return no other deadline's error
	case errors.ErrUnsupported:
		return ClassPermanent
	}
	switch e := err.(type) {
	case *wire.DisconnectedError, attemptTimeout, *hookError:
		return ClassDisconnected
	case *permanentError:
		return ClassPermanent
	case *FrameTooLargeError:
		return ClassPermanent // as ErrInvalidFrame
	case *net.AddrError, net.UnknownNetworkError, net.InvalidAddrError, *net.ParseError:
		return ClassPermanent // the address is malformed
	case *net.DNSError:
		if strings.Contains(e.Name, "/") {
			return ClassPermanent // "tcp/https": a service that the system does not know
		}
		return ClassDisconnected // "no such host", too: names come and go (FAULTS D5)
	case *tls.CertificateVerificationError, x509.HostnameError, x509.UnknownAuthorityError,
		x509.CertificateInvalidError:
		return ClassPermanent // never fall back to trusting less
	case syscall.Errno:
		return errnoClass(e)
	}
	return 0
}

// errnoClass returns the class of an error of the kernel.
func errnoClass(errno syscall.Errno) Class {
	if errno.Is(errors.ErrUnsupported) {
		return ClassPermanent // the kernel will say it again
	}
	return ClassDisconnected
}

// The operations of an [OpError].
const (
	opDial      = "dial"
	opHandshake = "handshake"
	opWrite     = "write"
	opFlush     = "flush"
	opSend      = "send"
	opReceive   = "receive"
	opCall      = "call"
	opClose     = "close"
	opSession   = "session"
)
