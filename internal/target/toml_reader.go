package target

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// go-toml matches keys regardless of case, reports positions only for what it refuses,
// and quotes values in its errors. So this file reads keys, types and values from the
// expressions of go-toml's parser.

// A reader walks over a file's expressions and notes each key.
type reader struct {
	parser unstable.Parser
	found  settings
	tables map[string]int // the number of elements so far in each list of tables
}

// A place is a table or key: its name as in keys, and its path, which has the index of
// the element for each list of tables.
type place struct{ name, path string }

// read returns the keys of a file. wrong is the first unknown key or wrong type. syntax
// is the first error of TOML's syntax; its message may quote the file.
func read(data []byte) (found settings, wrong *ConfigError, syntax error) {
	r := reader{found: settings{}, tables: map[string]int{}}
	r.parser.Reset(data)
	var current place
	for r.parser.NextExpression() {
		node := r.parser.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			current, wrong = r.header(node)
		case unstable.KeyValue:
			wrong = r.keyValue(current, node)
		}
		if wrong != nil {
			return nil, wrong, nil
		}
	}
	return r.found, nil, r.parser.Error()
}

// header notes [a.b] or [[a.b]] and returns it as the current table.
func (r *reader) header(node *unstable.Node) (place, *ConfigError) {
	at, part, err := r.enter(place{}, node.Key())
	if err != nil {
		return at, err
	}
	if node.Kind == unstable.ArrayTable {
		if keyByName[at.name].kind != kindTables {
			return at, r.fault(at, part, keyByName[at.name].problem())
		}
		return r.element(at, part), nil
	}
	if keyByName[at.name].kind != kindTable {
		return at, r.fault(at, part, keyByName[at.name].problem())
	}
	return at, nil
}

// keyValue notes `key = value` in the table in, and the keys of value if that is a table.
func (r *reader) keyValue(in place, node *unstable.Node) *ConfigError {
	at, part, err := r.enter(in, node.Key())
	if err != nil {
		return err
	}
	value := node.Value()
	switch k := keyByName[at.name]; {
	case (k.kind == kindText || k.kind == kindStatus) && value.Kind == unstable.String:
		r.note(at, string(value.Data))
	case (k.kind == kindInteger || k.kind == kindStatus) && value.Kind == unstable.Integer:
		// The decoder refuses numbers out of range.
		n, _ := strconv.ParseInt(strings.ReplaceAll(string(value.Data), "_", ""), 0, 64)
		r.note(at, n)
	case k.kind == kindBoolean && value.Kind == unstable.Bool:
		r.note(at, string(value.Data) == "true")
	case k.kind == kindTable && value.Kind == unstable.InlineTable:
		return r.inline(at, value)
	case k.kind == kindTexts && value.Kind == unstable.Array:
		texts := []string{}
		for it := value.Children(); it.Next(); {
			if it.Node().Kind != unstable.String {
				return r.fault(at, part, k.problem())
			}
			texts = append(texts, string(it.Node().Data))
		}
		r.note(at, texts)
	case k.kind == kindTables && value.Kind == unstable.Array:
		for it := value.Children(); it.Next(); {
			if it.Node().Kind != unstable.InlineTable {
				return r.fault(at, part, k.problem())
			}
			if err := r.inline(r.element(at, part), it.Node()); err != nil {
				return err
			}
		}
	default:
		return r.fault(at, part, k.problem())
	}
	return nil
}

// note stores the value of a key. enter has stored its line.
func (r *reader) note(at place, value any) {
	r.found[at.path] = setting{value: value, line: r.found[at.path].line}
}

func (r *reader) inline(in place, node *unstable.Node) *ConfigError {
	for it := node.Children(); it.Next(); {
		if err := r.keyValue(in, it.Node()); err != nil {
			return err
		}
	}
	return nil
}

// enter follows a dotted key from the table in. It checks that each part is known and
// that all but the last are tables, and notes their lines. It also returns the node of
// the last part.
func (r *reader) enter(in place, dotted unstable.Iterator) (place, *unstable.Node, *ConfigError) {
	var part *unstable.Node
	for dotted.Next() {
		if in.name != "" && part != nil && keyByName[in.name].kind != kindTable {
			return in, part, r.fault(in, part, keyByName[in.name].problem())
		}
		part = dotted.Node()
		name := string(part.Data)
		if !bareKey.MatchString(name) {
			name = strconv.QuoteToASCII(name)
		}
		parent := in
		in = place{dot(parent.name, name), dot(parent.path, name)}
		if _, ok := keyByName[in.name]; !ok {
			fault := r.fault(in, part, "")
			fault.Problem, fault.Hint = unknown(parent.name, name)
			return in, part, fault
		}
		if _, ok := r.found[in.path]; !ok {
			r.found[in.path] = setting{line: r.line(part)}
		}
	}
	return in, part, nil
}

// element adds an element to a list of tables and returns its place.
func (r *reader) element(list place, part *unstable.Node) place {
	n := r.tables[list.path]
	r.tables[list.path]++
	list.path = fmt.Sprintf("%s[%d]", list.path, n)
	r.found[list.path] = setting{line: r.line(part)}
	return list
}

func (r *reader) fault(at place, part *unstable.Node, problem string) *ConfigError {
	return &ConfigError{Line: r.line(part), Key: shown(at.name), Problem: problem}
}

func (r *reader) line(part *unstable.Node) int {
	return r.parser.Shape(part.Raw).Start.Line
}

// bareKey matches a key that needs no quotes.
var bareKey = pattern.New(`^[A-Za-z0-9_-]+$`)

// shown returns name, cut so that an error about a very long key stays readable.
func shown(name string) string {
	if len(name) > 100 {
		return name[:100] + "…"
	}
	return name
}
