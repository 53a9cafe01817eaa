//! The states of a container and what may follow what. Pure: no I/O, no time.
//!
//! ```text
//! creating ─► created ─► starting ─► running ─┬─► pausing ─► paused ─► running        any ─exit─► stopped
//!                 │                           └─begin─► checkpointing ─freeze─► frozen ─┬─thaw──► running
//!                 │                                          └─end─► running            ├─exit──► stopped
//!                 │                                                                     └─seal──► sealed ─┬─unseal─► running
//!                 │                                                                                       ├─move──► moved
//!                 └─restore─► restoring ─restored─► hydrating ─hydrated─► running                         └─exit──► stopped
//! ```

use std::fmt;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// `runc create` is under way.
    Creating,
    /// It can be started: runc's init waits, or, for a restore, nothing runs yet.
    Created,
    /// `runc start` (or `runc restore` of a task checkpoint) is under way.
    Starting,
    /// Its processes execute.
    Running,
    /// `runc pause` is under way.
    Pausing,
    /// Frozen by the task API's Pause.
    Paused,
    /// An operation has begun; its processes execute.
    Checkpointing,
    /// Frozen by an operation. Thawed when the operation ends, for whatever reason.
    Frozen,
    /// Frozen, and only a settled log slot decides. Killing is allowed, running is not.
    Sealed,
    /// Runs elsewhere. Never thawed with a living task.
    Moved,
    /// A restore is under way: its tasks are being made or are held.
    Restoring,
    /// Its processes execute while a pager still brings their memory.
    Hydrating,
    /// Its init process is over.
    Stopped,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `runc create` succeeded.
    Created,
    /// Start was called.
    Start,
    /// It runs.
    Started,
    /// Starting, restoring, pausing failed: back to where it was.
    Failed,
    /// Pause was called.
    Pause,
    /// It is paused.
    Paused,
    /// It was resumed.
    Resume,
    /// A checkpoint operation begins.
    Begin,
    /// The operation ended without a freeze.
    End,
    /// The operation froze it.
    Freeze,
    /// The operation thawed it.
    Thaw,
    /// The operation sealed it: from here only a settled slot decides.
    Seal,
    /// The slot is settled: reclaimed. It has been thawed.
    Unseal,
    /// The slot is settled: taken over elsewhere.
    Move,
    /// Start was called on a restore.
    Restore,
    /// The restored processes run; memory may still be on its way.
    Restored,
    /// All memory is here.
    Hydrated,
    /// The init process is over.
    Exit,
}

/// Why a step is not possible now; each is a sentence for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// A second checkpoint while one is under way.
    #[error("a checkpoint is under way; wait for it or cancel it")]
    Checkpointing,
    /// A checkpoint or pause while the memory is not all here.
    #[error("its memory is still being restored; try again when it is resident")]
    Hydrating,
    /// Something that needs a running container while it is restored.
    #[error("it is being restored; wait for it or kill it")]
    Restoring,
    /// Something that needs a living container.
    #[error("it has moved to another node; only kill and delete are possible here")]
    Moved,
    /// Something that needs a thawed container.
    #[error("it is sealed until its log slot is settled; only kill is possible")]
    Sealed,
    /// Something that needs a process.
    #[error("it has stopped")]
    Stopped,
    /// Delete of something that lives.
    #[error("it is {0}; kill it first")]
    Alive(State),
    /// Anything else that does not fit.
    #[error("it is {0}, which does not allow this")]
    Not(State),
}

impl State {
    /// The state after `step`, or why the step is not possible.
    ///
    /// # Errors
    /// The refusal to give to the caller.
    pub fn after(self, step: Step) -> Result<Self, Refusal> {
        use State::*;
        Ok(match (self, step) {
            (_, Step::Exit) => Stopped,
            (Creating, Step::Created) => Created,
            (Created, Step::Start) => Starting,
            (Starting, Step::Started) => Running,
            (Starting | Restoring, Step::Failed) => Created,
            (Created, Step::Restore) => Restoring,
            (Restoring, Step::Restored) => Hydrating,
            // Its pager was done before its start was told, and it may be at work already.
            (Running | Checkpointing | Frozen, Step::Restored) => self,
            (Restoring | Hydrating, Step::Hydrated) => Running,
            (Running, Step::Pause) => Pausing,
            (Pausing, Step::Paused) => Paused,
            (Pausing, Step::Failed) | (Paused, Step::Resume) => Running,
            (Running, Step::Begin) => Checkpointing,
            (Checkpointing, Step::End) => Running,
            (Checkpointing, Step::Freeze) => Frozen,
            (Frozen, Step::Thaw) => Running,
            (Frozen, Step::Seal) => Sealed,
            (Sealed, Step::Unseal) => Running,
            (Sealed, Step::Move) => Moved,
            _ => return Err(self.refusal()),
        })
    }

