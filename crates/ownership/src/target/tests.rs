//! Starts driven over a log in memory, with a shim that does what it is told.

use godwit_types::{CheckpointId, Generation, Incarnation, LineageName, Nonce, Owner, Seq, Tenant};

use super::{Target, TargetSpec};
use crate::entry::{Basis, Entry, Pen};
use crate::fence::{Asked, Fence, FenceState, LineageRef};
use crate::machine::{Action, Ending, Event, Machine, Presence, Put, Read};
use crate::message::{Ask, Before, Force, OnFailure, OnLost, Request, Start, ToAgent, ToShim};
use crate::state::{ColdReason, Fork, Kind, StoppedTasks, Word};
use crate::{Refusal, State, fold};

fn owner(node: &str, life: u128) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: node.to_owned(),
        epoch: 0,
        pod_uid: format!("web on {node}"),
        incarnation: Incarnation::from(life),
    }
}

fn p(n: u128) -> CheckpointId {
    CheckpointId::from(n)
}

fn at() -> LineageRef {
    let lineage = LineageName::new("pod/web").unwrap();
    LineageRef { store: "default".to_owned(), tenant: Tenant::node(), lineage }
}

fn pen(me: Owner) -> Pen {
    Pen { me, op: Some(1.into()), nonce: Nonce::from(77), at_ms: 0 }
}

/// A log with these entries of node-1's pod.
fn log(kinds: &[Kind]) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    let start = Kind::Start { forked_from: None };
    for kind in std::iter::once(&start).chain(kinds) {
        let pen = Pen { nonce: Nonce::from(log.len() as u128), ..pen(owner("node-1", 1)) };
        log.push(Basis::of(log.last()).next(&pen, kind.clone()).unwrap());
    }
    log
}

fn stop(n: u128) -> Kind {
    Kind::Stop { checkpoint: p(n), tasks: StoppedTasks::Sealed }
}

fn restore(checkpoint: Option<u128>, force: bool) -> Request {
    let force = force.then(|| Force { who: "ann".to_owned(), why: "it burns".to_owned() });
    Request::Continue { checkpoint: checkpoint.map(p), force, begins: false }
}

fn spec(node: &str, life: u128, request: Option<Request>) -> TargetSpec {
    let me = owner(node, life);
    let before = Before { container: "c".to_owned(), reason: ColdReason::Exited, lived_s: None };
    let (on_lost, on_failure) = (OnLost::Image, OnFailure::Refuse);
    let ask = Ask {
        op: 1.into(),
        pod_uid: me.pod_uid.clone(),
        incarnation: me.incarnation,
        fence: None,
        start: Start { request, standing: false, before, on_lost, on_failure },
        others_dead: true,
    };
    TargetSpec { pen: pen(me), at: at(), ask }
}

/// The pod of node-1 itself, started again in another life.
fn again(on_lost: OnLost) -> TargetSpec {
    let mut spec = spec("node-1", 2, None);
    spec.ask.start.on_lost = on_lost;
    spec.ask.fence = Some(Fence {
        at: at(),
        incarnation: Incarnation::from(1),
        state: FenceState::Owned,
        op: None,
        lived: true,
        consumed: None,
        slot: None,
        seen: Some(Seq(1)),
        gone: None,
    });
    spec
}

struct World {
    log: Vec<Entry>,
    gone: Vec<CheckpointId>,
    reachable: bool,
    never: bool,
    /// What others do while the restore is made ready.
    meanwhile: Vec<Entry>,
}

impl World {
    fn new(log: Vec<Entry>) -> Self {
        Self { log, gone: Vec::new(), reachable: true, never: false, meanwhile: Vec::new() }
    }

