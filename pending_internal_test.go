package tcpclient

import (
	"math/rand/v2"
	"testing"

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
