//! Which mounts of a container are whose at a dump.
//!
//! Owns the classification of the mount table against the OCI spec ([`MountPlan::of`]), the names under which CRIU is
//! told about external mounts, the contents of the container's own temporary file systems ([`capture`]) and what
//! becomes of all that on another node ([`restore`]). CRIU keeps what belongs to it (root, proc, sysfs, devpts,
//! mqueue and their binds, masked files); everything else is external, so that no archive is made inside the freeze.

pub mod binds;
pub mod capture;
pub mod restore;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::relay_plan::{Entry, RawPath};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::mountinfo::{self, Mount};

/// Name of the file in an image directory that holds the plan.
pub const PLAN_FILE: &str = "godwit-mounts.json";
/// Version of the plan's format.
const VERSION: u32 = 1;
/// Largest plan that is read.
const MAX_PLAN: usize = 64 << 20;

/// Every mount of a container and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    version: u32,
    /// In the order of the mount table: parents before children.
    pub mounts: Vec<PlannedMount>,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMount {
    /// Where, seen from the container's root.
    pub mountpoint: RawPath,
    /// Type of the file system.
    pub fs: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// Whose it is.
    pub role: Role,
}

/// Whose a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Role {
    /// CRIU saves and makes it.
    Criu,
    /// A bind of the spec: runc maps it (key: the destination).
    Bind,
    /// Came with a recursive bind of the spec.
    Inner {
        /// Destination of that bind.
        of: RawPath,
        /// Path below it.
        inner: RawPath,
    },
    /// The container's own temporary file system.
    Tmpfs {
        /// What is in it, once captured.
        entries: Vec<Entry>,
    },
    /// The cgroup hierarchy (v2).
    Cgroup2,
    /// A cgroup hierarchy (v1).
    CgroupV1,
}

impl PlannedMount {
    /// The key by which CRIU knows it, if it is external.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        let path = self.mountpoint.as_path().display();
        match self.role {
            Role::Criu => None,
            Role::Bind => Some(path.to_string()),
            _ => Some(format!("gw:{path}")),
        }
    }
}

impl MountPlan {
    /// Classifies the mounts that the container's init sees. Runs before the freeze; a mount that the container makes
    /// later is found by CRIU, which then refuses it.
    ///
    /// # Errors
    /// [`Error::Refused`] for a mount that neither CRIU nor Godwit can bring back.
    pub fn of(pid: u32, spec: &Spec) -> Result<Self, Error> {
        Self::classify(&mountinfo::of_process(pid)?, spec)
    }

    fn classify(table: &[Mount], spec: &Spec) -> Result<Self, Error> {
        let binds = bind_destinations(spec);
        let mut seen = BTreeSet::new();
        let mut mounts = Vec::with_capacity(table.len());
        for mount in table {
            let role = role_of(mount, &binds)?;
            if role != Role::Criu && !seen.insert(&mount.mountpoint) {
                return Err(refused(mount, "is mounted over by another mount"));
            }
            mounts.push(PlannedMount {
                mountpoint: RawPath(mount.mountpoint.clone()),
                fs: mount.fs.clone(),
                super_options: mount.super_options.clone(),
                read_only: mount.read_only(),
                role,
            });
        }
        Ok(Self { version: VERSION, mounts })
    }

    /// `external` options of the dump.
    #[must_use]
    pub fn externals(&self) -> Vec<String> {
        let of = |m: &PlannedMount| {
            m.key().map(|key| format!("mnt[{}]:{key}", m.mountpoint.as_path().display()))
        };
        self.mounts.iter().filter_map(of).collect()
    }

    /// Writes the plan into an image directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, images: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::image(PLAN_FILE, e.to_string()))?;
        let path = images.join(PLAN_FILE);
        std::fs::write(&path, bytes).map_err(Error::io(format!("write {}", path.display())))
    }

    /// Reads the plan of an image directory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Image`] when it is malformed, too large, or of another version.
    pub fn read(images: &Path) -> Result<Self, Error> {
        let path = images.join(PLAN_FILE);
        Self::decode(&crate::images::read_bounded(&path, MAX_PLAN)?)
    }

    /// Reads the bytes of a plan.
    ///
    /// # Errors
    /// [`Error::Image`] when it is malformed or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let plan: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::image(PLAN_FILE, e.to_string()))?;
        if plan.version != VERSION {
            return Err(Error::image(PLAN_FILE, format!("unknown version {}", plan.version)));
        }
        Ok(plan)
    }
}

/// Destinations of the spec's binds and whether they are recursive. A bind's type may be missing in the spec.
fn bind_destinations(spec: &Spec) -> Vec<(PathBuf, bool)> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts
        .iter()
        .filter(|m| is_bind(m))
        .map(|m| (m.destination().clone(), has_option(m, "rbind")))
        .collect()
}

pub(crate) fn is_bind(mount: &oci_spec::runtime::Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || has_option(mount, "bind")
        || has_option(mount, "rbind")
}

pub(crate) fn has_option(mount: &oci_spec::runtime::Mount, option: &str) -> bool {
    mount.options().as_deref().unwrap_or_default().iter().any(|o| o == option)
}

