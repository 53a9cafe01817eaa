//! The CRI proxy: the wire between kubelet and containerd.
//!
//! Every call that a client makes on the proxy's socket is made on containerd's, and what containerd answers is answered, as it is:
//! any method of any service, unary or streaming, metadata, messages, trailers, resets. Bytes are not looked at, except the request
//! of the few methods that an [`intercept::Intercept`] has asked for; those, too, go on as the bytes that came.
//!
//! | File | Owns |
//! |---|---|
//! | [`listener`] | where the listening socket comes from |
//! | [`server`] | accepting, and how all of it ends |
//! | `connection` | one client's connection |
//! | `authority` | its name of the server, where the HTTP/2 library would refuse it |
//! | `call` | one call, from its head to its trailers |
//! | `ask`, `answer` | the two directions of a call |
//! | `pump` | bytes in one direction, as fast as the other side takes them |
//! | `containerd` | connections to containerd, and its absence |
//! | [`cri`] | the methods that can be looked into, and what is read of them |
//! | [`intercept`] | who looks into them, and may hold or answer them |
//! | [`agent`] | the one who does |
//! | [`status`] | how a call ends in gRPC |
//! | [`limits`], [`resources`] | every bound; descriptors and memory |
//! | `drain`, [`handover`] | the end of a process without the end of calls |
//!
//! Invariant: a call that nobody has asked to see is not lost, changed or held, whatever becomes of agent, shims and stores.

pub mod agent;
mod answer;
mod ask;
mod authority;
mod call;
mod connection;
mod containerd;
pub mod cri;
mod drain;
pub mod error;
pub mod handover;
pub mod intercept;
pub mod limits;
pub mod listener;
mod message;
pub mod notify;
mod pump;
pub mod resources;
pub mod server;
pub mod status;
mod sys;
