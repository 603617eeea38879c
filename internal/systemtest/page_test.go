//go:build systemd

package systemtest

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// page is a document whose blocks a reader follows: sh is typed, toml is written to the
// file that its first line names, and console shows what a command prints.
type page struct {
	name   string
	titles []string // of the sections that nobody followed yet
	blocks map[string][]docBlock
}

type docBlock struct {
	language string
	lines    []string
}

// readPage reads a document of the source, such as README.md.
func readPage(t *testing.T, name string) *page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	p := &page{name: name, blocks: make(map[string][]docBlock)}
	title := ""
	var block *docBlock
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		fence, isFence := strings.CutPrefix(line, "```")
		heading, isHeading := strings.CutPrefix(line, "## ")
		switch {
		case isFence && block == nil:
			block = &docBlock{language: fence}
		case isFence:
			if !slices.Contains(p.titles, title) {
				p.titles = append(p.titles, title)
			}
			p.blocks[title] = append(p.blocks[title], *block)
			block = nil
		case block != nil:
			block.lines = append(block.lines, line)
		case isHeading:
			title = heading
		}
	}
	return p
}

// reader is a user with sudo on a machine.
type reader struct {
	*box
	*page
	before  map[string]func() // what happens elsewhere, before a block that has this text
	replace *strings.Replacer // of what a reader must fill in
	shows   [][]string        // the console blocks
	said    string            // what the typed blocks printed
}

const readersHome = "/home/reader/"

func (b *box) reader(p *page) *reader {
	b.t.Helper()
	if b.run("id", "reader").Code != 0 {
		b.must("useradd", "--create-home", "--shell", "/bin/bash", "reader")
		b.writeFile("/etc/sudoers.d/reader", "reader ALL=(ALL) NOPASSWD: ALL\n", 0o440)
	}
	return &reader{box: b, page: p, before: map[string]func(){}, replace: strings.NewReplacer()}
}

// follows follows the blocks of the sections.
func (r *reader) follows(titles ...string) {
	r.t.Helper()
	for _, title := range titles {
		i := slices.Index(r.titles, title)
		if i < 0 {
			r.t.Fatalf("%s has no section %q with blocks, which was not followed yet", r.name, title)
		}
		r.titles = slices.Delete(r.titles, i, i+1)
		for _, block := range r.blocks[title] {
			text := r.replace.Replace(strings.Join(block.lines, "\n")) + "\n"
			for mark, f := range r.before {
				if strings.Contains(text, mark) {
					f()
				}
			}
			switch block.language {
			case "sh":
				r.types(text)
			case "toml":
				r.writes(text)
			case "console":
				r.shows = append(r.shows, block.lines)
			case "text":
			default:
				r.t.Errorf("%s: a block in %q has the language %q", r.name, title, block.language)
			}
		}
	}
}

// exits finds the exit status that a command may have beside 0.
var exits = regexp.MustCompile(`# .*exit status ([0-9]+)`)

// types types a block of commands, each of which must succeed.
func (r *reader) types(text string) {
	r.t.Helper()
	if strings.HasPrefix(text, "make ") { // in the source
		makefile, err := os.ReadFile("../../Makefile")
		r.ok(err)
		for line := range strings.Lines(text) {
			if goal := strings.Fields(line)[1]; !strings.Contains(string(makefile), "\n"+goal+":") {
				r.t.Errorf("%s: Makefile makes no %s", r.name, goal)
			}
		}
		return
	}
	script := "set -e\n"
	for line := range strings.Lines(text) {
		if may := exits.FindStringSubmatch(line); may != nil {
			line = "{ " + line + "} || [ $? -eq " + may[1] + " ]\n"
		}
		script += line
	}
	r.writeFile("/tmp/typed", script, 0o644)
	result := r.run("runuser", "--login", "reader", "-c", "PATH=/usr/bin:$PATH CREDENTIALS_DIRECTORY=/tmp/credentials bash /tmp/typed 2>&1")
	r.t.Logf("%s\n%s", text, result.Stdout)
	if result.Code != 0 {
		r.t.Fatalf("%s: exit status %d", r.name, result.Code)
	}
	r.said += result.Stdout
}

// writes writes a block of a configuration to the file that its first line names. One
// that names none is an alternative, which must at least be TOML.
func (r *reader) writes(text string) {
	r.t.Helper()
	var any map[string]any
	r.ok(toml.Unmarshal([]byte(text), &any))
	first, rest, _ := strings.Cut(text, "\n")
	name, top := strings.CutSuffix(first, ", at its top")
	if name = strings.TrimPrefix(name, "# "); !path.IsAbs(name) {
		return
	}
	if top {
		rest += r.readFile(name)
	}
	r.must("mkdir", "-p", path.Dir(name))
	r.writeFile(name, rest, 0o644)
}

var durations = regexp.MustCompile(` in [0-9.]+ (m?s)`)

// done fails if a section was not followed, or if a command did not print what a console
// block shows, times excepted.
func (r *reader) done() {
	r.t.Helper()
	if len(r.titles) > 0 {
		r.t.Errorf("%s: not followed: %q", r.name, r.titles)
	}
	said := durations.ReplaceAllString(r.said, " in T $1")
	for _, lines := range r.shows {
		want := durations.ReplaceAllString(strings.Join(lines[1:], "\n"), " in T $1")
		if !strings.HasPrefix(lines[0], "$ ") || !strings.Contains(said, want) {
			r.t.Errorf("%s shows\n%s", r.name, strings.Join(lines, "\n"))
		}
	}
}
