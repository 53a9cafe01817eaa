//! Filters that are installed one after the other: what all of them together let pass.
//!
//! CRIU writes a row of filters for each process, most of them alike. A thread names the one that was installed first, the
//! container's own, and each names the one that came after it. Of a row the kernel takes the strictest answer, so what the
//! first one denies no other one need be asked; equal programs are read and judged once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use godwit_criu_rpc::images::SeccompFilter;

use super::IMAGE;
use super::bpf::{Program, Steps};
use super::profile::{Demand, What};
use crate::Error;

/// `SECCOMP_FILTER_FLAG_TSYNC`, `SECCOMP_FILTER_FLAG_NEW_LISTENER` of `<linux/seccomp.h>`.
const TSYNC: u32 = 1;
const NEW_LISTENER: u32 = 1 << 3;

/// The kernel's limit on the instructions of a row (`MAX_INSNS_PER_PATH`), and what it adds for each filter.
const MAX_ROW: usize = 1 << 15;
const FILTER_COST: usize = 4;

/// Instructions that judging one checkpoint may take, about a second. The largest program that there can be (4096
/// instructions) takes an eighth of it for 2048 demands, runc's a fiftieth at most.
const MAX_STEPS: u64 = 1 << 26;

/// Number of a filter in its image, and of a distinct program.
type FilterId = usize;
type ProgramId = usize;
/// Numbers of demands, in order.
type Unmet = Rc<[usize]>;

/// The filters of an image, judged as far as somebody has asked.
#[derive(Debug)]
pub(super) struct Rows {
    demands: Vec<Demand>,
    filters: Vec<Filter>,
    programs: Vec<Program>,
    /// What programs that were asked do not meet.
    unmet: BTreeMap<ProgramId, Unmet>,
    /// What rows that were asked allow beyond the spec, by their first filter.
    excess: BTreeMap<FilterId, Option<What>>,
    steps: Steps,
}

#[derive(Debug, Clone, Copy)]
struct Filter {
    program: ProgramId,
    /// Installed after it. It stands before it in the image.
    after: Option<FilterId>,
    /// This one and all after it are given to all threads of the process.
    synced: bool,
    /// Their instructions, as the kernel counts.
    length: usize,
}

impl Rows {
    /// Reads the filters of an image, which are to meet these demands.
    ///
    /// # Errors
    /// [`Error::Image`] for filters that CRIU would not have written, or that the kernel would not take.
    pub(super) fn read(filters: &[SeccompFilter], demands: Vec<Demand>) -> Result<Self, Error> {
        let mut rows = Self {
            demands,
            filters: Vec::with_capacity(filters.len()),
            programs: vec![],
            unmet: BTreeMap::new(),
            excess: BTreeMap::new(),
            steps: Steps(MAX_STEPS),
        };
        let mut known = BTreeMap::new();
        for filter in filters {
            let at = rows.filters.len();
            let read = rows.filter(filter, &mut known);
            rows.filters.push(read.map_err(|reason| unreadable(at, reason))?);
        }
        Ok(rows)
    }

    /// Whether there is such a filter.
    pub(super) fn has(&self, first: FilterId) -> bool {
        first < self.filters.len()
    }

    /// Whether the row that begins with this filter is given to all threads of its process.
    pub(super) fn is_synced(&self, first: FilterId) -> bool {
        self.filters.get(first).is_some_and(|filter| filter.synced)
    }

    /// Something that the row that begins with this filter allows, and the spec does not.
    ///
    /// # Errors
    /// [`Error::Image`] when all that was asked takes too long.
    pub(super) fn excess(&mut self, first: FilterId) -> Result<Option<What>, Error> {
        if let Some(known) = self.excess.get(&first) {
            return Ok(*known);
        }
        let too_long = "there are more filters, or larger ones, than can be judged";
        let left = self.left(first).ok_or_else(|| unreadable(first, too_long))?;
        let excess = left.first().and_then(|demand| self.demands.get(*demand)).map(|d| d.what);
        self.excess.insert(first, excess);
        Ok(excess)
    }

    fn filter<'a>(
        &mut self,
        filter: &'a SeccompFilter,
        known: &mut BTreeMap<&'a [u8], ProgramId>,
    ) -> Result<Filter, &'static str> {
        let flags = filter.flags.unwrap_or(0);
        if flags & NEW_LISTENER != 0 {
            return Err("it asks for a listener, which could let everything pass");
        }
        let after = filter.prev.map(|prev| usize::try_from(prev).unwrap_or(usize::MAX));
        let rest = match after {
            None => None,
            Some(after) => Some(self.filters.get(after).ok_or("its row has no end")?),
        };
        let synced = flags & TSYNC != 0 && rest.is_none_or(|rest| rest.synced);
        let rest = rest.map_or(0, |rest| rest.length + FILTER_COST);
        let program = match known.entry(&filter.filter) {
            Entry::Occupied(there) => *there.get(),
            Entry::Vacant(place) => {
                self.programs.push(Program::parse(&filter.filter)?);
                *place.insert(self.programs.len() - 1)
            }
        };
        let length = rest + self.programs.get(program).map_or(0, Program::len);
        if length > MAX_ROW {
            return Err("its row has more instructions than the kernel takes");
        }
        Ok(Filter { program, after, synced, length })
    }

    /// What no filter of a row meets; `None`: the steps are used up.
    fn left(&mut self, first: FilterId) -> Option<Unmet> {
        let mut left: Option<Unmet> = None;
        let mut next = self.filters.get(first).copied();
        while let Some(filter) = next {
            let unmet = self.unmet(filter.program)?;
            let both = match left {
                None => unmet,
                Some(left) => common(left, &unmet, &mut self.steps)?,
            };
            if both.is_empty() {
                return Some(both);
            }
            left = Some(both);
            next = filter.after.and_then(|after| self.filters.get(after)).copied();
        }
        left
    }

    /// What a program alone does not meet; `None`: the steps are used up.
    fn unmet(&mut self, id: ProgramId) -> Option<Unmet> {
        if let Some(known) = self.unmet.get(&id) {
            return Some(known.clone());
        }
        let program = self.programs.get(id)?;
        let mut unmet = Vec::new();
        for (at, demand) in self.demands.iter().enumerate() {
            if program.laxest(demand.call, &mut self.steps)? > demand.most {
                unmet.push(at);
            }
        }
        let unmet: Unmet = unmet.into();
        self.unmet.insert(id, unmet.clone());
        Some(unmet)
    }
}

fn common(left: Unmet, other: &Unmet, steps: &mut Steps) -> Option<Unmet> {
    steps.0 = steps.0.checked_sub(left.len() as u64)?;
    // Most programs meet all demands or none.
    if Rc::ptr_eq(&left, other) || left.iter().all(|demand| other.binary_search(demand).is_ok()) {
        return Some(left);
    }
    Some(left.iter().copied().filter(|demand| other.binary_search(demand).is_ok()).collect())
}

fn unreadable(filter: FilterId, reason: &str) -> Error {
    Error::image(IMAGE, format!("filter {filter} cannot be vetted: {reason}"))
}
