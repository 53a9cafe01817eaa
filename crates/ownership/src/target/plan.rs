//! What the newest entry means for a start: pure.

use godwit_types::{CheckpointId, Owner};

use super::TargetSpec;
use crate::admit::Refusal;
use crate::entry::Basis;
use crate::message::{Ask, OnFailure, OnLost, Request};
use crate::rules::{Rule, Rules};
use crate::state::{ColdReason, Kind, State, Word, same_place};

/// The next step of a start.
pub(super) enum Next {
    /// No.
    Refuse(Refusal),
    /// An earlier life died: find its last point, beginning with this one, and write `stop`.
    Death(CheckpointId),
    /// An earlier life died: write this.
    Write(Kind),
    /// Restore this point, if it is there.
    Continue(CheckpointId),
    /// Start from the image.
    Cold(ColdReason),
    /// Begin a life with this entry.
    Claim(Kind),
    /// Only without [`Rule::Idempotence`]: "the take-over is mine already".
    AlreadyOurs(CheckpointId),
}

impl Ask {
    /// Whether the restore request is consumed, or there is none: an ordinary start.
    ///
    /// A life consumes the request that it began with: until its own end, and for as long as its pod object repeats the very same
    /// one. That something else has lived under this name consumes nothing.
    pub(crate) fn consumed(&self) -> bool {
        let Some(request) = &self.start.request else { return true };
        let fence = self.fence.as_ref();
        fence.is_some_and(|fence| {
            fence.consumes(request.asked(), self.incarnation, self.start.standing)
        })
    }

    fn open_request(&self) -> Option<&Request> {
        self.start.request.as_ref().filter(|_| !self.consumed())
    }

    /// The point that is asked for by name.
    fn asked(&self) -> Option<CheckpointId> {
        match self.open_request() {
            Some(Request::Continue { checkpoint, .. }) => *checkpoint,
            _ => None,
        }
    }
}

pub(super) fn next(spec: &TargetSpec, basis: &Basis, rules: Rules) -> Next {
    let ask = &spec.ask;
    let here = basis.state.owner().is_some_and(|owner| same_place(owner, &spec.pen.me));
    if here && !ask.others_dead && rules.hold(Rule::EmptyCgroups) {
        return Next::Refuse(Refusal::OthersLive);
    }
    match &basis.state {
        State::Empty => on_nothing(ask, Refusal::NoLineage),
        State::Ended { .. } => on_nothing(ask, Refusal::Ended),
        State::Owned { owner, .. } if here => on_ours(spec, basis, owner, rules),
        State::Owned { owner, .. } => on_theirs(ask, &basis.state, owner),
        State::Offered { checkpoint, .. } if here => on_our_offer(*checkpoint, rules),
        State::Offered { owner, checkpoint, .. } => match ask.open_request() {
            Some(Request::Continue { .. }) => continue_at(ask, *checkpoint),
            _ => Next::Refuse(Refusal::NotOwner { node: owner.node.clone() }),
        },
        State::Stopped { checkpoint, .. } => on_stopped(ask, *checkpoint, here),
    }
}

fn on_nothing(ask: &Ask, otherwise: Refusal) -> Next {
    match ask.open_request() {
        Some(Request::Continue { begins: false, .. }) => Next::Refuse(otherwise),
        Some(Request::Fork(fork)) => Next::Continue(fork.checkpoint),
        Some(Request::Continue { begins: true, .. }) | None => {
            Next::Claim(Kind::Start { forked_from: None })
        }
    }
}

/// The log says that this pod owns the lineage; its tasks are dead, or only this container's.
fn on_ours(spec: &TargetSpec, basis: &Basis, owner: &Owner, rules: Rules) -> Next {
    let ask = &spec.ask;
    let good = basis.state.good();
    let other_life = owner.incarnation != spec.pen.me.incarnation;
    // An older one, taken by force, whose memory did not come to this life: it has made no newer one.
    let by_name = ask.asked().filter(|asked| good.contains(asked));
    let latest = by_name.filter(|_| !other_life).or(good.first().copied());
    match ask.open_request() {
        Some(_) if !rules.hold(Rule::Idempotence) => match latest {
            Some(latest) => Next::AlreadyOurs(latest),
            None => Next::Refuse(Refusal::NoPoint),
        },
        Some(_) if !rules.hold(Rule::DeathEntries) => Next::Refuse(Refusal::Busy),
        // Died, and is to be continued: as much a death before its first life as one in a reboot.
        Some(Request::Continue { .. }) => match latest {
            Some(latest) => Next::Death(latest),
            None if ask.start.on_failure == OnFailure::Cold => Next::Cold(ColdReason::PointMissing),
            None => Next::Refuse(Refusal::NoPoint),
        },
        // A life with points of its own can go on; another one only ends.
        Some(Request::Fork(_)) => latest.map_or(Next::Write(Kind::End), Next::Death),
        None if other_life && ask.start.on_lost == OnLost::Latest => match latest {
            Some(latest) if rules.hold(Rule::DeathEntries) => Next::Death(latest),
            _ => Next::Cold(ask.start.before.reason),
        },
        None => Next::Cold(ask.start.before.reason),
    }
}

