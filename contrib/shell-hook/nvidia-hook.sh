#!/bin/sh
# A plain shell hookscript for an LXC container of Proxmox VE, see README.md:
#
#   nvidia-hook.sh VMID PHASE
#
# At post-start it puts the user space of the driver that the host runs into the
# container, from one run file that is kept for all containers.
set -eu

vmid=$1
phase=$2

cache=${NVIDIA_HOOK_CACHE:-/var/cache/nvidia-shell-hook}
url=${NVIDIA_HOOK_URL:-https://us.download.nvidia.com/XFree86/Linux-x86_64}
lxc=${NVIDIA_HOOK_LXC:-/var/lib/lxc}
module=${NVIDIA_HOOK_MODULE:-/proc/driver/nvidia/version}

# What the installers from 470 on know, and a user space without kernel modules needs.
options="--silent --no-kernel-module --no-nouveau-check --no-x-check --no-rpms
    --no-check-for-alternate-installs --no-distro-scripts --no-nvidia-modprobe
    --no-install-compat32-libs --no-install-libglvnd --no-libglx-indirect
    --no-systemd --no-wine-files --skip-depmod"

say() { echo "nvidia-hook $vmid: $*"; }

fail()
{
    say "error: $*" >&2
    exit 1
}

inside()
{
    lxc-attach -P "$lxc" -n "$vmid" --clear-env -v PATH=/usr/sbin:/usr/bin:/sbin:/bin -- "$@"
}

# The version that works in the container: the first GPU's line, or nothing.
installed()
{
    lines=$(inside nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null </dev/null) || return 0
    echo "${lines%%
*}"
}

# Ten containers that start at once cause one download: flock lets one in, the
# others find the file. A file that is there was checked when it came.
fetch()
{
    mkdir -p "$cache"
    exec 9>"$cache/$file.lock"
    flock -w 900 9 || fail "$file is still being fetched by another container"
    if [ ! -f "$cache/$file" ]; then
        say "fetching $url/$version/$file"
        curl -fsSL --retry 3 -C - -o "$cache/$file.part" "$url/$version/$file"
        sum=$(curl -fsSL --retry 3 "$url/$version/$file.sha256sum")
        if ! echo "${sum%% *}  $cache/$file.part" | sha256sum --check --status; then
            rm -f "$cache/$file.part"
            fail "$file has another checksum than its server says"
        fi
        mv "$cache/$file.part" "$cache/$file"
    fi
    exec 9>&-
}

[ "$phase" = post-start ] || exit 0

version=$(sed -n '1s/^NVRM version: NVIDIA UNIX .*Kernel Module\( for [^ ]*\)\{0,1\} *\([0-9.]*\) .*/\2/p' "$module")
[ -n "$version" ] || fail "no NVIDIA kernel module is loaded on this host"

if [ "$(installed)" = "$version" ]; then
    say "driver $version is in place"
    exit 0
fi

file=NVIDIA-Linux-x86_64-$version.run
copy=/tmp/$file
fetch

trap 'inside rm -f "$copy" </dev/null' EXIT
# The run file checks its own MD5 when it starts, and so this copy.
# shellcheck disable=SC2016  # the container's shell expands it
inside sh -c 'cat >"$1"' sh "$copy" <"$cache/$file"
# shellcheck disable=SC2086  # these are many words
inside sh "$copy" $options </dev/null
inside rm -f "$copy" </dev/null
trap - EXIT

found=$(installed)
[ "$found" = "$version" ] || fail "nvidia-smi says '$found' instead of $version"
say "driver $version is installed and nvidia-smi works"
