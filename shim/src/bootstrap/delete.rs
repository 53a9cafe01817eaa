//! `delete`: cleans up after a shim that is dead. Everyone in the container is killed, without letting a frozen process
//! execute another instruction; then runc's state, the mounts, the sockets and what its operations have left go.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};
use serde::Deserialize;

use super::{Arguments, socket};
use crate::cgroup::Cgroup;
use crate::container::{PID_FILE, ROOTFS, read_pid};
use crate::error::{Error, Result};
use crate::events::event::timestamp;
use crate::exit_file;
use crate::mounts;
use crate::op::{Places, settle_orphaned};
use crate::options::Options;
use crate::pod::PodIdentity;
use crate::reaper::{Exit, Reaper};
use crate::restore::pager::cgroups;
use crate::restore::work_dir::WorkDir;
use crate::restore::{dead, place};
use crate::runc::Runc;
use crate::spec::Spec;

/// 128 + SIGKILL: how a container ends whose shim has died before it.
const KILLED: u32 = 137;
/// How long killed processes may take to vanish: containerd gives the whole clean-up five seconds.
const DEATH: Duration = Duration::from_secs(2);

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
    if let Some(cgroup) = cgroup(&bundle, arguments, &reaper) {
        warn_on("kill what is left", kill_all(&cgroup).await);
    }
    // A restore that was interrupted leaves its root mounted there.
    warn_on("unmount runc's restore root", mounts::unmount_all(&runc.state_dir()).await);
    warn_on("delete runc's state", runc.delete(true).await);
    warn_on("unmount the root file system", mounts::unmount_all(&bundle.join(ROOTFS)).await);
    warn_on("remove what its restores have left", WorkDir::sweep());
    let (settled, ended) = tokio::join!(settle(arguments, &bundle, &reaper), cgroups::orphaned());
    warn_on("settle what its operations have left", settled);
    if !ended {
        eprintln!("its pager has not ended yet; its cgroup is removed by the next restore");
    }
    reaping.abort();
    let exit = exit_file::read(&bundle).unwrap_or_else(|| Exit::now(KILLED));
    Ok(DeleteResponse {
        pid,
        exit_status: exit.status,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..Default::default()
    })
}

/// Where the processes of a container are, or would be.
fn cgroup(bundle: &Path, of: &Arguments, reaper: &Reaper) -> Option<Cgroup> {
    let options = Options::load(bundle).unwrap_or_default();
    let runc = Runc::new(&options, &of.namespace, &of.id, bundle, reaper);
    let state = std::fs::read(runc.state_dir().join("state.json")).ok();
    let state = state.and_then(|bytes| serde_json::from_slice::<RuncState>(&bytes).ok());
    let known = state.and_then(|state| Cgroup::of_paths(state.cgroup_paths));
    // A restore has tasks before runc has written its state.
    let asked = || place::asked(&Spec::read(bundle).ok()?, &options);
    known.or_else(asked)
}

async fn kill_all(cgroup: &Cgroup) -> Result<()> {
    if cgroup.is_empty() {
        return Ok(());
    }
    cgroup.kill().map_err(Error::io("kill everyone in its cgroup"))?;
    let late = |_| Error::Unavailable("somebody who was killed does not die".into());
    tokio::time::timeout(DEATH, dead::empty(cgroup)).await.map(drop).map_err(late)
}

/// Removes the sockets of the dead shim and settles its pod's fence, unless another shim serves the pod.
async fn settle(arguments: &Arguments, bundle: &Path, reaper: &Reaper) -> Result<()> {
    let pod = PodIdentity::of(&Spec::read(bundle)?, &arguments.namespace, &arguments.id);
    let path = socket::path(None, &arguments.address, &arguments.namespace, &pod.group);
    if !socket::remove_stale(&path) {
        return Ok(());
    }
    // Each container's clean-up kills before it looks: the last one sees nobody.
    let mates = mates(arguments, bundle, &pod);
    let dead = |(bundle, mate): &(PathBuf, Arguments)| {
        cgroup(bundle, mate, reaper).is_none_or(|cgroup| cgroup.is_empty())
    };
    let proved_dead = mates.iter().all(dead);
    settle_orphaned(&Places::default(), &pod, proved_dead).await
}

/// The containers of the same pod that containerd knows, itself included: their bundles lie beside each other.
fn mates(arguments: &Arguments, bundle: &Path, pod: &PodIdentity) -> Vec<(PathBuf, Arguments)> {
    let beside = bundle.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let beside = beside.into_iter().flatten().flatten().map(|entry| entry.path());
    let mates = beside.filter_map(|bundle| {
        let id = bundle.file_name()?.to_str()?.to_owned();
        let spec = Spec::read(&bundle).ok()?;
        let mate = Arguments { id, ..arguments.clone() };
        (PodIdentity::of(&spec, &mate.namespace, &mate.id) == *pod).then_some((bundle, mate))
    });
    mates.collect()
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
    fn containers_of_one_pod_find_each_other_by_their_bundles() {
        let dir = tempfile::tempdir().unwrap();
        for (id, sandbox) in [("a", "pod1"), ("b", "pod1"), ("c", "pod2")] {
            let bundle = dir.path().join(id);
            std::fs::create_dir(&bundle).unwrap();
            let annotations = format!(r#"{{"io.kubernetes.cri.sandbox-id":"{sandbox}"}}"#);
            let spec = format!(r#"{{"annotations":{annotations}}}"#);
            std::fs::write(bundle.join("config.json"), spec).unwrap();
        }
        let arguments =
            Arguments { namespace: "default".into(), id: "a".into(), ..Default::default() };
        let bundle = dir.path().join("a");
        let pod = PodIdentity::of(&Spec::read(&bundle).unwrap(), "default", "a");
        let mut found: Vec<String> =
            mates(&arguments, &bundle, &pod).into_iter().map(|(_, mate)| mate.id).collect();
        found.sort();
        assert_eq!(found, ["a", "b"]);
    }

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
