package manifest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
)

// Sums hashes an archive by each algorithm for which the manifest has a digest of it. All
// of them must fit: a publisher's checksum file may only have the sha512.
type Sums struct {
	of     Platform
	sha256 hash.Hash
	sha512 hash.Hash // nil if it is not needed
}

// Sums returns the hashes of no bytes yet.
func (p Platform) Sums() *Sums {
	s := &Sums{of: p, sha256: sha256.New()}
	if p.SHA512 != "" {
		s.sha512 = sha512.New()
	}
	return s
}

// Write adds bytes of the archive. It returns no error.
func (s *Sums) Write(b []byte) (int, error) {
	s.sha256.Write(b)
	if s.sha512 != nil {
		s.sha512.Write(b)
	}
	return len(b), nil
}

// SHA256 returns the archive's digest as 64 lower-case hex digits.
func (s *Sums) SHA256() string { return hex.EncodeToString(s.sha256.Sum(nil)) }

// Wrong returns what differs from the manifest's digests; "" if nothing does. A sha256 of
// "" in the manifest is not compared.
func (s *Sums) Wrong() string {
	if sum := s.SHA256(); s.of.SHA256 != "" && sum != s.of.SHA256 {
		return fmt.Sprintf("its sha256 is %s instead of %s", sum, s.of.SHA256)
	}
	if s.sha512 == nil {
		return ""
	}
	if sum := hex.EncodeToString(s.sha512.Sum(nil)); sum != s.of.SHA512 {
		return fmt.Sprintf("its sha512 is %s instead of %s", sum, s.of.SHA512)
	}
	return ""
}
