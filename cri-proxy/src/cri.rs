//! The methods of `runtime.v1.RuntimeService` that can be looked into, and what is read of their requests.
//!
//! Only the fields that a decision needs are here, under the numbers of Kubernetes' `api.proto` (`k8s.io/cri-api`, v1). A newer
//! kubelet's fields are skipped, never lost: what goes on to containerd is the bytes that came, not what was read.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

const SERVICE: &str = "/runtime.v1.RuntimeService/";

/// A method that can be looked into. Every other one passes unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are the CRI's, under its names")]
pub enum Method {
    CheckpointContainer,
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    StopPodSandbox,
    ExecSync,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CheckpointContainer,
        Self::RunPodSandbox,
        Self::CreateContainer,
        Self::StartContainer,
        Self::StopContainer,
        Self::StopPodSandbox,
        Self::ExecSync,
    ];

    /// Its name in the CRI.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CheckpointContainer => "CheckpointContainer",
            Self::RunPodSandbox => "RunPodSandbox",
            Self::CreateContainer => "CreateContainer",
            Self::StartContainer => "StartContainer",
            Self::StopContainer => "StopContainer",
            Self::StopPodSandbox => "StopPodSandbox",
            Self::ExecSync => "ExecSync",
        }
    }

    /// The method of a call's path, if it is one of these.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.strip_prefix(SERVICE)?;
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The path of its calls.
    #[must_use]
    pub fn path(self) -> String {
        format!("{SERVICE}{}", self.name())
    }

    /// Reads a request.
    ///
    /// # Errors
    /// It is no such message; then containerd will say so.
    pub fn read(self, message: Bytes) -> Result<Request, prost::DecodeError> {
        Ok(match self {
            Self::CheckpointContainer => {
                Request::CheckpointContainer(CheckpointContainer::decode(message)?)
            }
            Self::RunPodSandbox => Request::RunPodSandbox(RunPodSandbox::decode(message)?),
            Self::CreateContainer => Request::CreateContainer(CreateContainer::decode(message)?),
            Self::StartContainer => Request::StartContainer(StartContainer::decode(message)?),
            Self::StopContainer => Request::StopContainer(StopContainer::decode(message)?),
            Self::StopPodSandbox => Request::StopPodSandbox(StopPodSandbox::decode(message)?),
            Self::ExecSync => Request::ExecSync(ExecSync::decode(message)?),
        })
    }
}

/// What was read of a request.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the request of its method")]
pub enum Request {
    CheckpointContainer(CheckpointContainer),
    RunPodSandbox(RunPodSandbox),
    CreateContainer(CreateContainer),
    StartContainer(StartContainer),
    StopContainer(StopContainer),
    StopPodSandbox(StopPodSandbox),
    ExecSync(ExecSync),
}

/// `CheckpointContainerRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CheckpointContainer {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Where the archive goes: an absolute path.
    #[prost(string, tag = "2")]
    pub location: String,
    /// Seconds; 0: the runtime's own.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// `RunPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct RunPodSandbox {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub config: Option<PodSandboxConfig>,
    /// The handler of its RuntimeClass; empty: the default.
    #[prost(string, tag = "2")]
    pub runtime_handler: String,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    /// Who it is.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: BTreeMap<String, String>,
    /// The pod's annotations.
    #[prost(btree_map = "string, string", tag = "7")]
    pub annotations: BTreeMap<String, String>,
}

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The pod's uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The pod's namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Which sandbox of this pod: from 0.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

/// `CreateContainerRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainer {
    /// Sandbox id.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// The container.
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    /// The pod.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// `ContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    /// Who it is.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    /// Its image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "9")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of this container.
    #[prost(btree_map = "string, string", tag = "10")]
    pub annotations: BTreeMap<String, String>,
}

/// `ContainerMetadata`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerMetadata {
    /// Its name in the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Which one under this name: from 0.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// `ImageSpec`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImageSpec {
    /// As the runtime knows it: an id or a digest.
    #[prost(string, tag = "1")]
    pub image: String,
    /// As the pod's spec has it.
    #[prost(string, tag = "18")]
    pub user_specified_image: String,
}

/// `StartContainerRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StartContainer {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// `StopContainerRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StopContainer {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Grace period in seconds, until it is killed.
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}

/// `StopPodSandboxRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StopPodSandbox {
    /// Sandbox id.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
}

/// `ExecSyncRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExecSync {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The command and its arguments.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// Seconds until it is killed; 0: never.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// `ExecSyncResponse`: the answer to an `ExecSync` that containerd need not be asked.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExecSyncAnswer {
    /// What it printed.
    #[prost(bytes = "bytes", tag = "1")]
    pub stdout: Bytes,
    /// What it complained.
    #[prost(bytes = "bytes", tag = "2")]
    pub stderr: Bytes,
    /// How it ended.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_known_by_its_whole_path_only() {
        for method in Method::ALL {
            assert_eq!(Method::of_path(&method.path()), Some(method));
        }
        for other in [
            "/runtime.v1.RuntimeService/ExecSyncs",
            "/runtime.v1.RuntimeService/Exec",
            "/runtime.v2.RuntimeService/ExecSync",
            "/runtime.v1.RuntimeService//ExecSync",
            "ExecSync",
            "",
        ] {
            assert_eq!(Method::of_path(other), None, "{other}");
        }
    }
}
