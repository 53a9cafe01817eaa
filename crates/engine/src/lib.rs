//! The order of things: checkpoint and restore as flat lists of phases.
//!
//! Owns: what happens after what, what is undone when a phase fails, reports and progress. Who may run a pod is decided by
//! `godwit-ownership`; bytes are moved by `godwit-capture`, `godwit-files` and `godwit-store`; CRIU is `godwit-criu`'s.

mod blocking;
pub mod budget;
pub mod catalog;
pub mod checkpoint;
pub mod cluster;
pub mod compat;
pub mod containerd;
mod cpu;
pub mod diagnosis;
pub mod driver;
mod error;
#[cfg(test)]
mod fixture;
pub mod frames;
pub mod gone;
mod identity;
pub mod journal;
mod listen;
pub mod log;
pub mod look;
pub mod news;
pub mod node;
pub mod pods;
pub mod pods_of;
pub mod restore;
pub mod roster;
pub mod shim;
pub mod status;
pub mod stores;
pub mod sweep;
pub mod volumes;

pub use error::{EngineError, sentence};
pub use node::Node;
