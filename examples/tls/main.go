// TLS shows a connection to a server with a self-signed certificate. The first Dial refuses
// the certificate, because no authority has signed it. The second accepts it, because the
// settings say to trust it.
//
//	go run ./examples/tls
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server := tcpclienttest.NewTLSServer(nil, tcpclienttest.Echo)
	defer server.Close()

	// For a public server an empty tls.Config is enough: it trusts the authorities of the
	// system, and expects the name that was dialed.
	d := tcpclient.Dialer{TLSConfig: &tls.Config{}}
	client, err := d.Dial(ctx, "tcp", server.Addr)
	if err == nil {
		client.Close()
		return errors.New("a certificate that nobody vouches for was accepted")
	}
	fmt.Println("untrusted:", err)
	fmt.Println("  class:", tcpclient.Classify(err)) // another attempt is useless
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) {
		return err
	}
	fmt.Println("  made out by:", untrusted.UnverifiedCertificates[0].Issuer)
	var unknown x509.UnknownAuthorityError
	fmt.Println("  by an authority we do not know:", errors.As(err, &unknown))

	// A program reads the certificate to trust from a file into an x509.CertPool, and sets
	// TLSConfig to &tls.Config{RootCAs: pool}. ClientTLSConfig returns such a configuration.
	d.TLSConfig = server.ClientTLSConfig()
	if client, err = d.Dial(ctx, "tcp", server.Addr); err != nil {
		return err
	}
	defer client.Close()
	reply, err := client.Call(ctx, []byte("for your eyes only"))
	if err != nil {
		return err
	}
	fmt.Printf("trusted: %s\n", reply)
	return client.Shutdown(ctx)
}
