package cookbook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// An iso8583 takes the STAN, field 11, for the id: the application has journaled it.
type iso8583 struct {
	STAN func(msg []byte) (stan uint64, ok bool) // by your ISO 8583 package
}

func (iso8583) MaxID() uint64 { return 999_999 }

func (c iso8583) RequestID(request []byte) (id uint64, ok bool) { return c.STAN(request) }

func (c iso8583) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if stan, ok := c.STAN(request); !ok || stan != id {
		return dst, errors.New("request without a STAN")
	}
	return append(dst, request...), nil
}

// SplitReply tells answers (0110, 0810) from requests of the host (0800) by the type's third digit.
func (c iso8583) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	id, ok = c.STAN(msg)
	return id, msg, ok && len(msg) > 4 && msg[2]%2 == 1
}

func payments(stan func(msg []byte) (uint64, bool), echo func() []byte, answer func(msg []byte) ([]byte, bool), late func(reply []byte)) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Width: 2}, // or one of the others above
		Correlator:   iso8583{stan},
		ReplyTimeout: 60 * time.Second,
		Reconnect:    &tcpclient.Backoff{Min: time.Second},
		Heartbeat: tcpclient.Heartbeat{
			Interval: time.Minute,
			Timeout:  100 * time.Second,
			Ping:     echo, // an 0800 with code 301 in field 70 and a STAN of its own
			IsPong: func(msg []byte) bool {
				return bytes.HasPrefix(msg, []byte("0810")) && bytes.HasSuffix(msg, []byte("301"))
			},
			Answer: answer, // the host's own 0800
		},
		Trace: &tcpclient.Trace{LateReply: late}, // an approval after the reversal: journal it
	}
}

func TestPayments(t *testing.T) {
	const network = "80200000000000000400000000000000" // fields 11 and 70
	stan := func(msg []byte) (uint64, bool) {
		if len(msg) < 42 {
			return 0, false
		}
		id, err := strconv.ParseUint(string(msg[36:42]), 10, 64)
		return id, err == nil
	}
	frame := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	var stans atomic.Uint32
	stans.Store(4710)
	echo := func() []byte { return fmt.Appendf(nil, "0800%s%06d301", network, stans.Add(1)) }
	answer := func(msg []byte) ([]byte, bool) {
		if !bytes.HasPrefix(msg, []byte("0800")) {
			return nil, false
		}
		return append([]byte("0810"), msg[4:]...), true
	}
	d := payments(stan, echo, answer, nil)
	talk(t, d, []exchange{
		{want: frame("0800" + network + "004711001"), say: frame("0800"+network+"004711301") + frame("0810"+network+"004711001")},
		{want: frame("0810" + network + "004711301")},
		{want: frame("0800" + network + "004712301"), say: frame("0810" + network + "004712301")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "0810"+network+"004711001", call(t, ctx, c, fmt.Sprintf("0800%s%06d001", network, stans.Add(1)))) // sign-on
		_, err := c.Call(ctx, []byte("0800"))
		require.ErrorContains(t, err, "without a STAN")
		idle(d)
	})
}

// iso8583Digits is a length of four ASCII digits, which the message includes.
var iso8583Digits = tcpclient.Sized{Size: func(p []byte) (int, error) {
	if len(p) < 4 {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(p[:4]), 10, 16) // takes no sign
	return 4 + int(n), err
}}

// An hl7 takes the message control id for the id. The application chooses decimal ones.
type hl7 struct{}

func (hl7) MaxID() uint64 { return 999_999_999_999 }

// field returns the number in a field of the first segment of that name.
func (hl7) field(msg []byte, segment string, n int) (id uint64, ok bool) {
	for line := range bytes.SplitSeq(msg, []byte("\r")) {
		if fields := bytes.Split(line, []byte("|")); string(fields[0]) == segment && len(fields) > n {
			id, err := strconv.ParseUint(string(fields[n]), 10, 64)
			return id, err == nil
		}
	}
	return 0, false
}

func (c hl7) RequestID(request []byte) (id uint64, ok bool) { return c.field(request, "MSH", 9) } // MSH-10

func (c hl7) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if _, ok := c.RequestID(request); !ok {
		return dst, errors.New("MSH-10 is no number")
	}
	return append(dst, request...), nil
}

