package delta

import (
	"encoding/binary"
	"math/bits"
)

const (
	// window is the length in bytes of the matches that the index finds, if they begin at
	// a multiple of stride in the old file.
	window = 16
	stride = 8
	// farthest is how far two places are compared before one is preferred, so that the time
	// stays linear in files that repeat themselves.
	farthest = 1024
	// farthestBack is how far a copy is extended before the place where it matches exactly.
	farthestBack = 1 << 20
	// gain is how many bytes more a place must match than the one before it continued, to
	// be worth an op.
	gain = 8
	// longestCopy limits the length of a copy: each has a filter of its own.
	longestCopy = 256 << 10
)

// index finds places of the old file by what they contain.
type index struct {
	old   []byte
	shift int     // of a hash, for the table
	table []int32 // position/stride + 1 in old, 0 for none
}

func newIndex(old []byte) *index {
	x := &index{old: old}
	size := max(1, bits.Len(uint(len(old)/stride)))
	x.shift, x.table = 64-size, make([]int32, 1<<size)
	for at := 0; at+window <= len(old); at += stride {
		// The first of equal places stays.
		if h := x.hash(old[at:]); x.table[h] == 0 {
			x.table[h] = int32(at/stride) + 1
		}
	}
	return x
}

func (x *index) hash(b []byte) uint64 {
	const prime = 0x9E3779B185EBCA87
	h := (binary.LittleEndian.Uint64(b)*prime ^ binary.LittleEndian.Uint64(b[8:])) * prime
	return h >> x.shift
}

// find returns a place of the old file that begins like b, and how far, up to farthest.
func (x *index) find(b []byte) (at, n int) {
	if len(b) < window {
		return 0, 0
	}
	at = (int(x.table[x.hash(b)]) - 1) * stride
	if at < 0 {
		return 0, 0
	}
	if n = common(x.old[at:], b[:min(len(b), farthest)]); n < window {
		return 0, 0
	}
	return at, n
}

// common returns the length of the common beginning.
func common(a, b []byte) int {
	n, most := 0, min(len(a), len(b))
	for ; n+8 <= most; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < most && a[n] == b[n] {
		n++
	}
	return n
}

// matcher divides the new file into ops.
type matcher struct {
	*index
	new []byte
	ops []copyOp
}

// match returns the ops that make new from old. As in bsdiff, a copy goes on over bytes
// that differ, until another place of the old file matches better: a program whose
// addresses moved is similar over long distances, and equal over short ones only.
func match(old, new []byte) []copyOp {
	m := &matcher{index: newIndex(old), new: new}
	// A copy with this offset, old position minus new, begins at anchor. It matches exactly
	// at scan.
	anchor, scan, offset := 0, 0, 0
	for anchor < len(new) && len(m.ops) < maxOps-1-len(new)/longestCopy {
		next, from := m.better(scan, offset)
		length := m.forward(anchor, next, offset)
		back := 0
		if next < len(new) {
			back = m.backward(next, max(anchor, next-farthestBack), from-next)
			if over := anchor + length - (next - back); over > 0 {
				keep := m.split(next-back, over, offset, from-next)
				length, back = length-over+keep, back-keep
			}
		}
		m.add(anchor+offset, length, next-back-anchor-length)
		anchor, scan, offset = next-back, next, from-next
	}
	if anchor < len(new) {
		m.add(0, 0, len(new)-anchor)
	}
	return m.ops
}

func (m *matcher) add(from, length, literal int) {
	for length > longestCopy {
		m.ops = append(m.ops, copyOp{from: int64(from), length: longestCopy})
		from, length = from+longestCopy, length-longestCopy
	}
	if length > 0 || literal > 0 {
		m.ops = append(m.ops, copyOp{from: int64(from), length: int64(length), literal: int64(literal)})
	}
}

// equal reports whether the byte at a position of the new file is that of the old one.
func (m *matcher) equal(at, offset int) bool {
	from := at + offset
	return from >= 0 && from < len(m.old) && m.new[at] == m.old[from]
}

func (m *matcher) agree(at, n, offset int) (same int) {
	for i := at; i < at+n; i++ {
		if m.equal(i, offset) {
			same++
		}
	}
	return same
}

// better returns the first position from which another place of the old file matches
// better than at offset, and that place; or the end of the new file.
func (m *matcher) better(at, offset int) (next, place int) {
	for at < len(m.new) {
		if from := at + offset; from >= 0 && from < len(m.old) {
			if n := common(m.old[from:], m.new[at:]); n >= window {
				at += n
				continue
			}
		}
		from, n := m.find(m.new[at:])
		switch {
		case n == 0 || from-at == offset:
			at++
		case n > m.agree(at, n, offset)+gain:
			return at, from
		default:
			at += max(1, n/32)
		}
	}
	return len(m.new), 0
}

// forward returns how many of the bytes from at to end a copy should have: those with the
// largest excess of equal bytes over others.
func (m *matcher) forward(at, end, offset int) (length int) {
	score, best := 0, 0
	for i := at; i < end && i+offset < len(m.old); i++ {
		if m.equal(i, offset) {
			score++
		} else {
			score--
		}
		if score > best {
			best, length = score, i+1-at
		}
	}
	return length
}

// backward is forward in the other direction, down to least.
func (m *matcher) backward(at, least, offset int) (length int) {
	score, best := 0, 0
	for i := at - 1; i >= least && i+offset >= 0; i-- {
		if m.equal(i, offset) {
			score++
		} else {
			score--
		}
		if score > best {
			best, length = score, at-i
		}
	}
	return length
}

// split returns how many of n bytes, which two copies could have, the first should keep.
func (m *matcher) split(at, n, first, second int) (keep int) {
	score, best := 0, 0
	for i := range n {
		if m.equal(at+i, first) {
			score++
		}
		if m.equal(at+i, second) {
			score--
		}
		if score > best {
			best, keep = score, i+1
		}
	}
	return keep
}
