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
	"strconv"
	"strings"
	"syscall"
)

// An OpError is the error of every method that talks to the network. It says which
// operation failed, against which address, and whether it is safe to repeat.
type OpError struct {
	Op   string // "dial", "handshake", "write", "flush", "send", "receive", "call" or "close", of Shutdown, too
	Addr string // of the server, as given to Dial

	// Unsent is true when the peer is certain not to have seen the message of this
	// call: no byte of it was handed to the network, and none will be. False means
	// unknown.
	Unsent bool

	Err error // the reason; never nil
}

// Error returns the operation, the address and the reason in one line.
func (e *OpError) Error() string { return "tcpclient: " + e.text() }

// text is Error without the prefix, so that a nested OpError does not repeat it.
func (e *OpError) text() string {
	if e.Addr == "" {
		return e.Op + ": " + reasonText(e.Err)
	}
	return e.Op + " " + e.Addr + ": " + reasonText(e.Err)
}

func reasonText(err error) string {
	if e, ok := err.(*OpError); ok {
		return e.text()
	}
	return err.Error()
}

// Unwrap returns the reason.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether the reason was a timeout of any kind: one of the caller's
// context, of an attempt to connect, or of the connection. [Classify] tells them apart.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// A multiError is several errors in one line, such as what became of all addresses of a Dial
// or all that is wrong with its settings.
type multiError []error

func (e multiError) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = reasonText(err)
	}
	return strings.Join(texts, "; ")
}

func (e multiError) Unwrap() []error { return e }

// The sentinels. Each is found by [errors.Is] inside the [OpError] of a call.
var (
	// ErrClosed: the Client was closed, by Close or Shutdown. Is [net.ErrClosed].
	ErrClosed error = closedError{}

	// ErrDisconnected: the connection ended, other than by our own Close or Shutdown.
	// The error also Is its cause: io.EOF, io.ErrUnexpectedEOF, ECONNRESET,
	// ErrHeartbeatTimeout, a [*FrameTooLargeError] and so on.
	ErrDisconnected = errors.New("disconnected")

	// ErrInvalidFrame: the bytes received are not a frame, or the message given cannot be one.
	ErrInvalidFrame = errors.New("invalid frame")

	// ErrHeartbeatTimeout: the peer was silent for [Heartbeat].Timeout.
	ErrHeartbeatTimeout error = timeoutError("heartbeat timeout: the peer is silent")

	// ErrWriteTimeout: the peer's TCP took no byte for [Dialer].WriteTimeout.
	ErrWriteTimeout error = timeoutError("write timeout: the peer takes no data")

	// ErrFrameTimeout: the rest of a frame did not come within [Dialer].FrameTimeout.
	ErrFrameTimeout error = timeoutError("frame timeout: the rest of a frame did not arrive")

	// ErrInboxFull: nobody received for a second while something that needs the reader
	// waited behind a full Inbox.
	ErrInboxFull = errors.New("inbox full: nobody receives")
)

type closedError struct{}

func (closedError) Error() string        { return "client closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// A timeoutError is a timeout of the connection. Unlike os.ErrDeadlineExceeded it
// means that the connection is dead.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }

// An attemptTimeout is the end of the Dialer's own budget for one address. It Is
// os.ErrDeadlineExceeded and deliberately not context.DeadlineExceeded, which would
// tell the caller that their context had ended.
type attemptTimeout struct {
	doing string
	err   error // what the interrupted operation said
}

func (e attemptTimeout) Error() string      { return "timeout while " + e.doing + ": " + e.err.Error() }
func (attemptTimeout) Timeout() bool        { return true }
func (attemptTimeout) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// Unwrap returns what the interrupted operation said, unless that is about a context.
func (e attemptTimeout) Unwrap() error {
	if errors.Is(e.err, context.DeadlineExceeded) || errors.Is(e.err, context.Canceled) {
		return nil
	}
	return e.err
}

// A panicError is a panic in a user's Framer or hook on the reading goroutine.
type panicError struct {
	value any
	stack []byte
}

// panicked makes an error of what recover returned. It must be called by the deferred
// function itself, while the stack is still that of the panic.
func panicked(value any) error { return &panicError{value, debug.Stack()} }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.value, e.stack) }

// Unwrap returns the value of the panic if it is an error.
func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}

// A disconnectedError is the end of a connection and its cause.
type disconnectedError struct{ cause error }

func (e *disconnectedError) Error() string        { return "disconnected: " + e.cause.Error() }
func (e *disconnectedError) Is(target error) bool { return target == ErrDisconnected }
func (e *disconnectedError) Unwrap() error        { return e.cause }

