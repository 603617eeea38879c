package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// FileSHA256 returns the digest, in hex, of a file that [OpenRegular] opens.
func FileSHA256(path string) (string, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, _, err := SHA256(f)
	return sum, err
}

// SHA256 reads r to its end and returns the digest, in hex, and the number of bytes.
func SHA256(r io.Reader) (sum string, size int64, err error) { return CopySHA256(io.Discard, r) }

// CopySHA256 is [SHA256] of what it copies from r to w. It does not sync w.
func CopySHA256(w io.Writer, r io.Reader) (sum string, size int64, err error) {
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(w, h), r)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
