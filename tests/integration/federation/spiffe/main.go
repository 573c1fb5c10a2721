// Reads, makes, fetches and serves SPIFFE bundles with go-spiffe, the SPIFFE project's own implementation.
//
//	read  <trust domain>                                    a bundle on stdin -> what is in it
//	make  <trust domain> <sequence>                         -> a bundle, with keys for JWTs besides
//	fetch <trust domain> <url> <endpoint id> <bundle file>  by the profile https_spiffe -> what is in it
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	domain, err := spiffeid.TrustDomainFromString(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "read":
		bundle, err := spiffebundle.Read(domain, os.Stdin)
		if err != nil {
			return err
		}
		return tell(bundle)
	case "make":
		return produce(domain, args[2])
	case "fetch":
		endpoint, err := spiffeid.FromString(args[3])
		if err != nil {
			return err
		}
		known, err := spiffebundle.Load(domain, args[4])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		auth := federation.WithSPIFFEAuth(known.X509Bundle(), endpoint)
		bundle, err := federation.FetchBundle(ctx, domain, args[2], auth)
		if err != nil {
			return err
		}
		return tell(bundle)
	}
	return fmt.Errorf("no such command: %s", args[0])
}

func tell(bundle *spiffebundle.Bundle) error {
	sequence, _ := bundle.SequenceNumber()
	hint, _ := bundle.RefreshHint()
	roots := []string{}
	for _, root := range bundle.X509Authorities() {
		sum := sha256.Sum256(root.Raw)
		roots = append(roots, hex.EncodeToString(sum[:]))
	}
	sort.Strings(roots)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"sequence": sequence, "refreshHint": hint.Seconds(), "roots": roots,
	})
}

func produce(domain spiffeid.TrustDomain, text string) error {
	sequence, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := url.Parse(domain.IDString())
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{id},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(raw)
	if err != nil {
		return err
	}
	bundle := spiffebundle.New(domain)
	bundle.AddX509Authority(root)
	if err := bundle.AddJWTAuthority("one", &key.PublicKey); err != nil {
		return err
	}
	bundle.SetSequenceNumber(sequence)
	bundle.SetRefreshHint(90 * time.Second)
	out, err := bundle.Marshal()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}
