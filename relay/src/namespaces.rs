//! The namespaces that the restored tasks inherit from CRIU.

use std::os::fd::{AsFd as _, OwnedFd};

use godwit_criu_rpc::relay_plan::{Enter, NamespaceKind, RelayPlan};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::Error;
use crate::sys;

/// Enters or makes them all; a mount namespace of our own last.
pub(crate) fn enter(plan: &RelayPlan) -> Result<(), Error> {
    // All are opened before the first is entered: none of them changes what a path means, but an error now leaves
    // nothing half done.
    let opened = plan.namespaces.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    for (namespace, fd) in plan.namespaces.iter().zip(&opened) {
        match fd {
            Some(fd) => join(namespace.kind, fd)?,
            None => make(namespace.kind, plan)?,
        }
    }
    if plan.cgroup_namespace {
        unshare(UnshareFlags::NEWCGROUP, "cgroup")?;
    }
    unshare(UnshareFlags::NEWNS, "mount")?;
    // What the node mounts while we live still reaches us; what we mount reaches nobody.
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation).map_err(Error::sys("keep mounts to ourselves"))
}

fn open(namespace: &Enter) -> Result<Option<OwnedFd>, Error> {
    let Some(path) = &namespace.path else { return Ok(None) };
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(Some)
        .map_err(Error::sys(format!("open the namespace {}", path.display())))
}

fn join(kind: NamespaceKind, fd: &OwnedFd) -> Result<(), Error> {
    let typ = match kind {
        NamespaceKind::Net => LinkNameSpaceType::Network,
        NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
    };
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(typ))
        .map_err(Error::sys(format!("enter the {} namespace", kind.proc_name())))
}

fn make(kind: NamespaceKind, plan: &RelayPlan) -> Result<(), Error> {
    let flag = match kind {
        NamespaceKind::Net => UnshareFlags::NEWNET,
        NamespaceKind::Ipc => UnshareFlags::NEWIPC,
        NamespaceKind::Uts => UnshareFlags::NEWUTS,
    };
    unshare(flag, kind.proc_name())?;
    match (kind, &plan.hostname) {
        (NamespaceKind::Net, _) => {
            sys::loopback_up().map_err(Error::io("bring the loopback interface up"))
        }
        (NamespaceKind::Uts, Some(name)) => {
            rustix::system::sethostname(name.as_bytes()).map_err(Error::sys("set the host name"))
        }
        _ => Ok(()),
    }
}

fn unshare(flag: UnshareFlags, name: &str) -> Result<(), Error> {
    sys::unshare(flag).map_err(Error::io(format!("make a {name} namespace")))
}
