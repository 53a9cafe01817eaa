//! Every state of the shim that a few events can reach, against every event: whatever comes in whatever order, tasks run only where
//! they may, and every message is answered.

use std::collections::{HashSet, VecDeque};

use godwit_types::{
    CheckpointId, Incarnation, LineageName, Nonce, OpId, Outcome, Owner, Seq, Tenant,
};

use super::{Action, Conn, CriuEnd, Event, Phase, ShimMachine, StartCall, Tasks};
use crate::fence::{FenceState, Gone, LineageRef};
use crate::message::{Before, OnFailure, OnLost, Request, Start, ToAgent, ToShim};
use crate::state::{ColdReason, Kind, Points, StoppedTasks, Word};
use crate::{Entry, Refusal, State};

const POD: &str = "pod";

fn owner(pod: &str, life: u128) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: format!("node of {pod}"),
        epoch: 0,
        pod_uid: pod.to_owned(),
        incarnation: Incarnation::from(life),
    }
}

fn point() -> CheckpointId {
    CheckpointId::from(7)
}

fn at() -> LineageRef {
    let lineage = LineageName::new("pod/web").unwrap();
    LineageRef { store: "default".to_owned(), tenant: Tenant::node(), lineage }
}

fn entry(seq: u64, kind: Kind, state: State) -> Box<Entry> {
    let by = state.owner().cloned().unwrap();
    let (nonce, generation) = (Nonce::from(1), Default::default());
    Box::new(Entry { seq: Seq(seq), nonce, op: None, kind, state, generation, by, at_ms: 0 })
}

fn mine() -> State {
    State::Owned { owner: owner(POD, 1), restored: None, good: Points::default() }
}

fn theirs() -> State {
    State::Owned { owner: owner("other", 2), restored: None, good: Points::default() }
}

fn offer() -> Box<Entry> {
    let state = State::Offered {
        owner: owner(POD, 1),
        checkpoint: point(),
        to: None,
        good: Points::default(),
    };
    entry(5, Kind::Offer { checkpoint: point(), to: None }, state)
}

fn stop() -> Box<Entry> {
    let kind = Kind::Stop { checkpoint: point(), tasks: StoppedTasks::Sealed };
    let (owner, good) = (owner(POD, 1), Points::default());
    entry(5, kind, State::Stopped { owner, checkpoint: point(), good })
}

fn taken(state: State) -> Box<Entry> {
    entry(6, Kind::TakeOver { checkpoint: point(), word: Word::Owner }, state)
}

fn call(request: bool) -> Event {
    let request =
        request.then_some(Request::Continue { checkpoint: None, force: None, begins: false });
    let before = Before { container: "c".to_owned(), reason: ColdReason::Exited, lived_s: None };
    let (on_lost, on_failure) = (OnLost::Image, OnFailure::Refuse);
    let asked = request.as_ref().map(Request::asked);
    let start = Start { request, standing: true, before, on_lost, on_failure };
    Event::Start(Box::new(StartCall { op: OpId::from(3), start, asked }))
}

fn messages() -> Vec<ToShim> {
    let begin = |outcome| ToShim::Begin { op: OpId::from(4), outcome, at: at() };
    let commit = |entry| ToShim::Commit { at: at(), entry };
    let unseal = |entry, unwritten| ToShim::Unseal { entry, unwritten };
    vec![
        ToShim::Attach,
        begin(Outcome::Run),
        begin(Outcome::Offer),
        ToShim::Freeze,
        ToShim::Thaw,
        ToShim::Cancel { unfence: false },
        ToShim::Cancel { unfence: true },
        ToShim::Seal { entry: offer(), reclaim_after_s: Some(1) },
        ToShim::Seal { entry: stop(), reclaim_after_s: None },
        ToShim::Hold { entry: entry(6, Kind::Reclaim, mine()) },
        ToShim::Stands { entry: entry(4, Kind::Reclaim, mine()) },
        unseal(entry(6, Kind::Reclaim, mine()), false),
        unseal(entry(4, Kind::Reclaim, mine()), false),
        unseal(entry(4, Kind::Reclaim, mine()), true),
        unseal(entry(3, Kind::Reclaim, mine()), true),
        unseal(taken(theirs()), false),
        unseal(taken(theirs()), true),
        ToShim::Stopped { entry: stop() },
        ToShim::Stopped { entry: offer() },
        ToShim::Moved { entry: taken(theirs()) },
        ToShim::Moved { entry: taken(mine()) },
        ToShim::Plan { checkpoint: point() },
        commit(taken(mine())),
        commit(taken(theirs())),
        ToShim::Resume { entry: taken(mine()) },
        ToShim::Resume { entry: taken(theirs()) },
        ToShim::Abort { why: Refusal::Busy },
        ToShim::Abort { why: Refusal::StoreAway },
    ]
}

