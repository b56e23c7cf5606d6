package tcpclient_test

import "testing"

var tlsFaults = map[string]func(t *testing.T){}
