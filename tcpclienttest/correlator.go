package tcpclienttest

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// TestCorrelator checks that a Correlator keeps the promises that Call relies on. It returns
// nil, or one error with everything that it found.
//
//	if err := tcpclienttest.TestCorrelator(myCorrelator{}, []byte(`{"method":"a"}`)); err != nil {
//		t.Fatal(err)
//	}
//
// Give it requests of different kinds and lengths that the Correlator must accept. It checks:
//
//   - AppendRequest accepts every request with every id from 1 to MaxID, or of 64 bits
//     without MaxID, and makes different messages of different ids. It appends to dst, in
//     dst's storage if that has room to spare. It neither changes nor keeps the request, and
//     writes nothing after its end.
//   - SplitReply finds in a marked request the id that AppendRequest put there. If it does so for
//     no id at all, replies have another form than requests, as in Kafka, and TestCorrelator
//     does not check their ids: test these with replies of your own.
//   - What SplitReply returns is all of msg, or a part of it, and stays as it is when other
//     messages are split. It does not change msg, and does not panic, whatever comes. If it
//     returns a request as it was with several ids, it does so with all.
//   - MaxID, if there is one, has the signature of [tcpclient.IDLimiter] and is always the same.
//   - RequestID, if there is one, is a func(request []byte) (id uint64, ok bool). It returns
//     an id from 1 to MaxID, always the same for the same request, which it does not change.
//     A request that has an id of its own is tried with no other.
//   - MaxID and RequestID are not methods of a pointer to the Correlator only: give that, then.
//   - No method keeps state. The race detector makes this check sharper.
func TestCorrelator(c tcpclient.Correlator, requests ...[]byte) error {
	s := &correlatorSuite{correlator: c, maxID: math.MaxUint64}
	s.run(requests)
	return s.about(c)
}

// A requestIdentifier is a Correlator that lets the application choose ids.
type requestIdentifier interface {
	RequestID(request []byte) (id uint64, ok bool)
}

// A correlatorSuite tests one Correlator.
type correlatorSuite struct {
	correlator tcpclient.Correlator
	maxID      uint64
	marked     []marked
	report
}

// A marked is a request with an id, and the message that AppendRequest made of both.
type marked struct {
	request []byte
	id      uint64
	msg     []byte
}

func (m marked) String() string { return fmt.Sprintf("%s with id %d", show(m.request), m.id) }

func (s *correlatorSuite) run(requests [][]byte) {
	if v := reflect.ValueOf(s.correlator); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		s.find("the Correlator is nil")
		return
	}
	if len(requests) == 0 {
		s.find("TestCorrelator needs a request to test with")
		return
	}
	if s.limits(); len(s.findings) > 0 {
		return // no id can be trusted
	}
	for _, request := range requests {
		s.mark(request)
	}
	if len(s.findings) > 0 {
		return // the other checks would only repeat these findings
	}
	s.distinct()
	s.appending()
	s.splitting()
	s.roundTrip()
	s.strangeMessages()
	if len(s.findings) == 0 {
		s.atOnce()
	}
}

// limits checks MaxID, and the signatures of the methods that are optional.
func (s *correlatorSuite) limits() {
	s.wantSignature("MaxID", reflect.TypeFor[func() uint64]())
	s.wantSignature("RequestID", reflect.TypeFor[func([]byte) (uint64, bool)]())
	limiter, ok := s.correlator.(tcpclient.IDLimiter)
	if !ok {
		return
	}
	s.maxID = limiter.MaxID()
	if s.maxID == 0 {
		s.find("MaxID is 0: there is no id")
	}
	if again := limiter.MaxID(); again != s.maxID {
		s.find("MaxID changes from %d to %d", s.maxID, again)
	}
}

// wantSignature finds fault with a method of that name that is never called: one of another signature,
// or of a pointer where a value was given.
func (s *correlatorSuite) wantSignature(name string, want reflect.Type) {
	m := reflect.ValueOf(s.correlator).MethodByName(name)
	if m.IsValid() && m.Type() != want {
		s.find("%s is a %v, want %v: it would not be called", name, m.Type(), want)
	}
	if _, ok := reflect.PointerTo(reflect.TypeOf(s.correlator)).MethodByName(name); ok && !m.IsValid() {
		s.find("%s is a method of *%T: it would not be called; give a pointer", name, s.correlator)
	}
}