    fn drive(&mut self, spec: TargetSpec) -> Ending {
        let mut target = Target::new(spec);
        let mut actions = target.step(Event::Begin);
        for _ in 0..100 {
            let action = actions.remove(0);
            assert!(actions.is_empty(), "one action at a time");
            if let Action::Done(ending) = action {
                fold(&self.log).unwrap();
                return ending;
            }
            actions = target.step(self.carry_out(action));
        }
        panic!("it does not end");
    }

    fn carry_out(&mut self, action: Action) -> Event {
        match action {
            Action::ReadNewest if !self.reachable => Event::Newest(Read::Unavailable),
            Action::ReadNewest => {
                Event::Newest(Read::Known(self.log.last().cloned().map(Box::new)))
            }
            Action::Check(point) if self.gone.contains(&point) => {
                Event::Presence(Read::Known(Presence::Gone))
            }
            Action::Check(_) => Event::Presence(Read::Known(Presence::Exists)),
            Action::Prepare(_) if self.never => Event::CannotRestore { never: true },
            Action::Prepare(_) => {
                self.log.append(&mut self.meanwhile);
                Event::Prepared
            }
            Action::Put(entry) => {
                assert_eq!(entry.seq, self.log.last().map_or(Seq(1), |last| last.seq.next()));
                self.log.push(*entry);
                Event::Put(Put::Created)
            }
            Action::Tell(ToShim::Plan { .. }) => Event::Shim(ToAgent::Held),
            Action::Tell(ToShim::Commit { .. }) => Event::Shim(ToAgent::Committing),
            Action::Tell(ToShim::Resume { .. }) => Event::Shim(ToAgent::Resumed),
            Action::Tell(ToShim::Abort { .. }) => Event::Shim(ToAgent::Done),
            other => panic!("{other:?}"),
        }
    }

    fn newest(&self) -> &Entry {
        self.log.last().unwrap()
    }
}

fn refused(ending: Ending) -> Refusal {
    match ending {
        Ending::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stopped_pod_is_continued_by_one_take_over() {
    let mut world = World::new(log(&[stop(1)]));
    let ending = world.drive(spec("node-2", 5, Some(restore(Some(1), false))));
    assert!(matches!(ending, Ending::Resumed(_)), "{ending:?}");
    assert_eq!(world.log.len(), 3);
    assert_eq!(world.newest().kind, Kind::TakeOver { checkpoint: p(1), word: Word::Owner });
    assert!(world.newest().state.lets_run(&owner("node-2", 5)));
}

#[test]
fn a_running_pods_checkpoint_is_not_continued() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(Some(1), false)))));
    assert_eq!(
        refusal.told("web"),
        "web still runs on node-1: stop it with `godwit checkpoint --stop`, or copy this point with fork-from; if node-1 is dead, continue it with godwit.dev/force=REASON beside restore-from"
    );
    assert_eq!(world.log.len(), 2);
}

#[test]
fn force_takes_a_running_pod_and_says_who_and_why() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    world.drive(spec("node-2", 5, Some(restore(None, true))));
    let word = Word::Force { who: "ann".to_owned(), why: "it burns".to_owned() };
    assert_eq!(world.newest().kind, Kind::TakeOver { checkpoint: p(1), word });
}

#[test]
fn an_older_point_that_was_taken_by_force_and_whose_memory_did_not_come_is_asked_for_again() {
    let point = |n| Kind::Checkpoint { checkpoint: p(n) };
    let mut world = World::new(log(&[point(1), point(2)]));
    world.drive(spec("node-2", 5, Some(restore(Some(1), true))));
    // Another of its containers was started again meanwhile.
    world.drive(spec("node-2", 5, None));
    let ending = world.drive(spec("node-2", 5, Some(restore(Some(1), false))));
    assert!(matches!(ending, Ending::Resumed(_)), "{ending:?}");
    let taken = Kind::TakeOver { checkpoint: p(1), word: Word::Owner };
    let kinds = world.log.iter().rev().map(|entry| entry.kind.clone()).take(2).collect::<Vec<_>>();
    assert_eq!(kinds, [taken, Kind::died_at(p(1))]);
    // Another life may have made newer ones.
    let mut world = World::new(log(&[point(1), point(2)]));
    world.drive(spec("node-2", 5, Some(restore(Some(1), true))));
    let refusal = refused(world.drive(spec("node-2", 6, Some(restore(Some(1), false)))));
    assert_eq!(refusal, Refusal::OtherPoint { asked: p(1), latest: p(2) });
}

