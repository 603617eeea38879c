package command

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// completeAny offers the targets that are not named yet.
func (a *app) completeAny(_ *cobra.Command, named []string, _ string) ([]string, cobra.ShellCompDirective) {
	names, err := a.targets.Names()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !target.ValidName(n) || slices.Contains(named, n) })
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeConfig offers the targets, and files.
func (a *app) completeConfig(c *cobra.Command, named []string, begun string) ([]string, cobra.ShellCompDirective) {
	names, _ := a.completeAny(c, named, begun)
	return names, cobra.ShellCompDirectiveDefault
}

// completeFirst offers the targets for the first argument, and words for the second.
func (a *app) completeFirst(words []string, second cobra.ShellCompDirective) cobra.CompletionFunc {
	return func(c *cobra.Command, named []string, begun string) ([]string, cobra.ShellCompDirective) {
		switch len(named) {
		case 0:
			return a.completeAny(c, named, begun)
		case 1:
			return words, second
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAttempt offers the targets, and then the attempts on the one that is named, the
// newest first.
func (a *app) completeAttempt(c *cobra.Command, named []string, begun string) (offers []string, _ cobra.ShellCompDirective) {
	const inOrder = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	if len(named) == 0 {
		return a.completeAny(c, named, begun)
	}
	if len(named) > 1 || !target.ValidName(named[0]) {
		return nil, inOrder
	}
	attempts, _, _ := a.attemptsOn(named[0]) // history reports the error
	for _, at := range attempts {
		offers = append(offers, cobra.CompletionWithDesc(string(at.ID), state.Printable(outcome(at))))
	}
	return offers, inOrder
}

// completeUnit offers the services that run for the first argument, and files for the second.
func (a *app) completeUnit(_ *cobra.Command, named []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(named) {
	case 0:
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if m := a.see(ctx); m != nil {
			defer m.Close()
			return running(ctx, m), cobra.ShellCompDirectiveNoFileComp
		}
	case 1:
		return nil, cobra.ShellCompDirectiveDefault
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
