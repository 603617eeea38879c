//go:build systemd

package systemtest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const document = "/" + manifest.FileName

// raw answers with these bytes and closes the connection, or holds it until the client
// disconnects.
func raw(answer string, hold bool) releases.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, answer)
		if hold {
			conn.Read(make([]byte, 1))
		}
	}
}

// trickle answers with these bytes, and then with one more each second.
func trickle(answer string) releases.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		for _, err = fmt.Fprint(conn, answer); err == nil; _, err = fmt.Fprint(conn, "x") {
			time.Sleep(time.Second)
		}
	}
}

func redirect(to string) releases.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}
}

const (
	proxyAt   = "http://127.0.0.1:9300" // of the hostile variables
	secureAt  = "127.0.0.1:9443"
	elsewhere = "192.0.2.7:9000"
	head      = "HTTP/1.1 200 OK\r\n"
)

// serverAttacks are those of servers, and of whom is on the way to them.
func (c *chain) serverAttacks() (all []attack) {
	const archive = "/9.9.9.bin"
	content := []byte("#!/bin/sh\n") // the verifier refuses a script, so what the fetcher takes ends there
	for n := range 300_000 {
		content = fmt.Appendln(content, "#", n)
	}
	content = content[:300_000]
	add := func(name, path string, f releases.Fault, exit int, says ...string) {
		version := "9.9.9"
		all = append(all, attack{name: "server: " + name, exit: exit, program: "fetcher", says: append(says, map[int]string{6: "refused", 7: "not downloaded"}[exit]), do: func() {
			c.ship(version, archive[1:], content)
			c.server.Mend(archive)
			c.server.Break(path, f)
			c.t.Cleanup(func() { c.server.Mend(path) })
		}})
	}
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n", n) }
	endless := served(bomb{{make([]byte, 1<<20), 10 << 10}})
	add("redirect loop", document, redirect(document), 7, "it was redirected more than 5 times")
	add("archive, redirect loop", archive, redirect(archive), 7, "it was redirected more than 5 times")
	add("redirect to another port", document, redirect("http://127.0.0.1:9300/"), 6, "which is not authenticated")
	add("redirect with a password", document, redirect("http://user:hunter2@127.0.0.1:9000/"), 6, "an address with a user name")
	add("redirect to a file", document, redirect("file:///etc/passwd"), 6, "neither https nor http")
	add("huge headers", document, raw(head+"X: "+strings.Repeat("x", 10<<20), true), 7, "exceeded")
	add("archive, absurd length", archive, raw(head+"Content-Length: 9223372036854775808\r\n\r\n", false), 7, "Content-Length")
	add("archive, 10 GB", archive, endless, 6, "it is longer than 300000 bytes")
	add("manifest, 10 GB", document, endless, 6, "it is larger than 1048576 bytes")
	add("manifest, a MiB of small objects", document, served(repeatedJSON(`{"version":"9.9.9","x":[`, `{"":0},`, `]}`, 1<<20)), 6, "values")
	add("archive, gzip as encoding", archive, raw(head+"Content-Encoding: gzip\r\n"+length(len(content)), true), 6, "it with a Content-Encoding, which was not asked for")
	add("manifest, gzip as encoding", document, raw(head+"Content-Encoding: gzip\r\n"+length(1000), true), 6, "it with a Content-Encoding, which was not asked for")
	add("unsolicited 206", archive, raw("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\n"+length(4)+"abcd", false), 7, "answered 206 Partial Content")
	add("unsolicited 304", archive, releases.Status(http.StatusNotModified), 7, "answered 304 Not Modified")
	add("403", document, releases.Status(http.StatusForbidden), 7, "answered 403 Forbidden")
	add("500", archive, releases.Status(http.StatusInternalServerError), 7, "answered 500 Internal Server Error")
	add("hostile status line", archive, raw("HTTP/1.1 599 \x1b[31mred\r\n\r\n", false), 7, "answered 599")
	add("cut before the headers", document, raw("", false), 7, "the connection was cut")
	all = append(all, c.resumeAttacks(content)...)
	all = append(all, c.tlsAttacks()...)
	return append(all, c.apiAttacks()...)
}

