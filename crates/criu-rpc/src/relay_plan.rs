//! What the relay is told to do.
//!
//! The agent makes a [`RelayPlan`] (from the *new* spec and the vetted checkpoint); the shim writes it to a file and names
//! that file in the environment of `runc restore` (`godwit_wire::relay`); the relay does what the plan says. The plan is
//! small, because it travels in a packet; what a mount is made of stands in a file of its own ([`SOURCES_FILE`]). Owns
//! these types and their encoding, no I/O.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;
use crate::rpc::{CgroupMode, NetworkLock, Opts};

/// Name of the file in an image directory that holds the bytes of [`EntryKind::File`]s.
pub const CONTENTS_FILE: &str = "godwit-tmpfs.bin";
/// Name of the file in an image directory that holds the [`Source`]s of a restore.
pub const SOURCES_FILE: &str = "godwit-sources.json";

/// Everything that one restore's relay does before it becomes CRIU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayPlan {
    /// The real CRIU.
    pub criu: PathBuf,
    /// `PATH` for it (without the relay's directory).
    pub path: String,
    /// CRIU's version, if known: the relay then answers runc's question itself (saves 5 ms).
    pub criu_version: Option<(u32, u32, u32)>,
    /// Namespaces to enter or make, in this order.
    pub namespaces: Vec<Enter>,
    /// Host name for a new uts namespace.
    pub hostname: Option<String>,
    /// Make a new cgroup namespace (the spec has one; runc has put the relay into the container's cgroup by then).
    pub cgroup_namespace: bool,
    /// An existing empty directory of the node; in the relay's private mount namespace it becomes the place of all
    /// mounts that it makes.
    pub workspace: PathBuf,
    /// File with the bytes of captured files; [`Extent::at`] counts in it.
    pub contents: PathBuf,
    /// File with what CRIU mounts from outside ([`encode_sources`]).
    pub sources: PathBuf,
    /// Options added to runc's.
    pub options: RestoreOptions,
}

/// One namespace that the restored tasks live in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Enter {
    /// Which kind.
    pub kind: NamespaceKind,
    /// The one at this path; a new one when absent (a new net namespace gets its loopback up).
    pub path: Option<PathBuf>,
}

/// The kinds of namespace that CRIU may run inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceKind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
}

impl NamespaceKind {
    /// Its name under `/proc/<pid>/ns`.
    #[must_use]
    pub fn proc_name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }
}

/// Where the mount with this key comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The key of the image's external mount (`gw:/dev`).
    pub key: String,
    /// What the relay makes for it.
    pub kind: SourceKind,
}

/// What the relay makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum SourceKind {
    /// A new tmpfs with this content.
    Tmpfs {
        /// Options of the file system (`mode=755,size=65536k`).
        data: String,
        /// `MS_*` flags of the mount, without `MS_RDONLY`.
        flags: u64,
        /// Remounted read-only once it is filled.
        read_only: bool,
        /// What is in it, parents before children.
        entries: Vec<Entry>,
    },
    /// cgroup v2, as the container's cgroup namespace shows it.
    Cgroup2,
    /// A v1 hierarchy, as the container's cgroup namespace shows it.
    CgroupV1 {
        /// Mount options that name the hierarchy (`cpu,cpuacct` or `none,name=systemd`).
        data: String,
    },
    /// Without a cgroup namespace: the directory of the container's own cgroup.
    CgroupOwn {
        /// The hierarchy as `/proc/self/cgroup` lists it (`cpu,cpuacct`, `name=systemd`); empty for v2.
        hierarchy: String,
    },
    /// What is at a path inside a volume of the node; links on the way are not followed.
    Inside {
        /// The volume.
        volume: PathBuf,
        /// Path below it.
        inner: RawPath,
    },
}

/// One file of a tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the mount's root, without `.` and `..`; empty for the root itself.
    pub path: RawPath,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content: seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Extended attributes that belong to the file ([`is_kept`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub kind: EntryKind,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Its whole name (`user.origin`).
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// Whether attributes of this name belong to a file of a tmpfs: the user's and root's own, POSIX ACLs and file
/// capabilities. Labels of a security module come from the new container.
#[must_use]
pub fn is_kept(name: &str) -> bool {
    const WHOLE: [&str; 3] =
        ["security.capability", "system.posix_acl_access", "system.posix_acl_default"];
    name.starts_with("user.") || name.starts_with("trusted.") || WHOLE.contains(&name)
}

/// What a file of a tmpfs is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file; what no extent covers is a hole.
    File {
        /// Length in bytes. Files that are open or mapped must come back with exactly this length.
        size: u64,
        /// Its data.
        extents: Vec<Extent>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: RawPath,
    },
    /// Another name of an earlier entry.
    HardLink {
        /// That entry's path.
        to: RawPath,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name (CRIU binds it again).
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Where in the contents file.
    pub at: u64,
}

/// Options that Godwit adds to runc's restore request; the rest is fixed (cgroups ignored, network lock skipped,
/// external unix sockets allowed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOptions {
    /// 1 errors, 2 warnings, 4 debug.
    pub log_level: i32,
    /// Memory is filled by a pager that listens on `lazy-pages.socket` in the work directory. **Images whose page
    /// maps have lazy-only entries must never be restored without it** (CRIU spins for ever).
    pub lazy_pages: bool,
    /// Restore established TCP connections (always, after the images were edited for the new address).
    pub tcp_established: bool,
    /// LSM profile of the new spec (`apparmor:NAME`, `selinux:LABEL`).
    pub lsm_profile: Option<String>,
    /// SELinux mount context of the new spec.
    pub lsm_mount_context: Option<String>,
    /// More external resources, as CRIU spells them.
    pub external: Vec<String>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            log_level: 1,
            lazy_pages: false,
            tcp_established: true,
            lsm_profile: None,
            lsm_mount_context: None,
            external: Vec::new(),
        }
    }
}

