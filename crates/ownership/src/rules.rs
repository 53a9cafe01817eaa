//! The rules of ownership by name.
//!
//! In a production build every rule holds: [`Rules`] has no size and no way to switch one off, and the compiler removes the
//! question. This crate's own tests are built with a set that can: the checker switches each rule off and must find what goes
//! wrong without it.

/// A sentence of the design that a machine keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Rule {
    /// A stop or an offer is sealed by the shim before its entry is PUT; sealed, no deadline thaws it.
    Seal,
    /// A sealed pod does not thaw when its connection ends.
    SealedHolds,
    /// 404 never means "did not happen".
    Not404,
    /// `Seal` is refused when the tasks ran after the dump.
    Continuous,
    /// A checkpoint that leaves the pod running thaws before its commit and is never sealed.
    LeaveRunning,
    /// A take-over is PUT only when the tasks are completely restored and held.
    HoldFirst,
    /// Held tasks run only after their own entry holds its slot.
    TakeOver,
    /// A claim is built on the very entry from which its restore was made ready.
    SameEntry,
    /// An offered pod thaws only by winning the slot of `reclaim`.
    ReclaimSettles,
    /// The source kills its frozen tasks when it reads a take-over, not at the offer.
    KillAtTakeOver,
    /// Before tasks run, the newest entry must name them, not only their own slot.
    NewestDecides,
    /// The fence is armed at the beginning of an operation that may give the pod away.
    Armed,
    /// A cold start of a pod with a lineage appends `cold` first.
    ColdFirst,
    /// The fence is on disk before the first entry that names this pod is PUT.
    FenceFirst,
    /// The fence keeps its slot until it is settled; only then it is removed.
    FenceSettled,
    /// Idempotence of a take-over is by incarnation and operation, not by node.
    Idempotence,
    /// A life consumes its request when its tasks run, not when they may.
    LivesFirst,
    /// A life whose memory never comes gives its request back.
    Reopens,
    /// Proved deaths are written into the log: no lineage is owned by nobody.
    DeathEntries,
    /// Tasks that died before their first life give `stop`, not `end`.
    StopNotEnd,
    /// Another incarnation starts only when the cgroups of the others are empty.
    EmptyCgroups,
    /// Agents look at the newest entry; zombies are killed.
    Look,
    /// A stop kills only after manifest and no tombstone were read after its entry.
    CheckAfter,
    /// A stop whose check after the entry fails is taken back.
    ReclaimStop,
    /// The owner's node, with proof that the frozen tasks are dead, turns its offer into a stop.
    OfferedDead,
    /// `cold` out of `stopped` where a restore can never succeed.
    ColdStopped,
    /// An orphan gets its tombstone first, then the log is read.
    TombstoneFirst,
    /// A tombstone of another sweep that may still be at work is left alone.
    FreshTombstones,
    /// A log that is shorter than the fence, or an entry that is settled, says is not the log.
    SameLog,
    /// That the store refused a PUT ends the matter only if no other PUT of that slot may still land.
    RefusedAlone,
    /// An operation older than T/2 settles only by `reclaim`. A second guard before [`Rule::CheckAfter`] and [`Rule::ReclaimStop`],
    /// which hold without it.
    OldReclaims,
    /// After `Committing` no lost connection aborts. Spares a pod what it would lose by going back to its checkpoint; nobody is
    /// doubled or lost without it.
    CommittingWaits,
}

/// Which rules hold: all of them.
#[cfg(not(test))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rules;

#[cfg(not(test))]
impl Rules {
    /// Every rule.
    pub const ALL: Self = Self;

    /// Always.
    #[must_use]
    #[inline]
    pub const fn hold(self, _rule: Rule) -> bool {
        true
    }
}

/// Which rules hold: those that the checker did not switch off.
#[cfg(test)]
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Rules {
    off: u32,
}

#[cfg(test)]
impl Rules {
    /// Every rule.
    pub const ALL: Self = Self { off: 0 };

    /// Whether it holds.
    #[must_use]
    pub const fn hold(self, rule: Rule) -> bool {
        self.off & (1 << rule as u32) == 0
    }

    /// The same without it.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self { off: self.off | (1 << rule as u32) }
    }
}
