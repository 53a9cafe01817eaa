//! What the shim tells of the containers of an operation.

/// The containers of the operation. Descriptors: for each container, in order, \[pidfd of its init, its `config.json` as a
/// sealed memfd\].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Containers {
    /// Kubernetes pod uid, or `<containerd namespace>+<container id>`: [`godwit_types::Owner::pod_uid`].
    #[prost(string, tag = "1")]
    pub pod_uid: String,
    /// [`godwit_types::Incarnation`] of this sandbox life.
    #[prost(string, tag = "2")]
    pub incarnation: String,
    /// The containers, at most 60.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<Container>,
    /// containerd's namespace.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// Names of the pod's containers that are done: they ended with status 0 and do not run (init containers).
    #[prost(string, repeated, tag = "5")]
    pub done: Vec<String>,
}

/// One container, as far as its shim knows it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Container {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Pid of its init in the shim's (the node's) pid namespace.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// Path of the mounted root file system.
    #[prost(string, tag = "3")]
    pub rootfs: String,
    /// Its cgroups: on v2 one, on v1 one per hierarchy.
    #[prost(message, repeated, tag = "4")]
    pub cgroups: Vec<Cgroup>,
    /// The pipes of its standard streams, which the shim made (`pipe:[123]`; empty: none), wherever its processes have them now: what
    /// `descriptors.json` holds.
    #[prost(string, repeated, tag = "5")]
    pub stdio: Vec<String>,
    /// Whether it has a terminal.
    #[prost(bool, tag = "6")]
    pub terminal: bool,
    /// Live exec sessions (processes that the shim started beside init).
    #[prost(uint32, tag = "7")]
    pub execs: u32,
    /// The runtime that runs it: `runc`, or the name of another binary (whose checkpoints are refused).
    #[prost(string, tag = "8")]
    pub runtime: String,
    /// Root file system mounts as containerd gave them at Create, for files of the writable layer.
    #[prost(message, repeated, tag = "9")]
    pub mounts: Vec<RootMount>,
}

/// One cgroup directory of a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Cgroup {
    /// v1: the hierarchy's controllers (`cpu,cpuacct`, `name=systemd`); v2: empty.
    #[prost(string, tag = "1")]
    pub controllers: String,
    /// Absolute path of the directory below `/sys/fs/cgroup`.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// One mount that makes up a container's root file system, in containerd's terms.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RootMount {
    /// File system type, `overlay` or `bind`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Source.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Options, among them `upperdir=…` and `lowerdir=…`.
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
}
