package driver

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReasonIsTheFirstErrorThatNamesACause(t *testing.T) {
	const failed = "\nERROR: Installation has failed.  Please see the file '/var/log/nvidia-installer.log' for\n       details.  You may find suggestions on fixing installation problems in the\n       README available on the Linux driver download page at www.nvidia.com.\n"
	const warned = "\nWARNING: You specified the '--no-kernel-modules' command line option,\n         nvidia-installer will not install any kernel modules.\n"
	for name, c := range map[string]struct {
		texts []string
		want  string
	}{
		"an error before it has failed": {[]string{warned + "\nERROR: Invalid .manifest file; error on line 12.\n" + failed}, "Invalid .manifest file; error on line 12."},
		"one over several lines":        {[]string{"ERROR: Unable to find the module utility\n       `modprobe`; please make sure.\n" + failed}, "Unable to find the module utility `modprobe`; please make sure."},
		"the first of two":              {[]string{"ERROR: one\n\nERROR: two\n"}, "one"},
		"only in the log":               {[]string{warned + failed, "", "ERROR: of the log\nERROR: Installation has failed."}, "of the log"},
		"noise in the log":              {[]string{"", "ERROR: Unable to get file properties for '/usr/lib/libGL.so.1' (No such file or directory).\n\nERROR: of the log\n"}, "of the log"},
		"only warnings":                 {[]string{warned}, ""},
		"nothing but that it failed":    {[]string{failed}, ""},
		"a library is missing":          {[]string{"./nvidia-installer: error while loading shared libraries: libz.so.1: cannot open\n"}, "./nvidia-installer: error while loading shared libraries: libz.so.1: cannot open"},
		"other words":                   {[]string{warned + "Received signal SIGBUS; aborting.\n"}, "Received signal SIGBUS; aborting."},
		"nothing":                       {[]string{"", "", ""}, ""},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, reason(c.texts...)) })
	}
}
