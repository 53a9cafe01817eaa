//! What the running containerd says: its version, what its CRI has loaded, which containers are ours.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::{
    ListContainersRequest, ListNamespacesRequest, ListTasksRequest,
};
use containerd_client::tonic::{self, Request, Status, metadata::MetadataValue};
use godwit_types::names;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::containerd::config::is_ours;
use crate::{Error, Result};

/// For one question; containerd answers from memory or a local database.
const PATIENCE: Duration = Duration::from_secs(10);
const CRI_STATUS: &str = "the CRI's status";

/// `runtime.v1.StatusRequest` of the CRI.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

/// What we read of `runtime.v1.StatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: std::collections::HashMap<String, String>,
}

/// `runtime.v1.RuntimeStatus`
#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

/// `runtime.v1.RuntimeCondition`
#[derive(Clone, PartialEq, prost::Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    holds: bool,
    #[prost(string, tag = "4")]
    message: String,
}

/// What we read of `runtime.v1.ListPodSandboxResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Sandbox>,
}

/// What we read of `runtime.v1.PodSandbox`.
#[derive(Clone, PartialEq, prost::Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "7")]
    runtime_handler: String,
}

/// A connection.
pub struct Client {
    runtime: Runtime,
    client: containerd_client::Client,
}

/// A container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// containerd's namespace.
    pub namespace: String,
    /// Its id.
    pub id: String,
    /// Name of its pod, if it has one.
    pub pod: Option<String>,
    /// Whether it has a task: processes, or what is left of them.
    pub has_task: bool,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "pod {pod}"),
            None => write!(f, "container {} in namespace {}", self.id, self.namespace),
        }
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn connect(socket: &Path) -> Result<Self> {
        let away = |source| Error::Away { socket: socket.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|source| Error::Io { attempt: "start a runtime".to_owned(), source })?;
        let connecting = async {
            tokio::time::timeout(PATIENCE, containerd_client::Client::from_path(socket)).await
        };
        let client = runtime.block_on(connecting).map_err(|_| away(None))?;
        Ok(Self { client: client.map_err(|source| away(Some(source)))?, runtime })
    }

    /// Its version, such as `2.1.9`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn version(&self) -> Result<String> {
        let answer = self.ask("its version", async { self.client.version().version(()).await })?;
        Ok(answer.version)
    }

    /// What its CRI has loaded; nothing if it has no CRI.
    ///
    /// # Errors
    /// It does not answer.
    pub fn cri_config(&self) -> Result<Option<Value>> {
        let Some(answer) = self.cri_status()? else { return Ok(None) };
        let config = answer.info.get("config").map(String::as_str).unwrap_or_default();
        serde_json::from_str(config).map(Some).map_err(|why| Error::Told {
            question: CRI_STATUS,
            status: Box::new(Status::internal(format!("its configuration is no JSON: {why}"))),
        })
    }

    /// Why its CRI can give pods no network; empty when it can, nothing if it has no CRI.
    ///
    /// # Errors
    /// It does not answer.
    pub fn network_fault(&self) -> Result<Option<String>> {
        let Some(answer) = self.cri_status()? else { return Ok(None) };
        let conditions = answer.status.unwrap_or_default().conditions;
        let network = conditions.into_iter().find(|one| one.kind == "NetworkReady" && !one.holds);
        Ok(Some(network.map(|one| one.message).unwrap_or_default()))
    }

    fn cri_status(&self) -> Result<Option<StatusResponse>> {
        self.cri(CRI_STATUS, "Status", StatusRequest { verbose: true })
    }

    /// Asks the CRI; nothing if there is none.
    fn cri<Q, A>(&self, question: &'static str, method: &str, message: Q) -> Result<Option<A>>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let asked = self.ask(question, async {
            let mut grpc = tonic::client::Grpc::new(self.client.channel());
            let ready = grpc.ready().await;
            ready.map_err(|why| Status::unavailable(format!("not ready: {why}")))?;
            let path = path.parse().map_err(|_| Status::invalid_argument("no path"))?;
            grpc.unary(Request::new(message), path, tonic_prost::ProstCodec::<Q, A>::default())
                .await
        });
        match asked {
            Err(Error::Told { status, .. }) if status.code() == tonic::Code::Unimplemented => {
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    /// Pods of our runtime: their sandboxes. Their containers have the type of runc's runtime.
    fn sandboxes(&self) -> Result<HashSet<String>> {
        let all: Option<Sandboxes> = self.cri("its pods", "ListPodSandbox", ())?;
        let ours = all.unwrap_or_default().items.into_iter();
        let ours = ours.filter(|sandbox| sandbox.runtime_handler == names::RUNTIME_HANDLER);
        Ok(ours.map(|sandbox| sandbox.id).collect())
    }

    /// All containers of our runtime.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ours(&self) -> Result<Vec<Container>> {
        let sandboxes = self.sandboxes()?;
        self.ask_raw("its containers", async {
            let mut namespaces = self.client.namespaces();
            let namespaces = namespaces.list(ListNamespacesRequest::default()).await?.into_inner();
            let mut found = vec![];
            for namespace in namespaces.namespaces {
                found.extend(self.ours_in(&namespace.name, &sandboxes).await?);
            }
            Ok(found)
        })
    }

    async fn ours_in(
        &self,
        namespace: &str,
        sandboxes: &HashSet<String>,
    ) -> std::result::Result<Vec<Container>, Status> {
        let request = within(namespace, ListContainersRequest::default())?;
        let mut containers = self.client.containers().list(request).await?.into_inner().containers;
        containers.retain(|container| {
            // By type without the CRI, and in pods of earlier releases; by path where `ctr run --runtime` was told one.
            container.runtime.as_ref().is_some_and(|runtime| is_ours(&runtime.name))
                || (namespace == names::CRI_NAMESPACE
                    && [&container.id, &container.sandbox].iter().any(|id| sandboxes.contains(*id)))
        });
        if containers.is_empty() {
            return Ok(vec![]);
        }
        let request = within(namespace, ListTasksRequest::default())?;
        let tasks = self.client.tasks().list(request).await?.into_inner().tasks;
        let pod_of = |labels: &std::collections::HashMap<String, String>| {
            let name = labels.get("io.kubernetes.pod.name")?;
            let namespace = labels.get("io.kubernetes.pod.namespace")?;
            Some(format!("{namespace}/{name}"))
        };
        let ours = containers.into_iter().map(|container| Container {
            namespace: namespace.to_owned(),
            pod: pod_of(&container.labels),
            has_task: tasks.iter().any(|task| task.id == container.id),
            id: container.id,
        });
        Ok(ours.collect())
    }

    fn ask<T>(
        &self,
        question: &'static str,
        answer: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    ) -> Result<T> {
        self.ask_raw(question, async { answer.await.map(tonic::Response::into_inner) })
    }

    fn ask_raw<T>(
        &self,
        question: &'static str,
        answer: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<T> {
        let in_time = async { tokio::time::timeout(PATIENCE, answer).await };
        let late = |_| Err(Status::deadline_exceeded("no answer in time"));
        let answer = self.runtime.block_on(in_time).unwrap_or_else(late);
        answer.map_err(|status| Error::Told { question, status: Box::new(status) })
    }
}

/// A request in a namespace of containerd (`pkg/namespaces/grpc.go`).
fn within<T>(namespace: &str, message: T) -> std::result::Result<Request<T>, Status> {
    let value = MetadataValue::try_from(namespace)
        .map_err(|_| Status::invalid_argument(format!("{namespace:?} is no namespace")))?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}
