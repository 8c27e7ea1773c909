package vmid

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyNumbersOfGuestsAreTaken(t *testing.T) {
	for _, s := range []string{"", "99", "0101", "+101", "-101", "1000000000", "101 ", "1e3", "０１０１"} {
		_, err := Parse(s)
		require.Error(t, err, s)
	}
	for s, want := range map[string]int{"100": 100, "999999999": 999999999} {
		n, err := Parse(s)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
}

func TestGuestsAreListedByTheNamesOfFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"101.json", "102.json", "99.json", "lock", "103"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	found, err := In(dir, ".json")
	require.NoError(t, err)
	require.ElementsMatch(t, []int{101, 102}, found)
	_, err = In(filepath.Join(dir, "nowhere"), "")
	require.ErrorIs(t, err, os.ErrNotExist)
}
