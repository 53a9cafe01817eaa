//! Pager → agent, on `/run/godwit/agent-frames.sock`: verified, decrypted, decompressed frames through shared memory.
//!
//! ```text
//! pager                                             agent
//!   Slots  + [memfd]       first, once                 maps it, writable
//!   Source                 once per checkpoint         opens the checkpoint; nothing is answered
//!   Need{urgent, wants}    any number in flight        Ready{slot} | Failed{slot, why} for each want, in any order
//! ```
//!
//! # Contract of the agent
//! * Any agent can answer any pager: it knows nothing but what this connection told it. A pager that loses its agent connects
//!   again and asks again; **the memfd is a new one then**, so an old agent that still writes spoils nothing.
//! * A slot belongs to the agent from [`Need`] until its [`Ready`] or [`Failed`]; it never touches it afterwards. It writes the raw bytes
//!   of the frame from the slot's first byte on, after it has checked the digest of the stored ones.
//! * Wants of one message are neighbours, best first: a run within one pack is worth one ranged GET of 1–4 MiB.
//! * A second `Need` for a slot in flight with the same `turn`, urgent this time, moves it to the urgent lane. A turn is answered once,
//!   also if its second `Need` comes after the answer was sent.
//! * [`Failed`] with `Unavailable` is asked again by the pager until its deadline ([`super::LazyPlan`]); every other code is the end of
//!   the container. So the agent says anything else only of what time cannot mend: damage, and a checkpoint that is not in a store that
//!   is there. A [`Source`] that could not be opened is opened again when it is wanted again.
//! * It pins the checkpoint while the connection lasts.

use crate::Refusal;
use crate::packet::envelope;

/// Bytes of a slot: one frame of 32 pages.
pub const SLOT_BYTES: u64 = 128 << 10;
/// Slots at most in one memfd: 1 GiB.
pub const MAX_SLOTS: u32 = 8192;
/// Wants at most in one message.
pub const MAX_WANTS: usize = 64;

/// Pager → agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToFrames {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "ToFramesBody", tags = "1, 2, 3")]
    pub body: Option<ToFramesBody>,
}

/// The messages pager → agent.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ToFramesBody {
    /// See [`Slots`].
    #[prost(message, tag = "1")]
    Slots(Slots),
    /// See [`Source`].
    #[prost(message, tag = "2")]
    Source(Source),
    /// See [`Need`].
    #[prost(message, tag = "3")]
    Need(Need),
}

envelope!(ToFrames, ToFramesBody { Slots, Source, Need });

/// Agent → pager.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromFrames {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "FromFramesBody", tags = "1, 2")]
    pub body: Option<FromFramesBody>,
}

/// The messages agent → pager.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FromFramesBody {
    /// See [`Ready`].
    #[prost(message, tag = "1")]
    Ready(Ready),
    /// See [`Failed`].
    #[prost(message, tag = "2")]
    Failed(Failed),
}

envelope!(FromFrames, FromFramesBody { Ready, Failed });

/// The shared memory of this connection.
///
/// Descriptor: \[memfd of `slots` × [`SLOT_BYTES`], sealed against growing and shrinking, not against writing\].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Slots {
    /// How many; at most [`MAX_SLOTS`].
    #[prost(uint32, tag = "1")]
    pub slots: u32,
}

/// A checkpoint that frames are wanted of.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Source {
    /// The pager's number for it, on this connection.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The agent's own words from [`super::LazyPlan::source`].
    #[prost(bytes = "vec", tag = "2")]
    pub source: Vec<u8>,
}

/// Frames, please.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Need {
    /// Somebody waits for these: before everything that is not urgent, on the network too.
    #[prost(bool, tag = "1")]
    pub urgent: bool,
    /// 1 to [`MAX_WANTS`] frames.
    #[prost(message, repeated, tag = "2")]
    pub wants: Vec<Want>,
}

/// One frame, and where to put it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Want {
    /// The slot to write to.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Number of the [`Source`].
    #[prost(uint32, tag = "2")]
    pub source: u32,
    /// Slot of the pack in the pack table of the checkpoint's head.
    #[prost(uint32, tag = "3")]
    pub pack: u32,
    /// Number of the frame in the pack.
    #[prost(uint32, tag = "4")]
    pub frame: u32,
    /// The pager's number for this use of the slot: higher than that of every use before.
    #[prost(uint64, tag = "5")]
    pub turn: u64,
}

/// The frame is in its slot, verified.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ready {
    /// The slot.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Raw bytes of the frame, at most [`SLOT_BYTES`].
    #[prost(uint32, tag = "2")]
    pub bytes: u32,
}

/// The frame cannot be had.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failed {
    /// The slot, free again.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Why. `Unavailable`: worth asking again.
    #[prost(message, optional, tag = "2")]
    pub why: Option<Refusal>,
}
