package cookbook

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

func modbus() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Offset: 4, Width: 2, KeepHeader: true, MaxSize: 260},
		Correlator:   tcpclient.IDField{Width: 2}, // the transaction identifier
		MaxInFlight:  1,
		ReplyTimeout: 2 * time.Second,
		Reconnect:    &tcpclient.Backoff{OnDemand: true}, // gateways close connections that are idle
	}
}

// readHolding reads n holding registers: function 3.
func readHolding(ctx context.Context, plc *tcpclient.Client, unit byte, first, n uint16) ([]uint16, error) {
	request := []byte{0, 0, 0, 0, 0, 0, unit, 3} // id and length are filled in
	request = binary.BigEndian.AppendUint16(request, first)
	request = binary.BigEndian.AppendUint16(request, n)
	reply, err := plc.Call(ctx, request)
	if err != nil {
		return nil, err
	}
	if len(reply) != 9+2*int(n) || reply[7] != 3 {
		return nil, fmt.Errorf("unit %d: exception or wrong size: % x", unit, reply[7:])
	}
	registers := make([]uint16, n)
	_, err = binary.Decode(reply[9:], binary.BigEndian, registers)
	return registers, err
}

func TestModbus(t *testing.T) {
	talk(t, modbus(), []exchange{
		{want: hx("0001 0000 0006 11 03 006b 0003"), say: hx("0001 0000 0009 11 03 06 022b 0000 0064")},
		{want: hx("0002 0000 0006 11 03 ffff 0001"), say: hx("0002 0000 0003 11 83 02")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		registers, err := readHolding(ctx, c, 0x11, 0x6b, 3)
		require.NoError(t, err)
		require.Equal(t, []uint16{555, 0, 100}, registers)
		_, err = readHolding(ctx, c, 0x11, 0xffff, 1)
		require.ErrorContains(t, err, "83 02")
	})
}

func s7(rack, slot byte) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Offset: 2, Width: 2, Adjust: -4, KeepHeader: true},
		Correlator:   tcpclient.IDField{Offset: 11, Width: 2, ReplyOffset: 11}, // the PDU reference
		MaxInFlight:  1,                                                        // or what the setup agrees on
		ReplyTimeout: 3 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			connect := []byte{3, 0, 0, 22, 17, 0xe0, 0, 0, 0, 1, 0, // COTP connection request
				0xc1, 2, 1, 0, 0xc2, 2, 1, rack<<5 | slot, 0xc0, 1, 10} // TSAPs, TPDU size 1024
			setup := []byte{3, 0, 0, 25, 2, 0xf0, 0x80, 0x32, 1, 0, 0, 0, 0, 0, 8, 0, 0,
				0xf0, 0, 0, 1, 0, 1, 1, 0xe0} // one job at a time, PDUs of 480 bytes
			if err := s7Ask(ctx, conn, connect, 5, 0xd0); err != nil {
				return err
			}
			return s7Ask(ctx, conn, setup, 19, 0xf0)
		},
	}
}

// s7Ask sends a request, whose answer has to have a certain type at a certain place.
func s7Ask(ctx context.Context, conn *tcpclient.Conn, request []byte, at int, want byte) error {
	if err := conn.Send(ctx, request); err != nil {
		return err
	}
	reply, err := conn.Receive(ctx)
	if err == nil && (len(reply) <= at || reply[at] != want) {
		err = fmt.Errorf("the PLC refuses: % x", reply)
	}
	return err
}

