package tcpclient_test

import "testing"

// streamFaults are the rows S of FAULTS.md, and what belongs to them.
var streamFaults = map[string]func(t *testing.T){}
