package checkin

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Of each kind of problem, a burst of lines is logged, and then one each interval.
const (
	burst    = 10
	interval = time.Minute
)

// Problems logs what is wrong with each of a few kinds of things, and not with each
// request. Its lines are bounded, because strangers can cause some of them.
type Problems struct {
	print func(string)
	mu    sync.Mutex
	open  map[string]string // the last line of each kind of problem that has not ended
	kinds map[string]*kind
}

type kind struct {
	*rate.Limiter
	omitted int // lines since the last one that was logged
}

// NewProblems returns a log that prints with print, one line per call.
func NewProblems(print func(string)) *Problems {
	return &Problems{print: print, open: map[string]string{}, kinds: map[string]*kind{}}
}

// Begin logs that a problem has begun, unless it has not ended since the last time.
func (p *Problems) Begin(what, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.open[what]; !open {
		p.open[what] = line
		p.say(what, line)
	}
}

// Change logs what is wrong now, if that is not what was wrong before.
func (p *Problems) Change(what, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, open := p.open[what]; !open || last != line {
		p.open[what] = line
		p.say(what, line)
	}
}

// End notes that a problem has ended, and logs line if there was one; not if it is "".
func (p *Problems) End(what, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.open[what]; open {
		delete(p.open, what)
		if line != "" {
			p.say(what, line)
		}
	}
}

// Say logs a line that no stranger can cause.
func (p *Problems) Say(line string) { p.print(state.Line(line)) }

func (p *Problems) say(what, line string) {
	k := p.kinds[what]
	if k == nil {
		k = &kind{Limiter: rate.NewLimiter(rate.Every(interval), burst)}
		p.kinds[what] = k
	}
	if !k.Allow() {
		k.omitted++
		return
	}
	if k.omitted > 0 {
		line += fmt.Sprintf(" (%d lines like this were omitted)", k.omitted)
		k.omitted = 0
	}
	p.Say(line)
}
