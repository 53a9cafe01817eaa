//! What a person who looks for a fault is told.

use godwit_engine::{Node, diagnosis};
use godwit_wire::api::Diagnosis;

use crate::kubernetes::Api;

/// Tries stores and API server. Each has its deadline.
pub(crate) async fn of(node: &Node, cluster: Option<&Api>) -> Diagnosis {
    let kubernetes = async { Some(cluster?.diagnosis().await) };
    let (stores, kubernetes) = tokio::join!(diagnosis::stores(node), kubernetes);
    Diagnosis { stores, kubernetes, failures: node.news.failures() }
}
