//! How the API server answers this node's agent, and whether it lets it do what it needs: asked now, changing nothing.

use std::time::Duration;

use futures::future::join_all;
use godwit_engine::sentence;
use godwit_types::names;
use godwit_wire::api::{ClusterAnswer, ClusterDiagnosis};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::PostParams;

use super::api::Api;
use super::this_node;

/// For all questions.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that an agent needs.
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    sub: &'static str,
}

/// As in `install/kubernetes/godwit.yaml`.
const RIGHTS: [Right; 6] = [
    Right { verb: "watch", group: "", resource: "pods", sub: "" },
    Right { verb: "patch", group: "", resource: "pods", sub: "" },
    Right { verb: "patch", group: "", resource: "nodes", sub: "" },
    Right { verb: "patch", group: "", resource: "nodes", sub: "status" },
    Right { verb: "create", group: "events.k8s.io", resource: "events", sub: "" },
    Right { verb: "list", group: "", resource: "events", sub: "" },
];

impl Api {
    /// Asks for this node and for the agent's rights.
    pub(crate) async fn diagnosis(&self) -> ClusterDiagnosis {
        let answer = match tokio::time::timeout(PATIENCE, self.asked()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(kube::Error::Api(status))) => {
                ClusterAnswer::Refuses { why: status.message.clone() }
            }
            Ok(Err(error)) => ClusterAnswer::Away { why: sentence(&error) },
            Err(_) => ClusterAnswer::Away { why: format!("no answer within {PATIENCE:?}") },
        };
        let away_since = self.away_since().map(|since| since.to_string());
        ClusterDiagnosis { node: self.node().to_owned(), answer, away_since }
    }

    async fn asked(&self) -> kube::Result<ClusterAnswer> {
        let node = self.nodes().get(self.node()).await?;
        let rights = join_all(RIGHTS.iter().map(|right| self.denied(right))).await;
        let denied: Vec<_> = rights.into_iter().collect::<kube::Result<_>>()?;
        Ok(ClusterAnswer::Knows {
            labelled: node.labels().get(names::READY).is_some_and(|value| value == "true"),
            ready: ready(&node),
            denied: denied.into_iter().flatten().collect(),
        })
    }

    /// The right in words, if the agent does not have it.
    async fn denied(&self, right: &Right) -> kube::Result<Option<String>> {
        let text = |part: &str| Some(part.to_owned()).filter(|part| !part.is_empty());
        let asks = ResourceAttributes {
            verb: text(right.verb),
            group: text(right.group),
            resource: text(right.resource),
            subresource: text(right.sub),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(asks),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviews: kube::Api<SelfSubjectAccessReview> = kube::Api::all(self.client().clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        let has = answer.status.is_some_and(|status| status.allowed);
        Ok((!has).then(|| {
            let sub = text(right.sub).map(|sub| format!("/{sub}")).unwrap_or_default();
            format!("{} {}{sub}", right.verb, right.resource)
        }))
    }
}

/// What the node's condition says.
fn ready(node: &Node) -> Option<String> {
    let ours = this_node::condition(node)?;
    Some(match ours.status.as_str() {
        "True" => "True".to_owned(),
        other => format!("{other}: {}", ours.message.as_deref().unwrap_or_default()),
    })
}
