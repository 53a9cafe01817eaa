//! What a person who looks for a fault is told.

use godwit_engine::{Node, diagnosis};
use godwit_wire::api::Diagnosis;

use crate::kubernetes::Api;
use crate::logind;

/// Tries stores, API server and logind. Each has its deadline.
pub(crate) async fn of(node: &Node, cluster: Option<&Api>) -> Diagnosis {
    let kubernetes = async { Some(cluster?.diagnosis().await) };
    let (stores, kubernetes, shuts_down) =
        tokio::join!(diagnosis::stores(node), kubernetes, logind::shuts_down());
    Diagnosis { stores, kubernetes, logind: shuts_down.err(), failures: node.news.failures() }
}
