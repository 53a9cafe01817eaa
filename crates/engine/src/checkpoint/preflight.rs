//! What cannot be checkpointed, told before anything is done.

use std::ffi::OsStr;
use std::path::Path;

use godwit_criu::preflight::{self, Subject};
use oci_spec::runtime::LinuxNamespaceType;

use super::CheckpointError;
use super::members::inhabited_below;
use super::memory::pids;
use super::work::{Source, freezer};
use crate::blocking::blocking;

/// Looks at what the shim told, at the spec, and at every process of the container.
///
/// # Errors
/// [`CheckpointError::Refused`] or [`CheckpointError::Unfit`] with a sentence that says what to do.
pub(super) async fn check(source: &Source) -> Result<(), CheckpointError> {
    if let Some(sentence) = of_container(source) {
        return Err(CheckpointError::Refused(sentence));
    }
    let (init, spec, cgroup) =
        (source.container.pid, source.spec.clone(), freezer(&source.container)?);
    let (id, cgroups) = (source.container.id.clone(), source.container.cgroups.clone());
    let found = blocking(move || {
        let paths = cgroups.iter().map(|cgroup| Path::new(&cgroup.path));
        let inhabited = of_cgroups(&id, paths);
        if let Some(below) = inhabited {
            return Err(CheckpointError::Refused(below));
        }
        let pids: Vec<u32> = pids(&cgroup)?.into_iter().filter_map(|p| p.try_into().ok()).collect();
        Ok::<_, CheckpointError>(preflight::check(Subject { init, pids: &pids, spec: &spec }))
    })
    .await?;
    match found.into_iter().next() {
        Some(reason) => {
            Err(CheckpointError::Unfit { container: source.container.id.clone(), reason })
        }
        None => Ok(()),
    }
}

/// The restored container has one cgroup with the limits of its spec: those that it made below would be lost.
fn of_cgroups<'a>(id: &str, cgroups: impl Iterator<Item = &'a Path>) -> Option<String> {
    let mut below = cgroups.filter_map(|top| Some((top, inhabited_below(top).ok().flatten()?)));
    let (top, found) = below.next()?;
    let name = found.strip_prefix(top).unwrap_or(&found).display().to_string();
    Some(format!(
        "processes of {id} are in a cgroup of their own ({name}), which cannot move: run them in the container's own cgroup"
    ))
}

fn of_container(source: &Source) -> Option<String> {
    let container = &source.container;
    let id = &container.id;
    if Path::new(&container.runtime).file_name() != Some(OsStr::new("runc")) {
        let runtime = &container.runtime;
        return Some(format!(
            "{id} is run by {runtime}, whose containers cannot be checkpointed: use runc"
        ));
    }
    if container.terminal {
        return Some(format!(
            "{id} has a terminal, whose other end cannot follow: start it without -t"
        ));
    }
    if container.execs > 0 {
        let n = container.execs;
        return Some(format!("{n} exec sessions are open in {id}: end them first"));
    }
    let linux = source.spec.linux().as_ref();
    let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    let own_mounts = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Mount);
    (!own_mounts).then(|| {
        format!(
            "{id} uses the node's own mount namespace, which cannot move: give it one of its own"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_in_a_cgroup_below_are_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("web");
        std::fs::create_dir_all(top.join("jobs")).unwrap();
        std::fs::write(top.join("cgroup.procs"), "1\n").unwrap();
        std::fs::write(top.join("jobs/cgroup.procs"), "").unwrap();
        let told = || of_cgroups("web", [Path::new("/nonexistent"), &top].into_iter());
        assert_eq!(told(), None);
        std::fs::write(top.join("jobs/cgroup.procs"), "7\n").unwrap();
        assert!(told().unwrap().contains("web are in a cgroup of their own (jobs)"));
    }
}
