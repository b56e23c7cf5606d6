package testkit

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// An Event is what a Trace was told.
type Event struct {
	At      time.Duration // since the recorder was made
	Kind    string        // the name of the Trace's field
	Address string
	Attempt int
	Delay   time.Duration // Waiting; Connected's took; Pong's rtt
	Err     error
	Reply   string // LateReply
}

func (e Event) String() string {
	return fmt.Sprintf("%v %s %s %d %v %v", e.At, e.Kind, e.Address, e.Attempt, e.Delay, e.Err)
}

// A Recorder keeps the events of one Client.
type Recorder struct {
	start  time.Time
	mu     sync.Mutex // guards following
	events []Event
}

func (r *Recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = time.Since(r.start)
	r.events = append(r.events, e)
}

// Trace returns the Trace that records.
func (r *Recorder) Trace() *tcpclient.Trace {
	return &tcpclient.Trace{
		Connecting: func(a string, n int) { r.add(Event{Kind: "Connecting", Address: a, Attempt: n}) },
		Connected: func(a string, n int, d time.Duration) {
			r.add(Event{Kind: "Connected", Address: a, Attempt: n, Delay: d})
		},
		ConnectFailed: func(a string, n int, err error) {
			r.add(Event{Kind: "ConnectFailed", Address: a, Attempt: n, Err: err})
		},
		Disconnected: func(a string, err error) { r.add(Event{Kind: "Disconnected", Address: a, Err: err}) },
		Waiting:      func(n int, d time.Duration) { r.add(Event{Kind: "Waiting", Attempt: n, Delay: d}) },
		Pong:         func(d time.Duration) { r.add(Event{Kind: "Pong", Delay: d}) },
		LateReply:    func(reply []byte) { r.add(Event{Kind: "LateReply", Reply: string(reply)}) },
	}
}

// All returns the events of these kinds, or all events.
func (r *Recorder) All(kinds ...string) (events []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			events = append(events, e)
		}
	}
	return events
}

// RequireOrder wants the events to be a possible history of a Client with these addresses.
func (r *Recorder) RequireOrder(t testing.TB, addresses int) {
	t.Helper()
	state, tried := "start", 0
	events := r.All()
	for i, e := range events {
		next := map[string]string{"Connecting": "connecting", "Connected": "connected", "ConnectFailed": "failed", "Disconnected": "down", "Waiting": "waiting", "Pong": "connected", "LateReply": "connected"}[e.Kind]
		allowed := map[string][]string{
			"Connecting":    {"start", "waiting", "failed"},
			"Connected":     {"connecting"},
			"ConnectFailed": {"connecting"},
			"Disconnected":  {"connected"},
			"Waiting":       {"failed", "down"},
			"Pong":          {"connected"},
			"LateReply":     {"connected"},
		}[e.Kind]
		if !slices.Contains(allowed, state) {
			require.Fail(t, "no possible history", "event %d: %v in state %s\n%v", i, e, state, events)
		}
		switch {
		case e.Kind == "Connecting" && state == "failed":
			tried++
		case e.Kind == "Connecting":
			tried = 1
		}
		if tried > addresses {
			require.Fail(t, "more addresses than there are", "event %d: %v", i, e)
		}
		state = next
	}
	require.Contains(t, []string{"down", "waiting", "failed", "start"}, state, "a Connected without its Disconnected")
}

// NewRecorder makes a Recorder whose time begins now.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }
