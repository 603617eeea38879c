package source

import (
	"context"
	"path"
	"slices"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// document returns the release's manifest: the one among its files, or one made of the
// name, size and digest of the archive that the target uses.
func (g *github) document(ctx context.Context) ([]byte, error) {
	if !g.unsigned && !g.away() {
		raw, err := g.small(ctx, manifest.FileName)
		if raw != nil || err != nil {
			return raw, err
		}
	}
	var err error
	pattern := g.source.AssetPattern(manifest.Host(), g.version())
	var files []sumFile
	if g.release.Assets == nil && !g.away() { // only the checksum files list the names
		archive := pattern
		if isGlob(pattern) {
			archive = ""
		}
		near, _ := g.sumNames(archive)
		if files, err = g.readSums(ctx, near); err != nil {
			return nil, err
		}
	}
	name := pattern
	if !g.away() {
		if name, err = g.choose(pattern, listedNames(files)); err != nil {
			return nil, err
		}
	}
	p := manifest.Platform{File: name}
	a := g.release.asset(name)
	if g.away() {
		a = nil
	}
	if a != nil && g.forge == nil { // elsewhere, the same address may have another file since
		p.SHA256, p.SHA512 = a.sha256(), a.SHA512
	}
	if a != nil && a.Size != unknownSize {
		p.Size = a.Size
	} else if p.Size, err = g.size(ctx, name); err != nil {
		return nil, err
	}
	if p.SHA256 == "" || g.namedSums() {
		why, err := g.digest(ctx, &p, files)
		if err == nil && why != "" && (!g.Anybody || g.namedSums() || g.away()) {
			err = g.unvouched(name, why)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.SHA256 == "" && p.SHA512 != "" && a != nil && a.SHA512 == p.SHA512 {
		p.SHA256 = a.sha256()
	}
	if p.SHA256 == "" && g.away() {
		return nil, g.unvouched(name, "only its sha512 is stated, by which a rejected release is not found again")
	}
	if p.SHA256 == "" {
		p.SHA256 = download.UnknownDigest
	}
	m := manifest.Manifest{Schema: manifest.Schema, Version: g.version(), Platforms: map[string]manifest.Platform{manifest.Host(): p}}
	return m.Marshal()
}

// lacks returns the error that the release lacks something that the target needs.
func (g *github) lacks(problem, hint string) error {
	return state.Refused("cannot use %s: %w", g.name(), &unfit{problem, hint})
}

// choose returns the name of the archive that the target uses, which the pattern matches:
// one of the release's files, or of names, if these are not known.
func (g *github) choose(pattern string, names []string) (string, error) {
	fits := func(name string) bool {
		fits, err := path.Match(pattern, name)
		return err == nil && fits
	}
	if err := g.notYet(fits); err != nil {
		return "", err
	}
	if g.release.Assets != nil {
		names = nil
		for _, a := range g.release.Assets {
			names = append(names, a.Name)
		}
	} else if len(names) == 0 && !isGlob(pattern) {
		return pattern, nil
	}
	all := target.SomeNames(names)
	names = slices.DeleteFunc(names, func(name string) bool { return !fits(name) })
	switch len(names) {
	case 0:
		if g.release.Assets == nil {
			return "", g.lacks("no file "+pattern+" of "+g.release.Tag+" is known", "set source.asset to its name")
		}
		return "", g.lacks("it has no file "+pattern+"; it has "+all, "set source.asset")
	case 1:
		return names[0], nil
	}
	return "", state.Refused("cannot use %s: it has %d files %s, among them %+.80q and %+.80q (hint: set source.asset, with {os}, {arch}, {machine}, {version} or {number})",
		g.name(), len(names), pattern, names[0], names[1])
}
