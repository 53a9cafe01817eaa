use std::os::unix::fs::MetadataExt as _;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use godwit_image::{FrameRef, FrameSource, PackSlot, PageRun, SinkError};
use godwit_store::wrap::Operation;
use godwit_types::{Code, PAGE_SIZE};

use super::*;
use crate::fixture;

const FRAME: FrameRef = FrameRef { pack: PackSlot(0), frame: 0 };

/// One frame of 32 pages; page n is full of n + 1.
struct OneFrame;

impl FrameSource for OneFrame {
    fn frame(&self, _: FrameRef) -> Result<Vec<u8>, SinkError> {
        Ok((0..32).flat_map(|page| [page + 1; PAGE_SIZE as usize]).collect())
    }
}

/// One pages image.
fn write(path: &Path, head: &SpaceHead, frames: &dyn FrameSource) -> Result<(), RestoreError> {
    let mut pages = Pages::default();
    pages.add(path.to_owned(), head)?;
    pages.write(frames)
}

fn range(first: u64, count: u64) -> PageRange {
    PageRange::new(PageNumber(first), count)
}

fn head(runs: &[PageRun], eager: &[PageRange]) -> SpaceHead {
    let map = runs.iter().copied().collect();
    SpaceHead { map, eager: eager.to_vec(), ..SpaceHead::default() }
}

fn container(space: Space, head: SpaceHead) -> ContainerHead {
    ContainerHead { spaces: [(space, head)].into(), ..ContainerHead::default() }
}

#[test]
fn zeros_are_read_where_they_belong_and_take_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages-1.img");
    let runs = [
        PageRun::zero(range(0, 2)),
        PageRun::stored(range(2, 1), FRAME, 3),
        PageRun::zero(range(3, 300)),
        PageRun::stored(range(303, 2), FRAME, 6),
        PageRun::zero(range(400, 5)),
    ];
    write(&path, &head(&runs, &[range(1, 303), range(400, 5)]), &OneFrame).unwrap();
    let page = |n: u8, pages: usize| vec![n; pages * PAGE_SIZE as usize];
    let expected = [page(0, 1), page(4, 1), page(0, 300), page(7, 1), page(0, 5)].concat();
    assert!(std::fs::read(&path).unwrap() == expected);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 100 * PAGE_SIZE);
}

/// 4 TiB: nobody has as much memory, and any file system has such files.
#[test]
fn zeros_of_a_hostile_length_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages-1.img");
    let all = range(0, 1 << 30);
    write(&path, &head(&[PageRun::zero(all)], &[all]), &OneFrame).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 1 << 42);
    assert!(meta.blocks() * 512 < 1 << 20);
    // No file is as long: an error, and not the end of the agent.
    let all = range(0, 1 << 52);
    let refused = write(&path, &head(&[PageRun::zero(all)], &[all]), &OneFrame);
    assert!(matches!(refused, Err(RestoreError::Write { .. })));
}

/// Four pages of this number.
fn four_pages(of: usize) -> Vec<u8> {
    (0..4).flat_map(|page| [of as u8 ^ page << 6; PAGE_SIZE as usize]).collect()
}

