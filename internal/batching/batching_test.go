package batching

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const µs = time.Microsecond

// A load is so many callers, and what a frame costs them each way.
type load struct {
	callers         int
	together, apart time.Duration
}

// run has a Rule decide on that many frames, and returns how many were of a stretch apart.
func (l load) run(r *Rule, frames int) (apart int) {
	for n := 0; n < frames; {
		r.Next()
		if !r.isApart() {
			r.Record(l.callers)
			time.Sleep(time.Duration(l.callers) * l.together)
			n += l.callers
			continue
		}
		r.Record(1)
		time.Sleep(l.apart)
		n++
		apart++
	}
	return apart
}

// goApart has the load on the Rule until that goes apart.
func (l load) goApart(t *testing.T, r *Rule) {
	for n := 0; !r.isApart(); n += l.callers {
		require.Less(t, n, 2*maxTogether)
		l.run(r, 1)
	}
}

// goTogether has the load on the Rule until that is together, for that many frames at most.
func (l load) goTogether(t *testing.T, r *Rule, frames int) {
	for n := 0; r.isApart(); n++ {
		require.LessOrEqual(t, n, frames)
		l.run(r, 1)
	}
}

func TestRuleTakesTheFasterWay(t *testing.T) {
	const frames = 1 << 17
	const most = frames / 50 // that are tried
	tests := map[string]struct {
		load
		least, most int // frames that go out by themselves
	}{
		"apart by far":               {load{8, 9 * µs, 6 * µs}, frames * 9 / 10, frames},
		"apart by an eighth":         {load{2, 8 * µs, 7 * µs}, frames * 9 / 10, frames},
		"apart by a twentieth":       {load{4, 20 * µs, 19 * µs}, 0, most},
		"alike":                      {load{4, 8 * µs, 8 * µs}, 0, most},
		"together by far":            {load{16, 2 * µs, 5 * µs}, 0, most},
		"no time passes":             {load{8, 0, 0}, 0, most},
		"no time passes apart":       {load{8, 2 * µs, 0}, 0, most},
		"one caller":                 {load{1, 9 * µs, 6 * µs}, 0, 0},
		"as many as are a few":       {load{maxFew, 9 * µs, 6 * µs}, frames * 9 / 10, frames},
		"as many, by a fifth":        {load{maxFew, 10 * µs, 8 * µs}, frames * 9 / 10, frames},
		"one more than are a few":    {load{maxFew + 1, 9 * µs, 6 * µs}, 0, 0},
		"batches larger than a unit": {load{10 * unit, 9 * µs, 6 * µs}, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				apart := test.run(new(Rule), frames)
				assert.GreaterOrEqual(t, apart, test.least)
				assert.LessOrEqual(t, apart, test.most)
			})
		})
	}
}

func TestRuleFollowsTheLoad(t *testing.T) {
	const frames = 1 << 18
	fewBusy := load{4, 12 * µs, 8 * µs}
	manyFast := load{16, 2 * µs, 5 * µs}
	synctest.Test(t, func(t *testing.T) {
		r := new(Rule)
		for range 3 {
			// The stretch in which the load changes is no comparison, and the next may be as long.
			assert.GreaterOrEqual(t, fewBusy.run(r, frames), frames-2*maxTogether-frames/50)
			assert.LessOrEqual(t, manyFast.run(r, frames), 2*maxApart+frames/50)
		}
	})
}

// A load that comes and goes makes stretches of any duration.
func TestRuleOfARestlessLoadSeldomGoesApart(t *testing.T) {
	const bursts, frames = 2000, 300
	synctest.Test(t, func(t *testing.T) {
		r := new(Rule)
		l := load{8, 2 * µs, 5 * µs}
		apart := 0
		for range bursts {
			apart += l.run(r, frames)
			time.Sleep(time.Second)
		}
		assert.LessOrEqual(t, apart, bursts*frames/20)
		assert.LessOrEqual(t, l.run(r, 1<<17), 2*maxApart+1<<17/50, "after that at most a row, and trials")
	})
}

func TestRuleEndsATrialThatIsHopelessSoon(t *testing.T) {
	tests := map[string]struct {
		load
		want int // frames apart
	}{
		"hopeless":   {load{8, 2 * µs, 4 * µs}, firstApart},
		"not better": {load{8, 2 * µs, 2 * µs}, firstApart + 2*firstApart + telling},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r Rule
				test.goApart(t, &r)
				apart := 0
				for r.isApart() {
					apart += test.run(&r, 1)
				}
				assert.Equal(t, test.want, apart)
			})
		})
	}
}

func TestRuleYieldsAtOnceAfterAStretchApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Rule
		l := load{4, 12 * µs, 8 * µs}
		l.goApart(t, &r)
		assert.False(t, r.Next())
		l.goTogether(t, &r, 2*maxApart)
		assert.True(t, r.Next())
	})
}

func TestRulesOfBusyConnectionsStayTogether(t *testing.T) {
	l := load{4, 12 * µs, 8 * µs}
	synctest.Test(t, func(t *testing.T) {
		var a, b Rule
		apart := 0
		for range 1 << 15 {
			apart += l.run(&a, 4) + l.run(&b, 4)
		}
		assert.Zero(t, apart)

		l.goApart(t, &a) // alone
		b.Record(10 * unit)
		l.goTogether(t, &a, firstApart)
	})
	synctest.Test(t, func(t *testing.T) {
		var a, bulk Rule
		apart := 0
		for range 1 << 15 {
			apart += l.run(&a, 4)
			bulk.Record(100 * unit)
		}
		assert.Zero(t, apart, "beside batches that are larger than a unit")
	})
}

func TestWriterThatIsAloneNoLongerYields(t *testing.T) {
	var r Rule
	for range maxAlone {
		assert.True(t, r.Next())
		r.Record(1)
	}
	yields := func() (n int) {
		for range 10 * retryShared {
			if r.Next() {
				n++
			}
			r.Record(1)
		}
		return n
	}
	assert.Equal(t, 10, yields())
	assert.EqualValues(t, maxAlone, r.alone, "which would wrap some day")
	r.begun = 1<<31 - 1 // this may
	assert.InDelta(t, 10, yields(), 1)
	r.Record(2)
	assert.True(t, r.Next())
}
