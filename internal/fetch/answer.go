package fetch

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// AnswerLook runs [Look] for the command, which links no network code, and writes the
// [state.Attempt] to w as JSON. installed is the installed version, "" if unknown. The
// error is that of writing.
func AnswerLook(ctx context.Context, tree state.Tree, dirs target.Dirs, name, installed string, w io.Writer) error {
	a := state.Attempt{Time: time.Now().UTC(), Origin: state.OriginOperator, Stage: string(state.RoleFetch)}
	if t, err := dirs.Load(name); err != nil {
		a.Result, a.Reason = state.ResultMisconfigured, err.Error()
	} else {
		a = Look(ctx, tree, t, installed)
	}
	return json.NewEncoder(w).Encode(a)
}

// AnswerImport runs [Import] for the command, into the directory from which the fetcher
// reads, and writes a [state.Attempt] to w as JSON. The result is handed on if the copy
// was made; Warning is set if neither manifest nor operator gave a digest.
func AnswerImport(ctx context.Context, tree state.Tree, dirs target.Dirs, name string, n target.Named, w io.Writer) error {
	a := state.Attempt{Result: state.ResultHandedOn}
	t, err := dirs.Load(name)
	if err == nil {
		var unvouched bool
		if unvouched, err = Import(ctx, tree, t, n, tree.Import(name)); unvouched {
			a.Warning = n.Unvouched()
		}
	}
	if err != nil {
		a.Result, a.Reason = state.ResultOf(err), err.Error()
	}
	return json.NewEncoder(w).Encode(a)
}