func TestS7(t *testing.T) {
	read := hx("0300001f 02f080 32 01 0000 0000 000e 0000 04 01 12 0a 10 02 0004 0001 84 000000")
	request := []byte(read)
	request[12] = 1
	talk(t, s7(0, 2), []exchange{
		{want: hx("03000016 11 e0 0000 0001 00 c1 02 0100 c2 02 0102 c0 01 0a"), say: hx("03000016 11 d0 0001 0002 00 c0 01 0a c1 02 0100 c2 02 0102")},
		{want: hx("03000019 02f080 32 01 0000 0000 0008 0000 f0 00 0001 0001 01e0"), say: hx("0300001b 02f080 32 03 0000 0000 0008 0000 0000 f0 00 0001 0001 00f0")},
		{want: string(request), say: hx("0300001d 02f080 32 03 0000 0001 0002 0008 0000 04 01 ff 04 0020 cafebabe")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		reply := call(t, ctx, c, read)
		require.Equal(t, hx("ff 04 0020 cafebabe"), reply[21:])
	})
}

// The U frames of IEC 60870-5-104.
var (
	startDT    = []byte{0x68, 4, 0x07, 0, 0, 0}
	startDTCon = []byte{0x68, 4, 0x0b, 0, 0, 0}
	testFR     = []byte{0x68, 4, 0x43, 0, 0, 0}
	testFRCon  = []byte{0x68, 4, 0x83, 0, 0, 0}
)

func iec104() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.LengthPrefix{Offset: 1, Width: 1, KeepHeader: true, MaxSize: 255},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 20 * time.Second, // t3
			Timeout:  35 * time.Second, // t3 + t1
			Ping:     func() []byte { return testFR },
			IsPong:   func(msg []byte) bool { return bytes.Equal(msg, testFRCon) },
			Answer:   func(msg []byte) ([]byte, bool) { return testFRCon, bytes.Equal(msg, testFR) },
		},
		Reconnect: &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, startDT); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && !bytes.Equal(reply, startDTCon) {
				err = fmt.Errorf("no STARTDT con: % x", reply)
			}
			return err
		},
	}
}

// acknowledge makes the S frame that confirms all I frames up to msg. Send one at least after
// each 8 (w), and within 10 s (t2).
func acknowledge(msg []byte) []byte {
	sent := binary.LittleEndian.Uint16(msg[2:]) >> 1
	return binary.LittleEndian.AppendUint16([]byte{0x68, 4, 1, 0}, (sent+1)%(1<<15)<<1)
}

func TestIEC104(t *testing.T) {
	d := iec104()
	spontaneous := hx("680e 0000 0000 01 01 0300 0100 010000 01") // M_SP_NA_1: a contact is closed
	talk(t, d, []exchange{
		{want: hx("6804 07000000"), say: hx("6804 0b000000") + spontaneous},
		{want: hx("6804 0100 0200"), say: hx("6804 43000000")},
		{want: hx("6804 83000000")},
		{want: hx("6804 43000000"), say: hx("6804 83000000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		msg := next(t, ctx, c)
		require.Equal(t, spontaneous, msg)
		require.NoError(t, c.Send(ctx, acknowledge([]byte(msg))))
		idle(d)
	})
}

// An opcUA numbers messages in the order in which they leave, as OPC UA wants it: the sequence
// number of a request is its id plus one. OpenSecureChannel has had the number 1.
type opcUA struct{ tcpclient.IDField }

func (c opcUA) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	begin := len(dst)
	dst, err := c.IDField.AppendRequest(dst, id, request)
	if err == nil {
		binary.LittleEndian.PutUint32(dst[begin+16:], uint32(id)+1)
	}
	return dst, err
}

func opcUADialer(url string, open func(ctx context.Context, conn *tcpclient.Conn) error) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.LengthPrefix{Offset: 4, LittleEndian: true, Adjust: -8, KeepHeader: true},
		Correlator: opcUA{tcpclient.IDField{Offset: 20, Width: 4, LittleEndian: true, ReplyOffset: 20, Max: 4_294_966_270}},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			hello := []byte("HELF\x00\x00\x00\x00") // the size is filled in
			for _, n := range []int{0, 65536, 65536, 4 << 20, 0, len(url)} {
				hello = binary.LittleEndian.AppendUint32(hello, uint32(n)) // version, buffers, limits, url
			}
			if err := conn.Send(ctx, append(hello, url...)); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err != nil {
				return err
			}
			if !bytes.HasPrefix(reply, []byte("ACKF")) {
				return fmt.Errorf("no ACK: %q", reply)
			}
			return open(ctx, conn) // OpenSecureChannel, CreateSession, ActivateSession
		},
	}
}

