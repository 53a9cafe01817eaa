//! What happened to one page while it was not quiet: who freed it, who filled it, and which orders of that are possible.
//!
//! A page is filled (something registered is mapped there) or free. The kernel fills only what is free, and tells nobody when a mapping
//! grows onto a free page; nothing is freed without an event.

use super::Change;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Fills,
    /// Certainly filled before (the source of a move), or perhaps not (a range that was unmapped may have had holes).
    Frees {
        surely: bool,
    },
}

impl Deed {
    /// Whether the page is filled before it, if that is known.
    fn before(self) -> Option<bool> {
        match self {
            Self::Fills => Some(false),
            Self::Frees { surely } => surely.then_some(true),
        }
    }

    /// Whether the page is filled after it.
    fn after(self) -> bool {
        self == Self::Fills
    }
}

/// See the module.
pub(super) struct Story {
    at_first: Option<bool>,
    at_last: bool,
    beliefs: Beliefs,
    deeds: Vec<(usize, Deed)>,
}

/// It cannot have been: something filled what was filled, or freed without an event.
const IMPOSSIBLE: u32 = 1000;

/// How hard it is to believe what explains a page.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beliefs {
    /// More than one thread changes mappings.
    pub(super) many: bool,
    /// Mappings grow.
    pub(super) grow: bool,
}

impl Beliefs {
    /// A mapping has grown onto the page, unseen.
    fn grew(self) -> u32 {
        if self.grow { 3 } else { 20 }
    }

    /// The first of two events was read so many events after the second. Whoever delays an event is mostly a thread that it wakes, with
    /// one event of its own.
    fn inverted(self, events: usize) -> u32 {
        let events = u32::try_from(events).unwrap_or(IMPOSSIBLE).min(100);
        if self.many { 2 + events } else { 4 + events }
    }
}

/// More deeds on one page are believed as they were read.
const MOST: usize = 10;

impl Story {
    /// Whether the page was filled before it all, if known, and whether it is filled after it all.
    pub(super) fn new(at_first: Option<bool>, at_last: bool, beliefs: Beliefs) -> Self {
        Self { at_first, at_last, beliefs, deeds: Vec::new() }
    }

    /// Whether a mapping has certainly grown onto the page: it was freed, by nothing else filled, and is filled.
    pub(super) fn has_grown(&self) -> bool {
        self.at_last && !self.deeds.is_empty() && self.deeds.iter().all(|(_, d)| !d.after())
    }

    /// Adds what a change did to the page, if anything.
    pub(super) fn add(&mut self, index: usize, change: &Change, page: u64) {
        if change.frees().contains(&page) {
            let surely = matches!(change, Change::Remap { .. });
            self.deeds.push((index, Deed::Frees { surely }));
        } else if change.fills().contains(&page) {
            self.deeds.push((index, Deed::Fills));
        }
    }

    /// How hard it is to believe that change `first` came before `second`. Of one kind, the order in which they were added is believed.
    pub(super) fn cost_of(&self, first: usize, second: usize) -> u32 {
        if self.deeds.len() > MOST {
            return u32::from(first > second);
        }
        let of = |fills: bool| self.deeds.iter().copied().filter(move |d| d.1.after() == fills);
        let (fills, frees): (Vec<_>, Vec<_>) = (of(true).collect(), of(false).collect());
        let merge = Merge { story: self, first, second };
        merge.cheapest(&fills, &frees, self.at_first)
    }

    fn step(&self, from: Option<bool>, to: Option<bool>) -> u32 {
        match (from, to) {
            (Some(true), Some(false)) => IMPOSSIBLE,
            (Some(false), Some(true)) => self.beliefs.grew(),
            _ => 0,
        }
    }

    /// The changes, in the order in which they were added.
    pub(super) fn indexes(&self) -> impl Iterator<Item = usize> + '_ {
        self.deeds.iter().map(|(index, _)| *index)
    }

    /// After how many of the deeds somebody may have found the page as they did.
    pub(super) fn gaps(&self, filled: Option<bool>) -> Vec<bool> {
        let could = |gap| filled.is_none_or(|filled| self.could_be(gap, filled));
        (0..=self.deeds.len()).map(could).collect()
    }

    /// Whether the page may be filled, or free, after so many of the deeds.
    fn could_be(&self, gap: usize, filled: bool) -> bool {
        let left = match gap {
            0 => self.at_first,
            _ => Some(self.deeds[gap - 1].1.after()),
        };
        let right = match self.deeds.get(gap) {
            Some((_, deed)) => deed.before(),
            None => Some(self.at_last),
        };
        match (left, right) {
            (Some(left), Some(right)) => left == filled || right == filled,
            (Some(true), None) => filled,
            (None, Some(false)) => !filled,
            (Some(false), None) | (None, _) => true,
        }
    }
}

/// A search through the orders of fills and frees.
struct Merge<'a> {
    story: &'a Story,
    first: usize,
    second: usize,
}

impl Merge<'_> {
    fn cheapest(
        &self,
        fills: &[(usize, Deed)],
        frees: &[(usize, Deed)],
        state: Option<bool>,
    ) -> u32 {
        if fills.is_empty() && frees.is_empty() {
            return self.story.step(state, Some(self.story.at_last));
        }
        let next = |mine: &[(usize, Deed)], others: &[(usize, Deed)]| {
            let (index, deed) = *mine.first()?;
            let waits = |i: usize| mine.iter().chain(others).any(|(other, _)| *other == i);
            if index == self.second && waits(self.first) {
                return None;
            }
            let late = others.iter().filter(|(other, _)| *other < index);
            let inverted: u32 =
                late.map(|(other, _)| self.story.beliefs.inverted(index - other)).sum();
            let cost = inverted + self.story.step(state, deed.before());
            Some((cost, Some(deed.after())))
        };
        let fill = next(fills, frees).map(|(c, s)| c + self.cheapest(&fills[1..], frees, s));
        let free = next(frees, fills).map(|(c, s)| c + self.cheapest(fills, &frees[1..], s));
        fill.into_iter().chain(free).min().unwrap_or(IMPOSSIBLE)
    }
}