impl RestoreOptions {
    /// As CRIU's message, to be merged into runc's. `images_dir_fd` is −1 (not meant).
    #[must_use]
    pub fn to_opts(&self) -> Opts {
        Opts {
            images_dir_fd: -1,
            log_level: Some(self.log_level),
            lazy_pages: self.lazy_pages.then_some(true),
            tcp_established: Some(self.tcp_established),
            ext_unix_sk: Some(true),
            manage_cgroups_mode: Some(CgroupMode::Ignore.into()),
            network_lock: Some(NetworkLock::Skip.into()),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            external: self.external.clone(),
            ..Opts::default()
        }
    }
}

impl RelayPlan {
    /// As the content of the plan's file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // No map with keys that are not text, no float: cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the content of the plan's file.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|e| Error::malformed("relay plan", e))
    }
}

/// The content of a sources file.
#[must_use]
pub fn encode_sources(sources: &[Source]) -> Vec<u8> {
    serde_json::to_vec(sources).unwrap_or_default()
}

/// Reads the content of a sources file.
///
/// # Errors
/// [`Error::Malformed`].
pub fn decode_sources(bytes: &[u8]) -> Result<Vec<Source>, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::malformed("mount sources", e))
}

/// A path of any bytes. In text, `%` and bytes that are not UTF-8 are written `%XX`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawPath(pub PathBuf);

impl RawPath {
    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            for byte in chunk.invalid() {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        text
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split('%');
        let mut bytes = parts.next()?.as_bytes().to_vec();
        for part in parts {
            let (hex, rest) = part.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            bytes.extend(rest.as_bytes());
        }
        Some(Self(PathBuf::from(std::ffi::OsString::from_vec(bytes))))
    }
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for RawPath {
    fn from(path: &T) -> Self {
        Self(PathBuf::from(path))
    }
}

impl Serialize for RawPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::from_text(&text).ok_or_else(|| serde::de::Error::custom("malformed path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_survives() {
        for bytes in [&b"a/b"[..], b"", b"100%", b"\xff\x00x\xc3", "käse%41".as_bytes()] {
            let path = RawPath::from(OsStr::from_bytes(bytes));
            let text = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<RawPath>(&text).unwrap(), path, "{text}");
        }
        assert!(serde_json::from_str::<RawPath>("\"a%4\"").is_err());
    }

    #[test]
    fn a_plan_reads_back() {
        let plan = RelayPlan {
            criu: "/usr/sbin/criu".into(),
            path: "/usr/sbin:/usr/bin".into(),
            criu_version: Some((4, 2, 1)),
            namespaces: vec![Enter {
                kind: NamespaceKind::Net,
                path: Some("/run/netns/pod".into()),
            }],
            hostname: None,
            cgroup_namespace: true,
            workspace: "/run/godwit/relay".into(),
            contents: "/run/godwit/images/x/godwit-tmpfs.bin".into(),
            sources: "/run/godwit/images/x/godwit-sources.json".into(),
            options: RestoreOptions::default(),
        };
        assert_eq!(RelayPlan::decode(&plan.encode()).unwrap(), plan);
        let sources = vec![Source {
            key: "gw:/dev".into(),
            kind: SourceKind::Tmpfs {
                data: "mode=755".into(),
                flags: 2,
                read_only: false,
                entries: vec![Entry {
                    path: RawPath::from("null"),
                    mode: 0o666,
                    uid: 0,
                    gid: 0,
                    mtime: (1, 2),
                    xattrs: vec![Xattr { name: "user.a".into(), value: vec![0, 255] }],
                    kind: EntryKind::CharDevice { major: 1, minor: 3 },
                }],
            },
        }];
        assert_eq!(decode_sources(&encode_sources(&sources)).unwrap(), sources);
    }
}
