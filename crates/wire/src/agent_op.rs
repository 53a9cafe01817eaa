//! Shim → agent, on `/run/godwit/agent-op.sock`: restore, permission to start, death of tasks.
//!
//! The shim connects, both say [`crate::Hello`], then one of four conversations follows, one per connection:
//!
//! ```text
//! a start whose spec asks for a restore
//!   BeginRestore → Plan | Committing | Finished | Refusal        Committing at once: it starts from its image (see below)
//!   Held         → Committing | Abort                 every container of the plan is at post-restore and was checked
//!   FenceWritten → Resume | ColdStart | Abort         the fence with the slot is on disk; only now the entry is PUT
//!   Resumed      → Noted                              it runs; the request is consumed
//!   Hydrated     → Noted                              or HydrationFailed → Noted; the shim ends the connection
//!   Failed       → Noted                              any time before Resume: the attempt is over
//! a start whose spec asks for a restore, of a pod of which another container is restored already
//!   BeginRestore → Plan | Finished | Refusal          Finished: it was done, and ends at once
//!   Resumed      → Noted                              said when the one that decides for the pod may; then as above
//! a start of a pod that has a fence, without a restore request
//!   AskStart     → Committing | May | Refusal         May: no entry is needed
//!   FenceWritten → May | Abort
//!   Resumed      → Noted                              it runs
//! the death of tasks of a pod that has a fence
//!   TaskGone     → Settled
//! the end of a hydration whose restore's connection is gone
//!   HydrationOver → Noted                             or it is said again
//! ```
//! Every entry that makes this pod the owner (`take-over`, `start`, `cold`, `resume`) is announced by [`Committing`] and PUT only
//! after [`FenceWritten`]. `godwit_ownership` holds the decisions of both sides; these messages carry them.
//!
//! # The connection's end
//! Before `FenceWritten` was sent: the shim aborts the attempt (kills the held tasks) and may try again within its deadline.
//! After it, until the answer: the tasks stay held (the start waits), whatever the deadline; the next agent finds them by
//! [`crate::shim_op::Attach`] and sends [`crate::shim_op::ResumeHeld`] or [`crate::shim_op::AbortHeld`].
//! After `Resume`: nothing happens. The next agent is told by [`crate::shim_op::Status`] that the pod hydrates, and by [`HydrationOver`]
//! that it does not any more.

use crate::packet::envelope;
use crate::shim_op::{Before, HydratingRecord};
use crate::{Annotation, LineageAt, Refusal};

/// Shim → agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToAgent {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "ToAgentBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub body: Option<ToAgentBody>,
}

/// The messages shim → agent.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ToAgentBody {
    /// See [`BeginRestore`].
    #[prost(message, tag = "1")]
    BeginRestore(BeginRestore),
    /// See [`Held`].
    #[prost(message, tag = "2")]
    Held(Held),
    /// See [`FenceWritten`].
    #[prost(message, tag = "3")]
    FenceWritten(FenceWritten),
    /// See [`Resumed`].
    #[prost(message, tag = "4")]
    Resumed(Resumed),
    /// See [`Hydrated`].
    #[prost(message, tag = "5")]
    Hydrated(Hydrated),
    /// See [`HydrationFailed`].
    #[prost(message, tag = "6")]
    HydrationFailed(HydrationFailed),
    /// See [`Failed`].
    #[prost(message, tag = "7")]
    Failed(Failed),
    /// See [`AskStart`].
    #[prost(message, tag = "8")]
    AskStart(AskStart),
    /// See [`TaskGone`].
    #[prost(message, tag = "9")]
    TaskGone(TaskGone),
    /// See [`HydrationOver`].
    #[prost(message, tag = "10")]
    HydrationOver(HydrationOver),
}

envelope!(
    ToAgent,
    ToAgentBody {
        BeginRestore,
        Held,
        FenceWritten,
        Resumed,
        Hydrated,
        HydrationFailed,
        Failed,
        AskStart,
        TaskGone,
        HydrationOver,
    }
);

