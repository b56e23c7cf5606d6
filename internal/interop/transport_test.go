package interop

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
)

func TestTransport(t *testing.T) { // D1
	for _, tr := range tunnels {
		t.Run(tr.Name, func(t *testing.T) {
			for name, test := range transporttest.Tests {
				t.Run(name, func(t *testing.T) { test(t, tr) })
			}
		})
	}
}