// A lossError is the end of a connection that took messages of finished Writes with it. It
// Is what the end is.
type lossError struct{ end error }

func (e *lossError) Error() string { return "messages that were written are lost: " + e.end.Error() }
func (e *lossError) Unwrap() error { return e.end }

// lossIn returns err if it tells of a loss.
func lossIn(err error) error {
	if errors.As(err, new(*lossError)) {
		return err
	}
	return nil
}

// A FrameTooLargeError is a frame above the limit of its Framer: announced by the peer,
// which ends the connection before anything was allocated for it, or refused on
// writing, which leaves the connection as it was.
type FrameTooLargeError struct {
	Size   uint64 // of the message, as announced or given; 0 where only "more than Max" is known
	Max    int    // the limit
	Header []byte // the first bytes received, at most 16; nil on writing
}

// Error says both sizes and, when the header looks like another protocol, which.
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

// A permanentError is an error that another attempt would only meet again.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks err as final: returned by a Handshake, it ends the Client with err
// instead of another attempt. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// A Class says what to do after an error.
type Class int

// The classes, in the order of their gravity. The zero Class belongs to a nil error.
const (
	// ClassTemporary: the connection is fine, the call may be tried again on it.
	ClassTemporary Class = iota + 1

	// ClassDisconnected: the connection is gone or was never made; dial again, or
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

// Classify sorts err by what to do next. The outermost verdict in the chain counts: an
// ECONNREFUSED that used up all attempts is permanent. Of joined errors, such as those
// of several addresses, the most hopeful one counts. An error that it does not know is
// permanent, except behind a failed dial or handshake. Classify(nil) is 0.
func Classify(err error) Class {
	if err == nil {
		return 0
	}
	if c := classify(err); c != 0 {
		return c
	}
	return ClassPermanent
}

// classify returns the outermost verdict on err, or 0.
func classify(err error) Class {
	if c := verdict(err); c != 0 {
		return c
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		best := Class(0)
		for _, err := range e.Unwrap() {
			if c := classify(err); c != 0 && (best == 0 || c < best) {
				best = c
			}
		}
		return best
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			if c := classify(inner); c != 0 {
				return c
			}
		}
	}
	// Whatever a user's Handshake or DialContext returned without further comment may
	// pass: servers start up, balancers lose a backend.
	if e, ok := err.(*OpError); ok && (e.Op == opDial || e.Op == opHandshake) {
		return ClassDisconnected
	}
	return 0
}

// verdict judges err itself, not what it wraps.
func verdict(err error) Class {
	switch err {
	case ErrClosed, net.ErrClosed:
		return ClassPermanent // by our own hand
	case context.Canceled, context.DeadlineExceeded:
		return ClassTemporary // the caller's patience ended, not the connection (P2)
	case ErrInboxFull:
		return ClassTemporary // the connection lives on; somebody has to receive
	case ErrInvalidFrame:
		return ClassPermanent // a message was refused; inbound ones come as a disconnectedError
	case ErrDisconnected, ErrHeartbeatTimeout, ErrWriteTimeout, ErrFrameTimeout,
		io.EOF, io.ErrUnexpectedEOF, io.ErrShortWrite, io.ErrNoProgress, io.ErrClosedPipe:
		return ClassDisconnected
	case os.ErrDeadlineExceeded:
		return ClassDisconnected // an attempt's budget; no call of ours meets another deadline
	case errors.ErrUnsupported:
		return ClassPermanent // this platform will not learn it
	}
	switch e := err.(type) {
	case *disconnectedError, attemptTimeout:
		return ClassDisconnected
	case *permanentError:
		return ClassPermanent
	case *FrameTooLargeError:
		return ClassPermanent // this message was refused; inbound ones come as a disconnectedError
	case *net.AddrError, net.UnknownNetworkError, net.InvalidAddrError, *net.ParseError:
		return ClassPermanent // a typing error in the address
	case *net.DNSError:
		if strings.Contains(e.Name, "/") {
			return ClassPermanent // "tcp/https": a service that the system does not know
		}
		return ClassDisconnected // also for "no such host": names come and go (FAULTS D5)
	case *tls.CertificateVerificationError, x509.HostnameError, x509.UnknownAuthorityError,
		x509.CertificateInvalidError:
		return ClassPermanent // never fall back to trusting less
	case syscall.Errno:
		return errnoVerdict(e)
	}
	return 0
}

// errnoVerdict judges what the kernel said. Some errnos Is errors.ErrUnsupported:
// those will be said again.
func errnoVerdict(errno syscall.Errno) Class {
	if errno.Is(errors.ErrUnsupported) {
		return ClassPermanent
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
)
