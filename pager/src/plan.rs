//! The plan of one container: page maps out of a memfd.

use std::os::fd::OwnedFd;
use std::time::Duration;

use godwit_faults::{Layout, Process};
use godwit_image::{PageMap, limits};
use godwit_types::{PageNumber, PageRange};
use godwit_wire::memfd;
use godwit_wire::pager::{LazyPlan, LazyProcess, Load};
use prost::Message;

use crate::error::PagerError;

/// A plan that was understood.
pub(crate) struct Plan {
    /// Names the checkpoint to agents.
    pub(crate) source: Vec<u8>,
    /// By pid inside the container. Their source number is to be set.
    pub(crate) processes: Vec<(i32, Process)>,
    /// How long no frame may arrive, if the plan says.
    pub(crate) deadline: Option<Duration>,
}

/// Reads the plan of a [`Load`] and the page maps that came with it.
///
/// # Errors
/// The plan or a map cannot be decoded, or the memfd is not sealed.
pub(crate) fn read(load: &Load, maps: OwnedFd) -> Result<Plan, PagerError> {
    let invalid = |why| PagerError::Plan { container: load.container.clone(), why };
    let plan =
        LazyPlan::decode(load.plan.as_slice()).map_err(|_| invalid("it cannot be decoded"))?;
    let bytes = memfd::read(maps, limits::MAX_HEAD_BYTES).map_err(PagerError::wire("the agent"))?;
    let mut processes = Vec::new();
    for process in &plan.processes {
        let end = process.offset.checked_add(process.length);
        let range = end.map(|end| process.offset as usize..end as usize);
        let map = range.and_then(|range| bytes.get(range));
        let map = map.ok_or_else(|| invalid("a page map lies outside its memfd"))?;
        let map = PageMap::decode(map)
            .map_err(|source| PagerError::PageMap { vpid: process.vpid, source })?;
        let layout = Layout::new(&map)?;
        processes.push((process.vpid, Process { layout, source: 0, hot: hot(process) }));
    }
    let deadline = (plan.deadline_ms > 0).then(|| Duration::from_millis(plan.deadline_ms));
    Ok(Plan { source: plan.source, processes, deadline })
}

fn hot(process: &LazyProcess) -> Vec<PageRange> {
    let runs = process.hot_first.iter().zip(&process.hot_count);
    runs.map(|(first, count)| PageRange::new(PageNumber(*first), *count)).collect()
}
