// Package debtest holds the tests of the Debian package: what is in it, that it
// is built the same twice, and what happens to a node and its guests when it is
// installed, upgraded, removed and purged.
package debtest
