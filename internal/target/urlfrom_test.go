package target

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// clientFile is the file in which the agent target finds its server.
const clientFile = "/root/.config/machinemon/client.toml"

const fromClient = minimal + `[source]
url_from = { file = "` + clientFile + `", key = "server_url", append = "/download/m.json" }
`

// client is a client's configuration as MachineMon writes it.
const client = `server_url = "https://monitor.example.com"
password = "hunter2"
check_in_interval = 120
insecure_skip_tls = false

[[process]]
friendly_name = "nginx"
`

func resolve(t *testing.T, d Dirs) (*Target, error) {
	t.Helper()
	got, err := d.Load("agent")
	must(t, err)
	if got.Source.Type != SourceManifest || got.Source.URL != "" || got.Source.From == nil {
		t.Fatalf("loaded: %+v", got.Source)
	}
	return got, got.Resolve(Command{})
}

func TestResolve(t *testing.T) {
	const allow = "[trust]\nallow_unauthenticated = true\n"
	for _, row := range []struct {
		name, target, client, want string
		insecure                   bool
	}{
		{"as written by the client", "", client, "https://monitor.example.com/download/m.json", false},
		{"an empty list of checks before tables", "", strings.Replace(client, "\n\n", "\ncheck = []\n\n", 1), "https://monitor.example.com/download/m.json", false},
		{"a check inline", "", strings.Replace(client, "\n\n", "\ncheck = [ { type = \"script\", script_path = \"true\" } ]\n\n", 1), "https://monitor.example.com/download/m.json", false},
		{"two checks", "", client + strings.Repeat("[[check]]\ntype = \"script\"\nscript_path = \"true\"\n", 2), "https://monitor.example.com/download/m.json", false},
		{"a comment behind a key", "", strings.Replace(client, ".com\"\n", ".com\" # \"ours\"\n", 1), "https://monitor.example.com/download/m.json", false},
		{"CRLF", "", strings.ReplaceAll(client, "\n", "\r\n"), "https://monitor.example.com/download/m.json", false},
		{"slash at the end", "", "server_url = 'https://monitor.example.com/'", "https://monitor.example.com/download/m.json", false},
		{"base path", "", "server_url = 'https://example.com:8443/mon'", "https://example.com:8443/mon/download/m.json", false},
		{"base path with slashes at the end", "", "server_url = 'https://example.com/mon//'", "https://example.com/mon/download/m.json", false},
		{"http, allowed", allow, "server_url = 'http://example.com'", "http://example.com/download/m.json", false},
		{"loopback http, allowed", allow, "server_url = 'http://127.0.0.1:8080'", "http://127.0.0.1:8080/download/m.json", false},
		{"any certificate, allowed", allow, "server_url = 'https://x'\ninsecure_skip_tls = true", "https://x/download/m.json", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := resolve(t, tree(t, map[string]string{vendorFile: fromClient + row.target, clientFile: row.client}))
			must(t, err)
			if got.Source.URL != row.want || got.Source.InsecureSkipTLS != row.insecure {
				t.Errorf("got %+v", got.Source)
			}
		})
	}
}

