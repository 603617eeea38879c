package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var hex64 = strings.Repeat("0123456789abcdef", 4)

// full is a manifest with all fields of the format.
var full = `{
  "schema": 1,
  "product": "machinemon-client",
  "version": "v0.1.11",
  "sequence": 11,
  "released_at": "2026-11-01T12:00:00Z",
  "min_version": "v0.1.2",
  "disabled": true,
  "rollout": {
    "percent": 10
  },
  "platforms": {
    "linux-amd64": {
      "file": "machinemon-client-linux-amd64.tar.gz",
      "sha256": "` + hex64 + `",
      "sha512": "` + hex64 + hex64 + `",
      "size": 3489273,
      "unpacked_size": 8736930,
      "contents": {
        "machinemon-client-linux-amd64": {
          "sha256": "` + hex64 + `",
          "size": 8736930
        }
      },
      "deltas": [
        {
          "from_sha256": "` + hex64 + `",
          "entry": "machinemon-client-linux-amd64",
          "file": "https://cdn.example.com/d/1.zst",
          "sha256": "` + hex64 + `",
          "size": 180723
        }
      ],
      "patches": [
        {
          "from_sha256": "` + hex64 + `",
          "entry": "machinemon-client-linux-amd64",
          "file": "client.patch",
          "sha256": "` + hex64 + `",
          "size": 10723
        }
      ]
    }
  }
}
`

// least is a manifest with the required fields only, as in MachineMon's plan.
var least = `{"version":"v1","platforms":{"linux-amd64":{"file":"a.tar.gz","sha256":"` + hex64 + `","size":1}}}`

func TestParse(t *testing.T) {
	m, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &Manifest{
		Schema: 1, Product: "machinemon-client", Version: "v0.1.11", Sequence: 11,
		ReleasedAt: "2026-11-01T12:00:00Z", MinVersion: "v0.1.2", Disabled: true, Rollout: &Rollout{10},
		Platforms: map[string]Platform{"linux-amd64": {
			File: "machinemon-client-linux-amd64.tar.gz", SHA256: hex64, SHA512: hex64 + hex64, Size: 3489273, UnpackedSize: 8736930,
			Contents: map[string]Content{"machinemon-client-linux-amd64": {hex64, 8736930}},
			Patches: []Delta{{FromSHA256: hex64, Entry: "machinemon-client-linux-amd64",
				File: "client.patch", SHA256: hex64, Size: 10723}},
			Deltas: []Delta{{FromSHA256: hex64, Entry: "machinemon-client-linux-amd64",
				File: "https://cdn.example.com/d/1.zst", SHA256: hex64, Size: 180723}},
		}},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v\nwant %+v", m, want)
	}
	out, err := m.Marshal()
	if err != nil || string(out) != full {
		t.Errorf("Marshal: %v\n%s", err, out)
	}
}

