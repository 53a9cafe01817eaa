//! Containers that run while their memory is on its way, seen from the operation.

use std::time::{Duration, Instant};

use godwit_ownership::shim::Conn;
use godwit_wire::Refusal;
use godwit_wire::agent_op::{Hydrated, HydrationFailed};
use godwit_wire::pager::Totals;
use godwit_wire::shim_op::HydratingRecord;

use super::actor::Actor;
use super::starting::Point;
use crate::container::Container;
use crate::state::Step;

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
        let Some(conn) = hydrating.conn else { return };
        match outcome {
            Ok(totals) => {
                let after_ms = millis(hydrating.begun.elapsed());
                let told = Hydrated { after_ms, faults: totals.faults, pages: totals.placed };
                self.conns.reply(conn, told).await;
            }
            Err(why) => self.conns.reply(conn, HydrationFailed { why: Some(why) }).await,
        }
    }

    /// The agent has read the last word of a connection: nothing follows on it.
    pub(super) fn noted(&mut self, conn: Conn) {
        if let Some(starting) = &mut self.starting {
            return starting.noted(conn);
        }
        if !self.hydrating.values().any(|hydrating| hydrating.conn == Some(conn)) {
            self.conns.close(conn);
        }
    }

    /// For `Status`: the first of them.
    pub(super) fn hydrating_record(&self) -> Option<HydratingRecord> {
        let point = &self.hydrating.values().next()?.point;
        Some(HydratingRecord {
            op: point.op.to_string(),
            store: point.store.clone(),
            tenant: point.tenant.clone(),
            checkpoint: point.checkpoint.clone(),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
