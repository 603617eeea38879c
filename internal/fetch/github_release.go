package fetch

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

const (
	maxAnswer    = 4 << 20 // bytes of what the API says of a release
	maxAssets    = 1000    // GitHub's own limit
	digestPrefix = "sha256:"
)

// published is what GitHub's API says of a release, as far as it is used here.
type published struct {
	Tag    string  `json:"tag_name"`
	Assets []asset `json:"assets"` // nil: not known
}

// asset is one file of a release.
type asset struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "uploaded" when it is whole
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // "sha256:…"; "" where the API tells none
	URL    string `json:"url"`    // the API's own, for those with a token
}

// parsePublished reads what a stranger says of a release.
func parsePublished(b []byte) (*published, error) {
	var p published
	// The decoder's errors quote what they do not like.
	if json.Unmarshal(b, &p) != nil || p.Tag == "" {
		return nil, refused("it is not a release as GitHub's API describes one")
	}
	return p.clean()
}

// clean leaves out what is not uploaded in whole, which is as good as not there, and
// checks the rest. The list of files is not nil then.
func (p *published) clean() (*published, error) {
	p.Assets = slices.DeleteFunc(append([]asset{}, p.Assets...), func(a asset) bool { return a.State != "" && a.State != "uploaded" })
	return p, p.check()
}

func (p *published) check() error {
	if !manifest.ValidName(p.Tag) {
		return refused("its tag %+.80q is no version (1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)", p.Tag)
	}
	if len(p.Assets) > maxAssets {
		return refused("the release has more than %d files", maxAssets)
	}
	seen := map[string]bool{}
	for _, a := range p.Assets {
		if !plainName(a.Name) {
			return refused("the release has a file with the name %+.80q", a.Name)
		}
		if seen[a.Name] {
			return refused("the release has two files %.100s", a.Name)
		}
		seen[a.Name] = true
	}
	return nil
}

// plainName tells whether a name can be a part of an address, and of a message.
func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, `/\`) && !strings.ContainsFunc(s, unicode.IsControl)
}

// asset finds a file by its name; nil where it is not among those known.
func (p *published) asset(name string) *asset {
	if i := slices.IndexFunc(p.Assets, func(a asset) bool { return a.Name == name }); i >= 0 {
		return &p.Assets[i]
	}
	return nil
}

func (p *published) names() (all []string) {
	for _, a := range p.Assets {
		all = append(all, a.Name)
	}
	return all
}

// remember takes over the digests that were learned of the same files.
func (p *published) remember(old *published) {
	for i := range p.Assets {
		a := &p.Assets[i]
		if o := old.asset(a.Name); o != nil && a.Digest == "" && a.URL == o.URL && a.Size == o.Size {
			a.Digest = o.Digest
		}
	}
}

// sha256 is the digest in hex, not checked; "" where there is none.
func (a *asset) sha256() string {
	sum, ok := strings.CutPrefix(a.Digest, digestPrefix)
	if !ok {
		return ""
	}
	return sum
}

// sumLine is a line of sha256sum(1), with its mark for text or binary. Names
// with a newline or a backslash, which it escapes, are none of ours. The length
// is not the expression's, which would be compiled 255 times over at each start.
var sumLine = regexp.MustCompile(`^([0-9a-f]{64}) [ *](\P{C}+)$`)

// parseSums adds the digests of a list by sha256sum(1), by name, to sums.
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
