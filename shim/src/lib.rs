//! The parts of `containerd-shim-godwit-v2`, as a library so that tests can use them.
//!
//! ```text
//!  main ─► bootstrap (start, delete, -info)           the process
//!  containerd ─ttrpc─► service ─► pod ─► container ─► process ─► runc, io
//!                                  │         └─ state (pure)
//!                                  ├─ hooks ◄─ operations, fence, restore
//!                                  └─ events ─ttrpc─► containerd;  reaper, oom, cgroup
//! ```
//!
//! Everything runs on one thread. Locks are held for a few instructions, never across an await; the one exception is
//! a container's own turn (`Container::turn`), which orders its runc calls and blocks no other container and no query.

pub mod bootstrap;
pub mod cgroup;
pub mod container;
pub mod error;
pub mod events;
pub mod exit_file;
pub mod fence;
pub mod freezer;
pub mod hooks;
pub mod io;
pub mod mounts;
mod network;
pub mod oom;
pub mod op;
pub mod options;
pub mod pod;
pub mod process;
pub mod reaper;
pub mod restore;
mod rootless;
pub mod runc;
pub mod service;
pub mod spec;
pub mod state;
mod sys;

pub use error::{Error, Result};
