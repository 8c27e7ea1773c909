# pve-nvidia-hook
#
#   make             bin/pve-nvidia-hook
#   make demo        the main job on a real throwaway container (RUNFILE=FILE or VERSION=580.76.05: with one of NVIDIA's)
#   make test        what a change needs: all tests but the package's (TEST='-run Hang ./hook': only these)
#   make check       gofmt, vet, staticcheck, shellcheck and actionlint
#   make package-test  tests of the Debian package: lintian, its life on nodes of Debian 12 and 13, an apt repository
#   make test-in DIST=trixie  all that CI runs, in a clean container of that Debian (RUN='make demo': only that)
#   make picture     docs/terminal.svg: what enable, a start, status and doctor print, from a real run
#   make bench       times beside a plain shell hook (BENCH='-markdown T -svg P')
#   make torture     kills, faults, hostile containers and races, at length (TORTURE='-kills 300')
#   make fuzz        each parser for FUZZTIME (30s)
#   make deb         the Debian packages, in dist/
#   make deb-check   lintian over the packages
#   make release-files  what a release has: packages, checksums and lists of what is in them, in dist/release/
#   make apt-repo KEY=FINGERPRINT  an apt repository of them, in dist/apt/
#   make clean       remove bin and dist
#   make clean-lab   remove the base roots of throwaway containers (up to 400 MB each)
#   make help        this list
#
# demo, test, package-test, test-in, picture, bench and torture need root and Debian's packages; they install what is missing.

GO ?= go
LAB_PACKAGES = lxc uidmap mmdebstrap
CHECK_PACKAGES = shellcheck
BENCH_PACKAGES = $(LAB_PACKAGES) curl util-linux
TEST_PACKAGES = $(LAB_PACKAGES) curl iproute2 apt-utils gpg gpg-agent dpkg-dev rpm createrepo-c zstd xz-utils bindfs gcc libc6-dev
PACKAGE_PACKAGES = $(LAB_PACKAGES) apt-utils gpg gpg-agent dpkg-dev lintian
# The race detector and nvidia-ctk need a C compiler.
TORTURE_PACKAGES = $(TEST_PACKAGES)

# GB that the tests take: most of it base roots of containers, which stay.
TEST_ROOM = 6

.PHONY: all help build demo test check package-test test-in picture bench torture fuzz lab-packages torture-packages bench-packages clean clean-lab

all: build

# The list at the top of this file.
help:
	@sed -n 's/^#   //p;/^# demo,/s/^# //p;/^GO /q' $(firstword $(MAKEFILE_LIST))

include packaging/release.mk

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(DEB_LDFLAGS)' -o bin/pve-nvidia-hook .

# Builds a program below internal/test, then runs it: go run's own "exit status 1"
# is no help to anybody. The program and the tests find GO in PATH.
run = dir=$$(mktemp -d) || exit 1; trap 'rm -rf "$$dir"' EXIT; trap : INT TERM HUP; \
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -o "$$dir/$(1)" ./internal/test/$(1) && \
	PATH="$$(dirname "$$(command -v '$(GO)')"):$$PATH" "$$dir/$(1)"

demo:
	@./packaging/ready demo '$(GO)'
	@[ -z '$(RUNFILE)' ] || [ -r '$(RUNFILE)' ] || { echo "demo: error: there is no run file $(RUNFILE)" >&2; exit 1; }
	@./packaging/need $(LAB_PACKAGES)
	@$(call run,demo) $(if $(RUNFILE),-runfile '$(RUNFILE)') $(if $(VERSION),-version '$(VERSION)')

TEST ?= $$($(GO) list ./... | grep -v /packaging/)
test:
	@./packaging/ready test '$(GO)' $(TEST_ROOM)
	@./packaging/need $(TEST_PACKAGES)
	@$(MAKE) -s bin/promtool
	@$(call run,suite) -- -timeout 20m $(TEST)

bin/promtool:
	@./packaging/promtool $@

SCRIPTS = .ci/run packaging/need packaging/promtool packaging/ready packaging/scripts/* packaging/snippet/pve-nvidia-hook
check:
	@./packaging/need $(CHECK_PACKAGES)
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change: $$out"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) tool -modfile=packaging/tools.mod staticcheck ./...
	shellcheck $(SCRIPTS)
	$(GO) tool -modfile=packaging/tools.mod actionlint

package-test:
	@./packaging/ready package-test '$(GO)' $(TEST_ROOM)
	@./packaging/need $(PACKAGE_PACKAGES)
	@$(call run,suite) -- -timeout 20m ./packaging/...

DIST_OF_TEST = $(or $(filter-out dist,$(DIST)),trixie)
test-in:
	@./packaging/ready test-in '$(GO)' $$(($(TEST_ROOM) * 2))
	@./packaging/need $(LAB_PACKAGES)
	@$(call run,suite) -in '$(DIST_OF_TEST)' $(if $(RUN),-run '$(RUN)')

picture:
	@./packaging/ready picture '$(GO)'
	@./packaging/need $(LAB_PACKAGES)
	@$(call run,picture) docs/terminal.svg

bench: bench-packages
	$(GO) run ./internal/test/bench $(BENCH)

torture: torture-packages bin/promtool
	PVE_NVIDIA_HOOK_NEED_LXC=1 $(GO) run ./internal/test/torture $(TORTURE)

FUZZTIME ?= 30s
fuzz:
	$(GO) run ./internal/test/torture -only parsers -fuzztime $(FUZZTIME)

bench-packages:
	@./packaging/need $(BENCH_PACKAGES)

lab-packages:
	@./packaging/need $(LAB_PACKAGES)

torture-packages:
	@./packaging/need $(TORTURE_PACKAGES)

clean:
	rm -rf bin dist

clean-lab:
	@./packaging/ready clean-lab '$(GO)'
	@$(call run,demo) -clean
