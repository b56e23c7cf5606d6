package tcpclient

import "math/bits"

// A callTable finds calls by their ids: a hash table with open addressing. A map costs a
// seventh more of a Call among 512.
type callTable struct {
	entries []callEntry // a power of two of them, at most half in use
	shift   int         // 64 less its exponent
	n       int         // in use
}

type callEntry struct {
	id   uint64 // 0: not in use
	call *call  // nil: abandoned, and its id not free yet
}

const minTable = 16

// home returns where id would be if it were alone. Ids count up, and multiplying by the
// golden ratio spreads them (Knuth): neighbours would make runs that remove has to mend.
func (t *callTable) home(id uint64) int { return int(id * 0x9E3779B97F4A7C15 >> t.shift) }

// slot returns where id is, or where it would go.
func (t *callTable) slot(id uint64) int {
	mask := len(t.entries) - 1
	i := t.home(id)
	for t.entries[i].id != id && t.entries[i].id != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (t *callTable) get(id uint64) (c *call, ok bool) {
	if t.n == 0 || id == 0 {
		return nil, false
	}
	e := t.entries[t.slot(id)]
	return e.call, e.id == id
}

// put enters c under id, which is not 0, or replaces what is there.
func (t *callTable) put(id uint64, c *call) {
	if 2*t.n >= len(t.entries) {
		t.grow()
	}
	e := &t.entries[t.slot(id)]
	if e.id == 0 {
		t.n++
	}
	*e = callEntry{id, c}
}

func (t *callTable) grow() {
	old := t.entries
	t.entries = make([]callEntry, max(minTable, 2*len(old)))
	t.shift = 64 - bits.TrailingZeros(uint(len(t.entries)))
	for _, e := range old {
		if e.id != 0 {
			t.entries[t.slot(e.id)] = e
		}
	}
}

// remove takes id out, if it is there, and closes the gap: an entry that was pushed on by
// another moves back.
func (t *callTable) remove(id uint64) {
	if _, ok := t.get(id); !ok {
		return
	}
	t.n--
	mask := len(t.entries) - 1
	gap := t.slot(id)
	for i := (gap + 1) & mask; t.entries[i].id != 0; i = (i + 1) & mask {
		if (i-t.home(t.entries[i].id))&mask >= (i-gap)&mask {
			t.entries[gap] = t.entries[i]
			gap = i
		}
	}
	t.entries[gap] = callEntry{}
	if t.n == 0 && len(t.entries) > 64*minTable {
		t.entries = nil // the memory of a crowd that has gone
	}
}

// each calls f for every call that was not abandoned. f may abandon or remove it.
func (t *callTable) each(f func(c *call)) {
	var all []*call
	for _, e := range t.entries {
		if e.call != nil {
			all = append(all, e.call)
		}
	}
	for _, c := range all {
		f(c)
	}
}
