//! The node's stores, tried, for who looks for a fault.

use std::time::Duration;

use futures::future::join_all;
use godwit_wire::api::{StoreDiagnosis, StoreStatus};
use tokio::time::timeout;

use crate::node::Node;

/// For a store to do what it is asked for: longer than it is retried.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tries all of them beside each other. One that is not open is not touched: why it is not is known.
pub async fn stores(node: &Node) -> Vec<StoreDiagnosis> {
    join_all(node.stores.status().into_iter().map(|status| one(node, status))).await
}

async fn one(node: &Node, StoreStatus { name, url, .. }: StoreStatus) -> StoreDiagnosis {
    let proved = async {
        let (_, store) = node.store(Some(&name)).map_err(|away| away.to_string())?;
        match timeout(PATIENCE, store.prove()).await {
            Ok(proved) => proved.map_err(|error| crate::sentence(&error)),
            Err(_) => Err(format!("it does not answer within {} s", PATIENCE.as_secs())),
        }
    };
    let (ahead_ms, fault) = match proved.await {
        Ok(ahead) => (Some(i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX)), None),
        Err(why) => (None, Some(why)),
    };
    StoreDiagnosis { name, url, fault, ahead_ms }
}
