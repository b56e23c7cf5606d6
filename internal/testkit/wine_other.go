//go:build !windows

package testkit

import "testing"

// SkipUnderWine does nothing: only programs for Windows run under Wine.
func SkipUnderWine(testing.TB, string) {}
