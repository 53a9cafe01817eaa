//! Which namespaces CRIU is started in at a dump, and what becomes of them at a restore.
//!
//! CRIU that runs inside a namespace neither dumps nor locks it: 3 ms instead of 14. Owns the decision and its
//! conditions: a network namespace that the spec names, or a private one with nothing but loopback (one with interfaces
//! is refused: nothing could plug them in again before the processes run); the host-name namespace always; the IPC namespace only while it holds no System V object and no message queue, checked again when
//! frozen (from inside, CRIU would lose semaphores silently).

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::relay_plan::{Enter, NamespaceKind};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::preflight::Refusal;

/// Name of the file in an image directory that holds the plan.
pub const PLAN_FILE: &str = "godwit-namespaces.json";
/// A plan is three words.
const MAX_PLAN: usize = 4096;

/// What CRIU does with a container's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePlan {
    /// CRIU runs inside these; they are not in the images.
    pub entered: Vec<NamespaceKind>,
    /// CRIU dumps these from outside.
    pub dumped: Vec<NamespaceKind>,
}

impl NamespacePlan {
    /// Decides, before the freeze, for the container with this init.
    ///
    /// # Errors
    /// [`Error::Io`] when its namespaces cannot be looked at; [`Error::Refused`] for interfaces in a private one.
    pub fn of(pid: u32, spec: &Spec) -> Result<Self, Error> {
        let mut plan = Self::default();
        if let Some(interface) = own_interface(pid, spec)? {
            return Err(Error::Refused(Refusal::OwnInterface { interface }.to_string()));
        }
        plan.put(NamespaceKind::Net, true);
        plan.put(NamespaceKind::Uts, true);
        plan.put(NamespaceKind::Ipc, ipc_is_empty(pid)?);
        Ok(plan)
    }

    fn put(&mut self, kind: NamespaceKind, entered: bool) {
        if entered { &mut self.entered } else { &mut self.dumped }.push(kind);
    }

    /// Whether the image set holds the IPC namespace: only one container of a pod may.
    #[must_use]
    pub fn dumps_ipc(&self) -> bool {
        self.dumped.contains(&NamespaceKind::Ipc)
    }

    /// Opens the namespaces to enter, for [`crate::dump::DumpSession::start`].
    ///
    /// # Errors
    /// [`Error::Io`] when the process is gone.
    pub fn open(&self, pid: u32) -> Result<Vec<OwnedFd>, Error> {
        self.entered.iter().map(|kind| open_namespace(pid, *kind)).collect()
    }

    /// `external` options of the dump: the pid namespace if the spec names one (it is not the container's to dump).
    ///
    /// # Errors
    /// [`Error::Io`] when the process is gone.
    pub fn externals(&self, pid: u32, spec: &Spec) -> Result<Vec<String>, Error> {
        use std::os::unix::fs::MetadataExt as _;
        if path_of(spec, LinuxNamespaceType::Pid).is_none() {
            return Ok(Vec::new());
        }
        let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
        let inode = fs::metadata(&path).map_err(Error::reading(&path))?.ino();
        Ok(vec![format!("pid[{inode}]:extRootPidNS")])
    }

    /// Checks once more, frozen, that nothing has appeared in an entered IPC namespace.
    ///
    /// # Errors
    /// [`Error::Refused`]: roll back; a new attempt finds it used and dumps it.
    pub fn recheck(&self, pid: u32) -> Result<(), Error> {
        if self.entered.contains(&NamespaceKind::Ipc) && !ipc_is_empty(pid)? {
            return Err(Error::Refused(
                "the container began to use System V IPC or message queues just now; try again"
                    .into(),
            ));
        }
        Ok(())
    }

    /// What the relay does with them under the new spec: enter those that it names, make those that are private. Those
    /// that are in the images are left to CRIU.
    #[must_use]
    pub fn restore(&self, spec: &Spec) -> Vec<Enter> {
        let enter = |kind: &NamespaceKind| {
            let path = in_spec(spec, *kind)?;
            Some(Enter { kind: *kind, path })
        };
        self.entered.iter().filter_map(enter).collect()
    }

    /// Writes the plan into an image directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, images: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::image(PLAN_FILE, e.to_string()))?;
        let path = images.join(PLAN_FILE);
        fs::write(&path, bytes).map_err(Error::io(format!("write {}", path.display())))
    }

    /// Reads the plan of an image directory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Image`] when it is malformed or names a namespace twice.
    pub fn read(images: &Path) -> Result<Self, Error> {
        let bytes = crate::images::read_bounded(&images.join(PLAN_FILE), MAX_PLAN)?;
        let plan: Self =
            serde_json::from_slice(&bytes).map_err(|e| Error::image(PLAN_FILE, e.to_string()))?;
        let mut all = [plan.entered.as_slice(), plan.dumped.as_slice()].concat();
        all.sort();
        if all.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::image(PLAN_FILE, "a namespace is named twice"));
        }
        Ok(plan)
    }
}

/// Whether the spec has this namespace, and its path if it names one.
fn in_spec(spec: &Spec, kind: NamespaceKind) -> Option<Option<PathBuf>> {
    let typ = match kind {
        NamespaceKind::Net => LinuxNamespaceType::Network,
        NamespaceKind::Ipc => LinuxNamespaceType::Ipc,
        NamespaceKind::Uts => LinuxNamespaceType::Uts,
    };
    namespace(spec, typ).map(|n| n.path().clone().filter(|p| !p.as_os_str().is_empty()))
}

