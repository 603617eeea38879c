package target

import (
	"os"
	"slices"
	"strings"
	"time"
)

func (v *validation) health(installs []Install) Health {
	h := Health{
		Timeout:        v.seconds("health.timeout_seconds"),
		Settle:         v.seconds("health.settle_seconds"),
		VersionCommand: v.texts("health.version_command"),
		VersionPattern: v.text("health.version_pattern"),
		Main:           v.text("health.main"),
	}
	if len(installs) > 0 && !v.written("health.main") {
		h.Main = installs[0].To
		if installs[0].Tree {
			v.missing("health.main", "the first [[install]] is a directory: which of its files does the unit run?")
		}
	}
	if h.Main != "" && !slices.ContainsFunc(installs, func(i Install) bool { return i.Has(h.Main) && !(i.Tree && i.To == h.Main) }) {
		v.bad("health.main")
	}
	if h.VersionPattern != "" && len(h.VersionCommand) == 0 {
		v.bad("health.version_pattern")
	}
	for _, at := range v.elements("health.probe") {
		h.Probes = append(h.Probes, v.probe(at, h.Timeout))
	}
	return h
}

// probeKinds are the keys that say what a probe asks. Beside http and grpc, unix only says
// where.
var probeKinds = []string{"http", "grpc", "tcp", "unix", "command", "journal"}

func (v *validation) probe(at string, most time.Duration) Probe {
	kinds, web := 0, v.written(at+".http") || v.written(at+".grpc")
	for _, kind := range probeKinds {
		if v.written(at+"."+kind) && !(web && kind == "unix") {
			kinds++
		}
	}
	if kinds != 1 {
		v.problem(at, "must have exactly one kind (allowed: "+strings.Join(probeKinds, ", ")+"; beside http or grpc, unix is the socket)", "")
	}
	p := Probe{
		HTTP:            v.text(at + ".http"),
		GRPC:            v.text(at + ".grpc"),
		TCP:             v.text(at + ".tcp"),
		Unix:            v.text(at + ".unix"),
		Command:         v.texts(at + ".command"),
		Journal:         v.text(at + ".journal"),
		Foreign:         v.boolean(at + ".foreign"),
		CAFile:          v.text(at + ".ca_file"),
		InsecureSkipTLS: v.boolean(at + ".insecure_skip_tls"),
		HeadersFile:     v.text(at + ".headers_file"),
		Timeout:         v.seconds(at + ".timeout_seconds"),
	}
	if p.HTTP != "" {
		p.ExpectBody = v.text(at + ".expect_body")
		switch status := value[any](v, at+".expect_status").(type) {
		case int64:
			p.ExpectStatus = int(status)
		case string:
			p.ExpectClass = int(status[0] - '0')
		}
	}
	v.beside(at, p.HTTP != "", "expect_status", "expect_body")
	v.beside(at, web || p.TCP+p.Unix != "", "foreign")
	v.beside(at, p.overTLS(), "ca_file", "insecure_skip_tls")
	v.beside(at, web, "headers_file")
	if p.Timeout > most {
		v.problem(at+".timeout_seconds", "must not be longer than the whole trial has", "raise health.timeout_seconds")
	}
	if p.InsecureSkipTLS && p.CAFile != "" {
		v.problem(at+".insecure_skip_tls", "means nothing beside ca_file", "leave insecure_skip_tls out")
	}
	if p.HeadersFile != "" {
		v.secret(at+".headers_file", p.HeadersFile)
		if p.Foreign && (!p.overTLS() || p.InsecureSkipTLS) {
			v.problem(at+".headers_file", "would be sent to any program that answers", "beside foreign, use https and a certificate that is verified")
		}
	}
	return p
}

// beside refuses keys of the probe at path if they mean nothing.
func (v *validation) beside(path string, means bool, names ...string) {
	for _, name := range names {
		if !means && v.written(path+"."+name) {
			v.bad(path + "." + name)
		}
	}
}

// secret refuses a file that other users than root may read. It accepts one that is
// missing, and one that this process may not look at, as rootOnly does.
func (v *validation) secret(path, file string) {
	info, err := os.Stat(v.check.root + file)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		v.problem(path, file+" may be read by others than root", "chmod 0600 "+file)
	}
}
