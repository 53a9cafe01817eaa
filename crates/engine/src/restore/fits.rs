//! Whether a checkpoint fits the container that starts: its image, its memory limit. The node itself is `compat`'s.

mod group;

use std::collections::BTreeMap;

use godwit_criu::mounts::binds;
use godwit_files::FileIndex;
use godwit_image::manifest::Container;
use godwit_image::{ContainerHead, Head, PageSource, Space, SpaceHead, section_of_volume};
use godwit_types::{Bytes, PAGE_SIZE};
use oci_spec::runtime::Spec;

use super::{RestoreError, volumes_of};
use crate::containerd::RootImage;

/// Processes have files of their image open and mapped: they must be the very same.
///
/// # Errors
/// [`RestoreError::OtherImage`], also for a checkpoint that does not say of which image it is.
pub(super) fn image(
    source: &Container,
    here: &RootImage,
    container: &str,
) -> Result<(), RestoreError> {
    if source.image_digest == here.chain_id {
        return Ok(());
    }
    Err(RestoreError::OtherImage {
        container: container.to_owned(),
        source_image: source.image.clone(),
        source_chain: source.image_digest.clone(),
        image: here.name.clone(),
        chain: here.chain_id.clone(),
    })
}

/// What the processes need at least, and what directories of the pod hold in memory, must be below the limits of memory and swap: that of
/// the container that starts, to which a directory counts that no other has, and that of its pod.
///
/// # Errors
/// [`RestoreError::NeedsMemory`]; the head cannot be understood.
pub(super) fn memory(
    container: &ContainerHead,
    head: &Head,
    spec: &Spec,
    name: &str,
) -> Result<(), RestoreError> {
    let held = in_memory(head, spec)?;
    let alone = sum(alone(container, head, &held)?);
    below(limit(spec, free_swap), needed(container).0.saturating_add(alone), name)?;
    let all = sum(head.containers.iter().map(needed)).saturating_add(sum(held.into_values()));
    let limit = group::limit(spec).map(|limit| Bytes(limit.0.saturating_add(free_swap().0)));
    below(limit, all, "its pod")
}

fn below(limit: Option<Bytes>, need: u64, who: &str) -> Result<(), RestoreError> {
    match limit {
        Some(limit) if need > limit.0 => {
            Err(RestoreError::NeedsMemory { container: who.to_owned(), need: Bytes(need), limit })
        }
        _ => Ok(()),
    }
}

fn sum(all: impl IntoIterator<Item = Bytes>) -> u64 {
    all.into_iter().map(|bytes| bytes.0).fold(0, u64::saturating_add)
}

/// What directories of the pod that are in memory here get.
fn in_memory(head: &Head, spec: &Spec) -> Result<BTreeMap<String, Bytes>, RestoreError> {
    let mut held = BTreeMap::new();
    for own in binds::pods_own(spec) {
        let Some(section) = head.sections.get(&section_of_volume(&own.name)) else { continue };
        if godwit_files::is_in_memory(&own.bind.source)? {
            held.insert(own.name, Bytes(FileIndex::decode(section)?.bytes()));
        }
    }
    Ok(held)
}

/// Of these, those that no other container of the checkpoint has.
fn alone(
    container: &ContainerHead,
    head: &Head,
    held: &BTreeMap<String, Bytes>,
) -> Result<Vec<Bytes>, RestoreError> {
    let mut held = held.clone();
    for other in head.containers.iter().filter(|other| other.name != container.name) {
        for name in volumes_of(other)? {
            held.remove(&name);
        }
    }
    Ok(held.into_values().collect())
}

/// Private pages that are not zero, or that CRIU writes, in every process: what processes shared since a fork is no longer
/// shared after a restore. Shared memory is once there, zeros included: a page of it that is touched is a page.
fn needed(container: &ContainerHead) -> Bytes {
    let pages = container.spaces.iter().map(|(space, head)| match space {
        Space::Task(_) => head.map.pages() - head.map.zero_pages() + eager_zeros(head),
        Space::Shmem(_) => head.map.pages(),
    });
    // Of a hostile head: more than can be counted is more than any limit.
    Bytes(pages.fold(0, u64::saturating_add).saturating_mul(PAGE_SIZE))
}

