package tcpclient_test

import (
	"sort"
	"strings"
	"testing"
)

// runFaults runs rows of FAULTS.md in their order.
func runFaults(t *testing.T, faults map[string]func(t *testing.T)) {
	names := make([]string, 0, len(faults))
	for name := range faults {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return strings.Compare(names[i], names[j]) < 0 })
	for _, name := range names {
		t.Run(name, faults[name])
	}
}
