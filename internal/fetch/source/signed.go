package source

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
)

// Signed is a source that may have signatures beside its files.
type Signed interface {
	Source
	// Name returns the source's name for messages, after Manifest was called.
	Name() string
	// Evidence returns what may prove the release that was just read, the best first: that
	// of the manifest if whole is set, or else that of the archive. It verifies nothing.
	Evidence(ctx context.Context, r *Release, whole bool) ([]signature.Evidence, error)
}

// signatureEnds are the ends of the names of files with a signature. Content tells of what
// kind it is: .sig may be anything.
var signatureEnds = []string{".minisig", ".asc", ".sig"}

// checksumFile matches the names of files of checksums.
var checksumFile = regexp.MustCompile(`(?i)checksums|shasums|sha256|sha512`)

// maxCandidates is how many files of checksums are looked at.
const maxCandidates = 8

// files reads the files of a source.
type files struct {
	// names are those that the source has; nil if not known.
	names []string
	sums  string // the name of a file of checksums that need not look like one; "" for none
	// read returns the content of a file; nil if there is none. More than most bytes are
	// an error.
	read func(name string, most int64) ([]byte, error)
}

// ofManifest returns the evidence of the manifest with a name.
func (f files) ofManifest(name string) ([]signature.Evidence, error) {
	return f.signaturesOf(signature.Evidence{Of: signature.OfManifest, File: name})
}

// ofArchive returns the evidence of an archive: first that by files of checksums, which
// have its name.
func (f files) ofArchive(archive string) (all []signature.Evidence, err error) {
	sums := f.names
	if sums == nil {
		sums = usualSums
	}
	n := 0
	for _, name := range sums {
		end := path.Ext(name)
		if name != f.sums && !checksumFile.MatchString(name) || slices.Contains(signatureEnds, end) && end != ".asc" {
			continue
		}
		if n++; n > maxCandidates {
			break
		}
		more, err := f.ofChecksums(name, archive)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	more, err := f.signaturesOf(signature.Evidence{Of: signature.OfArchive, File: archive})
	return append(all, more...), err
}

// ofChecksums returns the evidence by a file of checksums, clear-signed or with a
// signature beside it. It returns nothing if the file does not have the archive's name.
func (f files) ofChecksums(name, archive string) ([]signature.Evidence, error) {
	if path.Ext(name) != ".asc" && !f.signed(name) {
		return nil, nil
	}
	content, err := f.read(name, signature.MaxChecksums)
	if content == nil || err != nil {
		return nil, err
	}
	if _, err := manifest.ParseChecksums("", content).Of(archive); manifest.IsUnlisted(err) {
		return nil, nil
	}
	e := signature.Evidence{Of: signature.OfChecksums, File: name, Content: content}
	if path.Ext(name) == ".asc" {
		return []signature.Evidence{e}, nil
	}
	return f.signaturesOf(e)
}

// signed reports whether the source may have a signature of a file.
func (f files) signed(name string) bool {
	return f.names == nil || slices.ContainsFunc(signatureEnds, func(end string) bool { return slices.Contains(f.names, name+end) })
}

// signaturesOf returns the evidence e with each signature that is beside its file.
func (f files) signaturesOf(e signature.Evidence) (all []signature.Evidence, err error) {
	for _, end := range signatureEnds {
		name := e.File + end
		if f.names != nil && !slices.Contains(f.names, name) {
			continue
		}
		sig, err := f.read(name, signature.MaxSignature)
		if err != nil {
			return nil, err
		}
		if sig != nil {
			e.Signature, e.Beside = sig, name
			all = append(all, e)
		}
	}
	return all, nil
}

// Evidence implements [Signed]. A web server has a manifest, so that is what is signed.
func (w *web) Evidence(ctx context.Context, _ *Release, whole bool) ([]signature.Evidence, error) {
	if !whole {
		return nil, nil
	}
	base := w.base
	defer func() { w.base = base }() // the archive is where the manifest is
	return files{read: func(name string, most int64) ([]byte, error) {
		b, err := w.Beside(ctx, name, most)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return b, err
	}}.ofManifest(path.Base(w.URL.Path))
}

// Evidence implements [Signed].
func (d *Disk) Evidence(ctx context.Context, r *Release, whole bool) ([]signature.Evidence, error) {
	name, err := d.locate()
	if err != nil {
		return nil, err
	}
	dir, err := d.root.Open(".")
	if err != nil {
		return nil, unreadable(d.dir, err)
	}
	defer dir.Close()
	// A directory of so many files is no release's; the signature is found all the same.
	names, err := dir.Readdirnames(10_000)
	if err != nil {
		return nil, unreadable(d.dir, err)
	}
	slices.Sort(names)
	f := files{names: names, read: func(name string, most int64) ([]byte, error) { return d.Beside(ctx, name, most) }}
	if whole {
		return f.ofManifest(name)
	}
	return f.ofArchive(r.Platform.File)
}

// Name implements [Signed].
func (g *github) Name() string { return g.name() }

// Evidence implements [Signed].
func (g *github) Evidence(ctx context.Context, r *Release, whole bool) ([]signature.Evidence, error) {
	f := files{read: func(name string, most int64) ([]byte, error) {
		b, err := g.small(ctx, name)
		if int64(len(b)) > most {
			err = state.Refused("cannot use %s of %s: it has more than %d bytes", name, g.name(), most)
		}
		return b, err
	}}
	if g.release.Assets != nil {
		f.names = []string{}
	}
	for _, a := range g.release.Assets {
		f.names = append(f.names, a.Name)
	}
	if whole {
		return f.ofManifest(manifest.FileName)
	}
	if g.away() || g.sumsURL() != "" {
		f.names = g.signedNames(f.names, r.Platform.File)
		f.sums = path.Base(g.sumsURL())
	}
	return f.ofArchive(r.Platform.File)
}

// Lacking returns the error that a release has no signature.
func Lacking(s Signed, r *Release, whole bool) error {
	of, hint := "a file of checksums or of "+r.Platform.File, "has its publisher signed it, as FILE.minisig, FILE.asc or FILE.sig?"
	if whole {
		of = manifest.FileName
		hint = "trust.product is set, so the manifest must be signed, as FILE.minisig, FILE.asc or FILE.sig beside it"
	}
	return state.Refused("cannot verify %s: it has no signature of %s (hint: %s)", s.Name(), of, hint)
}