fn eager_zeros(head: &SpaceHead) -> u64 {
    let zeros = head.eager_runs().filter(|run| run.source == PageSource::Zero);
    zeros.map(|run| run.range.count).sum()
}

/// Memory with swap (`memory.swap` of the OCI specification is their sum, below zero without limit); `None` without limit.
/// runc leaves swap as it is if the specification does not name it: then all that is free on the node counts.
fn limit(spec: &Spec, free_swap: impl FnOnce() -> Bytes) -> Option<Bytes> {
    let memory = spec.linux().as_ref()?.resources().as_ref()?.memory().as_ref()?;
    let limited = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = u64::try_from(limited(memory.limit())?).ok()?;
    match limited(memory.swap()) {
        Some(sum) => Some(Bytes(limit.max(u64::try_from(sum).ok()?))),
        None => Some(Bytes(limit.saturating_add(free_swap().0))),
    }
}

/// Free swap space of this node.
fn free_swap() -> Bytes {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    free_swap_of(&text).unwrap_or(Bytes(0))
}

/// `SwapFree:        2097148 kB`
fn free_swap_of(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapFree:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(Bytes(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use godwit_files::{Chunk, Entry, Inode, Node, Seen, Time, What};
    use godwit_image::{FrameRef, PackSlot, PageMap, PageRun, SECTION_SPEC, SpaceHead};
    use godwit_types::{PageNumber, PageRange};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn spec(memory: &str) -> Spec {
        let json = format!(
            r#"{{"ociVersion":"1.2.0","linux":{{"resources":{{"memory":{{{memory}}}}}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn swap_counts_and_without_a_limit_everything_fits() {
        let limit = |memory| limit(&spec(memory), || Bytes(500));
        assert_eq!(limit(r#""limit":1000,"swap":1000"#), Some(Bytes(1000)));
        assert_eq!(limit(r#""limit":1000,"swap":3000"#), Some(Bytes(3000)));
        assert_eq!(limit(r#""limit":1000,"swap":-1"#), None);
        assert_eq!(limit(r#""limit":-1"#), None);
        assert_eq!(limit(r#""limit":0"#), None);
        assert_eq!(limit(""), None);
    }

    #[test]
    fn swap_that_is_not_limited_is_what_the_node_has() {
        let limit = |memory, swap| limit(&spec(memory), || Bytes(swap));
        assert_eq!(limit(r#""limit":1000"#, 0), Some(Bytes(1000)));
        assert_eq!(limit(r#""limit":1000"#, 500), Some(Bytes(1500)));
        assert_eq!(limit(r#""limit":1000,"swap":0"#, 500), Some(Bytes(1500)));
        let meminfo = "MemFree: 7 kB\nSwapTotal:       9 kB\nSwapFree:        8 kB\n";
        assert_eq!(free_swap_of(meminfo), Some(Bytes(8192)));
        assert_eq!(free_swap_of("MemFree: 7 kB\n"), None);
    }

    /// `pages` stored pages and as many of zeros.
    fn space(pages: u64) -> SpaceHead {
        let range = |start, pages| PageRange::new(PageNumber(start), pages);
        let mut map = PageMap::new();
        for page in 0..pages {
            map.insert(PageRun::stored(
                range(page, 1),
                FrameRef { pack: PackSlot(0), frame: 0 },
                0,
            ));
        }
        map.insert(PageRun::zero(range(pages, pages)));
        SpaceHead { map, ..SpaceHead::default() }
    }

    #[test]
    fn every_process_needs_its_own_pages_and_shared_memory_its_zeros_too() {
        let container = ContainerHead {
            spaces: [
                (Space::Task(1), space(256)),
                (Space::Task(2), space(256)),
                (Space::Shmem(7), space(128)),
            ]
            .into(),
            ..ContainerHead::default()
        };
        assert_eq!(needed(&container), Bytes(3 * MIB));
        let head = Head { containers: vec![container.clone()], ..Head::default() };
        let memory = |spec: Spec| memory(&container, &head, &spec, "web");
        assert!(memory(spec(r#""limit":3145728,"swap":3145728"#)).is_ok());
        let refused = memory(spec(r#""limit":3145727,"swap":3145727"#)).unwrap_err();
        assert!(refused.sentence().starts_with("NeedsMemory: "), "{}", refused.sentence());
    }

    /// A file of 128 KiB in a directory.
    fn one_file() -> Vec<u8> {
        let inode = |what| Inode {
            mode: 0o700,
            uid: 0,
            gid: 0,
            accessed: Time::default(),
            modified: Time::default(),
            xattrs: vec![],
            what,
            seen: Seen::default(),
        };
        let chunk = Chunk { offset: 0, length: 131_072, frame: 0, at: 0, digest: [0; 16] };
        let file = What::File { size: 131_072, chunks: vec![chunk] };
        let entry = |depth, name: &[u8], what| {
            let (name, node) = (name.to_vec(), Node::Inode(Box::new(inode(what))));
            Entry { depth, name, node }
        };
        let entries = vec![entry(0, b"", What::Directory { opaque: false }), entry(1, b"f", file)];
        let frames = vec![FrameRef { pack: PackSlot(0), frame: 0 }];
        FileIndex { frames, entries, ..FileIndex::default() }.encode()
    }

    /// A container of the pod `u1` with a directory of the pod's at this place.
    fn with_volume(place: &Path, limits: &str) -> Spec {
        let place = place.join("pods/u1/volumes/kubernetes.io~empty-dir/c");
        std::fs::create_dir_all(&place).unwrap();
        let json = format!(
            r#"{{"ociVersion":"1.2.0","annotations":{{"io.kubernetes.cri.sandbox-uid":"u1"}},
            "linux":{{"resources":{{"memory":{{{limits}}}}}}},
            "mounts":[{{"destination":"/c","type":"bind","source":"{}"}}]}}"#,
            place.display()
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn what_a_directory_holds_in_memory_is_needed_by_the_one_that_has_it_and_by_the_pod() {
        let (shm, disk) =
            (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap());
        let container = |name: &str, spec: &Spec| {
            let spec = serde_json::to_vec(spec).unwrap();
            let sections = [(SECTION_SPEC.to_owned(), spec)].into();
            let spaces = [(Space::Task(1), space(256))].into();
            ContainerHead { name: name.into(), spaces, sections, ..ContainerHead::default() }
        };
        // A page less than memory and file need.
        let limits = r#""limit":1175552,"swap":1175552"#;
        let (memory_medium, on_disk) =
            (with_volume(shm.path(), limits), with_volume(disk.path(), limits));
        let web = container("web", &memory_medium);
        let sections = [(section_of_volume("emptyDir/c"), one_file())].into();
        let mut head = Head { containers: vec![web.clone()], sections, ..Head::default() };
        assert_eq!(
            in_memory(&head, &memory_medium).unwrap().into_values().collect::<Vec<_>>(),
            [Bytes(131_072)]
        );
        assert!(memory(&web, &head, &on_disk, "web").is_ok());
        let refused = memory(&web, &head, &memory_medium, "web").unwrap_err();
        assert!(
            matches!(&refused, RestoreError::NeedsMemory { container, .. } if container == "web")
        );
        // Where another one may have written it, nobody knows to whom it counts, but to the pod.
        head.containers.push(container("log", &memory_medium));
        assert!(memory(&web, &head, &memory_medium, "web").is_ok());
    }

    #[test]
    fn zeros_that_criu_writes_are_needed() {
        let mut head = space(256);
        head.eager = vec![PageRange::new(PageNumber(200), 100)];
        let spaces = [(Space::Task(1), head)].into();
        let container = ContainerHead { spaces, ..ContainerHead::default() };
        assert_eq!(needed(&container), Bytes((256 + 44) * PAGE_SIZE));
    }

    #[test]
    fn absurdly_much_memory_does_not_wrap_to_none() {
        let all = PageRun::zero(PageRange::new(PageNumber(0), 1 << 52));
        let head = SpaceHead { map: [all].into_iter().collect(), ..SpaceHead::default() };
        let spaces = (0..3).map(|id| (Space::Shmem(id), head.clone())).collect();
        let container = ContainerHead { spaces, ..ContainerHead::default() };
        assert_eq!(needed(&container), Bytes(u64::MAX));
        let limit = spec(r#""limit":3145727,"swap":3145727"#);
        let head = Head { containers: vec![container.clone()], ..Head::default() };
        assert!(memory(&container, &head, &limit, "web").is_err());
    }
}
