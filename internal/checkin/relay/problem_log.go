package relay

import (
	"sync"

	"github.com/machinemon/machinemon-update/internal/state"
)

// problemLog logs what is wrong with each thing, and again only if that changes.
type problemLog struct {
	print func(string)
	mu    sync.Mutex
	last  map[string]string // the line that was logged last
}

func (l *problemLog) begin(what, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last[what] != line {
		l.last[what] = line
		l.print(state.Line(line))
	}
}

// end notes that a thing works again. It logs nothing.
func (l *problemLog) end(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.last, what)
}
