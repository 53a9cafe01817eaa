//! Continues a container from a checkpoint: `runc restore` through the relay, held at `post-restore` until its entry is in the
//! log, then hydrated by a pager.

pub mod forward;
pub mod lazy;