func TestOPCUA(t *testing.T) {
	hello := "HELF" + hx("38000000 00000000 00000100 00000100 00004000 00000000 18000000") + "opc.tcp://example.com:1/"
	message := func(channel, token, seq, id, body string) string {
		return "MSGF" + hx("1c000000"+channel+token+seq+id) + body
	}
	d := opcUADialer("opc.tcp://example.com:1/", func(context.Context, *tcpclient.Conn) error { return nil })
	talk(t, d, []exchange{
		{want: hello, say: "ACKF" + hx("1c000000 00000000 00000100 00000100 00004000 00000000")},
		{want: message("01000000", "01000000", "02000000", "01000000", "read"), say: message("01000000", "01000000", "02000000", "01000000", "data")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "data", call(t, ctx, c, message("01000000", "01000000", "00000000", "00000000", "read"))[24:])
	})
}

// An enip is EtherNet/IP: the id is in the sender context. Each request has the handle of its
// connection's session, which the Handshake sets.
type enip struct {
	tcpclient.IDField
	session *atomic.Uint32
}

func (c enip) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	begin := len(dst)
	dst, err := c.IDField.AppendRequest(dst, id, request)
	if err == nil {
		binary.LittleEndian.PutUint32(dst[begin+4:], c.session.Load())
	}
	return dst, err
}

func etherNetIP() *tcpclient.Dialer {
	var session atomic.Uint32
	register := append([]byte{0x65, 0, 4, 0}, make([]byte, 24)...) // RegisterSession
	register[24] = 1                                               // of version 1
	listIdentity := append([]byte{0x63, 0}, make([]byte, 22)...)
	return &tcpclient.Dialer{
		Framer:     tcpclient.LengthPrefix{Offset: 2, Width: 2, LittleEndian: true, Adjust: 20, KeepHeader: true},
		Correlator: enip{tcpclient.IDField{Offset: 12, Width: 8, ReplyOffset: 12}, &session},
		Reconnect:  &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     func() []byte { return listIdentity },
			IsPong:   func(msg []byte) bool { return msg[0] == 0x63 },
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, register); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && binary.LittleEndian.Uint32(reply[8:]) != 0 {
				err = fmt.Errorf("no session: % x", reply)
			}
			if err == nil {
				session.Store(binary.LittleEndian.Uint32(reply[4:]))
			}
			return err
		},
	}
}

func TestEtherNetIP(t *testing.T) {
	d := etherNetIP()
	header := func(command, length, session, context string) string {
		return hx(command + length + session + "00000000" + context + "00000000")
	}
	talk(t, d, []exchange{
		{want: header("6500", "0400", "00000000", "0000000000000000") + hx("0100 0000"), say: header("6500", "0400", "78563412", "0000000000000000") + hx("0100 0000")},
		{want: header("6f00", "0400", "78563412", "0000000000000001") + "ask?", say: header("6f00", "0600", "78563412", "0000000000000001") + "answer"},
		{want: header("6300", "0000", "00000000", "0000000000000000"), say: header("6300", "0200", "00000000", "0000000000000000") + hx("0000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "answer", call(t, ctx, c, hx("6f00 0000 00000000 00000000 0000000000000000 00000000")+"ask?")[24:])
		idle(d)
	})
}

func melsec() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Offset: 7, Width: 2, LittleEndian: true, KeepHeader: true},
		MaxInFlight:  1, // 3E frames have no id, and the PLC takes one request at a time
		ReplyTimeout: 5 * time.Second,
		Reconnect:    &tcpclient.Backoff{Min: time.Second}, // the PLC frees its only connection late
	}
}