// resumeAttacks cut the archive in the middle, and then answer the request for its rest in
// another way than it asks. Each is downloaded completely in the end.
func (c *chain) resumeAttacks(content []byte) (all []attack) {
	for i, r := range []struct {
		name     string
		statuses []int // of all answers
		then     releases.Fault
	}{
		{"by 200", []int{200, 200}, func(w http.ResponseWriter, r *http.Request, good http.Handler) {
			r.Header.Del("Range")
			good.ServeHTTP(w, r)
		}},
		{"by a shifted range", []int{200, 206, 200}, func(w http.ResponseWriter, r *http.Request, good http.Handler) {
			from, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"))
			if err == nil {
				r.Header.Set("Range", fmt.Sprintf("bytes=%d-", from+9))
			}
			good.ServeHTTP(w, r)
		}},
		{"by other bytes with the same ETag", []int{200, 206, 200}, func(w http.ResponseWriter, r *http.Request, good http.Handler) {
			if r.Header.Get("Range") == "" {
				good.ServeHTTP(w, r)
				return
			}
			good.ServeHTTP(inverted{w}, r)
		}},
	} {
		version := fmt.Sprintf("8.0.%d", i)
		file := version + ".bin"
		all = append(all, attack{name: "server: rest answered " + r.name, exit: 6, program: "fetcher", says: []string{"refused " + version, "is a script"},
			target: strings.Replace(testdTarget, `from = "testd"`, `from = "."`, 1), do: func() {
				c.ship(version, file, content)
				first := true
				c.server.Break("/"+file, func(w http.ResponseWriter, q *http.Request, good http.Handler) {
					if first {
						first = false
						releases.Cut(100_000)(w, q, good)
					}
					r.then(w, q, good)
				})
			}, check: func() {
				var got []int
				for _, q := range c.server.Requests() {
					if q.Path == "/"+file {
						got = append(got, q.Status)
					}
				}
				if !slices.Equal(got, r.statuses) {
					c.t.Errorf("the archive was answered with %v, want %v", got, r.statuses)
				}
			}})
	}
	return all
}

// inverted writes other bytes of the same number.
type inverted struct{ http.ResponseWriter }

func (w inverted) Write(b []byte) (int, error) {
	other := bytes.Clone(b)
	for i := range other {
		other[i] ^= 0xff
	}
	return w.ResponseWriter.Write(other)
}

// tlsAttacks are servers whose TLS is not that of the source's host.
func (c *chain) tlsAttacks() (all []attack) {
	const host, ca = "releases.test", "/etc/machinemon-update/ca.pem"
	c.must("sh", "-c", "echo 127.0.0.1 "+host+" >>/etc/hosts")
	target := strings.Replace(testdTarget, `url = "http://`+releasesAt+document+`"`, `url = "https://`+host+`:9443`+document+`"`+"\nca_file = \""+ca+`"`, 1)
	good, goodKey := selfSigned(c.t, host)
	late, lateKey := signedUntil(c.t, time.Now().Add(-time.Minute), host)
	other, otherKey := selfSigned(c.t, "other.test")
	for _, a := range []struct {
		name             string
		trusted, of, key []byte
		most             uint16
		handler          http.Handler
		exit             int
		says             string
	}{
		{"TLS 1.1", good, good, goodKey, tls.VersionTLS11, http.NotFoundHandler(), 7, "protocol version"},
		{"self-signed", other, good, goodKey, 0, http.NotFoundHandler(), 7, "certificate signed by unknown authority"},
		{"expired", late, late, lateKey, 0, http.NotFoundHandler(), 7, "certificate has expired"},
		{"wrong host", other, other, otherKey, 0, http.NotFoundHandler(), 7, "not " + host},
		{"https to http", good, good, goodKey, 0, http.RedirectHandler("http://"+releasesAt+document, http.StatusFound), 6, "it was redirected from https to http://" + releasesAt},
	} {
		all = append(all, attack{name: "server: " + a.name, target: target, exit: a.exit, program: "fetcher", says: []string{a.says}, do: func() {
			certificate, err := tls.X509KeyPair(a.of, a.key)
			c.ok(err)
			c.writeFile(ca, string(a.trusted), 0o644)
			l, err := c.Listen("tcp", secureAt)
			c.ok(err)
			config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS10, MaxVersion: a.most}
			server := releases.ServeBy(tls.NewListener(l, config), a.handler)
			c.t.Cleanup(func() { server.Close() })
		}})
	}
	// Go's client asks no proxy for the loopback, so that server is at another address.
	return append(all, attack{name: "server: proxies in the environment", exit: 7, program: "fetcher", says: []string{"http://" + elsewhere + document + ": the server answered 404"},
		target: strings.Replace(testdTarget, releasesAt, elsewhere, 1) + "[trust]\nallow_unauthenticated = true\n", do: func() {
			c.must("ip", "address", "add", "192.0.2.7/32", "dev", "lo")
			l, err := c.Listen("tcp", elsewhere)
			c.ok(err)
			server := releases.ServeBy(l, http.NotFoundHandler())
			c.t.Cleanup(func() { server.Close() })
		}})
}

