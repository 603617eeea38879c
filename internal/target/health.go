package target

import "slices"

func (v *validation) health(installs []Install) Health {
	h := Health{
		Timeout:        v.seconds("health.timeout_seconds"),
		Settle:         v.seconds("health.settle_seconds"),
		VersionCommand: v.texts("health.version_command"),
		Main:           v.text("health.main"),
	}
	if len(installs) > 0 && !v.written("health.main") {
		h.Main = installs[0].To
	}
	if h.Main != "" && !slices.ContainsFunc(installs, func(i Install) bool { return i.To == h.Main }) {
		v.bad("health.main")
	}
	for _, at := range v.elements("health.probe") {
		h.Probes = append(h.Probes, v.probe(at))
	}
	return h
}

func (v *validation) probe(at string) Probe {
	kinds := 0
	for _, kind := range []string{"http", "tcp", "unix", "command", "journal"} {
		if v.written(at + "." + kind) {
			kinds++
		}
	}
	if kinds != 1 {
		v.problem(at, "must have exactly one kind (allowed: http, tcp, unix, command, journal)", "")
	}
	p := Probe{
		HTTP:    v.text(at + ".http"),
		TCP:     v.text(at + ".tcp"),
		Unix:    v.text(at + ".unix"),
		Command: v.texts(at + ".command"),
		Journal: v.text(at + ".journal"),
	}
	for _, beside := range []string{".expect_status", ".expect_body"} {
		if p.HTTP == "" && v.written(at+beside) {
			v.bad(at + beside)
		}
	}
	if p.HTTP+p.TCP+p.Unix == "" && v.written(at+".foreign") {
		v.bad(at + ".foreign")
	}
	p.Foreign = v.boolean(at + ".foreign")
	if p.HTTP != "" {
		p.ExpectStatus, p.ExpectBody = int(v.integer(at+".expect_status")), v.text(at+".expect_body")
	}
	return p
}