// readD reads n words from data register first on: command 0401.
func readD(ctx context.Context, plc *tcpclient.Client, first uint32, n uint16) ([]uint16, error) {
	request := []byte{0x50, 0, 0, 0xff, 0xff, 3, 0, 0, 0, // own station; the length is filled in
		16, 0, 1, 4, 0, 0, byte(first), byte(first >> 8), byte(first >> 16), 0xa8, byte(n), byte(n >> 8)}
	reply, err := plc.Call(ctx, request) // may take 16 × 250 ms
	if err != nil {
		return nil, err
	}
	if len(reply) != 11+2*int(n) || reply[9] != 0 || reply[10] != 0 {
		return nil, fmt.Errorf("end code or wrong size: % x", reply[9:])
	}
	words := make([]uint16, n)
	_, err = binary.Decode(reply[11:], binary.LittleEndian, words)
	return words, err
}

func TestMelsec(t *testing.T) {
	talk(t, melsec(), []exchange{
		{want: hx("5000 00 ff ff03 00 0c00 1000 0104 0000 640000 a8 0300"), say: hx("d000 00 ff ff03 00 0800 0000 3412 0200 ef1d")},
		{want: hx("5000 00 ff ff03 00 0c00 1000 0104 0000 ffffff a8 0100"), say: hx("d000 00 ff ff03 00 0b00 51c0 00 ff ff03 00 0104 0000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		words, err := readD(ctx, c, 100, 3)
		require.NoError(t, err)
		require.Equal(t, []uint16{0x1234, 2, 0x1def}, words)
		_, err = readD(ctx, c, 0xffffff, 1)
		require.ErrorContains(t, err, "51 c0")
	})
}

func hsms() *tcpclient.Dialer {
	control := func(kind byte, system uint32) []byte { // Select.req is 1, Linktest.req 5
		return binary.BigEndian.AppendUint32([]byte{0xff, 0xff, 0, 0, 0, kind}, system)
	}
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{MaxSize: 16 << 20},
		Correlator:   tcpclient.IDField{Offset: 6, Width: 4, ReplyOffset: 6},                         // the system bytes
		IsPush:       func(msg []byte) bool { return len(msg) < 10 || msg[5] == 0 && msg[3]%2 == 1 }, // a primary message
		ReplyTimeout: 45 * time.Second,                                                               // T3
		FrameTimeout: 5 * time.Second,                                                                // T8, of the whole frame
		Reconnect:    &tcpclient.Backoff{Min: 5 * time.Second},                                       // about T5
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Timeout:  40 * time.Second, // T6 later
			Ping:     func() []byte { return control(5, 0) },
			IsPong:   func(msg []byte) bool { return len(msg) == 10 && msg[5] == 6 },
			Answer: func(msg []byte) ([]byte, bool) {
				if len(msg) != 10 || msg[5] != 5 {
					return nil, false
				}
				return control(6, binary.BigEndian.Uint32(msg[6:])), true
			},
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error { return selectHSMS(ctx, conn, control(1, 0)) },
	}
}

func selectHSMS(ctx context.Context, conn *tcpclient.Conn, request []byte) error {
	if err := conn.Send(ctx, request); err != nil {
		return err
	}
	reply, err := conn.Receive(ctx)
	if err == nil && (len(reply) != 10 || reply[5] != 2 || reply[3] != 0) {
		err = fmt.Errorf("not selected: % x", reply)
	}
	return err
}

func TestHSMS(t *testing.T) {
	d := hsms()
	event := hx("0001 86 0b 00 00 00000001") // S6F11 W, with a number of the equipment's
	talk(t, d, []exchange{
		{want: hx("0000000a ffff 00 00 00 01 00000000"), say: hx("0000000a ffff 00 00 00 02 00000000")},
		{want: hx("0000000a 0001 81 01 00 00 00000001"), say: hx("0000000a") + event + hx("0000000c 0001 01 02 00 00 00000001 0100")},
		{want: hx("0000000d 0001 06 0c 00 00 00000001 210100"), say: hx("0000000a ffff 00 00 00 05 00000007")},
		{want: hx("0000000a ffff 00 00 00 06 00000007")},
		{want: hx("0000000a ffff 00 00 00 05 00000000"), say: hx("0000000a ffff 00 00 00 06 00000000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, hx("0001 01 02 00 00 00000001 0100"), call(t, ctx, c, hx("0001 81 01 00 00 00000000"))) // S1F1, S1F2
		require.Equal(t, event, next(t, ctx, c))
		require.NoError(t, c.Send(ctx, []byte(hx("0001 06 0c 00 00 00000001 210100"))))
		idle(d)
	})
}

func dlms() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Offset: 6, Width: 2, KeepHeader: true},
		IsPush:       func(msg []byte) bool { return msg[8] == 0xc2 || msg[8] == 0x0f }, // notifications
		MaxInFlight:  1,
		ReplyTimeout: 20 * time.Second, // meters behind a radio link are slow
		Reconnect:    &tcpclient.Backoff{OnDemand: true},
	}
}

