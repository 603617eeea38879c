package target

// BeforeSwap returns how many hooks may run before the swap. Each may write the files of
// the program in place.
func (h Hooks) BeforeSwap() (n int) {
	for _, argv := range [][]string{h.FromRelease, h.PreSwap} {
		if len(argv) > 0 {
			n++
		}
	}
	return n
}

// Program returns the name of FromRelease's program in the archive of version for
// platform, or "" if there is none.
func (h Hooks) Program(platform, version string) string {
	if len(h.FromRelease) == 0 {
		return ""
	}
	return h.names.fill(h.FromRelease[0], platform, version)
}

// hooks refuses to let root run programs whose publisher nothing authenticates, unless the
// operator says so.
func (v *validation) hooks() Hooks {
	h := Hooks{Unsigned: v.boolean("hooks.from_release_unsigned"), FromRelease: v.texts("hooks.from_release"), PreSwap: v.texts("hooks.pre_swap"), PostCommit: v.texts("hooks.post_commit"), names: v.archNames()}
	if len(h.FromRelease) > 0 && v.text("trust.mode") == TrustChecksum && !h.Unsigned {
		v.problem("hooks.from_release", "root would run a program of releases that are not signed", `take signed releases, trust.mode = "tuf"; or write a pre_swap hook of your own`)
	}
	return h
}
