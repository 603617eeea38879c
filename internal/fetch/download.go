package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// reportEvery is the least time between two reports of progress.
const reportEvery = 100 * time.Millisecond

// download makes the bundle of a release and hands it on. The bundle has these deltas or,
// if deltas is nil, the archive.
func (f *fetcher) download(ctx context.Context, src source, r *release, deltas []delta) error {
	return f.tree.HandOn(state.RoleFetch, f.name, f.order.Attempt, func(b *state.Bundle) error {
		receipt := state.Receipt{Attempt: f.order.Attempt, Platform: r.key, Deltas: deltas != nil}
		for n, d := range deltas {
			name := strconv.Itoa(n)
			if err := f.add(ctx, src, r, d.file, b, name); err != nil {
				return err
			}
			receipt.Files = append(receipt.Files, state.ReceiptFile{Entry: d.entry, Name: name})
		}
		if deltas == nil {
			if err := f.add(ctx, src, r, r.platform, b, state.PayloadName); err != nil {
				return err
			}
		}
		return b.Describe(r.raw, r.metadata, receipt)
	})
}

// add downloads an archive or a delta into the bundle.
func (f *fetcher) add(ctx context.Context, src source, r *release, p manifest.Platform, b *state.Bundle, name string) (err error) {
	part, err := openPartial(f.tree.Dir(state.RoleFetch, f.name), p)
	if err != nil {
		return err
	}
	defer func() {
		if failed := part.leave(err); failed != nil {
			err = fmt.Errorf("%w; %w", err, failed)
		}
	}()
	if err := f.room(p, part.have.bytes); err != nil {
		return err
	}
	if err := f.payload(ctx, src, r, part); err != nil {
		return err
	}
	return part.move(b, name)
}

// needs returns the disk space for a download in bytes: the archive, the verifier's copy
// of it, and what is unpacked from that. The sum cannot overflow: the manifest's sizes are
// at most 1 TiB.
func needs(p manifest.Platform) int64 { return 2*p.Size + p.UnpackedSize }

// room returns an error if the download, with have bytes stored, would fill the disk.
func (f *fetcher) room(p manifest.Platform, have int64) error {
	dir := f.tree.Dir(state.RoleFetch, f.name)
	free, err := state.Free(dir)
	if err != nil {
		return err
	}
	if need := needs(p) - have; need > free {
		return fmt.Errorf("cannot download %s: it needs %.1f MB on the disk of %s, and %.1f MB are free",
			p.File, float64(need)/1e6, dir, float64(free)/1e6)
	}
	return nil
}

// payload downloads the archive, and verifies the bytes that it reads back from the disk.
func (f *fetcher) payload(ctx context.Context, src source, r *release, part *partial) error {
	for again := false; ; again = true {
		if err := f.fill(ctx, src, part); err != nil {
			return err
		}
		sum, _, err := durable.SHA256(io.NewSectionReader(part.file, 0, math.MaxInt64))
		if err != nil {
			return fmt.Errorf("cannot read %s back: %w", part.name, durable.Cause(err))
		}
		if l, ok := src.(learner); ok && part.of.SHA256 == unknownDigest {
			return l.learn(r, sum)
		}
		if sum == part.of.SHA256 {
			return nil
		}
		if !part.pieced || again {
			return refused("cannot use %s: its sha256 is %s, the manifest says %s", part.name, sum, part.of.SHA256)
		}
		// The pieces do not fit together, or a power cut damaged some. That says nothing
		// about the source's archive, so it is downloaded once more.
		if err := part.restart(); err != nil {
			return err
		}
	}
}

// mostFruitless is the number of connections with nothing new that ends an attempt.
const mostFruitless = 4

// fill downloads the missing part of the archive. It resumes after a lost connection as
// long as that makes progress.
func (f *fetcher) fill(ctx context.Context, src source, part *partial) error {
	came := false // whether this attempt received any bytes
	for fruitless, pause := 0, f.limits.pause; ; {
		before := part.have.bytes
		if before == part.of.Size {
			return nil
		}
		from, err := f.pour(ctx, src, part)
		if err == nil {
			continue
		}
		came = came || part.have.bytes > from
		_, limited := errors.AsType[*rateLimit](err)
		if !came || limited || part.have.etag == "" || ctx.Err() != nil || state.ResultOf(err) != state.ResultNotDownloaded {
			return err
		}
		if from == before && part.have.bytes-before >= minFlow {
			continue
		}
		// This also counts a download that starts over, which could go on without end.
		if fruitless++; fruitless == mostFruitless {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause *= 2
	}
}

// pour stores the bytes of one connection, which begins at the byte from.
func (f *fetcher) pour(ctx context.Context, src source, part *partial) (from int64, err error) {
	body, err := src.archive(ctx, part.of, part.have)
	if err != nil {
		return part.have.bytes, err
	}
	defer body.Close()
	if err := part.begin(body); err != nil {
		return 0, err
	}
	from = part.have.bytes
	part.have.bytes, err = f.receive(part.file, body, from, part.of.Size, part.name)
	return from, err
}

// receive copies the bytes after the first done ones, up to exactly size, and returns how
// many are stored then.
func (f *fetcher) receive(to io.Writer, from io.Reader, done, size int64, name string) (int64, error) {
	var (
		buf      = make([]byte, 64<<10)
		reported time.Time
	)
	for {
		n, err := from.Read(buf)
		if done+int64(n) > size {
			return done, refused("cannot use %s: it is longer than the %d bytes that the manifest says", name, size)
		}
		stored, failed := to.Write(buf[:n])
		done += int64(stored)
		if failed != nil {
			return done, fmt.Errorf("cannot store %s: %w", name, durable.Cause(failed))
		}
		if now := time.Now(); now.Sub(reported) >= reportEvery || done == size {
			reported = now
			f.report(done, size)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return done, notDownloaded("cannot download %s: %w", name, err)
		}
	}
	if done < size {
		return done, refused("cannot use %s: it ends after %d bytes, the manifest says %d", name, done, size)
	}
	return done, nil
}
