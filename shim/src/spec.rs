//! The part of a bundle's `config.json` that the shim acts on. runc reads the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use godwit_types::{annotations, names};
use serde::Deserialize;

use crate::error::{Error, Result};

/// File name of the OCI spec in a bundle.
pub const CONFIG: &str = "config.json";

/// Annotations that put containers into one shim, in order of precedence (containerd's runc shim: the same).
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", names::SANDBOX_ID];

/// What the shim knows of an OCI spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// Free text by key.
    pub annotations: BTreeMap<String, String>,
    /// The init process.
    pub process: Option<SpecProcess>,
    /// The root file system.
    pub root: Option<Root>,
    /// Mounts in the order in which runc makes them.
    pub mounts: Vec<SpecMount>,
    /// Name in the uts namespace.
    pub hostname: Option<String>,
    /// Linux's part.
    pub linux: Option<Linux>,
}

/// The init process of a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SpecProcess {
    /// Whether it has a pseudo terminal.
    pub terminal: bool,
}

/// The root file system of a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: PathBuf,
    /// Mounted read-only.
    pub readonly: bool,
}

/// One mount of a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SpecMount {
    /// Path inside the container.
    pub destination: PathBuf,
    /// File system type, `bind` or absent for binds.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Path or device on the host.
    pub source: Option<PathBuf>,
    /// As for mount(8).
    pub options: Vec<String>,
}

/// Linux's part of a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Linux {
    /// Namespaces of the init process; without a path they are made by runc.
    pub namespaces: Vec<Namespace>,
    /// cgroupfs path, or `slice:prefix:name` with the systemd driver.
    #[serde(rename = "cgroupsPath")]
    pub cgroups_path: Option<String>,
}

/// One namespace of a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The namespace to join.
    pub path: Option<PathBuf>,
}

impl Spec {
    /// Reads `config.json` of a bundle.
    ///
    /// # Errors
    /// It is absent or is not a spec.
    pub fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join(CONFIG);
        let bytes = std::fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        Self::parse(&bytes).map_err(|why| Error::Invalid(format!("{}: {why}", path.display())))
    }

    /// Reads a spec from its bytes.
    ///
    /// # Errors
    /// It is not JSON of the right shape.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// The value of an annotation, if it is there and not empty.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether its pod asks for its connections to be kept.
    #[must_use]
    pub fn keeps_connections(&self) -> bool {
        self.annotation(names::TCP) == Some(names::KEEP)
    }

    /// Whether its pod may begin from a checkpoint's memory, and go on with its connections.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        let kept = self.annotation(names::CHECKPOINT_ON_STOP) == Some("true");
        kept || self.annotation(names::RESTORE_FROM).is_some()
    }

    /// That all of its annotations that are Godwit's can be obeyed.
    ///
    /// # Errors
    /// A sentence about the first that cannot.
    pub fn check_annotations(&self) -> Result<()> {
        let all = self.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        annotations::check(all).map_err(|misused| Error::Refused(misused.to_string()))
    }

    /// The id that containers of one shim share: the sandbox's, or `own` without a pod.
    #[must_use]
    pub fn group<'a>(&'a self, own: &'a str) -> &'a str {
        GROUPS.iter().find_map(|key| self.annotation(key)).unwrap_or(own)
    }

    /// Whether runc makes a pid namespace for it: then the kernel ends all its processes with the init process.
    #[must_use]
    pub fn own_pid_namespace(&self) -> bool {
        self.namespace("pid").is_some_and(|pid| pid.path.is_none())
    }

    /// The namespace of this kind, if the spec lists it.
    #[must_use]
    pub fn namespace(&self, kind: &str) -> Option<&Namespace> {
        let linux = self.linux.as_ref()?;
        linux.namespaces.iter().find(|namespace| namespace.kind == kind)
    }

    /// Whether it is a pod's sandbox: its pause process, which holds the namespaces and has no state of its own.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        self.annotation(names::CONTAINER_TYPE) == Some("sandbox")
    }

    /// The root file system as an absolute path.
    #[must_use]
    pub fn rootfs(&self, bundle: &Path) -> PathBuf {
        let path = self.root.as_ref().map_or(Path::new("rootfs"), |root| &root.path);
        bundle.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_that_is_none_is_refused() {
        let spec = br#"{"annotations":{"godwit.dev/restore_from":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}}"#;
        let refused = Spec::parse(spec).unwrap().check_annotations().unwrap_err();
        assert_eq!(refused.code(), godwit_types::Code::Refused);
        assert!(refused.to_string().contains("no annotation godwit.dev/restore_from"), "{refused}");
        assert!(Spec::parse(b"{}").unwrap().check_annotations().is_ok());
    }

    #[test]
    fn containers_of_one_sandbox_share_a_group_and_others_are_alone() {
        let pod = br#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s1","x":""}}"#;
        let spec = Spec::parse(pod).unwrap();
        assert_eq!(spec.group("c1"), "s1");
        assert_eq!(spec.annotation("x"), None);
        assert_eq!(Spec::default().group("c1"), "c1");
    }

    #[test]
    fn a_pid_namespace_by_path_is_not_the_containers_own() {
        let own = br#"{"linux":{"namespaces":[{"type":"pid"}]}}"#;
        let shared = br#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#;
        assert!(Spec::parse(own).unwrap().own_pid_namespace());
        assert!(!Spec::parse(shared).unwrap().own_pid_namespace());
        assert!(!Spec::default().own_pid_namespace());
    }

    #[test]
    fn the_root_is_found_relative_to_the_bundle() {
        let spec = Spec::parse(br#"{"root":{"path":"/abs"}}"#).unwrap();
        assert_eq!(spec.rootfs(Path::new("/b")), PathBuf::from("/abs"));
        assert_eq!(Spec::default().rootfs(Path::new("/b")), PathBuf::from("/b/rootfs"));
    }
}
