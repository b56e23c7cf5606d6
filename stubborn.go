package tcpclient

import (
	"net"
	"os"
	"sync"
	"time"
)

// A stubborn connection has no deadlines, an SSH channel or somebody's tunnel, or does not
// survive them, as a *tls.Conn does not. This wrapper
// has them, at the price of a goroutine each for reading and writing: a deadline ends
// the wait for the connection, not its work, which the next call waits for again.
//
// The one who reads and the one who writes may be different goroutines, but there is
// only one of each at a time. A Write that has timed out must be repeated with the same
// bytes in front.
type stubborn struct {
	net.Conn
	reading, writing job
	jobs             sync.WaitGroup // the goroutines

	mu   sync.Mutex // guards following
	over bool       // no further goroutine is started
}

// A job is a read or a write that is on its way.
type job struct {
	done chan result // one slot; nil: no job was begun yet
	busy bool        // owned by the one who calls
	buf  []byte      // what is read into or written
	rest []byte      // read and not yet returned
	err  error       // the error that came with rest

	mu       sync.Mutex // guards following
	deadline time.Time
	moved    chan struct{} // closed when deadline changes; nil: nobody waits
	flight   int           // bytes of a write on its way
}

type result struct {
	n   int
	err error
}

func newStubborn(conn net.Conn) *stubborn {
	s := &stubborn{Conn: conn}
	s.reading.done = make(chan result, 1)
	s.writing.done = make(chan result, 1)
	return s
}

// do runs f on a goroutine of its own, unless join was called.
func (s *stubborn) do(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return net.ErrClosed
	}
	s.jobs.Go(f)
	return nil
}

// join waits for the goroutines, which end when the connection is closed.
func (s *stubborn) join() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.jobs.Wait()
}

func (s *stubborn) Read(p []byte) (int, error) {
	j := &s.reading
	if len(j.rest) == 0 && j.err == nil {
		if !j.busy {
			if j.buf == nil {
				j.buf = make([]byte, minRead)
			}
			err := s.do(func() {
				n, err := s.Conn.Read(j.buf)
				j.done <- result{n, err}
			})
			if err != nil {
				return 0, err
			}
			j.busy = true
		}
		r, ok := j.wait()
		if !ok {
			return 0, os.ErrDeadlineExceeded
		}
		j.busy = false
		j.rest, j.err = j.buf[:r.n], r.err
	}
	n := copy(p, j.rest)
	j.rest = j.rest[n:]
	if len(j.rest) > 0 {
		return n, nil
	}
	err := j.err
	j.err = nil
	return n, err
}

func (s *stubborn) Write(p []byte) (int, error) {
	j := &s.writing
	if !j.busy {
		j.buf = append(j.buf[:0], p...)
		j.setFlight(len(p))
		err := s.do(func() {
			n, err := writeOnce(s.Conn, j.buf)
			j.done <- result{n, err}
		})
		if err != nil {
			j.setFlight(0)
			return 0, err
		}
		j.busy = true
	}
	r, ok := j.wait()
	if !ok {
		return 0, os.ErrDeadlineExceeded
	}
	j.busy = false
	j.setFlight(0)
	if r.err == nil && r.n < len(p) {
		r.err = os.ErrDeadlineExceeded // of more than was begun with: come again
	}
	return r.n, r.err
}

// inFlight returns how many bytes may or may not have been handed over.
func (s *stubborn) inFlight() int {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	return s.writing.flight
}

func (j *job) setFlight(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flight = n
}

// wait waits for the job until the deadline.
func (j *job) wait() (r result, ok bool) {
	for {
		j.mu.Lock()
		deadline, moved := j.deadline, make(chan struct{})
		j.moved = moved
		j.mu.Unlock()
		if r, ok, again := j.waitUntil(deadline, moved); !again {
			return r, ok
		}
	}
}

// waitUntil waits for the job until the deadline, if there is one, or until that has moved.
func (j *job) waitUntil(deadline time.Time, moved <-chan struct{}) (r result, ok, again bool) {
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case r := <-j.done:
		return r, true, false
	case <-late:
		return result{}, false, false
	case <-moved:
		return result{}, false, true
	}
}

func (j *job) setDeadline(t time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.deadline = t
	if j.moved != nil {
		close(j.moved)
		j.moved = nil
	}
}

func (s *stubborn) SetReadDeadline(t time.Time) error {
	s.reading.setDeadline(t)
	return nil
}

func (s *stubborn) SetWriteDeadline(t time.Time) error {
	s.writing.setDeadline(t)
	return nil
}

func (s *stubborn) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// Close closes what is below: a *tls.Conn would first try to say good-bye, for five
// seconds.
func (s *stubborn) Close() error {
	if layer, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return layer.NetConn().Close()
	}
	return s.Conn.Close()
}

// CloseWrite passes on, where there is a half-close to pass on to. It does not wait
// for long.
func (s *stubborn) CloseWrite() error {
	done := make(chan error, 1)
	if err := s.do(func() { done <- closeWrite(s.Conn) }); err != nil {
		return err
	}
	late := time.NewTimer(closeNotify)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return ErrWriteTimeout
	}
}
