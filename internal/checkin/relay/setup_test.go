package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRenewed checks that the relay follows the agent's server, except against a server
// that the operator wrote.
func TestRenewed(t *testing.T) {
	const from, server, shipped = "/root/client.toml", "https://b.example.com/mon", "#server_url = \"https://x\"\n"
	block := func(url, more string) string {
		return "\n# Written by `machinemon-checkin-relay --setup`, from /root/client.toml.\nserver_url = \"" + url + "\"\n" + more
	}
	const skip, ca = "insecure_skip_tls = true\n", "ca_file = \"/ca.pem\"\n"
	for name, c := range map[string]struct {
		data     string
		insecure bool
		ca       string
		want     string // "" if nothing is to change
		err      string
	}{
		"first":                      {data: shipped, want: shipped + block(server, "")},
		"any certificate":            {data: shipped, insecure: true, ca: "/ca.pem", want: shipped + block(server, skip)},
		"own authority":              {data: shipped, ca: "/ca.pem", want: shipped + block(server, ca)},
		"the operator's authority":   {data: "ca_file = \"/x.pem\"\n", ca: "/ca.pem", want: "ca_file = \"/x.pem\"\n" + block(server, "")},
		"the operator's choice":      {data: "insecure_skip_tls = false\n", insecure: true, want: "insecure_skip_tls = false\n" + block(server, "")},
		"another server since":       {data: shipped + block("https://a.example.com", skip) + "target = \"a\"\n", want: shipped + "target = \"a\"\n" + block(server, "")},
		"another certificate since":  {data: shipped + block(server, ca), want: shipped + block(server, "")},
		"the operator's":             {data: "server_url = \"" + server + "/\"\n"},
		"the operator's, another":    {data: "server_url = \"https://a\"\n", err: `server_url = "https://a" (hint: remove that line`},
		"the operator's, beside":     {data: "target = \"a\"\n" + block("https://a", "") + "ca_file = \"/x.pem\"\n", ca: "/ca.pem", want: "target = \"a\"\n" + block(server, ca)},
		"the operator's, in between": {data: block("https://a", "") + "\nca_file = \"/x.pem\"\n", ca: "/ca.pem", want: "\nca_file = \"/x.pem\"\n" + block(server, "")},
	} {
		got, err := renewed([]byte(c.data), from, server, c.insecure, c.ca)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) || string(got) != c.want {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", name, err, got, c.want)
		}
	}
}

// TestTakeBack checks that the undo of each step runs, the last one first, also that of
// the step that failed and those after an undo that fails.
func TestTakeBack(t *testing.T) {
	var did []string
	does := func(what string, err error) func(context.Context) error {
		return func(context.Context) error {
			did = append(did, what)
			return err
		}
	}
	s := &setup{}
	if err := s.step(t.Context(), does("one", nil), does("not one", nil)); err != nil {
		t.Fatal(err)
	}
	wrong := errors.New("wrong")
	if err := s.step(t.Context(), does("two", wrong), does("not two", errors.New("stuck"))); err != wrong {
		t.Fatal(err)
	}
	if err := s.takeBack(t.Context(), wrong); err == nil || err.Error() != "stuck" {
		t.Error(err)
	}
	if got := strings.Join(did, ", "); got != "one, two, not two, not one" {
		t.Error(got)
	}
	if err := s.takeBack(t.Context(), nil); err != nil || len(did) != 4 {
		t.Error(err, did)
	}
}

// TestOwnerOf checks that root's rights are not taken for a link that a user made.
func TestOwnerOf(t *testing.T) {
	testkit.NeedRoot(t, "it makes a user's directory")
	dir, err := os.MkdirTemp("/opt", "machinemon-update-test-") // where only root can write
	testkit.Must(t, err)
	t.Cleanup(func() { testkit.Must(t, os.RemoveAll(dir)) })
	testkit.Must(t, os.Chmod(dir, 0o755))
	secret, home := filepath.Join(dir, "secret"), filepath.Join(dir, "home")
	testkit.Put(t, secret, "")
	testkit.Must(t, os.Mkdir(home, 0o755))
	testkit.Must(t, os.Symlink(secret, filepath.Join(home, "link")))
	testkit.Must(t, os.Symlink(dir, filepath.Join(home, "config")))
	testkit.Put(t, filepath.Join(home, "own"), "")
	const nobody = 65534
	for _, name := range []string{"", "own", "link", "config"} {
		testkit.Must(t, os.Lchown(filepath.Join(home, name), nobody, nobody))
	}
	for file, want := range map[string]string{
		secret:                    "0",
		home + "/own":             "65534",
		home + "/link":            "is no longer a regular file",
		home + "/config/secret":   "/config/secret is root's, and others can replace it: " + home + " is ",
		home + "/config/home/own": "65534",
	} {
		uid, _, err := ownerOf(file)
		if got := fmt.Sprint(err); err == nil && fmt.Sprint(uid) != want || err != nil && !strings.Contains(got, want) {
			t.Errorf("%s: %d, %v, want %s", file, uid, err, want)
		}
	}
}
