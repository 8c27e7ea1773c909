# ---- what is to be installed

choose_folders()
{
    libdir=/usr/lib
    for folder in "/usr/lib/$arch-linux-gnu" /usr/lib64; do
        if [ -d "$folder" ]; then
            libdir=$folder
            break
        fi
    done
    libdir32=/usr/lib32
    [ ! -d /usr/lib/i386-linux-gnu ] || libdir32=/usr/lib/i386-linux-gnu
    warn "nvidia-installer was forced to guess the X library path '/usr/lib64' and X module path '/usr/lib64/xorg/modules'; these paths were not queryable from the system.  If X fails to find the NVIDIA X driver module, please install the \`pkg-config\` utility and the X.Org SDK/development package for your distribution and reinstall the driver."
}

# The libraries of libglvnd: NVIDIA's copies when there are none, the system's when all
# are there, an error when some are missing.
choose_libglvnd()
{
    if has --no-install-libglvnd; then
        libglvnd=n
        return
    fi
    libglvnd=y
    has --install-libglvnd && return
    there=""
    missing=""
    for library in libGL.so.1 libGLX.so.0 libEGL.so.1 libGLdispatch.so.0 libOpenGL.so.0; do
        if [ -e "$libdir/$library" ]; then
            there="$there $library"
        else
            missing="$missing $library"
        fi
    done
    if [ -n "$there" ] && [ -n "$missing" ]; then
        error "An incomplete installation of libglvnd was found. Essential libraries of it are missing:$missing."
        give_up
    fi
    [ -z "$there" ] || libglvnd=n
}

choose_systemd()
{
    systemd=n
    if has --no-systemd; then
        return
    fi
    if has --systemd || command -v systemctl > /dev/null; then
        systemd=y
    fi
}

choose_compat32()
{
    compat32=y
    if has --no-install-compat32-libs; then
        compat32=n
    elif [ ! -d "$libdir32" ]; then
        warn "Unable to find a suitable destination to install 32-bit compatibility libraries. Your system may not be set up for 32-bit compatibility. 32-bit compatibility files will not be installed; if you wish to install them, re-run the installation and set a valid directory with the --compat32-libdir option."
        compat32=n
    fi
}

is_wanted()
{
    case $kind in
        COMPAT32) [ $compat32 = y ] || return 1 ;;
    esac
    case $type in
        KERNEL_MODULE* | DKMS_CONF | XORG_OUTPUTCLASS_CONFIG) return 1 ;;
        NVIDIA_MODPROBE*) has --no-nvidia-modprobe && return 1 ;;
        SYSTEMD_*) [ $systemd = y ] || return 1 ;;
        WINE_LIB) has --no-wine-files && return 1 ;;
        GLVND_LIB | GLVND_SYMLINK | GLX_CLIENT_* | EGL_CLIENT_*) [ $libglvnd = y ] || return 1 ;;
    esac
    case $type in
        OPENGL_* | GLVND_* | GLX_* | EGL_* | TLS_LIB | VULKAN*) has --no-opengl-files && return 1 ;;
    esac
    return 0
}

