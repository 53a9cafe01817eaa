//! What the self-checking test programs share: contents of pages that can be told apart, memory that can be discarded
//! and moved, progress that a test can read.

pub mod page;
pub mod progress;
pub mod sys;