func TestParseTolerates(t *testing.T) {
	for name, doc := range map[string]string{
		"only what is required": least,
		"space around":          "\r\n\t " + least + " \n",
		"unknown fields":        strings.Replace(least, `{"version"`, `{"notes":[null,{"a":1e400}],"signatures":{},"version"`, 1),
		"unknown in a platform": strings.Replace(least, `"size":1`, `"size":1,"mirror":"😀\ud83d\ude00"`, 1),
		"escaped key":           strings.Replace(least, `"version"`, `"\u0076ersion"`, 1),
	} {
		m, err := Parse([]byte(doc))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Schema != 1 || m.Version != "v1" || m.Platforms["linux-amd64"].Size != 1 {
			t.Errorf("%s: got %+v", name, m)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	// in replaces from by to in the least or the full document.
	in := func(doc, from, to string) string {
		if !strings.Contains(doc, from) {
			t.Fatalf("no %s in the document", from)
		}
		return strings.Replace(doc, from, to, 1)
	}
	size := func(n string) string { return in(least, `"size":1`, `"size":`+n) }
	const badSize = "platforms.linux-amd64.size: must be a plain whole number from 1 to 1099511627776"
	const badName = "must be 1 to 64 of A-Z a-z 0-9 . + _ ~ - and start with a letter or digit"

	for _, tt := range []struct{ name, doc, err string }{
		{"duplicate keys", in(least, `{"version":"v1"`, `{"version":"v1","version":"v2"`), "version is there twice"},
		{"duplicate key, escaped", in(least, `{"version":"v1"`, `{"version":"v1","\u0076ersion":"v2"`), "version is there twice"},
		{"duplicate platform", in(least, `{"linux-amd64":`, `{"linux-amd64":{},"linux-amd64":`), "platforms.linux-amd64 is there twice"},
		{"duplicate deep in the unknown", in(least, `{"version"`, `{"x":[{"a b":{"c":1,"c":1}}],"version"`), `x[0]."a b".c is there twice`},
		{"other case", in(least, `"version"`, `"VERSION"`), `version: the key must be written exactly so, not "VERSION"`},
		{"other case beside the right one", in(least, `"size":1`, `"size":1,"Size":2`), `platforms.linux-amd64.size: the key must be written exactly so, not "Size"`},
		{"folds to a known key", in(least, `"version":"v1"`, `"version":"v1","verſion":"v2"`), `version: the key must be written exactly so, not "ver\u017fion"`},
		{"folds to a known key, escaped", in(least, `"platforms"`, `"platform\u017f"`), `platforms: the key must be written exactly so, not "platform\u017f"`},
		{"invalid UTF-8", in(least, `v1`, "v1\xff"), "it is not valid UTF-8"},
		{"lone high surrogate", in(least, `v1`, `v1\ud800`), `it has half of a surrogate pair, \ud800, in a string`},
		{"lone low surrogate", in(least, `v1`, `v1\udc00\ud800`), `it has half of a surrogate pair, \udc00, in a string`},
		{"two high surrogates", in(least, `v1`, `\ud83d\ud83d\ude00`), `it has half of a surrogate pair, \ud83d, in a string`},
		{"lone surrogate in a key", in(least, `{"version"`, `{"\ud800":0,"version"`), `it has half of a surrogate pair, \ud800, in a string`},
		{"garbage after", least + "garbage", "there is something after the JSON object"},
		{"a second object", least + least, "there is something after the JSON object"},
		{"closed twice", least + "}", "there is something after the JSON object"},
		{"null version", in(least, `"v1"`, `null`), "version: must be a string, not null"},
		{"null size", size("null"), "platforms.linux-amd64.size: must be a number, not null"},
		{"null platform", `{"version":"v1","platforms":{"linux-amd64":null}}`, "platforms.linux-amd64: must be an object, not null"},
		{"null optional", in(least, `{"version"`, `{"schema":null,"version"`), "schema: must be a number, not null"},
		{"null rollout", in(least, `{"version"`, `{"rollout":null,"version"`), "rollout: must be an object, not null"},
		{"null disabled", in(least, `{"version"`, `{"disabled":null,"version"`), "disabled: must be true or false, not null"},
		{"null patches", in(least, `"size":1`, `"size":1,"patches":null`), "platforms.linux-amd64.patches: must be an array, not null"},
		{"a patch without a file", in(least, `"size":1`, `"size":1,"patches":[{}]`), "platforms.linux-amd64.patches[0].from_sha256: missing"},
		{"null deltas", in(least, `"size":1`, `"size":1,"deltas":null`), "platforms.linux-amd64.deltas: must be an array, not null"},
		{"NUL", in(least, `v1`, `1\u0000`), `it has \u0000 in a string`},
		{"negative size", size("-1"), badSize},
		{"size zero", size("0"), badSize},
		{"size minus zero", size("-0"), badSize},
		{"size with exponent", size("1e3"), badSize},
		{"size with fraction", size("1.0"), badSize},
		{"size 1e400", size("1e400"), badSize},
		{"size 2^63", size("9223372036854775808"), badSize},
		{"size beyond reason", size("1099511627777"), badSize},
		{"size a string", size(`"1"`), "platforms.linux-amd64.size: must be a number, not a string"},
		{"leading zero", size("01"), "it is not JSON: at byte 146: invalid character '1' after object key:value pair"},
		{"10,001 nested", strings.Repeat("[", 10_001), "it nests deeper than 32 levels"},
		{"10,001 nested in an unknown field", in(least, `{"version"`, `{"x":`+strings.Repeat("[", 10_001)+strings.Repeat("]", 10_001)+`,"version"`), "it nests deeper than 32 levels"},
		{"many values in an unknown field", in(least, `{"version"`, `{"x":[`+strings.Repeat(`{"":0},`, 50_000)+`0],"version"`), "it has more than 100000 values"},
		{"a string where an object belongs", in(least, `{"version":"v1","platforms":`, `{"version":"v1","rollout":"10","platforms":`), "rollout: must be an object, not a string"},
		{"a string for the document", `"v1"`, "it must be a JSON object, not a string"},
		{"an array for the document", `[` + least + `]`, "it must be a JSON object, not an array"},
		{"null for the document", `null`, "it must be a JSON object, not null"},
		{"empty file", "", "it is empty"},
		{"blank file", " \n", "it is empty"},
		{"HTML error page", "<!DOCTYPE html><html>502 Bad Gateway</html>", "it is not JSON: at byte 0: invalid character '<' looking for beginning of value"},
		{"cut short", least[:60], "it is not complete JSON: it ends too early"},
		{"too large", least + strings.Repeat(" ", MaxSize), "it has more than 1048576 bytes"},
		{"BOM", "\ufeff" + least, "it is not JSON: at byte 0: invalid character 'ï' looking for beginning of value"},

		{"newer schema", in(full, `"schema": 1`, `"schema": 2`), "manifest schema 2 is newer than this program understands (1)"},
		{"newer schema, otherwise different", `{"schema":2,"platforms":[]}`, "manifest schema 2 is newer than this program understands (1)"},
		{"schema zero", in(full, `"schema": 1`, `"schema": 0`), "schema: must be a plain whole number from 1 to 2147483647"},
		{"no version", `{"platforms":{}}`, "version: missing"},
		{"no platforms", `{"version":"v1"}`, "platforms: missing"},
		{"empty platforms", `{"version":"v1","platforms":{}}`, "platforms: there must be at least one"},
		{"no file", in(least, `"file":"a.tar.gz",`, ``), "platforms.linux-amd64.file: missing"},
		{"no digest", in(least, `"sha256":"`+hex64+`",`, ``), "platforms.linux-amd64.sha256: missing"},
		{"no size", in(least, `,"size":1`, ``), "platforms.linux-amd64.size: missing"},
		{"version a number", in(least, `"v1"`, `1`), "version: must be a string, not a number"},
		{"version empty", in(least, `v1`, ``), "version: " + badName},
		{"version with slash", in(least, `v1`, `../v1`), "version: " + badName},
		{"version with newline", in(least, `v1`, `v1\n`), "version: " + badName},
		{"version too long", in(least, `v1`, strings.Repeat("1", 65)), "version: " + badName},
		{"product", in(full, `"machinemon-client",`, `"a b",`), "product: " + badName},
		{"min_version", in(full, `"v0.1.2"`, `"-1"`), "min_version: " + badName},
		{"negative sequence", in(full, `11,`, `-11,`), "sequence: must be a plain whole number from 0 to 9223372036854775807"},
		{"sequence 2^63", in(full, `11,`, `9223372036854775808,`), "sequence: must be a plain whole number from 0 to 9223372036854775807"},
		{"released_at", in(full, `2026-11-01T12:00:00Z`, `yesterday`), "released_at: must be a time such as 2026-11-01T12:00:00Z"},
		{"percent", in(full, `10`, `101`), "rollout.percent: must be a plain whole number from 0 to 100"},
		{"no percent", in(full, `"percent": 10`, ``), "rollout.percent: missing"},
		{"platform key", in(least, `linux-amd64`, `../linux`), `platforms."../linux": not a platform key such as linux-amd64`},
		{"digest upper case", in(least, hex64, strings.ToUpper(hex64)), "platforms.linux-amd64.sha256: must be 64 lower-case hex digits"},
		{"sha512 too short", in(full, hex64+hex64, hex64), "platforms.linux-amd64.sha512: must be 128 lower-case hex digits"},
		{"sha512 upper case", in(full, hex64+hex64, strings.ToUpper(hex64)+hex64), "platforms.linux-amd64.sha512: must be 128 lower-case hex digits"},
		{"sha512 of another type", in(full, `"`+hex64+hex64+`"`, "null"), "platforms.linux-amd64.sha512: must be a string, not null"},
		{"sha512 alone", in(full, `"sha256": "`+hex64+`",
      "sha512"`, `"sha512"`), "platforms.linux-amd64.sha256: missing"},
		{"digest too short", in(least, hex64, hex64[1:]), "platforms.linux-amd64.sha256: must be 64 lower-case hex digits"},
		{"unpacked_size", in(full, `8736930`, `0`), "platforms.linux-amd64.unpacked_size: must be a plain whole number from 1 to 1099511627776"},
		{"contents an array", in(least, `"size":1`, `"size":1,"contents":[]`), "platforms.linux-amd64.contents: must be an object, not an array"},
		{"delta a string", in(least, `"size":1`, `"size":1,"deltas":["x"]`), "platforms.linux-amd64.deltas[0]: must be an object, not a string"},
		{"delta entry", in(full, `"entry": "machinemon`, `"entry": "/machinemon`), "platforms.linux-amd64.deltas[0].entry: not a plain relative path in the archive"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.doc))
			if err == nil {
				t.Fatalf("accepted: %+v", m)
			}
			if err.Error() != tt.err {
				t.Errorf("got  %s\nwant %s", err, tt.err)
			}
		})
	}
}

