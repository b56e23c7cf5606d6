package tcpclienttest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestTestCorrelator_finds_nothing_in(t *testing.T) {
	long := bytes.Repeat([]byte("long "), 200)
	for _, test := range []struct {
		name       string
		correlator tcpclient.Correlator
		requests   [][]byte
	}{
		{"IDPrefix", tcpclient.IDPrefix{}, [][]byte{[]byte("hello"), nil, long}},
		{"IDField as in SMPP", tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12, Max: 0x7fffffff}, [][]byte{make([]byte, 16), long}},
		{"IDField as in Kafka", tcpclient.IDField{Offset: 4, Width: 4}, [][]byte{make([]byte, 8), long}},
		{"IDField as in Kafka, and a version that is an id, too", tcpclient.IDField{Offset: 4, Width: 4}, [][]byte{{0, 0, 0, 7, 0, 0, 0, 0}}},
		{"IDField as in DNS", tcpclient.IDField{Width: 2}, [][]byte{make([]byte, 12), long}},
		{"IDField, little-endian, of 8 bytes", tcpclient.IDField{Offset: 1, Width: 8, LittleEndian: true, ReplyOffset: 1}, [][]byte{make([]byte, 9), long}},
		{"IDField of one byte", tcpclient.IDField{Width: 1}, [][]byte{{0}, long}},
		{"IDField with one id", tcpclient.IDField{Width: 1, Max: 1}, [][]byte{{0}}},
		{"IDField whose offsets overlap", tcpclient.IDField{Offset: 2, Width: 4, ReplyOffset: 0}, [][]byte{make([]byte, 6), long}},
		{"one of JSON", jsonIDs{}, [][]byte{[]byte(`{"method":"a"}`), []byte(`{"method":"b","params":[1,2]}`)}},
		{"one whose MaxID is that of its pointer", &pointed{}, [][]byte{[]byte("hello"), long}},
		{"one whose RequestID is that of its pointer", &choosing{}, [][]byte{[]byte("hello"), long}},
		{"one whose ids the application may choose", chosen{}, [][]byte{[]byte("0007hello"), []byte("----hello")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.NoError(t, tcpclienttest.TestCorrelator(test.correlator, test.requests...))
			synctest.Test(t, func(t *testing.T) {
				require.NoError(t, tcpclienttest.TestCorrelator(test.correlator, test.requests[0]))
			})
		})
	}
}

