package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTrust checks that stored metadata is read again, that damaged metadata is ignored,
// and that a newer program's is refused.
func TestTrust(t *testing.T) {
	tree := newTree(t)
	type chain struct{ Roots [][]byte }
	read := func(want string) {
		t.Helper()
		var c chain
		if err := tree.Trust(RoleSwap, "agent", &c); err != nil {
			t.Fatal(err)
		}
		if got := string(strings.Join(texts(c.Roots), " ")); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	read("")
	large := strings.Repeat("x", maxFile)
	for _, text := range []string{"root", large} {
		if err := tree.SetTrust(RoleSwap, "agent", chain{[][]byte{[]byte(text)}}); err != nil {
			t.Fatal(err)
		}
		read(text)
	}
	file := filepath.Join(tree.Dir(RoleSwap, "agent"), "trust.json")
	for _, damaged := range []string{"", "{", `{"format":1,"trust":{"Roots":7}}`, `{"format":1}`, strings.Repeat("x", maxTrust+1)} {
		if err := os.WriteFile(file, []byte(damaged), 0o644); err != nil {
			t.Fatal(err)
		}
		read("")
	}
	if err := os.WriteFile(file, []byte(`{"format":2}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.Trust(RoleSwap, "agent", &chain{}); err == nil || !strings.Contains(err.Error(), "its format 2 is newer than this program's 1") {
		t.Error(err)
	}
}

func texts(all [][]byte) (s []string) {
	for _, b := range all {
		s = append(s, string(b))
	}
	return s
}

func TestFloor(t *testing.T) {
	tree := newTree(t)
	for _, row := range []struct{ to, want int64 }{{0, 0}, {7, 7}, {7, 7}, {3, 7}, {8, 8}} {
		if err := tree.RaiseFloor("agent", row.to); err != nil {
			t.Fatal(err)
		}
		if got, err := tree.Floor("agent"); err != nil || got != row.want {
			t.Errorf("raised to %d: got %d, %v, want %d", row.to, got, err, row.want)
		}
	}
	file := filepath.Join(tree.Dir(RoleSwap, "agent"), "floor.json")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Floor("agent"); err == nil || !strings.Contains(err.Error(), "it is damaged (hint: ") {
		t.Errorf("got %v", err)
	}
	if err := tree.RaiseFloor("agent", 9); err != nil {
		t.Error(err)
	}
	if got, err := tree.Floor("agent"); err != nil || got != 9 {
		t.Errorf("got %d, %v", got, err)
	}
}

// TestExpiredIsRecordedOnce checks that a month of expired signatures is one record.
func TestExpiredIsRecordedOnce(t *testing.T) {
	var s Status
	s.Record(Attempt{ID: "a-0", Origin: OriginSchedule, Result: ResultCommitted})
	for i, reason := range []string{"it is one o'clock", "it is two o'clock"} {
		s.Record(Attempt{ID: AttemptID(fmt.Sprint("a-", i+1)), Time: time.Unix(int64(i), 0), Origin: OriginSchedule, Result: ResultRefused, Reason: reason, Expired: true})
	}
	if n := len(s.Attempts); n != 2 || s.Attempts[1].Reason != "it is two o'clock" {
		t.Errorf("recorded %+v", s.Attempts)
	}
}