/// Agent → shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromAgent {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "FromAgentBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub body: Option<FromAgentBody>,
}

/// The messages agent → shim.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FromAgentBody {
    /// See [`Plan`].
    #[prost(message, tag = "1")]
    Plan(Plan),
    /// See [`ColdStart`].
    #[prost(message, tag = "2")]
    ColdStart(ColdStart),
    /// No, and why. Nothing was written.
    #[prost(message, tag = "3")]
    Refusal(Refusal),
    /// See [`Committing`].
    #[prost(message, tag = "4")]
    Committing(Committing),
    /// See [`Resume`].
    #[prost(message, tag = "5")]
    Resume(Resume),
    /// See [`Abort`].
    #[prost(message, tag = "6")]
    Abort(Abort),
    /// See [`May`].
    #[prost(message, tag = "7")]
    May(May),
    /// See [`Settled`].
    #[prost(message, tag = "8")]
    Settled(Settled),
    /// See [`Noted`].
    #[prost(message, tag = "9")]
    Noted(Noted),
    /// See [`Finished`].
    #[prost(message, tag = "10")]
    Finished(Finished),
}

envelope!(
    FromAgent,
    FromAgentBody {
        Plan,
        ColdStart,
        Refusal,
        Committing,
        Resume,
        Abort,
        May,
        Settled,
        Noted,
        Finished,
    }
);

/// "containerd starts this container, and its spec asks for a restore." Descriptor: \[`config.json` as a sealed memfd\].
/// Answer: [`Plan`], [`Committing`] or a refusal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BeginRestore {
    /// [`godwit_types::OpId`], minted by the shim: another one for every time that it asks.
    #[prost(string, tag = "1")]
    pub op: String,
    /// Name of the shim's socket and fence.
    #[prost(string, tag = "2")]
    pub pod_key: String,
    /// [`godwit_types::Owner::pod_uid`].
    #[prost(string, tag = "3")]
    pub pod_uid: String,
    /// [`godwit_types::Incarnation`].
    #[prost(string, tag = "4")]
    pub incarnation: String,
    /// containerd's namespace.
    #[prost(string, tag = "5")]
    pub namespace: String,
    /// containerd's container id.
    #[prost(string, tag = "6")]
    pub container: String,
    /// Annotations of the spec that begin with `godwit.dev/` or `io.kubernetes.cri.`.
    #[prost(message, repeated, tag = "7")]
    pub annotations: Vec<Annotation>,
    /// Path of the mounted root file system.
    #[prost(string, tag = "8")]
    pub rootfs: String,
    /// The pod's fence as it is on disk (`godwit_ownership::Fence`); empty: none.
    #[prost(bytes = "vec", tag = "9")]
    pub fence: Vec<u8>,
    /// An empty directory below `/run/godwit` of this attempt, root only, on tmpfs. The agent may fill it with anything that
    /// the restore needs; the shim removes it when the attempt is over, or when hydrated.
    #[prost(string, tag = "10")]
    pub work_dir: String,
    /// What was before, for a start from the image.
    #[prost(message, optional, tag = "11")]
    pub before: Option<Before>,
    /// No task of another incarnation of this pod lives on this node (their cgroups are empty): proved by the shim.
    #[prost(bool, tag = "12")]
    pub others_dead: bool,
    /// Another container of the pod is restored already, and its connection decides for all of them: only a [`Plan`] is asked for.
    #[prost(message, optional, tag = "13")]
    pub joins: Option<Join>,
}

/// What a container joins.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Join {
    /// The checkpoint of [`Plan`] of the connection that decides.
    #[prost(string, tag = "1")]
    pub checkpoint: String,
    /// Names of the pod's containers that have got their plans in this attempt: the directories that they share with this one are in
    /// place.
    #[prost(string, repeated, tag = "2")]
    pub members: Vec<String>,
}

