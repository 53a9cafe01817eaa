//! The processes of a checkpoint: their threads, which of their mappings may be filled lazily, which of their pages the
//! first instruction touches.
//!
//! Laziness is decided by CRIU's own test on the mapping (`criu/include/vma.h`), not by what its page server said.

use std::collections::BTreeSet;

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::images::{Core, Mm, Pstree, Vma};
use godwit_types::{PAGE_SIZE, PageNumber, PageRange};

use crate::Error;
use crate::images::ImageDir;

/// Most processes of one container.
const MAX_TASKS: usize = 1 << 16;
/// Most threads of one container.
const MAX_THREADS: usize = 1 << 18;
/// End of the user's address space on x86-64 with five levels.
const MAX_ADDRESS: u64 = 1 << 56;

/// States of a process that has ended (`compel/include/uapi/task-state.h`: dead, zombie).
const ENDED: [u32; 2] = [2, 6];

/// `mmap` flags (`<asm-generic/mman.h>`).
mod map {
    pub(super) const PRIVATE: u32 = 0x02;
    pub(super) const ANONYMOUS: u32 = 0x20;
    pub(super) const LOCKED: u32 = 0x2000;
    pub(super) const HUGETLB: u32 = 0x40000;
}

/// What `madvise` was told of a mapping, as bits of its `madv` (`<asm-generic/mman-common.h>`).
mod madv {
    pub(super) const WIPEONFORK: u64 = 1 << 18;
}

/// Bits of a mapping's `status` (`criu/include/image.h`).
mod status {
    pub(super) const VSYSCALL: u32 = 1 << 2;
    pub(super) const VDSO: u32 = 1 << 3;
    pub(super) const VVAR: u32 = 1 << 12;
    /// Not a mapping: guard pages within one (`MADV_GUARD_INSTALL`, Linux 6.13, CRIU 4.2), listed after all mappings.
    pub(super) const GUARD: u32 = 1 << 16;
}

/// One process of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Its pid inside the container.
    pub vpid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Thread ids inside the container; the first is `vpid`.
    pub threads: Vec<u32>,
    /// All mappings, in order, neighbours joined. Empty for a zombie.
    pub mapped: Vec<PageRange>,
    /// Mappings that CRIU can leave to a pager, in order, not overlapping. Empty for a zombie.
    pub lazy: Vec<PageRange>,
    /// All private mappings together, in pages: what the process may come to occupy.
    pub private_pages: u64,
    /// Pages that CRIU or the first instruction touches (stack pointer, thread area, rseq), in order.
    pub hot: Vec<PageNumber>,
    /// It has ended and only waits for its parent: it has no memory and no descriptors.
    pub zombie: bool,
}

/// Reads the processes of an image directory.
///
/// # Errors
/// [`Error::Io`], [`Error::Rpc`], [`Error::Image`] when something is missing, malformed or absurd.
pub fn read(images: &ImageDir) -> Result<Vec<Task>, Error> {
    let tree: Vec<Pstree> = images.read(Kind::Pstree, "pstree.img")?.decode("pstree.img")?;
    let threads: usize = tree.iter().map(|t| t.threads.len()).sum();
    if tree.is_empty() || tree.len() > MAX_TASKS || threads > MAX_THREADS {
        return Err(Error::image("pstree.img", "no process, or absurdly many"));
    }
    let mut seen = BTreeSet::new();
    if !tree.iter().all(|t| seen.insert(t.pid)) {
        return Err(Error::image("pstree.img", "two processes with one pid"));
    }
    tree.into_iter().map(|t| task(images, t)).collect()
}

/// The main record of one thread.
///
/// # Errors
/// As [`read`].
pub fn core(images: &ImageDir, thread: u32) -> Result<Core, Error> {
    let name = format!("core-{thread}.img");
    Ok(images.read(Kind::Core, &name)?.decode_one(&name)?)
}

