package target

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/pelletier/go-toml/v2/unstable"
)

// go-toml matches keys whatever their case, tells the position of what it
// refuses but not of what it accepts, and quotes values in its errors. So the
// keys and types of a file are checked here, and go-toml only fills the
// fragment.

// An indexer walks over a file's expressions and notes where each key is.
type indexer struct {
	parser unstable.Parser
	lines  map[string]int // "install[1].to" → line
	tables map[string]int // number of elements seen of each list of tables
}

// A place is a table or key: its name as in keys, and its path, which says of
// lists of tables which element.
type place struct{ name, path string }

// index returns the line of each key. wrong is the first unknown key or wrong
// type; syntax is where the file stops to be TOML, and its message may quote
// the file.
func index(data []byte) (lines map[string]int, wrong *ConfigError, syntax error) {
	ix := indexer{lines: map[string]int{}, tables: map[string]int{}}
	ix.parser.Reset(data)
	var current place
	for ix.parser.NextExpression() {
		node := ix.parser.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			current, wrong = ix.header(node)
		case unstable.KeyValue:
			wrong = ix.keyValue(current, node)
		}
		if wrong != nil {
			return nil, wrong, nil
		}
	}
	return ix.lines, nil, ix.parser.Error()
}

// header notes [a.b] or [[a.b]] and returns it as the current table.
func (ix *indexer) header(node *unstable.Node) (place, *ConfigError) {
	at, part, err := ix.enter(place{}, node.Key())
	if err != nil {
		return at, err
	}
	if node.Kind == unstable.ArrayTable {
		if keyByName[at.name].kind != tables {
			return at, ix.fault(at, part, keyByName[at.name].problem())
		}
		return ix.element(at, part), nil
	}
	if keyByName[at.name].kind != table {
		return at, ix.fault(at, part, keyByName[at.name].problem())
	}
	return at, nil
}

// keyValue notes `key = value` below the table in, and what is in value.
func (ix *indexer) keyValue(in place, node *unstable.Node) *ConfigError {
	at, part, err := ix.enter(in, node.Key())
	if err != nil {
		return err
	}
	value := node.Value()
	switch k := keyByName[at.name]; {
	case k.kind == text && value.Kind == unstable.String,
		k.kind == integer && value.Kind == unstable.Integer,
		k.kind == boolean && value.Kind == unstable.Bool:
		return nil
	case k.kind == table && value.Kind == unstable.InlineTable:
		return ix.inline(at, value)
	case k.kind == texts && value.Kind == unstable.Array:
		for it := value.Children(); it.Next(); {
			if it.Node().Kind != unstable.String {
				return ix.fault(at, part, k.problem())
			}
		}
		return nil
	case k.kind == tables && value.Kind == unstable.Array:
		for it := value.Children(); it.Next(); {
			if it.Node().Kind != unstable.InlineTable {
				return ix.fault(at, part, k.problem())
			}
			if err := ix.inline(ix.element(at, part), it.Node()); err != nil {
				return err
			}
		}
		return nil
	default:
		return ix.fault(at, part, k.problem())
	}
}

func (ix *indexer) inline(in place, node *unstable.Node) *ConfigError {
	for it := node.Children(); it.Next(); {
		if err := ix.keyValue(in, it.Node()); err != nil {
			return err
		}
	}
	return nil
}

// enter follows a dotted key from in, checks that each part is known and all
// but the last are tables, and notes their lines. It also returns the node of
// the last part.
func (ix *indexer) enter(in place, dotted unstable.Iterator) (place, *unstable.Node, *ConfigError) {
	var part *unstable.Node
	for dotted.Next() {
		if in.name != "" && part != nil && keyByName[in.name].kind != table {
			return in, part, ix.fault(in, part, keyByName[in.name].problem())
		}
		part = dotted.Node()
		name := string(part.Data)
		if !bareKey.MatchString(name) {
			name = strconv.QuoteToASCII(name)
		}
		parent := in
		in = place{dot(parent.name, name), dot(parent.path, name)}
		if _, ok := keyByName[in.name]; !ok {
			return in, part, ix.fault(in, part, unknown(parent.name, name))
		}
		if _, ok := ix.lines[in.path]; !ok {
			ix.lines[in.path] = ix.line(part)
		}
	}
	return in, part, nil
}

// element counts one more element of a list of tables.
func (ix *indexer) element(list place, part *unstable.Node) place {
	n := ix.tables[list.path]
	ix.tables[list.path]++
	list.path = fmt.Sprintf("%s[%d]", list.path, n)
	ix.lines[list.path] = ix.line(part)
	return list
}

func (ix *indexer) fault(at place, part *unstable.Node, problem string) *ConfigError {
	return &ConfigError{Line: ix.line(part), Key: shown(at.name), Problem: problem}
}

func (ix *indexer) line(part *unstable.Node) int {
	return ix.parser.Shape(part.Raw).Start.Line
}

// bareKey is a key that needs no quotes, and no more of it than an error can
// show.
var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// shown keeps an error about an endless key to one readable line.
func shown(name string) string {
	if len(name) > 100 {
		return name[:100] + "…"
	}
	return name
}