// ids returns those to try: some of every width, among them such that read the same in either
// byte order.
func (s *correlatorSuite) ids() []uint64 {
	ids := []uint64{1, 2, 3, 10, 99, 100, s.maxID, s.maxID - 1, s.maxID/2 + 1}
	same := uint64(0)
	for bits := range 64 {
		one := uint64(1) << bits
		ids = append(ids, one-1, one, one+1)
		if bits%8 == 0 {
			same |= one
			ids = append(ids, same)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return slices.DeleteFunc(ids, func(id uint64) bool { return id < 1 || id > s.maxID })
}

// mark makes messages of request: with many ids, or with its own.
func (s *correlatorSuite) mark(request []byte) {
	ids := s.ids()
	if own, ok := s.ownID(request); ok {
		ids = []uint64{own}
	}
	for _, id := range ids {
		msg, err := s.append(nil, id, request)
		if err != nil {
			s.find("AppendRequest refuses %s with id %d: %w", show(request), id, err)
			return
		}
		s.marked = append(s.marked, marked{request, id, msg})
	}
}

// ownID returns the id that the application has chosen, if it has.
func (s *correlatorSuite) ownID(request []byte) (id uint64, ok bool) {
	chooser, can := s.correlator.(requestIdentifier)
	if !can {
		return 0, false
	}
	given := bytes.Clone(request)
	ask := func(request []byte) (id uint64, ok bool) {
		var err error
		defer s.caught("RequestID", &err)
		return chooser.RequestID(request)
	}
	id, ok = ask(given)
	again, okAgain := ask(bytes.Clone(request))
	switch {
	case !bytes.Equal(given, request):
		s.find("RequestID changes the request: %s into %s", show(request), show(given))
	case id != again || ok != okAgain:
		s.find("RequestID of %s is %d, %v, and then %d, %v", show(request), id, ok, again, okAgain)
	case ok && (id < 1 || id > s.maxID):
		s.find("RequestID of %s is %d, want 1 to %d", show(request), id, s.maxID)
	}
	for _, at := range append([]int{0}, points(request)...) {
		ask(request[:at])
	}
	return id, ok
}

// append calls AppendRequest, with a copy of request that has other bytes after it, and makes sure
// that it is only read.
func (s *correlatorSuite) append(dst []byte, id uint64, request []byte) (msg []byte, err error) {
	const after = "after the request"
	memory := append(bytes.Clone(request), after...)
	given := memory[:len(request)]
	func() {
		defer s.caught("AppendRequest", &err)
		msg, err = s.correlator.AppendRequest(dst, id, given)
	}()
	before := bytes.Clone(msg)
	switch {
	case !bytes.Equal(given, request):
		s.find("AppendRequest changes the request: %s into %s", show(request), show(given))
	case string(memory[len(request):]) != after:
		s.find("AppendRequest writes after the end of the request %s, into memory of the caller", show(request))
	}
	for i := range memory {
		memory[i] ^= 0xff
	}
	if !bytes.Equal(msg, before) {
		s.find("AppendRequest returns memory of the request %s", show(request))
	}
	return before, err
}

// distinct checks that each id makes another message.
func (s *correlatorSuite) distinct() {
	seen := make(map[string]marked)
	for _, m := range s.marked {
		key := string(m.msg)
		if other, ok := seen[key]; ok && other.id != m.id && bytes.Equal(other.request, m.request) {
			s.find("AppendRequest makes the same message of %v and of id %d: an id is cut off; is there a MaxID?", other, m.id)
		}
		seen[key] = m
	}
}

// appending checks what AppendRequest does to dst.
func (s *correlatorSuite) appending() {
	const before = "before"
	for _, m := range s.marked {
		for _, spare := range []int{0, 1, 2*len(m.msg) + 64} {
			dst := append(make([]byte, 0, len(before)+spare), before...)
			var got []byte
			var err error
			func() {
				defer s.caught("AppendRequest", &err)
				got, err = s.correlator.AppendRequest(dst, m.id, bytes.Clone(m.request))
			}()
			switch {
			case err != nil:
				s.find("AppendRequest refuses %v with something in dst: %w", m, err)
			case string(dst) != before:
				s.find("AppendRequest changes what dst held before: %q into %s", before, show(dst))
			case string(got) != before+string(m.msg):
				s.find("AppendRequest does not append to dst: %q and %s became %s", before, show(m.msg), show(got))
			case spare > 1 && &got[0] != &dst[0]:
				s.find("AppendRequest does not use dst's storage, with %d bytes to spare for %v", spare, m)
			}
		}
	}
}

// splitting checks that SplitReply depends on its argument alone, and returns a part of it.
func (s *correlatorSuite) splitting() {
	for i, m := range s.marked {
		other := s.marked[(i+len(s.marked)/2)%len(s.marked)] // of another request, if there are several
		id, reply, ok := s.split(m.msg)
		held := bytes.Clone(reply)
		if s.split(bytes.Clone(other.msg)); !bytes.Equal(reply, held) {
			s.find("SplitReply changes the reply %s that it returned before", show(held))
		}
		again, sameReply, sameOK := s.split(bytes.Clone(m.msg))
		if id != again || ok != sameOK || !bytes.Equal(held, sameReply) {
			s.find("SplitReply returns of the same message %d, %s, %v, and then %d, %s, %v", id, show(held), ok, again, show(sameReply), sameOK)
		}
	}
}

// roundTrip checks what SplitReply finds in marked requests, if it finds the right ids in any: one alone
// may be there by chance.
func (s *correlatorSuite) roundTrip() {
	tried, right := make(map[uint64]bool), make(map[uint64]bool)
	for _, m := range s.marked {
		tried[m.id] = true
		if id, _, ok := s.split(m.msg); ok && id == m.id {
			right[m.id] = true
		}
	}
	if len(right) < min(2, len(tried)) {
		return // replies have another form
	}
	whole := make(map[string]int) // by request, how often it came back as it was
	for _, m := range s.marked {
		id, reply, ok := s.split(m.msg)
		switch {
		case !ok:
			s.find("SplitReply finds no reply in %v, but in other requests", m)
		case id != m.id:
			s.find("SplitReply finds id %d in %v, but the right one in other requests", id, m)
		case bytes.Equal(reply, m.request):
			whole[string(m.request)]++
		}
	}
	for _, m := range s.marked {
		if whole[string(m.request)] < 2 {
			continue // by chance, or never
		}
		if _, reply, _ := s.split(m.msg); !bytes.Equal(reply, m.request) {
			s.find("SplitReply returns %s from %v, but what was given with other ids", show(reply), m)
		}
	}
}

// strangeMessages gives to SplitReply what is no reply, and pieces of what may be one.
func (s *correlatorSuite) strangeMessages() {
	for _, text := range []string{"", "\x00", "\xff", "\n", "{}", "[]", `{"id":`, `{"id":-1}`, `{"id":1e99}`, "HTTP/1.1 400 Bad Request\r\n\r\n", strings.Repeat("\x00", 64), strings.Repeat("\xff", 64), strings.Repeat("9", 64)} {
		s.split([]byte(text))
	}
	s.split(nil)
	for _, m := range s.marked {
		for _, at := range points(m.msg) {
			s.split(m.msg[:at:at])
		}
	}
}

// atOnce uses the Correlator from several goroutines.
func (s *correlatorSuite) atOnce() {
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for j := range 100 {
				m := s.marked[(i+j)%len(s.marked)]
				msg, err := s.append(nil, m.id, m.request)
				if err != nil || !bytes.Equal(msg, m.msg) {
					s.find("on four goroutines at once: AppendRequest makes %s of %v, want %s", outcome(msg, err), m, show(m.msg))
				}
				s.split(msg)
			}
		})
	}
	group.Wait()
}

// split calls SplitReply with a msg that it may only read.
func (s *correlatorSuite) split(msg []byte) (id uint64, reply []byte, ok bool) {
	before := bytes.Clone(msg)
	var err error
	func() {
		defer s.caught("SplitReply", &err)
		id, reply, ok = s.correlator.SplitReply(msg)
	}()
	switch {
	case !bytes.Equal(msg, before):
		s.find("SplitReply changes the message: %s into %s", show(before), show(msg))
	case ok && !bytes.Contains(msg, reply):
		s.find("SplitReply returns %s, which is no part of %s", show(reply), show(msg))
	}
	return id, reply, ok
}
