//! CRIU as Godwit uses it: dump sessions, mounts, namespaces, images, vetting, refusals.
//!
//! Owns: starting CRIU ([`launch`], [`probe`]), one dump as a state object ([`dump`]), which mounts are whose
//! ([`mounts`]), which namespaces CRIU is started in ([`namespaces`]), reading and editing of images ([`images`]),
//! what a checkpoint may not bring with it ([`vet`]), what cannot be checkpointed ([`preflight`]), CRIU's log in one
//! sentence ([`godwit_criu_rpc::log`]), who is connected to whom ([`unix_sockets`]).
//! Owns not: freezing, killing, bytes of memory, the store, the restore itself (the relay and the shim run it).

pub mod dump;
mod error;
pub mod images;
pub mod launch;
pub mod mountinfo;
pub mod mounts;
pub mod namespaces;
pub mod preflight;
pub mod probe;
mod sys;
pub mod unix_sockets;
pub mod vet;

pub use error::Error;