func TestParseNames(t *testing.T) {
	const plain = "must be a plain file name (letters, digits, . + _ ~ -) or an http(s) URL"
	for _, tt := range []struct{ file, err string }{
		{"a-1.0+b~c_d.tar.gz", ""},
		{"https://example.com/a%20b.tar.gz?x=1", ""},
		{"http://[::1]:8080/a", ""},
		{"", plain}, {".", plain}, {"..", plain}, {"../a", plain}, {"/a", plain}, {"d/a", plain}, {"-a", plain},
		{".hidden", plain}, {"a b", plain}, {"a?b", plain}, {"a\nb", plain}, {"//host/a", plain},
		{"ftp://host/a", plain}, {"file:///etc/passwd", plain}, {"https:a", plain}, {"https:///a", plain},
		{"https://h/\x01", plain}, {"https://h:x/", plain}, {"a\u202eb", plain}, {strings.Repeat("a", 256), plain},
		{"https://user:pass@host/a", "a URL must not carry a user name or password"},
		{"https://h/" + strings.Repeat("a", 2048), "a URL must not be longer than 2048 bytes"},
	} {
		checkParse(t, "file", tt.file, fmt.Sprintf(`"file":%s,"sha256":%q,"size":1`, quote(tt.file), hex64), tt.err)
	}

	const path = "not a plain relative path in the archive"
	for _, tt := range []struct{ entry, err string }{
		{"bin/scaleboxd", ""}, {".config", ""}, {"a b", ""}, {".", ""},
		{"", path}, {"..", path}, {"../x", path}, {"a/../b", path}, {"/abs", path}, {"a//b", path},
		{"a/", path}, {"./a", path}, {"a/.", path},
		{"a\nb", "a name must not contain control characters"}, {"\u0085", "a name must not contain control characters"},
		{strings.Repeat("a", 1025), "a name must not be longer than 1024 bytes"},
	} {
		body := fmt.Sprintf(`"file":"a","sha256":%q,"size":1,"contents":{%s:{"sha256":%q,"size":0}}`, hex64, quote(tt.entry), hex64)
		checkParse(t, "entry", tt.entry, body, tt.err)
	}
}