func (c hl7) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	id, ok = c.field(msg, "MSA", 2)
	return id, msg, ok
}

func mllp() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.Delimiter{Start: []byte("\x0b"), Delim: []byte("\x1c\r"), MaxSize: 16 << 20},
		Correlator:   hl7{},
		More:         func(ack []byte) bool { return bytes.Contains(ack, []byte("\rMSA|CA|")) }, // AA, AE or AR follows
		MaxInFlight:  1,                                                                         // most engines take one at a time
		ReplyTimeout: 30 * time.Second,                                                          // some store the message first
		Reconnect:    &tcpclient.Backoff{Min: time.Second},
	}
}

func TestMLLP(t *testing.T) {
	admit := func(id string) string {
		return "MSH|^~\\&|LAB|H|EPR|H|20260101||ADT^A01|" + id + "|P|2.5\rPID|1||42\r"
	}
	ack := func(id, code string) string {
		return "MSH|^~\\&|EPR|H|LAB|H|20260101||ACK|A1|P|2.5\rMSA|" + code + "|" + id + "\r"
	}
	frame := func(s string) string { return "\x0b" + s + "\x1c\r" }
	talk(t, mllp(), []exchange{
		{want: frame(admit("1")), say: frame(ack("1", "AA")) + frame(ack("1", "AA"))},
		{want: frame(admit("2")), say: frame(ack("2", "CA")) + frame(ack("2", "AE"))},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, ack("1", "AA"), call(t, ctx, c, admit("1")))
		require.Equal(t, ack("1", "AA"), next(t, ctx, c), "acknowledged twice")
		require.Equal(t, ack("2", "CA")+ack("2", "AE"), call(t, ctx, c, admit("2")))
	})
}

func smpp(systemID, password string) *tcpclient.Dialer {
	const enquireLink, bindTransceiver, response = 0x15, 0x09, 1 << 31
	command := func(msg []byte) uint32 { return binary.BigEndian.Uint32(msg[4:]) }
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Adjust: -4, KeepHeader: true, MaxSize: 64 << 10},
		Correlator:   tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12, Max: 0x7ffffffe},
		IsPush:       func(msg []byte) bool { return command(msg)&response == 0 }, // deliver_sm
		MaxInFlight:  10,                                                          // the window that your contract says
		ReplyTimeout: 30 * time.Second,
		Reconnect:    &tcpclient.Backoff{Min: time.Second},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     func() []byte { return smppPDU(enquireLink, 0x7fffffff, "") },
			IsPong:   func(msg []byte) bool { return command(msg) == enquireLink|response },
			Answer:   func(msg []byte) ([]byte, bool) { return smppAlive(msg), command(msg) == enquireLink },
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			bind := systemID + "\x00" + password + "\x00\x00\x34\x00\x00\x00" // version 3.4
			if err := conn.Send(ctx, smppPDU(bindTransceiver, 0x7fffffff, bind)); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && binary.BigEndian.Uint32(reply[8:]) != 0 {
				err = fmt.Errorf("bind refused: status % x", reply[8:12]) // Permanent for 0e, 0f
			}
			return err
		},
	}
}

// smppAlive answers an enquire_link.
func smppAlive(msg []byte) []byte {
	return smppPDU(0x80000015, binary.BigEndian.Uint32(msg[12:]), "")
}

// smppPDU makes a PDU. Its length is filled in, and the sequence number of a Call.
func smppPDU(command, sequence uint32, body string) []byte {
	pdu := binary.BigEndian.AppendUint32(make([]byte, 4, 16+len(body)), command)
	pdu = binary.BigEndian.AppendUint32(append(pdu, 0, 0, 0, 0), sequence)
	return append(pdu, body...)
}

func TestSMPP(t *testing.T) {
	d := smpp("me", "secret")
	deliver := hx("00000012 00000005 00000000 00000001") + "hi"
	talk(t, d, []exchange{
		{want: hx("0000001f 00000009 00000000 7fffffff") + "me\x00secret\x00\x00" + hx("34 00 00 00"), say: hx("00000015 80000009 00000000 7fffffff") + "smsc\x00"},
		{want: hx("00000013 00000004 00000000 00000001") + "sms", say: deliver + hx("00000013 80000004 00000000 00000001") + "42\x00"},
		{want: hx("00000011 80000005 00000000 00000001 00"), say: hx("00000010 00000015 00000000 00000002")},
		{want: hx("00000010 80000015 00000000 00000002")},
		{want: hx("00000010 00000015 00000000 7fffffff"), say: hx("00000010 80000015 00000000 7fffffff")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "42\x00", call(t, ctx, c, string(smppPDU(4, 0, "sms")))[16:]) // submit_sm
		require.Equal(t, deliver, next(t, ctx, c), "with an id that is also ours")
		require.NoError(t, c.Send(ctx, smppPDU(0x80000005, 1, "\x00")))
		idle(d)
	})
}