fn role_of(mount: &Mount, binds: &[(PathBuf, bool)]) -> Result<Role, Error> {
    if mount.mountpoint == Path::new("/") {
        return Ok(Role::Criu);
    }
    let role = outside_role(mount, binds).or_else(|| own_role(mount));
    let role = role.ok_or_else(|| refused(mount, "is of a type that cannot be checkpointed"))?;
    if role != Role::Criu && !can_be_named(&mount.mountpoint) {
        return Err(refused(mount, "has a name that CRIU cannot be told (']' or not UTF-8)"));
    }
    Ok(role)
}

/// What the spec brought in.
fn outside_role(mount: &Mount, binds: &[(PathBuf, bool)]) -> Option<Role> {
    if binds.iter().any(|(destination, _)| same_path(destination, &mount.mountpoint)) {
        return Some(Role::Bind);
    }
    let recursive = binds.iter().filter(|(_, recursive)| *recursive);
    let parent = recursive
        .filter(|(destination, _)| mount.mountpoint.starts_with(destination))
        .max_by_key(|(destination, _)| destination.components().count())?;
    let inner = mount.mountpoint.strip_prefix(&parent.0).ok()?;
    Some(Role::Inner { of: RawPath(parent.0.clone()), inner: RawPath(inner.to_owned()) })
}

/// What runc or the container made.
fn own_role(mount: &Mount) -> Option<Role> {
    match mount.fs.as_str() {
        "proc" | "sysfs" | "devpts" | "mqueue" => Some(Role::Criu),
        // A masked file: a bind of a file of a temporary file system, which CRIU finds by itself.
        "tmpfs" if mount.root != Path::new("/") => Some(Role::Criu),
        "tmpfs" => Some(Role::Tmpfs { entries: Vec::new() }),
        "devtmpfs" => Some(Role::Criu),
        "cgroup2" => Some(Role::Cgroup2),
        "cgroup" => Some(Role::CgroupV1),
        _ => None,
    }
}

/// CRIU's option is `mnt[PATH]:KEY`.
fn can_be_named(path: &Path) -> bool {
    path.to_str().is_some_and(|p| !p.contains([']', '\n']))
}

/// A destination of the spec may have a trailing slash or dots.
pub(crate) fn same_path(spec: &Path, real: &Path) -> bool {
    spec.components().eq(real.components())
}

fn refused(mount: &Mount, why: &str) -> Error {
    Error::Refused(format!("the mount {} ({}) {why}", mount.mountpoint.display(), mount.fs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    const TABLE: &str = "\
1 0 0:50 / / rw - overlay overlay rw
2 1 0:51 / /proc rw - proc proc rw
3 1 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
4 3 0:53 / /dev/pts rw - devpts devpts rw
5 3 0:54 / /dev/shm rw - tmpfs shm rw,size=65536k
6 1 8:1 /x /etc/hosts rw - ext4 /dev/sda1 rw
7 1 0:55 / /vol rw - ext4 /dev/sdb rw
8 7 0:56 / /vol/in/ner rw - xfs /dev/sdc rw
9 2 0:52 /null /proc/kcore rw - tmpfs tmpfs rw
10 2 0:57 / /proc/acpi ro - tmpfs tmpfs ro
11 1 0:58 / /sys/fs/cgroup ro - cgroup2 cgroup rw
12 1 0:59 / /cache rw - tmpfs tmpfs rw
";
    const SPEC: &str = r#"{"ociVersion":"1.2.0","mounts":[
        {"destination":"/etc/hosts/","type":"bind","source":"/h","options":["rbind","rw"]},
        {"destination":"/dev/shm","source":"/s","options":["rbind"]},
        {"destination":"/vol","type":"bind","source":"/v","options":["rbind","rslave"]},
        {"destination":"/cache","type":"tmpfs","source":"tmpfs"}]}"#;

    #[test]
    fn each_mount_has_an_owner_and_external_ones_a_key_of_their_own() {
        let plan =
            MountPlan::classify(&mountinfo::parse(TABLE.as_bytes()).unwrap(), &spec(SPEC)).unwrap();
        assert_eq!(
            plan.externals(),
            [
                "mnt[/dev]:gw:/dev",
                "mnt[/dev/shm]:/dev/shm",
                "mnt[/etc/hosts]:/etc/hosts",
                "mnt[/vol]:/vol",
                "mnt[/vol/in/ner]:gw:/vol/in/ner",
                "mnt[/proc/acpi]:gw:/proc/acpi",
                "mnt[/sys/fs/cgroup]:gw:/sys/fs/cgroup",
                "mnt[/cache]:gw:/cache",
            ]
        );
        let dir = tempfile::tempdir().unwrap();
        plan.write(dir.path()).unwrap();
        assert_eq!(MountPlan::read(dir.path()).unwrap(), plan);
    }

    #[test]
    fn what_nobody_can_bring_back_is_refused_by_name() {
        let refuse = |line: &str| {
            let table = mountinfo::parse(line.as_bytes()).unwrap();
            MountPlan::classify(&table, &spec(SPEC)).unwrap_err().to_string()
        };
        let text = refuse("9 1 0:60 / /mnt/fuse rw - fuse.sshfs x rw\n");
        assert_eq!(
            text,
            "the mount /mnt/fuse (fuse.sshfs) is of a type that cannot be checkpointed"
        );
        assert!(refuse("9 1 0:60 / /a]b rw - tmpfs x rw\n").contains("cannot be told"));
        let twice = "9 1 0:60 / /cache rw - tmpfs x rw\n10 9 0:61 / /cache rw - tmpfs x rw\n";
        assert!(refuse(twice).contains("mounted over"));
    }
}