// askMeter sends an APDU and returns that of the answer.
func askMeter(ctx context.Context, c *tcpclient.Client, client, server uint16, apdu []byte) ([]byte, error) {
	request := []byte{0, 1, byte(client >> 8), byte(client), byte(server >> 8), byte(server), 0, 0}
	reply, err := c.Call(ctx, append(request, apdu...))
	if err != nil {
		return nil, err
	}
	return reply[8:], nil
}

func TestDLMS(t *testing.T) {
	get := hx("c001 c1 0008 0000010000ff 02 00") // the clock
	talk(t, dlms(), []exchange{
		{want: hx("0001 0010 0001 000d") + get, say: hx("0001 0001 0010 0004 c4 01 c1 00")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		reply, err := askMeter(ctx, c, 16, 1, []byte(get))
		require.NoError(t, err)
		require.Equal(t, hx("c401c100"), string(reply))
	})
}

// jt808Encode adds the check byte and escapes: the Framer adds the flags 7e.
func jt808Encode(msg []byte) []byte {
	check := byte(0)
	for _, b := range msg {
		check ^= b
	}
	frame := bytes.ReplaceAll(append(msg[:len(msg):len(msg)], check), []byte{0x7d}, []byte{0x7d, 1})
	return bytes.ReplaceAll(frame, []byte{0x7e}, []byte{0x7d, 2})
}

func jt808Decode(frame []byte) (msg []byte, err error) {
	msg = bytes.ReplaceAll(frame, []byte{0x7d, 2}, []byte{0x7e})
	msg = bytes.ReplaceAll(msg, []byte{0x7d, 1}, []byte{0x7d})
	check := byte(0)
	for _, b := range msg {
		check ^= b
	}
	if len(msg) < 13 || check != 0 {
		return nil, fmt.Errorf("damaged message: % x", frame)
	}
	return msg[:len(msg)-1], nil
}

func jt808(heartbeat func() []byte) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:    tcpclient.Delimiter{Start: []byte{0x7e}, Delim: []byte{0x7e}, MaxSize: 4096},
		Reconnect: &tcpclient.Backoff{Max: time.Minute},
		Heartbeat: tcpclient.Heartbeat{
			Interval: time.Minute,
			Timeout:  150 * time.Second,
			Ping:     func() []byte { return jt808Encode(heartbeat()) }, // 0002
			IsPong:   isJT808Pong,
		},
	}
}

// isJT808Pong recognises the general answer 8001 to a 0002.
func isJT808Pong(frame []byte) bool {
	msg, err := jt808Decode(frame)
	return err == nil && len(msg) == 17 && msg[0] == 0x80 && msg[1] == 1 && msg[14] == 0 && msg[15] == 2
}

