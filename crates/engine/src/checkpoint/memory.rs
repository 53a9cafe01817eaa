//! Memory of one container: what it has, how it is captured, what becomes of it. Blocking; run on threads that may.
//!
//! Owns: the choice between keeping and comparing, the reservation, the pre-read, the receiver of pages, and the making of
//! page maps. Does not own CRIU, which only sends.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use godwit_capture::{
    Arena, Assembled, Assembly, Baselines, Budget as Share, CaptureError, Choice, Compacted,
    Compaction, Laziness, MemoryStats, Mode, PageServer, Parent, Preread, Received, Stop, Target,
    assemble, choose, compact, preread, resident,
};
use godwit_criu::preflight::deleted_files;
use godwit_image::{FrameSource, FrameUsage, PackRegistry, PackSink, Space, SpaceHead};
use godwit_types::Bytes;

use super::members;

/// Workers that read, compress and hash for one container.
const THREADS: usize = 2;

/// The processes of a container and the memory that they have.
#[derive(Debug, Default)]
pub(super) struct Seen {
    targets: Vec<Target>,
    /// Private memory of all processes.
    pub(super) private: Bytes,
    /// Shared memory, each segment once.
    pub(super) shared: Bytes,
}

impl Seen {
    /// The least part of the budget with which they can be captured.
    pub(super) fn least(&self, gives_away: bool) -> Bytes {
        godwit_capture::least(self.private, self.shared, gives_away)
    }

    /// What files hold that these processes have open and that have no name any more: it is copied beside their memory.
    pub(super) fn deleted_files(&self) -> Bytes {
        let pids = self.targets.iter().filter_map(|target| u32::try_from(target.pid).ok());
        deleted_files(&pids.collect::<Vec<_>>())
    }
}

/// Looks at every process of a cgroup.
///
/// # Errors
/// The cgroup cannot be read. A process that ends meanwhile is no error.
pub(super) fn look(cgroup: &Path, stop: &Stop) -> Result<Seen, CaptureError> {
    let mut seen = Seen::default();
    let mut segments: BTreeMap<u64, Bytes> = BTreeMap::new();
    for pid in pids(cgroup)? {
        let Some(vpid) = innermost_pid(pid) else { continue };
        let Ok(memory) = resident(pid, stop) else { continue };
        seen.private.0 += memory.private.0;
        segments.extend(memory.shared);
        seen.targets.push(Target { space: Space::Task(vpid), pid, ranges: memory.readable });
    }
    seen.shared = Bytes(segments.values().map(|b| b.0).sum());
    Ok(seen)
}

/// Pids of a cgroup and of those below it in our pid namespace.
///
/// # Errors
/// It cannot be read.
pub(super) fn pids(cgroup: &Path) -> Result<BTreeSet<i32>, CaptureError> {
    let failed = |source| CaptureError::Process { attempt: "list the tasks", pid: 0, source };
    members::pids(cgroup).map_err(failed)
}

