package target

import (
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestCommandFiles: a script that an interpreter or a wrapper runs as root must be
// writable by root alone, like a program; data may belong to others.
func TestCommandFiles(t *testing.T) {
	testkit.Slow(t)
	testkit.NeedRoot(t, "it gives a file to another user")
	for command, refused := range map[string]bool{
		"'/opt/x/hook.sh'":                                     true,
		"'/bin/sh', '/opt/x/hook.sh'":                          true,
		"'/bin/sh', '-e', '/opt/x/hook.sh', 'x'":               true,
		"'/bin/sh', 'opt/x/hook.sh'":                           true,
		"'/usr/bin/python3', '-u', '/opt/x/hook.sh'":           true,
		"'/usr/bin/python3', '-W', 'ignore', '/opt/x/hook.sh'": true,
		"'/bin/bash', '--rcfile=/opt/x/hook.sh', '-i'":         true,
		"'/usr/bin/awk', '-f/opt/x/hook.sh'":                   true,
		"'/usr/bin/env', '/opt/x/hook.sh'":                     true,
		"'/usr/bin/env', 'A=b', '/bin/sh', '/opt/x/hook.sh'":   true,
		"'/usr/bin/env', '-S', '/bin/sh -e /opt/x/hook.sh'":    true,
		"'/usr/bin/env', '-S/bin/sh', '/opt/x/hook.sh'":        true,
		"'/usr/bin/timeout', '9', '/bin/sh', '/opt/x/hook.sh'": true,
		"'/usr/bin/flock', '/opt/x/lock', '/opt/x/hook.sh'":    true,

		"'/bin/sh', '/opt/agent/hook.sh', '/opt/x/hook.sh'":     false,
		"'/opt/agent/migrate', '/opt/x/hook.sh'":                false,
		"'/bin/sh', '-c', 'true', '/opt/x/hook.sh'":             false,
		"'/usr/bin/python3', '-m', 'http', '/opt/x/hook.sh'":    false,
		"'/usr/bin/flock', '/opt/x/lock', '/opt/agent/hook.sh'": false,
		"'/bin/sh', '/opt/x/missing'":                           false,
	} {
		d := tree(t, map[string]string{adminFile: minimal + "[hooks]\npre_swap = [" + command + "]\n", "/opt/agent/hook.sh": "", "/opt/agent/migrate": "",
			"/opt/x/hook.sh": "", "/opt/x/lock": "", "/bin/sh": "", "/bin/bash": "", "/usr/bin/python3": "", "/usr/bin/env": "", "/usr/bin/awk": "",
			"/usr/bin/timeout": "", "/usr/bin/flock": ""})
		for _, program := range []string{"/opt/x/hook.sh", "/opt/agent/hook.sh", "/bin/sh"} {
			must(t, os.Chmod(d.Root+program, 0o755))
		}
		must(t, os.Chown(d.Root+"/opt/x", 1000, 1000))
		must(t, os.Chown(d.Root+"/opt/x/hook.sh", 1000, 1000))
		_, err := d.Load("agent")
		if is := err != nil && strings.Contains(err.Error(), "hooks.pre_swap: /opt/x is owned by user 1000, not by root"); is != refused || !refused && err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
}
