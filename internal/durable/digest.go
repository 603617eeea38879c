package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// Digest is a writer of SHA-256 that hashes in a goroutine of its own, so that unpacking and
// writing go on meanwhile. Without instructions for SHA-256 a processor hashes no faster
// than it unpacks. Its zero value can be used; Sum must be called.
type Digest struct {
	hash  hash.Hash
	alone int         // bytes that Write has hashed itself
	fill  []byte      // is filled by Write
	full  chan []byte // nil: there is no goroutine
	empty chan []byte
	ended chan struct{}
}

const (
	// digestAlone is how many bytes Write hashes itself: most files are small.
	digestAlone = 256 << 10
	// digestBuffer is how many bytes the goroutine gets at once.
	digestBuffer = 128 << 10
)

// Write never fails.
func (d *Digest) Write(p []byte) (int, error) {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	if d.full == nil && d.alone+len(p) <= digestAlone {
		d.alone += len(p)
		return d.hash.Write(p)
	}
	if d.full == nil {
		d.start()
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), cap(d.fill)-len(d.fill))
		d.fill, rest = append(d.fill, rest[:n]...), rest[n:]
		if len(d.fill) == cap(d.fill) {
			d.full <- d.fill
			d.fill = <-d.empty
		}
	}
	return len(p), nil
}

// start starts the goroutine. One buffer is filled while the other is hashed.
func (d *Digest) start() {
	d.fill, d.full, d.empty, d.ended = make([]byte, 0, digestBuffer), make(chan []byte), make(chan []byte, 2), make(chan struct{})
	d.empty <- make([]byte, 0, digestBuffer)
	go func() {
		defer close(d.ended)
		for b := range d.full {
			d.hash.Write(b)
			d.empty <- b[:0]
		}
	}()
}

// Sum returns the digest, in hex, and ends the goroutine. Nothing may be written after it.
func (d *Digest) Sum() string {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	if d.full != nil {
		close(d.full)
		<-d.ended
		d.hash.Write(d.fill)
		d.full = nil
	}
	return hex.EncodeToString(d.hash.Sum(nil))
}
