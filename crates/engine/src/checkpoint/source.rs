//! What is checkpointed: the containers of a pod, as their shim and their specs tell.

use std::collections::BTreeSet;
use std::path::PathBuf;

use godwit_types::names;
use godwit_wire::shim_op::{Cgroup, Container};
use oci_spec::runtime::Spec;

use super::peer::SourcePeer;
use super::{CheckpointError, Step};
use crate::shim::Subject;

/// One container of the pod.
pub(crate) struct Source {
    /// Its name within the pod.
    pub(crate) name: String,
    /// As its shim knows it.
    pub(crate) container: Container,
    /// What it was started with.
    pub(crate) spec: Spec,
    /// The same, as it was read.
    pub(crate) spec_bytes: Vec<u8>,
}

impl Source {
    fn of(subject: Subject) -> Result<Self, CheckpointError> {
        let spec: Spec = serde_json::from_slice(&subject.spec).map_err(CheckpointError::Spec)?;
        let name = name_of(&spec).unwrap_or(&subject.container.id).to_owned();
        Ok(Self { name, container: subject.container, spec, spec_bytes: subject.spec })
    }

    /// The directory by which it is frozen: its cgroup (v2), or its freezer's (v1).
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn freezer(&self) -> Result<PathBuf, CheckpointError> {
        let freezes = |c: &&Cgroup| {
            c.controllers.is_empty() || c.controllers.split(',').any(|c| c == "freezer")
        };
        let found = self.container.cgroups.iter().find(freezes);
        found.map(|c| PathBuf::from(&c.path)).ok_or_else(|| {
            let id = &self.container.id;
            CheckpointError::Refused(format!("container {id} has no freezer cgroup"))
        })
    }
}

/// What Kubernetes calls a container. Each of its lives has another id, and the same name.
pub(crate) fn name_of(spec: &Spec) -> Option<&str> {
    annotation(spec, names::CONTAINER_NAME)
}

/// An annotation of a spec that says something.
pub(crate) fn annotation<'s>(spec: &'s Spec, name: &str) -> Option<&'s str> {
    let value = spec.annotations().as_ref()?.get(name)?;
    Some(value.as_str()).filter(|value| !value.is_empty())
}

/// The containers of the pod, in the order of their start, each with a name of its own.
///
/// # Errors
/// There is none, a spec cannot be read, or two have one name.
pub(super) fn all(peer: &mut SourcePeer) -> Result<Vec<Source>, CheckpointError> {
    let subjects = peer.subjects.take().ok_or(CheckpointError::Order(Step::Log))?;
    peer.done = subjects.pod.done;
    let all: Vec<Source> =
        subjects.containers.into_iter().map(Source::of).collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = all.iter().find(|source| !names.insert(&source.name)) {
        let name = &twice.name;
        return Err(CheckpointError::Refused(format!(
            "two containers named {name} run in this pod: wait until the kubelet has ended the older one"
        )));
    }
    match all.is_empty() {
        true => Err(CheckpointError::Order(Step::Log)),
        false => Ok(all),
    }
}
