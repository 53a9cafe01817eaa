//! Programs that end-to-end tests and the demo share: what acts on a container from outside.

pub mod bed;
pub mod container;
pub mod demo;
pub mod redis;
