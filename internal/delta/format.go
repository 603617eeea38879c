// Package delta makes a file of a release from the installed one. There are two formats.
//
// A patch, which [Diff] returns, is like bsdiff's: the new file is copied from similar
// parts of the old one, and what differs is corrected. It has
//
//	"mmdelta1"
//	the sizes of five sections, each 8 bytes, little-endian
//	the sections, each a zstd frame (of size 0: none) with a window of at most 1 MiB
//
// in which numbers are varints as in encoding/binary:
//
//	ops       for each: length of the copy, length of the literal bytes after it, and if
//	          something is copied, its position in the old file minus the one where a copy
//	          without a gap would be (signed), and its filter (a byte)
//	literals  the literal bytes of all ops
//	skips     how many bytes of all copies are right, before each run of wrong ones
//	runs      the length of each run of wrong ones
//	edits     what is added to each wrong byte, modulo 256
//
// A filter changes a copy before it is corrected: it adjusts addresses to how far copies
// moved, see moves. Patches are decoded as a stream: a decoder keeps the ops and a window
// of each section, and reads the old file where it is copied.
//
// A zstd delta, which [DiffZstd] returns, is a zstd frame of the new file with the old one
// as its dictionary, as zstd --patch-from writes. A decoder keeps both files in memory.
// Clients that are older than patches know only this format.
package delta

// MaxFile is the size in bytes of the largest file, old or new, that deltas support. It is
// the largest window of a zstd encoder.
const MaxFile = 512 << 20

const (
	magic      = "mmdelta1"
	headerSize = len(magic) + 8*sections
	// maxWindow limits how many bytes of each section a decoder keeps.
	maxWindow = 1 << 20
	// maxOps limits the memory for the ops. What follows the last one is literal.
	maxOps = 1 << 19
)

// The sections of a patch.
const (
	sectionOps = iota
	sectionLiterals
	sectionSkips
	sectionRuns
	sectionEdits
	sections
)

// A copyOp makes a part of the new file: length bytes that are similar to those at from in
// the old file, and then literal bytes that are not in the old file.
type copyOp struct {
	from, length, literal int64
	filter                byte
}