/// How to restore this container. Everything is ready when it is sent: images on tmpfs, files applied to the root file system.
///
/// Descriptors: those of [`Plan::pager_fds`] for the pager, unseen by the shim.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Plan {
    /// CRIU's image directory, `descriptors.json` included: runc's `--image-path`. The agent's to remove.
    #[prost(string, tag = "1")]
    pub images_dir: String,
    /// Whether memory follows later (`--lazy-pages`); if not, the image directory holds every page and no pager is started.
    #[prost(bool, tag = "2")]
    pub lazy: bool,
    /// The relay's plan, encoded; the shim writes it to the file that the relay reads.
    #[prost(bytes = "vec", tag = "3")]
    pub relay_plan: Vec<u8>,
    /// First message for the pager, encoded ([`crate::pager`]); empty if not lazy.
    #[prost(bytes = "vec", tag = "4")]
    pub pager: Vec<u8>,
    /// How many descriptors came for the pager: page maps of each process, frame tables.
    #[prost(uint32, tag = "5")]
    pub pager_fds: u32,
    /// The checkpoint that is restored.
    #[prost(string, tag = "6")]
    pub checkpoint: String,
    /// The lineage that is continued; absent for a fork that has not got its own yet.
    #[prost(message, optional, tag = "7")]
    pub at: Option<LineageAt>,
    /// Pids of the container, as seen inside it, that must exist at post-restore; empty: not checked.
    #[prost(uint32, repeated, tag = "8")]
    pub tasks: Vec<u32>,
    /// Whether all memory must be there before [`Held`] is said.
    #[prost(bool, tag = "9")]
    pub whole: bool,
    /// Names of all containers of the checkpoint, if it has several: [`Held`] is said when each of them is restored and held.
    #[prost(string, repeated, tag = "10")]
    pub pod: Vec<String>,
}

/// The container was done before the checkpoint was made (an init container): it ends with status 0 without running.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Finished {}

/// There is nothing to restore, and the lineage's owner may start it from its image: the entry stands in the log.
/// The shim creates and starts the container as if nothing had been asked, then says [`Resumed`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ColdStart {
    /// The entry (`cold`, `start` or `resume`).
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
}

/// All containers are at `post-restore`, every task exists, is held, and is in the right namespaces. Answer: [`Committing`]
/// (or [`Abort`]).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Held {
    /// The held tasks.
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<HeldTask>,
}

/// One held process.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HeldTask {
    /// The container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Its pid in the node's namespace.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// Its pid inside the container.
    #[prost(uint32, tag = "3")]
    pub vpid: u32,
}

/// An entry that makes this pod the owner is about to be PUT. The shim writes the fence with its slot, then answers
/// [`FenceWritten`]. From then on no deadline of the shim aborts; only the settled slot does.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Committing {
    /// The pod's lineage.
    #[prost(message, optional, tag = "1")]
    pub at: Option<LineageAt>,
    /// The very bytes of the entry (`godwit_ownership::Entry`).
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
}

/// The fence of [`Committing`] is on disk: the entry may be PUT. Answer: [`Resume`] ([`ColdStart`], [`May`] for a start from the image) or [`Abort`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FenceWritten {}

/// The slot is ours and the newest entry names this incarnation: run. Answer: [`Resumed`].
/// One `Resume` per entry.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Resume {
    /// The entry.
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
}

/// The attempt is over: kill what is held, prove it dead, answer [`Failed`]. If the attempt had come to [`Committing`], the slot
/// is settled and not ours.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Abort {
    /// What Start tells containerd.
    #[prost(message, optional, tag = "1")]
    pub why: Option<Refusal>,
}

/// The tasks run. Answer: [`Noted`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Resumed {
    /// Pid of each container's init.
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<HeldTask>,
}

/// Every page is in place, the userfaultfds are closed. Answer: [`Noted`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hydrated {
    /// From `Resumed` on: milliseconds.
    #[prost(uint64, tag = "1")]
    pub after_ms: u64,
    /// Faults that the pager answered.
    #[prost(uint64, tag = "2")]
    pub faults: u64,
    /// Pages that the pager placed.
    #[prost(uint64, tag = "3")]
    pub pages: u64,
}

