package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const rootFile = "/etc/machinemon-update/trust/agent.root.json"

// TestTUF tests the keys of a target for signed releases, and its pin.
func TestTUF(t *testing.T) {
	const signed = minimal + "[trust]\nmode = 'tuf'\nproduct = 'agent'\n"
	// Signed releases may come over any transport.
	for _, source := range []string{"url = 'http://releases.example/m.json'", "url = 'https://x/m.json'\ninsecure_skip_tls = true"} {
		if _, err := tree(t, map[string]string{adminFile: signed + "[source]\n" + source}).Load("agent"); err != nil {
			t.Error(err)
		}
	}
	derived := tree(t, map[string]string{adminFile: signed + "[source]\nurl_from = { file = '/etc/agent.toml', key = 'server_url', append = '/m.json' }"})
	got, err := derived.Load("agent")
	must(t, err)
	if err := got.Derive("http://releases.example/m.json", true); err != nil {
		t.Error(err)
	}

	d := tree(t, map[string]string{adminFile: signed})
	got, err = d.Load("agent")
	must(t, err)
	pin := func(want string) {
		t.Helper()
		b, err := got.Pin()
		if err != nil {
			b = []byte(err.Error())
		}
		if string(b) != want {
			t.Errorf("got  %s\nwant %s", b, want)
		}
	}
	pin("cannot trust any release of agent: there is no " + rootFile + " (hint: sudo machinemon-update trust agent FILE --sha256 HEX)")
	at := filepath.Join(d.Root, rootFile)
	must(t, os.MkdirAll(filepath.Dir(at), 0o755))
	put(t, at, strings.Repeat("x", maxPin))
	pin(strings.Repeat("x", maxPin))
	put(t, at, strings.Repeat("x", maxPin+1))
	pin("cannot use target agent: " + rootFile + ": is larger than 500 KiB")
	must(t, os.Remove(at))
	must(t, os.Symlink("/etc/passwd", at))
	pin("cannot use target agent: " + rootFile + ": must be a regular file, not a symlink")
	must(t, os.Remove(at))

	// A user that can write the pin could sign releases.
	put(t, at, "x")
	must(t, os.Chmod(at, 0o666))
	refused(t, d, "agent", adminFile+": trust.root: "+rootFile+" is writable by everyone", rootOnlyHint)
	must(t, os.WriteFile(filepath.Join(d.Root, adminFile), []byte(minimal), 0o644))
	if _, err := d.Load("agent"); err != nil {
		t.Errorf("a root that nothing is trusted for: %v", err)
	}
}
