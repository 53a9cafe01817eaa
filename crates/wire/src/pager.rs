//! Shim ⇄ pager, on an inherited socketpair; and, in [`frames`], pager ⇄ agent.
//!
//! One pager per hydrating pod, a child of the shim in a cgroup of its own. The shim makes a `SOCK_SEQPACKET` pair, keeps one end
//! and gives the number of the other by argument. Both sides start with [`crate::Hello`].
//!
//! ```text
//! shim → pager                              pager → shim
//!   Load      per container        →          Loaded | Fatal
//!   Serve     per task, with uffd              Forked (before the child is served), Finished
//!   Tasks     at post-restore                  Progress, about each second while something changes
//!   Begin     at post-restore      →           Hydrated | Fatal, per container
//!   Dropped   answers Finished
//! ```
//!
//! # Contract of the shim
//! * It duplicates every userfaultfd before it sends it and keeps each duplicate, those of [`Forked`] too, until [`Finished`] names it;
//!   then it closes it and answers [`Dropped`]. Only then the pager closes its own, which is the last: the kernel unregisters.
//! * If the pager dies (its pidfd, or the socket's end) before `Hydrated` of every container: it kills the containers and reaps
//!   them **before** it closes a duplicate. A kernel that loses the last descriptor serves zeros.
//! * After [`Fatal`] it kills the container. The pager keeps its descriptors until the tasks are gone.
//! * After `Hydrated` of every container it closes the socket; the pager exits with 0.
//!
//! # Contract of the pager
//! * Faults are answered from [`Serve`] on; prefetch starts with [`Begin`].
//! * If the socket ends before every loaded container is hydrated, the shim is dead: the pager kills all tasks (pidfds, then the
//!   cgroups of [`Load`]) and waits until they are gone before it closes anything.

use crate::Refusal;
use crate::packet::envelope;

pub mod frames;

/// Numbers of descriptors from here on are the pager's own, for children; the shim numbers from 0 up to here.
pub const FIRST_CHILD: u64 = 1 << 32;

/// Shim → pager.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToPager {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "ToPagerBody", tags = "1, 2, 3, 4, 5")]
    pub body: Option<ToPagerBody>,
}

/// The messages shim → pager.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ToPagerBody {
    /// See [`Load`].
    #[prost(message, tag = "1")]
    Load(Load),
    /// See [`Serve`].
    #[prost(message, tag = "2")]
    Serve(Serve),
    /// See [`Tasks`].
    #[prost(message, tag = "3")]
    Tasks(Tasks),
    /// See [`Begin`].
    #[prost(message, tag = "4")]
    Begin(Begin),
    /// See [`Dropped`].
    #[prost(message, tag = "5")]
    Dropped(Dropped),
}

envelope!(ToPager, ToPagerBody { Load, Serve, Tasks, Begin, Dropped });

/// Pager → shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromPager {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "FromPagerBody", tags = "1, 2, 3, 4, 5, 6")]
    pub body: Option<FromPagerBody>,
}

/// The messages pager → shim.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FromPagerBody {
    /// See [`Loaded`].
    #[prost(message, tag = "1")]
    Loaded(Loaded),
    /// See [`Forked`].
    #[prost(message, tag = "2")]
    Forked(Forked),
    /// See [`Finished`].
    #[prost(message, tag = "3")]
    Finished(Finished),
    /// See [`Hydrated`].
    #[prost(message, tag = "4")]
    Hydrated(Hydrated),
    /// See [`Fatal`].
    #[prost(message, tag = "5")]
    Fatal(Fatal),
    /// See [`Progress`].
    #[prost(message, tag = "6")]
    Progress(Progress),
}

envelope!(FromPager, FromPagerBody { Loaded, Forked, Finished, Hydrated, Fatal, Progress });

/// The page maps of one container, before CRIU is started. Answer: [`Loaded`], or [`Fatal`].
///
/// Descriptors: those that came with the plan (`Plan.pager_fds` of them), unseen by the shim: one sealed memfd.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Load {
    /// Name of the container, as in the other messages.
    #[prost(string, tag = "1")]
    pub container: String,
    /// An encoded [`LazyPlan`]: `Plan.pager`, unread by the shim.
    #[prost(bytes = "vec", tag = "2")]
    pub plan: Vec<u8>,
    /// The container's cgroup directories: all of its tasks and their children are in them. With cgroup v1 the directory of the
    /// memory controller first; any one hierarchy is enough. Used for the memory limit and, if the shim dies, to kill.
    #[prost(string, repeated, tag = "3")]
    pub cgroups: Vec<String>,
}

