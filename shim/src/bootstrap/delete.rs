//! `delete`: cleans up after a shim that is dead. Everyone in the container is killed, without letting a frozen process
//! execute another instruction; then runc's state and the mounts go.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};
use serde::Deserialize;

use super::{Arguments, socket};
use crate::cgroup::Cgroup;
use crate::container::{PID_FILE, ROOTFS, read_pid};
use crate::error::{Error, Result};
use crate::events::event::timestamp;
use crate::mounts;
use crate::options::Options;
use crate::reaper::{Exit, Reaper};
use crate::runc::Runc;
use crate::spec::Spec;

/// 128 + SIGKILL: how a container ends whose shim has died.
const KILLED: u32 = 137;

/// The part of runc's `state.json` that says where the processes are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncState {
    /// Directory by controller; the v2 one has no name.
    cgroup_paths: BTreeMap<String, PathBuf>,
}

/// Kills and removes what is left of a container and prints how it ended.
///
/// # Errors
/// The bundle cannot be read, or stdout is closed. What cannot be removed is told on stderr.
pub fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop"))?;
    let response = runtime.block_on(clean_up(arguments))?;
    let bytes = response.write_to_bytes().map_err(Error::io("encode the answer"))?;
    std::io::stdout().write_all(&bytes).map_err(Error::io("print the answer"))
}

async fn clean_up(arguments: &Arguments) -> Result<DeleteResponse> {
    let bundle = arguments.bundle()?;
    let pid = read_pid(&bundle.join(PID_FILE)).unwrap_or_default();
    let options = Options::load(&bundle)?;
    let reaper = Reaper::new();
    let reaping = tokio::spawn(reaper.clone().run());
    let runc = Runc::new(&options, &arguments.namespace, &arguments.id, &bundle, &reaper);
    warn_on("kill what is left", kill_all(&runc.state_dir()));
    // A restore that was interrupted leaves its root mounted there.
    warn_on("unmount runc's restore root", mounts::unmount_all(&runc.state_dir()).await);
    warn_on("delete runc's state", runc.delete(true).await);
    warn_on("unmount the root file system", mounts::unmount_all(&bundle.join(ROOTFS)).await);
    remove_socket(arguments, &bundle);
    reaping.abort();
    let exit = Exit::now(KILLED);
    Ok(DeleteResponse {
        pid,
        exit_status: exit.status,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..Default::default()
    })
}

fn kill_all(state_dir: &Path) -> Result<()> {
    let Ok(bytes) = std::fs::read(state_dir.join("state.json")) else { return Ok(()) };
    let state: RuncState = serde_json::from_slice(&bytes)
        .map_err(|why| Error::Invalid(format!("runc's state: {why}")))?;
    match Cgroup::of_paths(state.cgroup_paths) {
        Some(cgroup) => cgroup.kill().map_err(Error::io("kill everyone in its cgroup")),
        None => Ok(()),
    }
}

fn remove_socket(arguments: &Arguments, bundle: &Path) {
    if let Ok(spec) = Spec::read(bundle) {
        let group = spec.group(&arguments.id);
        socket::remove_stale(&socket::path(None, &arguments.address, &arguments.namespace, group));
    }
}

/// containerd logs what it finds on stderr as warnings.
fn warn_on(attempt: &str, result: Result<()>) {
    if let Err(why) = result {
        eprintln!("{attempt}: {}", why.chain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_of_a_dead_shims_container_are_found_in_runcs_state() {
        let state = r#"{"id":"c","cgroup_paths":{"memory":"/m/c","freezer":"/f/c"},"x":1}"#;
        let state: RuncState = serde_json::from_str(state).unwrap();
        let cgroup = Cgroup::of_paths(state.cgroup_paths).unwrap();
        assert_eq!(cgroup.freezer_dir(), Some(Path::new("/f/c")));
        let unified: RuncState = serde_json::from_str(r#"{"cgroup_paths":{"":"/u/c"}}"#).unwrap();
        assert!(Cgroup::of_paths(unified.cgroup_paths).unwrap().is_v2());
        assert!(Cgroup::of_paths(BTreeMap::new()).is_none());
    }
}
