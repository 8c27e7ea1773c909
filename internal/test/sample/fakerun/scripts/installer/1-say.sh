#!/bin/sh
# Sample of nvidia-installer, for tests. What it does, and how it can be made to fail, is
# said in the package that wrote it.

version=@VERSION@
arch=@ARCH@
known_flags="@FLAGS@"
known_values="@VALUES@"
known_booleans="@BOOLEANS@"
known_types="@TYPES@"
kernel_modules="nv_peer_mem nvidia-peermem nvidia-vgpu-vfio nvidia-uvm nvidia-drm nvidia-modeset
nvidia nvidia0 nvidia1 nvidia2 nvidia3 nvidia4 nvidia5 nvidia6 nvidia7 nvidia-frontend"
backup=/var/lib/nvidia
newline='
'

# ---- what is said, and where

log()
{
    echo "-> $*" >&3
    has --silent || echo "$*"
}

warn()
{
    echo "WARNING: $*" >&3
    echo "" >&2
    echo "WARNING: $*" >&2
}

error()
{
    echo "ERROR: $*" >&3
    echo "" >&2
    echo "ERROR: $*" >&2
}

give_up()
{
    error "Installation has failed.  Please see the file '$log_file' for details.  You may find suggestions on fixing installation problems in the README available on the Linux driver download page at www.nvidia.com."
    exit 1
}

