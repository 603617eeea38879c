package relay

import (
	"sync"

	"github.com/machinemon/machinemon-update/internal/state"
)

// notes says of each thing what is wrong with it, and not again until that changes.
type notes struct {
	print func(string)
	mu    sync.Mutex
	said  map[string]string
}

func (n *notes) say(what, line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.said[what] != line {
		n.said[what] = line
		n.print(state.Line(line))
	}
}

// over says nothing: what works again is shown by what it does.
func (n *notes) over(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.said, what)
}
