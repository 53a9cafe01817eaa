//! A container whose spec asks for a restore, but that starts from its image: `runc create` and `runc start`, in the place of
//! `runc restore`.

use std::path::PathBuf;

use crate::container::{Container, PID_FILE, read_pid};
use crate::error::Result;
use crate::io::Prepared;
use crate::reaper::Reaper;
use crate::runc::Streams;

/// Makes it and lets it run; returns the pid of its init, a child of the shim.
///
/// # Errors
/// runc's own sentence; nothing of it is left.
pub(super) async fn start(container: &Container, reaper: &Reaper) -> Result<u32> {
    let started = create_and_start(container, reaper).await;
    if started.is_err() {
        // What runc could not make it may still know of; its first sentence is the one that is told.
        let _ = container.runc().delete(true).await;
    }
    started
}

async fn create_and_start(container: &Container, reaper: &Reaper) -> Result<u32> {
    let (prepared, ends) = match container.take_prepared() {
        Some(prepared) => prepared,
        None => Prepared::new(container.init().stdio(), &container.owner(), reaper).await?,
    };
    let pid_file: PathBuf = container.bundle().join(PID_FILE);
    let console = prepared.console.as_ref().map(|socket| socket.path().to_owned());
    let streams = Streams { ends, console: console.as_deref() };
    container.runc().create(&pid_file, streams).await?;
    container.init().set_io(prepared.start().await?);
    let pid = read_pid(&pid_file)?;
    container.adopt_cgroup_of(pid);
    container.runc().start().await?;
    Ok(pid)
}
