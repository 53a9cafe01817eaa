//! Names that users type and places where parts meet.

/// Name of the runtime for containerd; its shim is the program `containerd-shim-godwit-v2`.
pub const RUNTIME: &str = "io.containerd.godwit.v2";
/// Name of the runtime for Kubernetes: the handler of a RuntimeClass.
pub const RUNTIME_HANDLER: &str = "godwit";
/// What containerd's CRI passes on of a pod's annotations.
pub const ANNOTATIONS: &str = "godwit.dev/*";

/// Annotation: continue the lineage of this checkpoint, an id, or [`LATEST`]. All annotations are checked by [`crate::annotations`].
pub const RESTORE_FROM: &str = "godwit.dev/restore-from";
/// Value of [`RESTORE_FROM`]: the pod's own lineage from where it stands, or from its image where there is nothing yet.
pub const LATEST: &str = "latest";
/// Annotation: start a copy of this checkpoint as a new lineage; the source is untouched.
pub const FORK_FROM: &str = "godwit.dev/fork-from";
/// Annotation of a restore: take over without the owner's word; the value is the reason, kept in the log for ever.
pub const FORCE: &str = "godwit.dev/force";
/// Annotation of a restore or fork: name of the store in the agent's config; the default store when absent.
pub const STORE: &str = "godwit.dev/store";
/// Annotation of a restore: destinations of writable bind mounts, separated by commas, whose files are those of the checkpoint
/// because somebody else sees to it (shared storage, a copy).
pub const VOLUMES: &str = "godwit.dev/volumes";
/// Annotation of a restore or fork: when its memory comes, [`AFTER_START`] (as without it) or [`BEFORE_START`].
pub const HYDRATE: &str = "godwit.dev/hydrate";
/// Value of [`HYDRATE`]: the container runs at once, and its memory follows.
pub const AFTER_START: &str = "after-start";
/// Value of [`HYDRATE`]: the container runs when all of its memory is there, so that nothing of store or agent concerns it any more.
pub const BEFORE_START: &str = "before-start";
/// Annotation: what becomes of TCP connections to somebody outside of the pod when it is stopped and continued elsewhere, [`CLOSE`] (as
/// without it) or [`KEEP`].
pub const TCP: &str = "godwit.dev/tcp";
/// Value of [`TCP`]: they end; the processes see an error at once.
pub const CLOSE: &str = "close";
/// Value of [`TCP`]: they go on where the pod has the same address. Both pods say so.
pub const KEEP: &str = "keep";
/// Annotation of a pod: make a checkpoint of it; the value is [`NOW`]. It is taken away when that is done.
pub const CHECKPOINT: &str = "godwit.dev/checkpoint";
/// Value of [`CHECKPOINT`].
pub const NOW: &str = "now";
/// Annotation of a pod: when it is deleted it is stopped at a checkpoint, and its lineage goes on with the pod that comes after it.
pub const CHECKPOINT_ON_STOP: &str = "godwit.dev/checkpoint-on-stop";
/// Annotation of a pod: whether it continues its lineage; the value is [`NEVER`].
pub const RESTORE: &str = "godwit.dev/restore";
/// Value of [`RESTORE`]: it starts from its image, whatever there is.
pub const NEVER: &str = "never";
/// Annotation of a pod, written by its agent: its lineage.
pub const LINEAGE: &str = "godwit.dev/lineage";
/// Annotation of a pod, written by its agent: its last checkpoint, an id.
pub const LAST_CHECKPOINT: &str = "godwit.dev/last-checkpoint";
/// Annotation of a pod, written by its agent: when its last checkpoint was begun (RFC 3339).
pub const LAST_CHECKPOINT_TIME: &str = "godwit.dev/last-checkpoint-time";
/// Annotation of a pod, written by its agent: the checkpoint that it was restored from, an id.
pub const RESTORED_FROM: &str = "godwit.dev/restored-from";
/// Annotation of a pod, written by its agent: `true`, or why it cannot be checkpointed.
pub const ELIGIBLE: &str = "godwit.dev/eligible";
/// Label of a node, written by its agent: Godwit serves pods there.
pub const READY: &str = "godwit.dev/ready";
/// Condition of a node, written by its agent: its stores are open.
pub const CONDITION: &str = "GodwitReady";
/// Label of a node, written by its agent: memory moves freely between nodes of one class.
pub const CPU_CLASS: &str = "godwit.dev/cpu-class";

/// Annotation of containerd's CRI: groups the containers of one pod.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// Annotation of containerd's CRI: `sandbox` or `container`.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// Annotation of containerd's CRI: what the pod's specification calls the container.
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
/// Annotation of containerd's CRI: the pod's name.
pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
/// Annotation of containerd's CRI: the pod's namespace.
pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// Annotation of containerd's CRI: the pod's uid.
pub const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";

/// Directory of everything that need not outlive a reboot. Root only, mode 0700.
pub const RUN_DIR: &str = "/run/godwit";
/// Held (`flock`) by the node's agent for as long as it lives; holds its process id.
pub const AGENT_LOCK: &str = "/run/godwit/agent.lock";
/// One socket per shim: `<pod key>.sock`. The agent connects, the shim serves.
pub const SHIM_SOCKETS: &str = "/run/godwit/shims";
/// The agent serves restores here; shims connect.
pub const AGENT_OP_SOCKET: &str = "/run/godwit/agent-op.sock";
/// The agent serves frames here; pagers connect.
pub const AGENT_FRAMES_SOCKET: &str = "/run/godwit/agent-frames.sock";
/// The agent serves its local API (lines of JSON) here.
pub const AGENT_API_SOCKET: &str = "/run/godwit/agent.sock";
/// containerd's namespace of all that the kubelet runs.
pub const CRI_NAMESPACE: &str = "k8s.io";
/// Where containerd keeps what runs for the kubelet, beside its socket unless its `state` is another: a directory for each container.
pub const CRI_BUNDLES: &str = "io.containerd.runtime.v2.task/k8s.io";
/// containerd's socket: its own services and the CRI's.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// kubelet's runtime endpoint: the CRI proxy serves here.
pub const CRI_SOCKET: &str = "/run/godwit/cri.sock";
/// CRIU's small images of running operations, on tmpfs: `<op>/`.
pub const IMAGES_DIR: &str = "/run/godwit/images";
/// What must outlive a reboot.
pub const STATE_DIR: &str = "/var/lib/godwit";
/// One file per pod that has a lineage, named by its pod key.
pub const FENCES: &str = "/var/lib/godwit/fences";
/// Which stores this node knows: one file per store, named by its name in the configuration.
pub const STORES: &str = "/var/lib/godwit/stores";
/// Where the installer puts the pager and the directory that holds the relay under the name `criu`.
pub const LIBEXEC_DIR: &str = "/usr/libexec/godwit";
/// The pager.
pub const PAGER_PATH: &str = "/usr/libexec/godwit/godwit-pager";
/// First entry of the PATH of a `runc restore`: holds the relay, named `criu`.
pub const RELAY_DIR: &str = "/usr/libexec/godwit/relay";
/// Which machine this is: machine-id(5).
pub const MACHINE_ID: &str = "/etc/machine-id";
/// The agent's configuration.
pub const AGENT_CONFIG: &str = "/etc/godwit/agent.toml";