fn task(images: &ImageDir, tree: Pstree) -> Result<Task, Error> {
    let state = core(images, tree.pid)?.tc.map(|tc| tc.task_state);
    if state.is_some_and(|s| ENDED.contains(&s)) {
        let (vpid, parent, threads) = (tree.pid, tree.ppid, tree.threads);
        return Ok(Task { vpid, parent, threads, zombie: true, ..Task::default() });
    }
    let vmas = mappings(images, tree.pid)?;
    let mut hot = BTreeSet::new();
    for thread in &tree.threads {
        hot.extend(touched(&core(images, *thread)?));
    }
    let pages = |v: &Vma| (v.end - v.start) / PAGE_SIZE;
    Ok(Task {
        vpid: tree.pid,
        parent: tree.ppid,
        threads: tree.threads,
        mapped: joined(&vmas),
        lazy: lazy_ranges(&vmas),
        private_pages: vmas.iter().filter(|v| v.flags & map::PRIVATE != 0).map(pages).sum(),
        hot: hot.into_iter().collect(),
        zombie: false,
    })
}

/// Mappings of a process, checked: in order, page-aligned, not overlapping.
fn mappings(images: &ImageDir, pid: u32) -> Result<Vec<Vma>, Error> {
    let name = format!("mm-{pid}.img");
    let mm: Mm = images.read(Kind::Mm, &name)?.decode_one(&name)?;
    let (guards, vmas): (Vec<Vma>, Vec<Vma>) =
        mm.vmas.into_iter().partition(|v| v.status & status::GUARD != 0);
    let impossible = |vma: &Vma| {
        Err(Error::image(&name, format!("impossible mapping {:#x}-{:#x}", vma.start, vma.end)))
    };
    let mut last = 0;
    for vma in &vmas {
        if !is_possible(vma) || vma.start < last {
            return impossible(vma);
        }
        last = vma.end;
    }
    match guards.iter().find(|guard| !is_possible(guard)) {
        Some(guard) => impossible(guard),
        None => Ok(vmas),
    }
}

fn is_possible(vma: &Vma) -> bool {
    let special = vma.status & status::VSYSCALL != 0;
    let aligned = vma.start.is_multiple_of(PAGE_SIZE) && vma.end.is_multiple_of(PAGE_SIZE);
    aligned && vma.start < vma.end && (vma.end <= MAX_ADDRESS || special)
}

/// CRIU's `vma_entry_can_be_lazy`, but for mappings that are empty in a child: a pager cannot tell the child's from its parent's.
fn can_be_lazy(vma: &Vma) -> bool {
    let wanted = map::ANONYMOUS | map::PRIVATE;
    vma.flags & wanted == wanted
        && vma.flags & (map::LOCKED | map::HUGETLB) == 0
        && vma.status & (status::VDSO | status::VVAR | status::VSYSCALL) == 0
        && vma.madv.unwrap_or(0) & madv::WIPEONFORK == 0
}

fn range(vma: &Vma) -> PageRange {
    PageRange::new(PageNumber::of_address(vma.start), (vma.end - vma.start) / PAGE_SIZE)
}

fn lazy_ranges(vmas: &[Vma]) -> Vec<PageRange> {
    vmas.iter().filter(|v| can_be_lazy(v)).map(range).collect()
}

fn joined(vmas: &[Vma]) -> Vec<PageRange> {
    let mut out: Vec<PageRange> = Vec::new();
    for next in vmas.iter().map(range) {
        match out.last_mut() {
            Some(last) if last.end() == next.first => last.count += next.count,
            _ => out.push(next),
        }
    }
    out
}

