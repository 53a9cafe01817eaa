//! The moment in which held tasks are let go: CRIU may take its time, or hang.
//!
//! The machine's next action waits for it, and with it all that would change the pod: that is heard afterwards, in its order. Heard at
//! once is what cannot wait and changes nothing that the machine decides: an agent that looks, and a kill.

use std::collections::VecDeque;
use std::time::Duration;

use godwit_ownership::shim::Conn;
use godwit_wire::Received;
use godwit_wire::shim_op::ToShimBody;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::INPUTS;
use super::actor::Actor;
use super::input::Input;
use super::starting::{Held, Member, Starting};
use crate::container::Container;
use crate::restore::attempt::Decision;

/// How long CRIU may take to let go of its tasks.
const RUNS: Duration = Duration::from_secs(100);

impl Actor {
    /// Lets the held tasks run; `false`: they are dead.
    pub(super) async fn run_held(&mut self) -> bool {
        let Some(released) = self.starting.as_mut().and_then(Starting::release) else {
            return false;
        };
        let released = tokio::time::timeout(RUNS, released);
        tokio::pin!(released);
        loop {
            let room = self.later.len() < INPUTS;
            tokio::select! {
                biased;
                runs = &mut released => return runs.unwrap_or(false),
                Some(input) = self.heard.recv(), if room => self.meanwhile(input).await,
            }
        }
    }

    /// The next word: those that had to wait come first.
    pub(super) async fn next_input(&mut self) -> Option<Input> {
        match self.later.pop_front() {
            Some(input) => Some(input),
            None => self.heard.recv().await,
        }
    }

    async fn meanwhile(&mut self, input: Input) {
        match input {
            Input::Accepted(socket) => drop(self.conns.serve(socket)),
            Input::Message(from, Received { body: ToShimBody::Attach(_), .. })
                if !has_asked(&self.later, from) =>
            {
                let status = self.status();
                self.conns.tell(from, status, &[]).await;
            }
            Input::GiveUp(container, done) => {
                self.kill_released(&container);
                self.later.push_back(Input::GiveUp(container, done));
            }
            input => self.later.push_back(input),
        }
    }

    /// A kill of what is being let go. Nothing of it has run as far as anybody was told: it is as if it had died while it was held, and
    /// whoever asked is answered when that is known.
    fn kill_released(&self, container: &Container) {
        let released = self.starting.as_ref().is_some_and(|starting| starting.has(container));
        let Some(cgroup) = container.cgroup().filter(|_| released) else { return };
        info!(container = container.id(), "killed while it is let go");
        if let Err(why) = cgroup.kill() {
            warn!(container = container.id(), %why, "killing everyone in a cgroup failed");
        }
    }
}

/// Whether a message of this connection waits for its answer: answers come in the order of the questions.
fn has_asked(later: &VecDeque<Input>, conn: Conn) -> bool {
    later.iter().any(|input| matches!(input, Input::Message(from, _) if *from == conn))
}

impl Starting {
    /// Tells the attempts to let their tasks run. `None`: there is nothing to be let run. The future tells whether all of them run; if
    /// not, it ends when the attempts that failed have.
    fn release(&mut self) -> Option<impl Future<Output = bool> + 'static + use<>> {
        // All or none: nobody is let go before everybody can be.
        if !self.members_mut().all(|member| member.can_be_released()) {
            return None;
        }
        let released: Vec<_> = self.members_mut().filter_map(Member::release).collect();
        self.granted = true;
        Some(async move {
            let mut all = true;
            for runs in released {
                all &= runs.await;
            }
            all
        })
    }
}

impl Member {
    fn can_be_released(&self) -> bool {
        let decision = self.attempt.as_ref().and_then(|attempt| attempt.decision.as_ref());
        decision.is_some_and(|decision| !decision.is_closed())
    }

