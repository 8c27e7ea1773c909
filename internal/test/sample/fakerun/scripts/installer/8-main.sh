# ---- the other modes

show_version()
{
    echo ""
    echo "nvidia-installer:  version $version"
    echo "  The NVIDIA Software Installer for Unix/Linux."
    echo ""
}

show_options()
{
    show_version
    for option in $known_flags $known_values $known_booleans; do
        echo "  $option"
    done
}

show_installed()
{
    if [ ! -r $backup/log ]; then
        echo "There is no NVIDIA driver currently installed."
        exit 1
    fi
    read -r old < $backup/log
    old=${old#*\(}
    echo "The currently installed driver is: 'NVIDIA Accelerated Graphics Driver for Linux-$arch' (version: ${old%\)})."
}

report_changed()
{
    case $1 in
        0) [ "$(readlink "$2")" = "$3" ] || echo "The symbolic link '$2' no longer points at '$3'." ;;
        1) [ "$(crc_of "$2")" = "$3" ] || echo "The installed file '$2' has changed." ;;
    esac
}

check_installed()
{
    show_installed
    changed=$(read_record report_changed)
    [ -z "$changed" ] && exit 0
    echo "$changed" >&2
    exit 1
}

main()
{
    mode=install
    case ${0##*/} in
        nvidia-uninstall) mode=uninstall ;;
    esac
    case " $* " in
        *" --uninstall "*) mode=uninstall ;;
    esac
    umask 022
    PATH=${PATH:-/usr/bin:/bin}:/usr/bin:/bin:/sbin:/usr/sbin
    export PATH
    read_options "$@"
    if has --help || has --advanced-options; then
        show_options
        exit 0
    fi
    if has --version; then
        show_version
        exit 0
    fi
    need_root
    stop_at_signal
    if has --driver-info; then
        show_installed
        exit 0
    fi
    ! has --sanity || check_installed
    open_log "$0" "$@"
    need_tools
    [ $mode = install ] || uninstall
    install_driver
}

main "$@"
