//! What containerd knows and the shim does not: which image a container was made from. And what is asked of it in the kubelet's place.
//!
//! A name may mean another image tomorrow, and a manifest's digest changes with the compression of its layers. What must be
//! the same on another node are the files below the writable layer: their identity is the chain id (OCI image
//! specification, "Layer ChainID"), which containerd has as the parent of the container's snapshot.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::Client;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::{
    self, GetContainerRequest, KillRequest, ListContainersRequest, ListTasksRequest,
};
use containerd_client::tonic::{self, Request, Status, metadata::MetadataValue};
use containerd_client::types::v1::Status as TaskStatus;
use godwit_types::Code;
use oci_spec::runtime::Spec;

/// For both questions; containerd answers from a local database.
const PATIENCE: Duration = Duration::from_secs(10);
/// `signal(7)`.
const SIGKILL: u32 = 9;
/// Label that the kubelet gives to all that it makes for a pod: the pod's uid.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";

/// The image of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// The name it was asked for by.
    pub name: String,
    /// Chain id of its layers: `sha256:…`.
    pub chain_id: String,
}

/// Why the image of a container is not known.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// Nobody answers.
    #[error(
        "containerd does not answer at {socket}: start it, or name its socket as `containerd` in agent.toml"
    )]
    Away {
        /// Its socket.
        socket: PathBuf,
        /// Why, where the connection tells.
        #[source]
        source: Option<tonic::transport::Error>,
    },
    /// It answers something else.
    #[error("containerd does not tell what it knows of {container}")]
    Told {
        /// The container.
        container: String,
        /// Its words.
        #[source]
        status: Box<Status>,
    },
    /// A root file system that is nobody's image.
    #[error(
        "{container} was not made from an image, so that no other node can have the same files: run it from one"
    )]
    NoImage {
        /// The container.
        container: String,
    },
}

impl ContainerdError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Away { .. } => Code::Unavailable,
            Self::NoImage { .. } => Code::Refused,
            Self::Told { status, .. } => match status.code() {
                tonic::Code::NotFound => Code::NotFound,
                tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => Code::Unavailable,
                // What containerd says has no source; the end of its connection has.
                _ if std::error::Error::source(&**status).is_some() => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }
}

/// Asks containerd at `socket`.
///
/// # Errors
/// [`ContainerdError`].
pub async fn image_of(
    socket: &Path,
    namespace: &str,
    container: &str,
) -> Result<RootImage, ContainerdError> {
    let asked = tokio::time::timeout(PATIENCE, ask(socket, namespace, container)).await;
    let away = |_| ContainerdError::Away { socket: socket.to_owned(), source: None };
    asked.map_err(away)?
}

/// The spec that a container was created with.
///
/// # Errors
/// [`ContainerdError`].
pub async fn spec_of(
    socket: &Path,
    namespace: &str,
    container: &str,
) -> Result<Spec, ContainerdError> {
    let spec = all_of(socket, namespace, container).await?.spec.unwrap_or_default();
    serde_json::from_slice(&spec.value).map_err(|why| ContainerdError::Told {
        container: container.to_owned(),
        status: Box::new(Status::data_loss(format!("its specification cannot be read: {why}"))),
    })
}

/// The labels that a container, or a pod's sandbox, was made with.
///
/// # Errors
/// [`ContainerdError`].
pub(crate) async fn labels_of(
    socket: &Path,
    namespace: &str,
    container: &str,
) -> Result<HashMap<String, String>, ContainerdError> {
    Ok(all_of(socket, namespace, container).await?.labels)
}

/// A container of the kubelet's, or a pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfKubelet {
    /// Its id.
    pub(crate) id: String,
    /// What it was made with.
    pub(crate) labels: HashMap<String, String>,
    /// It has a task that has not ended.
    pub(crate) lives: bool,
}

/// Whether the kubelet's pod of this uid has tasks that have not ended, its sandbox's included.
///
/// # Errors
/// [`ContainerdError`].
pub(crate) async fn has_tasks(
    socket: &Path,
    namespace: &str,
    pod_uid: &str,
) -> Result<bool, ContainerdError> {
    let its = format!("labels.\"{POD_UID}\"==\"{pod_uid}\"");
    let all = of_kubelet(socket, namespace, its).await?;
    Ok(all.iter().any(|one| one.lives))
}

/// Every container and sandbox that the kubelet has made.
///
/// # Errors
/// [`ContainerdError`].
pub(crate) async fn all_of_kubelet(
    socket: &Path,
    namespace: &str,
) -> Result<Vec<OfKubelet>, ContainerdError> {
    of_kubelet(socket, namespace, format!("labels.\"{POD_UID}\"")).await
}

