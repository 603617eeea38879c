package target

import (
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestOfUser: what a target may install in a directory that a user owns, and that root's
// directories contain. The swap sees to the user.
func TestOfUser(t *testing.T) {
	testkit.NeedRoot(t, "it takes files of several users")
	const program, hint = "/srv/app/bin/agent", "write to = \"/usr/local/bin/agent\" here and ExecStart=/usr/local/bin/agent in the unit, which may keep its User=; root installs nothing where a user can write"
	for _, row := range []struct{ name, file, want, hint string }{
		{"a program", "unit = 'x.service'\n[[install]]\nfrom = 'x'\nto = '%T'\n[health]\nversion_command = ['%T']\n", "", ""},
		{"mode", "unit = 'x.service'\n[[install]]\nfrom = 'x'\nto = '%T'\nmode = '0755'\n", ":5: install.mode: means nothing for a file in a user's directory, which keeps what it has", "remove it"},
		{"a directory", "unit = 'x.service'\n[[install]]\nfrom = 'x/'\nto = '%T'\n[health]\nmain = '%T/x'\n", ":4: install.to: must not be a directory in a user's directory", hint},
		{"no unit", "unit = ''\n[[install]]\nfrom = 'x'\nto = '%T'\n", `:4: install.to: must not be in a user's directory beside unit = ""`, hint},
		{"a hook", "unit = 'x.service'\n[[install]]\nfrom = 'x'\nto = '%T'\n[hooks]\npre_swap = ['%T']\n", ":6: hooks.pre_swap: /srv/app/bin is owned by user 1000, not by root", rootOnlyHint},
		{"forbidden", "unit = 'x.service'\n[[install]]\nfrom = 'x'\nto = '/run/user/agent'\n", ":4: install.to: must not be in /run", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: strings.ReplaceAll(row.file, "%T", program), program: "", "/run/user/agent": ""})
			for _, dir := range []string{"/srv/app/bin", "/run/user"} {
				must(t, os.Chown(d.Root+dir, 1000, 1000))
			}
			if row.want != "" {
				refused(t, d, "agent", adminFile+row.want, row.hint)
				return
			}
			agent, err := d.Load("agent")
			must(t, err)
			if dirs := agent.Directories(); len(dirs) > 0 {
				t.Errorf("root writes in %q", dirs)
			}
			checkDestinations(t, agent, []*Target{agent}, "", "")
			must(t, os.Chmod(d.Root+"/srv/app", 0o777)) // somebody can replace app's directory by another
			checkDestinations(t, agent, []*Target{agent}, ":4: install.to: /srv/app is writable by everyone", rootOnlyHint)
		})
	}
}

// TestOfUserElsewhere: the directories of this machine say nothing about another one.
func TestOfUserElsewhere(t *testing.T) {
	testkit.NeedRoot(t, "it gives files away")
	d := tree(t, map[string]string{"/srv/app/agent": ""})
	giveAway(t, d.Root+"/srv/app")
	for c, want := range map[checker]bool{{root: d.Root}: true, {root: d.Root, elsewhere: true}: false} {
		if got := c.ofUser("/srv/app/agent"); got != want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if path := d.Root + "/srv/app/agent"; durable.OfUser(path) {
		t.Errorf("%s, below a directory to which everyone can write, is of a user", path)
	}
}
