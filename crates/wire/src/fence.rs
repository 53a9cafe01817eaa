//! The fence as a message. The shim keeps it on disk (`/var/lib/godwit/fences/<pod key>`); the agent tells it what to write.

/// What a fence says about the pod on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FenceState {
    /// Never sent; what an absent field decodes to.
    Unspecified = 0,
    /// The lineage's newest entry named this node when it was written.
    Owned = 1,
    /// An operation that may give the pod away has begun: only the log knows.
    Armed = 2,
    /// The log said that another node owns it, or that nobody does.
    Moved = 3,
}

/// A log slot whose outcome this node has not read yet. Kept until it is settled, whatever later attempts do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UnsettledSlot {
    /// Position in the log, from 1.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// The very bytes that were (or are about to be) PUT there.
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
}

/// A pod's fence. A pod without a lineage has none and asks nobody.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Fence {
    /// Name of the store in the agent's configuration.
    #[prost(string, tag = "1")]
    pub store: String,
    /// [`godwit_types::Tenant`].
    #[prost(string, tag = "2")]
    pub tenant: String,
    /// [`godwit_types::LineageName`].
    #[prost(string, tag = "3")]
    pub lineage: String,
    /// [`godwit_types::Incarnation`] that wrote it.
    #[prost(string, tag = "4")]
    pub incarnation: String,
    /// What it says.
    #[prost(enumeration = "FenceState", tag = "5")]
    pub state: i32,
    /// [`godwit_types::OpId`] of the operation that wrote it; empty if none.
    #[prost(string, tag = "6")]
    pub op: String,
    /// This node's unsettled slot.
    #[prost(message, optional, tag = "7")]
    pub slot: Option<UnsettledSlot>,
}
