package target

import "strings"

// apiPaths are the paths of the APIs below the server's own address. GitHub's differs
// between GitHub itself and a server.
var apiPaths = map[string]string{SourceForgejo: "/api/v1", SourceGitLab: "/api/v4"}

// api returns the address of a forge's API.
func (v *validation) api(kind string) string {
	const key = "source.api_url"
	path, fixed := apiPaths[kind]
	switch {
	case !v.written(key) && kind == SourceForgejo:
		v.missing(key, `of Codeberg it is "https://codeberg.org/api/v1"`)
	case !v.written(key) && kind == SourceGitLab:
		return "https://gitlab.com" + path
	case fixed && !strings.HasSuffix(strings.TrimSuffix(v.text(key), "/"), path):
		v.problem(key, `of a source of type "`+kind+`" ends with `+path, "add "+path+" to the server's address")
	}
	return v.text(key)
}