fn events() -> Vec<Event> {
    let from = [Conn(1), Conn(2)];
    let said = from.into_iter().flat_map(|from| {
        messages().into_iter().map(move |message| Event::Message { from, message })
    });
    let end =
        |dumped, frozen, killed| Event::CriuEnded(CriuEnd { member: 0, dumped, frozen, killed });
    let rest = [
        Event::Ended(Conn(1)),
        Event::Ended(Conn(2)),
        Event::Asked(Conn(1)),
        Event::AgentAway,
        call(false),
        call(true),
        Event::StartDeadline,
        Event::Held,
        Event::Released,
        Event::RestoreFailed { never: true },
        Event::Proved(true),
        Event::Proved(false),
        Event::CriuStarted,
        end(true, true, false),
        end(false, false, false),
        end(false, true, true),
        Event::Frozen { members: 1 },
        Event::FreezeFailed,
        Event::FreezeDeadline,
        Event::Woken,
        Event::Thawed,
        Event::Kill,
        Event::Killed,
        Event::Died,
        Event::Unfilled,
        Event::Gone(Gone::Lost),
        Event::FenceFailed,
    ];
    said.chain(rest).collect()
}

/// Visits every state that `depth` events can reach.
fn every(depth: usize, mut check: impl FnMut(&ShimMachine, &Event, &[Action], &ShimMachine)) {
    let events = events();
    let first = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    let mut seen = HashSet::from([first.clone()]);
    let mut todo = VecDeque::from([(first, 0)]);
    while let Some((before, steps)) = todo.pop_front() {
        for event in &events {
            let mut after = before.clone();
            let actions = after.step(event.clone());
            check(&before, event, &actions, &after);
            if steps < depth && seen.insert(after.clone()) {
                todo.push_back((after, steps + 1));
            }
        }
    }
    assert!(seen.len() > 500, "only {} states were seen", seen.len());
}

const DEPTH: usize = 9;

#[test]
fn every_message_in_every_state_is_answered_once() {
    every(DEPTH, |before, event, actions, after| {
        let Event::Message { from, message } = event else { return };
        let answers = actions
            .iter()
            .filter(|action| matches!(action, Action::Send { to, .. } if to == from))
            .count();
        let later = actions.iter().any(|a| {
            let begins = matches!(a, Action::Freeze | Action::Thaw | Action::Kill);
            begins || matches!(a, Action::Restore(_) | Action::RunHeld)
        }) || after.phase() == Phase::Killing;
        assert!(
            answers == 1 || answers == 0 && later,
            "{message:?} in {before:?} gives {actions:?}"
        );
    });
}

#[test]
fn a_sealed_pod_runs_only_by_an_unseal_that_names_it() {
    every(DEPTH, |before, event, actions, after| {
        if before.phase() != Phase::Sealed || after.tasks() != Tasks::Running {
            return;
        }
        let Event::Message { message: ToShim::Unseal { entry, unwritten }, .. } = event else {
            panic!("{event:?} in {before:?} gives {actions:?}");
        };
        let settled = entry.seq >= Seq(5) || *unwritten && entry.seq == Seq(4);
        assert!(settled && entry.state == mine(), "{entry:?}");
    });
}

#[test]
fn a_frozen_pod_is_let_go_by_a_thaw_or_killed() {
    every(DEPTH, |before, event, actions, after| {
        if before.tasks() != Tasks::Frozen || after.tasks() == Tasks::Dead {
            return;
        }
        let kept = after.tasks() == Tasks::Frozen
            && matches!(after.phase(), Phase::Checkpointing | Phase::Sealed | Phase::Killing);
        assert!(
            kept || actions.contains(&Action::Thaw),
            "{event:?} in {before:?} gives {actions:?}"
        );
    });
}

/// Also by hand: it froze all the same, for its freezer is the cgroup's.
#[test]
fn a_criu_that_dies_while_the_pod_is_being_frozen_does_not_leave_it_so() {
    for frozen in [false, true] {
        let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
        let begin = ToShim::Begin { op: OpId::from(3), outcome: Outcome::Stop, at: at() };
        shim.step(call(false));
        shim.step(said(1, begin));
        shim.step(Event::CriuStarted);
        assert_eq!(shim.step(said(1, ToShim::Freeze)), [Action::Freeze]);
        shim.step(Event::Frozen { members: 1 });
        shim.step(Event::CriuEnded(CriuEnd { member: 0, dumped: false, frozen, killed: false }));
        assert_eq!(shim.step(Event::Ended(Conn(1))), [Action::Thaw]);
    }
}

