package cookbook

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// However a stream is cut, and whatever hostile bytes it has, the functions for Sized keep the rules
// of a Framer.
func TestSizes(t *testing.T) { // P1, P6
	for name, test := range map[string]struct {
		size     func(p []byte) (int, error)
		messages []string
	}{
		"mqtt":       {mqttSize, []string{hx("c000"), hx("30 08 0003") + "a/xyes", string(mqttPacket(0x30, string(make([]byte, 20000))))}},
		"redis":      {respSize, []string{"+OK\r\n", "$-1\r\n", "$0\r\n\r\n", "$5\r\n+O\r\nK\r\n", "*2\r\n*1\r\n:1\r\n%1\r\n+a\r\n_\r\n", "*-1\r\n", string(redisCommand("SET", "k", string(make([]byte, 2000))))}},
		"nats":       {natsSize, []string{"PING\r\n", "+OK\r\n", "MSG a.b 1 5\r\nhe\r\nl\r\n", "HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"}},
		"memcached":  {memcachedSize, []string{"STORED\r\n", "END\r\n", "VALUE a 0 5\r\nEND\r\n\r\nEND\r\n", "STAT pid 1\r\nSTAT uptime 2\r\nEND\r\n"}},
		"beanstalkd": {beanstalkSize, []string{"DELETED\r\n", "RESERVED 1 6\r\nto\r\nme\r\n", "OK 5\r\n---\r\n\r\n"}},
		"fix":        {fixSize, []string{"8=FIX.4.2\x019=5\x0135=0\x0110=161\x01", "8=FIX.4.4\x019=10\x0135=0\x0149=A\x0110=000\x01"}},
		"stomp":      {stompSize, []string{"\n", "RECEIPT\nreceipt-id:1\n\n\x00", "RECEIPT\r\nreceipt-id:1\r\n\r\n\x00", "MESSAGE\ncontent-length:5\n\nhe\x00lo\x00"}},
		"ldap":       {berSize, []string{hx("3000"), hx("30 02 0500"), string(ber(0x30, make([]byte, 2000)...))}},
		"stx":        {stxSize, []string{"\x06", string(stxFrame("W")), string(stxFrame("12.5kg"))}},
		"iso8583":    {iso8583Digits.Size, []string{"0000", "00040800"}},
	} {
		t.Run(name, func(t *testing.T) {
			var messages [][]byte
			for _, m := range test.messages {
				messages = append(messages, []byte(m))
			}
			require.NoError(t, tcpclienttest.TestFramer(tcpclient.Sized{Size: test.size, MaxSize: 1 << 20}, messages...))
		})
	}
}

func TestPreparedFramings(t *testing.T) { // P1, P6
	var none tcpclient.Framer = tcpclient.Delimiter{Start: []byte{0x7e}, Delim: []byte{0x7e}, MaxSize: 4096}
	require.NoError(t, tcpclienttest.TestFramer(none, []byte("a"), jt808Encode([]byte(hx("0002 0000 013812345678 7e7d")))))
}
