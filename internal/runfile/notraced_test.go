//go:build !race

package runfile

const raced = false
