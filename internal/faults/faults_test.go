package faults

import (
	"sort"
	"strings"
	"testing"
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
