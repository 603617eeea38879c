package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// UnknownDigest is the placeholder in the manifest for a digest that is not known before
// the download. No archive has it.
var UnknownDigest = strings.Repeat("0", 64)

// Differs is the error that an archive is another one than the manifest describes: how it
// differs.
type Differs string

func (d Differs) Error() string { return string(d) }

// reportEvery is the least time between two reports of progress.
const reportEvery = 100 * time.Millisecond

// Transfer is a download of archives from one source.
type Transfer struct {
	// Open requests an archive, from its beginning or from the end of the stored piece.
	Open func(ctx context.Context, p manifest.Platform, have Piece) (*Body, error)
	// Learn accepts the digest of an archive with [UnknownDigest]; nil refuses such archives.
	Learn  func(sum string) error
	Pause  time.Duration           // Limits.Pause
	Report func(done, total int64) // gets the numbers of bytes
}

// Download downloads the archive to part, and verifies the bytes that it reads back from the disk.
func (t *Transfer) Download(ctx context.Context, part *Partial) error {
	for again := false; ; again = true {
		if err := t.fill(ctx, part); err != nil {
			return err
		}
		want := part.of
		learn := t.Learn != nil && want.SHA256 == UnknownDigest
		if learn {
			want.SHA256 = ""
		}
		sums := want.Sums()
		if _, err := io.Copy(sums, io.NewSectionReader(part.file, 0, math.MaxInt64)); err != nil {
			return fmt.Errorf("cannot read %s back: %w", part.name, durable.Cause(err))
		}
		wrong := sums.Wrong()
		if wrong == "" && learn {
			return t.Learn(sums.SHA256())
		}
		if wrong == "" {
			return nil
		}
		if !part.pieced || again {
			// The manifest may be made of what GitHub or the operator said.
			return state.Refused("cannot use %s: %w", part.name, Differs(wrong))
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
func (t *Transfer) fill(ctx context.Context, part *Partial) error {
	came := false // whether this attempt received any bytes
	for fruitless, pause := 0, t.Pause; ; {
		before := part.have.bytes
		if before == part.of.Size {
			return nil
		}
		from, err := t.pour(ctx, part)
		if err == nil {
			continue
		}
		came = came || part.have.bytes > from
		_, limited := errors.AsType[*RateLimit](err)
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
func (t *Transfer) pour(ctx context.Context, part *Partial) (from int64, err error) {
	body, err := t.Open(ctx, part.of, part.have)
	if err != nil {
		return part.have.bytes, err
	}
	defer body.Close()
	if err := part.begin(body); err != nil {
		return 0, err
	}
	from = part.have.bytes
	part.have.bytes, err = t.Receive(part.file, body, from, part.of.Size, part.name)
	if _, sources := errors.AsType[*state.Failure](err); sources && body.veiled != nil {
		err = body.veiled(err)
	}
	return from, err
}

// Receive copies the bytes after the first done ones, up to exactly size, and returns how
// many are stored then. name is the source's name for messages.
func (t *Transfer) Receive(to io.Writer, from io.Reader, done, size int64, name string) (int64, error) {
	var (
		buf      = make([]byte, 64<<10)
		reported time.Time
	)
	for {
		n, err := from.Read(buf)
		if done+int64(n) > size {
			return done, state.Refused("cannot use %s: %w", name, Differs(fmt.Sprintf("it is longer than %d bytes", size)))
		}
		stored, failed := to.Write(buf[:n])
		done += int64(stored)
		if failed != nil {
			return done, fmt.Errorf("cannot store %s: %w", name, durable.Cause(failed))
		}
		if now := time.Now(); now.Sub(reported) >= reportEvery || done == size {
			reported = now
			t.Report(done, size)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return done, state.NotDownloaded("cannot download %s: %w", name, err)
		}
	}
	if done < size {
		return done, state.Refused("cannot use %s: %w", name, Differs(fmt.Sprintf("it ends after %d bytes instead of %d", done, size)))
	}
	return done, nil
}
