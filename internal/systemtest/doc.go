// Package systemtest tests the installed packages on a booted systemd.
//
//	sudo go test -tags systemd ./internal/systemtest [-release trixie] [-debs DIR] [-from DIR] [-shard 1/2] [-keep]
//
// It needs the packages in dist/, which "make deb" builds, mmdebstrap and systemd-nspawn.
// The first run makes a base image and keeps it in the cache. TestMain installs the
// packages once, by apt on a booted machine; with -from, it installs those of an earlier
// release, which apt then upgrades. Each test then boots a machine of its own on top of
// that, in less than a second:
//
//	func TestYankedBeforeTheVerdict(t *testing.T) {
//		t.Parallel()
//		m := boot(t)
//		m.installTestd("1.0.0", testdUnit) // the daemon in package daemon, by hand
//		m.target(testdTarget)              // /etc/machinemon-update/targets.d/testd.toml
//		dir := t.TempDir()
//		m.publish(dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
//		server := m.serve(dir)             // inside; server.Break(path, releases.Cut(1000))
//
//		since := m.cursor()
//		apply := m.start("machinemon-update", "apply", "testd")
//		m.awaitEvent(since, "machinemon-swap@testd.service started")
//		m.Yank()                           // the power goes: every process dies at once
//		m.wait(apply)                      // the command died with the machine
//		…                                  // m.readFile and m.Stat see the disk
//		m.boot()                           // the power is back: same disk
//		m.assertOrder(since, "machinemon-update-recover.service started", "testd.service started")
//		m.awaitTestd("1.0.0")
//	}
//
// Methods of box in lower case fail the test instead of returning an error; the others
// are those of package machine. Every call ends after machine.RunTimeout at the latest. A
// machine has a loopback network of its own and no other, except for the cables that
// machine.Connect lays between two machines. When a test fails, the log has the unit
// states and the journal of its machine.
package systemtest
