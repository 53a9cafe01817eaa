//! The node's stores, tried, for who looks for a fault.

use std::time::Duration;

use futures::future::join_all;
use godwit_store::Speed;
use godwit_wire::api::{StoreDiagnosis, StoreSpeed, StoreStatus};
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
        let proved = match timeout(PATIENCE, store.prove()).await {
            Ok(proved) => proved.map_err(|error| crate::sentence(&error)),
            Err(_) => Err(format!("it does not answer within {} s", PATIENCE.as_secs())),
        };
        // One that is slow, or busy, does all the same.
        Ok((proved?, store.speed(PATIENCE).await))
    };
    match proved.await {
        Ok((ahead, speed)) => {
            let ahead_ms = Some(i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX));
            let speed = speed.map(|Speed { written, read }| StoreSpeed { written, read });
            StoreDiagnosis { name, url, fault: None, ahead_ms, speed }
        }
        Err(why) => StoreDiagnosis { name, url, fault: Some(why), ahead_ms: None, speed: None },
    }
}
