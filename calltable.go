package tcpclient

// A callTable finds calls by their ids, which count up: an open-addressing hash table with
// the id as its own hash. A map costs a seventh more of a Call among 512.
type callTable struct {
	entries []callEntry // a power of two of them, at most half in use
	n       int         // in use
}

type callEntry struct {
	id   uint64 // 0: not in use
	call *call  // nil: abandoned, and its id not free yet
}

const minTable = 16

// slot returns where id is, or where it would go.
func (t *callTable) slot(id uint64) int {
	mask := uint64(len(t.entries) - 1)
	i := id & mask
	for t.entries[i].id != id && t.entries[i].id != 0 {
		i = (i + 1) & mask
	}
	return int(i)
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
		home := int(t.entries[i].id) & mask
		if (i-home)&mask >= (i-gap)&mask {
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
