//! Memory out of processes: reading, digests, the pipeline into packs.
//!
//! ```text
//!            running                         frozen                        after (thawed, or still frozen if given away)
//!  scan ── preread ──► Baseline ─┐
//!            │ packs             ├─► PageServer (Compare) ──► Received ──► assemble ──► page maps, digests, eager ranges
//!            ▼                   │   PageServer (Keep) ──────►    ▲            │ packs
//!         PackSink               │                             parent          ▼
//!                                └── budget: reserved, prefaulted            PackSink
//! ```
//! Stage A: CRIU sends every page over a Unix socket pair while the tasks are frozen. With enough budget all of it is kept
//! and worked on after the thaw (*keep*); else, or when the pod is given away, live memory is read and stored first, and in
//! the freeze only what differs from it is kept (*compare*). A torn live read is harmless: its digest differs then.
//!
//! Everything here blocks and is meant for threads that may. Nothing here knows the store (packs go to a
//! [`godwit_image::PackSink`]), CRIU's images, or what a container is. A page of the result is one that CRIU sent in the
//! freeze, or one proved equal to it by its digest; nothing else.

mod arena;
mod assemble;
mod baseline;
mod budget;
mod compact;
mod error;
mod filler;
#[cfg(test)]
mod fixture;
mod known;
mod page;
mod preread;
mod protocol;
mod ranges;
mod received;
mod scan;
mod server;
mod stats;
mod stop;
mod sys;
mod work;

pub use arena::{Arena, Span};
pub use assemble::{Assembled, Assembly, Laziness, assemble};
pub use baseline::{Baseline, Baselines};
pub use budget::{Budget, Choice, Reservation, choose, least};
pub use compact::{Compacted, Compaction, compact};
pub use error::CaptureError;
pub use known::Parent;
pub use preread::{Preread, Target, preread};
pub use protocol::{Layout, ProtocolError};
pub use received::{FrozenRun, FrozenState, Received};
pub use scan::{Resident, executable, resident};
pub use server::{AbortHandle, Mode, PageServer};
pub use stats::MemoryStats;
pub use stop::Stop;
