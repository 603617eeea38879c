package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestTimestampEndsRefresh checks what four cases of TUF's conformance suite demand: if a
// repository changes after the first refresh, the second one requests nothing after the
// timestamp and stores nothing.
func TestTimestampEndsRefresh(t *testing.T) {
	for _, c := range []struct {
		name    string // name of the suite's case
		publish func(r *trusttest.Repo)
		attack  func(r *trusttest.Repo)
		err     string
	}{
		{
			name:    "unchanged",
			publish: func(*trusttest.Repo) {},
			attack:  func(*trusttest.Repo) {},
		},
		{
			name:    "test_timestamp_content_changes",
			publish: func(*trusttest.Repo) {},
			attack: func(r *trusttest.Repo) { // the version stays
				r.Timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(100)
				signTimestamp(r)
			},
		},
		{
			name:    "test_new_timestamp_version_rollback",
			publish: func(r *trusttest.Repo) { r.Timestamp.Signed.Version++; r.Resign() },
			attack:  func(r *trusttest.Repo) { r.Timestamp.Signed.Version--; r.Resign() },
			err:     "timestamp v1: it is older than timestamp v2, which was here before",
		},
		{
			name:    "test_snapshot_rollback[basic]",
			publish: func(r *trusttest.Repo) { r.Refresh() },
			attack: func(r *trusttest.Repo) {
				r.Snapshot.Signed.Version = 1
				r.Timestamp.Signed.Version++
				r.Resign()
			},
			err: "timestamp v3: it names snapshot v1, older than v2, which was here before",
		},
		{
			name:    "test_snapshot_rollback[with hashes]",
			publish: func(r *trusttest.Repo) { r.Refresh(); nameByHash(t, r) },
			attack: func(r *trusttest.Repo) {
				r.Snapshot.Signed.Version = 1
				r.Timestamp.Signed.Version++
				r.Resign()
				nameByHash(t, r)
			},
			err: "timestamp v3: it names snapshot v1, older than v2, which was here before",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo := newRepo(t)
			c.publish(repo)
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				name := path.Base(r.URL.Path)
				asked = append(asked, name)
				if b, ok := repo.Files[name]; ok {
					w.Write(b)
				} else {
					http.NotFound(w, r)
				}
			}))
			defer server.Close()
			dir := t.TempDir()
			refresh := func() error {
				c := client{dir: dir} // a new client, as in a new process
				return c.refresh(t.Context(), server.URL)
			}
			if err := os.WriteFile(filepath.Join(dir, "root.json"), repo.Pin, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := refresh(); err != nil {
				t.Fatal(err)
			}
			before := stored(t, dir)
			c.attack(repo)
			asked = nil
			if err := refresh(); (err == nil) != (c.err == "") || err != nil && !strings.HasSuffix(err.Error(), c.err) {
				t.Errorf("got  %v\nwant %s", err, c.err)
			}
			if want := []string{"2.root.json", trust.TimestampFile}; !slices.Equal(asked, want) {
				t.Errorf("requested %v, want %v", asked, want)
			}
			if after := stored(t, dir); after != before {
				t.Errorf("stored\n%s\nhad\n%s", after, before)
			}
		})
	}
}

func newRepo(t *testing.T) *trusttest.Repo {
	return trusttest.New(t, &manifest.Manifest{Schema: 1, Product: "agent", Version: "v1", Sequence: 1,
		Platforms: map[string]manifest.Platform{"linux-amd64": {File: "a", SHA256: manifest.Digest(nil), Size: 1}}})
}

func signTimestamp(r *trusttest.Repo) {
	r.Files[trust.TimestampFile] = trusttest.Sign(r, r.Timestamp, r.Keys[trust.RoleTimestamp]...)
}

// nameByHash makes the timestamp name its snapshot by length and hash as well.
func nameByHash(t *testing.T, r *trusttest.Repo) {
	t.Helper()
	name, _, err := trust.Next(trust.RoleTimestamp, r.Files[trust.TimestampFile])
	if err != nil {
		t.Fatal(err)
	}
	file, err := metadata.TargetFile().FromBytes("", r.Files[name])
	if err != nil {
		t.Fatal(err)
	}
	named := r.Timestamp.Signed.Meta["snapshot.json"]
	named.Length, named.Hashes = file.Length, file.Hashes
	signTimestamp(r)
}

// stored returns the metadata that the client has.
func stored(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		b, err := os.ReadFile(filepath.Join(dir, role+".json"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return strings.Join(all, "\n")
}
