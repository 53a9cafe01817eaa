//! Relay → shim: one message, no answer. Then the relay execs CRIU in its own process and only its descriptors speak.

use crate::Envelope;

/// Environment variable of `runc restore`: path of the socket on which the shim waits for [`RelayRequest`].
pub const RELAY_SOCKET_ENV: &str = "GODWIT_RELAY_SOCKET";
/// Environment variable of `runc restore`: path of the file that holds the relay's plan (`Plan.relay_plan`, verbatim).
pub const RELAY_PLAN_ENV: &str = "GODWIT_RELAY_PLAN";

/// Sent by the relay when it has joined the namespaces and made the mounts of its plan, just before it becomes CRIU.
///
/// Descriptors: \[runc's end of the RPC socket, the other end of CRIU's new RPC socket\]. The shim forwards packets and their
/// descriptors between the two from here on. The relay closes its copies; the runc socket may already hold nothing, CRIU's
/// socket already holds the RESTORE request.
/// CRIU's pid is the sender's: the shim takes it from `SO_PEERCRED`, not from the message.
/// The relay does **not** send [`crate::Hello`]: `protocol` stands here, because it is part of the same package as the shim.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayRequest {
    /// [`crate::PROTOCOL`].
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// The relay's own pid, as it sees it; for logs.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// It could not do what its plan says, and why, in a sentence. No descriptors come then, and it exits: runc gets an error of
    /// its own. (What the relay writes to its stderr would end in the container's log.) Empty: it becomes CRIU.
    #[prost(string, tag = "3")]
    pub failure: String,
}

impl Envelope for RelayRequest {
    type Body = Self;
    fn wrap(body: Self) -> Self {
        body
    }
    fn open(self) -> Option<Self> {
        Some(self)
    }
    fn kind(_: &Self) -> &'static str {
        "RelayRequest"
    }
}
