# A fresh Debian 12 or 13 with Go and make is enough: as root, each target installs the
# Debian packages that it needs, and no more.
#
#   build    build/: the programs, and the shells' completion of them
#   quick    formatting, vet, staticcheck, and the fast tests; needs neither root
#            nor packages
#   lint     all checks that need no built packages: vet, scripts, units, man pages
#   check    lint, and the packages
#   test     check, all tests, and the tests on a booted systemd: all of them on
#            252 (Debian 12), and on 257 (Debian 13) those that depend on systemd's
#            version
#   check-install  the tests on a booted systemd (252), on a fresh installation
#   check-update   the same on one that apt upgraded from the last release;
#                  for both, KEEP=1 keeps a machine for inspection, until Ctrl-C;
#                  SHARD=1/2 runs every second test, DEBIAN=trixie boots systemd 257
#   check-page     the gate's page in a real browser; SHOTS=DIR keeps pictures of it
#   check-programs updates of real programs by packaging/examples/targets; builds the
#                  programs from their source, which takes minutes the first time
#   check-ansible  the example of an Ansible role, by ansible-lint, and applied to a
#                  machine
#   check-cross    the programs for arm64 and ARMv6, run under qemu
#   powercut       N power cuts at random moments of updates, from SEED, on DISK (ext4,
#                  xfs or btrfs), each followed by a boot: some seconds for each cut; STEPS=1
#                  cuts when something has become durable, in random order
#   faults         an error of each system call of the fetcher, the verifier and the
#                  swapper that can fail, one at a time, which takes an hour (EVERY=10
#                  tries every tenth); what can fail on a booted machine; and a hundred
#                  updates at once
#   bench          what updates cost in time, outage, CPU, memory and bytes, beside a
#                  script's, in ROUNDS rounds; on a machine that does nothing else. ROWS=GiB
#                  selects the rows whose names match that pattern
#   fuzz           random input for each parser and unpacker, T=1m for each; what makes
#                  one fail is kept in testdata/fuzz, and is a test from then on
#   conformance-client  build/conformance-client: our verification of signed
#                  repositories as TUF's conformance suite runs it
#   demo     an update and a rollback on a throwaway machine
#   deb      dist/: the packages
#   apt-repo APT_REPO=DIR: the packages for amd64, arm64 and armhf in a static apt
#            repository, signed with APT_KEYS
#   release  the packages, archived for check-update, and the tag
#   install  installs what "make build" built, into DESTDIR
#   clean    removes what "make build" and "make deb" built
#   clean-all  clean, and the caches of this user: base images, real programs, and what
#            Go's cache has of this module's tests