// TestResolveRefuses tests files and values that are refused. No error may show what the
// file contains.
func TestResolveRefuses(t *testing.T) {
	const (
		serverHint = `write source.url = "https://SERVER/download/m.json", with the server's name, to /etc/machinemon-update/targets.d/agent.toml.d/source.toml`
		url        = clientFile + ": server_url: must be a URL (allowed: \"https://HOST/PATH\" or \"http://HOST/PATH\", without user, password, query and fragment)"
		toml       = ": is not valid TOML"
	)
	content := func(text string) func(*testing.T, string) {
		return func(t *testing.T, file string) { put(t, file, text) }
	}
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, file string)
		want  string
		hint  string
	}{
		{"not there", func(t *testing.T, file string) { must(t, os.Remove(file)) }, clientFile + ": does not exist", "configure the program of agent.service, or set source.url"},
		{"no directory", func(t *testing.T, file string) { must(t, os.RemoveAll(strings.TrimSuffix(file, clientFile)+"/root")) }, clientFile + ": does not exist", "configure the program of agent.service, or set source.url"},
		{"symlink", func(t *testing.T, file string) {
			must(t, os.Rename(file, file+"1"))
			must(t, os.Symlink("client.toml1", file))
		}, clientFile + ": must be a regular file, not a symlink", ""},
		{"dangling symlink", func(t *testing.T, file string) {
			must(t, os.Remove(file))
			must(t, os.Symlink("client.toml1", file))
		}, clientFile + ": must be a regular file, not a symlink", ""},
		{"fifo", func(t *testing.T, file string) { must(t, os.Remove(file)); must(t, syscall.Mkfifo(file, 0o600)) }, clientFile + ": must be a regular file", ""},
		{"directory", func(t *testing.T, file string) { must(t, os.Remove(file)); must(t, os.Mkdir(file, 0o755)) }, clientFile + ": must be a regular file", ""},
		{"too large", content(client + strings.Repeat("#hunter2\n", 8000)), clientFile + ": is larger than 64 KiB", ""},
		{"of another user", func(t *testing.T, file string) { giveAway(t, file) }, clientFile + ": " + clientFile + " is owned by user 1000, not by root", serverHint},
		{"writable by everyone", func(t *testing.T, file string) { must(t, os.Chmod(file, 0o606)) }, clientFile + ": " + clientFile + " is writable by everyone", serverHint},
		{"writable by its group", func(t *testing.T, file string) { must(t, os.Chmod(file, 0o660)) }, clientFile + ": " + clientFile + " is writable by its group " + gid(), serverHint},
		{"in a directory of another user", func(t *testing.T, file string) { giveAway(t, strings.TrimSuffix(file, "/client.toml")) },
			clientFile + ": /root/.config/machinemon is owned by user 1000, not by root", serverHint},
		{"below a directory writable by everyone", func(t *testing.T, file string) {
			must(t, os.Chmod(strings.TrimSuffix(file, "/machinemon/client.toml"), 0o777))
		}, clientFile + ": /root/.config is writable by everyone", serverHint},
		{"by way of a symlink to one", func(t *testing.T, file string) {
			config := strings.TrimSuffix(file, "/machinemon/client.toml")
			open := strings.TrimSuffix(config, "/root/.config") + "/open"
			must(t, os.Rename(config, open))
			must(t, os.Chmod(open, 0o777))
			must(t, os.Symlink("../open", config))
		}, clientFile + ": /open is writable by everyone", serverHint},

		{"empty", content(""), clientFile + ": server_url: is missing; it must be a URL (allowed: " + baseAllowed + ")", ""},
		{"not TOML", content("password = hunter2\n"), clientFile + ":1" + toml, ""},
		{"not closed", content("\npassword = \"hunter2\n"), clientFile + ":2" + toml, ""},
		{"twice, of which one is a password", content("hunter2 = 1\nhunter2 = 2\n"), clientFile + ":2" + toml, ""},
		{"twice", content(client[:strings.Index(client, "\n[[")] + "server_url = 'https://evil.example.com'\n"), clientFile + ":5" + toml, ""},
		{"not UTF-8", content("password = 'hunter2\xff'\n"), clientFile + ":1" + toml, ""},
		{"another case", content("Server_URL = 'https://x'\n"), clientFile + ": server_url: is missing; it must be a URL (allowed: " + baseAllowed + ")", ""},
		{"in a table", content("[client]\nserver_url = 'https://x'\n"), clientFile + ": server_url: is missing; it must be a URL (allowed: " + baseAllowed + ")", ""},
		{"number", content("server_url = 5\n"), url, ""},
		{"list", content("server_url = ['https://x']\n"), url, ""},
		{"nothing", content("server_url = ''\n"), url, ""},
		{"no scheme", content("server_url = 'monitor.example.com'\n"), url, ""},
		{"another scheme", content("server_url = 'file:///hunter2'\n"), url, ""},
		{"password", content("server_url = 'https://me:hunter2@example.com'\n"), url, ""},
		{"query", content("server_url = 'https://example.com/?token=hunter2'\n"), url, ""},
		{"empty query", content("server_url = 'https://example.com/?'\n"), url, ""},
		{"fragment", content("server_url = 'https://example.com/#hunter2'\n"), url, ""},
		{"two lines", content("server_url = \"https://example.com/\\nhunter2\"\n"), url, ""},
		{"endless", content("server_url = 'https://example.com/" + strings.Repeat("x", 2048) + "'\n"), url, ""},
		{"flag that is none", content("server_url = 'https://x'\ninsecure_skip_tls = 'hunter2'\n"), clientFile + ": insecure_skip_tls: must be a boolean (allowed: true, false)", ""},

		{"http", content("server_url = 'http://example.com'\n"), clientFile + ": server_url: checksum trust is refused over plain http", plainHint},
		{"loopback http", content("server_url = 'http://127.0.0.1:8080'\n"), clientFile + ": server_url: checksum trust is refused over plain http; a loopback server is trusted only as source.url", plainHint},
		{"any certificate", content("server_url = 'https://x'\ninsecure_skip_tls = true\n"), clientFile + ": insecure_skip_tls: checksum trust needs a server that proves its identity", derivedHint},
	} {
		t.Run(row.name, func(t *testing.T) {
			// Even the administrator's url_from is not trusted for loopback.
			d := tree(t, map[string]string{adminFile: fromClient, clientFile: client})
			row.spoil(t, d.Root+clientFile)
			got, err := resolve(t, d)
			if err == nil || strings.Contains(err.Error(), "hunter2") || got.Source.URL != "" {
				t.Fatalf("%v, %+v", err, got.Source)
			}
			want := (&ConfigError{Target: "agent", Problem: row.want, Hint: row.hint}).Error()
			if err.Error() != want {
				t.Errorf("\n got %v\nwant %s", err, want)
			}
		})
	}
}

