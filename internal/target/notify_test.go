package target

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestNotify: a target's own table replaces the one for all targets, and a mistake in the
// latter disables no target.
func TestNotify(t *testing.T) {
	const forAll = "/etc/machinemon-update/notify.toml"
	ofAll := &Notify{Events: events, Mail: []string{"root"}, Format: FormatJSON}
	for _, c := range []struct {
		name, own, all string
		want           *Notify
		unnotified     string
	}{
		{"none", "", "", nil, ""},
		{"for all", "", "[notify]\nmail = ['root']\n", ofAll, ""},
		{"its own", "[notify]\nwebhook = 'https://x.test/{token}'\ntoken_file = '/etc/x'\nformat = 'slack'\nevents = ['failed']\n", "[notify]\nmail = ['root']\n",
			&Notify{Events: []string{EventFailed}, Webhook: "https://x.test/{token}", TokenFile: "/etc/x", Format: FormatSlack}, ""},
		{"a mistake for all", "", "[notify]\nmial = ['root']\n", nil, "no notification of its updates: /etc/machinemon-update/notify.toml:2: notify.mial: is not a known key"},
		{"nothing for all", "", "[notify]\n", nil, "notify: names no way to tell people"},
		{"an unknown key for all", "", "mail = ['root']\n", nil, ":1: mail: is not a known key (allowed here: only [notify])"},
		{"a misspelt table for all", "", "[notfy]\nmail = ['root']\n", nil, ":1: notfy: is not a known key (allowed here: only [notify]) (hint: did you mean \"notify\"?)"},
		{"another key for all", "", "unit = 'x.service'\n", nil, ":1: unit: is a key of a target file (allowed here: only [notify])"},
		{"its own beside a mistake", "[notify]\nmail = ['root']\n", "[", ofAll, ""},
	} {
		files := map[string]string{adminFile: minimal + c.own}
		if c.all != "" {
			files[forAll] = c.all
		}
		d := tree(t, files)
		got, err := d.Load("agent")
		must(t, err)
		if !reflect.DeepEqual(got.Notify, c.want) || !strings.Contains(got.Unnotified, c.unnotified) || (got.Unnotified == "") != (c.unnotified == "") {
			t.Errorf("%s: got %+v, %q", c.name, got.Notify, got.Unnotified)
		}
		if n := d.NotifyOf("agent"); !reflect.DeepEqual(n, c.want) {
			t.Errorf("%s: NotifyOf returns %+v", c.name, n)
		}
		put(t, d.Root+adminFile, "unit = 3\n") // a broken target file is told to those of all targets
		if n := d.NotifyOf("agent"); c.name == "for all" && !reflect.DeepEqual(n, c.want) {
			t.Errorf("%s: NotifyOf a broken target returns %+v", c.name, n)
		}
	}
	d := tree(t, map[string]string{adminFile: minimal, forAll: "[notify]\nmail = ['root']\n"})
	must(t, os.Chmod(d.Root+forAll, 0o666))
	got, err := d.Load("agent")
	must(t, err)
	if got.Notify != nil || !strings.Contains(got.Unnotified, "writable") {
		t.Errorf("a file that everybody can write is used: %+v, %q", got.Notify, got.Unnotified)
	}
}

// TestNotifyErrors: what means nothing, or sends a secret in the clear, is refused.
func TestNotifyErrors(t *testing.T) {
	for table, want := range map[string]string{
		"":                                       "notify: names no way to tell people",
		"mail = ['-x']":                          "notify.mail: must be a list of mail addresses",
		"mail = ['a@b', 'c\\n']":                 "notify.mail: must be a list of mail addresses",
		"command = ['logger']":                   "notify.command: must be a command",
		"mail = ['root']\nformat = 'ntfy'":       "notify.format: stands without notify.webhook",
		"mail = ['root']\ntoken_file = '/etc/x'": "notify.token_file: stands without notify.webhook",
		"webhook = 'https://x.test/{token}'":     "notify.webhook: has {token} without notify.token_file",
		"webhook = 'https://{token}.test/'\ntoken_file = '/etc/x'": "notify.webhook: must be a URL",
		"webhook = 'https://u:p@x.test/'":                          "notify.webhook: must be a URL",
		"webhook = 'http://x.test/'\ntoken_file = '/etc/x'":        "notify.token_file: would be sent over plain http",
		"webhook = 'https://x.test/'\ntoken_file = 'x'":            "notify.token_file: must be an absolute path",
		"webhook = 'https://x.test/'\nformat = 'irc'":              "notify.format: must be a format",
		"mail = ['root']\nevents = []":                             "notify.events: must be a list of events",
		"mail = ['root']\nevents = ['failed', 'failed']":           "notify.events: must be a list of events",
		"mail = ['root']\nevents = ['committed']":                  "notify.events: must be a list of events",
	} {
		_, err := tree(t, map[string]string{adminFile: minimal + "[notify]\n" + table + "\n"}).Load("agent")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", table, err, want)
		}
	}
	for _, table := range []string{"webhook = 'http://127.0.0.1:9093/'\ntoken_file = '/etc/x'", "mail = ['root', 'a.b+c@x.test']"} {
		if _, err := tree(t, map[string]string{adminFile: minimal + "[notify]\n" + table + "\n"}).Load("agent"); err != nil {
			t.Errorf("%q: %v", table, err)
		}
	}
}