fn touched(core: &Core) -> Vec<PageNumber> {
    let regs = core.thread_info.as_ref().map(|i| &i.gpregs);
    let rseq = core.thread_core.as_ref().and_then(|t| t.rseq_entry.as_ref());
    let addresses = [regs.map(|r| r.sp), regs.map(|r| r.fs_base), rseq.map(|r| r.rseq_abi_pointer)];
    let pages = addresses.into_iter().flatten().filter(|a| *a != 0 && *a < MAX_ADDRESS);
    pages.map(PageNumber::of_address).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use godwit_criu_rpc::image_file::ImageFile;
    use godwit_criu_rpc::images::{TaskCore, ThreadInfoX86, UserX86Regs};
    use prost::Message as _;

    use super::*;

    pub(crate) fn write<M: prost::Message>(images: &ImageDir, kind: Kind, name: &str, all: &[M]) {
        let records = all.iter().map(prost::Message::encode_to_vec).collect();
        images.write(name, &ImageFile { kind, records }).unwrap();
    }

    fn vma(start: u64, pages: u64, flags: u32, status: u32) -> Vma {
        Vma { start, end: start + pages * PAGE_SIZE, flags, status, ..Vma::default() }
    }

    pub(crate) fn sample() -> (tempfile::TempDir, ImageDir) {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let tree = [
            Pstree { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: vec![1, 2] },
            Pstree { pid: 9, ppid: 1, pgid: 1, sid: 1, threads: vec![9] },
        ];
        write(&images, Kind::Pstree, "pstree.img", &tree);
        let private = map::PRIVATE | map::ANONYMOUS;
        let vmas = vec![
            vma(0x10000, 16, private, 0x201),
            vma(0x20000, 1, map::PRIVATE, 0x41),
            vma(0x30000, 1, private | map::LOCKED, 0x201),
            vma(0x40000, 2, private, status::VDSO | 1),
            vma(0x50000, 4, private, 0x201),
            // Guard pages stand behind all mappings.
            vma(0x10000, 1, 0, status::GUARD),
        ];
        write(&images, Kind::Mm, "mm-1.img", &[Mm { vmas, ..Mm::default() }]);
        for (thread, sp, task_state) in [(1, 0x10ff8, 1), (2, 0x50008, 1), (9, 0, 6)] {
            let gpregs = UserX86Regs { sp, fs_base: 0x10700, ..UserX86Regs::default() };
            let core = Core {
                mtype: 1,
                tc: Some(TaskCore { task_state, ..TaskCore::default() }),
                thread_info: Some(ThreadInfoX86 { gpregs, ..ThreadInfoX86::default() }),
                ..Core::default()
            };
            write(&images, Kind::Core, &format!("core-{thread}.img"), &[core]);
        }
        (dir, images)
    }

    #[test]
    fn mappings_are_told_apart_and_a_zombie_has_none() {
        let (_dir, images) = sample();
        let tasks = read(&images).unwrap();
        let lazy = [PageRange::new(PageNumber(0x10), 16), PageRange::new(PageNumber(0x50), 4)];
        assert_eq!(tasks[0].lazy, lazy);
        assert_eq!(tasks[0].hot, [PageNumber(0x10), PageNumber(0x50)]);
        let mapped: Vec<_> = tasks[0].mapped.iter().map(|r| (r.first.0, r.count)).collect();
        assert_eq!(mapped, [(0x10, 17), (0x30, 1), (0x40, 2), (0x50, 4)]);
        assert_eq!(tasks[1].mapped, []);
        assert_eq!((tasks[0].private_pages, tasks[1].lazy.len(), tasks[1].hot.len()), (24, 0, 0));
    }

    #[test]
    fn what_a_child_does_not_inherit_is_not_lazy() {
        let wiped = |madv| Vma { madv, ..vma(0x10000, 1, map::PRIVATE | map::ANONYMOUS, 0x201) };
        assert!(can_be_lazy(&wiped(None)));
        assert!(can_be_lazy(&wiped(Some(1 << 14 | 1 << 10))));
        assert!(!can_be_lazy(&wiped(Some(1 << 18))));
    }

    #[test]
    fn impossible_mappings_and_trees_are_refused() {
        let (_dir, images) = sample();
        let private = map::PRIVATE | map::ANONYMOUS;
        for vmas in [
            vec![vma(0x10001, 1, private, 1)],
            vec![vma(0x20000, 1, private, 1), vma(0x10000, 1, private, 1)],
            vec![vma(0x10000, 0, private, 1)],
            vec![vma(MAX_ADDRESS, 1, private, 1)],
            vec![vma(0x10001, 1, 0, status::GUARD)],
        ] {
            write(&images, Kind::Mm, "mm-1.img", &[Mm { vmas, ..Mm::default() }]);
            assert!(matches!(read(&images), Err(Error::Image { .. })));
        }
        let twice = Pstree { pid: 1, threads: vec![1], ..Pstree::default() };
        write(&images, Kind::Pstree, "pstree.img", &[twice.clone(), twice.clone()]);
        assert!(read(&images).is_err());
        // A process that lives and has no memory does not exist.
        write(&images, Kind::Pstree, "pstree.img", &[twice]);
        images.remove("mm-1.img").unwrap();
        assert!(read(&images).is_err());
        images.write("pstree.img", &ImageFile { kind: Kind::Pstree, records: vec![] }).unwrap();
        assert!(read(&images).is_err());
        assert!(Pstree::decode([0xff].as_slice()).is_err());
    }
}
