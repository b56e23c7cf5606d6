package tcpclienttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"time"
)

// NewTLSConfig makes a certificate for 127.0.0.1, ::1, localhost and example.com. It
// returns a configuration for a server that has the certificate, and one for clients that
// trust only this certificate. Both are owned by the caller, who may change them: ask for
// client certificates, choose versions. The certificate is also valid at the fake time of
// a testing/synctest bubble. NewTLSConfig panics if it cannot make a certificate.
func NewTLSConfig() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("tcpclienttest: no key: " + err.Error())
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"tcpclienttest"}},
		NotBefore:             time.Unix(0, 0),
		NotAfter:              time.Date(2084, time.January, 29, 16, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:              []string{"localhost", "example.com"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic("tcpclienttest: no certificate: " + err.Error())
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic("tcpclienttest: no certificate: " + err.Error())
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}}
	client = &tls.Config{RootCAs: roots}
	return server, client
}
