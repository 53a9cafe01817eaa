//! The containerd shim io.containerd.godwit.v2: liveness of a pod

fn main() {}
