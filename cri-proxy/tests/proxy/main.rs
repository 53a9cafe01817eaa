//! The proxy between a real gRPC client and a real gRPC server, on sockets; where frames matter, between bare HTTP/2 peers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside the test functions"
)]

mod absent;
mod authority;
mod bed;
mod bounds;
mod client;
mod frames;
mod garbage;
mod intercepts;
mod passes;
mod process;
mod raw;
mod reads;
mod restarts;
mod runtime;
