package pool

import (
	"errors"
	"slices"
	"strings"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// ErrNoConnection says that no Client of the Pool is connected. The Clients go on trying, and Call
// waits for the first. An error that Is ErrNoConnection names the reasons. It is of
// [tcpclient.ClassDisconnected], or of ClassPermanent if all Clients have ended, but that of a Call
// whose context has ended meanwhile of ClassTemporary.
var ErrNoConnection error = noConnectionError{}

type noConnectionError struct{}

func (noConnectionError) Error() string { return "no connection; Call waits for one" }

// Unwrap returns ErrDisconnected, for Classify.
func (noConnectionError) Unwrap() error { return tcpclient.ErrDisconnected }

// joinedErrors are several errors in one line.
type joinedErrors []error

// join returns the errors as one, those that say the same only once.
func join(errs []error) error {
	var distinct joinedErrors
	for _, err := range errs {
		same := func(other error) bool { return other.Error() == err.Error() }
		if !slices.ContainsFunc(distinct, same) {
			distinct = append(distinct, err)
		}
	}
	if len(distinct) == 1 {
		return distinct[0]
	}
	return distinct
}

func (e joinedErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = strings.TrimPrefix(err.Error(), "tcpclient: ")
	}
	return strings.Join(texts, "; ")
}

func (e joinedErrors) Unwrap() []error { return e }

// noConnection returns an ErrNoConnection with the reasons, what the Sessions of the Clients have
// said. If there are none, a connection has come a moment later.
func noConnection(o outlook, whys []error) error {
	errs := []error{ErrNoConnection}
	for _, err := range whys {
		errs = append(errs, reason(err))
	}
	if o == ended {
		return tcpclient.Permanent(join(errs))
	}
	return join(errs)
}

// reason returns why a Client has no connection, of what its Session has said.
func reason(err error) error {
	var op, dial *tcpclient.OpError
	if errors.As(err, &op) && errors.As(op.Err, &dial) {
		return dial // it names the address as well
	}
	return err
}
