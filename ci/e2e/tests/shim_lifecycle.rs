//! The shim's task service against real containerd and runc: what `ctr` users and the kubelet rely on.
//!
//! Everything here is lifecycle; moving containers is tested elsewhere. Each test has a node of its own.

mod shim_lifecycle {
    mod kit;

    mod agent;
    mod death;
    mod images;
    mod restart;
    mod run;
    mod stdio;
    mod task;
}
