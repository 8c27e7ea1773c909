# ---- what must be true before anything is changed

need_root()
{
    if [ "$(id -u)" != 0 ]; then
        echo "" >&2
        echo "ERROR: nvidia-installer must be run as root" >&2
        exit 1
    fi
}

# The tools of kmod are needed even where no kernel module is touched.
need_tools()
{
    for tool in ldconfig grep dmesg tail; do
        if ! command -v $tool > /dev/null; then
            error "Unable to find the system utility \`$tool\`; please make sure you have the package providing it installed."
            exit 1
        fi
    done
    for tool in modprobe rmmod lsmod depmod; do
        if ! command -v $tool > /dev/null; then
            error "Unable to find the module utility \`$tool\`; please make sure you have the package 'module-init-tools' or 'kmod' installed.  If you do have 'module-init-tools' or 'kmod' installed, then please check that \`$tool\` is in your PATH."
            exit 1
        fi
    done
}

check_x()
{
    has --no-x-check && return
    for lock in /tmp/.X?-lock; do
        [ -r "$lock" ] || continue
        read -r pid < "$lock"
        if kill -0 "$pid" 2> /dev/null; then
            error "You appear to be running an X server; please exit X before installing.  For further details, please see the section INSTALLING THE NVIDIA DRIVER in the README available on the Linux driver download page at www.nvidia.com."
            give_up
        fi
    done
}

# It reads the machine's bus, so in a container it sees the host's drivers.
check_nouveau()
{
    has --no-nouveau-check && return
    for driver in /sys/bus/pci/devices/*/driver; do
        case $(readlink "$driver" 2> /dev/null) in
            */nouveau)
                error "The Nouveau kernel driver is currently in use by your system.  This driver is incompatible with the NVIDIA driver, and must be disabled before proceeding."
                give_up ;;
        esac
    done
}

check_other_installs()
{
    has --no-check-for-alternate-installs && return
    if [ -e /usr/lib/nvidia/alternate-install-present ]; then
        error "The installation was canceled due to the availability or presence of an alternate driver installation. Please see $log_file for more details."
        exit 1
    fi
}

run_distribution_script()
{
    has --no-distro-scripts && return
    if [ -x "/usr/lib/nvidia/$1" ]; then
        log "Running distribution scripts"
        log "Executing /usr/lib/nvidia/$1..."
        "/usr/lib/nvidia/$1" || log "The distribution-provided $1 script failed!  Are you sure you want to continue? (Answer: Continue installation)"
    fi
}

check_kernel_modules()
{
    if has --no-kernel-module || has --no-kernel-modules; then
        log 'Not installing any kernel modules; skipping the "is an NVIDIA kernel module loaded?" test.'
        return
    fi
    error "Unable to find the development tool \`cc\` in your path; please make sure that you have the package 'gcc' installed.  If gcc is installed on your system, then please check that \`cc\` is in your PATH."
    give_up
}

