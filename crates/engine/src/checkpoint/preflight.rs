//! What cannot be checkpointed, told before anything is done.

use oci_spec::runtime::LinuxNamespaceType;

use super::CheckpointError;
use super::work::Source;

/// Looks at what the shim told and at the spec.
///
/// # Errors
/// [`CheckpointError::Refused`] with a sentence that says what to do.
pub(super) fn check(source: &Source) -> Result<(), CheckpointError> {
    match refusal(source) {
        Some(sentence) => Err(CheckpointError::Refused(sentence)),
        None => Ok(()),
    }
}

fn refusal(source: &Source) -> Option<String> {
    let container = &source.container;
    let id = &container.id;
    if container.runtime != "runc" {
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
    host_namespace(source)
}

/// A namespace of the node cannot be given to another node.
fn host_namespace(source: &Source) -> Option<String> {
    const KINDS: [(LinuxNamespaceType, &str); 4] = [
        (LinuxNamespaceType::Network, "network"),
        (LinuxNamespaceType::Ipc, "IPC"),
        (LinuxNamespaceType::Pid, "process"),
        (LinuxNamespaceType::Mount, "mount"),
    ];
    let linux = source.spec.linux().as_ref();
    let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    let id = &source.container.id;
    for (kind, name) in KINDS {
        if !namespaces.iter().any(|n| n.typ() == kind) {
            return Some(format!(
                "{id} uses the node's own {name} namespace, which cannot move: give it one of its own"
            ));
        }
    }
    let shared = namespaces.iter().any(|n| {
        n.typ() == LinuxNamespaceType::Pid
            && n.path().as_ref().is_some_and(|p| !p.as_os_str().is_empty())
    });
    shared.then(|| {
        format!(
            "{id} shares its process namespace with other containers: that cannot be checkpointed"
        )
    })
}
