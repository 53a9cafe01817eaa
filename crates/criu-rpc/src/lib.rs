//! CRIU's RPC and image messages and their framing.
//!
//! Owns: the generated types of the service's socket ([`rpc`]) and of image records ([`images`]), the
//! `SOCK_SEQPACKET` framing with descriptors ([`SeqPacket`]), what an incoming packet means ([`Incoming`]), the
//! layout of image files ([`image_file`]), records as raw fields so that an edit loses nothing ([`raw`]), CRIU's
//! version, and what a relay is told to do ([`relay_plan`]).
//! Owns not: starting CRIU, deciding options, judging images: `godwit-criu`.
//!
//! The shim stands between runc and CRIU with it: [`SeqPacket::recv`] on either socket, [`Incoming::parse`] on what
//! CRIU says, [`SeqPacket::send`] of the very same [`Packet`] to the other side, or [`nak`] to CRIU instead.

mod error;
pub mod image_file;
pub mod log;
mod message;
mod packet;
pub mod raw;
pub mod relay_plan;
mod version;

pub use error::Error;
pub use message::{Incoming, Notification, Notify, ack, ack_with_externals, nak, request};
pub use packet::{MAX_FDS, MAX_PACKET, Packet, SeqPacket};
pub use version::{CriuVersion, OLDEST_CRIU};

/// CRIU's RPC messages, generated from `proto/rpc.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod rpc {
    include!(concat!(env!("OUT_DIR"), "/criu.rpc.rs"));
}

/// CRIU's image records, generated from `proto/images.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod images {
    include!(concat!(env!("OUT_DIR"), "/criu.images.rs"));
}
