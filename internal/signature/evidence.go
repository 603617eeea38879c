package signature

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Of says what is signed.
type Of string

const (
	OfManifest  Of = "manifest"  // the manifest itself
	OfChecksums Of = "checksums" // a file with the digest of the archive
	OfArchive   Of = "archive"
)

// Evidence is a signature and what it is of, as one role hands it on to the next.
type Evidence struct {
	Of   Of     `json:"of"`
	File string `json:"file"` // the signed file's name at the source
	// Content is that of the file of checksums. It contains the signature if it is
	// clear-signed.
	Content   []byte `json:"content,omitempty"`
	Signature []byte `json:"signature,omitempty"`

	Beside string `json:"-"` // the name of the signature's file at the source; "" if it is in Content
}

const (
	// MaxChecksums is the size in bytes of the largest file of checksums.
	MaxChecksums = manifest.MaxSize
	// MaxEvidence is the size in bytes of the largest encoded Evidence, in base64.
	MaxEvidence = (MaxChecksums+MaxSignature)/3*4 + 4096
)

// Encode returns the evidence as JSON, of at most [MaxEvidence] bytes.
func (e Evidence) Encode() ([]byte, error) {
	raw, err := json.Marshal(e)
	if err == nil && len(raw) > MaxEvidence {
		err = fmt.Errorf("%s and its signature have more than %d bytes", e.File, MaxChecksums)
	}
	return raw, err
}

func decode(raw []byte) (e Evidence, err error) {
	if len(raw) > MaxEvidence || json.Unmarshal(raw, &e) != nil {
		return e, errors.New("the evidence is damaged")
	}
	return e, nil
}
