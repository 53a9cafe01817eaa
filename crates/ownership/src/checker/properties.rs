//! What must hold in every state.
//!
//! * P1 never two live copies. (A copy that ran when a *forced* take-over landed is excused until its agent looks; so is one that
//!   restarts by the stated exception while nobody could be asked. Once told, it may not start.)
//! * P2 never lost by the protocol: a live copy, a frozen source, or an existing checkpoint that can be restored; an acknowledged
//!   stop keeps its checkpoint; no dump older than the tasks is sealed. (Who starts over by force gives up what the owner has.)
//! * P3 from every state the fair steps alone lead to "the owner runs and no zombie does", or to the end (in `search`).
//! * P4 tasks begin to run only when the newest entry names them (in `world`, on the step).
//! * P5 a checkpoint that leaves the pod running is never sealed.
//! * P6 who asks for the pod's memory does not get its image, unless its latest point can never be restored (in `world`, on the step).
//! * P7 connections go on only where no other copy has run since the pod was given away (in `world`, on the step).

use godwit_types::{CheckpointId, Outcome};

use super::ids;
use super::place::{Place, Truth};
use super::world::{Explorer, Manifest, World};
use crate::State;
use crate::shim::Phase;

pub(super) fn broken(explorer: &Explorer, world: &World) -> Option<&'static str> {
    let places = || world.places[..explorer.nodes].iter().map(|id| &**explorer.place(*id));
    let live = places().map(unexcused).sum::<usize>();
    if live > 1 {
        return Some("P1 two live copies");
    }
    if world.acked.is_some_and(|point| !kept(world, point)) {
        return Some("P2 an acknowledged stop lost its checkpoint");
    }
    for place in places() {
        if place.phase() == Phase::Sealed {
            let shim = place.shim.as_ref()?;
            if shim.ran {
                return Some("P2 a state older than its tasks is sealed");
            }
            if shim.machine.outcome() == Some(Outcome::Run) {
                return Some("P5 a checkpoint that leaves the pod running is sealed");
            }
        }
    }
    let lost = !world.lost_ok
        && !world.given_up
        && !places().any(holds)
        && !continuable(world, &explorer.newest(world).state);
    lost.then_some("P2 lost: no copy, no frozen source, no checkpoint")
}

fn unexcused(place: &Place) -> usize {
    let shim = place.truth() == Truth::Running && !place.ex;
    let orphan = place.orphan.is_some_and(|orphan| !orphan.ex);
    usize::from(shim) + usize::from(orphan)
}

/// Something of the pod is in memory here.
fn holds(place: &Place) -> bool {
    place.truth() != Truth::Dead || place.orphan.is_some()
}

/// The point that a request means can be restored.
pub(super) fn latest_is_there(world: &World, state: &State) -> bool {
    state.good().first().is_some_and(|point| restorable(world, *point))
}

fn restorable(world: &World, point: CheckpointId) -> bool {
    let index = ids::index(point);
    kept(world, index) && !world.points[index as usize].bad
}

fn continuable(world: &World, state: &State) -> bool {
    let good = |point: &CheckpointId| restorable(world, *point);
    match state {
        State::Empty | State::Ended { .. } => false,
        State::Offered { checkpoint, .. } | State::Stopped { checkpoint, .. } => good(checkpoint),
        State::Owned { .. } => state.good().iter().any(good),
    }
}

/// It exists, or a tombstone on it will be withdrawn.
fn kept(world: &World, index: u8) -> bool {
    let point = world.points[index as usize];
    point.manifest == Manifest::Yes || point.manifest == Manifest::Tombstone && point.entry
}

/// The owner runs, and no zombie does; or it is over.
pub(super) fn good(explorer: &Explorer, world: &World) -> bool {
    if matches!(explorer.newest(world).state, State::Ended { .. }) {
        return true;
    }
    let mut named = false;
    for n in 0..explorer.nodes {
        let place = explorer.place(world.places[n]);
        if place.truth() == Truth::Running {
            if place.ex {
                return false;
            }
            named |= explorer.names(world, n, place.life());
        }
    }
    named || explorer.newest(world).state == State::Empty
}
