// Package testkit has what the tests of several packages share: Clients with the other end
// of their connections on all kinds of transports, connections that do what a test wants,
// networks and processes of their own, and ways to wait.
//
// [Peer] speaks LengthPrefix{}, the default. What waits for something that has to happen
// waits for [Patience], and shows all goroutines if it has waited in vain.
package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// MemoryInUse returns the bytes of the heap and of stacks that are in use.
func MemoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// ReadFile returns the text of a file.
func ReadFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// Numbered returns n messages of the given size that begin with their number.
func Numbered(n, size int) []string {
	msgs := make([]string, n)
	for i := range msgs {
		msgs[i] = fmt.Sprintf("%06d/", i)
		msgs[i] += strings.Repeat(string(rune('a'+i%26)), max(0, size-len(msgs[i])))
	}
	return msgs
}

const patternPart = "0123456789abcdefghijklmnopqrstuvwxyz"

// pattern is what most messages are cut from: making them costs more than sending them.
var pattern = strings.Repeat(patternPart, 1<<20/len(patternPart)+1)

// Pattern returns n bytes that tell where they are.
func Pattern(n int) []byte { return []byte(PatternText(n)) }

// PatternText is Pattern as a string, without memory of its own unless it is very large.
func PatternText(n int) string {
	if n > len(pattern) {
		return strings.Repeat(patternPart, n/len(patternPart)+1)[:n]
	}
	return pattern[:n]
}

// GoList returns the lines that go list prints.
func GoList(t *testing.T, arguments ...string) []string {
	t.Helper()
	SkipUnderWine(t, "go command")
	list := exec.CommandContext(t.Context(), "go", append([]string{"list"}, arguments...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
