package target

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

func (v *validation) health(installs []Install) Health {
	k := &v.keys.Health
	h := Health{
		Timeout:        v.seconds("health.timeout_seconds", k.TimeoutSeconds, defaultTimeout, 1, 3600),
		Settle:         v.seconds("health.settle_seconds", k.SettleSeconds, defaultSettle, 0, 3600),
		VersionCommand: valueOr(k.VersionCommand, nil),
	}
	if len(installs) > 0 {
		h.Main = valueOr(k.Main, installs[0].To)
	}
	if h.Main != "" && !slices.ContainsFunc(installs, func(i Install) bool { return i.To == h.Main }) {
		v.bad("health.main")
	}
	if len(h.VersionCommand) > 0 {
		v.command("health.version_command", h.VersionCommand)
	}
	list := valueOr(k.Probe, nil)
	if len(list) > 16 {
		v.bad("health.probe")
	}
	for n, f := range list {
		h.Probes = append(h.Probes, v.probe(fmt.Sprintf("health.probe[%d]", n), f))
	}
	return h
}

func (v *validation) probe(at string, f probeFragment) Probe {
	p := Probe{
		HTTP:       valueOr(f.HTTP, ""),
		ExpectBody: valueOr(f.ExpectBody, ""),
		TCP:        valueOr(f.TCP, ""),
		Unix:       valueOr(f.Unix, ""),
		Command:    valueOr(f.Command, nil),
		Journal:    valueOr(f.Journal, ""),
	}
	kinds := 0
	for _, set := range []bool{f.HTTP != nil, f.TCP != nil, f.Unix != nil, f.Command != nil, f.Journal != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		v.problem(at, "must have exactly one kind (allowed: http, tcp, unix, command, journal)", "")
		return p
	}
	if f.HTTP != nil {
		status := valueOr(f.ExpectStatus, defaultExpectStatus)
		p.ExpectStatus = int(status)
		if !webURL(p.HTTP) {
			v.bad(at + ".http")
		}
		if status < 100 || status > 599 {
			v.bad(at + ".expect_status")
		}
		if f.ExpectBody != nil && (p.ExpectBody == "" || len(p.ExpectBody) > 1024) {
			v.bad(at + ".expect_body")
		}
		return p
	}
	switch {
	case f.ExpectStatus != nil:
		v.bad(at + ".expect_status")
	case f.ExpectBody != nil:
		v.bad(at + ".expect_body")
	case f.TCP != nil && !hostPort(p.TCP):
		v.bad(at + ".tcp")
	case f.Unix != nil && (!cleanPath(p.Unix) || len(p.Unix) > 107): // sun_path of unix(7)
		v.bad(at + ".unix")
	case f.Command != nil:
		v.command(at+".command", p.Command)
	case f.Journal != nil && !onOneLine(p.Journal):
		v.bad(at + ".journal")
	}
	return p
}

// onOneLine reports whether text may be a part of a line of a journal.
func onOneLine(text string) bool {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	n := utf8.RuneCountInString(text)
	return n >= 1 && n <= 200 && utf8.ValidString(text) && !strings.ContainsFunc(text, unprintable)
}

func (v *validation) hooks() Hooks {
	h := Hooks{valueOr(v.keys.Hooks.PreSwap, nil), valueOr(v.keys.Hooks.PostCommit, nil)}
	if len(h.PreSwap) > 0 {
		v.command("hooks.pre_swap", h.PreSwap)
	}
	if len(h.PostCommit) > 0 {
		v.command("hooks.post_commit", h.PostCommit)
	}
	return h
}

// command checks what is run in the name of the target.
func (v *validation) command(path string, argv []string) {
	nul := func(arg string) bool { return strings.ContainsRune(arg, 0) }
	if len(argv) == 0 || !cleanPath(argv[0]) || slices.ContainsFunc(argv, nul) {
		v.bad(path)
		return
	}
	v.rootOnly(path, argv[0])
}

// rootOnly checks a file that the key at path names. One that does not exist
// yet harms nobody, and whom it may not be shown to cannot use it either.
func (v *validation) rootOnly(path, file string) {
	err := v.check.rootOnly(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		v.problem(path, err.Error(), rootOnlyHint)
	}
}
