//! What cannot be checkpointed, told before anything is done.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use godwit_criu::mounts::{MountPlan, restore as mount_sources};
use godwit_criu::preflight::{self, Subject};
use godwit_types::Bytes;
use oci_spec::runtime::LinuxNamespaceType;

use super::CheckpointError;
use super::dump::lasting;
use super::members::{inhabited_below, own};
use super::memory::pids;
use super::source::Source;
use crate::blocking::blocking;

mod server;

/// Looks at what the shim told, at the spec, and at every process of the container. `server`: host and port of the store's.
///
/// # Errors
/// [`CheckpointError::Refused`] or [`CheckpointError::Unfit`] with a sentence that says what to do.
pub(super) async fn check(
    source: &Source,
    ghost_limit: Bytes,
    server: Option<(String, u16)>,
) -> Result<(), CheckpointError> {
    if let Some(sentence) = of_container(source) {
        return Err(CheckpointError::Refused(sentence));
    }
    if source.container.execs > 0 {
        let (container, open) = (source.container.id.clone(), source.container.execs);
        return Err(CheckpointError::ExecSessions { container, open });
    }
    let (init, spec, cgroup) = (source.container.pid, source.spec.clone(), source.freezer()?);
    let (id, cgroups) = (source.container.id.clone(), source.container.cgroups.clone());
    blocking(move || {
        let members = pids(&cgroup)?;
        let paths = cgroups.iter().map(|cgroup| Path::new(&cgroup.path));
        if let Some(below) = of_cgroups(&id, paths, &members) {
            return Err(CheckpointError::Refused(below));
        }
        let pids: Vec<u32> = members.into_iter().filter_map(|p| p.try_into().ok()).collect();
        let subject = Subject { init, pids: &pids, spec: &spec, ghost_limit };
        let found = preflight::check(subject);
        if let Some(reason) = found.into_iter().next() {
            return Err(CheckpointError::Unfit { container: id, reason });
        }
        // What a restore would refuse is refused while it runs.
        let sources = mount_sources::sources(&MountPlan::of(init, &spec)?, &spec);
        lasting(&id, sources.err().unwrap_or_default())
    })
    .await?;
    let refusal = server::refusal(&source.container.id, init, server).await?;
    refusal.map_or(Ok(()), |sentence| Err(CheckpointError::Refused(sentence)))
}

/// The restored container has one cgroup with the limits of its spec: those that it made below would be lost. In a hierarchy that runc
/// does not know the container is where its shim is, among others; who is below there is not one of its `members`.
fn of_cgroups<'a>(
    id: &str,
    cgroups: impl Iterator<Item = &'a Path>,
    members: &BTreeSet<i32>,
) -> Option<String> {
    let below = cgroups.filter_map(|top| Some((top, inhabited_below(top).ok().flatten()?)));
    let is_ours = |found: &Path| own(found).is_ok_and(|all| !all.is_disjoint(members));
    let mut below = below.filter(|(_, found)| is_ours(found));
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
        let members = BTreeSet::from([1, 7]);
        let told = || of_cgroups("web", [Path::new("/nonexistent"), &top].into_iter(), &members);
        assert_eq!(told(), None);
        std::fs::write(top.join("jobs/cgroup.procs"), "7\n").unwrap();
        assert!(told().unwrap().contains("web are in a cgroup of their own (jobs)"));
        // Somebody else's, where runc has made no cgroup for the container.
        std::fs::write(top.join("jobs/cgroup.procs"), "8\n").unwrap();
        assert_eq!(told(), None);
    }
}