func TestTestCorrelator_finds(t *testing.T) {
	var calls atomic.Uint64
	shared := make([]byte, 64)
	prefix := tcpclient.IDPrefix{}
	appends := func(f func(dst []byte, id uint64, request []byte) ([]byte, error)) tcpclient.Correlator {
		return funcCorrelator{appends: f, splits: prefix.SplitReply}
	}
	splits := func(f func(msg []byte) (uint64, []byte, bool)) tcpclient.Correlator {
		return funcCorrelator{appends: prefix.AppendRequest, splits: f}
	}
	for _, test := range []struct {
		bug        string
		correlator tcpclient.Correlator
		want       string // in the error
	}{
		{"a refused request", appends(func([]byte, uint64, []byte) ([]byte, error) { return nil, errors.New("no") }), `AppendRequest refuses "hello" with id 1: no`},
		{"a refused id", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			if id > 1<<20 {
				return dst, errors.New("too many")
			}
			return prefix.AppendRequest(dst, id, request)
		}), `AppendRequest refuses "hello" with id 1048577: too many`},
		{"an id that is cut off, without a MaxID", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			return prefix.AppendRequest(dst, id&0xffff, request)
		}), "AppendRequest makes the same message"},
		{"dst ignored", appends(func(_ []byte, id uint64, request []byte) ([]byte, error) {
			return prefix.AppendRequest(nil, id, request)
		}),
			`AppendRequest does not append to dst: "before" and "\x00`},
		{"dst overwritten", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			return prefix.AppendRequest(dst[:0], id, request)
		}), `AppendRequest changes what dst held before: "before" into "\x00`},
		{"dst's storage not used", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			return prefix.AppendRequest(bytes.Clone(dst), id, request)
		}), "AppendRequest does not use dst's storage"},
		{"a refusal of a dst that is not empty", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			if len(dst) > 0 {
				return dst, errors.New("not empty")
			}
			return prefix.AppendRequest(dst, id, request)
		}), "with something in dst: not empty"},
		{"a request written into", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			dst, err := prefix.AppendRequest(dst, id, request)
			clear(request)
			return dst, err
		}), `AppendRequest changes the request: "hello" into "\x00`},
		{"a request appended to", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			return append(dst, binary.BigEndian.AppendUint64(request, id)...), nil
		}), `AppendRequest writes after the end of the request "hello"`},
		{"a request returned", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			if len(dst) == 0 {
				return request, nil
			}
			return append(dst, request...), nil
		}), `AppendRequest returns memory of the request "hello"`},
		{"a panic of AppendRequest", appends(func([]byte, uint64, []byte) ([]byte, error) { panic("oops") }), "AppendRequest panics: oops"},
		{"messages that differ from call to call", appends(func(dst []byte, id uint64, request []byte) ([]byte, error) {
			return prefix.AppendRequest(dst, id, fmt.Append(nil, calls.Add(1)))
		}), "AppendRequest does not append to dst"},

		{"another byte order", splits(func(msg []byte) (uint64, []byte, bool) {
			if len(msg) < 8 {
				return 0, nil, false
			}
			return binary.LittleEndian.Uint64(msg), msg[8:], true
		}), `SplitReply finds id 72057594037927936 in "hello" with id 1, but the right one in other requests`},
		{"half an id", splits(func(msg []byte) (uint64, []byte, bool) {
			id, reply, ok := prefix.SplitReply(msg)
			return uint64(uint32(id)), reply, ok
		}), "but the right one in other requests"},
		{"a reply not seen", splits(func(msg []byte) (uint64, []byte, bool) {
			id, reply, ok := prefix.SplitReply(msg)
			return id, reply, ok && id < 1000
		}), `SplitReply finds no reply in "hello" with id 1023`},
		{"a request cut off with some ids", splits(func(msg []byte) (uint64, []byte, bool) {
			id, reply, ok := prefix.SplitReply(msg)
			if ok && id == 100 {
				return id, reply[:len(reply)/2], ok
			}
			return id, reply, ok
		}), `SplitReply returns "he" from "hello" with id 100`},
		{"a message written into", splits(func(msg []byte) (uint64, []byte, bool) {
			id, reply, ok := prefix.SplitReply(msg)
			clear(msg)
			return id, reply, ok
		}), "SplitReply changes the message"},
		{"a reply that was not in the message", splits(func(msg []byte) (uint64, []byte, bool) {
			id, _, ok := prefix.SplitReply(msg)
			return id, []byte("surprise"), ok
		}), `SplitReply returns "surprise", which is no part of`},
		{"memory for all replies", splits(func(msg []byte) (uint64, []byte, bool) {
			id, reply, ok := prefix.SplitReply(msg)
			return id, shared[:copy(shared, reply)], ok
		}), `SplitReply changes the reply "hello" that it returned before`},
		{"state of SplitReply", splits(func(msg []byte) (uint64, []byte, bool) {
			id, reply, ok := prefix.SplitReply(msg)
			return id + calls.Add(1)%3, reply, ok
		}), "SplitReply returns of the same message"},
		{"a panic on a short message", splits(func(msg []byte) (uint64, []byte, bool) { return binary.BigEndian.Uint64(msg), msg[8:], true }), "SplitReply panics: runtime error: index out of range"},

		{"a MaxID of another signature", narrowInt{}, "MaxID is a func() int, want func() uint64: it would not be called"},
		{"a MaxID of 0", narrow(func() uint64 { return 0 }), "MaxID is 0: there is no id"},
		{"a MaxID that changes", narrow(func() uint64 { return 1000 + calls.Add(1) }), "MaxID changes from 1"},
		{"a MaxID above what AppendRequest takes", tooWide{tcpclient.IDField{Width: 1}}, `AppendRequest refuses "hello" with id 256: invalid frame`},
		{"a MaxID of a pointer only", pointed{}, "MaxID is a method of *tcpclienttest_test.pointed: it would not be called; give a pointer"},
		{"a RequestID of a pointer only", choosing{}, "RequestID is a method of *tcpclienttest_test.choosing: it would not be called; give a pointer"},
		{"nil", nil, "the Correlator is nil"},
		{"a nil pointer", (*tcpclient.IDField)(nil), "the Correlator is nil"},
		{"a RequestID of another signature", identifiesAny{}, "RequestID is a func([]uint8) uint64, want func([]uint8) (uint64, bool): it would not be called"},
		{"a RequestID of 0", identifies(func([]byte) (uint64, bool) { return 0, true }), `RequestID of "hello" is 0, want 1 to`},
		{"a RequestID that changes", identifies(func([]byte) (uint64, bool) { return calls.Add(1), true }), `RequestID of "hello" is`},
		{"a RequestID that writes into the request", identifies(func(request []byte) (uint64, bool) { clear(request); return 5, true }), `RequestID changes the request: "hello" into`},
		{"a RequestID that panics on short requests", identifies(func(request []byte) (uint64, bool) { return uint64(request[2]), true }), "RequestID panics: runtime error: index out of range"},
	} {
		t.Run(test.bug, func(t *testing.T) {
			require.ErrorContains(t, tcpclienttest.TestCorrelator(test.correlator, []byte("hello"), []byte("some more")), test.want)
		})
	}

	t.Run("that there is nothing to test with", func(t *testing.T) {
		require.ErrorContains(t, tcpclienttest.TestCorrelator(prefix), "needs a request")
	})
}

