package source

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	maxAnswer    = 4 << 20 // bytes of the API's answer about a release
	maxAssets    = 1000    // GitHub's own limit
	digestPrefix = "sha256:"
)

// published is the part of GitHub's description of a release that is used here.
type published struct {
	Tag    string  `json:"tag_name"`
	Assets []asset `json:"assets"` // nil if not known
}

// asset is one file of a release.
type asset struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "uploaded" if it is complete
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // "sha256:…"; "" if the API gives none
	URL    string `json:"url"`    // at the API, for requests with a token
}

// parsePublished parses the description of a release, which is not trusted.
func parsePublished(b []byte) (*published, error) {
	var p published
	// The decoder's error is not used, because it quotes the input.
	if json.Unmarshal(b, &p) != nil || p.Tag == "" {
		return nil, state.Refused("it is not a release as GitHub's API describes one")
	}
	return p.clean()
}

// clean removes files whose upload is not complete, and checks the rest. Afterwards the
// list of files is not nil.
func (p *published) clean() (*published, error) {
	p.Assets = slices.DeleteFunc(append([]asset{}, p.Assets...), func(a asset) bool { return a.State != "" && a.State != "uploaded" })
	return p, p.check()
}

func (p *published) check() error {
	if !manifest.ValidName(p.Tag) {
		return state.Refused("its tag %+.80q is no version (1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)", p.Tag)
	}
	if len(p.Assets) > maxAssets {
		return state.Refused("the release has more than %d files", maxAssets)
	}
	seen := map[string]bool{}
	for _, a := range p.Assets {
		if !plainName(a.Name) {
			return state.Refused("the release has a file with the name %+.80q", a.Name)
		}
		if seen[a.Name] {
			return state.Refused("the release has two files %.100s", a.Name)
		}
		seen[a.Name] = true
	}
	return nil
}

// plainName reports whether a name can be part of an address and of a message.
func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, `/\`) && !strings.ContainsFunc(s, unicode.IsControl)
}

// asset returns the file with a name, or nil if it is not known.
func (p *published) asset(name string) *asset {
	if i := slices.IndexFunc(p.Assets, func(a asset) bool { return a.Name == name }); i >= 0 {
		return &p.Assets[i]
	}
	return nil
}

// remember copies the digests that were learned of the same files.
func (p *published) remember(old *published) {
	for i := range p.Assets {
		a := &p.Assets[i]
		if o := old.asset(a.Name); o != nil && a.Digest == "" && a.URL == o.URL && a.Size == o.Size {
			a.Digest = o.Digest
		}
	}
}

// sha256 returns the digest in hex without checking it, or "" if there is none.
func (a *asset) sha256() string {
	sum, ok := strings.CutPrefix(a.Digest, digestPrefix)
	if !ok {
		return ""
	}
	return sum
}

// sumLine matches a line of sha256sum(1), with its mark for text or binary. Names with a
// newline or a backslash, which sha256sum escapes, are not supported. The expression does
// not bound the name's length, because Go would compile 255 copies of a part at each
// start.
var sumLine = regexp.MustCompile(`^([0-9a-f]{64}) [ *](\P{C}+)$`)

// parseSums adds the digests in the output of sha256sum(1), by file name, to sums.
func parseSums(b []byte, sums map[string]string) error {
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		m := sumLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || len(m[2]) > 255 {
			return fmt.Errorf("line %d is not one of sha256sum(1)", n)
		}
		sum, name := m[1], m[2]
		if old, twice := sums[name]; twice && old != sum {
			return fmt.Errorf("it has another sha256 for %.100q than was told before", name)
		}
		sums[name] = sum
	}
	return nil
}
