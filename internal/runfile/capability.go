package runfile

import (
	"path"
	"slices"
	"strings"
)

// Capability is a part of the driver that a container may need, by the names of
// NVIDIA_DRIVER_CAPABILITIES.
type Capability string

// The capabilities. Display is X, its tools, firmware and manuals: what serves a
// machine, not a container. All is every one, the 32-bit libraries where the
// container has a place for them.
const (
	Compute  Capability = "compute"
	Utility  Capability = "utility"
	Video    Capability = "video"
	Graphics Capability = "graphics"
	Display  Capability = "display"
	NGX      Capability = "ngx"
	Compat32 Capability = "compat32"
	All      Capability = "all"
)

// Capabilities are those that there are, in the order in which they are said.
var Capabilities = []Capability{Compute, Utility, Video, Graphics, Display, NGX, Compat32, All}

// everywhere are the libraries and programs that every choice has: the two whose
// links tell the version, and the program that asks the kernel module for its own.
var everywhere = []string{"libcuda", "libnvidia-ml", "nvidia-smi"}

// partOf are the capabilities of libraries and programs that their type does not
// tell, by the name before ".so". Which library needs which is a fact of the ELF
// headers of 470.256.02, 535.261.03 and 550.163.01 (Select follows those of the
// tree itself) and of the names in them that they open at run time: libcuda opens
// nvvm, ptxjitcompiler, pkcs11 and cudadebugger; OptiX and ray tracing open
// ptxjitcompiler; the OpenCL compiler opens nvvm.
var partOf = map[string][]Capability{
	"libnvidia-ptxjitcompiler":  {Compute, Graphics},
	"libnvidia-gpucomp":         {Compute, Graphics},
	"libnvidia-allocator":       {Compute, Graphics},
	"libnvidia-opticalflow":     {Video},
	"libnvidia-fbc":             {Graphics},
	"libnvidia-ifr":             {Graphics},
	"libnvidia-api":             {Graphics},
	"libnvidia-present":         {Graphics},
	"libnvidia-egl-wayland":     {Graphics},
	"libnvidia-egl-gbm":         {Graphics},
	"libnvidia-egl-xcb":         {Graphics},
	"libnvidia-egl-xlib":        {Graphics},
	"libnvidia-pkcs11":          {Compute},
	"libnvidia-pkcs11-openssl3": {Compute},
	"libnvidia-ngx":             {NGX},
	"nvidia-ngx-updater":        {NGX},
	"libnvidia-gtk2":            {Display},
	"libnvidia-gtk3":            {Display},
	"libnvidia-wayland-client":  {Display},
	"nvidia-settings":           {Display},
	"nvidia-xconfig":            {Display},
	"nvidia-persistenced":       {Display},
	"nvidia-powerd":             {Display},
	"nvidia-sleep.sh":           {Display},
	"nvidia-cuda-mps-control":   {Compute},
	"nvidia-cuda-mps-server":    {Compute},
	"nvoptix.bin":               {Graphics},
}

// stem is the name of a library or program before ".so".
func stem(name string) string {
	name, _, _ = strings.Cut(path.Base(name), ".so")
	return name
}

// Has tells whether an entry is wanted for the given capabilities. A type that
// is not known, of a driver to come, is always wanted.
func Has(e Entry, wanted []Capability) bool {
	if slices.Contains(wanted, All) {
		return true
	}
	if e.Compat32 && !slices.Contains(wanted, Compat32) {
		return false
	}
	name := stem(e.Path)
	p, known := places[e.Type]
	if !known || p.always || slices.Contains(everywhere, name) {
		return true
	}
	parts, named := partOf[name]
	if !named {
		parts = []Capability{p.part}
	}
	return slices.ContainsFunc(parts, func(c Capability) bool { return slices.Contains(wanted, c) })
}
