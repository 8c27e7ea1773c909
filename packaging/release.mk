# What a release has, and an apt repository of it; the workflows in .github run
# these targets. Works from the repository's root, alone or included by its Makefile.
#
#   make release-files VERSION=0.2.0
#   make apt-repo KEY=FINGERPRINT    signed with a secret key that gpg has

include packaging/deb.mk

RELEASE = $(DIST)/release
APT_REPO = $(DIST)/apt
APT_COMPONENT = $(APT_REPO)/dists/stable/main

.PHONY: release-files apt-repo

# Beside the packages: for each program a list of the modules that are linked into
# it (CycloneDX), read from the program itself, and the checksums of all.
release-files: deb
	rm -rf $(RELEASE) && mkdir -p $(RELEASE)
	cp $(DEB_FILES) $(RELEASE)/
	for arch in $(DEB_ARCHES); do \
		$(DEB_TOOL) cyclonedx-gomod bin -json -noserial -notimestamp -std -version v$(DEB_VERSION) \
			-output $(RELEASE)/pve-nvidia-hook_$(DEB_VERSION)_$$arch.cdx.json $(DIST)/$$arch/pve-nvidia-hook || exit 1; \
	done
	cd $(RELEASE) && sha256sum * >SHA256SUMS

apt-repo: release-files
	@[ -n '$(KEY)' ] || { echo 'apt-repo: error: no key is named' >&2; echo 'apt-repo: hint: make apt-repo KEY=FINGERPRINT, of a secret key that gpg has' >&2; exit 1; }
	rm -rf $(APT_REPO) && mkdir -p $(APT_REPO)/pool
	cp $(RELEASE)/*.deb $(APT_REPO)/pool/
	cp packaging/apt/pve-nvidia-hook.sources $(APT_REPO)/
	gpg --batch --export '$(KEY)' >$(APT_REPO)/pve-nvidia-hook.gpg
	for arch in $(DEB_ARCHES); do \
		mkdir -p $(APT_COMPONENT)/binary-$$arch && \
		(cd $(APT_REPO) && apt-ftparchive -a $$arch packages pool) >$(APT_COMPONENT)/binary-$$arch/Packages && \
		gzip -9nk $(APT_COMPONENT)/binary-$$arch/Packages || exit 1; \
	done
	cd $(APT_REPO)/dists/stable && apt-ftparchive -o APT::FTPArchive::Release::Origin=pve-nvidia-hook \
		-o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename=stable \
		-o APT::FTPArchive::Release::Components=main -o APT::FTPArchive::Release::Architectures='$(DEB_ARCHES)' \
		release . >../Release && mv ../Release Release
	cd $(APT_REPO)/dists/stable && gpg --batch --yes --local-user '$(KEY)!' --armor --detach-sign --output Release.gpg Release && \
		gpg --batch --yes --local-user '$(KEY)!' --clearsign --output InRelease Release