VERSION := $(shell sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
# The version's date, in seconds since 1970. A machine's clock that is earlier must be
# wrong; the programs use this date instead, so that expired signatures stay expired.
BUILT := $(shell date -d "$$(sed -n '/^ -- /{s/.*>  //p;q}' debian/changelog)" +%s)

COMMANDS := machinemon-release machinemon-update
WORKERS  := checkin-gate checkin-relay fetcher health-gate notifier swapper verifier
PROGRAMS := $(COMMANDS) $(WORKERS) generator
UNITS    := $(wildcard units/*.service units/*.path units/*.timer units/*.target units/*.socket)
MAN      := $(wildcard packaging/man/*.[1-8])
SCRIPTS  := .ci/run .ci/last-release packaging/apt-repo packaging/check-debs packaging/check-units packaging/add-agent-check packaging/scalebox-update packaging/scalebox-template-notice $(wildcard debian/*.postinst debian/*.prerm debian/*.postrm)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT  := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# The Debian packages that are needed to build, to boot machines, and for the checks and
# tests. ca-certificates is for downloading Go modules over https. The gate's tests start
# PostgreSQL themselves.
BUILD_DEPS   := ca-certificates debhelper
MACHINE_DEPS := mmdebstrap systemd-container
TEST_DEPS    := apt-utils bzip2 gnupg lintian man-db postgresql shellcheck xz-utils

# Go 1.21 and later download the toolchain that go.mod names, unless told otherwise.
export GOTOOLCHAIN ?= auto

# The caches that tests leave.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/machinemon-update

# More machines run at once than there are cores, because they wait most of the time.
BOOTED := -parallel 4 -timeout $(if $(KEEP),0,40m)

ON_MACHINES = $(if $(KEEP),-keep) $(if $(SHARD),-shard $(SHARD)) $(if $(DEBIAN),-release $(DEBIAN))

# The packages of past releases: a directory for each version.
RELEASES ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/machinemon-update/releases

# The programs are static, and no build needs a C compiler.
export CGO_ENABLED := 0
# The version is the changelog's. Without -buildvcs=false the build would need git,
# and the programs' bytes would depend on the state of the checkout.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
# After "su" root's PATH may lack the sbin directories, and dpkg refuses to work without
# them. Go's own archive is installed in /usr/local/go, which is not in the PATH of sudo.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin

.PHONY: build vet quick lint check test check-install check-update check-page check-programs check-cross check-ansible powercut faults bench fuzz conformance-client demo deb apt-repo release releasable install clean clean-all go-found deps build-deps machine-deps test-deps
# Prerequisites are made in the order written. The go command itself uses all cores.
.NOTPARALLEL:

build: go-found
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X github.com/machinemon/machinemon-update/internal/trust.built=$(BUILT)' -o build/ $(PROGRAMS:%=./cmd/%)
	# "go run" builds for this machine; the programs in build/ may be for another.
	mkdir -p build/completion
	for c in $(COMMANDS); do for shell in bash zsh fish; do \
		env -u GOOS -u GOARCH -u GOARM go run ./cmd/$$c completion $$shell > build/completion/$$c.$$shell || exit 1; \
	done; done

vet: go-found
	! gofmt -l cmd internal | grep .
	go vet -tags systemd,chromium,programs,cross,ansible ./...
	go run $(STATICCHECK) -tags systemd,chromium,programs,ansible ./...

# Four packages are tested at once, because their tests wait most of the time.
quick: vet
	go test -short -vet off -p 4 ./...

# Only this program of the package, whose installation would start a server.
build/promtool:
	mkdir -p build/prometheus
	cd build/prometheus && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; }
	dpkg-deb --fsys-tarfile build/prometheus/prometheus_*.deb | tar -xO ./usr/bin/promtool >$@.tmp
	chmod +x $@.tmp
	mv $@.tmp $@
	rm -r build/prometheus

lint: build-deps test-deps build vet build/promtool
	build/promtool test rules internal/inform/testdata/alerts_test.yml
	shellcheck $(SCRIPTS)
	go run $(ACTIONLINT) .github/workflows/*.yml
	packaging/check-units $(UNITS)
	for page in $(MAN); do \
		said=$$(MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$$page" 2>&1 >/dev/null) && [ -z "$$said" ] || \
			{ echo "$$page: $$said" >&2; exit 1; }; \
		lexgrog "$$page" || exit 1; \
	done

check: lint deb
	packaging/check-debs dist/*.deb
	lintian --allow-root --fail-on error dist/*.deb

test: machine-deps check
	# A test kills the swapper before each of its steps: this takes minutes on a busy machine.
	go test -timeout 30m ./...
	go test -C internal/systemtest -count=1 -tags systemd $(BOOTED)
	go test -C internal/systemtest -count=1 -tags systemd $(BOOTED) -args -release trixie

# In the package's directory the go command shows the output of the tests at once: a line
# for each test that ended, and how to enter a machine that KEEP=1 keeps.
check-install: machine-deps deb
	go test -C internal/systemtest -count=1 -tags systemd $(BOOTED) -args $(ON_MACHINES)
	@echo "check-install: PASSED ($(VERSION))"

check-update:
	@last=$$(.ci/last-release "$(RELEASES)" $(VERSION)) || exit 1; \
	if [ -z "$$last" ]; then echo "check-update: SKIPPED"; exit 0; fi; \
	$(MAKE) machine-deps deb && \
	go test -C internal/systemtest -count=1 -tags systemd $(BOOTED) -args -from "$(abspath $(RELEASES))/$$last" $(ON_MACHINES) && \
	echo "check-update: PASSED ($$last -> $(VERSION))"

N ?= 100
SEED ?= 1
DISK ?= ext4

powercut: machine-deps deb
	$(call install,xfsprogs)
	$(if $(filter btrfs,$(DISK)),$(call install,btrfs-progs))
	go test -C internal/systemtest -count=1 -tags systemd -run '^TestPowerCuts$$' -parallel 4 -timeout 0 -v . -args -powercut $(N) -seed $(SEED) -disk $(DISK) $(if $(STEPS),-steps)
	@echo "powercut: PASSED ($(VERSION))"

EVERY ?= 1

# The whole output, with a line for each error, is in build/faults-PACKAGE.
faults: machine-deps deb
	mkdir -p build
	for p in fetch verify swap; do \
		go test -count=1 -run '^TestFaults$$' -timeout 0 -v ./internal/$$p -faults $(EVERY) >build/faults-$$p; passed=$$?; \
		grep -E '(^ *--- FAIL|faults: )' build/faults-$$p; [ $$passed = 0 ] || exit 1; \
	done
	go test -C internal/systemtest -count=1 -tags systemd -run '^(TestMachineFaults|TestHundredTargets)$$' -timeout 0 -v . -args -faults 1
	@echo "faults: PASSED ($(VERSION))"

ROUNDS ?= 5

bench: machine-deps deb
	mkdir -p build
	go test -C internal/systemtest -count=1 -tags systemd -run '^TestBench$$' -timeout 0 -v . -args -bench $(ROUNDS) -bench-json "$(abspath build/bench.json)" $(if $(ROWS),-bench-rows "$(ROWS)") $(if $(DEBIAN),-release $(DEBIAN))

T ?= 1m

# By default Go spends a minute on making each new input smaller, and tries no other meanwhile.
fuzz: go-found
	for file in $$(grep -rl --include='*_test.go' '^func Fuzz' internal | sort); do \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$$file"); do \
			echo "$$f in $$file"; \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(T) -fuzzminimizetime 100x "./$$(dirname "$$file")" || exit 1; \
		done; \
	done
	@echo "fuzz: PASSED ($(VERSION))"

# Only check-page needs the browser, which is large.
check-page: go-found
	$(call install,chromium)
	$(if $(SHOTS),mkdir -p "$(SHOTS)")
	go test -count=1 -tags chromium -run '^TestPage' ./internal/checkin/gate $(if $(SHOTS),-shots "$(abspath $(SHOTS))")
	@echo "check-page: PASSED ($(VERSION))"

check-programs: machine-deps deb
	go test -C internal/systemtest -count=1 -tags systemd,programs -run '^TestRealPrograms$$' $(BOOTED) -args $(ON_MACHINES)
	@echo "check-programs: PASSED ($(VERSION))"

check-cross: go-found
	$(call install,qemu-user-static)
	go test -count=1 -tags cross ./cmd
	@echo "check-cross: PASSED ($(VERSION))"

# Not part of lint, because ansible is large.
check-ansible: machine-deps deb
	$(call install,ansible-lint gnupg apt-utils)
	cd packaging/examples/ansible && ansible-lint --offline --profile production site.yml roles/machinemon_update
	cd packaging/examples/ansible && ansible-playbook --syntax-check -i localhost, site.yml
	go test -C internal/systemtest -count=1 -tags systemd,ansible -run '^TestAnsible$$' -timeout 20m .
	@echo "check-ansible: PASSED ($(VERSION))"

conformance-client:
	go build -trimpath -o build/$@ ./internal/conformance

demo: machine-deps deb
	go run ./internal/systemtest/demo

# The build uses a copy, because it leaves files in the tree and in its parent. The
# build dependencies are not checked, because they would include a C compiler.
deb: build-deps
	rm -rf build/deb dist
	mkdir -p build/deb/source dist
	tar -c --exclude=./.git --exclude=./build --exclude=./dist . | tar -x -C build/deb/source
	cd build/deb/source && dpkg-buildpackage --build=binary --no-check-builddeps --no-sign
	mv build/deb/*.deb dist/
	for arch in $(CROSS); do \
		(cd build/deb/source && dpkg-buildpackage --build=any --host-arch=$$arch --no-check-builddeps --no-sign) && \
		mv build/deb/*.deb dist/ || exit 1; \
	done
	rm -r build/deb

# APT_KEYS are fingerprints of secret keys of this user's GnuPG.
apt-repo: CROSS := $(filter-out $(shell dpkg --print-architecture),amd64 arm64 armhf)
apt-repo: go-found
	$(call install,apt-utils gnupg)
	$(MAKE) deb CROSS="$(CROSS)"
	packaging/apt-repo "$(or $(APT_REPO),build/apt)" $(APT_KEYS)

# The tag is made last, so that after a failure all steps can be repeated.
release: releasable deb
	rm -rf "$(RELEASES)/.$(VERSION).tmp"
	mkdir -p "$(RELEASES)/.$(VERSION).tmp"
	cp dist/*.deb "$(RELEASES)/.$(VERSION).tmp"
	rm -rf "$(RELEASES)/$(VERSION)"
	mv "$(RELEASES)/.$(VERSION).tmp" "$(RELEASES)/$(VERSION)"
	git tag -a -m "machinemon-update $(VERSION)" v$(VERSION)
	@echo "released $(VERSION): tag v$(VERSION), packages in $(RELEASES)/$(VERSION)"
	@echo "to publish it: git push origin v$(VERSION), which starts .github/workflows/release.yml"

releasable:
	@say() { echo "cannot release $(VERSION): $$1" >&2; exit 1; }; \
	changed=$$(git status --porcelain) || say "git status failed"; \
	[ -z "$$changed" ] || say "not everything is committed: $$changed"; \
	! head -n1 debian/changelog | grep -q UNRELEASED || say "debian/changelog says UNRELEASED (hint: name a suite there, and commit it)"; \
	! git rev-parse --quiet --verify refs/tags/v$(VERSION) >/dev/null || say "there is a tag v$(VERSION) (hint: a new entry in debian/changelog)"

# install does not depend on build, because root may have no Go.
install:
	install -d $(DESTDIR)/usr/bin $(DESTDIR)/usr/lib/machinemon-update/targets.d \
		$(DESTDIR)/usr/lib/systemd/system/basic.target.wants $(DESTDIR)/usr/lib/systemd/system-generators \
		$(DESTDIR)/usr/lib/systemd/catalog $(DESTDIR)/usr/lib/sysusers.d $(DESTDIR)/usr/lib/tmpfiles.d $(DESTDIR)/etc/needrestart/conf.d $(DESTDIR)/etc/machinemon-update
	install $(COMMANDS:%=build/%) packaging/scalebox-update $(DESTDIR)/usr/bin
	install -D packaging/scalebox-template-notice $(DESTDIR)/usr/lib/scalebox-update/template-notice
	install $(WORKERS:%=build/%) packaging/add-agent-check $(DESTDIR)/usr/lib/machinemon-update
	install -d $(DESTDIR)/usr/sbin
	ln -sf ../lib/machinemon-update/checkin-relay $(DESTDIR)/usr/sbin/machinemon-checkin-relay
	install build/generator $(DESTDIR)/usr/lib/systemd/system-generators/machinemon-update-generator
	install -m 644 packaging/targets.d/*.toml $(DESTDIR)/usr/lib/machinemon-update/targets.d
	install -m 644 $(UNITS) $(DESTDIR)/usr/lib/systemd/system
	# The unit runs at every boot without being enabled, so that it settles an open trial.
	ln -sf ../machinemon-update-recover.service $(DESTDIR)/usr/lib/systemd/system/basic.target.wants
	# The trigger of systemd's package updates the journal's catalog.
	install -m 644 packaging/catalog/*.catalog $(DESTDIR)/usr/lib/systemd/catalog
	install -m 644 packaging/sysusers.d/*.conf $(DESTDIR)/usr/lib/sysusers.d
	install -m 644 packaging/tmpfiles.d/*.conf $(DESTDIR)/usr/lib/tmpfiles.d
	install -m 644 packaging/needrestart/*.conf $(DESTDIR)/etc/needrestart/conf.d
	install -m 644 packaging/checkin/*.toml $(DESTDIR)/etc/machinemon-update
	for c in $(COMMANDS); do \
		install -D -m 644 build/completion/$$c.bash $(DESTDIR)/usr/share/bash-completion/completions/$$c && \
		install -D -m 644 build/completion/$$c.zsh $(DESTDIR)/usr/share/zsh/vendor-completions/_$$c && \
		install -D -m 644 build/completion/$$c.fish $(DESTDIR)/usr/share/fish/vendor_completions.d/$$c.fish || exit 1; \
	done
	for page in $(MAN); do install -D -m 644 -t $(DESTDIR)/usr/share/man/man$${page##*.} "$$page" || exit 1; done

# The licences of linked modules require that their notices are distributed with them.
build/third-party-notices: go.mod
	mkdir -p build
	{ echo "go $$(go env GOROOT)" && \
	  go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}' $(PROGRAMS:%=./cmd/%) | sort -u; } | \
	while read -r module dir; do \
		printf '\n==== %s ====\n\n' "$$module" && find "$$dir" -maxdepth 1 -iname "license*" -exec cat {} + | grep '' || exit 1; \
		[ ! -e "$$dir/NOTICE" ] || cat "$$dir/NOTICE" || exit 1; \
	done > $@.tmp
	mv $@.tmp $@

clean:
	rm -rf build dist

clean-all: clean
	rm -rf "$(CACHE)"
	! command -v go >/dev/null || go clean -testcache

# Before anything is installed, so that a host without Go is left as it was.
go-found:
	@v=$$(GOTOOLCHAIN=local go version 2>/dev/null | cut -d' ' -f3); minor=$${v#go1.}; minor=$${minor%%[!0-9]*}; \
	[ "$${minor:-0}" -ge 21 ] || { echo "cannot build: this needs Go 1.26, or 1.21 and later, which download it; found $${v:-none}" \
		"(hint: on Debian 13: apt install golang-go; on Debian 12: the same from bookworm-backports; or https://go.dev/dl in /usr/local/go)" >&2; exit 1; }

# install installs those of these Debian packages that are missing.
define install
@missing=$$(for p in $(1); do \
	dpkg-query -Wf '$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q ^ii || echo $$p; done); \
[ -n "$$missing" ] || exit 0; \
set -- $$missing; \
[ "$$(id -u)" = 0 ] || { echo "cannot install $$*: only root can (hint: sudo apt install $$*)" >&2; exit 1; }; \
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$$@"; } || \
{ echo "cannot install $$*: apt-get failed (see above); it needs a Debian mirror" >&2; exit 1; }
endef

build-deps: go-found
	$(call install,$(BUILD_DEPS))

machine-deps: go-found
	$(call install,$(MACHINE_DEPS))

test-deps: go-found
	$(call install,$(TEST_DEPS))

deps: build-deps machine-deps test-deps