// fixSize is that of a message: BodyLength counts from its own end to the CheckSum of 7 bytes.
func fixSize(p []byte) (int, error) {
	if n := min(len(p), 5); string(p[:n]) != "8=FIX"[:n] {
		return 0, fmt.Errorf("no BeginString: %q", p[:n])
	}
	fields := bytes.SplitN(p[:min(len(p), 40)], []byte("\x01"), 3)
	if len(fields) < 3 {
		if len(p) >= 40 {
			return 0, errors.New("no BodyLength")
		}
		return 0, nil // more bytes have to come
	}
	n, err := strconv.Atoi(strings.TrimPrefix(string(fields[1]), "9="))
	if err != nil || n < 0 || n > 1<<30 {
		return 0, fmt.Errorf("no BodyLength: %q", fields[1])
	}
	return len(fields[0]) + 1 + len(fields[1]) + 1 + n + 7, nil
}

// A fixSession is a Framer that gives messages their numbers under the Client's write lock, in the
// order in which they leave. It is for one Client.
type fixSession struct {
	tcpclient.Sized
	sender, target string
	last           *atomic.Uint64 // the last MsgSeqNum that was used: keep it
}

// WriteFrame writes a message that begins with its type and has neither header nor CheckSum.
func (s fixSession) WriteFrame(w *bufio.Writer, msg []byte) error {
	kind, fields, _ := bytes.Cut(msg, []byte("\x01"))
	body := fmt.Appendf(nil, "%s\x0149=%s\x0156=%s\x0134=%d\x0152=%s\x01%s", kind, s.sender, s.target, s.last.Add(1),
		time.Now().UTC().Format("20060102-15:04:05.000"), fields)
	frame, sum := fmt.Appendf(nil, "8=FIX.4.4\x019=%d\x01%s", len(body), body), byte(0)
	for _, b := range frame {
		sum += b
	}
	_, err := fmt.Fprintf(w, "%s10=%03d\x01", frame, sum)
	return err
}

func fix(sender, target string, last *atomic.Uint64) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: fixSession{tcpclient.Sized{Size: fixSize}, sender, target, last},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second, // as HeartBtInt, 108
			Timeout:  75 * time.Second,
			Ping:     func() []byte { return []byte("35=0\x01") },
			IsPong:   func(msg []byte) bool { return fixField(msg, "35") == "0" },
			Answer: func(msg []byte) ([]byte, bool) { // to a TestRequest
				return []byte("35=0\x01112=" + fixField(msg, "112") + "\x01"), fixField(msg, "35") == "1"
			},
		},
		Reconnect: &tcpclient.Backoff{Min: time.Second},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, []byte("35=A\x0198=0\x01108=30\x01")); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && fixField(reply, "35") != "A" {
				err = fmt.Errorf("no Logon: %q", reply)
			}
			return err
		},
	}
}

func fixField(msg []byte, tag string) string {
	_, after, _ := strings.Cut(string(msg), "\x01"+tag+"=")
	value, _, _ := strings.Cut(after, "\x01")
	return value
}

