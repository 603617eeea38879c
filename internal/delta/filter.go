package delta

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// A filter predicts how the addresses in a copy changed, because the code or data that
// they point to moved by another distance than the copy.
const (
	filterNone byte = iota
	// filterX86 is for 32-bit displacements of x86 instructions: calls, jumps, and data
	// relative to the instruction pointer.
	filterX86
	// filterARM64 is for 26-bit displacements of arm64's branches and calls.
	filterARM64
	filters // the number of them
)

// chunk is the length in bytes of the pieces of a copy that are predicted separately. An
// address across two pieces is not predicted.
const chunk = 32 << 10

// moves knows by how much parts of the old file moved.
type moves struct {
	end int64  // no address is behind it
	all []move // by their positions in the old file
}

type move struct{ from, by int64 }

const (
	// largeMove is the length in bytes of the copies that moves considers. Short ones come
	// from any place with the same bytes.
	largeMove = 4 << 10
	// beyond is how many bytes after the old file an address may lie: memory that starts as
	// zeros has addresses, but no place in a program's file.
	beyond = 64 << 20
)

func newMoves(ops []copyOp, oldSize int64) *moves {
	m := &moves{end: oldSize + beyond}
	at := int64(0)
	for _, op := range ops {
		if op.length >= largeMove {
			m.all = append(m.all, move{op.from, at - op.from})
		}
		at += op.length + op.literal
	}
	slices.SortStableFunc(m.all, func(a, b move) int { return cmp.Compare(a.from, b.from) })
	m.all = slices.CompactFunc(m.all, func(a, b move) bool { return a.by == b.by })
	return m
}

// predict changes b, which was copied from position from of the old file and moved by by,
// into what the new file probably has.
func (m *moves) predict(filter byte, b []byte, from, by int64) {
	switch filter {
	case filterX86:
		for i := 2; i+4 <= len(b); i++ {
			op := b[i-1]
			if op&0xFE != 0xE8 && op&0xC7 != 0x05 && (op&0xF0 != 0x80 || b[i-2] != 0x0F) {
				continue
			}
			to := binary.LittleEndian.Uint32(b[i:])
			if d, ok := m.change(from+int64(i)+4+int64(int32(to)), by); ok {
				binary.LittleEndian.PutUint32(b[i:], to+uint32(d))
				i += 3
			}
		}
	case filterARM64:
		const mask = 1<<26 - 1
		for i := int(-from & 3); i+4 <= len(b); i += 4 {
			w := binary.LittleEndian.Uint32(b[i:])
			if w>>26&0x1F != 0x05 {
				continue
			}
			to := int64(int32(w<<6)) >> 4
			if d, ok := m.change(from+int64(i)+to, by); ok {
				binary.LittleEndian.PutUint32(b[i:], w&^mask|uint32((to+d)>>2)&mask)
			}
		}
	}
}

// change returns by how much the distance to an address in the old file changes if the
// place that has the distance moves by by. It reports whether the address may be one.
func (m *moves) change(address, by int64) (d int64, ok bool) {
	if address < 0 || address > m.end {
		return 0, false
	}
	i, found := slices.BinarySearchFunc(m.all, address, func(e move, at int64) int { return cmp.Compare(e.from, at) })
	if !found {
		i--
	}
	if i < 0 {
		return 0, true
	}
	return m.all[i].by - by, true
}