#[test]
fn force_begins_from_the_image_where_a_dead_life_has_left_nothing_and_the_pod_may() {
    let over = Kind::StartOver { who: "ann".to_owned(), why: "it burns".to_owned() };
    let force = || Some(Force { who: "ann".to_owned(), why: "it burns".to_owned() });
    let latest = || Request::Continue { checkpoint: None, force: force(), begins: true };
    let point = || log(&[Kind::Checkpoint { checkpoint: p(1) }]);
    for (written, gone) in [(log(&[]), vec![]), (point(), vec![p(1)])] {
        let mut world = World { gone, ..World::new(written) };
        let ending = world.drive(spec("node-2", 5, Some(latest())));
        assert!(matches!(ending, Ending::Resumed(_)), "{ending:?}");
        assert_eq!(world.newest().kind, over);
        assert_eq!(world.newest().generation, Generation(1));
    }
    // What is there is continued; by name, or where the pod wants nothing but its memory, nothing else is begun.
    let mut world = World::new(point());
    world.drive(spec("node-2", 5, Some(latest())));
    assert!(matches!(world.newest().kind, Kind::TakeOver { .. }));
    let mut world = World::new(log(&[]));
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(None, true)))));
    assert_eq!(refusal, Refusal::NoPoint);
    let mut world = World { gone: vec![p(1)], ..World::new(point()) };
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(Some(1), true)))));
    assert_eq!(refusal, Refusal::PointGone { checkpoint: p(1) });
}

#[test]
fn a_fork_begins_a_lineage_of_its_own() {
    let mut world = World::new(Vec::new());
    let fork = Fork { lineage: LineageName::new("pod/other").unwrap(), checkpoint: p(1) };
    let ending = world.drive(spec("node-2", 5, Some(Request::Fork(fork.clone()))));
    assert!(matches!(ending, Ending::Resumed(_)), "{ending:?}");
    assert_eq!(world.newest().kind, Kind::Start { forked_from: Some(fork) });
}

/// Another pod's life at node-3: it takes the point over, and ends there.
fn lives_and_dies(log: &[Entry]) -> Vec<Entry> {
    let mut all = log.to_vec();
    let take_over = Kind::TakeOver { checkpoint: p(1), word: Word::Owner };
    for kind in [take_over, Kind::died_at(p(1))] {
        let pen = Pen { nonce: Nonce::from(all.len() as u128), ..pen(owner("node-3", 3)) };
        all.push(Basis::of(all.last()).next(&pen, kind).unwrap());
    }
    all.split_off(log.len())
}

#[test]
fn what_has_run_since_its_restore_was_begun_is_not_claimed_though_it_is_offered_again() {
    let log = log(&[stop(1)]);
    let meanwhile = lives_and_dies(&log);
    let mut world = World { meanwhile, ..World::new(log) };
    let spec = spec("node-2", 5, Some(restore(Some(1), false)));
    let refusal = refused(world.drive(spec.clone()));
    assert_eq!((&refusal, refusal.code()), (&Refusal::Overtaken, godwit_types::Code::Unavailable));
    assert_eq!(world.newest().by, owner("node-3", 3));
    // Another try begins from there.
    assert!(matches!(world.drive(spec), Ending::Resumed(_)));
}

#[test]
fn force_does_not_claim_what_has_been_taken_over_since_either() {
    let log = log(&[stop(1)]);
    let mut meanwhile = lives_and_dies(&log);
    meanwhile.truncate(1);
    let mut world = World { meanwhile, ..World::new(log) };
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(Some(1), true)))));
    assert_eq!(refusal, Refusal::Overtaken);
}

