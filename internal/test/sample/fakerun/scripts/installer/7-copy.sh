# ---- installing it

# The record names the new version before the first file of it is there.
start_record()
{
    rm -rf $backup
    if ! mkdir -m 0700 $backup; then
        error "Unable to create '$backup'."
        give_up
    fi
    kept=100
    old_umask=$(umask)
    umask 077
    {
        echo "1.0-$(echo "$version" | tr -d .) ($version)"
        echo "NVIDIA Accelerated Graphics Driver for Linux-$arch"
    } > $backup/log
    : > $backup/dirs
    umask "$old_umask"
    exec 4>> $backup/log
}

make_folder()
{
    [ ! -d "$1" ] || return 0
    make_folder "${1%/*}" || return 1
    complaint=$(mkdir "$1" 2>&1) || return 1
    echo "$1" >> $backup/dirs
}

# What is in the way is kept for the uninstaller to put back: whatever stands where a
# file or link is to go, and every file with the name of one of the libraries, however
# deep in the folders of libraries, but with --no-recursion.
keep_all_present()
{
    while read -r _ _ folder file && [ -n "$folder" ]; do
        keep_present "$folder/$file"
    done << LIST
$files
LIST
    while read -r _ folder file && [ -n "$folder" ]; do
        keep_present "$folder/$file"
    done << LIST
$links
LIST
    has --no-recursion && return
    set -- -name libGLwrapper.so
    for name in $conflicting; do
        set -- "$@" -o -name "$name.so*"
    done
    find -L /usr/lib /usr/lib32 /usr/lib64 \( -name source -o -name build \) -prune -o \( "$@" \) \( -type f -o -type l \) -print 2> /dev/null |
        sort -u > $backup/found
    while read -r found; do
        keep_present "$found"
    done < $backup/found
    rm -f $backup/found
}

keep_present()
{
    if [ -L "$1" ]; then
        link=$(readlink "$1")
        rm -f "$1" || return 1
        printf '2: %s\n%s\n120777 0 0\n' "$1" "$link" >&4
    elif [ -f "$1" ]; then
        sum=$(crc_of "$1")
        owner=$(stat -c '%u %g' "$1")
        bits=$(stat -c %a "$1")
        mv "$1" "$backup/$kept" || return 1
        printf '%d: %s\n%s 10%04d %s\n' "$kept" "$1" "$sum" "$bits" "$owner" >&4
        kept=$((kept + 1))
    fi
}

copy_file()
{
    destination=$3/$4
    complaint="Permission denied"
    if make_folder "$3" &&
        complaint=$(install -m "$1" "$2" "$destination" 2>&1 < /dev/null); then
        printf '1: %s\n%s\n' "$destination" "$(crc_of "$destination")" >&4
        return 0
    fi
    case $complaint in
        *"No space left"*)
            echo "Received signal SIGBUS; aborting." >&2
            exit 135 ;;
    esac
    error "Unable to create '$destination' for copying (${complaint##*: })"
    errors=$((errors + 1))
}

make_link()
{
    destination=$2/$3
    complaint="Permission denied"
    if make_folder "$2" &&
        complaint=$(ln -s "$1" "$destination" 2>&1); then
        printf '0: %s\n%s\n' "$destination" "$1" >&4
        return 0
    fi
    error "Unable to create symbolic link '$destination' (${complaint##*: })"
    errors=$((errors + 1))
}

# Errors do not end it: the default answer to "continue?" is yes.
copy_files()
{
    errors=0
    done=0
    half=$((count / 2))
    while read -r mode member folder file && [ -n "$mode" ]; do
        if [ $done -eq $half ] && fault die-half; then
            # The file that is being copied is there, and not in the record yet.
            make_folder "$folder"
            head -c 4000 "$member" > "$folder/$file"
            kill -9 $$
        fi
        copy_file "$mode" "$member" "$folder" "$file"
        done=$((done + 1))
        [ -z "$slow" ] || sleep "$slow"
    done << LIST
$files
LIST
    while read -r target folder file && [ -n "$target" ]; do
        make_link "$target" "$folder" "$file"
    done << LIST
$links
LIST
}

# The Linux OpenGL ABI wants libGL there. Without a libGL the link leads nowhere.
link_for_abi()
{
    [ ! -e /usr/lib/libGL.so.1 ] && [ ! -L /usr/lib/libGL.so.1 ] || return 0
    make_link "$libdir/libGL.so.1" /usr/lib libGL.so.1
}

announce_success()
{
    log "Driver file installation is complete."
    if [ "${errors:-0}" -eq 0 ]; then
        log "Post-install sanity check passed."
    else
        log "Post-install sanity check failed."
    fi
    log "Installation of the NVIDIA Accelerated Graphics Driver for Linux-$arch (version: $version) is now complete."
}

stop_at_signal()
{
    trap "echo 'Received signal SIGHUP; aborting.' >&2; exit 129" HUP
    trap "echo 'Received signal SIGINT; aborting.' >&2; exit 130" INT
    trap "echo 'Received signal SIGTERM; aborting.' >&2; exit 143" TERM
}

install_driver()
{
    cd "$(dirname "$0")" || exit 1
    check_manifest
    [ -e /sys/bus/pci/devices ] || warn "You do not appear to have an NVIDIA GPU supported by the $version NVIDIA Linux graphics driver installed in this system."
    check_x
    check_kernel_modules
    log "Installing NVIDIA driver version $version."
    check_other_installs
    run_distribution_script pre-install
    check_nouveau
    warn "You specified the '--no-kernel-modules' command line option, nvidia-installer will not install any kernel modules as part of this driver installation, and it will not remove existing NVIDIA kernel modules not part of an earlier NVIDIA driver installation.  Please ensure that NVIDIA kernel modules matching this driver version are installed separately."
    read_faults
    fail_as_told
    choose_folders
    choose_systemd
    choose_compat32
    remove_older
    choose_libglvnd
    plan_files
    start_record
    keep_all_present
    copy_files
    link_for_abi
    log "Running ldconfig:"
    ldconfig || log "error!"
    if [ $systemd = y ]; then
        systemctl daemon-reload > /dev/null 2>&1 || warn "Failed to execute \`systemctl daemon-reload\`."
    fi
    announce_success
    exit 0
}