fn on_theirs(ask: &Ask, state: &State, owner: &Owner) -> Next {
    let node = owner.node.clone();
    match ask.open_request() {
        Some(Request::Continue { checkpoint: Some(checkpoint), force: Some(_), .. }) => {
            Next::Continue(*checkpoint)
        }
        Some(Request::Continue { force: Some(_), .. }) => match state.good().first() {
            Some(latest) => Next::Continue(*latest),
            None => start_over(ask).unwrap_or(Next::Refuse(Refusal::NoPoint)),
        },
        Some(Request::Continue { .. }) => Next::Refuse(Refusal::StillRuns { node }),
        Some(Request::Fork(_)) => Next::Refuse(Refusal::Exists { node }),
        None => Next::Refuse(Refusal::NotOwner { node }),
    }
}

/// In place of a life that is given up on a person's word, where nothing of it is left to go on from.
fn start_over(ask: &Ask) -> Option<Next> {
    let Some(Request::Continue { force: Some(force), begins, .. }) = ask.open_request() else {
        return None;
    };
    let force = force.clone();
    let may = *begins || ask.start.on_failure == OnFailure::Cold;
    may.then_some(Next::Claim(Kind::StartOver { who: force.who, why: force.why }))
}

/// What follows when this point of a lineage that another one owns is gone. An older one has to be asked for by name.
pub(super) fn without(spec: &TargetSpec, state: &State, gone: CheckpointId) -> Option<Next> {
    let theirs = matches!(state, State::Owned { owner, .. } if !same_place(owner, &spec.pen.me));
    let by_name = spec.ask.asked().is_some() || state.point_before(gone).is_some();
    if theirs && !by_name { start_over(&spec.ask) } else { None }
}

fn on_our_offer(checkpoint: CheckpointId, rules: Rules) -> Next {
    if rules.hold(Rule::OfferedDead) && rules.hold(Rule::DeathEntries) {
        return Next::Write(Kind::died_at(checkpoint));
    }
    Next::Refuse(Refusal::BeingMoved { checkpoint })
}

fn on_stopped(ask: &Ask, checkpoint: CheckpointId, here: bool) -> Next {
    match ask.open_request() {
        Some(Request::Continue { .. }) => continue_at(ask, checkpoint),
        Some(Request::Fork(_)) => Next::Refuse(Refusal::Stopped { checkpoint }),
        None if ask.start.on_lost == OnLost::Latest => Next::Continue(checkpoint),
        None if here && ask.start.on_lost == OnLost::Never => Next::Cold(ColdReason::RestoreNever),
        // Refused, unless the point is missing.
        None if here => Next::Continue(checkpoint),
        None => Next::Refuse(Refusal::Stopped { checkpoint }),
    }
}

/// A lineage has one point to go on from.
fn continue_at(ask: &Ask, latest: CheckpointId) -> Next {
    match ask.asked() {
        Some(asked) if asked != latest => Next::Refuse(Refusal::OtherPoint { asked, latest }),
        _ => Next::Continue(latest),
    }
}

/// Whether the point of this state is really to be restored by this start; if not, only its absence matters.
pub(super) fn continues(spec: &TargetSpec, state: &State) -> bool {
    let ask = &spec.ask;
    ask.open_request().is_some()
        || matches!(state, State::Stopped { .. }) && ask.start.on_lost == OnLost::Latest
}

/// Whether a missing point of this state lets this start begin from the image.
pub(super) fn may_give_up(spec: &TargetSpec, state: &State) -> bool {
    let here = state.owner().is_some_and(|owner| same_place(owner, &spec.pen.me));
    let wants = spec.ask.start.on_failure == OnFailure::Cold || spec.ask.consumed();
    matches!(state, State::Stopped { .. }) && here && wants
}

/// The entry with which held tasks of `restored` may claim this state.
pub(super) fn claim(
    ask: &Ask,
    state: &State,
    me: &Owner,
    restored: CheckpointId,
) -> Result<Kind, Refusal> {
    let force = match ask.open_request() {
        Some(Request::Fork(fork)) => {
            return Ok(Kind::Start { forked_from: Some(fork.clone()) });
        }
        Some(Request::Continue { force, .. }) => force.clone(),
        None => None,
    };
    let word = match (state, force) {
        (State::Owned { owner, .. }, Some(force)) if !same_place(owner, me) => {
            still_latest(ask, state, restored)?;
            Word::Force { who: force.who, why: force.why }
        }
        _ => Word::Owner,
    };
    Ok(Kind::TakeOver { checkpoint: restored, word })
}

/// A point that was not asked for by name is the latest one, also when the tasks are held.
fn still_latest(ask: &Ask, state: &State, restored: CheckpointId) -> Result<(), Refusal> {
    match state.good().first() {
        Some(latest) if ask.asked().is_none() && *latest != restored => {
            Err(Refusal::OtherPoint { asked: restored, latest: *latest })
        }
        _ => Ok(()),
    }
}