#[test]
fn a_pod_that_somebody_thawed_is_not_sealed() {
    let tell = |message| Event::Message { from: Conn(1), message };
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    let ended = CriuEnd { member: 0, dumped: true, frozen: true, killed: false };
    let begin = ToShim::Begin { op: OpId::from(3), outcome: Outcome::Stop, at: at() };
    for event in [
        call(false),
        tell(begin),
        tell(ToShim::Freeze),
        Event::CriuStarted,
        Event::Frozen { members: 1 },
        Event::CriuEnded(ended),
        Event::Woken,
    ] {
        shim.step(event);
    }
    let seal = tell(ToShim::Seal { entry: stop(), reclaim_after_s: None });
    assert_eq!(shim.step(seal), [Action::Thaw]);
    let told = shim.step(Event::Thawed);
    assert!(told.contains(&Action::Send { to: Conn(1), message: ToAgent::NotContinuous }));
}

/// What a shim that froze this many says to a seal after these dumps.
fn sealed_after(members: u16, dumps: &[u16]) -> ToAgent {
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    let begin = ToShim::Begin { op: OpId::from(3), outcome: Outcome::Stop, at: at() };
    shim.step(call(false));
    shim.step(said(1, begin));
    dumps.iter().for_each(|_| drop(shim.step(Event::CriuStarted)));
    shim.step(said(1, ToShim::Freeze));
    shim.step(Event::Frozen { members });
    for &member in dumps {
        shim.step(Event::CriuEnded(CriuEnd { member, dumped: true, frozen: true, killed: false }));
    }
    let told = shim.step(said(1, ToShim::Seal { entry: stop(), reclaim_after_s: None }));
    let mut told = told.into_iter().chain(shim.step(Event::Thawed));
    let answer = |action| match action {
        Action::Send { message, .. } => Some(message),
        _ => None,
    };
    told.find_map(answer).unwrap()
}

#[test]
fn a_pod_is_sealed_when_each_of_its_containers_was_dumped() {
    assert_eq!(sealed_after(1, &[0]), ToAgent::Sealed);
    assert_eq!(sealed_after(3, &[2, 0, 1]), ToAgent::Sealed);
    for too_few in [&[][..], &[1], &[0, 1], &[0, 1, 1], &[0, 0, 0]] {
        assert_eq!(sealed_after(3, too_few), ToAgent::NotContinuous, "{too_few:?}");
    }
}

#[test]
fn a_committing_start_ends_only_by_the_agents_word_or_by_death() {
    every(DEPTH, |before, event, actions, after| {
        if before.phase() != Phase::Committing || after.phase() == Phase::Committing {
            return;
        }
        let ends = matches!(
            event,
            Event::Kill
                | Event::Died
                | Event::Unfilled
                | Event::FenceFailed
                | Event::Message {
                    message: ToShim::Resume { .. } | ToShim::Abort { .. } | ToShim::Moved { .. },
                    ..
                }
        );
        assert!(ends, "{event:?} in {before:?} gives {actions:?}");
    });
}

#[test]
fn held_tasks_run_only_by_resume_of_their_own_entry() {
    every(DEPTH, |before, event, actions, _| {
        if !actions.contains(&Action::RunHeld) {
            return;
        }
        assert_eq!(before.phase(), Phase::Committing, "{event:?}");
        let Event::Message { message: ToShim::Resume { entry }, .. } = event else {
            panic!("{event:?} in {before:?}");
        };
        assert_eq!(**entry, *taken(mine()));
    });
}

#[test]
fn a_moved_pod_runs_again_only_by_an_entry_of_its_own() {
    every(DEPTH, |before, event, actions, after| {
        let moved = before.fence().is_some_and(|fence| fence.state == FenceState::Moved);
        let runs =
            actions.iter().any(|a| matches!(a, Action::RunHeld | Action::RunCold | Action::Thaw));
        let resumed = matches!(event, Event::Message { message: ToShim::Resume { .. }, .. });
        assert!(!moved || !runs || resumed, "{event:?} in {before:?} gives {after:?}");
    });
}

#[test]
fn a_pod_without_a_lineage_asks_nobody() {
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    assert_eq!(shim.step(call(false)), [Action::RunCold, Action::Started(Ok(()))]);
}

#[test]
fn the_fence_is_written_before_the_agent_hears_of_it() {
    every(DEPTH, |before, event, actions, _| {
        let fence = actions.iter().position(|a| matches!(a, Action::WriteFence(_)));
        let told = actions.iter().position(|a| {
            let told = |m: &ToAgent| matches!(m, ToAgent::Begun | ToAgent::Committing);
            matches!(a, Action::Send { message, .. } if told(message))
        });
        if let (Some(fence), Some(told)) = (fence, told) {
            assert!(fence < told, "{event:?} in {before:?} gives {actions:?}");
        }
    });
}

