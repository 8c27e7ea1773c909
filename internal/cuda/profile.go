package cuda

import "strings"

// profileFile sets PATH for logins: NVIDIA's packages put nvcc outside of it.
const profileFile = "/etc/profile.d/pve-nvidia-hook-cuda.sh"

// profileText is the content of profileFile, for any POSIX shell. It does
// nothing when the toolkit is gone and adds the folder once only.
func profileText(release string) string {
	return strings.ReplaceAll(`# Puts the CUDA toolkit into PATH. Written by pve-nvidia-hook.
if [ -d BIN ]; then
    case ":$PATH:" in
    *:BIN:*) ;;
    *) PATH="BIN:$PATH"; export PATH ;;
    esac
fi
`, "BIN", "/usr/local/cuda-"+release+"/bin")
}
