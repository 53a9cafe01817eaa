//! Whether a checkpoint fits the container that starts: its image, its memory limit. Pure; the node itself is `compat`'s.

use godwit_image::{ContainerHead, Manifest, Space};
use godwit_types::{Bytes, PAGE_SIZE};
use oci_spec::runtime::Spec;

use super::RestoreError;
use crate::containerd::RootImage;

/// Processes have files of their image open and mapped: they must be the very same.
///
/// # Errors
/// [`RestoreError::OtherImage`], also for a checkpoint that does not say of which image it is.
pub(super) fn image(
    manifest: &Manifest,
    here: &RootImage,
    container: &str,
) -> Result<(), RestoreError> {
    let source = manifest.containers.first().ok_or(RestoreError::SeveralContainers)?;
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
    let (need, limit) = (needed(container), limit(spec));
    match limit {
        Some(limit) if need > limit => {
            Err(RestoreError::NeedsMemory { container: name.to_owned(), need, limit })
        }
        _ => Ok(()),
    }
}

/// Private pages that are not zero, in every process: what processes shared since a fork is no longer shared after a
/// restore. Shared memory is once there, zeros included: a page of it that is touched is a page.
fn needed(container: &ContainerHead) -> Bytes {
    let pages = container.spaces.iter().map(|(space, head)| match space {
        Space::Task(_) => head.map.pages() - head.map.zero_pages(),
        Space::Shmem(_) => head.map.pages(),
    });
    Bytes(pages.sum::<u64>() * PAGE_SIZE)
}

/// Memory with swap (`memory.swap` of the OCI specification is their sum, below zero without limit); `None` without limit.
fn limit(spec: &Spec) -> Option<Bytes> {
    let memory = spec.linux().as_ref()?.resources().as_ref()?.memory().as_ref()?;
    let limited = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = u64::try_from(limited(memory.limit())?).ok()?;
    match limited(memory.swap()) {
        Some(sum) => Some(Bytes(limit.max(u64::try_from(sum).ok()?))),
        None => Some(Bytes(limit)),
    }
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
    fn swap_counts_where_it_is_limited_and_without_a_limit_everything_fits() {
        assert_eq!(limit(&spec(r#""limit":1000"#)), Some(Bytes(1000)));
        assert_eq!(limit(&spec(r#""limit":1000,"swap":3000"#)), Some(Bytes(3000)));
        assert_eq!(limit(&spec(r#""limit":1000,"swap":-1"#)), None);
        assert_eq!(limit(&spec(r#""limit":-1"#)), None);
        assert_eq!(limit(&spec(r#""limit":0"#)), None);
        assert_eq!(limit(&spec("")), None);
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
        assert!(memory(&container, &spec(r#""limit":3145728"#), "web").is_ok());
        let refused = memory(&container, &spec(r#""limit":3145727"#), "web").unwrap_err();
        assert!(refused.sentence().starts_with("NeedsMemory: "), "{}", refused.sentence());
    }
}
