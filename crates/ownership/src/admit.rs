//! Who may append what: pure functions over (state, writer, kind).
//!
//! Keeps the table of the design page "ownership": nobody but the newest entry's owner decides about a running pod; what is offered or
//! stopped has one winner, the create-only slot; everything else is a refusal with a sentence for a person.

use godwit_types::{CheckpointId, Code, Owner};

use crate::state::{
    CRASH_WINDOW_S, ColdReason, Kind, Points, State, StoppedTasks, Word, same_place,
};

/// Why an entry may not be appended, or a pod may not start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Refusal {
    /// It runs, and its owner has not given it away.
    StillRuns {
        /// Where.
        node: String,
    },
    /// The writer is not, or no longer, the owner.
    NotOwner {
        /// Where the owner is.
        node: String,
    },
    /// It is offered to somebody else.
    OfferedElsewhere {
        /// Who offers it.
        node: String,
    },
    /// It is offered; its owner waits for the target.
    BeingMoved {
        /// What is offered.
        checkpoint: CheckpointId,
    },
    /// It was stopped at this point and is not started from its image.
    Stopped {
        /// Where it can be continued from.
        checkpoint: CheckpointId,
    },
    /// Another point was asked for than the one that can be continued.
    OtherPoint {
        /// What was asked for.
        asked: CheckpointId,
        /// What can be continued.
        latest: CheckpointId,
    },
    /// Its life is over.
    Ended,
    /// No such lineage.
    NoLineage,
    /// A lineage of this name lives already.
    Exists {
        /// Where.
        node: String,
    },
    /// The point is not, or no longer, in the store.
    PointGone {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// There is no good point to continue from.
    NoPoint,
    /// The point can never be restored here.
    CannotRestore {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// The entry makes no sense in this state.
    NotNow {
        /// The kind's word.
        kind: String,
        /// The state's word.
        state: String,
    },
    /// Tasks of an earlier life of the same pod are still there.
    OthersLive,
    /// Another operation of the same pod is on its way.
    Busy,
    /// The agent of this node cannot be asked.
    AgentAway,
    /// The store cannot be read or written.
    StoreAway,
    /// Its outcome is not known yet: the slot has to be settled first.
    Settling,
    /// The death of an earlier pod of this name is not in the log yet, or a write of its may still land there.
    Unburied,
    /// The store can be read and does not let itself be written.
    StoreRefuses,
    /// Somebody else won the slot.
    LostSlot,
    /// Somebody wrote into the log while its restore was made ready.
    Overtaken,
    /// It ran between the dump and the seal.
    NotContinuous,
    /// T/2 passed before it was done.
    TooOld,
    /// The connection between agent and shim ended in the middle.
    Interrupted,
    /// A person cancelled it.
    Cancelled,
    /// A restore failed; another try may succeed.
    RestoreFailed {
        /// Of which point.
        checkpoint: CheckpointId,
    },
}

impl Refusal {
    /// The sentence for a person, about the pod of this name.
    #[must_use]
    pub fn told(&self, name: &str) -> String {
        match self {
            Self::StillRuns { node } => format!(
                "{name} still runs on {node}: stop it with `godwit checkpoint --stop`, or copy this point with fork-from; if {node} is dead, continue it with godwit.dev/force=REASON beside restore-from"
            ),
            Self::NotOwner { node } => format!("{name} was taken over by {node}"),
            Self::OfferedElsewhere { node } => {
                format!("{name} is offered by {node} to another pod: cancel that move first")
            }
            Self::BeingMoved { checkpoint } => format!(
                "{name} is being moved (offered at {checkpoint}): cancel the move, or wait for its end"
            ),
            Self::Stopped { checkpoint } => format!(
                "{name} was stopped at {checkpoint}: continue it with restore-from, or copy it with fork-from"
            ),
            Self::OtherPoint { asked, latest } => format!(
                "{name} can only be continued from {latest}, not from {asked}: copy {asked} with fork-from"
            ),
            Self::Ended => {
                format!(
                    "{name} has ended and cannot be continued: copy one of its points with fork-from"
                )
            }
            Self::NoLineage => {
                format!(
                    "{name} has no recovery points in this store: check the store and the tenant"
                )
            }
            Self::Exists { node } => format!("{name} has a lineage already, on {node}"),
            Self::PointGone { checkpoint } => {
                format!(
                    "checkpoint {checkpoint} of {name} is not in the store any more: `godwit list` shows those that are"
                )
            }
            Self::NoPoint => format!(
                "{name} has no good recovery point: start it from its image, without restore-from or under another name"
            ),
            Self::CannotRestore { checkpoint } => {
                format!("checkpoint {checkpoint} of {name} can not be restored here")
            }
            Self::NotNow { kind, state } => {
                format!("{name} is {state}; a `{kind}` entry makes no sense now")
            }
            Self::OthersLive => format!(
                "tasks of an earlier life of {name} are still on this node: they must end first; it is tried again"
            ),
            Self::Busy => {
                format!("another operation of {name} is on its way: try again when it is over")
            }
            Self::AgentAway => {
                format!(
                    "who may run {name} cannot be asked: godwit-agent does not answer on this node"
                )
            }
            Self::StoreAway => {
                format!("who may run {name} cannot be read: the store does not answer")
            }
            Self::Settling => format!(
                "whether {name} may run here is not settled yet: the store has not answered; it is tried again"
            ),
            Self::Unburied => format!(
                "an earlier {name} of this node is not settled yet: its store has not answered, or something that it wrote may still arrive there, which ends at the latest after half of the store's horizon_seconds. Use another name or another node, or try again later"
            ),
            Self::StoreRefuses => format!(
                "the log of {name} cannot be written, the store refuses it: look at its space and at the rights of godwit-agent, then try again"
            ),
            Self::LostSlot => format!("somebody else was faster to write into the log of {name}"),
            Self::Overtaken => format!(
                "the log of {name} has a new entry since its restore was begun: try again, from what it says now"
            ),
            Self::NotContinuous => {
                format!(
                    "{name} ran on between its dump and the seal: nothing was committed; try again"
                )
            }
            Self::TooOld => {
                format!(
                    "the checkpoint of {name} took longer than half of the store's horizon_seconds and was given up: begin it again"
                )
            }
            Self::Interrupted => {
                format!(
                    "the connection between godwit-agent and the shim of {name} ended in the middle"
                )
            }
            Self::Cancelled => format!("the operation of {name} was cancelled"),
            Self::RestoreFailed { checkpoint } => {
                format!("the restore of {name} from {checkpoint} failed; it can be tried again")
            }
        }
    }

    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoLineage | Self::PointGone { .. } | Self::NoPoint => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::OthersLive
            | Self::Busy
            | Self::AgentAway
            | Self::StoreAway
            | Self::StoreRefuses
            | Self::Settling
            | Self::Unburied
            | Self::Interrupted
            | Self::Overtaken
            | Self::RestoreFailed { .. } => Code::Unavailable,
            Self::TooOld | Self::Cancelled => Code::Cancelled,
            Self::CannotRestore { .. } => Code::Refused,
            Self::NotNow { .. } => Code::Internal,
            Self::StillRuns { .. }
            | Self::NotOwner { .. }
            | Self::OfferedElsewhere { .. }
            | Self::BeingMoved { .. }
            | Self::Stopped { .. }
            | Self::OtherPoint { .. }
            | Self::Ended
            | Self::LostSlot
            | Self::NotContinuous => Code::Precondition,
        }
    }
}

