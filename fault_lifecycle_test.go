package tcpclient_test

import "testing"

// lifecycleFaults are the rows L of FAULTS.md.
var lifecycleFaults = map[string]func(t *testing.T){}
