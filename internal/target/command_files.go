package target

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// Programs that run a file that is among their arguments.
var (
	// An interpreter runs the first file.
	interpreter = pattern.New(`^(sh|bash|dash|ash|zsh|ksh|mksh|fish|busybox|(python|perl|ruby|node|php|lua)[0-9.]*|nodejs|tclsh|[gm]?awk|make)$`)
	// A wrapper runs the first file that is executable; an earlier one may be, for example,
	// a lock.
	wrapper = pattern.New(`^(env|nice|ionice|chrt|taskset|timeout|time|nohup|setsid|stdbuf|flock|sudo|runuser|setpriv|chroot|unshare|nsenter|systemd-run|systemd-cat|systemd-inhibit)$`)
	// codeFollows matches the options after which an interpreter takes code or the name of
	// a module, and no file.
	codeFollows = pattern.New(`^(-[A-Za-z]*c|-m)$`)
)

// commandFiles returns the files that a command runs, as far as its arguments show them:
// its program, and what an interpreter or wrapper runs, such as the script of
// ["/bin/sh", "/opt/hook.sh"]. Code in an argument, and what a script reads, are not
// looked at.
func (c checker) commandFiles(argv []string) (files []string) {
	if len(argv) == 0 {
		return nil
	}
	files = append(files, argv[0])
	name := filepath.Base(argv[0])
	runsAny, runsExecutable := interpreter.MatchString(name), wrapper.MatchString(name)
	if !runsAny && !runsExecutable {
		return files
	}
	rest := argv[1:]
	for i, arg := range rest {
		if runsAny && codeFollows.MatchString(arg) {
			return files
		}
		if text, ok := splitString(name, rest[i:]); ok { // env -S: the rest in one argument
			return append(files, c.commandFiles(append([]string{"/usr/bin/env"}, text...))[1:]...)
		}
		file := arg
		if strings.HasPrefix(arg, "-") { // an option may contain a file, as in -f/FILE or --rcfile=/FILE
			slash := strings.Index(arg, "/")
			if slash < 0 {
				continue
			}
			file = arg[slash:]
		}
		if !filepath.IsAbs(file) {
			file = "/" + file // commands run in /
		}
		info, err := os.Stat(c.root + file)
		if err != nil || info.IsDir() || !runsAny && info.Mode()&0o111 == 0 {
			continue
		}
		if strings.HasPrefix(arg, "-") {
			files = append(files, file)
			continue
		}
		return append(files, c.commandFiles(append([]string{file}, rest[i+1:]...))...)
	}
	return files
}

// splitString returns the words that env makes of its option -S, with the arguments after
// it.
func splitString(name string, args []string) (words []string, ok bool) {
	if name != "env" {
		return nil, false
	}
	text, ok := strings.CutPrefix(args[0], "--split-string=")
	if !ok {
		text, ok = strings.CutPrefix(args[0], "-S")
	}
	if !ok {
		return nil, false
	}
	rest := args[1:]
	if text == "" && len(rest) > 0 {
		text, rest = rest[0], rest[1:]
	}
	return append(strings.Fields(text), rest...), true
}
