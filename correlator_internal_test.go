package tcpclient

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIDField(t *testing.T) {
	t.Run("MaxID is the largest id that fits", func(t *testing.T) {
		for width, want := range map[int]uint64{1: 1<<8 - 1, 2: 1<<16 - 1, 3: 1<<24 - 1, 4: 1<<32 - 1, 7: 1<<56 - 1, 8: math.MaxUint64} {
			require.Equal(t, want, IDField{Width: width}.MaxID(), "Width %d", width)
		}
	})

	t.Run("MaxID is Max where the protocol allows no larger id", func(t *testing.T) {
		f := IDField{Width: 4, Max: 0x7fffffff}
		require.EqualValues(t, 0x7fffffff, f.MaxID())
		_, err := f.AppendRequest(nil, 0x80000000, []byte("????"))
		require.ErrorIs(t, err, ErrInvalidFrame)
		k := newTestCalls(IDField{Width: 1, Max: 3})
		for range 3 {
			mustEnter(t, k)
		}
		requireFull(t, k)
	})

	t.Run("Max that the field does not hold is refused", func(t *testing.T) {
		for _, f := range []IDField{{Width: 1, Max: 256}, {Width: 2, Max: 1 << 16}, {Width: 7, Max: math.MaxUint64}} {
			require.ErrorContains(t, validateCorrelator(f), "Max", "%+v", f)
		}
		for _, f := range []IDField{{Width: 1, Max: 255}, {Width: 8, Max: math.MaxUint64}} {
			require.NoError(t, validateCorrelator(f))
		}
	})

	t.Run("puts the id where the protocol has it", func(t *testing.T) {
		for _, test := range []struct {
			name          string
			f             IDField
			id            uint64
			request, want string
		}{
			{"SMPP", IDField{Offset: 12, Width: 4, ReplyOffset: 12}, 0x01020304, "lenncmd.stat????body", "lenncmd.stat\x01\x02\x03\x04body"},
			{"Kafka", IDField{Offset: 4, Width: 4}, 7, "kkvv????rest", "kkvv\x00\x00\x00\x07rest"},
			{"Modbus, DNS", IDField{Width: 2}, 0xabcd, "??rest", "\xab\xcdrest"},
			{"little-endian", IDField{Offset: 1, Width: 3, LittleEndian: true}, 0x010203, "x???y", "x\x03\x02\x01y"},
			{"one byte at the end", IDField{Offset: 2, Width: 1}, 255, "ab?", "ab\xff"},
			{"eight bytes", IDField{Width: 8}, math.MaxUint64 - 1, "????????", "\xff\xff\xff\xff\xff\xff\xff\xfe"},
		} {
			request := []byte(test.request)
			got, err := test.f.AppendRequest([]byte("before"), test.id, request)
			require.NoError(t, err, test.name)
			require.Equal(t, "before"+test.want, string(got), test.name)
			require.Equal(t, test.request, string(request), "%s: the caller's request was changed", test.name)
		}
	})

	t.Run("finds it in the reply, which is the whole message", func(t *testing.T) {
		for _, test := range []struct {
			f   IDField
			msg string
			id  uint64
			ok  bool
		}{
			{IDField{Offset: 4, Width: 4, ReplyOffset: 0}, "\x00\x00\x01\x00rest", 256, true},
			{IDField{Width: 2, ReplyOffset: 2}, "ab\x01\x02", 0x102, true},
			{IDField{Width: 2, ReplyOffset: 2}, "ab\x01", 0, false},
			{IDField{Width: 2, ReplyOffset: 2, LittleEndian: true}, "ab\x01\x02", 0x201, true},
			{IDField{Width: 8}, "\xff\xff\xff\xff\xff\xff\xff\xff", math.MaxUint64, true},
			{IDField{Width: 8}, "", 0, false},
			{IDField{Width: 2, ReplyOffset: math.MaxInt}, "abcd", 0, false},
		} {
			id, reply, ok := test.f.SplitReply([]byte(test.msg))
			require.Equal(t, test.ok, ok, "%+v", test.f)
			require.Equal(t, test.id, id, "%+v", test.f)
			if ok {
				require.Equal(t, test.msg, string(reply), "%+v", test.f)
			}
		}
	})

	t.Run("refuses what has no room for the id", func(t *testing.T) {
		for _, f := range []IDField{{Width: 2, Offset: 3}, {Width: 8}, {Width: 1, Offset: 4}, {Width: 1, Offset: math.MaxInt}} {
			got, err := f.AppendRequest([]byte("before"), 1, []byte("four"))
			require.ErrorIs(t, err, ErrInvalidFrame, "%+v", f)
			require.Equal(t, "before", string(got))
		}
	})

	// The id comes from somebody who does not know how much fits: a Correlator around an
	// IDField that has forgotten MaxID. Cut off, it would be the id of another call.
	t.Run("refuses an id that does not fit", func(t *testing.T) {
		_, err := IDField{Width: 1}.AppendRequest(nil, 256, []byte("?x"))
		require.Error(t, err)
	})
}