/// The state after `kind`, appended by `by` on `state`; or why it may not be.
///
/// Pure, and the only place where a state changes: the writer's admission, the reader's [`crate::fold`] and the state inside
/// each entry all come from here. What a kind claims (tasks sealed, tasks dead, a person's word) is the writer's to prove.
///
/// # Errors
/// The refusal.
pub fn permitted(state: &State, by: &Owner, kind: &Kind) -> Result<State, Refusal> {
    match state {
        State::Empty => on_nothing(by, kind, Refusal::NoLineage),
        State::Ended { .. } => on_nothing(by, kind, Refusal::Ended),
        State::Owned { owner, restored, good } => on_owned(owner, *restored, good, by, kind),
        State::Offered { owner, checkpoint, to, good } => {
            let meant = to.as_ref().is_none_or(|to| to.means(by));
            on_offered(owner, *checkpoint, meant, good, by, kind)
        }
        State::Stopped { owner, checkpoint, good } => {
            on_stopped(owner, *checkpoint, good, by, kind)
        }
    }
}

fn on_nothing(by: &Owner, kind: &Kind, otherwise: Refusal) -> Result<State, Refusal> {
    match kind {
        Kind::Start { forked_from } => {
            let restored = forked_from.as_ref().map(|fork| fork.checkpoint);
            Ok(owned(by, restored, &Points::default()))
        }
        _ => Err(otherwise),
    }
}

