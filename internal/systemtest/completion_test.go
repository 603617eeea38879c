//go:build systemd

package systemtest

import (
	"strings"
	"testing"
)

// TestCompletion shows that the shells find the completion, and that bash's works.
func TestCompletion(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	for _, command := range []string{"machinemon-update", "machinemon-release"} {
		for path, begins := range map[string]string{
			"/usr/share/bash-completion/completions/" + command:         "# bash completion V2 for " + command + " ",
			"/usr/share/zsh/vendor-completions/_" + command:             "#compdef " + command + "\n",
			"/usr/share/fish/vendor_completions.d/" + command + ".fish": "# fish completion for " + command + " ",
		} {
			if got := m.readFile(path); !strings.HasPrefix(got, begins) {
				t.Errorf("%s begins with %q, want %q", path, got[:min(len(got), 60)], begins)
			}
		}
	}
	m.target(testdTarget)
	// bash-completion does this before it calls the function of a command.
	const ask = `_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
		source /usr/share/bash-completion/completions/machinemon-update
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_TYPE=9
		__start_machinemon-update; echo "${COMPREPLY[@]}"`
	for _, c := range []struct{ words, want string }{
		{"apply te", "testd"}, {"apply testd te", ""}, {"history te", "testd"}, {"unho", "unhold"},
	} {
		argv := append([]string{"bash", "-c", ask, "bash", "machinemon-update"}, strings.Fields(c.words)...)
		if got := strings.TrimSpace(m.must(argv...)); got != c.want {
			t.Errorf("%q completes to %q, want %q", c.words, got, c.want)
		}
	}
}
