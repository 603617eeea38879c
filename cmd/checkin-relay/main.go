// Checkin-relay runs in machinemon-checkin-relay.service, whose socket starts it when
// the agent checks in: it passes check-ins on to the MachineMon server, and hears
// what its answers say of updates. As "checkin-relay prepare" root makes ready for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/machinemon/machinemon-update/internal/checkin/relay"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = serve()
	case len(args) == 1 && args[0] == "prepare":
		err = relay.Prepare(relay.ConfigFile)
	default:
		fmt.Fprintln(os.Stderr, "usage: checkin-relay [prepare]\n(it is run by machinemon-checkin-relay.service)")
		os.Exit(2)
	}
	if err != nil {
		say(err.Error())
		os.Exit(1)
	}
}

func say(line string) { fmt.Fprintln(os.Stderr, line) }

func serve() error {
	listeners, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("cannot take systemd's sockets: %w", err)
	}
	if len(listeners) == 0 {
		return errors.New("cannot serve without a socket (hint: systemctl start machinemon-checkin-relay.socket)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, unusable := relay.Load(relay.ConfigFile)
	daemon.SdNotify(false, daemon.SdNotifyReady) // outside a unit there is nobody to tell
	if unusable != nil {
		say(unusable.Error())
		relay.Refuse(ctx, listeners, say)
		os.Exit(1) // it was said; now the unit shows that it failed
	}
	return relay.Serve(ctx, listeners, relay.New(config, say), say)
}
