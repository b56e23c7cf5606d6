package tcpclient_test

import "testing"

var portableFaults = map[string]func(t *testing.T){}
