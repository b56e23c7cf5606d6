//go:build race

package tcpclient_test

const raceEnabled = true