    fn release(&mut self) -> Option<impl Future<Output = bool> + 'static + use<>> {
        let Held { decision, over } = self.attempt.as_mut()?;
        let (ran, runs) = oneshot::channel();
        decision.take()?.send(Decision::Run(ran)).ok()?;
        let mut over = over.clone();
        Some(async move {
            let runs = runs.await.is_ok();
            if !runs {
                // Its task is gone: it was over.
                let _ = over.wait_for(|over| *over).await;
            }
            runs
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use godwit_ownership::ShimMachine;
    use godwit_types::Incarnation;
    use godwit_wire::shim_op::{Attach, FromShim, FromShimBody, Thaw, ToShim};
    use godwit_wire::{AsyncSocket, Socket};
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::container::tests::restoring;
    use crate::fence::FenceFile;
    use crate::op::Places;
    use crate::op::starting::tests::held;
    use crate::pod::tests::pod_of;

    type Agent = AsyncSocket<ToShim, FromShim>;

    const SOON: Duration = Duration::from_secs(60);

    /// A pod whose restored container is held.
    struct Scene {
        actor: Actor,
        inputs: mpsc::Sender<Input>,
        container: Arc<Container>,
        decision: oneshot::Receiver<Decision>,
        over: watch::Sender<bool>,
    }

    impl Scene {
        fn new() -> Self {
            let container = restoring("c");
            let pod = pod_of(&container);
            let key = pod.identity().key().unwrap();
            let fence = FenceFile::within(std::path::Path::new("/nonexistent"), &key);
            let machine = ShimMachine::new(key.to_string(), Incarnation::mint(), None);
            let (inputs, heard) = mpsc::channel(INPUTS);
            let (key, way) = (key.to_string(), (inputs.clone(), heard));
            let mut actor = Actor::new(pod, key, Places::default(), fence, machine, way);
            let (starting, decision, over) = held(&container);
            actor.starting = Some(starting);
            Self { actor, inputs, container, decision, over }
        }

        /// An agent that has connected.
        async fn agent(&self) -> Agent {
            let (ours, theirs) = Socket::<FromShim, ToShim>::pair().unwrap();
            let ours = AsyncSocket::from_fd(ours.into_fd()).unwrap();
            self.inputs.send(Input::Accepted(ours)).await.unwrap();
            Agent::from_fd(theirs.into_fd()).unwrap()
        }
    }

    /// What lets the tasks go, once it was told to.
    async fn told_to_run(decision: oneshot::Receiver<Decision>) -> oneshot::Sender<()> {
        match decision.await.unwrap() {
            Decision::Run(ran) => ran,
            Decision::Abort => panic!("given up"),
        }
    }

    #[tokio::test]
    async fn an_agent_that_looks_is_answered_while_tasks_are_let_go_and_all_else_waits() {
        let mut scene = Scene::new();
        let (looks, thaws) = (scene.agent().await, scene.agent().await);
        let decision = scene.decision;
        let meanwhile = async {
            let ran = told_to_run(decision).await;
            thaws.send(Thaw {}, &[]).await.unwrap();
            thaws.send(Attach {}, &[]).await.unwrap();
            looks.send(Attach {}, &[]).await.unwrap();
            let answer = looks.recv_timeout(SOON).await.unwrap().unwrap().body;
            assert!(matches!(answer, FromShimBody::Status(_)), "{answer:?}");
            ran.send(()).unwrap();
        };
        let (runs, ()) = tokio::join!(scene.actor.run_held(), meanwhile);
        assert!(runs);
        // Those that wait come next, in their order.
        let mut next = Vec::new();
        for _ in 0..2 {
            next.push(scene.actor.next_input().await.unwrap());
        }
        let kinds: Vec<_> = next.iter().map(|input| format!("{input:?}")).collect();
        assert_eq!(kinds, ["Thaw", "Attach"]);
    }

    #[tokio::test]
    async fn tasks_that_do_not_run_are_dead_before_the_machine_hears_of_it() {
        let mut scene = Scene::new();
        let (done, mut given_up) = oneshot::channel();
        scene.inputs.send(Input::GiveUp(Arc::clone(&scene.container), done)).await.unwrap();
        let (decision, over) = (scene.decision, scene.over);
        let meanwhile = async {
            drop(told_to_run(decision).await);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        let mut runs = Box::pin(scene.actor.run_held());
        tokio::select! {
            biased;
            _ = &mut runs => panic!("it is not proved dead yet"),
            () = meanwhile => {}
        }
        assert!(given_up.try_recv().is_err(), "whoever kills is told when all are dead");
        over.send_replace(true);
        assert!(!runs.await);
        let next = scene.actor.next_input().await.unwrap();
        assert!(matches!(next, Input::GiveUp(..)), "{next:?}");
    }
}