func TestJT808(t *testing.T) {
	d := jt808(func() []byte { return []byte(hx("0002 0000 013812345678 0001")) })
	location := hx("0200 0002 013812345678 0000 7e7d")
	talk(t, d, []exchange{
		{want: hx("7e 0200 0002 013812345678 0000 7d027d01") + hx("32 7e")},
		{want: hx("7e 0002 0000 013812345678 0001 32 7e"), say: hx("7e 8001 0005 013812345678 0000 0001 0002 00") + hx("b6 7e")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.NoError(t, c.Send(ctx, jt808Encode([]byte(location))))
		idle(d)
	})
	for _, msg := range []string{location, hx("0200 0002 013812345678 0000 7d01"), hx("0200 0002 013812345678 0000 7d02")} {
		got, err := jt808Decode(jt808Encode([]byte(msg)))
		require.NoError(t, err)
		require.Equal(t, msg, string(got))
	}
}

func instrument() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.Lines{MaxSize: 1 << 20},
		MaxInFlight:  1,
		ReplyTimeout: 30 * time.Second, // a sweep takes its time
		Reconnect:    &tcpclient.Backoff{OnDemand: true},
	}
}

// measure sets a range and reads a value, both on the same connection.
func measure(ctx context.Context, c *tcpclient.Client) (string, error) {
	if _, err := c.Call(ctx, []byte("*IDN?")); err != nil { // connects on demand
		return "", err
	}
	session, err := c.Session()
	if err != nil {
		return "", err
	}
	if err := session.Send(ctx, []byte("CONF:VOLT:DC 10")); err != nil { // no "?", no reply
		return "", err
	}
	reply, err := session.Call(ctx, []byte("READ?"))
	return string(reply), err
}

func TestInstrument(t *testing.T) {
	talk(t, instrument(), []exchange{
		{want: "*IDN?\n", say: "Agilent Technologies,34401A,0,10-5-2\n"},
		{want: "CONF:VOLT:DC 10\nREAD?\n", say: "+1.23456789E+00\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		value, err := measure(ctx, c)
		require.NoError(t, err)
		require.Equal(t, "+1.23456789E+00", value)
	})
}

// stxSize is that of STX, text, ETX and a check byte, and of the ACK or NAK that answers it.
func stxSize(p []byte) (int, error) {
	const stx, etx, ack, nak = 2, 3, 6, 0x15
	switch p[0] {
	case ack, nak:
		return 1, nil
	case stx:
		if end := bytes.IndexByte(p, etx); end > 0 {
			return end + 2, nil
		}
		return 0, nil // more bytes have to come
	}
	return 0, errors.New("no STX")
}

func stxFrame(text string) []byte {
	frame, lrc := []byte("\x02"+text+"\x03"), byte(0)
	for _, b := range frame[1:] { // ETX counts, STX does not
		lrc ^= b
	}
	return append(frame, lrc)
}

func scales() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.Sized{Size: stxSize, MaxSize: 1024},
		MaxInFlight:  1,
		ReplyTimeout: 2 * time.Second,
		More:         func(reply []byte) bool { return reply[0] == 6 }, // ACK, then the frame
	}
}

func TestScales(t *testing.T) {
	talk(t, scales(), []exchange{
		{want: hx("02 57 03 54"), say: hx("06 02") + "12.5kg" + hx("03") + string([]byte{'1' ^ '2' ^ '.' ^ '5' ^ 'k' ^ 'g' ^ 3})},
		{want: hx("02 58 03 5b"), say: hx("15")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "\x06"+string(stxFrame("12.5kg")), call(t, ctx, c, string(stxFrame("W"))))
		require.Equal(t, "\x15", call(t, ctx, c, string(stxFrame("X"))))
	})
}
