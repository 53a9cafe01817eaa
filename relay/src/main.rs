//! The criu on the PATH of one runc restore

fn main() {}
