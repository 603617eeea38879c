package target

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/nearest"
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// Notify says how people are told of the events of a target. nil means that they are not.
type Notify struct {
	Events  []string // see the Event constants
	Command []string // a program that is run for each event, or empty
	Mail    []string // addresses
	// Webhook is the address to which events are posted; "" for none. The token in
	// TokenFile, which systemd hands to the sender, takes the place of [TokenPlace] in it,
	// or else is a header.
	Webhook, TokenFile string
	Format             string // of what is posted; see the Format constants
}

// TokenPlace is where a secret part of Notify.Webhook is left out.
const TokenPlace = "{token}"

// The events of which Notify tells.
const (
	EventFailed         = "failed"
	EventRolledBack     = "rolled back"
	EventRollbackFailed = "rollback failed"
	EventRecovered      = "recovered"
	EventExpiring       = "expiring"
)

// The values of Notify.Format.
const (
	FormatJSON         = "json"
	FormatNtfy         = "ntfy"
	FormatSlack        = "slack"
	FormatGotify       = "gotify"
	FormatAlertmanager = "alertmanager"
)

var (
	events  = []string{EventFailed, EventRolledBack, EventRollbackFailed, EventRecovered, EventExpiring}
	formats = []string{FormatJSON, FormatNtfy, FormatSlack, FormatGotify, FormatAlertmanager}
)

// The ways in which an event is told.
const (
	WayWebhook = "webhook"
	WayMail    = "mail"
	WayCommand = "command"
)

// Ways returns the ways in which events are told; n may be nil.
func (n *Notify) Ways() (ways []string) {
	if n == nil {
		return nil
	}
	for _, way := range []struct {
		name string
		used bool
	}{{WayWebhook, n.Webhook != ""}, {WayMail, len(n.Mail) > 0}, {WayCommand, len(n.Command) > 0}} {
		if way.used {
			ways = append(ways, way.name)
		}
	}
	return ways
}

// Tells reports whether this event is told; n may be nil.
func (n *Notify) Tells(event string) bool { return n != nil && slices.Contains(n.Events, event) }

// notify returns what the table [notify] says, or nil if there is none.
func (v *validation) notify() *Notify {
	if !v.written("notify") {
		return nil
	}
	n := &Notify{
		Events: v.texts("notify.events"), Command: v.texts("notify.command"), Mail: v.texts("notify.mail"),
		Webhook: v.text("notify.webhook"), TokenFile: v.text("notify.token_file"), Format: v.text("notify.format"),
	}
	for _, key := range []string{"notify.format", "notify.token_file"} {
		if v.written(key) && n.Webhook == "" {
			v.problem(key, "stands without notify.webhook", "it is about what is posted there")
		}
	}
	u, err := url.Parse(n.Webhook)
	switch {
	case err != nil: // refused already
	case strings.Contains(n.Webhook, TokenPlace) && n.TokenFile == "":
		v.problem("notify.webhook", "has "+TokenPlace+" without notify.token_file", "the token in that file takes its place")
	case n.TokenFile != "" && u.Scheme == "http" && !Loopback(u.Hostname()):
		v.problem("notify.token_file", "would be sent over plain http", "use https, or leave the token out")
	}
	if len(n.Ways()) == 0 {
		v.problem("notify", "names no way to tell people (allowed: one or several of command, mail, webhook)", "")
	}
	return n
}

// NotifyFile returns the file with the table [notify] for all targets without one of their own,
// beside the directory of target files.
func (d Dirs) NotifyFile() string { return filepath.Join(filepath.Dir(d.Admin), "notify.toml") }

// notifyForAll returns what the file for all targets says, or nil if there is none.
func (d Dirs) notifyForAll(check checker) (*Notify, *ConfigError) {
	file := d.NotifyFile()
	if _, err := os.Lstat(filepath.Join(d.Root, file)); os.IsNotExist(err) {
		return nil, nil
	}
	data, err := check.read(file, maxFragment, "it holds no secrets and is readable by everyone: chmod 0644")
	if err != nil {
		return nil, err
	}
	v := validation{settings: settings{}, dirs: d, check: check}
	if err := v.merge(data, file, 0); err != nil {
		if problem, _ := unknown("", ""); err.Problem == problem { // its list is that of a target file
			err.Problem, err.Hint = "is not a known key (allowed here: only [notify])", nearest.Hint(err.Key, []string{"notify"})
		}
		return nil, err
	}
	for path, at := range v.settings {
		if path != "notify" && !strings.HasPrefix(path, "notify.") {
			return nil, &ConfigError{File: file, Line: at.line, Key: withoutIndex(path), Problem: "is a key of a target file (allowed here: only [notify])"}
		}
	}
	n := v.notify()
	return n, v.err
}

// addNotify adds the file for all targets. A mistake in it is no mistake of the target,
// which is updated all the same.
func (t *Target) addNotify(d Dirs) {
	if t.Notify != nil {
		return
	}
	var err *ConfigError
	if t.Notify, err = d.notifyForAll(t.check); err != nil {
		t.Notify, t.Unnotified = nil, fmt.Sprintf("no notification of its updates: %s", strings.TrimPrefix(err.Error(), "cannot use target : "))
	}
}

// NotifyOf returns how people are told of the events of a target, even if the rest of its file
// cannot be used.
func (d Dirs) NotifyOf(name string) *Notify {
	t, err := d.Load(name)
	if err != nil {
		n, _ := d.notifyForAll(checker{root: d.Root}) // the next Load of a usable target reports its mistakes
		return n
	}
	return t.Notify
}

// mailAddress matches addresses that are one word for every program and header.
var mailAddress = pattern.New(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}(@[A-Za-z0-9][A-Za-z0-9.-]{0,252})?$`)

// webhookURL reports whether s can be posted to. A token never names the server.
func webhookURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && webURL(s) && !strings.ContainsAny(u.Host, "{}")
}

// someOf is a list of at least one of these words, each once.
func someOf(must string, words []string) values {
	return listOf(must, `"`+strings.Join(words, `", "`)+`"`, func(list []string) bool {
		sorted := slices.Sorted(slices.Values(list))
		return len(list) > 0 && len(slices.Compact(sorted)) == len(list) && each(func(s string) bool { return slices.Contains(words, s) })(list)
	})
}
