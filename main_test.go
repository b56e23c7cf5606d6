package tcpclient_test

import (
	"flag"
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
	// Tests that run in parallel do so because they wait, for which few processors will do.
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "8")
	}
	goleak.VerifyTestMain(m)
}
