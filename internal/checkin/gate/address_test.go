package gate

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

const monitor = "/monitor"

// webServer serves what is below the path at from a server, without that path if it
// strips, as nginx does with location and proxy_pass. Everything else is another program's.
func webServer(t *testing.T, to *url.URL, at string, strips bool) *url.URL {
	t.Helper()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
		r.Out.Header["X-Real-Ip"] = r.In.Header["X-Real-Ip"]
		if r.In.Header.Get("X-Real-Ip") == "" { // it is the first one
			r.SetXForwarded()
			r.Out.Header.Set("X-Real-Ip", "203.0.113.7")
			r.Out.Header.Set("X-Forwarded-For", "203.0.113.7")
		}
	}}
	var h http.Handler = proxy
	if strips {
		h = http.StripPrefix(at, h)
	}
	mux := http.NewServeMux()
	mux.Handle(at+"/", h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestBasePath has the gate on both sides of a web server that strips MachineMon's
// base_path, or does not. In each case all that the gate writes leads back to it.
func TestBasePath(t *testing.T) {
	for name, c := range map[string]struct{ outside, strips bool }{
		"inside, stripped": {false, true}, "inside, not stripped": {false, false},
		"outside, stripped": {true, true}, "outside, not stripped": {true, false},
	} {
		for _, configured := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", external_url"}[configured], func(t *testing.T) {
				b := newBench(t, behind, func(conf *Config) {
					conf.BasePath = monitor
					if !c.outside {
						return
					}
					at := ""
					if c.strips {
						at = monitor
					}
					conf.Upstream = webServer(t, conf.Upstream, at, c.strips)
					conf.Upstream.Path = at
				})
				if !c.outside {
					gate, err := url.Parse(b.url)
					if err != nil {
						t.Fatal(err)
					}
					b.url = webServer(t, gate, monitor, c.strips).String()
				}
				if configured {
					b.config.External = b.url + monitor
				}
				b.leadsBack(configured)
				r, _ := b.up.last()
				if got, want := r.Header.Get("X-Real-Ip"), map[bool]string{false: "203.0.113.7", true: "127.0.0.1"}[c.outside]; got != want {
					t.Errorf("the client is %s for the server, want %s", got, want)
				}
			})
		}
	}
}

// leadsBack follows what the gate writes into its answers.
func (b *bench) leadsBack(configured bool) {
	t := b.t
	b.publish(func(m *manifest.Manifest) { m.Product = "machinemon-client" })
	b.put("machinemon-client-linux-amd64.tar.gz", "new")
	b.up.Host("machinemon-client-linux-amd64.tar.gz", []byte("old"))

	a := b.do("POST", monitor+"/api/v1/checkin", request("amd64", "v0.1.11"), "X-Client-Password: "+client)
	b.written.Wait()
	var directive struct {
		URL string `json:"update_url"`
	}
	if err := json.Unmarshal([]byte(a.body), &directive); err != nil || directive.URL != b.url+monitor+"/download/machinemon-client-linux-amd64.tar.gz" {
		t.Errorf("the check-in: %d %q, %v", a.status, a.body, err)
	}
	if got := b.fetched(directive.URL); got != "new" {
		t.Errorf("from update_url comes %q", got)
	}
	if a := b.do("GET", monitor+"/healthz", ""); a.body != `{"status":"ok"}` {
		t.Errorf("/healthz: %+v", a)
	}
	if a := b.do("GET", monitor+"/", ""); a.status != 200 || !strings.Contains(a.body, "<title>MachineMon</title>") {
		t.Errorf("the dashboard: %+v", a)
	}
	if a := b.do("GET", monitor+"/download/2.root.json", ""); a.status != 404 {
		t.Errorf("2.root.json: %+v", a)
	}
	script := b.do("GET", monitor+"/download/install.sh", "").body
	base := serverLine.FindStringSubmatch(script)
	if configured && (base == nil || base[1] != b.url+monitor || b.fetched(base[1]+"/download/machinemon-client-linux-amd64.tar.gz") != "new") {
		t.Errorf("the installer downloads from %q", base)
	}
	page := b.url + monitor + "/updates"
	a = b.do("GET", monitor+"/updates?result=trouble", "", "Authorization: admin")
	form := regexp.MustCompile(`<form method="post" action="([^"]*)">`).FindStringSubmatch(a.body)
	if a.status != 200 || form == nil || b.resolve(page+"?result=trouble", form[1]) != page {
		t.Fatalf("the page: %d, form %q", a.status, form)
	}
	a = b.do("POST", monitor+"/updates", "directives=off", "Authorization: admin", "Content-Type: application/x-www-form-urlencoded")
	if a.status != 303 || b.resolve(page, a.header.Get("Location")) != page || !b.stopped() {
		t.Errorf("the form: %+v", a)
	}
}

// resolve returns the address of a link on a page.
func (b *bench) resolve(page, link string) string {
	u, err := url.Parse(page)
	if err == nil {
		u, err = u.Parse(link)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return u.String()
}

func (b *bench) fetched(address string) string {
	resp, err := http.Get(address)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(body)
}

// TestStripped checks which requests reach upstream without the base path.
func TestStripped(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.BasePath = monitor
		c.Upstream.Path = "/up"
	})
	b.up.instead(func(w http.ResponseWriter, r *http.Request) {})
	for path, want := range map[string]string{
		monitor: "/up/", monitor + "/": "/up/", monitor + "/a%2Fb//c?q=%zz&x;y": "/up/a%2Fb//c?q=%zz&x;y", "/a": "/up/a", monitor + "ing/a": "/up/monitoring/a",
		monitor + monitor: "/up/monitor", "/%6donitor/a%2F": "/up/%6donitor/a%2F", monitor + "//x": "/up//x", "/MONITOR/x": "/up/MONITOR/x",
	} {
		b.do("GET", path, "")
		if r, _ := b.up.last(); r.RequestURI != want {
			t.Errorf("%s: upstream got %s, want %s", path, r.RequestURI, want)
		}
	}
}

