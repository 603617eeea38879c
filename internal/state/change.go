package state

import "github.com/machinemon/machinemon-update/internal/durable"

// Kind is what a transaction does to one file.
type Kind string

const (
	KindReplace  Kind = "replace"  // a new file replaces the old one, if there was one
	KindRemove   Kind = "remove"   // the release no longer lists the file: it is removed at the commit
	KindSnapshot Kind = "snapshot" // the file stays as it is, but a rollback restores it
)

// Change is one file of a transaction.
type Change struct {
	Kind   Kind   `json:"kind"`
	To     string `json:"to"`
	Staged string `json:"staged,omitempty"` // the path of the new file before its rename
	Backup string `json:"backup,omitempty"` // the path of the old file; "" if there was none
	Old    string `json:"old,omitempty"`    // sha256; "" if there was none
	New    string `json:"new,omitempty"`    // sha256; of [KindReplace] only
	// Created says that an update created the file.
	Created bool `json:"created,omitempty"`
	// Pending says that the snapshot is not taken yet, so nothing may be restored from it;
	// or that the swap has not tried yet to replace a program in a user's directory.
	Pending bool `json:"pending,omitempty"`
	// Saved is what a snapshot's backup contains, in the terms of package snapshot; "" if
	// there was nothing to save.
	Saved string `json:"saved,omitempty"`
	// Live says that the running program works on the data: a directory, a database, or
	// data of its own user. Other data, such as a configuration, may be restored while it
	// runs.
	Live bool `json:"live,omitempty"`
	// Theirs says that users other than root can write there, so the journal's Owner saves
	// and restores the data, or replaces the program.
	Theirs bool `json:"theirs,omitempty"`
	// Private says that not all users may read the old file, or the one to which the
	// operator goes back, and thus their digests.
	Private bool `json:"private,omitempty"`
	// Tree says that a directory is replaced as a whole. Old and New are digests of package
	// tree then, and Backup is Staged, because the old tree and the new one change places,
	// or, of a change that is [Change.Linked], the directory of the old one.
	Tree *TreeChange `json:"tree,omitempty"`
	// Placed and Kept are of the new file in its place and of the backup, whose digests are
	// New and Old. They count during the journal's Boot.
	Placed *Stamp `json:"placed,omitempty"`
	Kept   *Stamp `json:"kept,omitempty"`
}

// OfUser reports whether the journal's Owner replaces a program. A journal of an earlier
// version says so by the path alone.
func (c Change) OfUser() bool {
	return c.Kind != KindSnapshot && (c.Theirs || durable.InHome(c.To))
}

// Digest returns the digest of what is in the change's place, as [File.Digest] does.
func (c Change) Digest() (string, error) {
	f := File{To: c.To}
	if c.Tree != nil {
		f.Tree = &Directory{Keep: c.Tree.Keep, Releases: c.Tree.Releases}
	}
	return f.Digest()
}

// TreeChange is what is special about the exchange of a directory.
type TreeChange struct {
	Keep []string `json:"keep,omitempty"` // the names below it that are no part of the digests
	Kept []string `json:"kept,omitempty"` // of these, what the old tree has: it moves to the new one
	// OldIno and NewIno are the inode numbers of the two directories; 0 if there was no old
	// one. Unlike a [FileID] they stay the same over a boot.
	OldIno uint64 `json:"old_ino,omitempty"`
	NewIno uint64 `json:"new_ino"`
	Mark   string `json:"mark,omitempty"` // as [Directory.Mark], of the new tree
	// Releases is as in [Directory]. If it is not empty, the trees do not change places: To
	// is a link, which leads to Left before the swap, "" if there is no link, and to Dir
	// after it. Older is the directory of the release that was kept before, or "". Link is
	// the name of a new link before it replaces To.
	Releases string `json:"releases,omitempty"`
	Dir      string `json:"dir,omitempty"`
	Left     string `json:"left,omitempty"`
	Older    string `json:"older,omitempty"`
	Link     string `json:"link,omitempty"`
}

// Linked reports whether the change is that of a link to a tree.
func (c Change) Linked() bool { return c.Tree != nil && c.Tree.Releases != "" }
