package tcpclienttest

import (
	"errors"
	"fmt"
	"sync"
)

// A report is what a suite finds.
type report struct {
	mu       sync.Mutex // guards following: some checks use several goroutines
	findings []error
	found    map[string]bool // formats of the findings
}

// find records a finding, once for each format.
func (r *report) find(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found == nil {
		r.found = make(map[string]bool)
	}
	if !r.found[format] {
		r.found[format] = true
		r.findings = append(r.findings, fmt.Errorf(format, args...))
	}
}

// has reports whether there is a finding of that format.
func (r *report) has(format string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.found[format]
}

// about returns the findings as one error about subject.
func (r *report) about(subject any) error {
	if len(r.findings) == 0 {
		return nil
	}
	return fmt.Errorf("tcpclienttest: %T: %w", subject, errors.Join(r.findings...))
}

// caught, deferred, makes an error and a finding of a panic.
func (r *report) caught(method string, err *error) {
	switch v := recover(); v {
	case nil:
	case errEndless:
		r.find("%s goes on reading after an error: %w", method, errEndless)
		*err = errEndless
	default:
		r.find("%s panics: %v", method, v)
		*err = fmt.Errorf("panic: %v", v)
	}
}

// show quotes a message, or its beginning.
func show(p []byte) string {
	if len(p) <= 40 {
		return fmt.Sprintf("%q", p)
	}
	return fmt.Sprintf("%q… (%d bytes)", p[:32], len(p))
}

// outcome describes what ReadFrame returned.
func outcome(msg []byte, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return "message " + show(msg)
}
