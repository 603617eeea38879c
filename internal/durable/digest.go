package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// Digest is a writer of SHA-256 that hashes in a goroutine of its own, so that the work of
// unpacking and writing goes on meanwhile. Without instructions for SHA-256 a processor
// hashes no faster than it unpacks. Its zero value can be used; Sum must be called.
type Digest struct {
	hash  hash.Hash
	fill  []byte // is filled by Write
	full  chan []byte
	empty chan []byte
	ended chan struct{}
}

// digestBuffer is the size in bytes of what is hashed at once. Less than that is hashed
// without a goroutine.
const digestBuffer = 256 << 10

// Write never fails.
func (d *Digest) Write(p []byte) (int, error) {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	for rest := p; len(rest) > 0; {
		if len(d.fill) == cap(d.fill) {
			d.next(len(rest))
		}
		n := min(len(rest), cap(d.fill)-len(d.fill))
		d.fill, rest = append(d.fill, rest[:n]...), rest[n:]
	}
	return len(p), nil
}

// next makes room for at least one byte, of more that come. The first buffer grows with
// them, because many files are small.
func (d *Digest) next(more int) {
	if cap(d.fill) < digestBuffer {
		d.fill = append(make([]byte, 0, min(digestBuffer, max(2*cap(d.fill), more, 512))), d.fill...)
		return
	}
	if d.full == nil {
		d.full, d.empty, d.ended = make(chan []byte), make(chan []byte, 2), make(chan struct{})
		d.empty <- make([]byte, 0, digestBuffer)
		go d.run()
	}
	d.full <- d.fill
	d.fill = <-d.empty
}

func (d *Digest) run() {
	defer close(d.ended)
	for b := range d.full {
		d.hash.Write(b)
		d.empty <- b[:0]
	}
}

// Sum returns the digest, in hex, and ends the goroutine. Nothing may be written after it.
func (d *Digest) Sum() string {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	if d.full != nil {
		close(d.full)
		<-d.ended
	}
	d.hash.Write(d.fill)
	d.full, d.fill = nil, nil
	return hex.EncodeToString(d.hash.Sum(nil))
}
