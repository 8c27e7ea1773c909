# The Debian package: make -f packaging/deb.mk deb deb-check
# Works from the repository's root, alone or included by its Makefile.
#
# Two builds of one commit give the same bytes: no path, build id, user or time
# of the machine is in them. All times are those of the commit.

# VERSION=0.2.0 names another version than the commit's tag.
DEB_UPSTREAM = $(or $(VERSION),$(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//'),0.1.0)
# 0.1.0-3-gabc (three commits after 0.1.0) is 0.1.0+3.gabc for dpkg: later than
# 0.1.0, and without a hyphen, which would begin a Debian revision.
DEB_VERSION := $(shell echo '$(DEB_UPSTREAM)' | sed -E 's/-([0-9]+)-g/+\1.g/; s/-(rc|beta|alpha)/~\1/; s/-/+/g')
DEB_ARCHES ?= amd64 arm64
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)

GO ?= go
DIST ?= dist
DEB_TOOL = $(GO) tool -modfile=packaging/tools.mod
DEB_LDFLAGS = -s -w -buildid= -X github.com/thinkheads-ai/pve-nvidia-hook/internal/version.Program=$(DEB_VERSION)
DEB_STAGE = $(DIST)/stage
DEB_AGAIN = $(DIST)/again
DEB_FILES = $(foreach arch,$(DEB_ARCHES),$(DIST)/pve-nvidia-hook_$(DEB_VERSION)_$(arch).deb)

.PHONY: deb deb-check deb-reproducible deb-stage
.DELETE_ON_ERROR:

deb: $(DEB_FILES)

# Make cannot know what a Go program stands on; Go's own cache makes it cheap.
.PHONY: $(DEB_FILES)
$(DEB_FILES): $(DIST)/pve-nvidia-hook_$(DEB_VERSION)_%.deb: deb-stage
	mkdir -p $(DIST)/$*
	CGO_ENABLED=0 GOOS=linux GOARCH=$* GOAMD64=v1 GOARM64=v8.0 \
		$(GO) build -trimpath -buildvcs=false -ldflags '$(DEB_LDFLAGS)' -o $(DIST)/$*/pve-nvidia-hook .
	ARCH=$* DIST=$(DIST) VERSION='$(DEB_VERSION)' SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
		$(DEB_TOOL) nfpm package -f nfpm.yaml -p deb -t $@

# All that is the same for every architecture, with fixed modes.
deb-stage:
	rm -rf $(DEB_STAGE)
	umask 022 && mkdir -p $(DEB_STAGE)/docs $(DEB_STAGE)/examples
	$(GO) run ./packaging/mkdocs -version '$(DEB_VERSION)' \
		-date $$(date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%d) $(DEB_STAGE)/docs
	for page in $(DEB_STAGE)/docs/*.[1-8].md packaging/man/*.[1-8].md; do \
		out=$(DEB_STAGE)/docs/$$(basename $$page .md); \
		$(DEB_TOOL) go-md2man -in $$page -out $$out && gzip -9n $$out || exit 1; \
	done
	sed '1s/([^)]*)/($(DEB_VERSION))/' packaging/changelog | gzip -9n >$(DEB_STAGE)/changelog.gz
	umask 022 && (cd contrib && find . -type f ! -name '*.go') | while read -r file; do \
		install -D -m 0644 "contrib/$$file" "$(DEB_STAGE)/examples/$$file" || exit 1; \
	done

# An error or a warning that packaging/lintian-overrides does not explain fails.
deb-check: deb
	for deb in $(DEB_FILES); do \
		echo "lintian $$deb"; \
		lintian --allow-root --fail-on error,warning --tag-display-limit 0 $$deb || exit 1; \
	done

# Builds again in another folder, time zone and umask, and compares.
deb-reproducible: deb
	rm -rf $(DEB_AGAIN) && mkdir -p $(DEB_AGAIN)
	git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -cf - | tar -xf - -C $(DEB_AGAIN)
	chmod -R go= $(DEB_AGAIN)
	umask 077 && TZ=Asia/Tokyo LC_ALL=C $(MAKE) -C $(DEB_AGAIN) -f packaging/deb.mk deb DIST=dist \
		VERSION='$(DEB_VERSION)' SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) DEB_ARCHES='$(DEB_ARCHES)'
	for deb in $(DEB_FILES); do cmp $$deb $(DEB_AGAIN)/dist/$${deb##*/} || exit 1; done
	sha256sum $(DEB_FILES)
	rm -rf $(DEB_AGAIN)
