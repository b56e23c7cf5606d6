package faults

import (
	"sort"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// faultRows are the rows of FAULTS.md that have tests, and a few beside them.
var faultRows = []map[string]func(t *testing.T){
	dialFaults,
	streamFaults,
	framingFaults,
	lifecycleFaults,
	boundFaults,
	heartbeatFaults,
	reconnectFaults,
	restartFaults,
	tlsFaults,
	portableFaults,
	systemFaults,
}

// TestFault runs the rows of FAULTS.md, the list of faults that a framed TCP client
// meets, each under its name: TestFault/D1_connection_refused.
func TestFault(t *testing.T) {
	for _, rows := range faultRows {
		runFaults(t, rows)
	}
}

// runFaults runs rows of FAULTS.md in their order.
func runFaults(t *testing.T, faults map[string]func(t *testing.T)) {
	names := make([]string, 0, len(faults))
	for name := range faults {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return strings.Compare(names[i], names[j]) < 0 })
	for _, name := range names {
		t.Run(name, faults[name])
	}
}

// alone runs a row beside the others, in a process of its own: it counts what that has.
func alone(test func(t *testing.T)) func(t *testing.T) {
	return beside(func(t *testing.T) { testkit.InProcess(t, test) })
}

// slow runs a row that takes several seconds beside the others, if it is asked for.
func slow(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		testkit.SkipUnlessSlow(t)
		beside(test)(t)
	}
}

// beside runs a row beside the others: it waits for real time. It must not count what the process has.
func beside(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		testkit.SkipIfShort(t)
		t.Parallel()
		test(t)
	}
}

// onEach makes a row of a test of one transport.
func onEach(test func(t *testing.T, tr testkit.Transport)) func(t *testing.T) {
	return func(t *testing.T) { testkit.EachTransport(t, test) }
}

// besideOnEach is onEach beside the other rows.
func besideOnEach(test func(t *testing.T, tr testkit.Transport)) func(t *testing.T) {
	return beside(func(t *testing.T) { testkit.EachTransportParallel(t, test) })
}
