// Package cli is the code that both commands share: it sets up cobra, prints errors and
// chooses their exit status, and prints tables.
package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/machinemon/machinemon-update/internal/nearest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// ExitUsage is the exit status of an error that the caller corrects by another call.
const ExitUsage = 2

// A usageError is an error with the status ExitUsage.
type usageError struct{ error }

// Usagef is fmt.Errorf for an error with the status ExitUsage.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// IsUsage reports whether err came from Usagef.
func IsUsage(err error) bool {
	_, is := errors.AsType[usageError](err)
	return is
}

// Run executes root with its verbs and returns the exit status. An error is printed as
// one line on root's standard error. Its status is ExitUsage if no verb had begun or
// IsUsage reports true, else exitOf(err).
func Run(root *cobra.Command, exitOf func(error) int) int {
	addVersion(root)
	began := false
	for _, c := range append([]*cobra.Command{root}, root.Commands()...) {
		if run := c.RunE; run != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				began = true
				return run(c, args)
			}
		}
		c.DisableFlagsInUseLine = c != root
	}
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w (hint: %s --help)", err, root.Name())
	})
	err := root.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintf(root.ErrOrStderr(), "%s: %s\n", root.Name(), state.Printable(err.Error()))
	if !began || IsUsage(err) {
		return ExitUsage
	}
	return exitOf(err)
}

// addVersion adds the flag --version to root, in place of cobra's. Templates of cobra call
// methods by their names, so the linker would keep all methods, and 2 MB more.
func addVersion(root *cobra.Command) {
	version, run := root.Version, root.RunE
	root.Version = ""
	asked := root.Flags().BoolP("version", "v", false, "version for "+root.Name())
	root.RunE = func(c *cobra.Command, args []string) error {
		if *asked {
			_, err := fmt.Fprintln(c.OutOrStdout(), c.Name(), version)
			return err
		}
		return run(c, args)
	}
}

// Args returns a check that accepts arguments for which fit reports true. For others it
// returns an error that names what the verb needs. hint "" stands for the verb's --help.
func Args(needs, hint string, fit func(args []string) bool) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if fit(args) {
			return nil
		}
		if hint == "" {
			hint = c.CommandPath() + " --help"
		}
		return Usagef("%s needs %s (hint: %s)", c.Name(), needs, hint)
	}
}

// NoArgs refuses all arguments. The root commands use it, too, so the error is about an
// unknown verb.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var verbs []string
	for _, verb := range c.Root().Commands() {
		verbs = append(verbs, verb.Name())
	}
	return Usagef("unknown command %q (hint: %s)", args[0], cmp.Or(nearest.Hint(args[0], verbs), c.Root().Name()+" --help"))
}

// Exactly returns a fit for Args that accepts n arguments.
func Exactly(n int) func([]string) bool { return func(args []string) bool { return len(args) == n } }

// AtLeast returns a fit for Args that accepts n arguments or more.
func AtLeast(n int) func([]string) bool { return func(args []string) bool { return len(args) >= n } }

// Table returns rows as lines with aligned columns.
func Table(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = state.Printable(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	return b.String()
}

// Terminal returns standard error if progress can be drawn there, or nil.
func Terminal() *os.File {
	if !term.IsTerminal(int(os.Stderr.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return os.Stderr
}
