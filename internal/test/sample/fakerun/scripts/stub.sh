
# A sample in the form of NVIDIA's run files, written for tests. It holds none of
# NVIDIA's software and drives no hardware.

tool=@TOOL@
case $0 in
    /*) self=$0 ;;
    *) self=$(pwd)/$0 ;;
esac

lines_from()
{
    tail -n "+$1" "$self"
}

usage()
{
    echo ""
    echo "$label"
    echo ""
    echo "This program will install the $label driver by unpacking it and"
    echo "running the embedded $script. Its options are:"
    echo ""
    echo "  --check"
    echo "      Check the integrity of this file, then exit."
    echo ""
    echo "  -x, --extract-only"
    echo "      Unpack this file, but do not run $script."
    echo ""
    echo "  --keep"
    echo "      Keep the unpacked files when done."
    echo ""
    echo "  --target DIR"
    echo "      Unpack into the folder DIR, which must not exist, and keep it."
    echo ""
    echo "  --tmpdir DIR"
    echo "      Unpack below the folder DIR instead of the temporary folder."
    echo ""
    echo "  --info, --list, --lsm, --pkg-history, --label, --version-string,"
    echo "  --pkg-version, --target-os, --target-arch, --target-directory, --script"
    echo "      Print that of this file, then exit."
    echo ""
    echo "  -h, --help"
    echo "      Print the common options, then exit."
    echo ""
    echo "  -A, --advanced-options"
    echo "      Print all options, then exit."
    echo ""
    echo "Everything else is passed on to $script, whose options are:"
    echo ""
}

common_options()
{
@COMMON@
}

all_options()
{
@ALL@
}

info()
{
    echo "  Identification    : $label"
    echo "  Target directory  : $targetdir"
    echo "  Uncompressed size : @KB@ KB"
    echo "  Compression       : $tool"
    echo "  Date of packaging : @DATE@"
    echo "  Application run after extraction : $script"
}

# compare_sums leaves both pairs of sums in $sums and succeeds when they are equal.
compare_sums()
{
    if [ "${SETUP_NOCHECK:-0}" != 1 ]; then
        sums="$CRCsum $(lines_from 4 | cksum | awk '{print $1}')"
        [ "${sums% *}" = "${sums#* }" ] || return 1
    fi
    md5=$(${GUESS_MD5_PATH:-md5sum} < /dev/null 2> /dev/null | cut -c1-32)
    [ -n "$md5" ] || return 0
    sums="$MD5 $(lines_from 4 | ${GUESS_MD5_PATH:-md5sum} | cut -c1-32)"
    [ "${sums% *}" = "${sums#* }" ]
}

# A machine without the tool that unpacks gets the copy in this file. That happens before
# --tmpdir is read, so it always goes to TMPDIR.
find_tool()
{
    decompress=$tool
    embedded=""
    if [ "$size_decompress" -gt 0 ] && ! which "$tool" > /dev/null 2>&1; then
        embedded=$(mktemp "$TMPROOT/makeself.XXXXXXXX") || exit 1
        lines_from "$skip_decompress" | head -n "$size_decompress" > "$embedded"
        chmod 0755 "$embedded"
        decompress=$embedded
    fi
}

unpack()
{
    lines_from "$skip" | "$decompress" -d -c | (cd "$1" && tar xf -)
}

case ${1:-} in
    -h | --help)
        usage
        common_options
        exit 0 ;;
    -A | --advanced-options)
        usage
        all_options
        exit 0 ;;
    --info) info; exit 0 ;;
    --lsm) echo "no LSM"; exit 0 ;;
    --pkg-history) echo "no package history"; exit 0 ;;
    --label) echo "$label"; exit 0 ;;
    --version-string) echo "$version_string"; exit 0 ;;
    --pkg-version) echo "$pkg_version"; exit 0 ;;
    --target-os) echo "$TARGET_OS"; exit 0 ;;
    --target-arch) echo "$TARGET_ARCH"; exit 0 ;;
    --target-directory) echo "$targetdir"; exit 0 ;;
    --script) echo "$script"; exit 0 ;;
    --check)
        if compare_sums; then
            echo "check sums and md5 sums are ok"
            exit 0
        fi
        echo "Error in checksums $sums" >&2
        exit 2 ;;
    --list)
        find_tool
        lines_from "$skip" | "$decompress" -d -c | tar tvf -
        status=$?
        [ -z "$embedded" ] || rm -f "$embedded"
        exit $status ;;
esac

find_tool
extract_only=n
target=""
while [ $# -gt 0 ]; do
    case $1 in
        -x | --extract-only)
            extract_only=y
            keep=y
            shift ;;
        --keep)
            keep=y
            shift ;;
        --target | --tmpdir | --apply-patch)
            if [ $# -lt 2 ]; then
                echo "$1 needs an argument" >&2
                exit 1
            fi
            case $1 in
                --target) target=$2; keep=y ;;
                --tmpdir)
                    TMPROOT=$2
                    scriptargs="$scriptargs --tmpdir $2" ;;
                *) apply_patch=y ;;
            esac
            shift 2 ;;
        --add-this-kernel)
            add_this_kernel=y
            shift ;;
        *)
            scriptargs="$scriptargs $1"
            shift ;;
    esac
done
if [ "$add_this_kernel$apply_patch" != nn ]; then
    echo "this sample cannot be repackaged" >&2
    exit 1
fi

if [ "$extract_only" = n ] && [ "$(uname -m)" != "$TARGET_ARCH" ]; then
    echo "ERROR: this .run file is intended for the $TARGET_OS-$TARGET_ARCH platform, but you appear to be running on $(uname -s)-$(uname -m)." >&2
    exit 1
fi

printf 'Verifying archive integrity... '
if ! compare_sums; then
    echo "Error in check sums $sums" >&2
    exit 2
fi
echo "OK"

if [ "$keep" = y ]; then
    directory=${target:-$targetdir}
    if [ -e "$directory" ]; then
        echo "The directory '$directory' already exists.  Please either remove it or name another with --target." >&2
        exit 1
    fi
else
    probe=$(mktemp "$TMPROOT/makeself.XXXXXXXX") || exit 1
    chmod 0700 "$probe"
    if [ ! -x "$probe" ]; then
        echo "ERROR: Temporary directory $TMPROOT is not executable; name another with --tmpdir." >&2
        rm -f "$probe"
        exit 1
    fi
    rm -f "$probe"
    directory=$TMPROOT/selfgz$$/$targetdir
fi
if ! mkdir -p "$directory"; then
    echo "Cannot create the directory '$directory'." >&2
    exit 1
fi

# What failed to unpack is left behind, as NVIDIA's stub leaves it.
printf 'Uncompressing %s' "$label"
if ! unpack "$directory"; then
    echo "" >&2
    echo "Extraction failed." >&2
    [ "$extract_only" = n ] && exit 15
    exit 143
fi
echo "......"
chown -Rf "$(id -u):$(id -g)" "$directory" 2> /dev/null
[ -z "$embedded" ] || rm -f "$embedded"

status=0
if [ "$extract_only" = n ]; then
    # The arguments are split at spaces, whatever they were quoted like before.
    # shellcheck disable=SC2086
    (cd "$directory" && "$script" $scriptargs)
    status=$?
fi
[ "$keep" = y ] || rm -rf "$TMPROOT/selfgz$$"
exit $status
