use std::sync::Arc;

use godwit_ownership::ShimMachine;
use godwit_ownership::message::{Before, OnFailure, OnLost, Start};
use godwit_ownership::shim::StartCall;
use godwit_ownership::state::ColdReason;
use godwit_types::{CheckpointId, Incarnation, OpId, Outcome};
use godwit_wire::shim_op::WireOutcome;
use godwit_wire::{AsyncSocket, LineageAt, Socket};
use tokio::sync::mpsc;

use super::*;
use crate::container::tests::running;
use crate::fence::FenceFile;
use crate::network::Network;
use crate::op::Places;
use crate::pod::tests::pod_of;

/// The operations of a pod that runs one container, and what is said to them.
struct Scene {
    container: Arc<Container>,
    actor: Actor,
    _fences: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let fences = tempfile::tempdir().unwrap();
        let container = running("c");
        let pod = pod_of(&container);
        let key = pod.identity().key().unwrap();
        let mut machine = ShimMachine::new(key.to_string(), Incarnation::mint(), None);
        machine.step(Event::Start(Box::new(start())));
        let file = FenceFile::within(fences.path(), &key);
        let (key, way) = (key.to_string(), mpsc::channel(8));
        let actor = Actor::new(pod, key, Places::default(), file, machine, way);
        Self { container, actor, _fences: fences }
    }

    /// Hears the next word; what it was.
    async fn hear(&mut self) -> String {
        let input = self.actor.next_input().await.unwrap();
        let said = format!("{input:?}");
        self.actor.take(input).await;
        said
    }
}

fn start() -> StartCall {
    let before = Before { container: "c".to_owned(), reason: ColdReason::Exited, lived_s: None };
    let (on_lost, on_failure) = (OnLost::Image, OnFailure::Refuse);
    let start = Start { request: None, standing: true, before, on_lost, on_failure };
    StartCall { op: OpId::mint(), start, asked: None }
}

fn begin() -> BeginCheckpoint {
    let lineage = format!("uid/{}", CheckpointId::mint());
    let at = LineageAt { store: "default".into(), tenant: "_node".into(), lineage };
    BeginCheckpoint {
        op: OpId::mint().to_string(),
        outcome: WireOutcome::from(Outcome::Stop) as i32,
        at: Some(at),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_agent_that_dies_while_executed_processes_end_begins_nothing() {
    let mut scene = Scene::new();
    scene.container.count_exec(1);
    let (agent, shim) = Socket::pair().unwrap();
    let from = scene.actor.conns.serve(AsyncSocket::from_fd(shim.into_fd()).unwrap());
    scene.actor.wait_quiet(from, begin()).await;
    drop::<Socket<godwit_wire::shim_op::ToShim, godwit_wire::shim_op::FromShim>>(agent);
    assert_eq!(scene.hear().await, "ended");
    scene.container.count_exec(-1);
    assert_eq!(scene.hear().await, "quiet");
    assert_eq!(scene.actor.machine.phase(), Phase::Idle);
    assert_eq!(scene.container.state(), State::Running);
    // Nothing keeps new ones out.
    scene.container.wait_to_exec().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_lives_begins_when_executed_processes_have_ended() {
    let mut scene = Scene::new();
    scene.container.count_exec(1);
    let (_agent, shim) =
        Socket::<godwit_wire::shim_op::ToShim, godwit_wire::shim_op::FromShim>::pair().unwrap();
    let from = scene.actor.conns.serve(AsyncSocket::from_fd(shim.into_fd()).unwrap());
    scene.actor.wait_quiet(from, begin()).await;
    scene.container.count_exec(-1);
    assert_eq!(scene.hear().await, "quiet");
    assert_eq!(scene.actor.machine.phase(), Phase::Checkpointing);
}

/// What the agent of an operation says and hears.
type Agent = Socket<godwit_wire::shim_op::ToShim, godwit_wire::shim_op::FromShim>;

impl Scene {
    async fn begins_and_loses_its_agent(&mut self) {
        let (agent, shim) = Agent::pair().unwrap();
        let from = self.actor.conns.serve(AsyncSocket::from_fd(shim.into_fd()).unwrap());
        self.actor.operator = Some(from);
        self.actor.wait_quiet(from, begin()).await;
        drop(agent);
    }
}

#[tokio::test]
async fn an_agent_that_dies_while_a_container_is_being_frozen_is_not_waited_for() {
    let mut scene = Scene::new();
    scene.begins_and_loses_its_agent().await;
    // On its way for longer than a freeze waits.
    let _signal = scene.container.send_signal().await;
    assert_eq!(scene.actor.freeze().await, Event::FreezeFailed);
    let trouble = format!("{:?}", scene.actor.trouble);
    assert!(trouble.contains("the agent of a checkpoint is gone"), "{trouble}");
}

#[tokio::test]
async fn a_container_that_cannot_be_heard_is_killed_rather_than_thawed() {
    let mut scene = Scene::new();
    scene.begins_and_loses_its_agent().await;
    let _signal = scene.container.send_signal().await;
    // It may have fallen silent, and nothing opens it.
    let network = Network::of_file("/proc/self/ns/uts");
    scene.actor.checkpoint.as_mut().unwrap().silent.push(network);
    assert_eq!(scene.actor.freeze().await, Event::Kill);
    let trouble = format!("{:?}", scene.actor.trouble);
    assert!(trouble.starts_with("Some(Damaged { container: \"c\""), "{trouble}");
    assert!(trouble.contains("could not be opened again"), "{trouble}");
}

#[test]
fn how_a_criu_ended_depends_on_what_it_was_doing() {
    let end = |in_freeze, intact| End { in_freeze, intact };
    let told = |dumped, frozen, killed| CriuEnd { member: 3, dumped, frozen, killed };
    // Done, or killed before it had touched a task, or while it worked.
    assert_eq!(end(true, true).told(3, true), told(true, true, false));
    assert_eq!(end(true, false).told(3, true), told(false, false, true));
    // Before the freeze, and while the freezing was under way: it is frozen when that is heard.
    assert_eq!(end(false, false).told(3, false), told(false, false, false));
    for intact in [false, true] {
        assert_eq!(end(false, intact).told(3, true), told(false, true, false));
    }
}
