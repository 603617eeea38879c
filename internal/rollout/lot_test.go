package rollout

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

const theMachine = "0123456789abcdef0123456789abcdef"

func idOf(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(file, []byte(content), 0o444); err != nil {
		t.Fatal(err)
	}
	return ID(file)
}

// TestID checks that the ID is what systemd-id128 makes of the machine's, and that a
// machine without an ID has none.
func TestID(t *testing.T) {
	if got := idOf(t, theMachine+"\n"); got != "40755ef0668a459988cb675ce4da3a95" || !ValidID(got) {
		t.Errorf("got %q", got)
	}
	for _, none := range []string{"", "uninitialized\n", theMachine[1:], theMachine + "00"} {
		if got := idOf(t, none); got != "" {
			t.Errorf("%q: got %q", none, got)
		}
	}
	if ID(filepath.Join(t.TempDir(), "none")) != "" {
		t.Error("a machine without the file has an ID")
	}
}

// TestPlace checks that each percentage has its share of many machines, and that another
// version begins with others.
func TestPlace(t *testing.T) {
	const machines = 10_000
	var count [100]int
	moved := 0
	for i := range machines {
		id := fmt.Sprintf("%032x", i)
		p := Place(id, "v2")
		count[p]++
		if Place(id, "v2") != p {
			t.Fatal("a machine's place is another one each time")
		}
		if Place(id, "v3") != p {
			moved++
		}
	}
	for p, n := range count {
		if n < 60 || n > 140 { // four standard deviations from a hundred
			t.Errorf("%d of %d machines are at place %d", n, machines, p)
		}
	}
	if moved < machines*9/10 {
		t.Errorf("only %d machines are elsewhere for another version", moved)
	}
	// By the sha256sum of 40755ef0668a459988cb675ce4da3a95v2.
	if got := Place(idOf(t, theMachine), "v2"); got != 9 {
		t.Errorf("place %d", got)
	}
	if got := Place("", "v2"); got != 99 {
		t.Errorf("without an ID: place %d", got)
	}
}
