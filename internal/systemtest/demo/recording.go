package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

const (
	columns  = 96   // of the picture; longer lines are wrapped
	longest  = 700  // milliseconds between two lines; the picture skips the rest
	lineHigh = 18   // pixels
	charWide = 7.83 // pixels of a character of 13 pixels; textLength holds every font to it
	margin   = 16   // pixels
)

// recording keeps the lines that are written to it, and when they came. Its picture shows
// them one after the other.
type recording struct {
	lines []recorded
	last  time.Time
	at    time.Duration // of the last line
	rest  string        // a line without its end
}

type recorded struct {
	text string
	at   time.Duration
}

func (r *recording) Write(b []byte) (int, error) {
	now := time.Now()
	for text := range strings.Lines(r.rest + string(b)) {
		line, ended := strings.CutSuffix(text, "\n")
		if r.rest = ""; !ended {
			r.rest = line
			break
		}
		if !r.last.IsZero() {
			r.at += min(now.Sub(r.last), longest*time.Millisecond)
		}
		r.last = now
		for indent := ""; ; indent = "    " {
			head, tail := wrap(indent + line)
			r.lines = append(r.lines, recorded{head, r.at})
			if line = tail; line == "" {
				break
			}
		}
	}
	return len(b), nil
}

// wrap cuts a line at the last space within the columns.
func wrap(line string) (head, tail string) {
	if len(line) <= columns {
		return line, ""
	}
	i := strings.LastIndexByte(line[:columns], ' ')
	if strings.TrimSpace(line[:max(i, 0)]) == "" {
		i = columns
	}
	return line[:i], strings.TrimSpace(line[i:])
}

// style follows the reader's choice of a light or a dark page. Lines that have not come yet are
// pale, so that the page never begins with an empty picture. Without animations all lines
// are there at once.
const style = `
.page { fill: #f6f8fa; stroke: #d0d7de } text { fill: #1f2328; font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }
.command { font-weight: bold } .remark { fill: #59636e } .good { fill: #116329 } .bad { fill: #a40e26 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .remark { fill: #9198a1 } .good { fill: #7ee787 } .bad { fill: #ff9492 }
}
@media (prefers-reduced-motion: no-preference) { text { animation: come 1ms both } }
@keyframes come { from { opacity: 0.25 } }
`

// write writes the picture to a file.
func (r *recording) write(file, title string) error {
	var b strings.Builder
	wide, high := int(math.Ceil(columns*charWide))+2*margin, len(r.lines)*lineHigh+2*margin
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">\n<title>%s</title>\n<style>%s</style>\n", wide, high, escaped(title), style)
	fmt.Fprintf(&b, "<rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n", wide-1, high-1)
	for i, l := range r.lines {
		if l.text == "" {
			continue
		}
		fmt.Fprintf(&b, "<text class=%q x=\"%d\" y=\"%d\" textLength=\"%.0f\" lengthAdjust=\"spacingAndGlyphs\" style=\"animation-delay: %dms\">%s</text>\n",
			class(l.text), margin, margin+13+i*lineHigh, float64(len([]rune(l.text)))*charWide, l.at.Milliseconds(), escaped(l.text))
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

func class(line string) string {
	switch {
	case strings.HasPrefix(line, "$ "):
		return "command"
	case strings.HasPrefix(line, "# "):
		return "remark"
	case strings.Contains(line, ": committed "):
		return "good"
	case strings.Contains(line, ": rolled back "):
		return "bad"
	}
	return "said"
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder returns no error
	return b.String()
}
