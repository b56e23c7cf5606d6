package testkit

import (
	"syscall"
	"testing"
)

// SkipUnderWine skips the test under Wine, which lacks what it needs. Windows itself has it.
func SkipUnderWine(t testing.TB, lacks string) {
	t.Helper()
	if syscall.NewLazyDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil {
		t.Skip("under Wine, which has no " + lacks)
	}
}