fn on_owned(
    owner: &Owner,
    restored: Option<CheckpointId>,
    good: &Points,
    by: &Owner,
    kind: &Kind,
) -> Result<State, Refusal> {
    let only_owner = || if by == owner { Ok(()) } else { Err(not_owner(owner)) };
    let only_place = || if same_place(by, owner) { Ok(()) } else { Err(not_owner(owner)) };
    match kind {
        Kind::Start { .. } => Err(Refusal::Exists { node: owner.node.clone() }),
        Kind::Checkpoint { checkpoint } => {
            only_owner().map(|()| owned(owner, restored, &good.with(*checkpoint)))
        }
        Kind::Offer { checkpoint, to } => only_owner().map(|()| State::Offered {
            owner: owner.clone(),
            checkpoint: *checkpoint,
            to: to.clone(),
            good: good.with(*checkpoint),
        }),
        Kind::Stop { checkpoint, tasks: StoppedTasks::Sealed } => {
            only_owner().map(|()| stopped(owner, *checkpoint, &good.with(*checkpoint)))
        }
        Kind::Stop { checkpoint, tasks: StoppedTasks::Dead } => {
            only_place()?;
            let known = good.contains(*checkpoint);
            known.then(|| stopped(owner, *checkpoint, good)).ok_or(Refusal::NoPoint)
        }
        Kind::Reclaim => only_owner().map(|()| owned(owner, restored, good)),
        Kind::Resume => only_place().map(|()| owned(by, restored, good)),
        Kind::Cold { reason, lived_s, .. } => {
            only_place().map(|()| owned(by, None, &after_cold(good, restored, *reason, *lived_s)))
        }
        Kind::TakeOver { word: Word::Owner, .. } => {
            Err(Refusal::StillRuns { node: owner.node.clone() })
        }
        Kind::TakeOver { checkpoint, .. } if by != owner => Ok(owned(by, Some(*checkpoint), good)),
        Kind::StartOver { .. } if !same_place(by, owner) => Ok(owned(by, None, good)),
        Kind::TakeOver { .. } | Kind::StartOver { .. } => {
            Err(Refusal::NotNow { kind: kind.word().to_owned(), state: "owned".to_owned() })
        }
        Kind::End => only_place().map(|()| State::Ended { owner: owner.clone() }),
    }
}

