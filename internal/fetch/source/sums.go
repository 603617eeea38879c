package source

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// sumFile is a checksum file of the release.
type sumFile struct {
	name string
	manifest.Checksums
}

// maxSumFiles bounds how many checksum files of a release are read.
const maxSumFiles = 8

// sumName matches the usual names of checksum files in lower case, and what is before
// the usual part: checksums.txt, SHA256SUMS, app_1.2.0_checksums.txt,
// app-sha512sums.txt, checksums.sha256. MD5SUMS is among them for the sake of the
// message that it does not serve.
var sumName = regexp.MustCompile(`^(?:(.*?)[-_.])??(?:(?:md5|sha1|sha256|sha512)[-_.]?)?(?:check)?sums?(?:[-_.](?:md5|sha1|sha256|sha512))?(?:\.txt)?$`)

// usualSums are names of checksum files, to be requested if it is not known which the
// release has.
var usualSums = []string{"checksums.txt", "SHA256SUMS", "sha256sums.txt", "SHA256SUMS.txt", "SHA512SUMS"}

// namedSums reports whether the operator named the release's checksum file. It must then
// state the archive's digest, even if the API states one.
func (g *github) namedSums() bool { return g.source.Checksums != "" }

// sumNames returns the names of the checksum files that are looked into for an archive,
// "" if its name is not known yet. If those of near have no digest of it, those of far may.
func (g *github) sumNames(archive string) (near, far []string) {
	if u := g.sumsURL(); u != "" {
		return []string{path.Base(u)}, nil
	}
	if g.away() && !g.namedSums() {
		for _, end := range besideSums {
			near = append(near, archive+end)
		}
		return near, nil
	}
	if g.release.Assets == nil {
		return g.guessedSums(archive), nil
	}
	pattern := g.source.ChecksumsPattern(manifest.Host(), g.version())
	for _, a := range g.release.Assets {
		name := a.Name
		if g.namedSums() {
			if fits, err := path.Match(pattern, name); err == nil && fits {
				near = append(near, name)
			}
			continue
		}
		end, _ := strings.CutPrefix(name, archive)
		m := sumName.FindStringSubmatch(strings.ToLower(name))
		switch {
		case slices.Contains(manifest.ChecksumEnds, end):
			near = append(near, name)
		case m == nil || name == archive:
		case m[1] == "" || strings.HasPrefix(strings.ToLower(archive), m[1]):
			near = append(near, name)
		case strings.HasSuffix(m[1], strings.ToLower(manifest.Number(g.version()))):
			far = append(far, name)
		}
	}
	return near, far
}

// guessedSums returns names that a checksum file may have in a release whose files are not
// known.
func (g *github) guessedSums(archive string) []string {
	if g.namedSums() {
		if pattern := g.source.ChecksumsPattern(manifest.Host(), g.version()); !isGlob(pattern) {
			return []string{pattern}
		}
		return nil
	}
	_, repo, _ := strings.Cut(g.source.Repo, "/")
	all := append(slices.Clone(usualSums), repo+"_"+manifest.Number(g.version())+"_checksums.txt")
	if archive != "" {
		all = append(all, archive+".sha256", archive+".sha256sum")
	}
	return all
}

func isGlob(pattern string) bool { return strings.ContainsAny(pattern, `*?[`) }

// readSums reads checksum files; one that does not exist is left out.
func (g *github) readSums(ctx context.Context, names []string) ([]sumFile, error) {
	files := []sumFile{} // not nil: they were read
	for _, name := range names[:min(len(names), maxSumFiles)] {
		b, err := g.small(ctx, name)
		if err != nil {
			return nil, err
		}
		if b != nil {
			files = append(files, sumFile{name, manifest.ParseChecksums(name, b)})
		}
	}
	return files, nil
}

