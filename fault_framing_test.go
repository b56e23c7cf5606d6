package tcpclient_test

import "testing"

var framingFaults = map[string]func(t *testing.T){}
