// Package notary writes and verifies chained logs (package chain): it hashes, and signs with the host's key.
package notary

import (
	"bytes"
	"crypto/ed25519"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/trusted"
)

// maxKey bounds a key file, in bytes. openssl writes 119.
const maxKey = 16 << 10

// oidEd25519 is id-Ed25519 (RFC 8410, section 3).
var oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}

// algorithm is an AlgorithmIdentifier; that of Ed25519 has no parameters. crypto/x509 would read both forms, and would add
// half a megabyte to every warden.
type algorithm struct{ Algorithm asn1.ObjectIdentifier }

// ReadKey reads the private key that signs: PEM with PKCS #8 in it, as `openssl genpkey -algorithm ed25519` writes it, which
// only root may read. The error says what to do.
func ReadKey(path string) (ed25519.PrivateKey, error) {
	data, err := trusted.ReadSecret(path, maxKey)
	if err != nil {
		return nil, fmt.Errorf("cannot read the audit key: %w", err)
	}
	defer clear(data)
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the audit key %s: %w; make one with: openssl genpkey -algorithm ed25519 -out %s", path, err, path)
	}
	return key, nil
}

func parseKey(data []byte) (ed25519.PrivateKey, error) {
	der, err := block(data, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	// RFC 8410, section 7: the key is an OCTET STRING within the OCTET STRING. Version 1 may have a public key after it,
	// which openssl does not write, and which is not needed.
	var info struct {
		Version   int
		Algorithm algorithm
		Key       []byte
	}
	var seed []byte
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 || info.Version != 0 {
		return nil, errors.New("it is not PKCS #8")
	}
	if !info.Algorithm.Algorithm.Equal(oidEd25519) {
		return nil, fmt.Errorf("it is a key of algorithm %v, not of Ed25519", info.Algorithm.Algorithm)
	}
	if rest, err := asn1.Unmarshal(info.Key, &seed); err != nil || len(rest) > 0 || len(seed) != ed25519.SeedSize {
		return nil, errors.New("it has no Ed25519 key in it")
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// ReadPublicKey reads a key that verifies: PEM with a SubjectPublicKeyInfo in it, as `openssl pkey -pubout` writes it. It is
// no secret, and may be anybody's file: who verifies has chosen it.
func ReadPublicKey(path string, data []byte) (ed25519.PublicKey, error) {
	key, err := parsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the public key %s: %w; make it with: openssl pkey -in KEY -pubout", path, err)
	}
	return key, nil
}

func parsePublicKey(data []byte) (ed25519.PublicKey, error) {
	if len(data) > maxKey {
		return nil, fmt.Errorf("it is longer than %d bytes", maxKey)
	}
	der, err := block(data, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	var info struct {
		Algorithm algorithm
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		return nil, errors.New("it is not a SubjectPublicKeyInfo")
	}
	if !info.Algorithm.Algorithm.Equal(oidEd25519) {
		return nil, fmt.Errorf("it is a key of algorithm %v, not of Ed25519", info.Algorithm.Algorithm)
	}
	if len(info.Key.Bytes) != ed25519.PublicKeySize || info.Key.BitLength != 8*ed25519.PublicKeySize {
		return nil, errors.New("it has no Ed25519 key in it")
	}
	return ed25519.PublicKey(bytes.Clone(info.Key.Bytes)), nil
}

// block gives what is in the one PEM block of data.
func block(data []byte, kind string) ([]byte, error) {
	b, rest := pem.Decode(data)
	switch {
	case b == nil:
		return nil, errors.New("it is not PEM")
	case b.Type != kind:
		return nil, fmt.Errorf("it is a PEM %.40q, not a %q", b.Type, kind)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something comes after its PEM block")
	}
	return b.Bytes, nil
}