func TestFIX(t *testing.T) {
	message := func(s string) string { // as a server makes it, by another way
		s = strings.ReplaceAll(s, "|", "\x01")
		sum := 0
		for i := range len(s) {
			sum += int(s[i])
		}
		return fmt.Sprintf("%s10=%03d\x01", s, sum%256)
	}
	var last atomic.Uint64
	d := fix("SERVER", "CLIENT", &last)
	logon := message("8=FIX.4.2|9=65|35=A|49=SERVER|56=CLIENT|34=177|52=20090107-18:15:16|98=0|108=30|")
	require.True(t, strings.HasSuffix(logon, "10=062\x01"), "the checksum of the example")
	report := message("8=FIX.4.4|9=35|35=8|49=CLIENT|56=SERVER|34=2|39=0|")
	test := message("8=FIX.4.4|9=40|35=1|49=CLIENT|56=SERVER|34=3|112=hello|")
	talk(t, d, []exchange{
		{want: message("8=FIX.4.4|9=67|35=A|49=SERVER|56=CLIENT|34=1|52=20000101-00:00:00.000|98=0|108=30|"), say: logon},
		{want: message("8=FIX.4.4|9=60|35=D|49=SERVER|56=CLIENT|34=2|52=20000101-00:00:00.000|11=7|"), say: report + test},
		{want: message("8=FIX.4.4|9=65|35=0|49=SERVER|56=CLIENT|34=3|52=20000101-00:00:00.000|112=hello|")},
		{want: message("8=FIX.4.4|9=55|35=0|49=SERVER|56=CLIENT|34=4|52=20000101-00:00:30.000|")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.NoError(t, c.Send(ctx, []byte("35=D\x0111=7\x01")))
		require.Equal(t, report, next(t, ctx, c))
		idle(d)
	})
}

func diameter(cer, dwr []byte, dwa func(hopByHop, endToEnd []byte) []byte) *tcpclient.Dialer {
	const watchdog, request = "\x00\x01\x18", 0x80 // 280, bit R
	is := func(msg []byte, flags byte) bool { return string(msg[5:8]) == watchdog && msg[4]&request == flags }
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Offset: 1, Width: 3, Adjust: -4, KeepHeader: true},
		Correlator:   tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12}, // hop-by-hop
		IsPush:       func(msg []byte) bool { return msg[4]&request != 0 },     // the peer's own requests
		ReplyTimeout: 10 * time.Second,
		Reconnect:    &tcpclient.Backoff{Min: time.Second, Max: 30 * time.Second}, // Tc
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second, // Tw
			Ping:     func() []byte { return dwr },
			IsPong:   func(msg []byte) bool { return is(msg, 0) },
			Answer:   func(msg []byte) ([]byte, bool) { return dwa(msg[12:16], msg[16:20]), is(msg, request) },
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, cer); err != nil {
				return err
			}
			cea, err := conn.Receive(ctx)
			if err == nil && !bytes.Contains(cea, []byte("\x00\x00\x01\x0c\x40\x00\x00\x0c\x00\x00\x07\xd1")) {
				err = fmt.Errorf("no Result-Code 2001: % x", cea)
			}
			return err
		},
	}
}

func TestDiameter(t *testing.T) {
	header := func(size, flags, code, hop string) string {
		return hx("01" + size + flags + code + "00000000" + hop + "00000009")
	}
	success := hx("0000010c 40 00000c 000007d1")
	dwa := func(hop, end []byte) []byte {
		return append([]byte(hx("01 000000 00 000118 00000000")), append(hop, end...)...)
	}
	d := diameter([]byte(header("000014", "80", "000101", "00000000")), []byte(header("000014", "80", "000118", "00000000")), dwa)
	asr := header("000014", "c0", "000112", "00000001") // Abort-Session of the peer's
	talk(t, d, []exchange{
		{want: header("000014", "80", "000101", "00000000"), say: header("000020", "00", "000101", "00000000") + success},
		{want: header("000014", "c0", "000110", "00000001"), say: asr + header("000020", "40", "000110", "00000001") + success},
		{say: header("000014", "80", "000118", "00000042")},
		{want: header("000014", "00", "000118", "00000042")},
		{want: header("000014", "80", "000118", "00000000"), say: header("000020", "00", "000118", "00000000") + success},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, success, call(t, ctx, c, header("000000", "c0", "000110", "00000000"))[20:]) // Credit-Control
		require.Equal(t, asr, next(t, ctx, c))
		idle(d)
	})
}

func dns() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Width: 2},
		Correlator:   tcpclient.IDField{Width: 2}, // answers may come in any order: RFC 7766
		ReplyTimeout: 5 * time.Second,
		Reconnect:    &tcpclient.Backoff{OnDemand: true}, // servers close connections that are idle
	}
}

