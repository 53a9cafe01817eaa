//! The order of things: checkpoint and restore as flat lists of phases
