package state

import "testing"

// TestHome: root, which tests need not be, looks at nothing in a user's home. No such file
// exists, which a look would notice.
func TestHome(t *testing.T) {
	f := File{To: "/home/machinemon-update-none/bin/agent", SHA256: "11"}
	if !f.Same() {
		t.Error("a file in a home counts as changed")
	}
	if sum, err := f.Digest(); err == nil {
		t.Errorf("the digest of a file in a home is %q", sum)
	}
	if id, err := MainID("/home/../proc/self/exe"); err != nil || id.Known() {
		t.Errorf("a program in a home is identified as %v, %v", id, err)
	}
}
