//! Continues a container from a checkpoint: `runc restore` through the relay, held at `post-restore` until its entry is in the
//! log, then hydrated by a pager.
//!
//! Owns: one attempt ([`attempt`]) and its parts. Does not own: whether it may be tried or released; `op` decides by the machines of
//! `godwit_ownership`, and the agent made the images.

pub mod attempt;
pub mod check;
pub mod dead;
pub mod forward;
pub mod hydrate;
pub mod lazy;
pub mod pager;
pub mod place;
pub mod quiet;
pub mod relay;
pub mod work_dir;
