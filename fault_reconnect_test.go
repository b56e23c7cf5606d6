package tcpclient_test

import "testing"

func TestFaultReconnect(t *testing.T) { runFaults(t, reconnectFaults) }
