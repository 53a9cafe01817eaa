//! The CRI of a node, as kubelet speaks it, on the socket of one's choice: pods that use their node's network, so that no CNI is needed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use godwit_lab::{Image, Node};
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Larger than every answer of a test.
const LIMIT: usize = 64 << 20;
/// For one call, as kubelet has it.
const PATIENCE: Duration = Duration::from_secs(120);
/// containerd's namespace of everything that the CRI makes.
const NAMESPACE: &str = "k8s.io";

/// A client of the CRI.
pub struct Cri {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
}

/// A pod of the node's network.
pub struct Pod {
    id: String,
    config: v1::PodSandboxConfig,
}

/// Makes an image known to the CRI, and one that pods can be made of.
///
/// # Errors
/// It cannot be made or imported.
pub fn prepare(node: &Node, image: Image) -> Result<()> {
    node.import_into(NAMESPACE, image)?;
    let wanted = node.sh("containerd config dump | sed -n \"s/^ *sandbox = '\\(.*\\)'/\\1/p\"")?;
    let reference = image.reference();
    // Any program that waits will do.
    node.ctr(&["-n", NAMESPACE, "images", "tag", "--force", reference, wanted.trim()])?;
    Ok(())
}

impl Cri {
    /// A client of this socket of the node. It connects with its first call, and anew whenever it must.
    ///
    /// # Errors
    /// The node is off.
    pub fn on(node: &Node, socket: &str) -> Result<Self> {
        let path: PathBuf = node.host_path(socket)?;
        // A thread of its own: between calls, too, a client must hear when a server leaves.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://localhost").timeout(PATIENCE).connect_with_connector_lazy(
                service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                }),
            )
        };
        let client = RuntimeServiceClient::new(channel).max_decoding_message_size(LIMIT);
        Ok(Self { runtime, client })
    }

    /// One call of the generated client.
    ///
    /// # Errors
    /// How the call ended.
    pub fn call<T>(
        &self,
        call: impl AsyncFnOnce(
            &mut RuntimeServiceClient<Channel>,
        ) -> std::result::Result<tonic::Response<T>, tonic::Status>,
    ) -> std::result::Result<T, tonic::Status> {
        let mut client = self.client.clone();
        self.runtime.block_on(async { call(&mut client).await.map(tonic::Response::into_inner) })
    }

    /// What the runtime is.
    ///
    /// # Errors
    /// The call failed.
    pub fn version(&self) -> Result<v1::VersionResponse> {
        let asked = v1::VersionRequest::default();
        self.call(async |client| client.version(asked).await).context("Version")
    }

    /// All containers.
    ///
    /// # Errors
    /// The call failed.
    pub fn containers(&self) -> Result<Vec<v1::Container>> {
        let asked = v1::ListContainersRequest::default();
        let answer = self.call(async |client| client.list_containers(asked).await);
        Ok(answer.context("ListContainers")?.containers)
    }

    /// Makes a pod of containerd's default runtime.
    ///
    /// # Errors
    /// The call failed.
    pub fn run_pod(&self, name: &str) -> Result<Pod> {
        self.run_pod_by(name, "")
    }

    /// Makes a pod of this runtime handler.
    ///
    /// # Errors
    /// The call failed.
    pub fn run_pod_by(&self, name: &str, handler: &str) -> Result<Pod> {
        let metadata = v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let context = v1::LinuxSandboxSecurityContext {
            namespace_options: Some(of_the_node()),
            ..Default::default()
        };
        let linux =
            v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        let config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: format!("/var/log/pods/{name}"),
            linux: Some(linux),
            ..Default::default()
        };
        let (asked, runtime_handler) = (Some(config.clone()), handler.to_owned());
        let asked = v1::RunPodSandboxRequest { config: asked, runtime_handler };
        let answer = self.call(async |client| client.run_pod_sandbox(asked).await);
        let id = answer.with_context(|| format!("RunPodSandbox of {name}"))?.pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// Makes a container of a pod, which sleeps once it is started. `note` becomes an annotation.
    ///
    /// # Errors
    /// The call failed.
    pub fn create(&self, pod: &Pod, name: &str, image: Image, note: &str) -> Result<String> {
        let context = v1::LinuxContainerSecurityContext {
            namespace_options: Some(of_the_node()),
            ..Default::default()
        };
        let linux =
            v1::LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        let image = v1::ImageSpec { image: image.reference().to_owned(), ..Default::default() };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(image),
            command: vec!["sleep".to_owned(), "infinity".to_owned()],
            annotations: HashMap::from([("test.godwit/note".to_owned(), note.to_owned())]),
            log_path: format!("{name}.log"),
            linux: Some(linux),
            ..Default::default()
        };
        let asked = v1::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self.call(async |client| client.create_container(asked).await);
        Ok(answer.with_context(|| format!("CreateContainer of {name}"))?.container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// The call failed.
    pub fn start(&self, container: &str) -> Result<()> {
        let asked = v1::StartContainerRequest { container_id: container.to_owned() };
        self.call(async |client| client.start_container(asked).await).context("StartContainer")?;
        Ok(())
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// The call failed.
    pub fn exec(&self, container: &str, words: &[&str]) -> Result<v1::ExecSyncResponse> {
        let asked = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: words.iter().map(|&word| word.to_owned()).collect(),
            timeout: 60,
        };
        self.call(async |client| client.exec_sync(asked).await).context("ExecSync")
    }

    /// Stops and removes a pod with all that is in it.
    ///
    /// # Errors
    /// A call failed.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.call(async |client| client.stop_pod_sandbox(stop).await).context("StopPodSandbox")?;
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        let removed = self.call(async |client| client.remove_pod_sandbox(remove).await);
        removed.map(drop).context("RemovePodSandbox")
    }
}

fn of_the_node() -> v1::NamespaceOption {
    v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() }
}
