#!/bin/sh
# Sample of nvidia-smi, for tests. What it does is said in the package that wrote it.

version=@VERSION@
short=@SHORT@
nvml=$short
names_library=@NAMES_LIBRARY@
nodes=""
cap=8.9
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin

# fail with the status and text that nvidia-smi has for it; all of them go to stdout.
fail()
{
    case $1 in
        4) echo "Failed to initialize NVML: Insufficient Permissions" ;;
        9)
            echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running."
            echo "" ;;
        12)
            echo "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed and present in your system."
            echo "Please also try adding directory that contains libnvidia-ml.so to your system PATH." ;;
        15) echo "Failed to initialize NVML: GPU is lost" ;;
        17) echo "Failed to initialize NVML: Operating System call failed" ;;
        18)
            echo "Failed to initialize NVML: Driver/library version mismatch"
            [ $names_library = n ] || echo "NVML library version: $nvml" ;;
        255) echo "Failed to initialize NVML: Unknown Error" ;;
    esac
    exit "$1"
}

hang()
{
    exec sleep 2147483647
}

# A process that outlives this one, ignores what would end it and holds stdout open.
leave_daemon()
{
    ( trap '' HUP INT TERM; exec sleep 2147483647 ) &
}

case ${1:-} in
    -h | --help)
        echo "NVIDIA System Management Interface -- v$version"
        echo ""
        echo "nvidia-smi [OPTION1 [ARG1]] [OPTION2 [ARG2]] ..."
        exit 0 ;;
esac

if [ -r /etc/sample-nvidia-smi ]; then
    # The words may stand on several lines.
    # shellcheck disable=SC2013
    for word in $(cat /etc/sample-nvidia-smi); do
        case $word in
            hang) hang ;;
            hang-ignore-term) trap '' HUP INT TERM; hang ;;
            daemon) leave_daemon ;;
            nodes) nodes=y ;;
            forever) while :; do echo "$version"; done ;;
            version=*) said=${word#version=} ;;
            cap=*) cap=${word#cap=} ;;
            *[!0-9]*) ;;
            *) fail "$word" ;;
        esac
    done
fi

# As the dynamic loader: by the cache of ldconfig, then in the usual folders.
library=""
for name in $(ldconfig -p 2> /dev/null | sed -n 's/.*libnvidia-ml\.so\.1 (libc6,[^)]*64[^)]*) => //p') \
    /usr/lib/@ARCH@-linux-gnu/libnvidia-ml.so.1 /usr/lib64/libnvidia-ml.so.1 /usr/lib/libnvidia-ml.so.1; do
    if [ -e "$name" ]; then
        library=$name
        break
    fi
done
[ -n "$library" ] || fail 12
file=$(readlink -f "$library")
found=${file##*/libnvidia-ml.so.}
if [ "$found" != "$version" ]; then
    # It says only the first two numbers of a version.
    nvml=$(echo "$found" | cut -d. -f1,2)
    fail 18
fi
version=${said:-$version}

# As the real one it makes the control node where it may, and cannot open it then: LXC
# lets a container make nodes that it may not use. One node more is as good as none.
if [ -n "$nodes" ] && [ ! -e /dev/nvidia0 ]; then
    [ -e /dev/nvidiactl ] || mknod -m 0666 /dev/nvidiactl c 195 255 2> /dev/null || fail 9
    fail 255
fi

case "$*" in
    "")
        echo "+-----------------------------------------------------------------------------------------+"
        printf '| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: @CUDA@     |\n' "$version" "$version"
        echo "|-----------------------------------------+------------------------+----------------------+"
        echo "|   0  NVIDIA Sample                  Off |   00000000:01:00.0 Off |                  N/A |"
        echo "|   1  NVIDIA Sample                  Off |   00000000:02:00.0 Off |                  N/A |"
        echo "+-----------------------------------------------------------------------------------------+" ;;
    *--query-gpu=driver_version*)
        case "$*" in
            *noheader*) ;;
            *) echo "driver_version" ;;
        esac
        echo "$version"
        echo "$version" ;;
    *--query-gpu=compute_cap*)
        if [ "$cap" = unknown ]; then
            echo 'Field "compute_cap" is not a valid field to query.'
            echo ""
            exit 2
        fi
        case "$*" in
            *noheader*) ;;
            *) echo "compute_cap" ;;
        esac
        echo "8.9"
        echo "$cap" ;;
    -L | --list-gpus)
        echo "GPU 0: NVIDIA Sample (UUID: GPU-00000000-0000-0000-0000-000000000000)"
        echo "GPU 1: NVIDIA Sample (UUID: GPU-00000000-0000-0000-0000-000000000001)" ;;
    *)
        echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help."
        echo ""
        exit 2 ;;
esac