// TestResolveOfUser tests the file that the unit's command names, in a home directory.
func TestResolveOfUser(t *testing.T) {
	const home, named = "/home/alice", "/home/alice/.config/machinemon/client.toml"
	const fromNamed = `[source]
url_from = { file = "` + clientFile + `", option = "--config", key = "server_url", append = "/download/m.json" }
`
	args := []string{"/usr/local/bin/agent", "--config", named}
	for _, row := range []struct {
		name    string
		command Command
		spoil   func(t *testing.T, root string)
		want    string // of the error; "" for the server of alice's file, and "root" for that of root's
	}{
		{"root's service", Command{Args: args}, nil, ""},
		{"User=root", Command{Args: args, User: "root"}, nil, ""},
		{"joined", Command{Args: []string{"/usr/local/bin/agent", "--config=" + named, "-v"}}, nil, ""},
		{"as for Go's flags", Command{Args: []string{"/usr/local/bin/agent", "-config", named}}, nil, ""},
		{"the last counts", Command{Args: []string{"/usr/local/bin/agent", "--config", "/x", "--config", named}}, nil, ""},
		{"another option", Command{Args: []string{"/usr/local/bin/agent", "--configs", named}}, nil, "root"},
		{"no unit", Command{}, nil, "root"},
		{"value without option", Command{Args: []string{"/usr/local/bin/agent", "config", named}}, nil, "root"},
		{"relative", Command{Args: []string{"/usr/local/bin/agent", "--config", "client.toml"}}, nil, clientFile + ": the unit's command has --config without an absolute path"},
		{"no value", Command{Args: []string{"/usr/local/bin/agent", "--config"}}, nil, clientFile + ": the unit's command has --config without an absolute path"},
		{"a dynamic user's service", Command{Args: args, Dynamic: true}, nil, named + ": /home/alice is owned by user 1000, not by root"},
		{"by another program", Command{Args: append([]string{"/usr/bin/setpriv", "--reuid=alice"}, args...)}, nil, named + ": /home/alice is owned by user 1000, not by root"},
		{"a user's service", Command{Args: args, User: "alice"}, nil, named + ": /home/alice is owned by user 1000, not by root"},
		{"not there", Command{Args: args}, func(t *testing.T, root string) { must(t, os.Remove(root+named)) }, named + ": does not exist"},
		{"writable by everyone", Command{Args: args}, func(t *testing.T, root string) { must(t, os.Chmod(root+named, 0o646)) }, named + ": " + named + " is writable by everyone"},
		{"in a group's directory", Command{Args: args}, func(t *testing.T, root string) { must(t, os.Chmod(root+home+"/.config", 0o770)) }, named + ": /home/alice/.config is writable by its group "},
		{"of a second user", Command{Args: args}, func(t *testing.T, root string) { must(t, os.Chown(root+named, 1001, -1)) }, named + ": /home/alice/.config/machinemon is owned by user 1000, and what is in it by user 1001"},
		{"root's file in a home", Command{Args: args}, func(t *testing.T, root string) { must(t, os.Chown(root+named, 0, -1)) }, ""},
		{"a link of the user", Command{Args: args}, func(t *testing.T, root string) {
			must(t, os.Rename(root+home+"/.config", root+home+"/x"))
			must(t, os.Symlink("x", root+home+"/.config"))
		}, named + ": is reached by a link of a user"},
		{"a link to another file", Command{Args: args}, func(t *testing.T, root string) {
			must(t, os.Remove(root+named))
			must(t, os.Symlink(root+clientFile, root+named))
		}, named + ": is reached by a link of a user"},
		{"root's link to the homes", Command{Args: args}, func(t *testing.T, root string) {
			must(t, os.Mkdir(root+"/var", 0o755))
			must(t, os.Rename(root+"/home", root+"/var/home"))
			must(t, os.Symlink("var/home", root+"/home"))
		}, ""},
		{"fifo", Command{Args: args}, func(t *testing.T, root string) {
			must(t, os.Remove(root+named))
			must(t, syscall.Mkfifo(root+named, 0o600))
		}, named + ": cannot be read: it is not a regular file"},
		{"too large", Command{Args: args}, func(t *testing.T, root string) { put(t, root+named, strings.Repeat("#hunter2\n", 8000)) }, named + ": is larger than 64 KiB"},
		{"not TOML", Command{Args: args}, func(t *testing.T, root string) { put(t, root+named, "password = hunter2") }, named + ":1: is not valid TOML"},
		{"http", Command{Args: args}, func(t *testing.T, root string) { put(t, root+named, "server_url = 'http://x'") }, named + ": server_url: checksum trust is refused over plain http"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, map[string]string{vendorFile: minimal + fromNamed, clientFile: "server_url = 'https://root.example.com'", named: client})
			for dir := d.Root + named; dir != d.Root+"/home"; dir = filepath.Dir(dir) {
				must(t, os.Lchown(dir, 1000, 1000))
			}
			if row.spoil != nil {
				row.spoil(t, d.Root)
			}
			got, err := d.Load("agent")
			must(t, err)
			err = got.Resolve(row.command)
			want := map[string]string{"": "https://monitor.example.com/download/m.json", "root": "https://root.example.com/download/m.json"}[row.want]
			if want != "" && (err != nil || got.Source.URL != want) {
				t.Errorf("%v, %+v", err, got.Source)
			}
			if want == "" && (err == nil || got.Source.URL != "" || !strings.HasPrefix(err.Error(), "cannot use target agent: "+row.want)) {
				t.Errorf("%v, %+v", err, got.Source)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "chown")) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestURLFromPrecedence: the higher fragment decides between url and url_from. The keys
// of url_from are overridden one by one.
func TestURLFromPrecedence(t *testing.T) {
	const below = "[source]\nurl = 'https://vendor.example.com/'\n"
	from := URLFrom{clientFile, "", "server_url", "/download/m.json"}
	elsewhere := from
	elsewhere.File = "/etc/machinemon/client.toml"
	for _, row := range []struct {
		name, vendor, admin, dropin string
		url                         string
		from                        *URLFrom
	}{
		{"vendor's url_from", fromClient, "", "", "", &from},
		{"the operator's url", fromClient, "source.url = 'https://me.example.com/'", "", "https://me.example.com/", nil},
		{"and its flag", fromClient, "source.url = 'https://me.example.com/'\nsource.insecure_skip_tls = true\ntrust.allow_unauthenticated = true", "", "https://me.example.com/", nil},
		{"an operator's loopback url", fromClient, "source.url = 'http://localhost/'", "", "http://localhost/", nil},
		{"another file", fromClient, "source.url_from.file = '/etc/machinemon/client.toml'", "", "", &elsewhere},
		{"another file, which the unit's command cannot change", strings.Replace(fromClient, "key =", "option = '--config', key =", 1), "source.url_from.file = '/etc/machinemon/client.toml'", "", "", &elsewhere},
		{"url_from above url", minimal + below, strings.TrimPrefix(fromClient, minimal), "", "", &from},
		{"url above both", fromClient, "source.url_from.file = '/x'", "source.url = 'https://me.example.com/'", "https://me.example.com/", nil},
		{"a broken one that is overridden", fromClient, "source.url_from.key = ''", "source.url = 'https://me.example.com/'", "https://me.example.com/", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := tree(t, map[string]string{vendorFile: row.vendor, adminFile: row.admin, adminFile + ".d/x.toml": row.dropin}).Load("agent")
			must(t, err)
			if got.Source.URL != row.url || (got.Source.From == nil) != (row.from == nil) || row.from != nil && *got.Source.From != *row.from {
				t.Errorf("got %+v, %+v", got.Source, got.Source.From)
			}
		})
	}
	d := tree(t, map[string]string{vendorFile: fromClient, adminFile: "source = { type = 'file', path = '/srv/releases' }"})
	if got, err := d.Load("agent"); err != nil || got.Source.Type != SourceFile || got.Source.From != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestDerive: Derive judges a URL that was found earlier by the present target file.
func TestDerive(t *testing.T) {
	got, err := tree(t, map[string]string{vendorFile: fromClient}).Load("agent")
	must(t, err)
	for _, row := range []struct {
		url      string
		insecure bool
		ok       bool
	}{
		{"https://example.com/download/m.json", false, true},
		{"https://example.com/download/m.json", true, false},
		{"http://example.com/download/m.json", false, false},
		{"http://[::1]/download/m.json", false, false},
		{"https://me:hunter2@example.com/m.json", false, false},
		{"", false, false},
	} {
		got.Source.URL, got.Source.InsecureSkipTLS = "", false
		err := got.Derive(row.url, row.insecure)
		if (err == nil) != row.ok || (got.Source.URL == row.url) != row.ok && row.url != "" {
			t.Errorf("%s, %t: %v, %+v", row.url, row.insecure, err, got.Source)
		}
	}
}
