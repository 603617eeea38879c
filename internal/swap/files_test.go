package swap

import (
	"os"
	"testing"
)

// TestSweepOfAnother: a directory beside installed files, which targets share, stays while the
// swap of one of them may be about to put a file there, though another one finds it empty.
func TestSweepOfAnother(t *testing.T) {
	r := newRig(t)
	side, other := r.at("shared/"+sideName), &Swapper{Tree: r.tree}
	must(t, os.MkdirAll(side, 0o700))
	sweep := func() bool {
		must(t, other.sweepBeside("other", []string{r.at("shared")}, nil))
		_, err := os.Stat(side)
		return err == nil
	}
	asked := false
	r.sys.on["restart agent.service"] = func() {
		if asked = true; !sweep() {
			t.Error("it was removed during a swap")
		}
	}
	goodTrial(t, r)
	if !asked {
		t.Error("nothing was swept during the swap")
	}
	if sweep() {
		t.Error("it stays after the swap")
	}
}
