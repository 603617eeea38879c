package delta

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Diff returns the delta that makes the file after from before. Equal files give equal
// deltas.
func Diff(before, after []byte) ([]byte, error) {
	if max(len(before), len(after)) > MaxFile {
		return nil, fmt.Errorf("a file of more than %d bytes", MaxFile)
	}
	ops := match(before, after)
	p := &predictor{moves: newMoves(ops, int64(len(before))), before: before, after: after}
	var (
		s            [sections][]byte
		e            edits
		expected, at int64
	)
	for _, op := range ops {
		s[sectionOps] = binary.AppendUvarint(s[sectionOps], uint64(op.length))
		s[sectionOps] = binary.AppendUvarint(s[sectionOps], uint64(op.literal))
		if op.length > 0 {
			op.filter = p.choose(op, at)
			s[sectionOps] = binary.AppendVarint(s[sectionOps], op.from-expected)
			s[sectionOps] = append(s[sectionOps], op.filter)
			expected = op.from
			p.each(op, at, e.add)
		}
		expected += op.length + op.literal
		at += op.length
		s[sectionLiterals] = append(s[sectionLiterals], after[at:at+op.literal]...)
		at += op.literal
	}
	e.flush()
	s[sectionSkips], s[sectionRuns], s[sectionEdits] = e.skips, e.runs, e.values
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(maxWindow), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	return pack(z, s), z.Close()
}

type predictor struct {
	*moves
	before, after []byte
	buffer        [chunk]byte
}

// each calls f for the pieces of a copy to position at: as predicted, and as they are.
func (p *predictor) each(op copyOp, at int64, f func(predicted, after []byte)) {
	for done := int64(0); done < op.length; done += chunk {
		b := p.buffer[:min(chunk, op.length-done)]
		copy(b, p.before[op.from+done:])
		p.predict(op.filter, b, op.from+done, at-op.from)
		f(b, p.after[at+done:][:len(b)])
	}
}

// choose returns the filter that leaves the least to correct.
func (p *predictor) choose(op copyOp, at int64) (best byte) {
	least := -1
	for op.filter = range filters {
		wrong := 0
		p.each(op, at, func(predicted, after []byte) {
			for i, b := range predicted {
				if b != after[i] {
					wrong++
				}
			}
		})
		if least < 0 || wrong < least {
			best, least = op.filter, wrong
		}
		if wrong == 0 {
			break
		}
	}
	return best
}

// edits collects where copies differ from the new file: how many bytes are equal, how many
// are not, and by how much each of these differs.
type edits struct {
	skip, run           uint64
	skips, runs, values []byte
}

func (e *edits) add(predicted, after []byte) {
	for i, b := range predicted {
		if d := after[i] - b; d != 0 {
			e.values = append(e.values, d)
			e.run++
			continue
		}
		e.flush()
		e.skip++
	}
}

func (e *edits) flush() {
	if e.run == 0 {
		return
	}
	e.skips = binary.AppendUvarint(e.skips, e.skip)
	e.runs = binary.AppendUvarint(e.runs, e.run)
	e.skip, e.run = 0, 0
}

// pack compresses the sections.
func pack(z *zstd.Encoder, s [sections][]byte) []byte {
	header, frames := []byte(magic), []byte(nil)
	for _, section := range s {
		before := len(frames)
		frames = z.EncodeAll(section, frames)
		header = binary.LittleEndian.AppendUint64(header, uint64(len(frames)-before))
	}
	return append(header, frames...)
}