async fn of_kubelet(
    socket: &Path,
    namespace: &str,
    filter: String,
) -> Result<Vec<OfKubelet>, ContainerdError> {
    let away = |_| ContainerdError::Away { socket: socket.to_owned(), source: None };
    let told = |status: Status| ContainerdError::Told {
        container: "the kubelet's pods".to_owned(),
        status: Box::new(status),
    };
    let asked = async {
        let client = connect(socket).await?;
        let listed = ListContainersRequest { filters: vec![filter] };
        let listed = within(namespace, listed).map_err(told)?;
        let listed = client.containers().list(listed).await.map_err(told)?.into_inner();
        let tasks = within(namespace, ListTasksRequest::default()).map_err(told)?;
        let tasks = client.tasks().list(tasks).await.map_err(told)?.into_inner().tasks;
        let lives =
            |id: &str| tasks.iter().any(|t| t.status() != TaskStatus::Stopped && t.id == id);
        let of = |one: v1::Container| OfKubelet {
            lives: lives(&one.id),
            id: one.id,
            labels: one.labels,
        };
        Ok(listed.containers.into_iter().map(of).collect())
    };
    tokio::time::timeout(PATIENCE, asked).await.map_err(away)?
}

/// Has a container killed, all of it. One that has ended is none: [`Code::NotFound`].
///
/// # Errors
/// [`ContainerdError`].
pub async fn kill(socket: &Path, namespace: &str, container: &str) -> Result<(), ContainerdError> {
    let away = |_| ContainerdError::Away { socket: socket.to_owned(), source: None };
    let told = |status: Status| ContainerdError::Told {
        container: container.to_owned(),
        status: Box::new(status),
    };
    let killed = async {
        let client = connect(socket).await?;
        let kill = KillRequest {
            container_id: container.to_owned(),
            signal: SIGKILL,
            all: true,
            ..KillRequest::default()
        };
        let request = within(namespace, kill).map_err(told)?;
        client.tasks().kill(request).await.map(drop).map_err(told)
    };
    tokio::time::timeout(PATIENCE, killed).await.map_err(away)?
}

async fn all_of(
    socket: &Path,
    namespace: &str,
    container: &str,
) -> Result<v1::Container, ContainerdError> {
    let away = |_| ContainerdError::Away { socket: socket.to_owned(), source: None };
    let known = async {
        let client = connect(socket).await?;
        known(&client, namespace, container).await
    };
    tokio::time::timeout(PATIENCE, known).await.map_err(away)?
}

async fn connect(socket: &Path) -> Result<Client, ContainerdError> {
    let away = |error| ContainerdError::Away { socket: socket.to_owned(), source: Some(error) };
    Client::from_path(socket).await.map_err(away)
}

/// What containerd knows of a container.
async fn known(
    client: &Client,
    namespace: &str,
    container: &str,
) -> Result<v1::Container, ContainerdError> {
    let told = |status: Status| ContainerdError::Told {
        container: container.to_owned(),
        status: Box::new(status),
    };
    let request = within(namespace, GetContainerRequest { id: container.to_owned() });
    let answer = client.containers().get(request.map_err(told)?).await.map_err(told)?;
    let none = || told(Status::not_found(format!("there is no container {container}")));
    answer.into_inner().container.ok_or_else(none)
}

async fn ask(
    socket: &Path,
    namespace: &str,
    container: &str,
) -> Result<RootImage, ContainerdError> {
    let client = connect(socket).await?;
    let told = |status: Status| ContainerdError::Told {
        container: container.to_owned(),
        status: Box::new(status),
    };
    let no_image = || ContainerdError::NoImage { container: container.to_owned() };
    let known = known(&client, namespace, container).await?;
    if known.snapshot_key.is_empty() {
        return Err(no_image());
    }
    let stat = StatSnapshotRequest { snapshotter: known.snapshotter, key: known.snapshot_key };
    let request = within(namespace, stat).map_err(told)?;
    let answer = client.snapshots().stat(request).await.map_err(told)?;
    let parent = answer.into_inner().info.map(|info| info.parent).unwrap_or_default();
    match parent.is_empty() {
        true => Err(no_image()),
        false => Ok(RootImage { name: known.image, chain_id: parent }),
    }
}

/// A request in a namespace of containerd (`pkg/namespaces/grpc.go`).
fn within<T>(namespace: &str, message: T) -> Result<Request<T>, Status> {
    let value = MetadataValue::try_from(namespace)
        .map_err(|_| Status::invalid_argument(format!("{namespace:?} is no namespace")))?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_containerd_that_is_away_is_named_by_its_socket() {
        let error = image_of(Path::new("/nowhere/containerd.sock"), "default", "web").await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.to_string().contains("/nowhere/containerd.sock"), "{error}");
    }

    #[tokio::test]
    async fn a_containerd_that_ends_while_it_is_asked_is_asked_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("containerd.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let asked = tokio::spawn(async move { image_of(&socket, "default", "web").await });
        let (mut connection, _) = listener.accept().await.unwrap();
        // It has begun to talk.
        let mut preface = [0; 24];
        tokio::io::AsyncReadExt::read_exact(&mut connection, &mut preface).await.unwrap();
        drop((connection, listener));
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    }
}
