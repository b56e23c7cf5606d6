package interop

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// children are servers that the test binary runs, instead of tests, if its first argument names one: servers
// in the test's own process could be neither stopped nor killed. They do not return.
var children = map[string]func(address string, more []string){
	"serve-smtp":    serveSMTP,
	"serve-modbus":  serveModbus,
	"serve-program": serveProgram,
}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && children[os.Args[1]] != nil {
		children[os.Args[1]](os.Args[2], os.Args[3:])
	}
	goleak.VerifyTestMain(m)
}

// startChild runs one of children.
func startChild(t *testing.T, name string, more ...string) *host {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return startHost(t, self, func(port string) []string {
		return append([]string{name, net.JoinHostPort("127.0.0.1", port)}, more...)
	})
}

// patience is how long a server may take for what it does at once.
const patience = 20 * time.Second

// A server is a process that accepts connections at address.
type server struct {
	address string
	process *os.Process
	exited  <-chan struct{} // closed when it has ended
}

// startServer runs a server on a free port of loopback until the test ends, and returns
// once it accepts connections. args makes the arguments for a port.
func startServer(t *testing.T, name string, args func(port string) []string) server {
	t.Helper()
	return startServerAs(t, nil, name, args)
}

// startServerAs is startServer for a server that refuses to run as root. A nil user is our own.
func startServerAs(t *testing.T, user *syscall.Credential, name string, args func(port string) []string) server {
	t.Helper()
	return startHostAs(t, user, name, args).server
}

// find returns the path of a server, or ends the test.
func find(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	// Debian keeps daemons where only root has its PATH, and PostgreSQL by version.
	elsewhere, err := filepath.Glob(filepath.Join("/usr/lib/postgresql/*/bin", name))
	require.NoError(t, err)
	for _, path := range append(elsewhere, filepath.Join("/usr/sbin", name)) {
		if path, err := exec.LookPath(path); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed", name)
	return ""
}

// directoryOf returns a new directory for a server, until the test ends.
func directoryOf(t *testing.T, user *syscall.Credential) (path string) {
	t.Helper()
	if user == nil {
		return t.TempDir()
	}
	path, err := os.MkdirTemp("", "interop") // others may not enter the parent of t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(path)) })
	require.NoError(t, os.Chown(path, int(user.Uid), int(user.Gid)))
	return path
}

// selfSigned makes a certificate for 127.0.0.1, in the files server.crt and server.key of dir, which
// belong to user. client trusts it and nothing else.
func selfSigned(t *testing.T, dir string, user *syscall.Credential) (certFile, keyFile string, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "interop"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)

	write := func(name, kind string, der []byte) (path string) {
		path = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		if user != nil {
			require.NoError(t, os.Chown(path, int(user.Uid), int(user.Gid)))
		}
		return path
	}
	client = &tls.Config{RootCAs: x509.NewCertPool()}
	client.RootCAs.AddCert(cert)
	return write("server.crt", "CERTIFICATE", der), write("server.key", "PRIVATE KEY", pkcs8), client
}

// freePort returns a port of loopback that is free for TCP and UDP.
func freePort(t *testing.T) string {
	t.Helper()
	for {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		return strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port)
	}
}

// accepts waits up to limit until somebody accepts connections at address. It dials with tcpclient,
// which refuses a connection to itself: these happen on loopback as long as nobody
// listens.
func accepts(t *testing.T, address string, exited <-chan struct{}, limit time.Duration) bool {
	t.Helper()
	up := false
	waitUpTo(t, limit, func() bool {
		select {
		case <-exited:
			return true
		default:
		}
		c, err := tcpclient.Dial(t.Context(), "tcp", address)
		if err == nil {
			up = true
			require.NoError(t, c.Close())
		}
		return up
	})
	return up
}

// bounded is the context of a test that must not wait for ever.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

// waitFor waits until ok returns true.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	waitUpTo(t, patience, ok)
}

// waitUpTo is waitFor for what may take longer.
func waitUpTo(t *testing.T, limit time.Duration, ok func() bool) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-again.C {
		require.True(t, time.Now().Before(deadline), "not within %v", limit)
	}
}

// dial connects with d until the test ends.
func dial(t *testing.T, d tcpclient.Dialer, address string) *tcpclient.Client {
	t.Helper()
	c, err := d.Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// mustCall is Call for what has to succeed.
func mustCall(t *testing.T, c caller, request []byte) (reply []byte) {
	t.Helper()
	reply, err := c.Call(bounded(t), request)
	require.NoError(t, err)
	return reply
}

func atoi(t *testing.T, digits []byte) int {
	t.Helper()
	n, err := strconv.Atoi(string(digits))
	require.NoError(t, err)
	return n
}

// padding returns up to 96 characters, a number of them that depends on n.
func padding(n int) string { return strings.Repeat("x", n*n%97) }

// A logBuffer collects what a process says, to be read while it runs.
type logBuffer struct {
	mu  sync.Mutex // guards following
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
