//! What to fetch before anybody waits for it: the hot set, then neighbours of faults, then everything in the order of the store.
//!
//! Owns the order only; whether a frame is still lacking, on its way, or forbidden by a memory limit is asked for each.

use std::collections::VecDeque;

use crate::source::Ticket;

/// Frames after a faulted one that are worth fetching next: 512 KiB.
const AHEAD: u32 = 4;
/// Neighbours remembered at most; the oldest go first.
const NEIGHBOURS: usize = 1024;

struct Cursor {
    family: u32,
    hot: VecDeque<u32>,
    next: u32,
    frames: u32,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Prefetch {
    cursors: Vec<Cursor>,
    neighbours: VecDeque<Ticket>,
    /// On their way, or arrived and not placed yet.
    pub(crate) in_flight: usize,
}

/// What may be done with a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Fetch it.
    Take,
    /// It is not needed, or on its way.
    Skip,
    /// Its container has no room now.
    Full,
}

impl Prefetch {
    /// A process of which all is to be fetched, `hot` first.
    pub(crate) fn begin(&mut self, family: u32, frames: u32, hot: VecDeque<u32>) {
        self.cursors.push(Cursor { family, hot, next: 0, frames });
    }

    /// Forgets a process.
    pub(crate) fn end(&mut self, family: u32) {
        self.cursors.retain(|c| c.family != family);
        self.neighbours.retain(|t| t.family != family);
    }

    /// There was a fault on this frame.
    pub(crate) fn fault(&mut self, ticket: Ticket) {
        let Some(cursor) = self.cursors.iter().find(|c| c.family == ticket.family) else { return };
        for frame in ticket.frame + 1..(ticket.frame + 1 + AHEAD).min(cursor.frames) {
            if self.neighbours.len() == NEIGHBOURS {
                self.neighbours.pop_front();
            }
            self.neighbours.push_back(Ticket { frame, ..ticket });
        }
    }

    /// Starts the walk over all frames again: some may have been passed over while they could not be placed.
    pub(crate) fn rewind(&mut self) {
        for cursor in &mut self.cursors {
            if cursor.next >= cursor.frames {
                cursor.next = 0;
            }
        }
    }

    /// The best frame that `verdict` allows; what it says to skip is passed over, what is full stays for later.
    pub(crate) fn next(&mut self, mut verdict: impl FnMut(Ticket) -> Verdict) -> Option<Ticket> {
        for cursor in &mut self.cursors {
            while let Some(frame) = cursor.hot.front() {
                let ticket = Ticket { family: cursor.family, frame: *frame };
                match verdict(ticket) {
                    Verdict::Full => break,
                    Verdict::Skip => drop(cursor.hot.pop_front()),
                    Verdict::Take => {
                        cursor.hot.pop_front();
                        return Some(ticket);
                    }
                }
            }
        }
        // Of a full container they are not kept: the fault that they are neighbours of is old when there is room again.
        while let Some(ticket) = self.neighbours.pop_front() {
            if verdict(ticket) == Verdict::Take {
                return Some(ticket);
            }
        }
        for cursor in &mut self.cursors {
            while cursor.next < cursor.frames {
                let ticket = Ticket { family: cursor.family, frame: cursor.next };
                match verdict(ticket) {
                    Verdict::Full => break,
                    Verdict::Skip => cursor.next += 1,
                    Verdict::Take => {
                        cursor.next += 1;
                        return Some(ticket);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(family: u32, frame: u32) -> Ticket {
        Ticket { family, frame }
    }

    #[test]
    fn hot_comes_first_then_neighbours_then_the_rest_in_order() {
        let mut p = Prefetch::default();
        p.begin(7, 10, VecDeque::from([5, 2]));
        p.begin(8, 2, VecDeque::from([1]));
        p.fault(ticket(7, 7));
        p.fault(ticket(9, 0));
        let mut taken = Vec::new();
        while let Some(t) =
            p.next(|t| if taken.contains(&t) { Verdict::Skip } else { Verdict::Take })
        {
            taken.push(t);
        }
        let order: Vec<_> = taken.iter().map(|t| (t.family, t.frame)).collect();
        let rest = [0, 1, 3, 4, 6, 7].map(|f| (7, f));
        let first = [(7, 5), (7, 2), (8, 1), (7, 8), (7, 9)];
        assert_eq!(order, [&first[..], &rest[..], &[(8, 0)]].concat());
        p.rewind();
        assert_eq!(p.next(|_| Verdict::Take), Some(ticket(7, 0)));
    }

    #[test]
    fn a_full_container_keeps_its_place_and_does_not_hold_up_the_others() {
        let mut p = Prefetch::default();
        p.begin(1, 3, VecDeque::from([2]));
        p.begin(2, 3, VecDeque::new());
        let full = |t: Ticket| if t.family == 1 { Verdict::Full } else { Verdict::Take };
        assert_eq!(p.next(full), Some(ticket(2, 0)));
        assert_eq!(p.next(|_| Verdict::Take), Some(ticket(1, 2)));
        p.end(1);
        assert_eq!(p.next(|_| Verdict::Take), Some(ticket(2, 1)));
    }
}