# split_entry takes the fields behind the type; which are there depends on the type.
split_entry()
{
    kind=""
    path=""
    target=""
    case ${1:-} in
        NATIVE | COMPAT32)
            kind=$1
            shift ;;
    esac
    case $type in
        CUDA_ICD) ;;
        CUDA_* | OPENCL_* | TLS_LIB | VDPAU_* | DOCUMENTATION | APPLICATION_PROFILE | MANPAGE | EXPLICIT_PATH | DOT_DESKTOP | ICON | \
            XMODULE_SHARED_LIB | GLX_MODULE_* | GRID_LIB* | NVIDIA_MODPROBE* | VULKAN_ICD_JSON | VULKANSC_ICD_JSON | \
            SYSTEMD_UNIT_SYMLINK | OPENGL_DATA | SANDBOXUTILS_FILELIST_JSON)
            path=$1
            shift ;;
        KERNEL_MODULE_SRC | DKMS_CONF | FIRMWARE)
            path=${member#*/}
            case $path in
                */*) path=${path%/*} ;;
                *) path="" ;;
            esac
            shift ;;
    esac
    case $type in
        *_SYMLINK) target=$1 ;;
    esac
}

set_destination()
{
    file=${member##*/}
    lib=$libdir
    internal=/usr/lib/nvidia
    if [ "$kind" = COMPAT32 ]; then
        lib=$libdir32
        internal=/usr/lib/nvidia/32
    fi
    case $type in
        CUDA_ICD) folder=/etc/OpenCL/vendors ;;
        CUDA_* | OPENCL_* | TLS_LIB | VDPAU_*) folder=$lib/$path ;;
        WINE_LIB) folder=$lib/nvidia/wine ;;
        GBM_BACKEND_LIB) folder=$lib/gbm ;;
        GBM_BACKEND_LIB_SYMLINK)
            folder=$lib/gbm
            target=$lib/$target ;;
        XMODULE_SHARED_LIB | GLX_MODULE_*) folder=/usr/lib64/xorg/modules/$path ;;
        INTERNAL_UTILITY_*) folder=$internal ;;
        UTILITY_BIN* | INSTALLER_BINARY) folder=/usr/bin ;;
        DOCUMENTATION) folder=/usr/share/doc/$path ;;
        MANPAGE | NVIDIA_MODPROBE_MANPAGE) folder=/usr/share/man/$path ;;
        APPLICATION_PROFILE) folder=/usr/share/nvidia ;;
        DOT_DESKTOP) folder=/usr/share/applications ;;
        ICON) folder=/usr/share/icons/hicolor/$path ;;
        EXPLICIT_PATH | NVIDIA_MODPROBE | OPENGL_DATA) folder=$path ;;
        VULKAN_ICD_JSON) folder=/etc/vulkan/$path ;;
        VULKANSC_ICD_JSON) folder=/etc/vulkansc/$path ;;
        GLVND_EGL_ICD_JSON) folder=/usr/share/glvnd/egl_vendor.d ;;
        EGL_EXTERNAL_PLATFORM_JSON) folder=/usr/share/egl/egl_external_platform.d ;;
        FIRMWARE) folder=/lib/firmware/nvidia/$version/$path ;;
        SYSTEMD_UNIT) folder=/usr/lib/systemd/system ;;
        SYSTEMD_UNIT_SYMLINK)
            folder=/etc/systemd/system/$path
            target=/usr/lib/systemd/system/$file ;;
        SYSTEMD_SLEEP_SCRIPT) folder=/usr/lib/systemd/system-sleep ;;
        SANDBOXUTILS_FILELIST_JSON) folder=/usr/share/nvidia/files.d ;;
        *) folder=$lib ;;
    esac
    while :; do
        case $folder in
            *//*) folder=${folder%%//*}/${folder#*//} ;;
            ?*/) folder=${folder%/} ;;
            *) break ;;
        esac
    done
}

# check_manifest refuses the whole manifest for one type that it does not know.
check_manifest()
{
    if [ ! -r .manifest ]; then
        error "No package found for installation.  Please run this utility with the '--help' option for usage information."
        give_up
    fi
    line=0
    while read -r member mode type rest; do
        line=$((line + 1))
        [ $line -gt 8 ] || continue
        [ -n "$member" ] || break
        case " $known_types " in
            *" $type "*) ;;
            *)
                error "Invalid .manifest file; error on line $line."
                give_up ;;
        esac
    done < .manifest
}

# plan_files sets $files (mode, member, folder, name) and $links (target, folder, name),
# one a line, and $count, the number of files.
plan_files()
{
    files=""
    links=""
    conflicting=""
    count=0
    line=0
    while read -r member mode type rest; do
        line=$((line + 1))
        [ $line -gt 8 ] || continue
        [ -n "$member" ] || break
        # shellcheck disable=SC2086
        split_entry $rest
        is_wanted || continue
        set_destination
        if is_skipped "$folder/$file"; then
            continue
        fi
        case $type in
            *_LIB)
                case $type in
                    OPENCL_WRAPPER_LIB | WINE_LIB) ;;
                    *) conflicting="$conflicting ${file%%.so.*}" ;;
                esac ;;
        esac
        if [ -n "$target" ]; then
            links="$links$target $folder $file$newline"
        else
            files="$files$mode $member $folder $file$newline"
            count=$((count + 1))
        fi
    done < .manifest
}

