//go:build deps

// Package deps keeps the agreed libraries in go.mod until their users land.
package deps

import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/coreos/go-systemd/v22/dbus"
	_ "github.com/coreos/go-systemd/v22/journal"
	_ "github.com/cpuguy83/go-md2man/v2/md2man"
	_ "github.com/gofrs/flock"
	_ "github.com/google/renameio/v2"
	_ "github.com/hashicorp/go-retryablehttp"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/schollz/progressbar/v3"
	_ "github.com/sirupsen/logrus"
	_ "github.com/spf13/cobra"
	_ "github.com/spf13/cobra/doc"
	_ "github.com/stretchr/testify/require"
	_ "github.com/ulikunitz/xz"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
)
