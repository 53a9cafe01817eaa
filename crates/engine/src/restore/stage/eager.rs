//! Pages that CRIU restores itself: whether they can be what they say, and their bytes.
//!
//! A head says how many there are, and nothing of it is trusted: nothing is allocated by its numbers, pages lie within mappings of the
//! images, zeros are holes of the file, and what has to be written fits before the first byte of it is written.

mod pages;

use std::io;
use std::path::Path;

use godwit_criu::images::tasks::Task;
use godwit_image::{ContainerHead, ImageError, PageSource, Space, SpaceHead};
use godwit_types::{Bytes, PageNumber, PageRange};

use crate::restore::RestoreError;

pub(super) use self::pages::Pages;

/// Pages of the largest address space: no segment of shared memory is larger.
const MAX_SEGMENT: PageNumber = PageNumber((1 << 56) / godwit_types::PAGE_SIZE);
/// What everybody else on the file system keeps at least: this, or an eighth of a small one.
const KEPT_FREE: u64 = 256 << 20;

/// Everything that is written into the directory of images must find room there, so that a checkpoint cannot fill it.
///
/// # Errors
/// [`RestoreError::Write`].
pub(super) fn check_room(container: &ContainerHead, dir: &Path) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Write { path: dir.to_owned(), source };
    let fs = rustix::fs::statvfs(dir).map_err(|errno| failed(errno.into()))?;
    let (free, total) = (fs.f_bavail, fs.f_blocks);
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    check_fits(written(container), bytes(free), bytes(total)).map_err(failed)
}

fn check_fits(need: Bytes, free: u64, total: u64) -> io::Result<()> {
    let room = Bytes(free.saturating_sub(KEPT_FREE.min(total / 8)));
    if need <= room {
        return Ok(());
    }
    let why = format!(
        "the checkpoint has {need} that must be there before it runs (shared and locked memory, deleted files), and there is \
         room for {room}: make its file system larger"
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, why))
}

/// Images and eager pages; zeros are not written.
fn written(container: &ContainerHead) -> Bytes {
    let images = container.images.values().map(|bytes| bytes.len() as u64);
    let stored = |head: &SpaceHead| {
        let stored = head.eager_runs().filter(|run| run.source != PageSource::Zero);
        stored.map(|run| run.range.bytes().0).fold(0, u64::saturating_add)
    };
    let pages = container.spaces.values().map(stored);
    Bytes(images.chain(pages).fold(0, u64::saturating_add))
}

/// Pages of a process lie in its mappings, those of a segment within an address space.
///
/// # Errors
/// [`RestoreError::Image`].
pub(super) fn check_places(container: &ContainerHead, tasks: &[Task]) -> Result<(), RestoreError> {
    for (space, head) in &container.spaces {
        let is_mapped = match space {
            Space::Shmem(_) => head.map.runs().all(|run| run.range.end() <= MAX_SEGMENT),
            Space::Task(vpid) => {
                let mapped = tasks.iter().find(|task| task.vpid == *vpid).map(|task| &task.mapped);
                let mapped = mapped.map_or(&[][..], Vec::as_slice);
                head.map.runs().all(|run| covers(mapped, run.range))
            }
        };
        if !is_mapped {
            let why = "it has pages where the checkpoint's images have no mapping";
            return Err(ImageError::Invalid { what: "page map", why }.into());
        }
    }
    Ok(())
}

/// Whether `range` lies in one of `mapped`, which are in order and do not touch each other.
fn covers(mapped: &[PageRange], range: PageRange) -> bool {
    let index = mapped.partition_point(|one| one.end() <= range.first);
    mapped.get(index).is_some_and(|one| one.first <= range.first && range.end() <= one.end())
}

#[cfg(test)]
mod tests;
