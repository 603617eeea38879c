package trusttest

import (
	"bytes"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// spoilt is a change of a document, which replaces old by new, or the whole document if
// old is "". The client must answer with refusal. The zero value says that the case does
// not apply to this kind of document.
type spoilt struct{ old, new, refusal string }

const (
	badVersion = "timestamp v1: signed.meta.snapshot.json.version must be a plain whole number from 1 on"
	badSize    = ".size: must be a plain whole number from 1 to 1099511627776"
	tooDeep    = "it nests deeper than 32 levels"
	noObject   = "it is not JSON: at byte 0: invalid character '<' looking for beginning of value"
	html       = "<!DOCTYPE html><html>502 Bad Gateway</html>"
)

// jsonLines are cases of JSON that two parsers could understand differently. The manifest
// is signed with the change. The metadata is changed after it was signed, and must be
// refused before its signatures are checked.
var jsonLines = []struct {
	name                string
	timestamp, manifest spoilt
}{
	{"duplicate keys",
		spoilt{`,"version":1}}`, `,"version":1,"version":9}}`, "timestamp: signed.version is there twice"},
		spoilt{`"version": "v1"`, `"version": "v1", "version": "v2"`, "version is there twice"}},
	{"VERSION",
		spoilt{`,"version":1}}`, `,"VERSION":1}}`, `timestamp: version must be written exactly so, not "VERSION"`},
		spoilt{`"version"`, `"VERSION"`, `version: the key must be written exactly so, not "VERSION"`}},
	{"Signed beside signed",
		spoilt{`,"version":1}}`, `,"version":1},"Signed":{}}`, `timestamp: signed must be written exactly so, not "Signed"`},
		spoilt{`"version": "v1"`, `"version": "v1", "Version": "v2"`, `version: the key must be written exactly so, not "Version"`}},
	{"verſion",
		spoilt{`,"version":1}}`, `,"version":1,"verſion":9}}`, `timestamp: version must be written exactly so, not "ver\u017fion"`},
		spoilt{`"version": "v1"`, `"version": "v1", "verſion": "v2"`, `version: the key must be written exactly so, not "ver\u017fion"`}},
	{"invalid UTF-8",
		spoilt{`"sig"`, "\"\xff\":1,\"sig\"", "timestamp: it is not valid UTF-8"},
		spoilt{`"v1"`, "\"v1\xff\"", "it is not valid UTF-8"}},
	{"lone surrogate",
		spoilt{`"sig"`, `"\ud800":1,"sig"`, `timestamp: it has half of a surrogate pair, \ud800, in a string`},
		spoilt{`"v1"`, `"v1\ud800"`, `it has half of a surrogate pair, \ud800, in a string`}},
	{"{…}garbage",
		spoilt{`}}`, `}}garbage`, "timestamp: it is not JSON: "},
		spoilt{"\n}\n", "\n}garbage", "there is something after the JSON object"}},
	{"null for a required field",
		spoilt{`"snapshot.json":{"version":1}`, `"snapshot.json":null`, "timestamp v1: signed.meta.snapshot.json must be an object"},
		spoilt{`"v1"`, `null`, "version: must be a string, not null"}},
	{`"1\u0000"`,
		spoilt{`"spec_version":"1`, `"spec_version":"1\u0000`, `timestamp: it has \u0000 in a string`},
		spoilt{`"v1"`, `"1\u0000"`, `it has \u0000 in a string`}},
	{"negative size",
		spoilt{`"version":1}`, `"version":-1}`, badVersion},
		spoilt{`"size": `, `"size": -`, badSize}},
	{"size 1e3",
		spoilt{`"version":1}`, `"version":1e3}`, badVersion},
		spoilt{`"size": `, `"size": 1e3, "x": `, badSize}},
	{"size 1e400",
		spoilt{`"version":1}`, `"version":1e400}`, badVersion},
		spoilt{`"size": `, `"size": 1e400, "x": `, badSize}},
	{"size 2^63",
		spoilt{`"version":1}`, `"version":9223372036854775808}`, badVersion},
		spoilt{`"size": `, `"size": 9223372036854775808, "x": `, badSize}},
	{"10,001 nested [",
		spoilt{"", strings.Repeat("[", 10_001), "timestamp: " + tooDeep},
		spoilt{"", strings.Repeat("[", 10_001), tooDeep}},
	{"a string where an object belongs",
		spoilt{"", `{"signed":"x","signatures":[]}`, "timestamp: signed must be an object"},
		spoilt{`"platforms": `, `"rollout": "10", "platforms": `, "rollout: must be an object, not a string"}},
	{"empty file",
		spoilt{"", "", "timestamp: it is missing"},
		spoilt{"", "", "it is empty"}},
	{"HTML error page with status 200",
		spoilt{"", html, "timestamp: " + noObject},
		spoilt{"", html, noObject}},
}

func onJSON() (all []Attack) {
	for _, line := range jsonLines {
		all = append(all, Attack{line.name + ", for the metadata", func(r *Repo) {
			r.Check(1)
			r.Attack(line.timestamp.refusal, func() { r.replace(trust.TimestampFile, line.timestamp.old, line.timestamp.new) })
		}}, Attack{line.name + ", for the manifest", func(r *Repo) {
			r.Check(1)
			r.Attack(line.manifest.refusal, func() {
				r.replace(manifest.FileName, line.manifest.old, line.manifest.new)
				r.PublishRaw(r.Files[manifest.FileName])
			})
			r.skip()
		}})
	}
	return all
}

// replace changes a file without signing it again.
func (r *Repo) replace(file, old, new string) {
	r.t.Helper()
	if old == "" {
		r.Files[file] = []byte(new)
		return
	}
	if !bytes.Contains(r.Files[file], []byte(old)) {
		r.t.Fatalf("no %s in %s", old, r.Files[file])
	}
	r.Files[file] = bytes.Replace(r.Files[file], []byte(old), []byte(new), 1)
}
