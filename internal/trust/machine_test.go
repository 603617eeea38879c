package trust_test

import (
	"encoding/json"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// machine has two clients of a repository with the same pin: this package's and go-tuf's.
type machine struct {
	*trusttest.Repo
	t     testing.TB
	now   time.Time
	state trust.State
	terms trust.Terms
	cache string // of go-tuf's client
}

// release returns the first release of every repository here.
func release() *manifest.Manifest {
	return &manifest.Manifest{Schema: 1, Product: "agent", Version: "v1", Sequence: 1, Platforms: map[string]manifest.Platform{
		"linux-amd64": {File: "a", SHA256: manifest.Digest(nil), Size: 1, Contents: map[string]manifest.Content{"agent": {SHA256: manifest.Digest(nil)}}},
	}}
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{Repo: trusttest.NewOf(t, "publisher", start, release()), t: t, now: start, cache: t.TempDir(),
		terms: trust.Terms{Product: "agent", Platform: "linux-amd64"}}
	m.Check = m.ours
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// look checks the metadata, the manifest and the terms, as a machine does.
func (m *machine) look() (sequence int, err error) {
	m.t.Helper()
	got, state, err := trust.Client{Pin: m.Pin, State: m.state, Clock: m.now}.Check(m.Bundle(1))
	// The state must be the same after it is stored and read.
	stored, marshalErr := json.Marshal(state)
	m.must(marshalErr)
	m.state = trust.State{}
	m.must(json.Unmarshal(stored, &m.state))
	if err == nil {
		err = m.terms.Check(got.Manifest)
	}
	if err != nil {
		return 0, err
	}
	m.terms.Floor, m.terms.Installed = got.Manifest.Sequence, got.Manifest.Version
	return int(got.Manifest.Sequence), nil
}

// ours checks with this package: want is the sequence, or the beginning of the error.
func (m *machine) ours(want any) {
	m.t.Helper()
	before, terms := m.state, m.terms
	got, err := m.look()
	text, refused := want.(string)
	if !refused {
		if err != nil || got != want {
			m.t.Errorf("got %d, %v, want %d", got, err, want)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), text) || !trusttest.Beyond(text) && !strings.HasPrefix(err.Error(), text) {
		m.t.Errorf("got  %v\nwant %s", err, text)
	}
	if m.terms != terms {
		m.t.Errorf("the floor is %d", m.terms.Floor)
	}
	if learned := trusttest.Learned(text, before, m.state); learned != nil {
		m.t.Errorf("refused, and stored all the same: %v", learned)
	}
}

// theirs returns the release that go-tuf's own client accepts.
func (m *machine) theirs() (sequence int, err error) {
	c, err := config.New("http://repo.example/", m.Pin)
	m.must(err)
	c.RemoteTargetsURL = c.RemoteMetadataURL
	c.LocalMetadataDir, c.LocalTargetsDir = m.cache, m.cache
	c.Fetcher = m
	u, err := updater.New(c)
	if err != nil {
		return 0, err
	}
	u.UnsafeSetRefTime(m.now)
	if err := u.Refresh(); err != nil {
		return 0, err
	}
	info, err := u.GetTargetInfo(manifest.FileName)
	if err != nil {
		return 0, err
	}
	_, raw, err := u.DownloadTarget(info, "", "")
	if err != nil {
		return 0, err
	}
	if release, err := manifest.Parse(raw); err == nil {
		sequence = int(release.Sequence)
	}
	return sequence, nil
}

// DownloadFile implements go-tuf's fetcher.Fetcher.
func (m *machine) DownloadFile(url string, most int64, _ time.Duration) ([]byte, error) {
	b, ok := m.Files[path.Base(url)]
	switch {
	case !ok:
		return nil, &metadata.ErrDownloadHTTP{StatusCode: 404, URL: url}
	case int64(len(b)) > most:
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: url}
	}
	return b, nil
}
