package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRecording: the picture has each line that was written, long ones in parts, as XML that
// a browser reads.
func TestRecording(t *testing.T) {
	var r recording
	long := strings.Repeat("word ", 30) + "end"
	for _, part := range []string{"$ apply\n", "x: comm", "itted 2\n\nx: <&\"\n", long + "\n" + strings.Repeat("y", columns+1) + "\n"} {
		if n, err := r.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	file := filepath.Join(t.TempDir(), "a.svg")
	if err := r.write(file, "<title>"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, is := token.(xml.CharData); is && strings.TrimSpace(string(text)) != "" {
			got = append(got, string(text))
		}
	}
	want := []string{"<title>", style, "$ apply", "x: committed 2", `x: <&"`,
		strings.TrimSpace(strings.Repeat("word ", 19)), "    " + strings.Repeat("word ", 11) + "end", strings.Repeat("y", columns), "    y"}
	if !slices.Equal(got, want) {
		t.Errorf("it has\n%q, want\n%q", got, want)
	}
}
