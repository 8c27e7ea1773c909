# ---- faults that a test asked for

read_faults()
{
    faults=" "
    slow=""
    [ ! -r /etc/sample-nvidia-installer ] || faults=" $(tr '\n' ' ' < /etc/sample-nvidia-installer) "
    for word in $faults; do
        case $word in
            slow=*) slow=${word#slow=} ;;
        esac
    done
}

fault()
{
    case $faults in
        *" $1 "*) return 0 ;;
    esac
    return 1
}

fail_as_told()
{
    if fault fork; then
        ( trap '' HUP INT TERM; exec sleep 2147483647 ) &
    fi
    for word in $faults; do
        case $word in
            hang) exec sleep 2147483647 ;;
            hang-ignore-term) trap '' HUP INT TERM; exec sleep 2147483647 ;;
            forever) while :; do echo "Installing NVIDIA driver version $version."; done ;;
            loader)
                echo "$0: error while loading shared libraries: libpciaccess.so.0: cannot open shared object file: No such file or directory" >&2
                exit 127 ;;
            exit0-nothing) announce_success; exit 0 ;;
            rc=*)
                error "Told to fail with status ${word#rc=}."
                [ "$word" != rc=1 ] || give_up
                exit "${word#rc=}" ;;
        esac
    done
}

is_skipped()
{
    for word in $faults; do
        case $word in
            skip=*)
                case $1 in
                    *"${word#skip=}"*) return 0 ;;
                esac ;;
        esac
    done
    return 1
}

