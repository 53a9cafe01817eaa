//! Explores this crate's own machines exhaustively: nodes that crash and boot, agents and shims that die, PUTs that are late or lost,
//! people who cancel, delete and force, a collector that sweeps meanwhile. See `docs/design/ownership.md`.
//!
//! Owns: the simulated world around the machines, the properties, the search. Decides nothing by itself: every decision is a
//! `step` of the code that agent, shim and collector run.

mod ids;
mod intern;
mod place;
mod properties;
mod scenario;
mod search;
mod tests;
mod world;
