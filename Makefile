# pve-nvidia-hook
#
#   make             bin/pve-nvidia-hook
#   make demo        the main job on a real throwaway container (RUNFILE=FILE or VERSION=580.76.05: with one of NVIDIA's)
#   make test        everything that CI runs
#   make check       gofmt, vet and staticcheck alone
#   make bench       times beside a plain shell hook (BENCH='-markdown T -svg P')
#   make torture     kills, faults, hostile containers and races, at length (TORTURE='-kills 300')
#   make fuzz        each parser for FUZZTIME (30s)
#   make deb         the Debian packages, in dist/
#   make deb-check   shellcheck and lintian over the packages
#   make clean       remove bin and dist
#   make clean-lab   remove the base roots of throwaway containers (up to 400 MB each)
#   make help        this list
#
# demo, test, bench and torture need root and Debian's packages; they install what is missing.

GO ?= go
LAB_PACKAGES = lxc uidmap mmdebstrap
BENCH_PACKAGES = $(LAB_PACKAGES) curl util-linux
TEST_PACKAGES = $(LAB_PACKAGES) curl iproute2 apt-utils gpg gpg-agent dpkg-dev rpm createrepo-c lintian shellcheck zstd xz-utils bindfs
# The race detector needs a C compiler.
TORTURE_PACKAGES = $(TEST_PACKAGES) gcc libc6-dev

.PHONY: all help build demo test check bench torture fuzz lab-packages test-packages torture-packages bench-packages clean clean-lab

all: build

# The list at the top of this file.
help:
	@sed -n 's/^#   //p;/^# demo,/s/^# //p;/^GO /q' $(firstword $(MAKEFILE_LIST))

include packaging/deb.mk

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(DEB_LDFLAGS)' -o bin/pve-nvidia-hook .

# Go's own "exit status 1" is no help to anybody: so the demo is built, then run.
RUN_DEMO = dir=$$(mktemp -d) || exit 1; trap 'rm -rf "$$dir"' EXIT; trap : INT TERM HUP; \
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -o "$$dir/demo" ./internal/test/demo && "$$dir/demo"

demo:
	@./packaging/ready demo '$(GO)'
	@[ -z '$(RUNFILE)' ] || [ -r '$(RUNFILE)' ] || { echo "demo: error: there is no run file $(RUNFILE)" >&2; exit 1; }
	@./packaging/need $(LAB_PACKAGES)
	@$(RUN_DEMO) $(if $(RUNFILE),-runfile '$(RUNFILE)') $(if $(VERSION),-version '$(VERSION)')

# With PVE_NVIDIA_HOOK_NEED_LXC a test that needs containers fails where it
# would else be skipped.
test: test-packages bin/promtool check
	PVE_NVIDIA_HOOK_NEED_LXC=1 $(GO) test -timeout 20m ./...

bin/promtool:
	@./packaging/promtool $@

check:
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change: $$out"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) tool -modfile=packaging/tools.mod staticcheck ./...

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

test-packages:
	@./packaging/need $(TEST_PACKAGES)

torture-packages:
	@./packaging/need $(TORTURE_PACKAGES)

clean:
	rm -rf bin dist

clean-lab:
	@./packaging/ready clean-lab '$(GO)'
	@$(RUN_DEMO) -clean
