package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestMain makes the test binary the child processes too.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		return
	}
	os.Exit(m.Run())
}

// TestQuick runs the short workloads with the contenders that need nothing but Go, and
// writes the report. Times are nobody's concern here.
func TestQuick(t *testing.T) {
	p := plan{rounds: 1, span: 2 * time.Millisecond, idle: 5}
	for _, w := range workloads {
		if w.quick {
			p.workloads = append(p.workloads, w)
		}
	}
	for _, c := range contenders {
		if slices.Contains([]string{floorName, naiveContender.name, handmadeContender.name, oursContender.name}, c.family()) {
			p.contenders = append(p.contenders, c)
		}
	}
	var log bytes.Buffer
	r, err := p.execute(&log)
	if err != nil {
		t.Fatal(err)
	}
	if r.failures > 0 || r.count < 20 {
		t.Fatalf("%d measurements, %d of them failed:\n%s", r.count, r.failures, &log)
	}

	dir := t.TempDir()
	if err := report(dir, &p, r); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "BENCHMARKS.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("| **tcpclient** |")) {
		t.Errorf("the report has no row for tcpclient:\n%s", text)
	}
	images, err := filepath.Glob(filepath.Join(dir, "internal/bench/charts/*.svg"))
	if err != nil || len(images) < 4 {
		t.Errorf("charts drawn: %q, %v", images, err)
	}
}
