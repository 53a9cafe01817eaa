//! The pager's process: a child of the shim in a cgroup of its own, so that what is done to the shim's or the container's cgroup
//! does not reach it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use godwit_types::names;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::{debug, info};

use crate::error::{Error, Result};
use crate::reaper::Reaper;
use crate::sys;

/// Hierarchies of v1 in which a process is killed, frozen or starved with its neighbours.
const V1: [&str; 4] = ["freezer", "memory", "pids", "systemd"];

/// Starts a pager; gives our end of the socket.
pub(super) fn spawn(container: &str, reaper: &Reaper) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(Error::io("make the pager's socket"))?;
    let mut command = Command::new(names::PAGER_PATH);
    command.arg("3").stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    sys::pass_from_3(&mut command, &[theirs]).map_err(Error::io("pass the pager's socket"))?;
    let child = reaper
        .spawn(&mut command)
        .map_err(Error::io(format!("start {} (is Godwit installed?)", names::PAGER_PATH)))?;
    let pid = child.pid();
    let cgroups = own_cgroups(pid);
    info!(container, pid, "pager started");
    let container = container.to_owned();
    tokio::spawn(async move {
        let exit = child.wait().await;
        info!(container, pid, status = exit.status, "pager ended");
        for dir in cgroups {
            // Best effort, as making it was.
            let _ = std::fs::remove_dir(dir);
        }
    });
    Ok(ours)
}

/// Moves the pager into cgroups of its own where that is possible; returns what was made.
fn own_cgroups(pid: u32) -> Vec<PathBuf> {
    let roots: Vec<PathBuf> = if crate::cgroup::unified() {
        vec![PathBuf::from("/sys/fs/cgroup")]
    } else {
        V1.iter().map(|name| Path::new("/sys/fs/cgroup").join(name)).collect()
    };
    let mut made = Vec::new();
    for root in roots.iter().filter(|root| root.is_dir()) {
        let dir = root.join("godwit").join(format!("pager-{pid}"));
        let entered = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join("cgroup.procs"), pid.to_string()));
        match entered {
            Ok(()) => made.push(dir),
            Err(why) => debug!(%why, dir = %dir.display(), "the pager stays in the shim's cgroup"),
        }
    }
    made
}
