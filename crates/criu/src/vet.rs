//! What a checkpoint may not bring with it.
//!
//! CRIU restores ids, capabilities, mounts, filters and files *from the image*, as root. So, before CRIU starts, the
//! images are decoded with bounds and compared with the **new** spec: whatever exceeds it is refused by name. Owns the
//! rules ([`check`]); what can simply be replaced by the new spec's value is replaced instead
//! ([`crate::images::limits`], [`crate::mounts::restore`]).

mod creds;
mod files;
pub mod lsm;
mod mounts;
mod namespaces;
mod seccomp;

use oci_spec::runtime::Spec;

use crate::Error;
use crate::images::{ImageDir, tasks};

/// Something of a checkpoint that the new spec does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A capability that the spec's bounding set lacks.
    #[error(
        "process {pid} of the checkpoint has the capability {capability}, which the container's spec does not grant: start it with the options of the checkpointed container"
    )]
    Capability {
        /// The thread, inside the container.
        pid: u32,
        /// `CAP_SYS_ADMIN`
        capability: String,
    },
    /// A user or group that no process of this spec could have become.
    #[error(
        "process {pid} of the checkpoint runs as {what} {id}, which the container's spec does not allow: start it with the options of the checkpointed container"
    )]
    Id {
        /// The thread, inside the container.
        pid: u32,
        /// `user` or `group`
        what: &'static str,
        /// The id.
        id: u32,
    },
    /// The spec demands a seccomp filter, and a process has none.
    #[error(
        "process {pid} of the checkpoint has no seccomp filter, but the container's spec demands one: start it with the options of the checkpointed container"
    )]
    Seccomp {
        /// The thread, inside the container.
        pid: u32,
    },
    /// The seccomp filters of a process let something pass that the spec's do not.
    #[error(
        "process {pid} of the checkpoint has seccomp filters that allow {what}, which the container's spec denies: start it with the seccomp profile of the checkpointed container"
    )]
    SystemCall {
        /// The thread, inside the container.
        pid: u32,
        /// `the system call mount of x86-64`
        what: String,
    },
    /// The spec demands `no_new_privs`.
    #[error(
        "process {pid} of the checkpoint may gain privileges, but the container's spec forbids it (no_new_privs): start it with the options of the checkpointed container"
    )]
    NoNewPrivs {
        /// The thread, inside the container.
        pid: u32,
    },
    /// A process is confined, and the spec names no confinement that could take its place.
    #[error(
        "process {pid} of the checkpoint is confined by {profile}, and the container's spec names no AppArmor profile or SELinux label: start it with the options of the checkpointed container"
    )]
    Confined {
        /// The thread, inside the container.
        pid: u32,
        /// Its profile or label.
        profile: String,
    },
    /// A scheduling policy or priority that needs CAP_SYS_NICE.
    #[error(
        "process {pid} of the checkpoint has a raised priority, but the container's spec does not grant CAP_SYS_NICE: start it with the options of the checkpointed container"
    )]
    Priority {
        /// The thread, inside the container.
        pid: u32,
    },
    /// A mount that the spec lacks.
    #[error(
        "the checkpoint has a mount at {path}, which the container's spec does not have: start it with the volumes of the checkpointed container"
    )]
    Mount {
        /// Where.
        path: String,
    },
    /// A mount of the spec that the checkpoint lacks.
    #[error(
        "the container's spec mounts {path}, which the checkpoint does not have: start it with the volumes of the checkpointed container"
    )]
    MountMissing {
        /// Where.
        path: String,
    },
    /// A mount that is less restricted than the spec's.
    #[error(
        "the mount {path} of the checkpoint lacks the flag {flag} of the container's spec: start it with the options of the checkpointed container"
    )]
    MountFlag {
        /// Where.
        path: String,
        /// `ro`, `nosuid`, `nodev`, `noexec`
        flag: &'static str,
    },
    /// A path that the spec hides or protects and the checkpoint does not.
    #[error(
        "{path} is {protection} by the container's spec, but not in the checkpoint: start it with the options of the checkpointed container"
    )]
    Unprotected {
        /// Where.
        path: String,
        /// `masked` or `read-only`
        protection: &'static str,
    },
    /// A captured file of a temporary file system that cannot be.
    #[error("{path} of the checkpoint's temporary files is refused: {why}")]
    TmpfsEntry {
        /// Where.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A device that the spec does not have.
    #[error(
        "the checkpoint has the device {path} ({major}:{minor}), which the container's spec does not have: start it with the options of the checkpointed container"
    )]
    Device {
        /// Where.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// An open file of a kind that needs a capability.
    #[error(
        "the checkpoint has an open {kind}, which needs {capability}; the container's spec does not grant it: start it with the options of the checkpointed container"
    )]
    File {
        /// What kind.
        kind: &'static str,
        /// What it needs.
        capability: &'static str,
    },
    /// Namespaces that the spec does not have.
    #[error(
        "process {pid} of the checkpoint lives in a {kind} namespace of its own, which the container's spec does not have"
    )]
    Namespace {
        /// The process, inside the container.
        pid: u32,
        /// `user`, `mnt`, …
        kind: &'static str,
    },
}

/// Compares an image directory with the spec under which it is to run. `Ok` with an empty list: nothing is wrong.
///
/// # Errors
/// [`Error::Io`], [`Error::Rpc`], [`Error::Image`]: the images cannot be understood, which is a refusal as well.
pub fn check(images: &ImageDir, spec: &Spec) -> Result<Vec<Refusal>, Error> {
    let tasks = tasks::read(images)?;
    let mut refusals = creds::check(images, spec, &tasks)?;
    refusals.extend(namespaces::check(images, &tasks)?);
    refusals.extend(mounts::check(images, spec)?);
    refusals.extend(files::check(images, spec)?);
    Ok(refusals)
}

/// As [`check`], the first refusal being an error.
///
/// # Errors
/// As [`check`], and [`Error::Refused`].
pub fn require(images: &ImageDir, spec: &Spec) -> Result<(), Error> {
    match check(images, spec)?.into_iter().next() {
        Some(refusal) => Err(Error::Refused(refusal.to_string())),
        None => Ok(()),
    }
}