#[test]
fn an_older_point_is_not_continued() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }, stop(2)]));
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(Some(1), false)))));
    assert_eq!(refusal, Refusal::OtherPoint { asked: p(1), latest: p(2) });
}

#[test]
fn a_lineage_that_is_not_there_is_not_continued() {
    let mut world = World::new(Vec::new());
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(Some(1), false)))));
    assert_eq!(refusal, Refusal::NoLineage);
}

#[test]
fn a_store_that_does_not_answer_refuses_and_writes_nothing() {
    let mut world = World::new(log(&[stop(1)]));
    world.reachable = false;
    let refusal = refused(world.drive(spec("node-2", 5, Some(restore(Some(1), false)))));
    assert_eq!((refusal, world.log.len()), (Refusal::StoreAway, 2));
}

#[test]
fn a_pod_that_was_stopped_does_not_start_from_its_image() {
    let mut world = World::new(log(&[stop(1)]));
    let refusal = refused(world.drive(again(OnLost::Image)));
    assert_eq!(refusal, Refusal::Stopped { checkpoint: p(1) });
}

#[test]
fn a_pod_that_is_never_restored_starts_from_its_image_and_says_so() {
    let mut world = World::new(log(&[stop(1)]));
    world.drive(again(OnLost::Never));
    let Kind::Cold { reason, .. } = world.newest().kind else { panic!("{:?}", world.newest()) };
    assert_eq!(reason, ColdReason::RestoreNever);
}

#[test]
fn a_lost_life_is_written_down_before_its_latest_point_is_continued() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    world.drive(again(OnLost::Latest));
    let kinds: Vec<_> = world.log.iter().map(|entry| entry.kind.word()).collect();
    assert_eq!(kinds, ["start", "checkpoint", "stop", "take-over"]);
}

#[test]
fn a_lost_life_continues_from_an_older_point_when_the_latest_is_gone() {
    let points = [Kind::Checkpoint { checkpoint: p(1) }, Kind::Checkpoint { checkpoint: p(2) }];
    let mut world = World::new(log(&points));
    world.gone = vec![p(2)];
    world.drive(again(OnLost::Latest));
    assert_eq!(world.newest().kind, Kind::TakeOver { checkpoint: p(1), word: Word::Owner });
}

#[test]
fn a_restarted_container_appends_cold_first() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let mut spec = again(OnLost::Image);
    spec.pen.me.incarnation = Incarnation::from(1);
    world.drive(spec);
    assert_eq!(world.newest().kind.word(), "cold");
    assert!(world.newest().state.lets_run(&owner("node-1", 1)));
}

#[test]
fn a_pod_whose_offer_outlived_its_tasks_is_stopped_at_the_same_point() {
    let offer = Kind::Offer { checkpoint: p(1), to: None };
    let mut world = World::new(log(&[offer]));
    world.drive(again(OnLost::Latest));
    let kinds: Vec<_> = world.log.iter().map(|entry| entry.kind.word()).collect();
    assert_eq!(kinds, ["start", "offer", "stop", "take-over"]);
}

#[test]
fn an_earlier_life_that_still_lives_is_waited_for() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let mut spec = again(OnLost::Image);
    spec.ask.others_dead = false;
    assert_eq!(refused(world.drive(spec)), Refusal::OthersLive);
}

#[test]
fn a_point_that_can_never_be_restored_gives_way_to_the_image_if_that_is_wanted() {
    let mut world = World::new(log(&[stop(1)]));
    world.never = true;
    let mut wanted = spec("node-2", 5, Some(restore(Some(1), false)));
    let refusal = refused(world.drive(wanted.clone()));
    assert_eq!(refusal, Refusal::CannotRestore { checkpoint: p(1) });
    wanted.ask.start.on_failure = OnFailure::Cold;
    world.drive(wanted);
    let State::Owned { owner: named, restored, .. } = &world.newest().state else { panic!() };
    assert_eq!((named, restored), (&owner("node-2", 5), &None));
}

