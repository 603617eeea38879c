package trust_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

func TestBundle(t *testing.T) {
	r := newMachine(t)
	r.ReplaceOnline()
	r.Release(2)
	b := r.Bundle(1)
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("anifest")) {
		t.Errorf("the manifest is in it: %s", raw)
	}
	again, err := trust.Decode(raw, b.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (trust.Client{Pin: r.Pin, Clock: r.now}).Check(again); err != nil {
		t.Error(err)
	}
	for _, damaged := range []string{"", "[]", `{"roots":"x"}`, "{"} {
		if _, err := trust.Decode([]byte(damaged), nil); err == nil || err.Error() != "the metadata is damaged" {
			t.Errorf("%q: %v", damaged, err)
		}
	}
	if _, err := (trust.Metadata{Roots: make([][]byte, 3), Targets: make([]byte, trust.MaxMetadata)}).Encode(); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("got %v", err)
	}
	// All metadata that a client accepts fits, with MaxRotations roots of a real size.
	full := trust.Metadata{Timestamp: make([]byte, trust.MaxTimestamp), Snapshot: make([]byte, trust.MaxSnapshot), Targets: make([]byte, trust.MaxTargets)}
	for range trust.MaxRotations {
		full.Roots = append(full.Roots, make([]byte, 19_000))
	}
	if _, err := full.Encode(); err != nil {
		t.Error(err)
	}
}

func TestCheckRoot(t *testing.T) {
	r := newMachine(t)
	if s, err := trust.CheckRoot(r.Pin); err != nil || s.String() != "root v1" || !s.Expires.Equal(start.Add(365*day)) {
		t.Errorf("%v, %v", s, err)
	}
	r.Root.Signed.Expires = start.Add(-day)
	if _, err := trust.CheckRoot(trusttest.Sign(r.Repo, r.Root, r.Keys[trust.RoleRoot]...)); err != nil {
		t.Errorf("expired: %v", err)
	}
	for want, b := range map[string][]byte{
		"root: it is missing": nil,
		"root v1: too few valid signatures of the keys that a root names for it (got 1, want 2)": trusttest.Sign(r.Repo, r.Root, r.Keys[trust.RoleRoot][:1]...),
		"root v1: too few valid signatures of the keys that a root names for it (got 0, want 1)": bytes.Replace(r.Pin, []byte(`"threshold":2`), []byte(`"threshold":1`), 1),
		`root: it is of the role "timestamp"`:                                                    r.Files[trust.TimestampFile],
	} {
		if _, err := trust.CheckRoot(b); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