type funcCorrelator struct {
	appends func(dst []byte, id uint64, request []byte) ([]byte, error)
	splits  func(msg []byte) (uint64, []byte, bool)
}

func (c funcCorrelator) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	return c.appends(dst, id, request)
}

func (c funcCorrelator) SplitReply(msg []byte) (uint64, []byte, bool) { return c.splits(msg) }

// narrowed is IDPrefix with a MaxID.
type narrowed struct {
	tcpclient.IDPrefix
	maxID func() uint64
}

func narrow(maxID func() uint64) narrowed { return narrowed{maxID: maxID} }

func (c narrowed) MaxID() uint64 { return c.maxID() }

type narrowInt struct{ tcpclient.IDPrefix }

func (narrowInt) MaxID() int { return 255 }

type tooWide struct{ tcpclient.IDField }

func (tooWide) MaxID() uint64 { return 1 << 16 }

type identified struct {
	tcpclient.IDPrefix
	requestID func(request []byte) (uint64, bool)
}

func identifies(requestID func(request []byte) (uint64, bool)) identified {
	return identified{requestID: requestID}
}

func (c identified) RequestID(request []byte) (id uint64, ok bool) { return c.requestID(request) }

// pointed is IDPrefix with a MaxID of its pointer, choosing with a RequestID.
type (
	pointed  struct{ tcpclient.IDPrefix }
	choosing struct{ tcpclient.IDPrefix }
)

func (*pointed) MaxID() uint64 { return 1000 }

func (*choosing) RequestID(request []byte) (id uint64, ok bool) { return 7, len(request) == 5 }

type identifiesAny struct{ tcpclient.IDPrefix }

func (identifiesAny) RequestID([]byte) uint64 { return 1 }

// jsonIDs puts a member "id" in front.
type jsonIDs struct{}

func (jsonIDs) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(request, []byte("{"))
	if !ok {
		return dst, errors.New("no object")
	}
	return append(fmt.Appendf(dst, `{"id":%d,`, id), rest...), nil
}

func (jsonIDs) SplitReply(msg []byte) (uint64, []byte, bool) {
	var head struct{ ID *uint64 }
	if json.Unmarshal(msg, &head) != nil || head.ID == nil {
		return 0, nil, false
	}
	return *head.ID, msg, true
}

// chosen has ids of four digits, which the application may write into the request.
type chosen struct{}

func (chosen) MaxID() uint64 { return 9999 }

func (chosen) RequestID(request []byte) (id uint64, ok bool) {
	if len(request) < 4 {
		return 0, false
	}
	for _, c := range request[:4] {
		if c < '0' || c > '9' {
			return 0, false
		}
		id = 10*id + uint64(c-'0')
	}
	return id, id > 0
}

func (chosen) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if len(request) < 4 {
		return dst, errors.New("no room for an id")
	}
	return append(fmt.Appendf(dst, "%04d", id), request[4:]...), nil
}

func (c chosen) SplitReply(msg []byte) (uint64, []byte, bool) {
	id, ok := c.RequestID(msg)
	return id, msg, ok && !strings.HasPrefix(string(msg), "0000")
}