// apiAttacks are answers of a forge's API that are much larger in memory.
func (c *chain) apiAttacks() (all []attack) {
	_, keys, _ := strings.Cut(testdTarget, "client-manifest.json\"\n")
	on := func(more string) string { return "unit = \"testd.service\"\n" + githubTarget + more + keys }
	for _, a := range []struct {
		name, target, path string
		answer             bomb
		exit               int
		says               string
	}{
		{"a release with a million files", on(""), "/repos/example/testd/releases/latest", repeatedJSON(`{"tag_name":"v9","assets":[`, "{},", "]}", 4<<20), 6, "the release has more than 1000 files"},
		{"ten million releases", on("versions = \">=9\"\n"), "/repos/example/testd/releases", repeatedJSON("[", "{},", "]", 32<<20), 6, "it has more than "},
		{"a list with one long release", on("versions = \">=9\"\n"), "/repos/example/testd/releases", repeatedJSON(`[{"body":"`, "text text ", `"}]`, 31<<20), 6, "larger than"},
	} {
		all = append(all, attack{name: "API: " + a.name, target: a.target, exit: a.exit, program: "fetcher", says: []string{a.says}, do: func() {
			c.server.Break(a.path, served(a.answer))
		}})
	}
	return all
}

// probeAttacks are a health endpoint that answers otherwise than it should.
func (c *chain) probeAttacks() (all []attack) {
	const at = "127.0.0.1:9301"
	for _, a := range []struct {
		name, keys string
		answer     releases.Fault
		says       string
	}{
		{"429", "", releases.Status(http.StatusTooManyRequests), "status 429 instead of 200"},
		{"a redirect", "", redirect("http://" + testdAddress + "/healthz"), "status 302 instead of 200"},
		{"silence", "", raw("", true), "no answer within 1 s"},
		{"10 GB", "expect_body = \"healthy\"\n", served(bomb{{make([]byte, 1<<20), 10 << 10}}), "its answer does not contain the expected text"},
		{"headers without end", "", raw(head+"X: "+strings.Repeat("x", 20<<20), false), "exceeded"},
	} {
		all = append(all, attack{name: "probe: " + a.name, run: "probe", exit: 1, program: "health-gate", says: []string{a.says},
			target: testdTarget + "[[health.probe]]\nhttp = \"http://" + at + "/\"\nforeign = true\ntimeout_seconds = 1\n" + a.keys, do: func() {
				l, err := c.Listen("tcp", at)
				c.ok(err)
				server := releases.ServeBy(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, nil) }))
				c.t.Cleanup(func() { server.Close() })
			}})
	}
	return all
}

// slowServers starts updates of other targets from servers that never end. The function that
// it returns waits for them.
func (c *chain) slowServers() (finish func()) {
	c.t.Helper()
	type slow struct {
		name, file string
		fault      releases.Fault
		says       string
	}
	all := []slow{
		{"bytes", "/slow.bin", trickle(head + "Content-Length: 300000\r\n\r\n"), "it stalled: fewer than 4096 bytes came in 30s"},
		{"headers", document, trickle(head), "timeout awaiting response headers"},
		{"silence", document, raw("", true), "timeout awaiting response headers"},
	}
	var names []string
	for _, s := range all {
		name := "slow-" + s.name
		names = append(names, name)
		path := "/usr/local/bin/" + name
		c.must("cp", "/usr/bin/sleep", path)
		c.writeFile("/etc/systemd/system/"+name+".service", strings.ReplaceAll(testdUnit, testdPath, path+" infinity"), 0o644)
		c.writeFile("/etc/machinemon-update/targets.d/"+name+".toml",
			strings.NewReplacer("testd.service", name+".service", testdPath, path, document, "/"+name+document).Replace(testdTarget), 0o644)
		c.ok(os.Mkdir(filepath.Join(c.dir, name), 0o755))
		m := manifest.Manifest{Schema: 1, Version: "9.9.9", Platforms: map[string]manifest.Platform{
			"linux-amd64": {File: "slow.bin", SHA256: strings.Repeat("1", 64), Size: 300_000}}}
		raw, err := m.Marshal()
		c.ok(err)
		c.ok(os.WriteFile(filepath.Join(c.dir, name, manifest.FileName), raw, 0o644))
		c.server.Break("/"+name+s.file, s.fault)
	}
	c.must("systemctl", "daemon-reload")
	c.must(append([]string{"systemctl", "start", "paths.target"}, names...)...)
	applies := make([]*machine.Process, len(all))
	since := c.cursor()
	for i, name := range names {
		applies[i] = c.start("machinemon-update", "apply", name)
	}
	for _, name := range names { // the accounts have been made then
		c.awaitEvent(since, "machinemon-fetch@"+name+".service starting")
	}
	return func() {
		for i, s := range all {
			c.step("server: slow "+s.name, func() {
				r := c.wait(applies[i])
				c.t.Logf("it said: %s", r.Stdout)
				if r.Code != 7 || !strings.Contains(r.Stdout, names[i]+": not downloaded") || !strings.Contains(r.Stdout, s.says) {
					c.t.Errorf("%+v", r)
				}
			})
		}
		c.must("systemctl", "reset-failed")
	}
}
