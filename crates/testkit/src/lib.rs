//! Helpers for tests only.
//!
//! [`subject`]: a process that looks as CRIU leaves a restored one, memory still missing, and checks itself while it works.

pub mod subject;
mod sys;
