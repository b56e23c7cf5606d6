package tcpclient

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCallTable(t *testing.T) {
	t.Run("is a map, whatever comes and goes in whichever order", func(t *testing.T) {
		for seed := range uint64(50) {
			r := rand.New(rand.NewPCG(seed, 0))
			var table callTable
			model := make(map[uint64]*call)
			span := uint64(1) << r.IntN(10) // of ids: many that collide, or few
			for range 2000 {
				id := 1 + r.Uint64N(span)*(1+r.Uint64N(3)<<r.IntN(40))
				switch r.IntN(3) {
				case 0:
					c := new(call)
					if r.IntN(4) == 0 {
						c = nil
					}
					table.put(id, c)
					model[id] = c
				case 1:
					table.remove(id)
					delete(model, id)
				}
				c, ok := table.get(id)
				want, known := model[id]
				require.Equal(t, known, ok)
				require.True(t, c == want)
				require.Equal(t, len(model), table.n)
			}
			for id, want := range model {
				c, ok := table.get(id)
				require.True(t, ok && c == want, "id %d", id)
			}
			var each []*call
			table.each(func(c *call) { each = append(each, c) })
			waited := 0
			for _, c := range model {
				if c != nil {
					waited++
				}
			}
			require.Len(t, each, waited)
		}
	})

	t.Run("gives the memory of a crowd back", func(t *testing.T) { // P6
		var table callTable
		for id := range uint64(10_000) {
			table.put(id+1, new(call))
		}
		for id := range uint64(10_000) {
			table.remove(id + 1)
		}
		require.Empty(t, table.entries)
		_, ok := table.get(1)
		require.False(t, ok)
	})
}

func TestIDTableOldest(t *testing.T) {
	t.Run("is the request that has waited longest, whoever waits for it, whichever ids are used again", func(t *testing.T) { // P5
		for seed := range uint64(50) {
			r := rand.New(rand.NewPCG(seed, 0))
			p := newPending(callSettings{correlator: narrow{max: 1 + r.Uint64N(20)}, replyTimeout: 1})
			var order []uint64 // ids outstanding, the oldest first
			since := make(map[uint64]time.Time)
			waiting := make(map[uint64]*call)
			var idle *call
			now := time.Unix(0, 0)
			for range 2000 {
				now = now.Add(1)
				i := 0
				if len(order) > 0 {
					i = r.IntN(len(order))
				}
				switch op := r.IntN(4); {
				case op < 2 && !p.full():
					c := &call{}
					if idle != nil {
						c, idle = idle, nil
					}
					*c = call{age: c.age}
					c.id = p.enter(c)
					p.owe(c, now)
					order, waiting[c.id], since[c.id] = append(order, c.id), c, now
				case op == 2 && len(order) > 0:
					id := order[i]
					c, ok := p.match(id)
					require.True(t, ok)
					require.True(t, c == waiting[id])
					if c != nil {
						idle = c
					}
					delete(waiting, id)
					order = append(order[:i], order[i+1:]...)
				case op == 3 && len(order) > 0 && waiting[order[i]] != nil:
					id := order[i]
					p.abandon(id)
					idle = waiting[id]
					waiting[id] = nil
				}
				require.Equal(t, len(order), p.outstanding())
				if len(order) > 0 {
					require.Equal(t, since[order[0]], p.oldest())
				}
			}
		}
	})

	t.Run("forgets with the ids that are too many to keep", func(t *testing.T) { // P6
		p := newPending(callSettings{correlator: IDPrefix{}, replyTimeout: 1})
		for n := range 2 * maxKept {
			c := new(call)
			c.id = p.enter(c)
			p.owe(c, time.Unix(int64(n), 0))
			p.abandon(c.id)
		}
		table := p.(*idTable)
		require.Equal(t, maxKept, p.outstanding())
		require.Len(t, table.ages.abandoned, maxKept)
		require.Equal(t, time.Unix(maxKept-1, 0), table.ages.last.since)
		require.Equal(t, time.Unix(0, 0), p.oldest())
	})
}
