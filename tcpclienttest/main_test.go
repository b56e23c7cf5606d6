package tcpclienttest_test

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }
