package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// FileSHA256 returns the digest, in hex, of a file opened by [OpenRegular].
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

// CopySHA256 copies r to w without sync, and returns what [SHA256] returns.
func CopySHA256(w io.Writer, r io.Reader) (sum string, size int64, err error) {
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(w, h), r)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
