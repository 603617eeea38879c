package target

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources has one source of each type, and the other way to name a manifest.
var sources = []string{
	"source.url = 'https://x'\n",
	"source.url_from = { file = '/etc/x', key = 'x', append = '/x' }\n",
	"[source]\ntype = 'github'\nrepo = 'o/n'\n",
	"[source]\nurl = 'https://x'\nproxy = 'http://x:1'\n",
	"[source]\ntype = 'file'\npath = '/srv/releases'\n",
}

// TestKeysAreRead: validation reads each key in keys, and each default has the type of
// its key. Otherwise the key or default would be ignored without an error.
func TestKeysAreRead(t *testing.T) {
	example := uncommentedExample(t)
	before, after := strings.Index(example, "[source]"), strings.Index(example, "[trust]")
	// result returns the target, or the problem, if the key has this value.
	result := func(k key, source string, value any) (got string, problem string) {
		s := settings{}
		for order, text := range []string{example[:before] + example[after:], source} {
			found, wrong := parse([]byte(text))
			if wrong != nil {
				t.Fatal(wrong)
			}
			s.merge(found, adminFile, order)
		}
		path := k.name
		for p := range s {
			if withoutIndex(p) == k.name {
				path = p
			}
		}
		s[path] = setting{value: value, file: adminFile, line: 1, order: 1}
		v := validation{settings: s, dirs: DefaultDirs}
		target, wrong := v.target("x", []string{adminFile})
		if wrong != nil {
			return wrong.Error(), wrong.Problem
		}
		text, err := json.Marshal(target)
		must(t, err)
		return string(text), ""
	}
	refused := map[kind]any{kindText: strings.Repeat("\x00", 2000), kindInteger: int64(-1), kindStatus: "6xx", kindTexts: []string{"\x00"}}
	for _, k := range keys {
		if k.kind == kindTable || k.kind == kindTables {
			continue
		}
		read := slices.ContainsFunc(sources, func(source string) bool {
			if k.kind == kindBoolean {
				yes, _ := result(k, source, true)
				no, _ := result(k, source, false)
				return yes != no
			}
			_, problem := result(k, source, refused[k.kind])
			return problem == k.problem()
		})
		if !read {
			t.Errorf("%s is not read", k.name)
		}
		types := map[kind]reflect.Type{kindText: reflect.TypeFor[string](), kindInteger: reflect.TypeFor[int64](), kindStatus: reflect.TypeFor[int64](), kindBoolean: reflect.TypeFor[bool](), kindTexts: reflect.TypeFor[[]string]()}
		if _, must := k.otherwise.(required); !must && k.otherwise != nil && (reflect.TypeOf(k.otherwise) != types[k.kind] || !k.valid(k.otherwise)) {
			t.Errorf("%s cannot have the default %#v", k.name, k.otherwise)
		}
	}
}

// A manualKey is a key's row in the manual's tables.
type manualKey struct{ kind, text string }

// manualKeys returns the rows of the manual's tables by the keys' names, without the
// markup.
func manualKeys(t *testing.T) map[string]manualKey {
	page := shipped(t, "man/machinemon-update.target.5")
	page = regexp.MustCompile(`\\%|\\:|\\f.|"$`).ReplaceAllString(page, "")
	page = strings.ReplaceAll(page, `\-`, "-")
	all := map[string]manualKey{}
	for _, section := range regexp.MustCompile(`(?m)^\.S[HS] `).Split(page, -1) {
		title, text, _ := strings.Cut(section, "\n")
		name := map[string]string{"KEYS": "", "url_from": "source.url_from", "[source] of type github": "source"}
		table, named := name[title]
		if !named {
			table = strings.Trim(title, "[]")
		}
		_, text, _ = strings.Cut(text, ".TS\n")
		text, _, _ = strings.Cut(text, ".TE\n")
		text = regexp.MustCompile(`(?m)^T\{\n(\w+)\nT\}`).ReplaceAllString(text, "$1")
		text = regexp.MustCompile(`(?m)^\.[BI]R? (\S+) ?`).ReplaceAllString(text, "$1")
		for _, row := range regexp.MustCompile(`(?m)^([a-z_.]+)\t([a-z ]+)\tT\{\n((?s:.*?))\nT\}`).FindAllStringSubmatch(text, -1) {
			all[dot(table, row[1])] = manualKey{row[2], strings.Join(strings.Fields(row[3]), " ")}
		}
	}
	return all
}

// TestManual compares the tables of the manual with keys: names, types, bounds, defaults
// and help.
func TestManual(t *testing.T) {
	kinds := map[kind]string{kindText: "string", kindInteger: "integer", kindStatus: "integer or string", kindBoolean: "boolean", kindTexts: "list of strings", kindTable: "table", kindTables: "list of tables"}
	bounds := regexp.MustCompile(`\d+ to \d+|"[a-z0-9]{3,}"`)
	someDefault := regexp.MustCompile(`Default ("[^"]*"|\w+)\.|Required\.`)
	manual := manualKeys(t)
	arch := manual["source.arch"].text
	for _, k := range keys {
		if name, ok := strings.CutPrefix(k.name, "source.arch."); ok {
			if !strings.Contains(k.allowed, "1 to 32") || !strings.Contains(arch, "1 to 32") || !regexp.MustCompile(`\b`+name+`\b`).MatchString(arch) {
				t.Errorf("%s is not in the manual", k.name)
			}
			continue
		}
		row, there := manual[k.name]
		delete(manual, k.name)
		if !there {
			if k.kind != kindTable && k.kind != kindTables {
				t.Errorf("%s is not in the manual", k.name)
			}
			continue
		}
		if row.kind != kinds[k.kind] {
			t.Errorf("%s is a %s in the manual, not a %s", k.name, row.kind, kinds[k.kind])
		}
		if !strings.HasPrefix(row.text, k.help) {
			t.Errorf("%s: the manual does not begin with %q: %s", k.name, k.help, row.text)
		}
		for _, bound := range bounds.FindAllString(k.allowed, -1) {
			if !strings.Contains(row.text, bound) {
				t.Errorf("%s: the manual lacks %s: %s", k.name, bound, row.text)
			}
		}
		var otherwise string
		switch value := k.otherwise.(type) {
		case required:
			otherwise = "Required."
		case int64, bool:
			otherwise = fmt.Sprintf("Default %v.", value)
		case string:
			otherwise = "Default " + strconv.Quote(value) + "."
		}
		// A number may have an explanation such as (1 GiB) behind it.
		said := regexp.MustCompile(` \([^)]*\)\.`).ReplaceAllString(row.text, ".")
		if got := someDefault.FindString(said); got != otherwise && k.kind != kindTables {
			t.Errorf("%s: the manual says %q, not %q: %s", k.name, got, otherwise, row.text)
		}
	}
	for name := range manual {
		t.Errorf("%s of the manual is no key", name)
	}
}
