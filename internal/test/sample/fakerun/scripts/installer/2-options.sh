# ---- the command line

has()
{
    case $given in
        *" $1 "*) return 0 ;;
    esac
    return 1
}

refuse_option()
{
    echo "$0: $1: \"$2\"" >&2
    echo "" >&2
    echo "ERROR: Invalid commandline, please run \`$0 --help\` for usage information." >&2
    exit 1
}

long_name()
{
    case $1 in
        -s) name=--silent ;;
        -q) name=--no-questions ;;
        -a) name=--accept-license ;;
        -i) name=--driver-info ;;
        -e) name=--expert ;;
        -c) name=--no-ncurses-color ;;
        -n) name=--no-precompiled-interface ;;
        -b) name=--no-backup ;;
        -r) name=--no-recursion ;;
        -K) name=--kernel-module-only ;;
        -z) name=--no-nouveau-check ;;
        -Z) name=--disable-nouveau ;;
        -X) name=--run-nvidia-xconfig ;;
        -k) name=--kernel-name ;;
        -j) name=--concurrency-level ;;
        -m) name=--kernel-module-build-directory ;;
        -M) name=--kernel-module-type ;;
        -h) name=--help ;;
        -v) name=--version ;;
        -A) name=--advanced-options ;;
        *) name=$1 ;;
    esac
}

set_value()
{
    case $name in
        --log-file-name) log_file=$value ;;
        --ui) [ "$value" != none ] || given="$given--no-questions " ;;
    esac
}

read_options()
{
    given=" "
    log_file=/var/log/nvidia-installer.log
    [ "$mode" = install ] || log_file=/var/log/nvidia-uninstall.log
    while [ $# -gt 0 ]; do
        argument=$1
        shift
        case $argument in
            --*=*) name=${argument%%=*} ;;
            -*) long_name "$argument" ;;
            *) refuse_option "invalid option" "$argument" ;;
        esac
        case " $known_flags $known_booleans " in
            *" $name "*)
                [ "$argument" = "${argument#*=}" ] || refuse_option "unrecognized option" "$argument"
                given="$given$name "
                continue ;;
        esac
        case " $known_values " in
            *" $name "*) ;;
            *) refuse_option "unrecognized option" "$name" ;;
        esac
        if [ "$argument" != "${argument#*=}" ]; then
            value=${argument#*=}
        elif [ $# -gt 0 ]; then
            value=$1
            shift
        else
            refuse_option "option requires an argument" "$name"
        fi
        given="$given$name "
        set_value
    done
}

open_log()
{
    # A log that cannot be written is no reason to stop.
    if ! { : > "$log_file"; } 2> /dev/null; then
        echo "WARNING: Unable to open the log file '$log_file'." >&2
        exec 3> /dev/null
        return
    fi
    exec 3>> "$log_file"
    {
        echo "nvidia-installer log file '$log_file'"
        echo "creation time: $(date)"
        echo "installer version: $version"
        echo ""
        echo "PATH: $PATH"
        echo ""
        echo "nvidia-installer command line:"
        for argument; do
            echo "    $argument"
        done
        echo ""
    } >&3
}

