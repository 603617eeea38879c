package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// reportEvery is the least time between two reports of progress.
const reportEvery = 100 * time.Millisecond

// download makes the bundle of a release and hands it on. When it fails nothing
// stays in the spool.
func (f *fetcher) download(ctx context.Context, src source, r *release) (err error) {
	if err := f.room(r.platform); err != nil {
		return err
	}
	spool, err := f.tree.OpenSpool(state.Fetch, f.name, true)
	if err != nil {
		return err
	}
	defer spool.Close()
	entry, err := spool.Stage(f.order.Attempt)
	if err != nil {
		return err
	}
	defer func() {
		entry.Close()
		if err == nil {
			return
		}
		if failed := spool.Consume(f.order.Attempt); failed != nil {
			err = fmt.Errorf("%w; %w", err, failed)
		}
	}()
	if err := f.payload(ctx, src, r, entry); err != nil {
		return err
	}
	if err := state.WriteEntry(entry, state.ManifestName, r.raw); err != nil {
		return err
	}
	if r.metadata != nil {
		if err := state.WriteEntry(entry, state.MetadataName, r.metadata); err != nil {
			return err
		}
	}
	if err := state.WriteReceipt(entry, state.Receipt{Attempt: f.order.Attempt, Platform: r.key}); err != nil {
		return err
	}
	return spool.Offer(f.order.Attempt)
}

// needs is the space for an attempt, in bytes: the archive, the verifier's own
// copy of it, and what is unpacked from that. No overflow: the manifest's sizes
// are at most 1 TiB.
func needs(p manifest.Platform) int64 { return 2*p.Size + p.UnpackedSize }

// room refuses what would fill the disk.
func (f *fetcher) room(p manifest.Platform) error {
	dir := f.tree.Dir(state.Fetch, f.name)
	free, err := state.Free(dir)
	if err != nil {
		return err
	}
	if need := needs(p); need > free {
		return fmt.Errorf("cannot download %s: it needs %.1f MB on the disk of %s, and %.1f MB are free",
			p.File, float64(need)/1e6, dir, float64(free)/1e6)
	}
	return nil
}

// payload streams the archive into the entry while hashing it.
func (f *fetcher) payload(ctx context.Context, src source, r *release, entry *os.Root) error {
	p := r.platform
	body, name, err := src.archive(ctx, p)
	if err != nil {
		return err
	}
	defer body.Close()
	// The verifier's group reads it; chmod because the unit's UMask= is 0077.
	file, err := entry.OpenFile(state.PayloadName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return fmt.Errorf("cannot store %s: %w", name, cause(err))
	}
	defer file.Close()
	if err := file.Chmod(0o640); err != nil {
		return fmt.Errorf("cannot store %s: %w", name, cause(err))
	}
	sum, err := f.receive(file, body, p.Size, name)
	if err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("cannot store %s: %w", name, cause(err))
	}
	if l, ok := src.(learner); ok && p.SHA256 == unknownDigest {
		return l.learn(r, sum)
	}
	if sum != p.SHA256 {
		return refused("cannot use %s: its sha256 is %s, the manifest says %s", name, sum, p.SHA256)
	}
	return nil
}

// receive copies exactly size bytes and returns their sha256.
func (f *fetcher) receive(to io.Writer, from io.Reader, size int64, name string) (string, error) {
	var (
		hash     = sha256.New()
		buf      = make([]byte, 64<<10)
		done     int64
		reported time.Time
	)
	for {
		n, err := from.Read(buf)
		if done += int64(n); done > size {
			return "", refused("cannot use %s: it is longer than the %d bytes that the manifest says", name, size)
		}
		hash.Write(buf[:n])
		if _, err := to.Write(buf[:n]); err != nil {
			return "", fmt.Errorf("cannot store %s: %w", name, cause(err))
		}
		if now := time.Now(); now.Sub(reported) >= reportEvery || done == size {
			reported = now
			f.report(done, size)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", notDownloaded("cannot download %s: %w", name, err)
		}
	}
	if done < size {
		return "", refused("cannot use %s: it ends after %d bytes, the manifest says %d", name, done, size)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