// lookup asks for a record. Type 1 is A, 28 is AAAA.
func lookup(ctx context.Context, c *tcpclient.Client, name string, kind byte) (answer []byte, err error) {
	query := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // the id is filled in; recursion desired
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	answer, err = c.Call(ctx, append(query, 0, 0, kind, 0, 1))
	if err == nil && answer[3]&15 != 0 {
		err = fmt.Errorf("dns: rcode %d", answer[3]&15)
	}
	return answer, err
}

func TestDNS(t *testing.T) {
	question := "\x01a\x04test" + hx("00 0001 0001")
	talk(t, dns(), []exchange{
		{want: hx("0018 0001 0100 0001 0000 0000 0000") + question, say: hx("0028 0001 8180 0001 0001 0000 0000") + question + hx("c00c 0001 0001 00000e10 0004 c000024e")},
		{want: hx("0018 0002 0100 0001 0000 0000 0000") + "\x01b\x04test" + hx("00 001c 0001"), say: hx("0018 0002 8183 0001 0000 0000 0000") + "\x01b\x04test" + hx("00 001c 0001")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		answer, err := lookup(ctx, c, "a.test.", 1)
		require.NoError(t, err)
		require.True(t, bytes.HasSuffix(answer, []byte{192, 0, 2, 78}))
		_, err = lookup(ctx, c, "b.test", 28)
		require.ErrorContains(t, err, "rcode 3")
	})
}

// berSize is that of a value of ASN.1 in BER, with a tag of one byte.
func berSize(p []byte) (int, error) {
	switch {
	case len(p) < 2:
		return 0, nil // more bytes have to come
	case p[1] < 0x80:
		return 2 + int(p[1]), nil
	case p[1] == 0x80 || p[1] > 0x84:
		return 0, fmt.Errorf("length % x", p[:2])
	}
	n, size := 2+int(p[1]&15), 0
	if len(p) < n {
		return 0, nil
	}
	for _, b := range p[2:n] {
		size = size<<8 | int(b)
	}
	return max(n+size, n), nil
}

func ber(tag byte, value ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{tag, 0x84}, uint32(len(value))), value...)
}

// An ldap wraps an operation, of a request or a reply, in a message with an id.
type ldap struct{}

func (ldap) MaxID() uint64 { return 0x7ffffffe }

func (ldap) AppendRequest(dst []byte, id uint64, operation []byte) ([]byte, error) {
	message := binary.BigEndian.AppendUint32([]byte{2, 4}, uint32(id))
	return append(dst, ber(0x30, append(message, operation...)...)...), nil
}

func (ldap) SplitReply(msg []byte) (id uint64, operation []byte, ok bool) {
	at := 2 // the id is behind the tag and the length of the sequence
	if msg[1] >= 0x80 {
		at += int(msg[1] & 15)
	}
	if len(msg) < at+2 || msg[at] != 2 || len(msg) < at+2+int(msg[at+1]) {
		return 0, nil, false
	}
	digits, operation := msg[at+2:at+2+int(msg[at+1])], msg[at+2+int(msg[at+1]):]
	for _, b := range digits {
		id = id<<8 | uint64(b)
	}
	return id, operation, true // id 0: a notice of disconnection, for Receive
}

func directory(user, password string) *tcpclient.Dialer {
	const entry, reference, intermediate, ping = 0x64, 0x73, 0x79, 0x7fffffff
	bind := append(ber(0x04, []byte(user)...), ber(0x80, []byte(password)...)...)
	whoAmI := ber(0x77, ber(0x80, []byte("1.3.6.1.4.1.4203.1.11.3")...)...)
	return &tcpclient.Dialer{
		Framer:       tcpclient.Sized{Size: berSize},
		Correlator:   ldap{},
		More:         func(op []byte) bool { return op[0] == entry || op[0] == reference || op[0] == intermediate },
		ReplyTimeout: time.Minute,
		Reconnect:    &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: time.Minute,
			Ping:     func() []byte { msg, _ := ldap{}.AppendRequest(nil, ping, whoAmI); return msg },
			IsPong:   func(msg []byte) bool { id, _, ok := ldap{}.SplitReply(msg); return ok && id == ping },
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			request, _ := ldap{}.AppendRequest(nil, ping, ber(0x60, append([]byte{2, 1, 3}, bind...)...))
			if err := conn.Send(ctx, request); err != nil {
				return err
			}
			msg, err := conn.Receive(ctx)
			if err == nil && !bytes.Contains(msg, []byte{0x0a, 1, 0}) { // resultCode success
				err = fmt.Errorf("bind refused: % x", msg)
			}
			return err
		},
	}
}

