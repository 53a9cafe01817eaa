//! Who may run a pod: every decision about log, seal, fence and garbage, as state machines without I/O.
//!
//! Owns: the log's entries and states ([`Entry`], [`State`]), who may append what ([`permitted`]), the audit ([`fold`]), the fence
//! ([`Fence`]), and the machines that agent, shim and sweeper drive: event in, actions out. Does not own: bytes, sockets, disks,
//! clocks, random numbers; whoever drives a machine brings them.
//!
//! | Machine | Driven by | For |
//! |---|---|---|
//! | [`Source`] | agent | a checkpoint, from "do we own it" to running, stopped, taken over or reclaimed |
//! | [`Target`] | agent | a start that needs the log's word: restore, fork, cold |
//! | [`Look`] | agent | after its own restart and each minute: settle what is sealed or committing, end zombies |
//! | [`Keeper`] | agent | a pod that is gone: write its death, remove its fence |
//! | [`ShimMachine`] | shim | fence, freeze, seal, hold, run, kill |
//! | [`Sweep`] | collector | one checkpoint without an entry |
//!
//! The test suite explores these very machines exhaustively (`checker`): docs/design/ownership.md names the test behind each promise.

mod admit;
#[cfg(test)]
mod checker;
mod claiming;
mod entry;
mod error;
pub mod fence;
mod fold;
mod giving;
mod keeper;
mod look;
pub mod machine;
pub mod message;
mod rules;
mod settle;
pub mod shim;
mod source;
pub mod state;
pub mod sweep;
mod target;

pub use admit::{Refusal, permitted};
pub use entry::{Basis, ENTRY_FORMAT, Entry, MAX_ENTRY, Pen};
pub use error::OwnershipError;
pub use fence::{Asked, Fence, FenceState, Gone, LineageRef};
pub use fold::fold;
pub use keeper::{Keeper, KeeperSpec};
pub use look::{Look, LookSpec};
pub use machine::{Action, Ending, Event, Machine, Presence, Put, Read, Timer};
pub use message::{ToAgent, ToShim};
pub use rules::{Rule, Rules};
pub use shim::ShimMachine;
pub use source::{Source, SourceSpec};
pub use state::{Kind, State};
pub use sweep::Sweep;
pub use target::{Target, TargetSpec};
