package testkit

import (
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// MachineMon stands in for machinemon-server v0.1.11. It has no routes below base_path,
// because a proxy in front of the real one must strip that. Like the real one's router, it
// knows GET, but not HEAD, and answers other paths with the page of its dashboard.
type MachineMon struct {
	ClientPassword, AdminPassword string
	ExternalURL                   string // external_url of its configuration, or ""
	// CheckIn answers a check-in that has the right password and form. It returns the
	// status and the body, which is compressed if the client accepts that.
	CheckIn func(q *http.Request, body []byte) (status int, answer string)

	mu       sync.Mutex
	archives map[string][]byte
	buckets  map[string]*bucket
}

// Limit is how many check-ins at once the server takes under one key; each Refill, it
// takes one more.
const (
	Limit  = 30
	Refill = 2 * time.Second
)

type bucket struct {
	left int
	at   time.Time
}

// Host puts an archive into the server's binaries_dir.
func (m *MachineMon) Host(name string, content []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.archives == nil {
		m.archives = map[string][]byte{}
	}
	m.archives[name] = content
}

// allow limits check-ins by X-Real-IP or, without it, by address and port.
func (m *MachineMon) allow(q *http.Request) bool {
	key := q.Header.Get("X-Real-IP")
	if key == "" {
		key = q.RemoteAddr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.buckets == nil {
		m.buckets = map[string]*bucket{}
	}
	b := m.buckets[key]
	if b == nil {
		b = &bucket{Limit, time.Now()}
		m.buckets[key] = b
	}
	if n := int(time.Since(b.at) / Refill); n > 0 {
		b.left, b.at = min(Limit, b.left+n), time.Now()
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

func (m *MachineMon) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	path := cmp.Or(q.URL.RawPath, q.URL.Path) // the server's router does not decode a path
	name, download := strings.CutPrefix(path, "/download/")
	api := strings.HasPrefix(path, "/api/v1/")
	switch get := q.Method == http.MethodGet; {
	case path == "/api/v1/checkin" && q.Method == http.MethodPost:
		m.checkIn(w, q)
	case strings.HasPrefix(path, "/api/v1/admin/"):
		m.admin(w, q)
	case path == "/api/v1/checkin" || !get && !api:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case api:
		http.NotFound(w, q)
	case path == "/healthz":
		io.WriteString(w, `{"status":"ok"}`)
	case download:
		m.download(w, q, name)
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		send(w, q, "<!DOCTYPE html><html><head><title>MachineMon</title></head><body></body></html>\n")
	}
}

func (m *MachineMon) checkIn(w http.ResponseWriter, q *http.Request) {
	if !m.allow(q) {
		http.Error(w, `{"error":"rate limit exceeded"}`, http.StatusTooManyRequests)
		return
	}
	if q.Header.Get("X-Client-Password") != m.ClientPassword {
		http.Error(w, `{"error":"invalid password"}`, http.StatusUnauthorized)
		return
	}
	var in struct {
		Hostname      string   `json:"hostname"`
		OS            string   `json:"os"`
		Arch          string   `json:"arch"`
		ClientVersion string   `json:"client_version"`
		ClientID      string   `json:"client_id"`
		SessionID     string   `json:"session_id"`
		BootTimeUnix  int64    `json:"boot_time_unix"`
		InterfaceIPs  []string `json:"interface_ips"`
		Checks        []struct {
			FriendlyName string `json:"friendly_name"`
			CheckType    string `json:"check_type"`
			Healthy      bool   `json:"healthy"`
			Message      string `json:"message"`
			State        string `json:"state"`
		} `json:"checks"`
	}
	body, err := io.ReadAll(q.Body)
	// The server reads the first JSON value, and ignores what follows it.
	if err == nil {
		err = json.NewDecoder(strings.NewReader(string(body))).Decode(&in)
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid request body"}`+"\n")
	case in.Hostname == "":
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"hostname is required"}`+"\n")
	default:
		if status, answer := m.CheckIn(q, body); status == http.StatusOK {
			send(w, q, answer)
		} else {
			w.WriteHeader(status)
			io.WriteString(w, answer)
		}
	}
}

func (m *MachineMon) admin(w http.ResponseWriter, q *http.Request) {
	user, password, _ := q.BasicAuth()
	switch {
	case user != "admin" || password != m.AdminPassword:
		w.Header().Set("WWW-Authenticate", `Basic realm="MachineMon"`)
		http.Error(w, `{"error":"unauthorized"}`, http.StatusUnauthorized)
	case q.URL.Path != "/api/v1/admin/settings":
		http.NotFound(w, q)
	case q.Method != http.MethodGet && q.Method != http.MethodPut:
		w.WriteHeader(http.StatusMethodNotAllowed)
	default:
		w.Header().Set("Content-Type", "application/json")
		send(w, q, "{}\n")
	}
}

// download serves plain names that end in .tar.gz, and the installer.
func (m *MachineMon) download(w http.ResponseWriter, q *http.Request, name string) {
	m.mu.Lock()
	content, there := m.archives[name]
	names := []string{}
	for n := range m.archives {
		names = append(names, n)
	}
	m.mu.Unlock()
	base := m.base(q)
	switch {
	case name == "":
		slices.Sort(names)
		list := []map[string]string{}
		for _, n := range names {
			list = append(list, map[string]string{"name": n, "url": base + "/download/" + n})
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"install_script": base + "/download/install.sh", "binaries": list})
	case name == "install.sh":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		send(w, q, installer(base))
	case strings.Contains(q.URL.EscapedPath()[len("/download/"):], "/"):
		http.NotFound(w, q)
	case strings.Contains(name, "..") || strings.ContainsAny(name, `/\`):
		http.Error(w, "invalid filename", http.StatusBadRequest)
	case !strings.HasSuffix(name, ".tar.gz"):
		http.Error(w, "only .tar.gz files are served", http.StatusBadRequest)
	case !there:
		http.Error(w, "binary not found", http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/gzip")
		w.Write(content)
	}
}

// base returns the server's address as its installer and its list of archives have it.
// Without external_url it lacks base_path.
func (m *MachineMon) base(q *http.Request) string {
	if m.ExternalURL != "" {
		return strings.TrimRight(m.ExternalURL, "/")
	}
	scheme, host := "http", q.Host
	if s := q.Header.Get("X-Forwarded-Proto"); s != "" {
		scheme = s
	}
	if h := q.Header.Get("X-Forwarded-Host"); h != "" {
		host = h
	}
	return scheme + "://" + host
}

// installer returns a script that installs, or with --upgrade replaces, the client as the
// server's does: from the archive of this machine's platform, without a check of it.
func installer(base string) string {
	return fmt.Sprintf(`#!/bin/sh
# Generated by the server at %[1]s
set -e
BASE_URL="%[1]s"
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
armv7*) arch=armv7 ;;
*) arch=armv6 ;;
esac
name=machinemon-client-linux-$arch
work=$(mktemp -d)
cd "$work"
curl -sSL "${BASE_URL}/download/$name.tar.gz" -o archive.tar.gz
tar xzf archive.tar.gz
mv "$name" /usr/local/bin/machinemon-client
chmod 755 /usr/local/bin/machinemon-client
if [ "$1" = --upgrade ]; then systemctl restart machinemon-client.service; fi
echo "Dashboard: %[1]s"
`, base)
}

// send sends an answer, compressed if the client accepts that.
func send(w http.ResponseWriter, q *http.Request, body string) {
	if !strings.Contains(q.Header.Get("Accept-Encoding"), "gzip") {
		io.WriteString(w, body)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	defer z.Close()
	io.WriteString(z, body)
}
