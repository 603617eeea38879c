package command

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
)

// progress tells a person how an attempt goes: on a terminal with one line that
// changes and is gone at the end, elsewhere with a line for each step.
type progress struct {
	to       io.Writer
	terminal *os.File // to, when it is one
	name     string   // of the target
	said     string   // the last step, where there is no terminal
	bar      *progressbar.ProgressBar
}

// besideBar is what a line with a bar needs beside the description: the bar's
// ends, the percentage, bytes, rate and spaces, and a bar of at least 10 columns.
const besideBar = 50

// step tells what is being done. status, which may be empty, says more.
func (p *progress) step(word, status string) {
	line := p.name + ": " + word
	full := line
	if status != "" {
		full += ": " + status
	}
	if p.terminal == nil {
		log.Status(full) // of machinemon-update.service
		if line != p.said {
			p.said = line
			fmt.Fprintln(p.to, state.Printable(line))
		}
		return
	}
	p.bar = nil
	p.erase()
	cells := []rune(state.Printable(full))
	fmt.Fprint(p.terminal, string(cells[:min(len(cells), p.columns()-1)]))
}

// download tells how many bytes of how many are here.
func (p *progress) download(word string, done, total int64) {
	done = max(0, min(done, total))
	description := p.name + ": " + word
	if p.terminal == nil || p.columns() < len(description)+besideBar {
		p.step(word, fmt.Sprintf("%.0f%%", 100*float64(done)/float64(total)))
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.terminal),
			progressbar.OptionSetDescription(description), progressbar.OptionShowBytes(true), progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false),
			progressbar.OptionFullWidth(), progressbar.OptionUseANSICodes(true))
	}
	_ = p.bar.Set64(done) // only a terminal that went away fails
}

// warn says something that stays.
func (p *progress) warn(line string) {
	if p.terminal != nil {
		p.bar = nil
		p.erase()
	}
	fmt.Fprintf(p.to, "%s: warning: %s\n", p.name, state.Printable(line))
}

// end leaves nothing behind on a terminal.
func (p *progress) end() {
	if p.terminal != nil {
		p.erase()
	}
}

func (p *progress) erase() { fmt.Fprint(p.terminal, "\r\x1b[K") }

func (p *progress) columns() int {
	width, _, err := term.GetSize(int(p.terminal.Fd()))
	if err != nil || width < 2 {
		return 80
	}
	return width
}
