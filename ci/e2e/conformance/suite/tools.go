//go:build tools

// Package suite pins containerd, whose own tests are run against its runc shim and against ours.
package suite

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
	_ "github.com/containerd/containerd/v2/integration/failpoint/cmd/cni-bridge-fp"
	_ "github.com/containerd/containerd/v2/integration/failpoint/cmd/containerd-shim-runc-fp-v1"
	_ "github.com/containerd/containerd/v2/integration/failpoint/cmd/loopback-v2"
	_ "github.com/containerd/containerd/v2/integration/failpoint/cmd/runc-fp"
)