/// A space with this page of each frame, a page of zeros between two.
fn one_page_of_each<'a>(frames: impl Iterator<Item = &'a FrameRef>, page: u8) -> SpaceHead {
    let place = |(n, frame): (u64, &FrameRef)| PageRun::stored(range(n, 1), *frame, page);
    let runs: Vec<PageRun> = (0..).step_by(2).zip(frames).map(place).collect();
    head(&runs, &runs.iter().map(|run| run.range).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_is_fetched_once_whoever_shares_it_and_neighbours_by_one_request() {
    let tenant = fixture::tenant().await;
    let stored: Vec<Vec<u8>> = (0..60).map(four_pages).collect();
    let point = fixture::point(&tenant, &stored).await;
    let (metered, counts) = tenant.store().metered();
    let reader = metered.tenant(tenant.tenant()).open_checkpoint(point.id).await.unwrap();
    let source = reader.frame_source(point.table.clone());
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let heads =
        [one_page_of_each(point.frames.iter().rev(), 1), one_page_of_each(point.frames.iter(), 3)];
    let filled = tokio::task::spawn_blocking({
        let paths = paths.clone();
        move || {
            let mut pages = Pages::default();
            for (path, head) in paths.into_iter().zip(&heads) {
                pages.add(path, head)?;
            }
            pages.write(&source)
        }
    });
    filled.await.unwrap().unwrap();
    let page = |frame: &Vec<u8>, n: usize| frame[n * 4096..(n + 1) * 4096].to_vec();
    let falling: Vec<u8> = stored.iter().rev().flat_map(|frame| page(frame, 1)).collect();
    let rising: Vec<u8> = stored.iter().flat_map(|frame| page(frame, 3)).collect();
    assert!(std::fs::read(&paths[0]).unwrap() == falling);
    assert!(std::fs::read(&paths[1]).unwrap() == rising);
    let read = counts.of(Operation::GetRange);
    let all: u64 = point.table.iter().map(|(_, pack)| u64::from(pack.total_stored)).sum();
    assert_eq!((read.requests, read.received), (2, all), "60 frames in runs of 32");
}

/// Gives nothing until so many ask at once.
struct Together {
    wanted: usize,
    asking: Mutex<usize>,
    all: Condvar,
}

impl FrameSource for Together {
    fn frame(&self, _: FrameRef) -> Result<Vec<u8>, SinkError> {
        Err(SinkError::new(Code::Internal, "read one frame alone"))
    }

    fn frames(&self, frames: &[FrameRef]) -> Result<Vec<Vec<u8>>, SinkError> {
        let mut asking = self.asking.lock().unwrap();
        *asking += 1;
        self.all.notify_all();
        let soon = Duration::from_secs(60);
        let few = |asking: &mut usize| *asking < self.wanted;
        let (asking, waited) = self.all.wait_timeout_while(asking, soon, few).unwrap();
        drop(asking);
        if waited.timed_out() {
            return Err(SinkError::new(Code::Internal, "be asked by several at once"));
        }
        Ok(frames.iter().map(|frame| four_pages(frame.frame as usize)).collect())
    }
}

#[test]
fn several_runs_are_on_their_way_at_the_same_time() {
    let frames: Vec<_> = (0..4 * 32).map(|frame| FrameRef { frame, ..FRAME }).collect();
    let source = Together { wanted: 4, asking: Mutex::default(), all: Condvar::new() };
    let dir = tempfile::tempdir().unwrap();
    let head = one_page_of_each(frames.iter(), 0);
    write(&dir.path().join("pages-1.img"), &head, &source).unwrap();
}

#[test]
fn what_cannot_be_had_ends_all_of_it() {
    struct Away(Mutex<usize>);
    impl FrameSource for Away {
        fn frame(&self, _: FrameRef) -> Result<Vec<u8>, SinkError> {
            *self.0.lock().unwrap() += 1;
            Err(SinkError::new(Code::Unavailable, "read a frame"))
        }
    }
    let frames: Vec<_> = (0..100 * 32).map(|frame| FrameRef { frame, ..FRAME }).collect();
    let dir = tempfile::tempdir().unwrap();
    let source = Away(Mutex::default());
    let head = one_page_of_each(frames.iter(), 0);
    let error = write(&dir.path().join("pages-1.img"), &head, &source).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(*source.0.lock().unwrap() <= 4, "no stream takes another run");
}

#[test]
fn a_run_beyond_its_frame_is_refused() {
    struct Short;
    impl FrameSource for Short {
        fn frame(&self, _: FrameRef) -> Result<Vec<u8>, SinkError> {
            Ok(vec![1; 2 * PAGE_SIZE as usize])
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let runs = [PageRun::stored(range(0, 1), FRAME, 2)];
    let refused = write(&dir.path().join("pages-1.img"), &head(&runs, &[range(0, 1)]), &Short);
    assert!(matches!(refused, Err(RestoreError::ShortFrame { frame: 0 })));
}

#[test]
fn what_is_written_must_leave_room_for_others_and_zeros_are_not_written() {
    let runs = [PageRun::zero(range(0, 1 << 40)), PageRun::stored(range(1 << 40, 32), FRAME, 0)];
    let eager = [range(0, (1 << 40) + 2)];
    let mut container = container(Space::Shmem(1), head(&runs, &eager));
    container.images.insert("mm-1.img".into(), vec![0; 100]);
    assert_eq!(written(&container), Bytes(2 * PAGE_SIZE + 100));

    const MIB: u64 = 1 << 20;
    assert!(check_fits(Bytes(10 * MIB), 10 * MIB, 0).is_ok());
    assert!(check_fits(Bytes(10 * MIB), 18 * MIB, 64 * MIB).is_ok());
    let full = check_fits(Bytes(11 * MIB), 18 * MIB, 64 * MIB).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert!(check_fits(Bytes(1), KEPT_FREE, u64::MAX).is_err());
    assert!(check_fits(Bytes(u64::MAX), u64::MAX, u64::MAX).is_err());
}

#[test]
fn pages_outside_of_every_mapping_are_refused() {
    let mapped = vec![range(10, 10), range(30, 1)];
    let tasks = [Task { vpid: 1, mapped, ..Task::default() }];
    let check = |space, run: PageRange| {
        check_places(&container(space, head(&[PageRun::zero(run)], &[])), &tasks)
    };
    for inside in [range(10, 10), range(12, 3), range(30, 1)] {
        check(Space::Task(1), inside).unwrap();
    }
    for outside in [range(9, 2), range(19, 2), range(20, 1), range(31, 1), range(10, 1 << 40)] {
        let refused = check(Space::Task(1), outside).unwrap_err();
        assert_eq!(refused.code(), Code::Corrupt);
    }
    // A process that the images do not have.
    assert!(check(Space::Task(2), range(10, 1)).is_err());
    check(Space::Shmem(7), range(0, 1 << 44)).unwrap();
    assert!(check(Space::Shmem(7), range(0, 1 << 52)).is_err());
}
