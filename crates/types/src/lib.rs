//! The words that every other crate uses: ids, sizes, error codes, the names of annotations and paths. No I/O.

pub mod annotations;
mod code;
mod ids;
pub mod names;
mod owner;
mod phase;
mod report;
mod sizes;

pub use code::Code;
pub use ids::{
    CheckpointId, Generation, InvalidName, LineageName, MachineId, Nonce, OpId, PackIndex, PodKey,
    Seq, Tenant,
};
pub use owner::{Incarnation, Outcome, Owner};
pub use phase::Phase;
pub use report::{CheckpointReport, Hydration, PhaseTime, Reads, RestoreReport, Sizes};
pub use sizes::{Bytes, InvalidSize, PAGE_SIZE, PageNumber, PageRange};
