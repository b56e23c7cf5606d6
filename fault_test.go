package tcpclient_test

import "testing"

// TestFault runs the rows of the list of faults that a framed TCP client meets, each
// under its name: TestFault/D1_connection_refused.
func TestFault(t *testing.T) {
	runFaults(t, dialFaults)
	runFaults(t, streamFaults)
	runFaults(t, lifecycleFaults)
	runFaults(t, boundFaults)
	runFaults(t, heartbeatFaults)
	runFaults(t, reconnectFaults)
	runFaults(t, restartFaults)
	runFaults(t, systemFaults)
}
