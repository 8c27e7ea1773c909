package pve

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheApplicationIsTheInitOfAContainerMadeOfAnImage(t *testing.T) {
	// The lines that pve-container 6.1 writes for an image of that command.
	const image = "arch: amd64\ncmode: console\n%snet0: name=eth0,bridge=vmbr0,host-managed=1\nostype: unmanaged\nlxc.init.cwd: /app\nlxc.signal.halt: SIGTERM\n"
	for _, c := range []struct{ lines, app string }{
		{"", ""},
		{"entrypoint: /usr/bin/ollama serve\n", "/usr/bin/ollama serve"},
		{"entrypoint: '/opt/my app' --port 80\n", "'/opt/my app' --port 80"},
		{"entrypoint: /sbin/init\n", ""},
		{"entrypoint: /usr/lib/systemd/systemd --unit=multi-user.target\n", ""},
		{"lxc.init.cmd: /app/server\n", "/app/server"},
		{"entrypoint: /app/server\nlxc.init.cmd: /sbin/init\n", ""},
		{"[pve:pending]\nentrypoint: /app/new\n", "/app/new"},
		{"entrypoint: /app/server\n[pve:pending]\ndelete: entrypoint\n", ""},
		{"[before]\nentrypoint: /app/server\n", ""},
	} {
		text := strings.Replace(image, "%s", "", 1) + c.lines
		conf, err := ParseConf(strings.NewReader(text), false)
		require.NoError(t, err)
		require.Equal(t, c.app, conf.Next().App(), c.lines)
	}
}