/// The pod of node-1, whose ordinary life a reboot has ended, started again by a person who asks for a point.
fn asked_again(request: Request) -> TargetSpec {
    let mut spec = again(OnLost::Image);
    spec.ask.start.request = Some(request);
    spec
}

fn fork(n: u128) -> Request {
    Request::Fork(Fork { lineage: LineageName::new("pod/other").unwrap(), checkpoint: p(n) })
}

#[test]
fn a_request_after_a_life_that_it_did_not_begin_is_not_consumed() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let ending = world.drive(asked_again(restore(Some(1), false)));
    assert!(matches!(ending, Ending::Resumed(_)), "{ending:?}");
    let kinds: Vec<_> = world.log.iter().map(|entry| entry.kind.word()).collect();
    assert_eq!(kinds, ["start", "checkpoint", "stop", "take-over"]);
}

#[test]
fn without_a_pod_object_the_same_request_is_a_new_one_in_another_life() {
    let points = [Kind::Checkpoint { checkpoint: p(1) }, Kind::Checkpoint { checkpoint: p(2) }];
    let mut spec = asked_again(restore(Some(1), false));
    let consumed = spec.ask.start.request.as_ref().map(Request::asked);
    spec.ask.fence.as_mut().unwrap().consumed = consumed;
    let refusal = refused(World::new(log(&points)).drive(spec.clone()));
    assert_eq!(refusal, Refusal::OtherPoint { asked: p(1), latest: p(2) });
    World::new(log(&points[..1])).drive(spec);
}

#[test]
fn a_pod_object_that_repeats_its_request_asks_for_nothing_new() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let mut spec = asked_again(restore(Some(1), false));
    spec.ask.start.standing = true;
    spec.ask.fence.as_mut().unwrap().consumed = Some(Asked::RestoreFrom(Some(p(1))));
    world.drive(spec.clone());
    assert_eq!(world.newest().kind.word(), "cold");
    spec.ask.fence.as_mut().unwrap().consumed = Some(Asked::ForkFrom(p(1)));
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    world.drive(spec);
    assert_eq!(world.newest().kind.word(), "take-over");
}

#[test]
fn a_container_that_is_started_again_in_its_life_has_consumed_its_request() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let mut spec = asked_again(restore(Some(1), false));
    spec.ask.fence.as_mut().unwrap().incarnation = spec.ask.incarnation;
    world.drive(spec);
    assert_eq!(world.newest().kind.word(), "cold");
}

#[test]
fn a_copy_under_the_name_of_a_lost_life_ends_nothing_that_can_be_continued() {
    let mut world = World::new(log(&[Kind::Checkpoint { checkpoint: p(1) }]));
    let refusal = refused(world.drive(asked_again(fork(5))));
    assert_eq!(refusal, Refusal::Stopped { checkpoint: p(1) });
    assert_eq!(world.newest().kind, Kind::died_at(p(1)));
    let mut world = World::new(log(&[]));
    world.drive(asked_again(fork(5)));
    let kinds: Vec<_> = world.log.iter().map(|entry| entry.kind.word()).collect();
    assert_eq!(kinds, ["start", "end", "start"]);
}

#[test]
fn a_log_that_is_shorter_than_the_fence_says_starts_nothing() {
    let mut spec = again(OnLost::Image);
    spec.ask.fence.as_mut().unwrap().slot = Some(Seq(4));
    for log in [Vec::new(), log(&[Kind::Checkpoint { checkpoint: p(1) }])] {
        let (mut world, len) = (World::new(log.clone()), log.len());
        assert_eq!(refused(world.drive(spec.clone())), Refusal::StoreAway);
        assert_eq!(world.log.len(), len);
    }
}
