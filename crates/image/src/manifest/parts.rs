//! The parts of a manifest.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Where a checkpoint was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Id of the cluster; `_none` without Kubernetes.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// Name of the pod, or of the container without Kubernetes.
    pub pod: String,
    /// Uid of the pod, or `<containerd namespace>+<container id>`.
    pub uid: String,
    /// What its owner made the pod from: a revision or a hash of a template. Only one made from the same is its next life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name within the pod.
    pub name: String,
    /// The image's name, for people.
    #[serde(default)]
    pub image: String,
    /// What must be the same at the target: the chain id of the image's layers, as the runtime writes it.
    pub image_digest: String,
    /// BLAKE3 of its `config.json`.
    pub spec_digest: Digest,
    /// Its processes.
    pub processes: u32,
    /// Pages that its page maps cover.
    pub pages: u64,
    /// The part of the head that holds it.
    pub head: ByteRange,
}

/// An object that the checkpoint is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Key below the tenant's `checkpoints/`: `<checkpoint id>/packs/0003`, `<checkpoint id>/head`.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3: of all bytes, for a head; of the footer, which holds the digests of all frames, for a pack.
    pub digest: Digest,
}

/// What a target must be able to do, and what the source was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compat {
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Features of the processor that programs may have seen, sorted.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// Size of the processor's XSAVE area in bytes; 0 where there is none.
    #[serde(default)]
    pub xsave_bytes: u32,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of CRIU.
    pub criu: String,
    /// Bytes in a page.
    pub page_size: u32,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Name and version of the OCI runtime.
    pub runtime: String,
}

/// What happens to the pod's TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpMode {
    /// Connections to the outside are reset; those inside the pod survive.
    Close,
    /// They are kept: the target has the same address.
    Keep,
}

/// Addresses and what happens to connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// See there.
    pub tcp: TcpMode,
    /// The pod's addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// How a container may use a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeMode {
    /// Read only.
    ReadOnly,
    /// Writable.
    ReadWrite,
}

/// [`Volume::snapshot`] of a volume that is the pod's alone: the head holds the index of what is in it.
pub const IN_THE_HEAD: &str = "head";

/// A persistent volume, or a directory of the node that a container writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name in the pod; without Kubernetes, where the container has it.
    pub name: String,
    /// Which container has it there; absent: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its path on the node where the checkpoint was taken, if it has no claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Uid of its claim, if it has one.
    #[serde(default)]
    pub claim_uid: Option<String>,
    /// Which storage it is, wherever and for whichever pod it is mounted: `csi/DRIVER/HANDLE`, `local/PERSISTENT-VOLUME`. Absent: what
    /// the path is on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// How it is used.
    pub mode: VolumeMode,
    /// A snapshot of the same freeze: [`IN_THE_HEAD`], or the name of one elsewhere.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The source ran on after this point and may have written to it: memory and volume no longer match.
    #[serde(default)]
    pub diverged: bool,
}

/// How frames, digests and head are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Name of the scheme.
    pub scheme: String,
    /// The data keys, each wrapped by a key that the store's configuration names.
    pub keys: Vec<DataKey>,
}

/// A wrapped data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKey {
    /// The id that packs name.
    pub id: u32,
    /// Name of the key that wraps it.
    pub wrapped_by: String,
    /// The wrapped key in hex.
    pub wrapped: String,
}

/// A MAC over the manifest without this field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Name of the scheme.
    pub scheme: String,
    /// Name of the key.
    pub key: String,
    /// The MAC in hex.
    pub mac: String,
}
