package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The charts have a background of their own, so that they read the same on a light page
// and on a dark one.
var (
	paper  = color.RGBA{0xfa, 0xfa, 0xf7, 0xff}
	ink    = color.RGBA{0x26, 0x2a, 0x33, 0xff}
	faint  = color.RGBA{0xd8, 0xd9, 0xd6, 0xff}
	accent = color.RGBA{0x0b, 0x7a, 0x75, 0xff} // tcpclient
	ground = color.RGBA{0x55, 0x5b, 0x66, 0xff} // the floor
	others = color.RGBA{0xb4, 0xb9, 0xbf, 0xff}
)

// hues tell lines of other contenders apart. On paper each has a contrast of 3 or more.
var hues = map[string]color.RGBA{
	"naive":        {0xc6, 0x5b, 0x1f, 0xff},
	"hand-made":    {0x4b, 0x4b, 0x9b, 0xff},
	"go-msgio":     {0x8a, 0x6d, 0x3b, 0xff},
	"netpoll":      {0x3b, 0x6f, 0xb6, 0xff},
	"yamux":        {0x8e, 0x5e, 0xa8, 0xff},
	"websocket":    {0xb3, 0x3a, 0x5b, 0xff},
	"nats.go":      {0x4f, 0x8f, 0x4a, 0xff},
	"net/rpc":      {0x7a, 0x7f, 0x87, 0xff},
	"rueidis":      {0xa8, 0x74, 0x08, 0xff},
	"rueidis 20µs": {0xa8, 0x74, 0x08, 0xff}, // and dashed
}

func hue(contender string) color.RGBA {
	switch {
	case contender == floorName:
		return ground
	case strings.HasPrefix(contender, oursContender.name):
		return accent
	}
	return hues[contender]
}

// charts draws all charts for which there are results, and returns their names.
func charts(dir string, p *plan, r *results) (names []string, err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	p = p.main()
	save := func(name string, p *plot.Plot, rows int) {
		if p == nil || err != nil {
			return
		}
		names = append(names, name)
		err = draft(p, vg.Length(rows)*0.27*vg.Inch+1.3*vg.Inch, filepath.Join(dir, name))
	}
	for _, chart := range []struct{ file, title, axis, of, workloads string }{
		{"send.svg", "Send from many goroutines on one connection, 64 bytes", "ns per message, until it was written (less is better)", "goroutines", "send/size=64/conc="},
		{"call.svg", "Call from many goroutines on one connection, 64 bytes", "ns per call (less is better)", "goroutines", "call/size=64/conc="},
		{"conns.svg", "Round trips on many connections at once, 64 bytes", "µs per round trip (less is better)", "connections", "conns/size=64/conns="},
	} {
		save(chart.file, lines(p, r, chart.title, chart.axis, chart.of, chart.workloads), 11)
	}
	for _, chart := range []struct{ file, title, axis, workload string }{
		{"in.svg", "Receiving a stream of 64-byte messages", "ns per message (less is better)", "in/size=64"},
		{"out.svg", "Writing a stream of 64-byte messages", "ns per message (less is better)", "out/size=64"},
		{"pingpong.svg", "One round trip, 64 bytes", "µs (less is better)", "pingpong/size=64"},
		{"idle.svg", "An idle client", "KiB of heap and stack (less is better)", "idle/conns=1000"},
	} {
		p, rows := bars(p, r, chart.title, chart.axis, chart.workload)
		save(chart.file, p, rows)
	}
	return names, err
}

const (
	width  = 7.8 * vg.Inch
	margin = vg.Length(14)

	// dataWidth is about what the vertical axis leaves.
	dataWidth = width - 2*margin - 46
)

// draft draws p with a margin around it.
func draft(p *plot.Plot, height vg.Length, path string) error {
	picture := vgsvg.New(width, height)
	page := draw.New(picture)
	page.FillPolygon(paper, []vg.Point{{}, {X: width}, {X: width, Y: height}, {Y: height}})
	p.Draw(draw.Crop(page, margin, -margin, margin, -margin))
	var svg bytes.Buffer
	if _, err := picture.WriteTo(&svg); err != nil {
		return err
	}
	// Who reads it may not have the font that the text was measured with. The next two
	// are as wide; for all others there is room to spare.
	text := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(path, text, 0o666)
}

// canvas is an empty chart.
func canvas(title, axis string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = paper
	p.Title.Text = title
	p.Title.TextStyle.Color = ink
	p.Title.TextStyle.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(13), Weight: 2}
	p.Title.Padding = vg.Points(10)
	p.X.Label.Text = axis
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Color = ink
		a.Label.TextStyle.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(10)}
		a.Color = ink
		a.LineStyle.Color = ink
		a.Tick.Label.Color = ink
		a.Tick.Label.Font.Size = vg.Points(10)
		a.Tick.Label.Font.Variant = "Sans"
		a.Tick.LineStyle.Color = ink
	}
	p.Legend.TextStyle.Color = ink
	p.Legend.TextStyle.Font.Size = vg.Points(10)
	p.Legend.TextStyle.Font.Variant = "Sans"
	return p
}

// A bar is one contender in a chart of bars.
type bar struct {
	name  string
	value float64
	ratio float64
}