/// Up to the entry whose tasks are held.
fn claim() -> impl Iterator<Item = Event> {
    let commit = ToShim::Commit { at: at(), entry: taken(mine()) };
    let before = [call(true), Event::Proved(true), Event::Asked(Conn(1))];
    let plan = said(1, ToShim::Plan { checkpoint: point() });
    before.into_iter().chain([plan, Event::Held, said(1, commit)])
}

#[test]
fn who_starts_after_held_tasks_that_never_ran_asks_for_its_memory_again() {
    for fails in [Event::Died, Event::Kill] {
        let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
        claim().for_each(|event| drop(shim.step(event)));
        assert_eq!(shim.step(said(1, ToShim::Resume { entry: taken(mine()) })), [Action::RunHeld]);
        let told = shim.step(fails).into_iter().chain(shim.step(Event::Killed));
        let told: Vec<_> = told.collect();
        assert!(told.iter().any(|a| matches!(a, Action::Started(Err(_)))), "{told:?}");
        assert!(!writes(&told), "{told:?}");
        assert_eq!(shim.step(call(true)), [Action::Prove]);
        let asks = shim.step(Event::Proved(true));
        let [Action::Ask(ask)] = &asks[..] else { panic!("{asks:?}") };
        assert!(!ask.consumed(), "{ask:?}");
    }
}

#[test]
fn a_life_consumes_its_request_once_it_runs() {
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    claim().for_each(|event| drop(shim.step(event)));
    shim.step(said(1, ToShim::Resume { entry: taken(mine()) }));
    let told = shim.step(Event::Released);
    let fence = shim.fence().unwrap();
    assert!(fence.lived && fence.consumed.is_some() && writes(&told), "{told:?}");
    assert!(told.contains(&Action::Send { to: Conn(1), message: ToAgent::Resumed }));
}

#[test]
fn who_starts_after_a_life_whose_memory_never_came_asks_for_it_again() {
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    claim().for_each(|event| drop(shim.step(event)));
    shim.step(said(1, ToShim::Resume { entry: taken(mine()) }));
    shim.step(Event::Released);
    let told = shim.step(Event::Unfilled);
    assert!(matches!(told[..], [Action::WriteFence(_), Action::Kill]), "{told:?}");
    // Before the last of it is dead nobody starts.
    assert_eq!(shim.step(call(true)), [Action::Started(Err(Refusal::Busy))]);
    shim.step(Event::Killed);
    assert_eq!(shim.step(call(true)), [Action::Prove]);
    let asks = shim.step(Event::Proved(true));
    let [Action::Ask(ask)] = &asks[..] else { panic!("{asks:?}") };
    assert!(!ask.consumed(), "{ask:?}");
}

fn said(from: u32, message: ToShim) -> Event {
    Event::Message { from: Conn(from), message }
}

fn writes(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::WriteFence(_)))
}

#[test]
fn a_fence_that_could_not_be_written_is_written_before_anything_builds_on_it() {
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    let first = claim().map(|event| shim.step(event)).last().unwrap();
    assert!(writes(&first), "{first:?}");
    assert!(shim.step(Event::FenceFailed).contains(&Action::Kill));
    shim.step(Event::Killed);
    let again = claim().map(|event| shim.step(event)).last().unwrap();
    assert!(writes(&again), "{again:?}");
}

#[test]
fn a_zombie_is_killed_although_its_fence_cannot_be_written() {
    let mut shim = ShimMachine::new(POD.to_owned(), Incarnation::from(1), None);
    shim.step(call(false));
    shim.step(said(1, ToShim::Begin { op: OpId::from(4), outcome: Outcome::Run, at: at() }));
    let moved = shim.step(said(1, ToShim::Moved { entry: taken(theirs()) }));
    assert!(matches!(moved[0], Action::WriteFence(_)), "{moved:?}");
    assert_eq!(shim.step(Event::FenceFailed), [Action::Kill]);
}

#[test]
fn a_start_that_runs_is_answered_whether_its_fence_can_be_written_or_not() {
    every(DEPTH, |_, event, actions, _| {
        let fence = actions.iter().position(|a| matches!(a, Action::WriteFence(_)));
        let started = actions.iter().position(|a| matches!(a, Action::Started(Ok(()))));
        if let (Some(fence), Some(started)) = (fence, started) {
            assert!(started < fence, "{event:?} gives {actions:?}");
        }
    });
}
