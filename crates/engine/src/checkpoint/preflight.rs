//! What cannot be checkpointed, told before anything is done.

use std::ffi::OsStr;
use std::path::Path;

use godwit_criu::preflight::{self, Subject};
use oci_spec::runtime::LinuxNamespaceType;

use super::CheckpointError;
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
    let found = blocking(move || {
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
