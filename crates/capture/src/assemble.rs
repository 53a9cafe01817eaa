//! Makes page maps, digests and packs of what arrived in the freeze.
//!
//! A page becomes zeros, a page of an earlier frame whose digest is equal, or a page of a new frame. Nothing that did not
//! arrive is in the result: memory that was unmapped since the pre-read is gone.
//!
//! Lazy pages that are not as the baseline or the parent knows them were written last: they are what a restore is to fetch
//! first. Where nothing is known of an address space, nothing tells them from the others.

mod batch;
mod recent;

use std::collections::BTreeMap;
use std::sync::Arc;

use godwit_image::{
    DigestIndex, PackRegistry, PackSink, PageMap, PageMapBuilder, PageSource, Space, SpaceHead,
};
use godwit_types::{PageNumber, PageRange};

use crate::ranges::{normalized, outside, within};
use crate::work::{Batch, batches, in_parallel};
use crate::{Baselines, CaptureError, FrozenRun, MemoryStats, Parent, Received, Stop};

use batch::{Done, Worker};
use recent::Recent;

/// Which pages of an address space must be eager.
#[derive(Debug, Clone, Default)]
pub struct Laziness {
    /// The memory areas that may be lazy, by CRIU's own test on `mm-*.img`. `None`: believe the flags of the stream
    /// (shared memory is then eager, as it must be).
    pub lazy: Option<Vec<PageRange>>,
    /// Pages that CRIU touches before it resumes the tasks: eager although their area is lazy. Each thread's stack
    /// pointer and TLS page.
    pub hot: Vec<PageNumber>,
}

/// What is to be assembled, for one container.
pub struct Assembly<'a> {
    /// What arrived.
    pub received: &'a Received,
    /// The baseline it was compared with, or one that holds for it anyway. With it the parent is not read.
    pub baselines: Option<&'a Baselines>,
    /// The parent checkpoint: asked where there is no baseline.
    pub parent: Option<Parent<'a>>,
    /// Which pages are eager; spaces that are missing go by the flags of the stream.
    pub laziness: &'a BTreeMap<Space, Laziness>,
    /// The packs of the checkpoint that is being made.
    pub packs: &'a Arc<PackRegistry>,
    /// Where they go.
    pub sink: Arc<dyn PackSink>,
    /// Workers.
    pub threads: usize,
    /// Ends it early.
    pub stop: &'a Stop,
}

/// One container's memory as a part of a head.
#[derive(Debug, Default)]
pub struct Assembled {
    /// Its address spaces.
    pub spaces: BTreeMap<Space, SpaceHead>,
    /// What was counted.
    pub stats: MemoryStats,
}

/// An address space and what is settled about it before the work begins.
struct Plan<'a> {
    space: Space,
    runs: &'a [FrozenRun],
    eager: Vec<PageRange>,
}

/// Assembles. When it returns every pack has been accepted by the sink.
///
/// # Errors
/// The parent cannot be read, packs cannot be handed on, it was asked to stop, or an unchanged page is not known.
pub fn assemble(assembly: &Assembly<'_>) -> Result<Assembled, CaptureError> {
    let plans: Vec<Plan<'_>> =
        assembly.received.spaces().iter().map(|(s, runs)| plan(assembly, *s, runs)).collect();
    let work: Vec<(&Plan<'_>, Batch)> = plans
        .iter()
        .flat_map(|p| {
            let ranges = normalized(p.runs.iter().map(|r| r.range).collect());
            batches(ranges, assembly.threads).map(move |b| (p, b))
        })
        .collect();
    let (done, stored) = in_parallel(
        assembly.threads,
        &work,
        assembly.stop,
        || Worker::new(assembly),
        |worker, (plan, batch)| worker.batch(plan, batch),
        Worker::end,
    )?;
    let mut out = Assembled::default();
    out.stats.stored = stored.iter().sum();
    let mut built: BTreeMap<Space, (PageMapBuilder, DigestIndex, Recent)> = BTreeMap::new();
    for (Done { runs, digests, recent }, (plan, _)) in done.into_iter().zip(&work) {
        let (map, index, all) = built.entry(plan.space).or_default();
        runs.into_iter().try_for_each(|r| map.push(r))?;
        digests.iter().for_each(|(block, frame)| index.insert(block, frame));
        all.append(recent);
    }
    for plan in plans {
        let (map, digests, recent) = built.remove(&plan.space).unwrap_or_default();
        let recent = recent.finish();
        let head = SpaceHead { map: map.finish(), eager: plan.eager, digests, recent };
        count(&mut out.stats, &head.map, assembly.packs);
        out.spaces.insert(plan.space, head);
    }
    Ok(out)
}

fn plan<'a>(assembly: &Assembly<'_>, space: Space, runs: &'a [FrozenRun]) -> Plan<'a> {
    let laziness = assembly.laziness.get(&space);
    let mut eager: Vec<PageRange> = match laziness.and_then(|l| l.lazy.as_ref()) {
        Some(lazy) => {
            let lazy = normalized(lazy.clone());
            runs.iter().flat_map(|r| outside(&lazy, r.range)).collect()
        }
        None => runs.iter().filter(|r| !r.lazy).map(|r| r.range).collect(),
    };
    if let Some(laziness) = laziness {
        let hot = laziness.hot.iter().map(|p| PageRange::new(*p, 1)).collect();
        let hot = normalized(hot);
        eager.extend(runs.iter().flat_map(|r| within(&hot, r.range)));
    }
    Plan { space, runs, eager: normalized(eager) }
}

fn count(stats: &mut MemoryStats, map: &PageMap, packs: &PackRegistry) {
    for run in map.runs() {
        let pages = run.range.count;
        stats.pages += pages;
        match run.source {
            PageSource::Zero => stats.zero += pages,
            PageSource::Stored { frame, .. } if packs.is_own(frame.pack) => stats.changed += pages,
            PageSource::Stored { .. } => stats.shared += pages,
        }
    }
}

#[cfg(test)]
mod tests;
