//! What every machine of the agent has in common: one vocabulary of events and actions, so that one driver serves all of them.
//!
//! ```text
//! loop {
//!     for action in machine.step(event) { carry it out, in order; its result is a later event }
//!     event = next of: result of an action | message of the shim | end of the connection | timer | engine | user
//! }   // until Action::Done
//! ```
//! A machine asks at most one question of the store at a time. A driver that cannot carry out a read answers
//! [`Read::Unavailable`]; it never makes up an answer. It runs one machine per pod at a time.

use std::hash::Hash;

use godwit_types::{CheckpointId, Seq};

use crate::fence::Fence;
use crate::message::{ToAgent, ToShim};
use crate::rules::{Rule, Rules};
use crate::{Entry, Refusal};

/// A machine of the agent: [`crate::Source`], [`crate::Target`], [`crate::Look`], [`crate::Keeper`].
pub trait Machine: Clone + Eq + Hash {
    /// Takes one event and says what to do, in order. Events that do not matter now give nothing.
    fn step(&mut self, event: Event) -> Vec<Action>;
}

/// What a machine hears.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The first event of every machine.
    Begin,
    /// A message of the shim.
    Shim(ToAgent),
    /// The connection to the shim ended.
    Ended,
    /// Answer to [`Action::ReadNewest`]: the newest entry, if the log has one.
    Newest(Read<Option<Box<Entry>>>),
    /// Answer to [`Action::ReadSlot`].
    Slot(Read<Option<Box<Entry>>>),
    /// Answer to [`Action::Put`].
    Put(Put),
    /// Answer to [`Action::Check`].
    Presence(Read<Presence>),
    /// Answer to [`Action::ProveDead`]: whether no task of the pod lives on this node.
    Dead(bool),
    /// A timer of [`Action::Wait`] ran out.
    Timer(Timer),
    /// Source: the pod can be checkpointed. One that cannot be: [`Event::Cancel`].
    Fit,
    /// Source: packs, head and manifest are durable; only the entry is missing. (For [`godwit_types::Outcome::Run`]: and thawed.)
    Manifest,
    /// Target: everything for [`ToShim::Plan`] is ready.
    Prepared,
    /// Target: the point cannot be restored here.
    CannotRestore {
        /// Whether no other try can succeed.
        never: bool,
    },
    /// A person cancels the operation.
    Cancel,
    /// T/2 has passed since the operation began.
    TooOld,
}

impl Event {
    /// A log that lacks what the pod's fence has seen of it is not that log (a directory that is not mounted, an empty store in its
    /// place): it was not read.
    pub(crate) fn doubted(self, fence: Option<&Fence>, rules: Rules) -> Self {
        let Self::Newest(Read::Known(newest)) = &self else { return self };
        let seq = newest.as_ref().map(|entry| entry.seq).unwrap_or_default();
        let fits = fence.is_none_or(|fence| fence.fits(seq)) || !rules.hold(Rule::SameLog);
        if fits { self } else { Self::Newest(Read::Unavailable) }
    }
}

/// What a read of the store gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Read<T> {
    /// The store answered, and the bytes were good.
    Known(T),
    /// It did not, or they were not.
    Unavailable,
}

/// What a create-only PUT gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Put {
    /// The slot is ours.
    Created,
    /// Something is there: perhaps our own earlier attempt.
    Exists,
    /// Two writers met and nothing landed: PUT again.
    Conflict,
    /// Nobody knows: it may have landed, may land later, or never.
    Unknown,
    /// The store refused it: nothing landed, and nothing of this PUT ever will.
    NotWritten,
}

/// Whether a checkpoint can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Manifest, and no tombstone.
    Exists,
    /// A tombstone of a sweep that may still be withdrawn (`reason: orphan`).
    Doubted,
    /// No manifest, or a tombstone of a deletion.
    Gone,
}

/// What a machine waits for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Timer {
    /// Before the same question is asked again; the driver chooses a back-off.
    Retry,
    /// Before an offered pod looks for its taker again; short.
    Look,
    /// [`crate::SourceSpec::reclaim_after_s`] after the offer.
    Reclaim,
}

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Action {
    /// Send this to the shim.
    Tell(ToShim),
    /// LIST and GET the newest entry of the lineage.
    ReadNewest,
    /// GET this slot.
    ReadSlot(Seq),
    /// Create-only PUT of this entry at its slot.
    Put(Box<Entry>),
    /// Read manifest and tombstone of this checkpoint.
    Check(CheckpointId),
    /// Find out whether the cgroups of the pod are empty.
    ProveDead,
    /// Start this timer. A timer that runs already is started anew.
    Wait(Timer),
    /// Source: look whether the pod can be checkpointed, then [`Event::Fit`] or [`Event::Cancel`]. Nothing is written of it yet.
    Examine,
    /// Source: this node owns the pod and may checkpoint it: pre-copy, freeze, dump, store, then [`Event::Manifest`].
    Ready,
    /// Target: fetch and check the point and make ready for [`ToShim::Plan`], then [`Event::Prepared`] or [`Event::CannotRestore`].
    Prepare(CheckpointId),
    /// Remove the pod's fence.
    RemoveFence,
    /// The machine is finished; nothing follows.
    Done(Ending),
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Ending {
    /// A checkpoint that left the pod running is durable.
    Committed(Box<Entry>),
    /// The pod was killed; its last point is durable.
    Stopped(Box<Entry>),
    /// The pod was sealed and runs on here; nothing was given away.
    Unsealed(Box<Entry>),
    /// Another runs it; what was left here is dead.
    Moved(Box<Entry>),
    /// It runs here: restored, or from its image.
    Resumed(Box<Entry>),
    /// It did not take place. Nothing is left of it.
    Refused(Refusal),
    /// The checkpoint did not take place; the pod runs on (or died on its own).
    GivenUp(Refusal),
    /// The connection ended while something was sealed or committing: [`crate::Look`] settles it on the next one.
    Detached,
    /// Look: nothing to do.
    Fine,
    /// Keeper: everything is settled and the fence is gone.
    Cleared,
    /// Keeper: not everything is settled; look again in a minute.
    Kept,
}
