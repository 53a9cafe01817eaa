//! The node's daemon: bytes, the store, the engine

fn main() {}
