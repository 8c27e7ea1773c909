# ---- removing the driver that the record in $backup lists

crc_of()
{
    cksum < "$1" 2> /dev/null | cut -d' ' -f1
}

# read_record calls "$1 kind file value" for each entry of the record.
read_record()
{
    {
        read -r _ && read -r _
        while read -r entry; do
            kind=${entry%%: *}
            read -r value || break
            perms=""
            [ "$kind" != 2 ] || read -r perms
            "$1" "$kind" "${entry#*: }" "$value" "$perms"
        done
    } < $backup/log
}

# note_removable prints what is still as it was installed, before any of it is removed.
# A file that was changed since is left alone, and so is a link that leads nowhere.
note_removable()
{
    case $1 in
        0)
            if [ ! -e "$2" ]; then
                echo "-> Unable to access previously installed symlink '$2'." >&3
            elif [ "$(readlink "$2")" = "$3" ]; then
                echo "$2"
            else
                echo "-> The previously installed symlink '$2' has target '$(readlink "$2")', but it was installed with target '$3'.  '$2' will not be uninstalled." >&3
            fi ;;
        1)
            if [ "$(crc_of "$2")" = "$3" ]; then
                echo "$2"
            else
                echo "-> The previously installed file '$2' has a different checksum than when it was installed.  '$2' will not be uninstalled." >&3
            fi ;;
    esac
}

restore_backed_up()
{
    case $1 in
        0 | 1) ;;
        2) ln -s "$3" "$2" || log "Unable to restore symbolic link '$2'." ;;
        *)
            # crc mode uid gid; the mode has the file type before its last four digits.
            # shellcheck disable=SC2086
            set -- "$1" "$2" $3
            if mv "$backup/$1" "$2"; then
                chmod "${4#"${4%????}"}" "$2"
                chown "$5:$6" "$2"
            else
                log "Unable to restore file '$2'."
            fi ;;
    esac
}

remove_made_folders()
{
    [ -e $backup/dirs ] || return
    sort -r $backup/dirs | while read -r folder; do
        rmdir "$folder" 2> /dev/null || log "Failed to delete the directory '$folder'."
    done
}

remove_driver()
{
    if [ ! -e $backup/log ]; then
        log "No driver backed up."
        return 1
    fi
    read -r old < $backup/log
    old=${old#*\(}
    old=${old%\)}
    log "Uninstalling NVIDIA Accelerated Graphics Driver for Linux-$arch ($old):"
    removable=$(read_record note_removable)
    echo "$removable" | while read -r file; do
        [ -z "$file" ] || rm -f "$file"
    done
    read_record restore_backed_up
    remove_made_folders
    rm -rf $backup
    if ! has --skip-module-unload; then
        for module in $kernel_modules; do
            rmmod "$module" > /dev/null 2>&1
        done
    fi
    return 0
}

uninstall()
{
    if [ ! -e $backup ]; then
        error "There is no NVIDIA driver currently installed."
        exit 1
    fi
    remove_driver || exit 1
    if has --skip-depmod; then
        log "Running ldconfig:"
    else
        log "Running depmod and ldconfig:"
        depmod -a
    fi
    ldconfig
    log "done."
    log "Uninstallation of existing driver: NVIDIA Accelerated Graphics Driver for Linux-$arch ($old) is complete."
    exit 0
}

remove_older()
{
    [ -e $backup/log ] || return 0
    read -r old < $backup/log
    old=${old#*\(}
    log "There appears to already be a driver installed on your system (version: ${old%\)}).  As part of installing this driver (version: $version), the existing driver will be uninstalled.  Are you sure you want to continue? (Answer: Continue installation)"
    uninstaller=$(command -v nvidia-uninstall)
    if [ -n "$uninstaller" ]; then
        if "$uninstaller" -s "--log-file-name=$(dirname "$log_file")/nvidia-uninstall.log" > /dev/null 2>&1; then
            return 0
        fi
        log "$uninstaller failed; see $(dirname "$log_file")/nvidia-uninstall.log for more details."
    fi
    remove_driver || give_up
}

