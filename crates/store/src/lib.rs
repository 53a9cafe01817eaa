//! The object store as Godwit sees it: blobs and their backends, the lineage log's input and output, the commit of a
//! checkpoint, the collection of garbage.
//!
//! Owns keys, requests, deadlines and the order in which objects are written, read and deleted. Does not own the
//! format of what it stores (`godwit-image`) nor the decisions about who may run a pod (`godwit-ownership`).
//!
//! From the bottom: [`blob`] is a flat space of immutable-by-habit objects with one strong primitive, *create if
//! absent*; [`wrap`] adds retries, limits, counting and injected faults without the backends knowing; [`probe`]
//! refuses a backend that lies; [`Store`] puts the keys of the design over it.

pub mod blob;
mod checkpoint;
mod clock;
mod config;
mod error;
#[cfg(test)]
mod fixture;
mod gc;
mod identity;
mod layout;
mod log;
mod nodes;
mod probe;
mod record;
mod retention;
mod store;
pub mod wrap;

pub use blob::{BlobStore, Creation, Key, Listed};
pub use checkpoint::{
    Absence, CheckpointReader, CheckpointRow, CommitStage, DeleteOptions, DeleteRefusal, Depth,
    Fault, HeadStage, ManifestStage, NewCheckpoint, PackStage, Parent, Pin, StoreFrames,
    Unreadable, Unverified, VerifyReport,
};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{Secret, StoreConfig};
pub use error::{BlobError, Cause, StoreError};
pub use gc::{SweepOptions, SweepReport};
pub use identity::{DEFAULT_HORIZON, Identity};
pub use log::{APPEND_DEADLINE, LineageLog, READ_DEADLINE};
pub use nodes::Bearer;
pub use probe::Speed;
pub use record::{Hold, Intent, PinRecord, Tombstone, TombstoneReason};
pub use retention::{Retention, Retired};
pub use store::{Access, Store, TenantStore};
