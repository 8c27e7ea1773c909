// Package lab makes real throwaway LXC containers for tests, demo and bench.
package lab
