package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// adminName returns the administrator's name and address, as the settings record them.
func (g *Gate) adminName(r *http.Request) string {
	client, _ := g.clientAddr(r)
	user, _, ok := r.BasicAuth()
	if !ok {
		user = "an administrator"
	}
	return user + " from " + client.String()
}

// maxBody is the size in bytes of the largest body of a request to turn the switch.
const maxBody = 4096

func (g *Gate) putSettings(w http.ResponseWriter, r *http.Request) {
	on, err := readSwitch(r.Body)
	if err == nil {
		_, err = g.decide(on, g.adminName(r))
	}
	if err != nil {
		http.Error(w, err.Error(), refusal(err))
		return
	}
	reply(w, g.settingsView())
}

// refused is the error of a request that is malformed.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// refusal returns the HTTP status for an error.
func refusal(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if _, ok := errors.AsType[refused](err); ok {
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// readSwitch reads {"directives": true} or {"directives": false}.
func readSwitch(body io.Reader) (bool, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return false, refused{fmt.Errorf("cannot read the settings: %w", err)}
	}
	o, err := manifest.ReadObject(data, maxBody)
	if err != nil {
		return false, refused{fmt.Errorf("cannot read the settings: %w", err)}
	}
	on, ok := o["directives"].(bool)
	if !ok || len(o) != 1 {
		return false, refused{errors.New(`cannot use the settings: they must be {"directives": true} or {"directives": false}`)}
	}
	return on, nil
}

// postSettings handles the page's form.
func (g *Gate) postSettings(w http.ResponseWriter, r *http.Request) {
	on, err := readForm(r)
	if err == nil {
		_, err = g.decide(on, g.adminName(r))
	}
	if err != nil {
		http.Error(w, err.Error(), refusal(err))
		return
	}
	w.Header().Set("Location", pageHere)
	w.WriteHeader(http.StatusSeeOther)
}

// readForm reads directives=on or directives=off.
func readForm(r *http.Request) (bool, error) {
	if err := r.ParseForm(); err != nil {
		return false, refused{fmt.Errorf("cannot read the form: %w", err)}
	}
	switch values := r.PostForm["directives"]; {
	case len(values) != 1 || len(r.PostForm) != 1:
	case values[0] == "on" || values[0] == "off":
		return values[0] == "on", nil
	}
	return false, refused{errors.New("cannot use the form: it must be directives=on or directives=off, as application/x-www-form-urlencoded")}
}

func (g *Gate) settingsView() settingsView {
	v := settingsView{Directives: !g.stopped()}
	if d := g.decided.Load(); d != nil && d.By != "" {
		v.ChangedBy, v.ChangedAt = d.By, &d.At
	}
	if !v.Directives {
		v.StopSigned = "machinemon-release set " + g.releases() + " --disabled"
	}
	return v
}