// bars compares contenders in one workload, the best on top, on a logarithmic scale.
func bars(pl *plan, r *results, title, axis, workload string) (*plot.Plot, int) {
	var all []bar
	var memory bool
	for _, c := range pl.contenders {
		s, ok := r.summarize(workload, c.name)
		if !ok {
			continue
		}
		b := bar{c.name, s.Nanos, s.ratio}
		switch {
		case s.Memory > 0:
			b.value, memory = s.Memory/1024, true
		case strings.HasPrefix(workload, "pingpong"):
			b.value = s.Nanos / 1e3
		}
		all = append(all, b)
	}
	if len(all) < 2 {
		return nil, 0
	}
	slices.SortFunc(all, func(a, b bar) int {
		if a.value > b.value {
			return -1
		}
		return 1
	})
	p := canvas(title, axis)
	var names []string
	low, high := math.Inf(1), 0.0
	for _, b := range all {
		names = append(names, b.name)
		low, high = min(low, b.value), max(high, b.value)
	}
	p.Add(barChart{all, memory})
	p.NominalY(names...)
	p.Y.LineStyle.Width = 0
	p.Y.Padding = vg.Points(16) // for names in a wider font
	p.Y.Min, p.Y.Max = -0.6, float64(len(all))-0.4
	p.X.Min, p.X.Max = low/1.3, high*math.Pow(high/low, 0.22)*1.3
	if high/low < 8 {
		p.X.Min, p.X.Max = 0, high*1.25
	} else {
		p.X.Scale = plot.LogScale{}
		p.X.Tick.Marker = decades{}
		p.X.Label.Text += ", logarithmic"
	}
	return p, len(all)
}

type barChart struct {
	bars   []bar
	memory bool // not time: ratios to the floor would mean nothing
}

// Plot draws the bars with their values at the end.
func (b barChart) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	half := vg.Points(6.5)
	label := text.Style{Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(9)}, Color: ink, Handler: plot.DefaultTextHandler, YAlign: draw.YCenter}
	for i, bar := range b.bars {
		left, right, at := x(p.X.Min), x(bar.value), y(float64(i))
		fill := color.Color(others)
		if strings.HasPrefix(bar.name, oursContender.name) || bar.name == floorName {
			fill = hue(bar.name)
		}
		c.FillPolygon(fill, []vg.Point{{X: left, Y: at - half}, {X: right, Y: at - half}, {X: right, Y: at + half}, {X: left, Y: at + half}})
		value := number(bar.value)
		if bar.ratio > 0 && bar.name != floorName && !b.memory {
			value += fmt.Sprintf(" · %s ×", number(bar.ratio))
		}
		c.FillText(label, vg.Point{X: right + vg.Points(5), Y: at}, value)
	}
}

// lines shows how a cost falls or rises with the number of callers or connections, which follows
// workloads in the names of these.
func lines(pl *plan, r *results, title, axis, of, workloads string) *plot.Plot {
	p := canvas(title+"\n"+axis, of)
	unit := 1.0
	if strings.HasPrefix(axis, "µs") {
		unit = 1e3
	}
	var ticks callerTicks
	low, high, drawn := math.Inf(1), 0.0, 0
	for _, c := range pl.contenders {
		var points plotter.XYs
		for _, w := range pl.workloads {
			if number, ok := strings.CutPrefix(w.name, workloads); !ok || number != fmt.Sprint(w.conc) {
				continue
			}
			ticks = append(ticks, w.conc)
			if s, ok := r.summarize(w.name, c.name); ok {
				cost := s.Nanos / unit
				points = append(points, plotter.XY{X: float64(w.conc), Y: cost})
				low, high = min(low, cost), max(high, cost)
			}
		}
		if len(points) < 2 {
			continue
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			continue
		}
		line.Color, line.Width = hue(c.name), vg.Points(1.4)
		marks.Color, marks.Shape, marks.Radius = hue(c.name), draw.CircleGlyph{}, vg.Points(2.6)
		name := c.name
		switch {
		case c.name == oursContender.name:
			line.Width, marks.Radius = vg.Points(3), vg.Points(4)
		case c.name == floorName:
			line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
			if of == "goroutines" {
				name = "floor, in batches"
			}
		case c.name == rueidisDelayed.name:
			line.Dashes = []vg.Length{vg.Points(3), vg.Points(2)}
		case c.name == natsContender.name && strings.HasPrefix(workloads, "send"):
			line.Dashes = []vg.Length{vg.Points(1), vg.Points(3)}
			name = "nats.go: queues only"
		}
		p.Add(line, marks)
		p.Legend.Add(name, line, marks)
		drawn++
	}
	if drawn < 2 {
		return nil
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = faint, faint
	p.Add(grid)
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks, decades{}
	p.X.Min, p.X.Max = 0.85, float64(slices.Max(ticks))*60
	p.Y.Min, p.Y.Max = low/1.4, high*1.4
	// The legend stands to the right of the last points, its text to the right of its
	// marks: a wider font than the one it was measured with runs into nothing.
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs = vg.Length(p.X.Norm(float64(slices.Max(ticks))))*dataWidth + vg.Points(22)
	p.Legend.Padding = vg.Points(2)
	return p
}

// callerTicks are the numbers of goroutines that were measured.
type callerTicks []int

// Ticks returns one tick for each.
func (t callerTicks) Ticks(_, _ float64) (ticks []plot.Tick) {
	for _, k := range slices.Compact(slices.Sorted(slices.Values(t))) {
		ticks = append(ticks, plot.Tick{Value: float64(k), Label: fmt.Sprint(k)})
	}
	return ticks
}

// decades are ticks at 1, 2 and 5 of each power of ten.
type decades struct{}

// Ticks returns those between low and high.
func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high; power *= 10 {
		for _, k := range []float64{1, 2, 5} {
			if v := k * power; v >= low && v <= high {
				t := plot.Tick{Value: v, Label: fmt.Sprint(v)}
				if high/low > 200 && k != 1 {
					t.Label = ""
				}
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

// number writes x with about three digits.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x >= 99.5:
		return thousands(int(math.Round(x)))
	case x >= 9.95:
		return fmt.Sprintf("%.1f", x)
	case x > 0 && x < 0.095:
		return fmt.Sprintf("%.2g", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}
