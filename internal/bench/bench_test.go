package main

import (
	"bytes"
	"cmp"
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
	for _, row := range []string{"| **tcpclient** |", "| `Send` ×64 |", "Noise: in these rows"} {
		if !bytes.Contains(text, []byte(row)) {
			t.Errorf("the report has no %q:\n%s", row, text)
		}
	}
	images, err := filepath.Glob(filepath.Join(dir, "internal/bench/charts/*.svg"))
	if err != nil || len(images) < 4 {
		t.Errorf("charts drawn: %q, %v", images, err)
	}
}

func TestTargets(t *testing.T) {
	t.Run("are of what is measured", func(t *testing.T) {
		for _, target := range targets {
			i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == target.workload })
			if i < 0 {
				t.Errorf("no workload %q", target.workload)
				continue
			}
			for _, name := range append([]string{cmp.Or(target.contender, oursContender.name), cmp.Or(target.per, floorName)}, target.beside...) {
				if c, ok := contenderNamed(name); !ok || !takesPart(c, workloads[i]) {
					t.Errorf("%s: %q is not measured", target.workload, name)
				}
			}
		}
	})
	t.Run("take the median of pairs", func(t *testing.T) {
		nanos := func(all ...float64) (rounds []measurement) {
			for _, x := range all {
				rounds = append(rounds, measurement{Nanos: x})
			}
			return rounds
		}
		r := &results{rounds: map[pair][]measurement{
			{pingpong64, floorName}:          nanos(100, 200, 300),
			{pingpong64, oursContender.name}: append(nanos(110, 200), measurement{Err: "broken pipe"}),
		}}
		target := target{workload: pingpong64, per: floorName, bound: 1.05, why: "because"}
		if got, want := target.of(r, oursContender.name), []float64{1.1, 1}; !slices.Equal(got, want) {
			t.Errorf("multiples %v, want %v", got, want)
		}
		if got, want := target.verdict(r, []float64{1.1, 1}), "no (1 of 2 rounds); because"; got != want {
			t.Errorf("verdict %q, want %q", got, want)
		}
		target.atLeast, target.bound = true, 2
		if got, want := target.of(r, oursContender.name), []float64{1 / 1.1, 1}; !slices.Equal(got, want) {
			t.Errorf("at least %v, want %v", got, want)
		}
	})
}
