package tcpclienttest

import (
	"bytes"
	"errors"
	"io"
)

var (
	errBroken  = errors.New("connection broken for the test")
	errGreedy  = errors.New("nothing more comes for the time being")
	errEndless = errors.New("endless loop")
)

// pieces is a stream that comes in pieces.
type pieces struct {
	rest    []byte
	size    int    // of a piece
	first   int    // size of the first piece; 0: like the others
	idle    bool   // every other read is empty
	eager   bool   // end comes with the last bytes
	end     error  // nil: io.EOF
	ended   int    // number of reads that returned end alone
	between func() // called before every piece but the first; nil: nothing
	reads   int
}

// whole returns a stream that comes in as large pieces as are asked for.
func whole(stream []byte) *pieces { return &pieces{rest: stream, size: len(stream)} }

func (p *pieces) Read(buf []byte) (int, error) {
	p.reads++
	end := p.end
	if end == nil {
		end = io.EOF
	}
	if len(p.rest) == 0 {
		if p.ended++; p.ended > 1000 {
			panic(errEndless)
		}
		return 0, end
	}
	if p.idle && p.reads%2 == 0 {
		return 0, nil
	}
	if p.between != nil && p.reads > 1 {
		p.between()
	}
	size := p.size
	if p.first > 0 {
		size = p.first
	}
	n := copy(buf[:min(len(buf), size)], p.rest)
	p.rest = p.rest[n:]
	p.first = max(0, p.first-n)
	if p.eager && len(p.rest) == 0 {
		return n, end
	}
	return n, nil
}

// A recorder keeps what is written to it.
type recorder struct {
	bytes.Buffer
	between func() // called before each write; nil: nothing
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.between != nil {
		r.between()
	}
	return r.Buffer.Write(p)
}

// points returns where to cut p in two: everywhere if it is short, else near its ends
// and at regular steps between.
func points(p []byte) []int {
	edge, step := 40, len(p)/50
	switch {
	case len(p) <= 400:
		step = 1
	case len(p) > 64<<10:
		edge, step = 8, len(p)/5
	}
	var at []int
	for i := 1; i < len(p); i++ {
		if i < edge || len(p)-i < edge || i%step == 0 {
			at = append(at, i)
		}
	}
	return at
}
