//go:build race

package testkit

// RaceEnabled reports whether the race detector watches.
const RaceEnabled = true