// signed has a MaxID that is not IDLimiter's.
type signed struct{ IDPrefix }

func (signed) MaxID() int { return 255 }

func TestValidateCorrelator(t *testing.T) {
	t.Run("refuses a method MaxID of another signature, and names both", func(t *testing.T) {
		for _, k := range []Correlator{signed{}, &signed{}} {
			_, err := (&Dialer{Correlator: k}).Dial(t.Context(), "tcp", "127.0.0.1:1")
			require.ErrorContains(t, err, "signed.MaxID is a func() int: want func() uint64")
			require.Equal(t, ClassPermanent, Classify(err))
		}
	})

	t.Run("refuses a nil pointer", func(t *testing.T) {
		_, err := (&Dialer{Correlator: (*IDField)(nil)}).Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "*tcpclient.IDField is nil")
		require.Equal(t, ClassPermanent, Classify(err))
	})

	t.Run("takes one with the right method, and one without", func(t *testing.T) {
		for _, k := range []Correlator{nil, IDPrefix{}, &IDField{Width: 2}, narrow{max: 3}} {
			require.NoError(t, validateCorrelator(k))
		}
	})
}

var _ IDLimiter = IDField{}

// chosen is narrow, whose requests begin with the id that they want; "-" has the library choose.
type chosen struct{ narrow }

func (chosen) RequestID(request []byte) (id uint64, ok bool) {
	if request[0] == '-' {
		return 0, false
	}
	return uint64(request[0] - '0'), true
}

var _ RequestIdentifier = chosen{}

// signedRequest has a RequestID that is not RequestIdentifier's.
type signedRequest struct{ IDPrefix }

func (signedRequest) RequestID([]byte) int { return 1 }

func TestRequestIdentifier(t *testing.T) {
	enter := func(k *calls, request string) (*call, error) {
		id, err := k.chosenID([]byte(request))
		if err != nil {
			return nil, err
		}
		return k.enter(ticket{batch: 1}, id, false)
	}
	requireRefused := func(t *testing.T, k *calls, request, why string) {
		t.Helper()
		_, err := enter(k, request)
		require.ErrorContains(t, err, why)
		require.Equal(t, ClassPermanent, Classify(err))
	}

	t.Run("chooses the id, and the library's ids skip those in flight", func(t *testing.T) { // B5
		k := newTestCalls(chosen{narrow{max: 5}})
		var ids []uint64
		var calls []*call
		for _, request := range []string{"2", "-", "3", "-", "-"} {
			c, err := enter(k, request)
			require.NoError(t, err)
			ids, calls = append(ids, c.id), append(calls, c)
		}
		require.Equal(t, []uint64{2, 1, 3, 4, 5}, ids)
		requireFull(t, k)
		for i, c := range calls {
			require.True(t, answer(k, replyTo(ids[i])))
			require.Equal(t, "reply", resultOf(k, c))
		}
	})

	t.Run("may not choose an id in flight, given up or not, until it was answered", func(t *testing.T) { // B5
		k := newTestCalls(chosen{narrow{max: 2}})
		c, err := enter(k, "2")
		require.NoError(t, err)
		requireRefused(t, k, "2", "request id 2 is in flight")
		own, err := enter(k, "-")
		require.NoError(t, err)
		requireRefused(t, k, "1", "request id 1 is in flight")
		k.abandon(c)
		requireRefused(t, k, "2", "request id 2 is in flight") // also where there is no room
		require.True(t, answer(k, replyTo(2)), "late")
		k.retract(own)
		_, err = enter(k, "1")
		require.NoError(t, err, "it was taken back")
		_, err = enter(k, "2")
		require.NoError(t, err, "its late reply has come")
	})

	t.Run("may not choose 0, nor an id above MaxID", func(t *testing.T) {
		k := newTestCalls(chosen{narrow{max: 8}})
		requireRefused(t, k, "0", "request id 0 of tcpclient.chosen.RequestID: want 1 to 8")
		requireRefused(t, k, "9", "request id 9 of tcpclient.chosen.RequestID: want 1 to 8")
	})

	t.Run("a second reply to a chosen id is late only if the library has issued that, too", func(t *testing.T) {
		k := newTestCalls(chosen{narrow{max: 9}})
		for _, request := range []string{"3", "-"} {
			c, err := enter(k, request)
			require.NoError(t, err)
			require.True(t, answer(k, replyTo(c.id)))
		}
		require.False(t, answer(k, replyTo(3)), "for Receive")
		require.True(t, answer(k, replyTo(1)), "late")
	})

	t.Run("of another signature is refused by Dial, which names both", func(t *testing.T) {
		_, err := (&Dialer{Correlator: signedRequest{}}).Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "signedRequest.RequestID is a func([]uint8) int: want func([]uint8) (uint64, bool)")
		require.Equal(t, ClassPermanent, Classify(err))
	})
}
