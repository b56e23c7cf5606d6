package tcpclient_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// children are what the test binary does instead of testing when it finds their name in
// the environment: the other process of a test with two.
var children = map[string]func() int{}

const childVariable = "TCPCLIENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if child := children[os.Getenv(childVariable)]; child != nil {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}
