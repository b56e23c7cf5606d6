package testkit

import (
	"syscall"
	"testing"
)

// UnderWine reports whether the program runs under Wine and not under Windows itself.
func UnderWine() bool {
	return syscall.NewLazyDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}

// SkipUnderWine skips the test under Wine, which lacks what it needs. Windows itself has it.
func SkipUnderWine(t testing.TB, lacks string) {
	t.Helper()
	if UnderWine() {
		t.Skip("under Wine, which has no " + lacks)
	}
}