// listedNames returns the names of the files in checksum files.
func listedNames(files []sumFile) []string {
	names := map[string]bool{}
	for _, f := range files {
		for _, l := range f.Lines {
			if name := path.Base(l.Name); l.Name != "" && plainName(name) {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// digest sets the digests of the archive that the checksum files of the release have. why
// says why none of them serves; "" if one does. files are those that were read before.
func (g *github) digest(ctx context.Context, p *manifest.Platform, files []sumFile) (why string, err error) {
	near, far := g.sumNames(p.File)
	if files == nil {
		if files, err = g.readSums(ctx, near); err != nil {
			return "", err
		}
	}
	found, whys, err := g.find(files, p.File)
	if err == nil && found == (manifest.Digests{}) && g.release.Assets != nil && len(far) > 0 {
		var more []sumFile
		if more, err = g.readSums(ctx, far); err != nil {
			return "", err
		}
		files = append(files, more...)
		found, whys, err = g.find(files, p.File)
	}
	switch {
	case err != nil:
		return "", err
	case len(files) == 0 && g.sumsURL() != "":
		return "", g.notThere(g.sumsURL(), "checksums")
	case len(files) == 0 && g.away() && !g.namedSums():
		return "there is no " + g.assetURL() + " with " + strings.Join(besideSums, " or ") + " at its end", nil
	case len(files) == 0 && g.namedSums():
		return "it has no file " + g.source.ChecksumsPattern(manifest.Host(), g.version()), nil
	case len(files) == 0:
		return "it has no checksum file such as checksums.txt, SHA256SUMS or " + p.File + ".sha256", nil
	case found == (manifest.Digests{}):
		return strings.Join(whys, "; "), nil
	case found.SHA256 != "" && p.SHA256 != "" && found.SHA256 != p.SHA256:
		return "", state.Refused("cannot use %s: a checksum file of it states the sha256 %s of %s, the API %+.70q", g.name(), found.SHA256, p.File, p.SHA256)
	case found.SHA256 != "":
		p.SHA256 = found.SHA256
	default:
		p.SHA512 = found.SHA512
	}
	return "", nil
}

// find returns the digests of an archive in checksum files, which must agree, or why each
// file has none.
func (g *github) find(files []sumFile, archive string) (found manifest.Digests, whys []string, err error) {
	for _, f := range files {
		d, err := f.Of(archive)
		switch {
		case manifest.IsUnlisted(err):
			whys = append(whys, f.name+" "+err.Error())
		case err != nil:
			return found, nil, state.Refused("cannot use %s: its %s %w", g.name(), f.name, err)
		case differ(found.SHA256, d.SHA256):
			return found, nil, g.disagree(f.name, "sha256", archive, d.SHA256, found.SHA256)
		case differ(found.SHA512, d.SHA512):
			return found, nil, g.disagree(f.name, "sha512", archive, d.SHA512, found.SHA512)
		}
		found.SHA256, found.SHA512 = cmp.Or(found.SHA256, d.SHA256), cmp.Or(found.SHA512, d.SHA512)
	}
	return found, whys, nil
}

// disagree returns the error that two checksum files of a release differ.
func (g *github) disagree(file, algorithm, archive, sum, before string) error {
	return state.Refused("cannot use %s: its %s has the %s %s of %s, a checksum file before it %s", g.name(), file, algorithm, sum, archive, before)
}

func differ(a, b string) bool { return a != "" && b != "" && a != b }

// unvouched returns the error that no digest of an archive is known.
func (g *github) unvouched(archive, why string) error {
	hint := fmt.Sprintf("its publisher can add one; machinemon-update import %s FILE#sha256=DIGEST takes an archive whose digest you know from elsewhere", g.target)
	if g.namedSums() {
		return g.lacks(fmt.Sprintf("source.checksums does not lead to a digest of %s: %s", archive, why), "set source.checksums")
	}
	if g.away() {
		return g.lacks(fmt.Sprintf("no sha256 of %s is known: %s", archive, why), "source.checksums may be the address of a file that states it")
	}
	if !g.offline {
		why = "the API states none, and " + why
	}
	return g.lacks(fmt.Sprintf("no sha256 or sha512 of %s is known: %s", archive, why), "source.checksums names a file with another name; "+hint)
}