// TestInstaller checks what the gate makes of MachineMon's installer.
func TestInstaller(t *testing.T) {
	const here = "https://monitor.example.com/monitor"
	for name, c := range map[string]struct {
		server, external string // external_url of MachineMon and of the gate
		encoding         string
		answer           string // in place of the script
		want             string // in it
		said             string
	}{
		"configured":             {server: "http://10.0.0.1:8080", external: here, want: `BASE_URL="` + here + `"`},
		"compressed":             {server: "http://10.0.0.1:8080", external: here, encoding: "gzip", want: `BASE_URL="` + here + `"`},
		"the same":               {server: here, external: here, want: `BASE_URL="` + here + `"`},
		"neither":                {want: `BASE_URL="http://127.0.0.1:`},
		"only MachineMon's":      {server: "https://127.0.0.1/mm", want: `BASE_URL="https://127.0.0.1/mm"`},
		"MachineMon's, past us":  {server: here, want: `BASE_URL="` + here + `"`, said: "MachineMon's installer downloads from " + here + ", and clients ask the gate as http://127.0.0.1:"},
		"of another MachineMon":  {external: here, answer: "#!/bin/sh\nSERVER=x\n", want: "SERVER=x\n", said: "cannot read MachineMon's installer"},
		"a strange one":          {external: here, answer: "BASE_URL=\"$(reboot)\"\n", want: "$(reboot)", said: "cannot read MachineMon's installer"},
		"a large one":            {external: here, answer: "BASE_URL=\"http://a\"\n" + strings.Repeat("#", 70<<10), want: `BASE_URL="http://a"`, said: "cannot read MachineMon's installer"},
		"none":                   {external: here, answer: "404", want: "404"},
		"with another encoding":  {external: here, encoding: "br", answer: "\x00", want: "\x00", said: "cannot read MachineMon's installer"},
		"damaged by compression": {external: here, encoding: "x-gzip", answer: "\x00", want: "\x00", said: "cannot read MachineMon's installer"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(conf *Config) { conf.External = c.external })
			b.up.ExternalURL = c.server
			if c.answer != "" {
				b.up.instead(func(w http.ResponseWriter, r *http.Request) {
					if c.encoding != "" {
						w.Header().Set("Content-Encoding", strings.TrimPrefix(c.encoding, "x-"))
					}
					if c.answer == "404" {
						w.WriteHeader(404)
					}
					io.WriteString(w, c.answer)
				})
			}
			a := b.do("GET", "/download/install.sh", "", "Accept-Encoding: "+c.encoding)
			if a.header.Get("Content-Encoding") == "gzip" && c.answer == "" {
				t.Error("what was changed is compressed")
			}
			if !strings.Contains(a.body, c.want) || c.external != "" && c.server != "" && strings.Contains(a.body, "10.0.0.1") {
				t.Errorf("it is %.300s", a.body)
			}
			if got := b.lines(); !strings.HasPrefix(got, c.said) || c.said == "" && got != "" || strings.Contains(got, "\n") {
				t.Errorf("it said %s", got)
			}
		})
	}
}

// TestUpstreamNotThere checks that a wrong address of the server is explained, once.
func TestUpstreamNotThere(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Upstream.Path = monitor })
	for range 2 {
		if a := b.checkIn(request("amd64", "v0.1.11")); a.status != 405 {
			t.Errorf("%+v", a)
		}
	}
	if got, want := b.lines(), "the MachineMon server answers 405 to a check-in: it is not at "+b.up.URL+monitor+" (hint: check upstream and base_path)"; got != want {
		t.Errorf("it said\n%s\nwant\n%s", got, want)
	}
}

// TestForgottenProxy checks the hint if all agents seem to be on the gate's machine.
func TestForgottenProxy(t *testing.T) {
	b := newBench(t)
	for n := range 40 {
		b.checkIn(request("amd64", "v0.1.11"), fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", n))
	}
	if got := b.lines(); !strings.HasSuffix(got, " come from this address (hint: set trusted_proxies to the web server on this machine)") {
		t.Errorf("it said %s", got)
	}
}

// TestNetworkOfOneAddress checks that MachineMon's limit of check-ins binds the agents of one
// address together, that others are not affected, and that the gate says so once.
func TestNetworkOfOneAddress(t *testing.T) {
	b := newBench(t, behind)
	refused := 0
	for range 40 {
		if a := b.checkIn(request("amd64", "v0.1.11"), "X-Forwarded-For: 203.0.113.7"); a.status == 429 {
			refused++
		}
	}
	if a := b.checkIn(request("amd64", "v0.1.11"), "X-Forwarded-For: 203.0.113.8"); a.status != 200 {
		t.Errorf("another address: %+v", a)
	}
	if got := b.lines(); refused == 0 || !strings.HasPrefix(got, "the MachineMon server refuses check-ins of 203.0.113.7: more than 30 a minute") || strings.Contains(got, "\n") {
		t.Errorf("%d were refused, and it said %s", refused, got)
	}
}
