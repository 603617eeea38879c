package trust

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestBundle(t *testing.T) {
	r := newRepo(t)
	r.replaceOnline()
	r.release(2)
	b := r.get()
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("anifest")) {
		t.Errorf("the manifest is in it: %s", raw)
	}
	again, err := Decode(raw, b.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (Client{Pin: r.pin, Clock: r.now}).Check(again); err != nil {
		t.Error(err)
	}
	for _, damaged := range []string{"", "[]", `{"roots":"x"}`, "{"} {
		if _, err := Decode([]byte(damaged), nil); err == nil || err.Error() != "the metadata is damaged" {
			t.Errorf("%q: %v", damaged, err)
		}
	}
	if _, err := (Bundle{Roots: make([][]byte, 3), Targets: make([]byte, MaxBundle)}).Encode(); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("got %v", err)
	}
	// All that a client takes fits, with as many roots as may follow of a real size.
	full := Bundle{Timestamp: make([]byte, MaxTimestamp), Snapshot: make([]byte, MaxSnapshot), Targets: make([]byte, MaxTargets)}
	for range MaxRotations {
		full.Roots = append(full.Roots, make([]byte, 19_000))
	}
	if _, err := full.Encode(); err != nil {
		t.Error(err)
	}
}

func TestCheckRoot(t *testing.T) {
	r := newRepo(t)
	if s, err := CheckRoot(r.pin); err != nil || s.String() != "root v1" || !s.Expires.Equal(start.Add(365*day)) {
		t.Errorf("%v, %v", s, err)
	}
	r.root.Signed.Expires = start.Add(-day)
	if _, err := CheckRoot(sign(r, r.root, r.keys[Root]...)); err != nil {
		t.Errorf("expired: %v", err)
	}
	for want, b := range map[string][]byte{
		"root: it is missing": nil,
		"root v1: too few valid signatures of the keys that a root names for it (got 1, want 2)": sign(r, r.root, r.keys[Root][:1]...),
		`root: it is of the role "timestamp"`:                                                    r.files[TimestampFile],
	} {
		if _, err := CheckRoot(b); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestBuilt(t *testing.T) {
	if got := parseBuilt("1795651200"); !got.Equal(time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("got %s", got)
	}
	if got := parseBuilt(""); !got.IsZero() {
		t.Errorf("not told, and %s", got)
	}
}
