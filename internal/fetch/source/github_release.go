package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	maxAnswer    = 4 << 20 // bytes of the API's answer about a release
	maxAssets    = 1000    // GitHub's own limit
	digestPrefix = "sha256:"
)

// published is the part of GitHub's description of a release that is used here.
type published struct {
	Tag    string     `json:"tag_name"`
	Page   string     `json:"html_url"`
	Assets few[asset] `json:"assets"` // nil if not known
}

// asset is one file of a release.
type asset struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "uploaded" if it is complete
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // "sha256:…"; "" if the API gives none
	// SHA512 is the digest of a checksum file by which Digest was learned.
	SHA512 string `json:"sha512,omitempty"`
	URL    string `json:"url"` // at the API, for requests with a token
}

// few are the files of a release in the answer of an API. One more than a release may have
// is enough to refuse it: a file of two bytes takes more than a hundred in memory.
type few[T any] []T

// UnmarshalJSON reads the first files.
func (f *few[T]) UnmarshalJSON(b []byte) error {
	*f = nil
	d := json.NewDecoder(bytes.NewReader(b))
	begin, err := d.Token()
	if err != nil || begin == nil {
		return err
	}
	if begin != json.Delim('[') {
		return errors.New("it is not a list")
	}
	for *f = []T{}; d.More() && len(*f) <= maxAssets; {
		var one T
		if err := d.Decode(&one); err != nil {
			return err
		}
		*f = append(*f, one)
	}
	return nil
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

// clean checks the list of files, which is not nil afterwards.
func (p *published) clean() (*published, error) {
	p.Assets = append([]asset{}, p.Assets...)
	return p, p.check()
}

func (p *published) check() error {
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

// asset returns the complete file with a name, or nil if it is not known.
func (p *published) asset(name string) *asset {
	if i := slices.IndexFunc(p.Assets, func(a asset) bool { return a.Name == name && a.complete() }); i >= 0 {
		return &p.Assets[i]
	}
	return nil
}

// remember copies the digests that were learned of the same files.
func (p *published) remember(old *published) {
	for i := range p.Assets {
		a := &p.Assets[i]
		if o := old.asset(a.Name); o != nil && a.Digest == "" && a.URL == o.URL && a.Size == o.Size {
			a.Digest, a.SHA512 = o.Digest, o.SHA512
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