fn on_offered(
    owner: &Owner,
    checkpoint: CheckpointId,
    meant: bool,
    good: &Points,
    by: &Owner,
    kind: &Kind,
) -> Result<State, Refusal> {
    match kind {
        Kind::TakeOver { word: Word::Owner, .. } if !meant => {
            Err(Refusal::OfferedElsewhere { node: owner.node.clone() })
        }
        Kind::TakeOver { checkpoint: asked, .. } if !same_place(by, owner) => {
            point(*asked, checkpoint).map(|()| owned(by, Some(checkpoint), good))
        }
        Kind::TakeOver { .. } => Err(Refusal::BeingMoved { checkpoint }),
        Kind::Reclaim if by == owner => Ok(owned(owner, None, good)),
        Kind::Offer { checkpoint, to } if by == owner => Ok(State::Offered {
            owner: owner.clone(),
            checkpoint: *checkpoint,
            to: to.clone(),
            good: good.with(*checkpoint),
        }),
        Kind::Stop { checkpoint: asked, tasks: StoppedTasks::Dead } if same_place(by, owner) => {
            point(*asked, checkpoint).map(|()| stopped(owner, checkpoint, good))
        }
        Kind::Reclaim | Kind::Offer { .. } | Kind::Stop { .. } => Err(not_owner(owner)),
        Kind::Start { .. } | Kind::StartOver { .. } => {
            Err(Refusal::Exists { node: owner.node.clone() })
        }
        Kind::Checkpoint { .. } | Kind::Cold { .. } | Kind::Resume | Kind::End => {
            Err(Refusal::BeingMoved { checkpoint })
        }
    }
}

fn on_stopped(
    owner: &Owner,
    checkpoint: CheckpointId,
    good: &Points,
    by: &Owner,
    kind: &Kind,
) -> Result<State, Refusal> {
    match kind {
        Kind::TakeOver { checkpoint: asked, .. } => {
            point(*asked, checkpoint).map(|()| owned(by, Some(checkpoint), good))
        }
        Kind::Reclaim if by == owner => Ok(owned(owner, None, good)),
        Kind::Cold { reason: ColdReason::CannotRestore | ColdReason::RestoreNever, .. } => {
            Ok(owned(by, None, good))
        }
        Kind::Cold { reason: ColdReason::PointMissing, .. } if same_place(by, owner) => {
            Ok(owned(by, None, &good.without(checkpoint)))
        }
        Kind::End if same_place(by, owner) => Ok(State::Ended { owner: owner.clone() }),
        Kind::Start { .. } | Kind::StartOver { .. } => {
            Err(Refusal::Exists { node: owner.node.clone() })
        }
        Kind::Reclaim | Kind::End => Err(not_owner(owner)),
        Kind::Checkpoint { .. }
        | Kind::Offer { .. }
        | Kind::Stop { .. }
        | Kind::Resume
        | Kind::Cold { .. } => Err(Refusal::Stopped { checkpoint }),
    }
}

fn owned(owner: &Owner, restored: Option<CheckpointId>, good: &Points) -> State {
    State::Owned { owner: owner.clone(), restored, good: good.clone() }
}

fn stopped(owner: &Owner, checkpoint: CheckpointId, good: &Points) -> State {
    State::Stopped { owner: owner.clone(), checkpoint, good: good.clone() }
}

fn not_owner(owner: &Owner) -> Refusal {
    Refusal::NotOwner { node: owner.node.clone() }
}

fn point(asked: CheckpointId, latest: CheckpointId) -> Result<(), Refusal> {
    if asked == latest { Ok(()) } else { Err(Refusal::OtherPoint { asked, latest }) }
}

/// A point whose pod crashed within [`CRASH_WINDOW_S`] of its restore is not good any more: a crash is not replayed for ever.
fn after_cold(
    good: &Points,
    restored: Option<CheckpointId>,
    reason: ColdReason,
    lived_s: Option<u64>,
) -> Points {
    let soon = lived_s.is_some_and(|lived| lived < CRASH_WINDOW_S);
    match restored {
        Some(checkpoint) if reason == ColdReason::Crashed && soon => good.without(checkpoint),
        _ => good.clone(),
    }
}

#[cfg(test)]
mod tests;
