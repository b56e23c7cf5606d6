package testkit

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVariable has the name of the child that a test binary is to be.
const childVariable = "TCPCLIENT_TEST_CHILD"

// Main is what the TestMain of each package does: it runs the tests and fails if a
// goroutine is left. Children are what the test binary does instead if it finds their name
// in its environment: the other process of a test with two.
func Main(m *testing.M, children map[string]func() int) {
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
