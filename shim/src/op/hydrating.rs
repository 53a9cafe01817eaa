//! Containers that run while their memory is on its way, seen from the operation.
//!
//! The agent that hears that it is all there, or never will be, lets go of the checkpoint. So it is said until an agent has noted it: to
//! the one that began the restore, or, if that one is gone, to the next.

use std::path::Path;
use std::time::{Duration, Instant};

use godwit_ownership::shim::Conn;
use godwit_wire::Refusal;
use godwit_wire::agent_op::{FromAgentBody, Hydrated, HydrationFailed, HydrationOver};
use godwit_wire::pager::Totals;
use godwit_wire::shim_op::HydratingRecord;

use super::actor::Actor;
use super::input::Asked;
use super::starting::Point;
use crate::container::Container;
use crate::state::Step;

/// Between attempts to tell an agent: doubles from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How long an agent may take to note it.
const NOTING: Duration = Duration::from_secs(60);
/// As long as what the agent has to let go of lives by itself.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// One of them.
#[derive(Debug)]
pub(super) struct Hydrating {
    pub(super) point: Point,
    /// The connection of its restore, while its agent lives.
    pub(super) conn: Option<Conn>,
    pub(super) begun: Instant,
}

impl Actor {
    /// All memory is there, or the container was killed for the lack of it.
    pub(super) async fn hydrated(
        &mut self,
        container: &Container,
        outcome: Result<Totals, Refusal>,
    ) {
        let Some(hydrating) = self.hydrating.remove(container.id()) else { return };
        if outcome.is_ok() {
            // Its Start may not be answered yet: then the life side makes this step itself.
            let _ = container.shift(Step::Hydrated);
        }
        let over = hydrating.over(self.key.clone(), container.id(), outcome);
        let Some(conn) = hydrating.conn.filter(|conn| self.conns.is_question(*conn)) else {
            return self.tell_another(over);
        };
        self.untold.insert(conn, over.clone());
        match (over.hydrated, over.failed) {
            (Some(hydrated), _) => self.conns.reply(conn, hydrated).await,
            (None, failed) => self.conns.reply(conn, failed.unwrap_or_default()).await,
        }
    }

    /// A connection is gone: what its agent has not noted another one is told.
    pub(super) fn lost(&mut self, conn: Conn) {
        if let Some(over) = self.untold.remove(&conn) {
            self.tell_another(over);
        }
    }

    fn tell_another(&mut self, over: HydrationOver) {
        let agent = self.places.agent.clone();
        self.telling.spawn(async move { tell(&agent, over).await });
    }

    /// The agent has read the last word of a connection: nothing follows on it.
    pub(super) fn noted(&mut self, conn: Conn) {
        self.untold.remove(&conn);
        if self.starting.as_mut().is_some_and(|starting| starting.noted(conn)) {
            return;
        }
        if !self.hydrating.values().any(|hydrating| hydrating.conn == Some(conn)) {
            self.conns.close(conn);
        }
    }

    /// For `Status`: the first of them.
    pub(super) fn hydrating_record(&self) -> Option<HydratingRecord> {
        Some(self.hydrating.values().next()?.record())
    }
}

impl Hydrating {
    fn record(&self) -> HydratingRecord {
        let Point { op, store, tenant, checkpoint } = self.point.clone();
        HydratingRecord { op: op.to_string(), store, tenant, checkpoint }
    }

    /// How it ended, for an agent that knows nothing of it.
    fn over(
        &self,
        pod_uid: String,
        container: &str,
        outcome: Result<Totals, Refusal>,
    ) -> HydrationOver {
        let after_ms = millis(self.begun.elapsed());
        let (hydrated, failed) = match outcome {
            Ok(Totals { faults, placed, .. }) => {
                (Some(Hydrated { after_ms, faults, pages: placed }), None)
            }
            Err(why) => (None, Some(HydrationFailed { why: Some(why) })),
        };
        let (point, container) = (Some(self.record()), container.to_owned());
        HydrationOver { point, container, hydrated, failed, pod_uid }
    }
}

/// Says it until an agent has noted it, or it is of no use any more.
async fn tell(agent: &Path, over: HydrationOver) {
    let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
    while begun.elapsed() < LONGEST {
        let noted = tokio::time::timeout(NOTING, is_noted(agent, over.clone())).await;
        if matches!(noted, Ok(Some(true))) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// `None`: there is no agent, or it went away.
async fn is_noted(agent: &Path, over: HydrationOver) -> Option<bool> {
    let socket = Asked::connect(agent).await.ok()?;
    socket.send(over, &[]).await.ok()?;
    let answer = socket.recv().await.ok()??;
    Some(matches!(answer.body, FromAgentBody::Noted(_)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use godwit_wire::agent_op::{FromAgent, Noted, ToAgent, ToAgentBody};
    use godwit_wire::{AsyncListener, AsyncSocket};

    use super::*;

    type Heard = AsyncSocket<FromAgent, ToAgent>;

    /// Accepts one connection of the shim; what it says.
    async fn hears(listener: &AsyncListener) -> (Heard, ToAgentBody) {
        let connection: Heard = listener.accept().await.unwrap();
        connection.greet(NOTING).await.unwrap();
        let said = connection.recv().await.unwrap().unwrap().body;
        (connection, said)
    }

    #[tokio::test]
    async fn the_end_of_a_hydration_is_said_until_an_agent_notes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let over = HydrationOver { container: "web".to_owned(), ..HydrationOver::default() };
        let (at, said) = (path.clone(), over.clone());
        let telling = tokio::spawn(async move { tell(&at, said).await });
        // Nobody has listened so far, perhaps; then one that goes away with it.
        let listener = AsyncListener::bind(&path).unwrap();
        let (first, heard) = hears(&listener).await;
        assert_eq!(heard, ToAgentBody::HydrationOver(over.clone()));
        drop(first);
        let (second, heard) = hears(&listener).await;
        assert_eq!(heard, ToAgentBody::HydrationOver(over));
        second.send(Noted {}, &[]).await.unwrap();
        tokio::time::timeout(NOTING, telling).await.unwrap().unwrap();
    }
}
