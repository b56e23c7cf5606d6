package faults

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// children are the other processes of tests with several. Other files add theirs.
var children = map[string]func() int{}

func TestMain(m *testing.M) { testkit.Main(m, children) }
