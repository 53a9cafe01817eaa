//! Serves the page faults of one hydrating pod

fn main() {}
