package tcpclient_test

import "testing"

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
