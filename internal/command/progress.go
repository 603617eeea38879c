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

// progress shows how an attempt proceeds: on a terminal by one line that changes and is
// erased at the end, elsewhere by a line for each step.
type progress struct {
	to       io.Writer
	terminal *os.File // to if that is a terminal, else nil
	name     string   // of the target
	said     string   // the last step that was printed; not used on a terminal
	bar      *progressbar.ProgressBar
}

// besideBar is the number of columns that a line with a bar needs beside the description:
// the bar's ends, the percentage, bytes, rate and spaces, and at least 10 columns of bar.
const besideBar = 50

// step shows the present step. status adds detail and may be empty.
func (p *progress) step(word, status string) {
	line := p.name + ": " + word
	full := line
	if status != "" {
		full += ": " + status
	}
	if p.terminal == nil {
		log.Status(full) // status text of machinemon-update.service
		if line != p.said {
			p.said = line
			fmt.Fprintln(p.to, state.Printable(line))
		}
		return
	}
	p.end()
	cells := []rune(state.Printable(full))
	fmt.Fprint(p.terminal, string(cells[:min(len(cells), p.columns()-1)]))
}

// download shows how many of total bytes are downloaded.
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
	_ = p.bar.Set64(done) // it fails only if the terminal is gone
}

// warn prints a line that is not erased.
func (p *progress) warn(line string) {
	p.end()
	fmt.Fprintf(p.to, "%s: warning: %s\n", p.name, state.Printable(line))
}

// end erases the line on a terminal.
func (p *progress) end() {
	if p.terminal != nil {
		p.bar = nil
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}

func (p *progress) columns() int {
	width, _, err := term.GetSize(int(p.terminal.Fd()))
	if err != nil || width < 2 {
		return 80
	}
	return width
}
