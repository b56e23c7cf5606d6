//go:build race

package tcpclienttest_test

const raceEnabled = true