func checkParse(t *testing.T, what, value, platform, want string) {
	t.Helper()
	_, err := Parse([]byte(`{"version":"v1","platforms":{"linux-amd64":{` + platform + `}}}`))
	if want == "" && err != nil || want != "" && (err == nil || !strings.HasSuffix(err.Error(), ": "+want)) {
		t.Errorf("%s %.60q: got %v, want %q", what, value, err, want)
	}
}

func quote(s string) string { b, _ := json.Marshal(s); return string(b) }

// TestParseErrorIsOneLine checks that errors are one short line, as the journal needs.
func TestParseErrorIsOneLine(t *testing.T) {
	for _, doc := range []string{
		`{"` + strings.Repeat("a\\n", 10_000) + `":1,"` + strings.Repeat("a\\n", 10_000) + `":1}`,
		`{"version":"v1","platforms":{"` + strings.Repeat("\\n", 10_000) + `":{}}}`,
	} {
		_, err := Parse([]byte(doc))
		if err == nil || len(err.Error()) > 300 || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("got %.400v", err)
		}
	}
}

func TestPlatform(t *testing.T) {
	m := &Manifest{Version: "v2", Platforms: map[string]Platform{"linux-arm64": {Size: 2}, "linux-amd64": {Size: 1}}}
	if p, err := m.Platform("linux-arm64"); err != nil || p.Size != 2 {
		t.Errorf("got %+v, %v", p, err)
	}
	_, err := m.Platform("linux-armv6")
	if want := "v2 has nothing for linux-armv6 (it has linux-amd64, linux-arm64)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestArmVersion(t *testing.T) {
	for machine, want := range map[string]string{
		"armv5tejl": "armv5", "armv6l": "armv6", "armv7l": "armv7", "armv8l": "armv7", "aarch64": "armv7", "": "armv6",
	} {
		if got := armVersion(machine); got != want {
			t.Errorf("%q: got %s, want %s", machine, got, want)
		}
	}
	if machine() == "" {
		t.Error("the kernel does not say what machine this is")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{full, least, `{"version":"1\u0000"}`, `{"a":"\ud83d\ude00","\ud800":[[]]}`, "[1e400]", "{}x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("error is not one line: %q", err)
			}
			return
		}
		// encoding/json accepts more documents. If both accept one, they must agree.
		var std Manifest
		if err := json.Unmarshal(b, &std); err != nil || std.Version != m.Version || len(std.Platforms) != len(m.Platforms) {
			t.Fatalf("encoding/json reads %+v (%v)\nParse reads %+v", std, err, m)
		}
		out, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil && len(out) <= MaxSize {
			t.Fatalf("Parse refuses what Marshal wrote: %v\n%s", err, out)
		}
		if err == nil {
			twice, _ := again.Marshal()
			if !bytes.Equal(out, twice) {
				t.Fatalf("round trip changed\n%s\n%s", out, twice)
			}
		}
	})
}