/// The path of the namespace of this kind that a container joins; `None` for one of its own, or the node's.
#[must_use]
pub fn path_of(spec: &Spec, typ: LinuxNamespaceType) -> Option<PathBuf> {
    namespace(spec, typ)?.path().clone().filter(|p| !p.as_os_str().is_empty())
}

pub(crate) fn namespace(
    spec: &Spec,
    typ: LinuxNamespaceType,
) -> Option<&oci_spec::runtime::LinuxNamespace> {
    let all = spec.linux().as_ref()?.namespaces().as_ref()?;
    all.iter().find(|n| n.typ() == typ)
}

fn open_namespace(pid: u32, kind: NamespaceKind) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{pid}/ns/{}", kind.proc_name());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::sys(format!("open {path}")))
}

/// Interfaces that every network namespace has from its beginning: loopback, and what the kernel's tunnel modules add.
const FROM_THE_BEGINNING: [&str; 10] = [
    "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
    "ip6gre0",
];

/// An interface in a network namespace that the spec does not name.
///
/// # Errors
/// [`Error::Io`] when the process is gone.
pub(crate) fn own_interface(pid: u32, spec: &Spec) -> Result<Option<String>, Error> {
    if path_of(spec, LinuxNamespaceType::Network).is_some() {
        return Ok(None);
    }
    let path = PathBuf::from(format!("/proc/{pid}/net/dev"));
    Ok(interface(&fs::read_to_string(&path).map_err(Error::reading(&path))?))
}

/// The first that was put there: two lines of headings, then `name: numbers`.
fn interface(dev: &str) -> Option<String> {
    let names = dev.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim);
    names.into_iter().find(|name| !FROM_THE_BEGINNING.contains(name)).map(str::to_owned)
}

/// Whether the IPC namespace of this process holds no System V object and no POSIX message queue.
///
/// # Errors
/// [`Error::Io`] when it cannot be entered or looked at.
pub fn ipc_is_empty(pid: u32) -> Result<bool, Error> {
    let namespace = open_namespace(pid, NamespaceKind::Ipc)?;
    // A thread of its own: `setns` changes the calling thread only, and it ends with it.
    let looker = std::thread::Builder::new().name("ipc-look".to_owned()).spawn(move || {
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(rustix::thread::LinkNameSpaceType::InterProcessCommunication),
        )
        .map_err(Error::sys("enter the IPC namespace"))?;
        Ok(sysv_is_empty()? && queues_are_empty()?)
    });
    let looker = looker.map_err(Error::io("start a thread"))?;
    looker.join().unwrap_or_else(|_| Err(Error::image("IPC namespace", "the look at it failed")))
}

fn sysv_is_empty() -> Result<bool, Error> {
    for name in ["shm", "msg", "sem"] {
        let path = PathBuf::from(format!("/proc/sysvipc/{name}"));
        match fs::read_to_string(&path) {
            // One line of headings.
            Ok(text) if text.lines().count() > 1 => return Ok(false),
            Ok(_) => {}
            // A kernel without it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::reading(&path)(e)),
        }
    }
    Ok(true)
}

fn queues_are_empty() -> Result<bool, Error> {
    let io = |errno| Error::sys("look at message queues")(errno);
    let fs = match rustix::mount::fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC) {
        // A kernel without it.
        Err(rustix::io::Errno::NODEV) => return Ok(true),
        other => other.map_err(io)?,
    };
    rustix::mount::fsconfig_create(&fs).map_err(io)?;
    let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(io)?;
    let dir = rustix::fs::openat(
        &mount,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io)?;
    for entry in rustix::fs::Dir::read_from(&dir).map_err(io)? {
        if !matches!(entry.map_err(io)?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &str) -> Spec {
        serde_json::from_str(&format!(
            r#"{{"ociVersion":"1.2.0","linux":{{"namespaces":[{namespaces}]}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn entered_namespaces_are_joined_or_made_as_the_new_spec_says() {
        use NamespaceKind::{Ipc, Net, Uts};
        let plan = NamespacePlan { entered: vec![Net, Uts], dumped: vec![Ipc] };
        let spec = spec(
            r#"{"type":"network","path":"/run/netns/a"},{"type":"uts"},{"type":"ipc","path":"/x"}"#,
        );
        assert_eq!(
            plan.restore(&spec),
            [
                Enter { kind: Net, path: Some("/run/netns/a".into()) },
                Enter { kind: Uts, path: None }
            ]
        );
        assert!(plan.dumps_ipc());
    }

    #[test]
    fn interfaces_that_somebody_made_are_told_from_those_of_the_kernel() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo:  0 0\n sit0: 0 0\n";
        assert_eq!(interface(dev), None);
        assert_eq!(interface(&format!("{dev}  eth0: 1 2\n")).as_deref(), Some("eth0"));
        // One that the spec names is not the container's.
        let named = spec(r#"{"type":"network","path":"/run/netns/a"}"#);
        assert_eq!(own_interface(std::process::id(), &named).unwrap(), None);
    }

    #[test]
    fn a_plan_reads_back_and_a_contradiction_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plan =
            NamespacePlan { entered: vec![NamespaceKind::Net], dumped: vec![NamespaceKind::Ipc] };
        plan.write(dir.path()).unwrap();
        assert_eq!(NamespacePlan::read(dir.path()).unwrap(), plan);
        NamespacePlan { entered: vec![NamespaceKind::Net; 2], dumped: vec![] }
            .write(dir.path())
            .unwrap();
        assert!(NamespacePlan::read(dir.path()).is_err());
    }

    #[test]
    fn the_ipc_namespace_of_a_process_can_be_looked_at() {
        // Tests run as root: a failure here is a failure.
        ipc_is_empty(std::process::id()).unwrap();
    }
}
