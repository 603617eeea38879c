// Package signaturetest has publishers that sign as minisign and gpg do, for tests.
package signaturetest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Minisign is a publisher with a key of minisign.
type Minisign struct {
	public  minisign.PublicKey
	private minisign.PrivateKey
}

// NewMinisign makes a key.
func NewMinisign(t testing.TB) *Minisign {
	t.Helper()
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Minisign{public, private}
}

// Public returns the content of the .pub file.
func (m *Minisign) Public() []byte {
	text, err := m.public.MarshalText()
	if err != nil {
		panic(err) // it cannot fail
	}
	return append(text, '\n')
}

// Sign returns a .minisig file. name is written into the trusted comment; "" for none.
func (m *Minisign) Sign(content []byte, name string) []byte {
	r := minisign.NewReader(bytes.NewReader(content))
	if _, err := r.Read(make([]byte, len(content)+1)); err != nil && len(content) > 0 {
		panic(err)
	}
	return r.SignWithComments(m.private, comment(name), "signature from minisign secret key")
}

// SignOld returns a .minisig file of the old form, as "minisign -l" makes it.
func (m *Minisign) SignOld(content []byte, name string) []byte {
	return minisign.SignWithComments(m.private, content, comment(name), "signature from minisign secret key")
}

func comment(name string) string {
	if name == "" {
		return "timestamp:1790000000"
	}
	return "timestamp:1790000000\tfile:" + name + "\thashed"
}

// OpenPGP is a publisher with a key of OpenPGP.
type OpenPGP struct {
	Entity *openpgp.Entity
	Now    time.Time // when it signs
}

// NewOpenPGP makes a key at a time. It expires after lifetime, or never if that is 0.
func NewOpenPGP(t testing.TB, at time.Time, lifetime time.Duration) *OpenPGP {
	t.Helper()
	c := &packet.Config{Time: func() time.Time { return at }, Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(lifetime.Seconds())}
	e, err := openpgp.NewEntity("Publisher", "", "publisher@example.com", c)
	if err != nil {
		t.Fatal(err)
	}
	return &OpenPGP{Entity: e, Now: at}
}

func (p *OpenPGP) config() *packet.Config {
	return &packet.Config{Time: func() time.Time { return p.Now }}
}

// Revoke makes the key revoke itself.
func (p *OpenPGP) Revoke(t testing.TB) {
	t.Helper()
	if err := p.Entity.Revoke(packet.KeyCompromised, "stolen", p.config()); err != nil {
		t.Fatal(err)
	}
}

// Public returns what "gpg --armor --export" writes.
func (p *OpenPGP) Public() []byte {
	return armored(openpgp.PublicKeyType, func(b *bytes.Buffer) error { return p.Entity.Serialize(b) })
}

// Secret returns what "gpg --armor --export-secret-keys" writes.
func (p *OpenPGP) Secret() []byte {
	return armored(openpgp.PrivateKeyType, func(b *bytes.Buffer) error { return p.Entity.SerializePrivate(b, p.config()) })
}

// Sign returns what "gpg --armor --detach-sign" writes.
func (p *OpenPGP) Sign(content []byte) []byte {
	return armored(openpgp.SignatureType, func(b *bytes.Buffer) error { return p.binary(b, content) })
}

// SignBinary returns what "gpg --detach-sign" writes.
func (p *OpenPGP) SignBinary(content []byte) []byte {
	var b bytes.Buffer
	if err := p.binary(&b, content); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (p *OpenPGP) binary(b *bytes.Buffer, content []byte) error {
	return openpgp.DetachSign(b, []*openpgp.Entity{p.Entity}, bytes.NewReader(content), p.config())
}

// Clear returns what "gpg --clear-sign" writes.
func (p *OpenPGP) Clear(content []byte) []byte {
	var b bytes.Buffer
	key, ok := p.Entity.SigningKey(p.Now, p.config())
	if !ok {
		panic("the key cannot sign")
	}
	w, err := clearsign.Encode(&b, key.PrivateKey, p.config())
	if err == nil {
		if _, err = w.Write(content); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		panic(err)
	}
	return append(b.Bytes(), '\n')
}

// Text returns a signature that does not distinguish the ends of lines.
func (p *OpenPGP) Text(content string) []byte {
	return armored(openpgp.SignatureType, func(b *bytes.Buffer) error {
		return openpgp.DetachSignWithParams(b, []*openpgp.Entity{p.Entity}, strings.NewReader(content), &openpgp.SignParams{TextSig: true, Config: p.config()})
	})
}

func armored(kind string, write func(*bytes.Buffer) error) []byte {
	var raw, b bytes.Buffer
	err := write(&raw)
	if err == nil {
		w, failed := armor.Encode(&b, kind, nil)
		if err = failed; err == nil {
			if _, err = w.Write(raw.Bytes()); err == nil {
				err = w.Close()
			}
		}
	}
	if err != nil {
		panic(err)
	}
	return append(b.Bytes(), '\n')
}
