// Checkin-relay runs in machinemon-checkin-relay.service, which its socket starts when
// the agent checks in. It passes check-ins on to the MachineMon server. Its exit status
// says whether an answer announced an update; after it, the service runs "checkin-relay
// deliver" as root, which then drops a directive. An operator runs it with --setup, by the
// name machinemon-checkin-relay.
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
	"github.com/machinemon/machinemon-update/internal/state"
)

const usage = "usage: machinemon-checkin-relay --setup  (puts the relay between the agent and its server)\n" +
	"       checkin-relay [deliver]  (machinemon-checkin-relay.service runs it)"

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = serve()
	case len(args) == 1 && args[0] == "deliver":
		err = relay.Deliver(relay.ConfigFile, state.System, os.Getenv)
	case len(args) == 1 && args[0] == "--setup":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = relay.Setup(ctx, say)
	case args[0] == "-h" || args[0] == "--help":
		fmt.Println(usage)
	default:
		say(usage)
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
		return errors.New("cannot serve without a socket (hint: sudo systemctl restart machinemon-checkin-relay.socket)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, unusable := relay.Load(relay.ConfigFile)
	const keepEnvironment = false
	daemon.SdNotify(keepEnvironment, daemon.SdNotifyReady) // does nothing outside a unit
	if unusable != nil {
		say(unusable.Error())
		relay.Refuse(ctx, listeners, say)
		os.Exit(1) // the unit must show the failure, too
	}
	announced, err := relay.Serve(ctx, listeners, relay.New(config, say))
	if err == nil && announced {
		os.Exit(relay.Announced)
	}
	return err
}
