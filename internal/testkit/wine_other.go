//go:build !windows

package testkit

import "testing"

// UnderWine is false: only programs for Windows run under Wine.
func UnderWine() bool { return false }

// SkipUnderWine does nothing.
func SkipUnderWine(testing.TB, string) {}