// search yields the entries that an operation SearchRequest finds.
func search(ctx context.Context, c *tcpclient.Client, request []byte, entry func(op []byte)) error {
	for op, err := range c.Replies(ctx, request) {
		switch {
		case err != nil:
			return err
		case op[0] == 0x64:
			entry(op)
		case op[0] == 0x65 && !bytes.Contains(op, []byte{0x0a, 1, 0}):
			return fmt.Errorf("ldap: % x", op)
		}
	}
	return nil
}

func TestLDAP(t *testing.T) {
	d := directory("cn=me", "pw")
	message := func(size, id, operation string) string { return hx("30 84 000000"+size+" 02 04 "+id) + operation }
	bind := hx("60 84 00000016 02 01 03 04 84 00000005") + "cn=me" + hx("80 84 00000002") + "pw"
	whoAmI := hx("77 84 0000001d 80 84 00000017") + "1.3.6.1.4.1.4203.1.11.3"
	entry := hx("64 09 04 05") + "cn=me" + hx("30 00")
	talk(t, d, []exchange{
		{want: message("22", "7fffffff", bind), say: hx("30 0f 02 04 7fffffff 61 07 0a 01 00 04 00 04 00")},
		{want: message("08", "00000001", "\x63\x00"), say: hx("30 0e 02 01 01") + entry + hx("30 0c 02 01 01 65 07 0a 01 00 04 00 04 00")},
		{want: message("29", "7fffffff", whoAmI), say: hx("30 0f 02 04 7fffffff 78 07 0a 01 00 04 00 04 00")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		var found []string
		require.NoError(t, search(ctx, c, []byte("\x63\x00"), func(op []byte) { found = append(found, string(op)) }))
		require.Equal(t, []string{entry}, found)
		idle(d)
	})
}

func smtp(config *tls.Config, name string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.Lines{CRLF: true},
		More:         func(line []byte) bool { return len(line) > 3 && line[3] == '-' },
		ReplyTimeout: 5 * time.Minute, // RFC 5321, section 4.5.3.2
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			err := smtpReply(ctx, conn, "220")
			for _, step := range [][2]string{{"EHLO " + name, "250"}, {"STARTTLS", "220"}, {"EHLO " + name, "250"}} {
				if err == nil {
					err = conn.Send(ctx, []byte(step[0]))
				}
				if err == nil {
					err = smtpReply(ctx, conn, step[1])
				}
				if err == nil && step[0] == "STARTTLS" {
					err = conn.StartTLS(ctx, config)
				}
			}
			return err
		},
	}
}

// smtpReply receives the lines of a reply.
func smtpReply(ctx context.Context, conn *tcpclient.Conn, code string) error {
	for {
		line, err := conn.Receive(ctx)
		switch {
		case err != nil:
			return err
		case !bytes.HasPrefix(line, []byte(code)):
			return fmt.Errorf("smtp: %q", line)
		case len(line) == 3 || line[3] != '-':
			return nil
		}
	}
}

// sendMail sends one mail, whose lines have no line ends.
func sendMail(ctx context.Context, c *tcpclient.Client, from, to string, lines []string) error {
	session, err := c.Session()
	if err != nil {
		return err
	}
	do := func(command, code string) error {
		reply, err := session.Call(ctx, []byte(command))
		if err == nil && !bytes.HasPrefix(reply, []byte(code)) {
			err = fmt.Errorf("%s: %s", command, reply)
		}
		return err
	}
	for _, step := range [][2]string{{"MAIL FROM:<" + from + ">", "250"}, {"RCPT TO:<" + to + ">", "250"}, {"DATA", "354"}} {
		if err := do(step[0], step[1]); err != nil {
			return err
		}
	}
	for _, line := range lines {
		if strings.HasPrefix(line, ".") {
			line = "." + line
		}
		if err := session.Write(ctx, []byte(line)); err != nil {
			return err
		}
	}
	return do(".", "250")
}