/// The container was killed because its memory could not be completed. Answer: [`Noted`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HydrationFailed {
    /// Why.
    #[prost(message, optional, tag = "1")]
    pub why: Option<Refusal>,
}

/// [`Hydrated`] or [`HydrationFailed`], to an agent that has not begun the restore. Answer: [`Noted`], when the restore pins its
/// checkpoint no longer. Without that answer it is said again, on another connection.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HydrationOver {
    /// What was hydrated from.
    #[prost(message, optional, tag = "1")]
    pub point: Option<HydratingRecord>,
    /// The container.
    #[prost(string, tag = "2")]
    pub container: String,
    /// Every page is in place.
    #[prost(message, optional, tag = "3")]
    pub hydrated: Option<Hydrated>,
    /// It was killed.
    #[prost(message, optional, tag = "4")]
    pub failed: Option<HydrationFailed>,
    /// Its pod.
    #[prost(string, tag = "5")]
    pub pod_uid: String,
}

/// The attempt failed before `Resume`. Answer: [`Noted`].
///
/// It proves no death, and need not: nothing of the attempt has run or ever will, and this start is over for the agent in any case.
/// What does not die is for the shim to tell whoever starts it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failed {
    /// Why.
    #[prost(message, optional, tag = "1")]
    pub why: Option<Refusal>,
}

/// "A container of a pod with a fence is to be started from its image: may it?" The agent reads the log and appends what is
/// needed (`cold`, `resume`, …) first. Answer: [`May`] or a refusal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AskStart {
    /// Name of the shim's socket and fence.
    #[prost(string, tag = "1")]
    pub pod_key: String,
    /// [`godwit_types::Owner::pod_uid`].
    #[prost(string, tag = "2")]
    pub pod_uid: String,
    /// [`godwit_types::Incarnation`] of the asking sandbox life.
    #[prost(string, tag = "3")]
    pub incarnation: String,
    /// The container.
    #[prost(string, tag = "4")]
    pub container: String,
    /// The fence as it is on disk (`godwit_ownership::Fence`).
    #[prost(bytes = "vec", tag = "5")]
    pub fence: Vec<u8>,
    /// What was before, for the log.
    #[prost(message, optional, tag = "6")]
    pub before: Option<Before>,
    /// [`godwit_types::OpId`] of this start, minted by the shim.
    #[prost(string, tag = "7")]
    pub op: String,
    /// No task of another incarnation of this pod lives on this node (their cgroups are empty): proved by the shim.
    #[prost(bool, tag = "8")]
    pub others_dead: bool,
    /// containerd's namespace.
    #[prost(string, tag = "9")]
    pub namespace: String,
    /// Annotations of the spec that begin with `godwit.dev/` or `io.kubernetes.cri.`.
    #[prost(message, repeated, tag = "10")]
    pub annotations: Vec<Annotation>,
}

/// It may start: the newest entry names this incarnation. The shim says [`Resumed`] when it runs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct May {
    /// The newest entry.
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
}

/// The tasks of the owner died on this node, all of them: the cgroups of the fence's incarnation are empty, as the shim has proved
/// before it says so. The agent appends what follows from it. Answer: [`Settled`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TaskGone {
    /// [`godwit_types::Owner::pod_uid`].
    #[prost(string, tag = "2")]
    pub pod_uid: String,
    /// The fence as it is on disk (`godwit_ownership::Fence`).
    #[prost(bytes = "vec", tag = "5")]
    pub fence: Vec<u8>,
    /// The end was wanted: the task was deleted by its user (Kubernetes: the pod is deleted), and did live.
    #[prost(bool, tag = "8")]
    pub wanted: bool,
}

/// What follows from the death is in the log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Settled {
    /// The slot is settled and the newest entry does not name this node: remove the fence.
    #[prost(bool, tag = "1")]
    pub remove_fence: bool,
}

/// The message was understood; there is nothing else to say.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Noted {}
