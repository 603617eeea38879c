package state

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// All users may read the journal and the status. What other users could not read before an
// update, they cannot read after it: digests of files that they cannot read, with which a
// guess of the content can be verified, and lines of programs, which only root and a few
// groups may read in systemd's journal. These are in private.json, which only root can
// read. It is written before the file that refers to it.

// private is the content of private.json.
type private struct {
	Format  int                    `json:"format"`
	Digests map[string]string      `json:"digests,omitempty"` // by [Change.Backup], or as the functions below say
	Said    map[AttemptID][]string `json:"said,omitempty"`
	Texts   map[string]string      `json:"texts,omitempty"` // whole texts, by [textKey]
}

// hiddenSum takes the place of a digest that is in private.json.
const hiddenSum = "private"

// SaidMark precedes a program's line at the end of a text.
const SaidMark = "; it said: "

// Unsaid returns a text without a program's line at its end.
func Unsaid(text string) string {
	before, _, _ := strings.Cut(text, SaidMark)
	return before
}

// WithHint adds a hint to a text that has none, before a program's line at its end.
func WithHint(text, hint string) string {
	before := Unsaid(text)
	if strings.Contains(before, "(hint: ") {
		return text
	}
	return before + " (hint: " + hint + ")" + text[len(before):]
}

// elsewhere takes the place of a program's line in a text for all users.
const elsewhere = "; what it said is in the journal"

func (t Tree) private(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "private.json")
}

func stagedDigest(staged string) string { return "staged " + staged }

func installedDigest(to string) string { return "installed " + to }

func rejectedDigest(r Rejection) string { return "rejected " + r.Time.Format(time.RFC3339Nano) }

func textKey(id AttemptID, public string) string { return string(id) + " " + public }

// privates returns the content of private.json. A user that may not read it gets an empty
// one, and so does root if it is damaged: it only has what a rollback can do without. After
// another error, which may pass, nothing may be written in its place.
func (t Tree) privates(target string) (private, error) {
	p, err := readIfThere[private](t.private(target))
	if err == nil && p == nil || errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		err = nil
	}
	if p == nil {
		p = &private{}
	}
	for _, m := range []*map[string]string{&p.Digests, &p.Texts} {
		if *m == nil {
			*m = map[string]string{}
		}
	}
	if p.Said == nil {
		p.Said = map[AttemptID][]string{}
	}
	return *p, err
}

func (p private) clone() private {
	p.Digests, p.Said, p.Texts = maps.Clone(p.Digests), maps.Clone(p.Said), maps.Clone(p.Texts)
	return p
}

func (p private) equal(q private) bool {
	return maps.Equal(p.Digests, q.Digests) && maps.Equal(p.Texts, q.Texts) && maps.EqualFunc(p.Said, q.Said, slices.Equal)
}

func (p private) empty() bool { return len(p.Digests)+len(p.Said)+len(p.Texts) == 0 }

// store writes private.json if it differs from old.
func (t Tree) store(target string, p, old private) error {
	if p.equal(old) {
		return nil
	}
	p.Format = Format
	return writeJSONAs(t.private(target), p, 0o600)
}

// hideDigest moves a digest to p. showDigest returns it from there; one that
// p lacks stays hidden.
func (p private) hideDigest(key string, sum *string) {
	if *sum != "" && *sum != hiddenSum {
		p.Digests[key], *sum = *sum, hiddenSum
	}
}

func (p private) showDigest(key string, sum *string) {
	if whole := p.Digests[key]; *sum == hiddenSum && whole != "" {
		*sum = whole
	}
}

func (p private) hideTexts(id AttemptID, texts ...*string) {
	for _, text := range texts {
		before := Unsaid(*text)
		if before == *text {
			continue
		}
		public := before + elsewhere
		if id != "" {
			p.Texts[textKey(id, public)] = *text
		}
		*text = public
	}
}

func (p private) showTexts(id AttemptID, texts ...*string) {
	for _, text := range texts {
		if whole := p.Texts[textKey(id, *text)]; whole != "" {
			*text = whole
		}
	}
}

// texts returns the texts that may end with a program's line.
func (j *Journal) texts() []*string {
	return []*string{&j.Failure, &j.Reason, &j.Warning, &j.RollbackFailed}
}

func (a *Attempt) texts() []*string { return []*string{&a.Reason, &a.Unhealthy, &a.Warning} }

// hide returns the journal for all users, and adds to p what it lacks.
func (j Journal) hide(p private) *Journal {
	j.Changes = slices.Clone(j.Changes)
	for i := range j.Changes {
		c := &j.Changes[i]
		if c.Private && c.Backup != "" {
			p.hideDigest(c.Backup, &c.Old)
		}
		if c.Private && j.GoingBack {
			p.hideDigest(stagedDigest(c.Staged), &c.New)
		}
	}
	p.hideTexts(j.Attempt, j.texts()...)
	if len(j.Said) > 0 {
		p.Said[j.Attempt], j.Said = j.Said, []string{} // not nil: they were read already
	}
	return &j
}

