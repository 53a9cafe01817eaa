//! The plan of one container: page maps out of a memfd.

use std::os::fd::OwnedFd;
use std::time::Duration;

use godwit_faults::{Layout, Process};
use godwit_image::{ImageError, PageMap, decode_recent, limits};
use godwit_types::PageRange;
use godwit_wire::memfd;
use godwit_wire::pager::{LazyPlan, Load};
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
        let part = |offset, length| part(&bytes, offset, length);
        let map = part(process.offset, process.length);
        let map = map.ok_or_else(|| invalid("a page map lies outside its memfd"))?;
        let hot = part(process.hot_offset, process.hot_length);
        let hot = hot.ok_or_else(|| invalid("a hot set lies outside its memfd"))?;
        let damaged = |source| PagerError::PageMap { vpid: process.vpid, source };
        let layout = Layout::new(&PageMap::decode(map).map_err(damaged)?)?;
        let hot = hot_set(hot).map_err(damaged)?;
        processes.push((process.vpid, Process { layout, source: 0, hot }));
    }
    let deadline = (plan.deadline_ms > 0).then(|| Duration::from_millis(plan.deadline_ms));
    Ok(Plan { source: plan.source, processes, deadline })
}

fn part(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let end = usize::try_from(offset.checked_add(length)?).ok()?;
    bytes.get(usize::try_from(offset).ok()?..end)
}

fn hot_set(bytes: &[u8]) -> Result<Vec<PageRange>, ImageError> {
    if bytes.is_empty() { Ok(Vec::new()) } else { decode_recent(bytes) }
}

#[cfg(test)]
mod tests {
    use godwit_image::{FrameRef, PackSlot, PageRun, encode_recent};
    use godwit_types::PageNumber;
    use godwit_wire::pager::LazyProcess;

    use super::*;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange::new(PageNumber(first), count)
    }

    /// A plan of one process whose map is followed by these bytes, which are its hot set as `change` leaves it.
    fn read_with(hot: &[u8], change: impl Fn(&mut LazyProcess)) -> Result<Plan, PagerError> {
        let frame = FrameRef { pack: PackSlot(0), frame: 0 };
        let map = PageMap::from_iter([PageRun::stored(range(5, 9), frame, 0)]);
        let map = map.encode().unwrap();
        let (length, hot_length) = (map.len() as u64, hot.len() as u64);
        let mut process =
            LazyProcess { vpid: 7, offset: 0, length, hot_offset: length, hot_length };
        change(&mut process);
        let plan = LazyPlan { processes: vec![process], ..LazyPlan::default() };
        let load = Load { plan: plan.encode_to_vec(), ..Load::default() };
        read(&load, memfd::sealed("maps", &[&map, hot].concat()).unwrap())
    }

    #[test]
    fn a_hot_set_comes_with_its_process_and_need_not_be_there() {
        let recent = [range(6, 2), range(9, 1)];
        let plan = read_with(&encode_recent(&recent), |_| ()).unwrap();
        let (vpid, process) = &plan.processes[0];
        assert_eq!((*vpid, &process.hot[..]), (7, &recent[..]));
        let none = |p: &mut LazyProcess| (p.hot_offset, p.hot_length) = (0, 0);
        assert!(read_with(&[], none).unwrap().processes[0].1.hot.is_empty());
    }

    #[test]
    fn a_hot_set_that_is_too_large_or_lies_elsewhere_is_refused() {
        let much = encode_recent(&[range(0, limits::MAX_RECENT_PAGES + 1)]);
        assert!(matches!(read_with(&much, |_| ()), Err(PagerError::PageMap { vpid: 7, .. })));
        let good = encode_recent(&[range(6, 2)]);
        for (offset, length) in [(0, u64::MAX), (u64::MAX, 1), (1 << 20, 3), (u64::MAX, 0)] {
            let there = |p: &mut LazyProcess| (p.hot_offset, p.hot_length) = (offset, length);
            assert!(matches!(read_with(&good, there), Err(PagerError::Plan { .. })));
        }
    }
}