/// The pid inside the innermost pid namespace: CRIU's id of the process.
pub(super) fn innermost_pid(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// How one container's memory is captured.
pub(super) struct Capture {
    seen: Seen,
    choice: Choice,
    packs: Arc<PackRegistry>,
    sink: Arc<dyn PackSink>,
    stop: Stop,
}

/// The receiver and CRIU's end of its socket.
pub(super) struct Receiving {
    /// Waits for the end of the stream.
    pub(super) server: PageServer,
    /// For CRIU; dropped once CRIU runs.
    pub(super) criu_end: OwnedFd,
}

impl Capture {
    /// Decides how. The reservation of [`Capture::need`] is the caller's to wait for.
    ///
    /// # Errors
    /// [`CaptureError::TooBigForBudget`].
    pub(super) fn plan(
        seen: Seen,
        whole_budget: Bytes,
        gives_away: bool,
        packs: Arc<PackRegistry>,
        sink: Arc<dyn PackSink>,
        stop: Stop,
    ) -> Result<Self, CaptureError> {
        let choice = choose(seen.private, seen.shared, whole_budget, gives_away)?;
        Ok(Self { seen, choice, packs, sink, stop })
    }

    /// Memory to be reserved before the freeze.
    pub(super) fn need(&self) -> Bytes {
        match self.choice {
            Choice::Keep { need } | Choice::Compare { need } => need,
        }
    }

    /// Whether live memory is read and stored before the freeze.
    pub(super) fn pre_reads(&self) -> bool {
        matches!(self.choice, Choice::Compare { .. })
    }

    /// Bytes that a pre-read will read.
    pub(super) fn private(&self) -> Bytes {
        self.seen.private
    }

    /// Reads and stores live memory.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub(super) fn pre_read(
        &self,
        parent: Option<Parent<'_>>,
    ) -> Result<(Arc<Baselines>, MemoryStats), CaptureError> {
        let request = Preread {
            targets: self.seen.targets.clone(),
            parent,
            packs: &self.packs,
            sink: Arc::clone(&self.sink),
            threads: THREADS,
            stop: &self.stop,
        };
        preread(&request).map(|(baselines, stats)| (Arc::new(baselines), stats))
    }

    /// Makes the receiver ready: all memory that the freeze is expected to need is mapped and touched now; `spare` is mapped alone.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub(super) fn receive(
        &self,
        baselines: Option<&Arc<Baselines>>,
        spare: Bytes,
    ) -> Result<Receiving, CaptureError> {
        // The node's budget has been waited for; this is the part of it that is ours.
        let all = Bytes(self.need().0 + spare.0);
        let arena = Arena::expecting(Share::new(all).reserve(all)?, self.need())?;
        let mode = match baselines {
            Some(baselines) => Mode::Compare { baselines: Arc::clone(baselines), threads: THREADS },
            None => Mode::Keep,
        };
        let (server, criu_end) = PageServer::start(arena, mode)?;
        Ok(Receiving { server, criu_end })
    }

    /// Makes page maps, digests and packs of what arrived.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub(super) fn assemble(
        &self,
        received: &Received,
        baselines: Option<&Baselines>,
        parent: Option<Parent<'_>>,
        laziness: &BTreeMap<Space, Laziness>,
    ) -> Result<Assembled, CaptureError> {
        assemble(&Assembly {
            received,
            baselines,
            parent,
            laziness,
            packs: &self.packs,
            sink: Arc::clone(&self.sink),
            threads: THREADS,
            stop: &self.stop,
        })
    }

    /// Rewrites what is sparse in `frames` of earlier checkpoints, at most a tenth of `increment`. `others` are frames that
    /// something else than memory uses.
    ///
    /// # Errors
    /// [`CaptureError`]; a frame that cannot be read is none.
    pub(super) fn compact(
        &self,
        spaces: Vec<&mut SpaceHead>,
        others: &FrameUsage,
        frames: &dyn FrameSource,
        increment: Bytes,
    ) -> Result<Compacted, CaptureError> {
        compact(&mut Compaction {
            spaces,
            others,
            frames,
            packs: &self.packs,
            sink: Arc::clone(&self.sink),
            increment,
            stop: &self.stop,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deleted_files_hold_is_seen() {
        let pid = std::process::id();
        let target = Target { space: Space::Task(pid), pid: pid as i32, ranges: Vec::new() };
        let seen = Seen { targets: vec![target], ..Seen::default() };
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        let before = seen.deleted_files();
        std::io::Write::write_all(&mut file, &[7; 1 << 16]).unwrap();
        assert!(seen.deleted_files().0 >= before.0 + (1 << 16));
    }

    #[test]
    fn a_process_outside_of_any_container_has_its_own_pid_as_the_innermost_one() {
        let pid = std::process::id();
        assert_eq!(innermost_pid(pid as i32), Some(pid));
        assert_eq!(innermost_pid(i32::MAX), None);
    }
}