func TestSMTP(t *testing.T) {
	server, client := tcpclienttest.NewTLSConfig()
	talk(t, smtp(client, "me.test"), []exchange{
		{say: "220-mx.example.com\r\n220 ready\r\n"},
		{want: "EHLO me.test\r\n", say: "250-mx.example.com\r\n250 STARTTLS\r\n"},
		{want: "STARTTLS\r\n", say: "220 go ahead\r\n", tls: server},
		{want: "EHLO me.test\r\n", say: "250-mx.example.com\r\n250 8BITMIME\r\n"},
		{want: "MAIL FROM:<a@me.test>\r\n", say: "250 ok\r\n"},
		{want: "RCPT TO:<b@example.com>\r\n", say: "250-ok\r\n250 really\r\n"},
		{want: "DATA\r\n", say: "354 go\r\n"},
		{want: "Subject: hi\r\n\r\n..dot\r\n.\r\n", say: "250 queued\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.NoError(t, sendMail(ctx, c, "a@me.test", "b@example.com", []string{"Subject: hi", "", ".dot"}))
	})
}

func syslog() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:      tcpclient.OctetCounting(), // or Lines{}, for servers that take no other
		FlushDelay:  100 * time.Millisecond,
		WriteBuffer: 256 << 10,
		Reconnect:   &tcpclient.Backoff{FirstDial: true},
	}
}

// logTo writes a message of RFC 5424 with facility user.
func logTo(ctx context.Context, c *tcpclient.Client, severity int, host, program, text string) error {
	const user = 1
	msg := fmt.Appendf(nil, "<%d>1 %s %s %s - - - %s", 8*user+severity,
		time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), host, program, text)
	return c.Write(ctx, msg) // flushed after FlushDelay
}

func TestSyslog(t *testing.T) {
	talk(t, syslog(), []exchange{
		{want: "49 <14>1 2000-01-01T00:00:00.000000Z h p - - - hello"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.NoError(t, logTo(ctx, c, 6, "h", "p", "hello"))
		time.Sleep(time.Second)
	})
}

func gelf() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.Delimiter{Delim: []byte{0}, MaxSize: 2 << 20},
		FlushDelay: 100 * time.Millisecond,
		Reconnect:  &tcpclient.Backoff{FirstDial: true},
	}
}

// gelfMessage is a log entry. %q of Go is no JSON: use encoding/json for texts.
func gelfMessage(host, text []byte, at time.Time, level int) []byte {
	return fmt.Appendf(nil, `{"version":"1.1","host":%s,"short_message":%s,"timestamp":%.3f,"level":%d}`,
		host, text, float64(at.UnixMilli())/1000, level)
}

func TestGELF(t *testing.T) {
	talk(t, gelf(), []exchange{
		{want: `{"version":"1.1","host":"h","short_message":"hi","timestamp":946684800.000,"level":6}` + "\x00"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.NoError(t, c.Write(ctx, gelfMessage([]byte(`"h"`), []byte(`"hi"`), time.Now(), 6)))
		time.Sleep(time.Second)
	})
}

// An ami gives actions their ActionID, and finds it in responses. An action has no empty line.
type ami struct{}

func (ami) AppendRequest(dst []byte, id uint64, action []byte) ([]byte, error) {
	return fmt.Appendf(dst, "%s\r\nActionID: %d", action, id), nil
}

func (ami) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if !bytes.HasPrefix(msg, []byte("Response: ")) {
		return 0, nil, false // an event
	}
	_, after, _ := bytes.Cut(msg, []byte("\r\nActionID: "))
	digits, _, _ := bytes.Cut(after, []byte("\r\n"))
	id, err := strconv.ParseUint(string(digits), 10, 64)
	return id, msg, err == nil
}

func asterisk(user, secret string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.Lines{}, // for the greeting
		Correlator:   ami{},
		ReplyTimeout: 10 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     func() []byte { return []byte("Action: Ping\r\nActionID: ping") },
			IsPong:   func(msg []byte) bool { return bytes.Contains(msg, []byte("\r\nActionID: ping\r\n")) },
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil { // Asterisk Call Manager/5.0.1
				return err
			}
			if err := conn.SetFramer(tcpclient.Delimiter{Delim: []byte("\r\n\r\n")}); err != nil {
				return err
			}
			if err := conn.Send(ctx, fmt.Appendf(nil, "Action: Login\r\nUsername: %s\r\nSecret: %s", user, secret)); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && !bytes.HasPrefix(reply, []byte("Response: Success")) {
				err = tcpclient.Permanent(fmt.Errorf("asterisk: %q", reply))
			}
			return err
		},
	}
}

