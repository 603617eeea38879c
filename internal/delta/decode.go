package delta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/durable"
)

var errDelta = errors.New("the delta does not fit the file that it is applied to, or is damaged")

// Patch writes the file of size bytes that a delta makes from the old one, and returns its
// digest in hex. The delta, of either format, may be hostile, and the old file may change
// meanwhile: Patch writes at most size+1 bytes and fails unless there are exactly size
// bytes; the caller must check the digest.
func Patch(w io.Writer, delta, old *io.SectionReader, size int64) (sum string, err error) {
	if max(old.Size(), size) > MaxFile {
		return "", fmt.Errorf("a file of more than %d bytes", MaxFile)
	}
	header := make([]byte, headerSize)
	if n, err := delta.ReadAt(header, 0); err != nil && err != io.EOF {
		return "", err
	} else if n < headerSize || string(header[:len(magic)]) != magic {
		return patchZstd(w, delta, old, size)
	}
	d := &decoder{old: old, size: size}
	d.w = io.MultiWriter(w, &d.digest)
	defer d.close()
	if err := d.open(delta, header[len(magic):]); err != nil {
		return "", err
	}
	ops, err := d.ops()
	if err != nil {
		return "", err
	}
	if err := d.apply(ops); err != nil {
		return "", err
	}
	return d.digest.Sum(), nil
}

// decoder applies one delta. Its memory is limited by maxWindow and maxOps, whatever the
// delta says.
type decoder struct {
	old    *io.SectionReader
	w      io.Writer
	digest durable.Digest // of what was written to w
	size   int64

	frames   []*zstd.Decoder
	sections [sections]*bufio.Reader

	skip, run uint64 // what is left of the current skip, and of the edited bytes after it
	ended     bool   // there are no more edits
}

func (d *decoder) close() {
	d.digest.Sum() // ends its goroutine
	for _, f := range d.frames {
		f.Close()
	}
}

// open begins to decompress the sections, whose sizes the header has.
func (d *decoder) open(delta *io.SectionReader, sizes []byte) error {
	at := int64(headerSize)
	for i := range d.sections {
		n := binary.LittleEndian.Uint64(sizes[8*i:])
		if n > uint64(delta.Size()-at) {
			return errDelta
		}
		f, err := zstd.NewReader(io.NewSectionReader(delta, at, int64(n)), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		d.frames = append(d.frames, f)
		d.sections[i] = bufio.NewReader(f)
		at += int64(n)
	}
	if at != delta.Size() {
		return errDelta
	}
	return nil
}

// ops reads the ops, which must stay in the old file and make exactly the new file's size.
func (d *decoder) ops() (ops []copyOp, err error) {
	in := d.sections[sectionOps]
	expected, made := int64(0), int64(0)
	for {
		length, err := binary.ReadUvarint(in)
		if err == io.EOF && made == d.size {
			return ops, nil
		}
		if err != nil || len(ops) == maxOps || length > uint64(d.size-made) {
			return nil, errDelta
		}
		literal, err := binary.ReadUvarint(in)
		if err != nil || literal > uint64(d.size-made)-length || length+literal == 0 {
			return nil, errDelta
		}
		op := copyOp{length: int64(length), literal: int64(literal)}
		if length > 0 {
			moved, err := binary.ReadVarint(in)
			if err != nil || moved < -MaxFile || moved > MaxFile {
				return nil, errDelta
			}
			op.from = expected + moved
			if op.filter, err = in.ReadByte(); err != nil || op.filter >= filters || op.from < 0 || op.from > d.old.Size()-op.length {
				return nil, errDelta
			}
			expected = op.from
		}
		expected += op.length + op.literal
		made += op.length + op.literal
		ops = append(ops, op)
	}
}

func (d *decoder) apply(ops []copyOp) error {
	m := newMoves(ops, d.old.Size())
	buffer := make([]byte, chunk)
	at := int64(0)
	for _, op := range ops {
		for done := int64(0); done < op.length; done += chunk {
			b := buffer[:min(chunk, op.length-done)]
			if n, err := d.old.ReadAt(b, op.from+done); n < len(b) {
				if err == io.EOF { // it was truncated meanwhile
					err = errDelta
				}
				return err
			}
			m.predict(op.filter, b, op.from+done, at-op.from)
			if err := d.edit(b); err != nil {
				return err
			}
			if _, err := d.w.Write(b); err != nil {
				return err
			}
		}
		for left := op.literal; left > 0; {
			b := buffer[:min(chunk, left)]
			if _, err := io.ReadFull(d.sections[sectionLiterals], b); err != nil {
				return errDelta
			}
			if _, err := d.w.Write(b); err != nil {
				return err
			}
			left -= int64(len(b))
		}
		at += op.length + op.literal
	}
	return d.end()
}

// edit corrects bytes that were copied.
func (d *decoder) edit(b []byte) error {
	var values [256]byte
	for len(b) > 0 {
		if d.skip > 0 {
			n := min(d.skip, uint64(len(b)))
			b, d.skip = b[n:], d.skip-n
			continue
		}
		if d.run == 0 {
			if err := d.next(); err != nil {
				return err
			}
			continue
		}
		v := values[:min(d.run, uint64(len(b)), uint64(len(values)))]
		if _, err := io.ReadFull(d.sections[sectionEdits], v); err != nil {
			return errDelta
		}
		for i, e := range v {
			b[i] += e
		}
		b, d.run = b[len(v):], d.run-uint64(len(v))
	}
	return nil
}

// next reads the next skip and run. After the last, the skip has no end.
func (d *decoder) next() (err error) {
	d.skip, err = binary.ReadUvarint(d.sections[sectionSkips])
	if err == io.EOF {
		d.skip, d.ended = math.MaxUint64, true
		return nil
	}
	if err == nil {
		d.run, err = binary.ReadUvarint(d.sections[sectionRuns])
	}
	if err != nil || d.run == 0 {
		return errDelta
	}
	return nil
}

// end returns an error if the delta has more than was used.
func (d *decoder) end() error {
	if !d.ended && d.skip+d.run > 0 {
		return errDelta
	}
	for _, s := range d.sections {
		if _, err := s.ReadByte(); err != io.EOF {
			return errDelta
		}
	}
	return nil
}
