//! The pager's process: a child of the shim in a cgroup of its own.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use godwit_types::names;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::info;

use super::cgroups;
use crate::error::{Error, Result};
use crate::reaper::Reaper;
use crate::sys;

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
    let cgroups = cgroups::enter(pid);
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