/// Agent → pager, by way of the shim: what may be asked of which checkpoint, and the page maps of the container's processes.
///
/// Descriptor: one memfd, sealed ([`crate::memfd`]), that holds the maps and hot sets back to back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LazyPlan {
    /// Names the checkpoint to any agent: sent back in [`frames::Source`], unread.
    #[prost(bytes = "vec", tag = "1")]
    pub source: Vec<u8>,
    /// One for each process that has lazy pages.
    #[prost(message, repeated, tag = "2")]
    pub processes: Vec<LazyProcess>,
    /// For how long no frame may arrive while some are wanted, before the container is given up: milliseconds; 0: the pager's own
    /// default.
    #[prost(uint64, tag = "3")]
    pub deadline_ms: u64,
}

/// Where the page map and the hot set of one process lie in the memfd of a [`LazyPlan`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LazyProcess {
    /// Its pid inside its pid namespace: CRIU's id of the task.
    #[prost(int32, tag = "1")]
    pub vpid: i32,
    /// First byte of its page map, as `godwit-image` encodes it. Without the pages that CRIU restores itself.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes of its page map.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// First byte of its hot set: the pages to prefetch before any others, those that were written last before the dump, as
    /// `godwit-image` encodes them. A packet has no room for it.
    #[prost(uint64, tag = "6")]
    pub hot_offset: u64,
    /// Bytes of its hot set; 0: it has none.
    #[prost(uint64, tag = "7")]
    pub hot_length: u64,
}

/// One task's userfaultfd, as CRIU sent it on `lazy-pages.socket`. Faults are answered from now on.
///
/// Descriptor: \[the userfaultfd\]. The shim has made its duplicate already.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Serve {
    /// The shim's number for this descriptor: below [`FIRST_CHILD`], never used twice on this connection.
    #[prost(uint64, tag = "1")]
    pub descriptor: u64,
    /// Name of a container that was loaded.
    #[prost(string, tag = "2")]
    pub container: String,
    /// Pid inside the pid namespace, as CRIU sent it. A task without a page map has no lazy pages: it reads zeros.
    #[prost(int32, tag = "3")]
    pub vpid: i32,
}

/// Tasks of a container, to be killed if the shim dies. May come several times; they add up.
///
/// Descriptors: pidfds of tasks; that of the init of a private pid namespace is enough for all in it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tasks {
    /// Name of the container.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Every task of the container has been served: fill the rest of its memory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Begin {
    /// Name of the container.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Answers [`Finished`]: the shim's duplicate is closed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Dropped {
    /// The descriptor's number.
    #[prost(uint64, tag = "1")]
    pub descriptor: u64,
}

/// Answers [`Load`]: the page maps are good.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Loaded {
    /// Name of the container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Pages that are to be filled.
    #[prost(uint64, tag = "2")]
    pub pages: u64,
}

/// A process forked. Its child is served only after this message was sent.
///
/// Descriptor: \[the child's userfaultfd\], to be kept until [`Finished`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Forked {
    /// The parent's descriptor.
    #[prost(uint64, tag = "1")]
    pub parent: u64,
    /// The child's, at least [`FIRST_CHILD`].
    #[prost(uint64, tag = "2")]
    pub descriptor: u64,
}

/// This descriptor is of no more use: its process is filled, or gone. Answer: [`Dropped`], after closing the duplicate.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Finished {
    /// The descriptor's number.
    #[prost(uint64, tag = "1")]
    pub descriptor: u64,
}

/// Every page of every process of the container is in place (or its process is gone): it is an ordinary container again.
/// Sent after the last [`Dropped`], so no duplicate is left.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hydrated {
    /// Name of the container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// What it took.
    #[prost(message, optional, tag = "2")]
    pub totals: Option<Totals>,
}

/// The memory of the container cannot be completed. Kill it; no page of it is ever invented.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Fatal {
    /// Name of the container; empty if all are meant.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Why, as a sentence for a person.
    #[prost(message, optional, tag = "2")]
    pub why: Option<Refusal>,
}

/// How far a container is. About each second, while something changes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Progress {
    /// Name of the container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// So far.
    #[prost(message, optional, tag = "2")]
    pub totals: Option<Totals>,
}

/// Counters of one container since [`Load`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Totals {
    /// Pages of its page maps, children's copies not counted.
    #[prost(uint64, tag = "1")]
    pub pages: u64,
    /// Pages that were copied in, children's included.
    #[prost(uint64, tag = "2")]
    pub placed: u64,
    /// Pages that are still to come, children's included.
    #[prost(uint64, tag = "3")]
    pub missing: u64,
    /// Faults that were read.
    #[prost(uint64, tag = "4")]
    pub faults: u64,
    /// Of those, faults outside the page maps, answered with zeros.
    #[prost(uint64, tag = "5")]
    pub zero_faults: u64,
    /// Frames that were asked for because of a fault.
    #[prost(uint64, tag = "6")]
    pub urgent_frames: u64,
    /// Forks that were followed.
    #[prost(uint64, tag = "7")]
    pub forks: u64,
    /// Milliseconds since [`Begin`]; 0 before.
    #[prost(uint64, tag = "8")]
    pub millis: u64,
}
