package target

import (
	"strings"
	"testing"
)

func TestParseNamed(t *testing.T) {
	sum := strings.Repeat("0123456789abcdef", 4)
	for arg, want := range map[string]string{
		"/srv/x.tar.gz":                              "/srv/x.tar.gz||",
		"x#y.tar.gz":                                 "x#y.tar.gz||",
		"/srv/x#sha256=12":                           "/srv/x#sha256=12||",
		"/srv/x.tar.gz#sha256=" + sum:                "/srv/x.tar.gz||" + sum,
		"file:///srv/x.tar.gz":                       "/srv/x.tar.gz||",
		"file:///srv/x.tar.gz#sha256=" + sum:         "/srv/x.tar.gz||" + sum,
		"https://example.com/x?y=z":                  "|https://example.com/x?y=z|",
		"https://example.com/x#sha256=" + sum:        "|https://example.com/x|" + sum,
		"https://h/x#sha256=" + strings.ToUpper(sum): "|https://h/x|" + sum,
		"http://127.0.0.1:9000/x":                    "|http://127.0.0.1:9000/x|",
		"http://localhost/x":                         "|http://localhost/x|",
		"http://[::1]:80/x":                          "|http://[::1]:80/x|",

		"http://example.com/x?secret":    "cannot use http://example.com/x: it is neither https nor on this machine",
		"http://127.0.0.1.example.com/x": "cannot use http://127.0.0.1.example.com/x: it is neither https nor on this machine",
		"ftp://127.0.0.1/x":              "cannot use ftp://127.0.0.1/x: it is neither https nor on this machine",
		"file://host/x":                  "cannot use file://host/x: it is neither https nor on this machine",
		"https://h/x#sha1=12":            "cannot use https://h/x: what stands behind the # is not sha256= and 64 hex digits",
		"https://user:hunter2@h/x":       "cannot use https://h/x: it has no host, or a user name",
		"https:///x":                     "cannot use https:///x: it has no host, or a user name",
		"https://h/%zz":                  "cannot use the URL: it is not valid",
	} {
		n, err := ParseNamed(arg)
		got := n.Path + "|" + n.URL + "|" + n.SHA256
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", arg, got, want)
		}
	}
}
