package wire

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// The sentinels, which the root package exports as its own.
var (
	// ErrClosed: our own end of a connection. Is [net.ErrClosed].
	ErrClosed error = closedError{}

	// ErrDisconnected: the connection ended, other than by our own will.
	ErrDisconnected = errors.New("disconnected")

	// ErrWriteTimeout: the peer's TCP took no byte for the write timeout.
	ErrWriteTimeout error = TimeoutError("write timeout: the peer takes no data")
)

type closedError struct{}

func (closedError) Error() string        { return "client closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// A TimeoutError is a timeout of the connection. Unlike os.ErrDeadlineExceeded it
// means that the connection is dead.
type TimeoutError string

// Error returns the text.
func (e TimeoutError) Error() string { return string(e) }

// Timeout returns true, as a [net.Error] that is a timeout does.
func (TimeoutError) Timeout() bool { return true }

// A DisconnectedError is the end of a connection and its cause.
type DisconnectedError struct{ Cause error }

// Error says that the connection ended, and why.
func (e *DisconnectedError) Error() string { return "disconnected: " + e.Cause.Error() }

// Is reports whether target is ErrDisconnected.
func (e *DisconnectedError) Is(target error) bool { return target == ErrDisconnected }

// Unwrap returns the cause.
func (e *DisconnectedError) Unwrap() error { return e.Cause }

// Disconnected marks reason as the end of a connection, unless that was our own will or
// it is marked already.
func Disconnected(reason error) error {
	if reason == ErrClosed || errors.Is(reason, ErrDisconnected) {
		return reason
	}
	return &DisconnectedError{reason}
}

// IsTimeout reports whether err is an expired deadline. ETIMEDOUT, also a Timeout() to
// package net, is not one: it means that the connection is dead.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isBrokenPipe reports whether err says that the connection is gone, and not why.
func isBrokenPipe(err error) bool { return err != nil && errors.Is(err, syscall.EPIPE) }
