package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
)

// A summary is what the rounds of one pair come to.
type summary struct {
	measurement              // medians
	ratio, low, high float64 // to the floor of the same round: median, smallest, largest
	rounds           int
}

// summarize takes medians; ok is false if there is no good measurement.
func (r *results) summarize(workload, contender string) (s summary, ok bool) {
	floor := r.rounds[pair{workload, floorName}]
	var good []measurement
	var ratios []float64
	for i, m := range r.rounds[pair{workload, contender}] {
		if m.Err != "" {
			continue
		}
		good = append(good, m)
		if i < len(floor) && floor[i].Err == "" {
			if m.Nanos > 0 {
				ratios = append(ratios, m.Nanos/floor[i].Nanos)
			} else if m.Memory > 0 {
				ratios = append(ratios, m.Memory/floor[i].Memory)
			}
		}
	}
	if len(good) == 0 {
		return s, false
	}
	of := func(field func(measurement) float64) float64 {
		var all []float64
		for _, m := range good {
			all = append(all, field(m))
		}
		return median(all)
	}
	s.rounds = len(good)
	s.Nanos = of(func(m measurement) float64 { return m.Nanos })
	s.CPU = of(func(m measurement) float64 { return m.CPU })
	s.Allocs = of(func(m measurement) float64 { return m.Allocs })
	s.P50 = of(func(m measurement) float64 { return m.P50 })
	s.P99 = of(func(m measurement) float64 { return m.P99 })
	s.Memory = of(func(m measurement) float64 { return m.Memory })
	s.Goroutines = of(func(m measurement) float64 { return m.Goroutines })
	if c, counted := r.counts[pair{workload, contender}]; counted {
		s.Writes = c.Writes
	} else {
		s.Writes = math.NaN()
	}
	if len(ratios) > 0 {
		s.ratio, s.low, s.high = median(ratios), slices.Min(ratios), slices.Max(ratios)
	}
	return s, true
}

func median[T cmp.Ordered](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// writeTables writes one table for each workload.
func writeTables(out io.Writer, p *plan, r *results) {
	for _, w := range p.workloads {
		fmt.Fprintf(out, "\n%s\n", w.name)
		for _, c := range p.contenders {
			s, ok := r.summarize(w.name, c.name)
			if !ok {
				continue
			}
			if w.work == nil {
				fmt.Fprintf(out, "  %-22s %7.2f KiB %5.2f goroutines\n", c.name, s.Memory/1024, s.Goroutines)
				continue
			}
			fmt.Fprintf(out, "  %-22s %10.1f ns %7.2f× [%.2f %.2f]  cpu %9.1f  allocs %6.3f  writes %.4f  p50 %7.1fµs p99 %7.1fµs\n",
				c.name, s.Nanos, s.ratio, s.low, s.high, s.CPU, s.Allocs, s.Writes, s.P50/1e3, s.P99/1e3)
		}
	}
}

func report(dir string, p *plan, r *results) error { return nil }
