//go:build tools

// Package registry pins the registry that the tests pull their images from. A module of its own: it wants other versions than containerd.
package registry

import _ "github.com/distribution/distribution/v3/cmd/registry"
