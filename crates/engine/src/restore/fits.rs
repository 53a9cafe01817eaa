//! Whether a checkpoint fits the container that starts: its image, its memory limit. The node itself is `compat`'s.

use godwit_image::manifest::Container;
use godwit_image::{ContainerHead, PageSource, Space, SpaceHead};
use godwit_types::{Bytes, PAGE_SIZE};
use oci_spec::runtime::Spec;

use super::RestoreError;
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

/// What the processes need at least must be below the limit of memory and swap.
///
/// # Errors
/// [`RestoreError::NeedsMemory`].
pub(super) fn memory(
    container: &ContainerHead,
    spec: &Spec,
    name: &str,
) -> Result<(), RestoreError> {
    let (need, limit) = (needed(container), limit(spec, free_swap));
    match limit {
        Some(limit) if need > limit => {
            Err(RestoreError::NeedsMemory { container: name.to_owned(), need, limit })
        }
        _ => Ok(()),
    }
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
    use godwit_image::{FrameRef, PackSlot, PageMap, PageRun, SpaceHead};
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
        assert!(memory(&container, &spec(r#""limit":3145728,"swap":3145728"#), "web").is_ok());
        let limit = spec(r#""limit":3145727,"swap":3145727"#);
        let refused = memory(&container, &limit, "web").unwrap_err();
        assert!(refused.sentence().starts_with("NeedsMemory: "), "{}", refused.sentence());
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
        assert!(memory(&container, &limit, "web").is_err());
    }
}
