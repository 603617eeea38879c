package testkit

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A Row is one row of a table of what is accepted.
type Row struct {
	What    string
	Refused string // the words of the refusal; "" if it is accepted
}

// acceptedFile has the tables that are shipped. With this variable in the environment, and
// -p 1, the tests write them instead of comparing them.
const (
	acceptedFile = "../../packaging/doc/accepted.md"
	acceptedEnv  = "MACHINEMON_WRITE_ACCEPTED"
)

var longHex = regexp.MustCompile(`[0-9a-fA-F]{32,}`)

// cell returns text as it is written in a table: on one line, without what is long, of
// at most so many characters.
func cell(text string, most int) string {
	text = longHex.ReplaceAllString(strings.Trim(text, ": "), "DIGEST")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	text = strconv.Quote(strings.ReplaceAll(text, "hunter2", "SECRET"))
	text = text[1 : len(text)-1]
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`, "|", `\|`, "<", `\<`, "*", `\*`).Replace(text)
}

// Accepted fails the test if the section of the shipped tables does not have exactly these
// rows, so that no row of a test is missing there, and none is there that no test has.
func Accepted(t testing.TB, section string, rows []Row) {
	t.Helper()
	var table strings.Builder
	var seen []string
	for _, r := range rows {
		line := "| " + cell(r.What, 160) + " | accepted |\n"
		if r.Refused != "" {
			line = "| " + cell(r.What, 160) + " | refused: " + cell(r.Refused, 400) + " |\n"
		}
		if !slices.Contains(seen, line) {
			seen = append(seen, line)
			table.WriteString(line)
		}
	}
	content, err := os.ReadFile(acceptedFile)
	Must(t, err)
	before, rest, found := strings.Cut(string(content), "\n## "+section+"\n")
	text, after, more := strings.Cut(rest, "\n## ")
	head, got, table1 := strings.Cut(text, "| --- | --- |\n")
	if !found || !table1 {
		t.Fatalf("%s has no section %q with a table", acceptedFile, section)
	}
	if got == table.String() {
		return
	}
	if os.Getenv(acceptedEnv) == "" {
		t.Errorf("%s: the rows of %q are not those of this test; "+acceptedEnv+"=1 go test -p 1 writes them:\n%s", acceptedFile, section, table.String())
		return
	}
	content = []byte(before + "\n## " + section + "\n" + head + "| --- | --- |\n" + table.String())
	if more {
		content = append(content, "\n## "+after...)
	}
	Must(t, os.WriteFile(acceptedFile, content, 0o644))
}
