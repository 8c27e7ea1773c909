//go:build race

package runfile

// raced: the race detector takes several times the memory of the program.
const raced = true
