//! Files without a name, memfds and shared memory that two containers of a pod have: each container's images hold a copy of their own, so
//! one would become two. Refused while the pod runs, and again by what the cut has seen.

use std::collections::BTreeMap;

use godwit_criu::preflight::nameless_files;
use godwit_image::Space;

use super::CheckpointError;
use super::dump::Dumped;
use super::memory::pids;
use super::source::Source;
use crate::blocking::blocking;

/// What the containers of a pod have, by their names: what it is, and what it is called.
type Found<'n, K> = [(&'n str, BTreeMap<K, String>)];

/// Looks at what the processes of a pod have open and mapped.
///
/// # Errors
/// [`CheckpointError::Refused`] by the names of two containers.
pub(super) async fn check(sources: &[Source]) -> Result<(), CheckpointError> {
    if sources.len() < 2 {
        return Ok(());
    }
    let cgroups = sources.iter().map(|source| Ok((source.name.clone(), source.freezer()?)));
    let cgroups = cgroups.collect::<Result<Vec<_>, CheckpointError>>()?;
    blocking(move || {
        let mut found = Vec::with_capacity(cgroups.len());
        for (name, cgroup) in &cgroups {
            let pids = pids(cgroup)?.into_iter().filter_map(|pid| pid.try_into().ok());
            found.push((name.as_str(), nameless_files(pids)));
        }
        none_shared(&found)
    })
    .await
}

/// Looks at what the images of a pod hold.
///
/// # Errors
/// As [`check`].
pub(super) fn of_cut<'n>(
    names: impl Iterator<Item = &'n str>,
    dumped: &[Dumped],
) -> Result<(), CheckpointError> {
    let found: Vec<_> = names.zip(dumped.iter().map(copied)).collect();
    none_shared(&found)
}

/// As CRIU numbers what it copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Copied {
    /// Device and inode.
    File(u32, u64),
    /// The inode of the memory.
    Memory(u64),
}

fn copied(dumped: &Dumped) -> BTreeMap<Copied, String> {
    let memory = dumped.received.spaces().keys().filter_map(|space| match space {
        Space::Shmem(id) => Some((Copied::Memory(*id), "shared memory".to_owned())),
        Space::Task(_) => None,
    });
    let files = dumped.ghosts.iter();
    let files =
        files.map(|(device, ino)| (Copied::File(*device, *ino), "a deleted file".to_owned()));
    memory.chain(files).collect()
}

fn none_shared<K: Ord>(found: &Found<'_, K>) -> Result<(), CheckpointError> {
    let mut first = BTreeMap::new();
    for (name, has) in found {
        for (one, called) in has {
            let Some(other) = first.insert(one, *name) else { continue };
            return Err(CheckpointError::Refused(format!(
                "NamelessShared: the containers {other} and {name} have {called} in common, which has no name, so each would get a copy of \
                 its own: close it in one of them, or give it a name in a directory that they share"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_containers_have_is_refused_by_their_names_and_what_one_has_twice_is_not() {
        let has = |all: &[u64]| -> BTreeMap<u64, String> {
            all.iter().map(|one| (*one, format!("/memfd:{one}"))).collect()
        };
        assert!(
            none_shared(&[("web", has(&[1, 2])), ("log", has(&[3])), ("db", has(&[]))]).is_ok()
        );
        let refused = none_shared(&[("web", has(&[1])), ("log", has(&[2])), ("db", has(&[0, 2]))]);
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("log and db have /memfd:2"), "{told}");
    }
}
