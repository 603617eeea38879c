package source

import (
	"bytes"
	"testing"
)

// FuzzAnswers: whatever a server answers, a description of releases that is taken has a
// tag, and its files have plain names.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"tag_name": "v1.0.0", "assets": [{"name": "a.tar.gz", "size": 1, "digest": "sha256:00", "url": "https://api.example.org/1", "state": "uploaded"}]}`,
		`[{"tag_name": "v1", "assets": [{"name": "a", "size": 0, "browser_download_url": "https://example.org/a"}]}]`,
		`[{"tag_name": "v1", "assets": {"links": [{"name": "two words", "url": "https://example.org/x/.."}, {"name": "", "url": "%zz"}]}}]`,
		`{"tag_name": "v1", "assets": [null, {"name": "../x"}]}`, `[null]`, `{"tag_name": 1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all := []*published{}
		if p, err := parsePublished(b); err == nil {
			all = append(all, p)
		}
		for _, forge := range []*forge{&forgejo, &gitlab} {
			var list []listed
			err := eachIn(bytes.NewReader(b), forge.product, func(b []byte) error {
				l, err := forge.parse(b)
				list = append(list, l)
				return err
			})
			if err != nil {
				list = nil
			}
			one, oneErr := forge.parse(b)
			if oneErr == nil {
				list = append(list, one)
			}
			if err != nil && oneErr != nil {
				continue
			}
			for i := range list {
				if p, err := list[i].clean(); err == nil {
					all = append(all, p)
				}
			}
		}
		for _, p := range all {
			if p.Tag == "" || p.Assets == nil {
				t.Errorf("taken: %+v", p)
			}
			for _, a := range p.Assets {
				if !plainName(a.Name) {
					t.Errorf("taken: a file %q", a.Name)
				}
			}
		}
	})
}
