package target

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func shipped(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile("../../packaging/" + file)
	must(t, err)
	return string(content)
}

// TestShippedTargets: a target of our packages loads, has auto_update_enabled false, and
// uses the operator's source once there is one.
func TestShippedTargets(t *testing.T) {
	for _, row := range []struct {
		name, unit, product string
		source              Source
	}{
		{"agent", "machinemon-client.service", "machinemon-client", Source{Type: SourceManifest,
			From: &URLFrom{"/root/.config/machinemon/client.toml", "--config", "server_url", "/download/client-manifest.json"}}},
		{"server", "machinemon-server.service", "machinemon-server", Source{}},
	} {
		d := tree(t, map[string]string{DefaultDirs.Vendor + "/" + row.name + ".toml": shipped(t, "targets.d/"+row.name+".toml")})
		got, err := d.Load(row.name)
		must(t, err)
		if got.Unit != row.unit || got.Trust.Product != row.product || got.AutoUpdateEnabled || !reflect.DeepEqual(got.Source, row.source) {
			t.Errorf("%s: got %+v", row.name, got)
		}
		put(t, d.Root+d.Admin+"/"+row.name+".toml", "[source]\nurl = \"https://monitor.example.com/m.json\"\n")
		got, err = d.Load(row.name)
		must(t, err)
		if want := (Source{Type: SourceManifest, URL: "https://monitor.example.com/m.json"}); !reflect.DeepEqual(got.Source, want) {
			t.Errorf("%s: got %+v", row.name, got.Source)
		}
	}
	server := tree(t, map[string]string{vendorFile: shipped(t, "targets.d/server.toml")})
	got, err := server.Load("agent")
	must(t, err)
	if want := []string{"/usr/local/bin/machinemon-server", "--version"}; !slices.Equal(got.Health.VersionCommand, want) {
		t.Errorf("the server's version_command is %q", got.Health.VersionCommand)
	}
	if len(got.Health.Probes) != 1 || got.Health.Probes[0].HTTP != "http://127.0.0.1:8080/healthz" {
		t.Errorf("the server's probes are %v", got.Health.Probes)
	}
}

// uncommentedExample returns the example with a value for each key.
func uncommentedExample(t *testing.T) string {
	all := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`).ReplaceAllString(shipped(t, "examples/daemon.toml"), "$1")
	return strings.Replace(all, "from_release_unsigned = false", "from_release_unsigned = true", 1) // from_release needs it
}

// TestExample: the example loads and shows each key; its commented keys are valid at
// their place and have the default values.
func TestExample(t *testing.T) {
	example := shipped(t, "examples/daemon.toml")
	load := func(content string) *Target {
		got, err := tree(t, map[string]string{adminFile: content}).Load("agent")
		must(t, err)
		return got
	}
	asShipped := load(example)
	all := uncommentedExample(t)
	found, wrong := parse([]byte(all))
	if wrong != nil {
		t.Fatal(wrong)
	}
	for _, k := range keys {
		if strings.HasPrefix(k.name, "source.arch.") {
			continue // some suffice
		}
		shown := false
		for path := range found {
			shown = shown || withoutIndex(path) == k.name
		}
		if !shown {
			t.Errorf("%s is not in the example", k.name)
		}
	}
	// Not all keys can be uncommented at once: path and those of GitHub belong to other
	// types of source, and url_from is an alternative to url. units, window, after, inhibit,
	// those of FleetLock, arch, versions, ca_file, proxy, root, key, mode, owner, keep, expect_body, version_pattern, headers_file, a try's
	// timeout_seconds and the hooks have no default to show.
	for _, name := range []string{"units", "window", "after", "inhibit", "fleetlock_url", "fleetlock_group", "path", "url_from", "arch", "versions", "ca_file", "proxy", "proxy_login_file", "no_proxy", "repo", "asset", "tag", "tag_prefix", "prereleases", "checksums", "api_url", "token_file", "root", "key", "mode", "owner", "group", "keep", "expect_body", "version_pattern", "timeout_seconds", "headers_file", "from_release", "from_release_unsigned", "pre_swap", "post_commit"} {
		all = regexp.MustCompile(`(?m)^`+name+` = .*$`).ReplaceAllString(all, "")
	}
	uncommented := load(all)
	asShipped.where, uncommented.where, asShipped.check, uncommented.check = nil, nil, checker{}, checker{}
	if !reflect.DeepEqual(uncommented, asShipped) {
		t.Errorf("defaults differ:\n got %+v\nwant %+v", uncommented, asShipped)
	}
}
