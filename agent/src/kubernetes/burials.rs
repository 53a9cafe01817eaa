//! The last word about pods whose objects are gone: their agents alone know that nobody comes back under that uid.

use std::time::Duration;

use async_trait::async_trait;
use godwit_engine::Node;
use godwit_engine::gone::{self, Pods};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::api::Api;
use super::watch::{self, Change};

/// While something is left: the kubelet still ends its containers, or its store is away.
const SOON: Duration = Duration::from_secs(1);
/// So many times, if nothing comes of it.
const SOON_AT_MOST: u32 = 60;
/// While nothing is known to be.
const LATER: Duration = Duration::from_secs(60);

/// Looks for ever at what deleted pods have left.
pub(super) async fn forever(node: &Node, api: &Api, mut changes: broadcast::Receiver<Change>) {
    let (mut patience, mut left, mut vain) = (LATER, 0, 0);
    loop {
        // Many changes are one look.
        if let Ok(None) = timeout(patience, watch::next(api, &mut changes)).await {
            return;
        }
        // Before all are listed nobody is known to be gone.
        if api.pods().is_none() {
            continue;
        }
        let before = std::mem::replace(&mut left, gone::bury(node, &Known(api)).await);
        vain = if left == before { vain + 1 } else { 0 };
        // Each look asks the API server: not for ever as often.
        patience = if left == 0 || vain > SOON_AT_MOST { LATER } else { SOON };
    }
}

/// The pods of the node: by the API server's own word where one is gone, for a watch that is interrupted has not heard of the newest.
struct Known<'a>(&'a Api);

#[async_trait]
impl Pods for Known<'_> {
    fn is_known(&self, uid: &str) -> bool {
        self.0.pod(uid).is_some()
    }

    async fn is_gone(&self, uid: &str) -> bool {
        self.0.uids().await.is_some_and(|there| !there.contains(uid))
    }
}
