//! Puts Godwit on a node and takes it off again.
//!
//! # Stages
//! Each is idempotent, looks at the node before it changes anything, and is undone by the one of the same name in the opposite
//! order ([`stages`] has both lists):
//!
//! ```text
//!  host check ─► programs ─► agent configuration ─► containerd's configuration ─► units ─► agent ─► containerd restarted ─► verified
//!  (changes      (a release  (only if there is     (a drop-in; compared with      (systemd only)    (only if it has not
//!   nothing)      and links)  none)                 what was read before)                            loaded the runtime)
//! ```
//! The last stage, where it is asked for, is the kubelet's endpoint. [`doctor`] looks at a node on which all that was done.
//!
//! # Guarantees
//! * **A node never ends without a working runtime.** Files are replaced by rename, programs before what names them. What containerd
//!   would read is tried on a copy beside its configuration before that changes; a containerd that does not come back with it gets its old
//!   configuration and is started again.
//! * **A crash at any place** leaves what the same command completes. What a file was before is on disk ([`record`]) before
//!   it is changed.
//! * **Revert** gives back what was there: configuration byte by byte. It keeps checkpoints, fences and `agent.toml` unless told
//!   otherwise, and refuses while containers of Godwit run.

pub mod agent;
pub mod check;
pub mod containerd;
pub mod doctor;
mod error;
pub mod files;
pub mod host;
pub mod kubelet;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod record;
pub mod session;
pub mod settings;
pub mod stages;
pub mod systemd;

pub use error::{Error, Result, chain as error_chain};
