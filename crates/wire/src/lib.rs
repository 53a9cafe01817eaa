//! The messages of one node and the socket that carries them with file descriptors.
//!
//! Owns: the protocol between agent and shim (checkpoint: [`shim_op`], restore: [`agent_op`]),
//! the pager's messages ([`pager`]) and the relay's one ([`relay`]); the transport ([`Socket`], [`Listener`], and with the feature `tokio`
//! `AsyncSocket`, `AsyncListener`); the failpoints that tests compile in ([`failpoint`]).
//! Does not own: what a message makes somebody do (`godwit-ownership`, whose entries and fences travel as bytes here).
//!
//! # Transport
//! A `SOCK_SEQPACKET` Unix socket: one prost message per packet of at most [`MAX_PACKET`] bytes, at most [`MAX_FDS`] descriptors
//! with it by `SCM_RIGHTS`. Peers must be root (`SO_PEERCRED`). The first packet of either side is [`Hello`]; another
//! [`PROTOCOL`] ends the connection. Larger things (OCI specs, page maps, frame tables) travel as sealed memfds ([`memfd`]).
//!
//! An **operation is a connection**: its end without a final message is the failure signal for both sides.
//!
//! ```text
//!  agent ──[ToShim]──►  /run/godwit/shims/<shim key>.sock   ──[FromShim]──► agent       checkpoint, settle, fence
//!  shim  ──[ToAgent]──► /run/godwit/agent-op.sock           ──[FromAgent]─► shim        restore, start, death
//!  relay ──[RelayRequest]──► a socket of the shim, one per restore                       then the relay is CRIU
//!  shim  ⇄ pager        an inherited pair;  pager ⇄ agent  /run/godwit/agent-frames.sock
//! ```

pub mod agent_op;
pub mod api;
mod error;
pub mod failpoint;
mod hello;
pub mod memfd;
mod packet;
pub mod pager;
pub mod relay;
pub mod shim_op;
mod socket;
#[cfg(feature = "tokio")]
mod socket_tokio;
#[cfg(feature = "tokio")]
mod sys;
mod terms;
#[cfg(feature = "tokio")]
mod watched;

pub use error::WireError;
pub use hello::{Hello, PROTOCOL};
pub use packet::{Envelope, MAX_FDS, MAX_PACKET, Received};
pub use socket::{Listener, Socket, is_served};
#[cfg(feature = "tokio")]
pub use socket_tokio::{AsyncListener, AsyncSocket};
pub use terms::{Annotation, LineageAt, NodeIdentity, Refusal, WireCode, parse};
#[cfg(feature = "tokio")]
pub use watched::Watched;
