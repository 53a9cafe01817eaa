//! The agent collects garbage now and then. Any number of agents may do so at the same time.

use std::time::Duration;

use godwit_wire::api::Gc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::catalog;
use crate::node::Node;

/// Between two sweeps of a store.
const EVERY: Duration = Duration::from_secs(3600);

/// Sweeps every store each hour, the first time an hour from now, until cancelled.
pub async fn forever(node: &Node, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once.
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(all(node, &stop)).await;
    }
}

async fn all(node: &Node, stop: &CancellationToken) {
    for (name, store) in node.stores.opened() {
        match catalog::collect(store, &Gc::default(), stop).await {
            Ok(collected) => {
                let (removed, freed) = (collected.removed, collected.freed);
                for (tenant, why) in collected.failed {
                    tracing::warn!(store = name, %tenant, error = why, "a tenant was not swept");
                }
                tracing::info!(store = name, kept = collected.kept, removed, %freed, "swept");
            }
            Err(error) => tracing::warn!(store = name, error = %error, "a sweep failed"),
        }
    }
}