    /// Whether its processes execute.
    #[must_use]
    pub fn executes(self) -> bool {
        matches!(self, Self::Running | Self::Checkpointing | Self::Hydrating | Self::Pausing)
    }

    /// Whether an operation holds it frozen.
    #[must_use]
    pub fn held(self) -> bool {
        matches!(self, Self::Frozen | Self::Sealed | Self::Moved)
    }

    /// Whether `delete` may proceed.
    ///
    /// # Errors
    /// The refusal to give to the caller.
    pub fn may_delete(self) -> Result<(), Refusal> {
        match self {
            Self::Created | Self::Stopped => Ok(()),
            Self::Restoring => Err(Refusal::Restoring),
            other => Err(Refusal::Alive(other)),
        }
    }

    /// Whether a process may be executed in it at once; `Ok(false)`: when it is thawed.
    ///
    /// # Errors
    /// The refusal to give to the caller.
    pub fn may_exec(self) -> Result<bool, Refusal> {
        match self {
            Self::Running | Self::Checkpointing | Self::Hydrating => Ok(true),
            Self::Created => Ok(true),
            Self::Frozen | Self::Sealed | Self::Restoring | Self::Starting => Ok(false),
            Self::Creating | Self::Pausing | Self::Paused => Err(Refusal::Not(self)),
            Self::Moved => Err(Refusal::Moved),
            Self::Stopped => Err(Refusal::Stopped),
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Checkpointing | Self::Frozen => Refusal::Checkpointing,
            Self::Sealed => Refusal::Sealed,
            Self::Moved => Refusal::Moved,
            Self::Restoring => Refusal::Restoring,
            Self::Hydrating => Refusal::Hydrating,
            Self::Stopped => Refusal::Stopped,
            other => Refusal::Not(other),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Checkpointing => "checkpointing",
            Self::Frozen => "frozen",
            Self::Sealed => "sealed",
            Self::Moved => "moved",
            Self::Restoring => "restoring",
            Self::Hydrating => "hydrating",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 13] = [
        State::Creating,
        State::Created,
        State::Starting,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Checkpointing,
        State::Frozen,
        State::Sealed,
        State::Moved,
        State::Restoring,
        State::Hydrating,
        State::Stopped,
    ];

    fn walk(steps: &[Step]) -> Result<State, Refusal> {
        steps.iter().try_fold(State::Created, |state, step| state.after(*step))
    }

    #[test]
    fn an_exit_stops_it_in_every_state() {
        for state in STATES {
            assert_eq!(state.after(Step::Exit), Ok(State::Stopped), "{state}");
        }
    }

    #[test]
    fn a_second_checkpoint_is_refused_while_one_is_under_way_and_while_hydrating() {
        let begin = [Step::Start, Step::Started, Step::Begin, Step::Begin];
        assert_eq!(walk(&begin), Err(Refusal::Checkpointing));
        assert_eq!(walk(&[Step::Restore, Step::Restored, Step::Begin]), Err(Refusal::Hydrating));
    }

    #[test]
    fn a_pager_that_is_done_before_the_start_is_told_does_not_end_the_start() {
        let done = [Step::Restore, Step::Hydrated, Step::Restored];
        assert_eq!(walk(&done), Ok(State::Running));
        let at_work = [Step::Restore, Step::Hydrated, Step::Begin, Step::Restored];
        assert_eq!(walk(&at_work), Ok(State::Checkpointing));
        for state in [State::Created, State::Starting, State::Hydrating, State::Stopped] {
            assert!(state.after(Step::Restored).is_err(), "{state}");
        }
    }

    #[test]
    fn nothing_thaws_what_is_sealed_or_moved() {
        for state in [State::Sealed, State::Moved] {
            for step in [Step::Thaw, Step::Resume, Step::Started, Step::Hydrated, Step::End] {
                assert!(state.after(step).is_err(), "{state} {step:?}");
            }
        }
        assert!(State::Moved.after(Step::Unseal).is_err());
    }

    #[test]
    fn only_a_frozen_container_is_sealed() {
        for state in STATES {
            assert_eq!(state.after(Step::Seal).is_ok(), state == State::Frozen, "{state}");
        }
    }

    #[test]
    fn nothing_but_a_stop_follows_a_stop() {
        for step in [Step::Start, Step::Started, Step::Thaw, Step::Unseal, Step::Resume] {
            assert_eq!(State::Stopped.after(step), Err(Refusal::Stopped));
        }
    }
}