func TestAsterisk(t *testing.T) {
	d := asterisk("me", "secret")
	event := "Event: FullyBooted\r\nPrivilege: system,all\r\nStatus: Fully Booted"
	talk(t, d, []exchange{
		{say: "Asterisk Call Manager/5.0.1\r\n"},
		{want: "Action: Login\r\nUsername: me\r\nSecret: secret\r\n\r\n", say: "Response: Success\r\nMessage: Authentication accepted\r\n\r\n" + event + "\r\n\r\n"},
		{want: "Action: CoreStatus\r\nActionID: 1\r\n\r\n", say: "Response: Success\r\nActionID: 1\r\nCoreCurrentCalls: 0\r\n\r\n"},
		{want: "Action: Ping\r\nActionID: ping\r\n\r\n", say: "Response: Success\r\nActionID: ping\r\nPing: Pong\r\nTimestamp: 1\r\n\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, event, next(t, ctx, c))
		require.Contains(t, call(t, ctx, c, "Action: CoreStatus"), "CoreCurrentCalls: 0")
		idle(d)
	})
}

func radius(status func() []byte) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		TLSConfig:    &tls.Config{}, // RadSec, RFC 6614: with a certificate of ours
		Framer:       tcpclient.LengthPrefix{Offset: 2, Width: 2, Adjust: -4, KeepHeader: true, MaxSize: 4096},
		Correlator:   tcpclient.IDField{Offset: 1, Width: 1, ReplyOffset: 1}, // 255 at once
		ReplyTimeout: 10 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     status, // Status-Server, code 12, with the identifier 0: RFC 5997
			IsPong:   func(msg []byte) bool { return msg[0] == 2 && msg[1] == 0 },
		},
	}
}

func TestRADIUS(t *testing.T) {
	authenticator := string(make([]byte, 16))
	d := radius(func() []byte { return []byte(hx("0c 00 0014") + authenticator) })
	d.TLSConfig = nil
	talk(t, d, []exchange{
		{want: hx("01 01 0019") + authenticator + "\x01\x05bob", say: hx("02 01 0014") + authenticator},
		{want: hx("0c 00 0014") + authenticator, say: hx("02 00 0014") + authenticator},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, byte(2), call(t, ctx, c, hx("01 00 0000")+authenticator+"\x01\x05bob")[0])
		idle(d)
	})
}

func bgp(as uint16, router [4]byte) *tcpclient.Dialer {
	marker := strings.Repeat("\xff", 16)
	keepAlive := []byte(marker + "\x00\x13\x04")
	return &tcpclient.Dialer{
		Framer: tcpclient.LengthPrefix{Offset: 16, Width: 2, Adjust: -18, KeepHeader: true, MaxSize: 4096},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second, // a third of the hold time
			Timeout:  90 * time.Second,
			Ping:     func() []byte { return keepAlive },
			IsPong:   func(msg []byte) bool { return msg[18] == 4 }, // the neighbour's own
		},
		Reconnect: &tcpclient.Backoff{Min: 5 * time.Second},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			open := append([]byte(marker), 0, 0, 1, 4, byte(as>>8), byte(as), 0, 90, router[0], router[1], router[2], router[3], 0)
			for i, request := range [][]byte{open, keepAlive} { // each is answered by its like
				if err := conn.Send(ctx, request); err != nil {
					return err
				}
				msg, err := conn.Receive(ctx)
				if err != nil {
					return err
				}
				if msg[18] != []byte{1, 4}[i] { // 3 is a NOTIFICATION
					return fmt.Errorf("bgp: % x", msg[18:])
				}
			}
			return nil
		},
	}
}

func TestBGP(t *testing.T) {
	marker := hx(strings.Repeat("ff", 16))
	d := bgp(65001, [4]byte{192, 0, 2, 1})
	update := marker + hx("0017 02 0000 0000") // End-of-RIB
	talk(t, d, []exchange{
		{want: marker + hx("001d 01 04 fde9 005a c0000201 00"), say: marker + hx("001d 01 04 fdea 005a c0000202 00")},
		{want: marker + hx("0013 04"), say: marker + hx("0013 04") + update},
		{want: marker + hx("0013 04"), say: marker + hx("0013 04")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, update, next(t, ctx, c))
		idle(d)
	})
}