// show is the reverse of hide, as far as this user may read p.
func (j *Journal) show(p private) {
	for i := range j.Changes {
		c := &j.Changes[i]
		p.showDigest(c.Backup, &c.Old)
		p.showDigest(stagedDigest(c.Staged), &c.New)
		if c.Tree == nil { // the old tree may be in either place, and its inode identifies it
			measure(c.Backup, nil, &c.Old)
		}
	}
	p.showTexts(j.Attempt, j.texts()...)
	if said := p.Said[j.Attempt]; len(said) > 0 {
		j.Said = said
	}
}

// measure replaces a digest that was lost by that of the backup: a rollback that cannot
// compare a backup is better than none.
func measure(backup string, of *Directory, sum *string) {
	if *sum == hiddenSum {
		if is, err := (File{To: backup, Tree: of}).Digest(); err == nil && is != "" {
			*sum = is
		}
	}
}

func (r *Release) hide(p private, current bool) *Release {
	if r == nil {
		return nil
	}
	public := *r
	public.Files = slices.Clone(r.Files)
	for i := range public.Files {
		f := &public.Files[i]
		switch {
		case f.Private && f.Backup != "":
			p.hideDigest(f.Backup, &f.SHA256)
		case f.Private && current:
			p.hideDigest(installedDigest(f.To), &f.SHA256)
		}
	}
	p.hideTexts("", &public.Unproven)
	return &public
}

func (r *Release) show(p private) {
	if r == nil {
		return
	}
	for i := range r.Files {
		f := &r.Files[i]
		p.showDigest(f.Backup, &f.SHA256)
		p.showDigest(installedDigest(f.To), &f.SHA256)
		if f.Backup != "" {
			measure(f.Backup, f.Tree, &f.SHA256)
		}
	}
}

// hide returns the status for all users, and adds to p what it lacks.
func (s Status) hide(p private) Status {
	s.Installed, s.Previous = s.Installed.hide(p, true), s.Previous.hide(p, false)
	s.Attempts = slices.Clone(s.Attempts)
	for i := range s.Attempts {
		a := &s.Attempts[i]
		p.hideTexts(a.ID, a.texts()...)
		if len(a.Said) > 0 {
			p.Said[a.ID], a.Said = a.Said, nil
		}
	}
	s.Rejected = slices.Clone(s.Rejected)
	for i := range s.Rejected {
		r := &s.Rejected[i]
		p.hideTexts("", &r.Reason)
		if r.Private {
			p.hideDigest(rejectedDigest(*r), &r.Fingerprint)
		}
	}
	return s
}

func (s *Status) show(p private) {
	s.Installed.show(p)
	s.Previous.show(p)
	for i := range s.Rejected {
		p.showDigest(rejectedDigest(s.Rejected[i]), &s.Rejected[i].Fingerprint)
	}
	for i := range s.Attempts {
		a := &s.Attempts[i]
		p.showTexts(a.ID, a.texts()...)
		if said := p.Said[a.ID]; len(said) > 0 && a.Unit != "" {
			a.Said = said
		}
	}
}

// prune removes from p what neither the status nor a journal needs. While a trial is open,
// it keeps everything.
func (t Tree) prune(target string, p private, s Status) {
	if _, err := os.Lstat(t.journal(target)); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	maps.DeleteFunc(p.Said, func(id AttemptID, _ []string) bool { return !s.has(id) })
	maps.DeleteFunc(p.Texts, func(key string, _ string) bool {
		id, _, _ := strings.Cut(key, " ")
		return !s.has(AttemptID(id))
	})
	used := map[string]bool{}
	for _, r := range []*Release{s.Installed, s.Previous} {
		if r != nil {
			for _, f := range r.Files {
				used[f.Backup], used[installedDigest(f.To)] = true, true
			}
		}
	}
	for _, r := range s.Rejected {
		used[rejectedDigest(r)] = true
	}
	maps.DeleteFunc(p.Digests, func(key string, _ string) bool { return !used[key] })
}

func (s Status) has(id AttemptID) bool {
	return slices.ContainsFunc(s.Attempts, func(a Attempt) bool { return a.ID == id })
}

// dropPrivate removes an empty private.json.
func (t Tree) dropPrivate(target string, p, old private) error {
	if !p.empty() || old.empty() {
		return nil
	}
	if err := os.Remove(t.private(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", t.private(target), durable.Cause(err))
	}
	return nil
}
