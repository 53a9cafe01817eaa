//! Asking for frames, and what happens when they arrive.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use godwit_image::limits::MAX_FRAME_BYTES;
use godwit_types::PAGE_SIZE;

use super::work::Job;
use super::{Shared, locked};
use crate::FaultsError;
use crate::member::Member;
use crate::prefetch::Verdict;
use crate::source::{FrameFailure, FramePages, Lane, Ticket, Want};
use crate::wanted::Waiter;

/// Frames asked for at once when prefetching: neighbours in the store become one ranged GET.
const RUN: usize = 32;

impl Shared {
    /// A thread waits for a page of this frame.
    pub(super) fn want(&self, member: &Arc<Member>, page: u64, frame: u32) {
        let ticket = Ticket { family: member.family.index, frame };
        let waiter = Waiter { member: Arc::clone(member), page };
        if self.wanted.wait(ticket, waiter) {
            self.request(&[ticket], Lane::Urgent);
            if let Ok(group) = self.group(member.family.group) {
                group.urgent_frames.fetch_add(1, Ordering::Relaxed);
            }
            locked(&self.prefetch).fault(ticket);
        }
    }

    /// Asks for as many frames as the window and the memory limits allow.
    pub(super) fn fetch_ahead(&self) {
        loop {
            let run = self.choose();
            if run.is_empty() {
                return;
            }
            self.request(&run, Lane::Prefetch);
        }
    }

    /// Nothing while there is room for a part of a run alone: frames that are asked for one by one, as others are placed, would become a
    /// GET each.
    fn choose(&self) -> Vec<Ticket> {
        let mut prefetch = locked(&self.prefetch);
        let mut run = Vec::new();
        let most = RUN.min(self.settings.window / 4).max(1);
        if prefetch.in_flight + most > self.settings.window {
            return run;
        }
        while run.len() < most && prefetch.in_flight < self.settings.window {
            let bytes = (prefetch.in_flight as u64 + 1) * MAX_FRAME_BYTES as u64;
            let Some(ticket) = prefetch.next(|ticket| self.verdict(ticket, bytes)) else { break };
            prefetch.in_flight += 1;
            run.push(ticket);
        }
        run
    }

    /// Takes the frame at once if it is to be fetched.
    fn verdict(&self, ticket: Ticket, bytes: u64) -> Verdict {
        let Ok(family) = self.family(ticket.family) else { return Verdict::Skip };
        let Ok(group) = self.group(family.group) else { return Verdict::Skip };
        if group.has_failed() || !family.lacks(ticket.frame) {
            return Verdict::Skip;
        }
        if !group.has_room(bytes) {
            return Verdict::Full;
        }
        if self.wanted.prefetch(ticket) { Verdict::Take } else { Verdict::Skip }
    }

    fn request(&self, tickets: &[Ticket], lane: Lane) {
        let want = |ticket: &Ticket| {
            let family = self.family(ticket.family).ok()?;
            let frame = family.layout.frame(ticket.frame)?;
            Some(Want { ticket: *ticket, source: family.source, frame })
        };
        let wants: Vec<Want> = tickets.iter().filter_map(want).collect();
        self.source.request(&wants, lane);
    }

    /// A prefetched frame, or another one, is placed.
    pub(super) fn placed(&self, prefetched: bool) {
        if prefetched {
            let mut prefetch = locked(&self.prefetch);
            prefetch.in_flight = prefetch.in_flight.saturating_sub(1);
        }
        self.fetch_ahead();
    }

    /// See [`super::Delivery::deliver`].
    pub(super) fn delivered(
        &self,
        ticket: Ticket,
        result: Result<Box<dyn FramePages>, FrameFailure>,
    ) {
        let (Ok(family), Some(lane)) = (self.family(ticket.family), self.wanted.lane(ticket))
        else {
            return tracing::warn!(ticket = ticket.number(), "a frame that nobody asked for");
        };
        let (pack, frame) =
            family.layout.frame(ticket.frame).map_or((0, 0), |f| (f.pack.0, f.frame));
        let want = family.layout.pages_wanted(ticket.frame);
        let error = match result {
            Ok(pages) if pages.bytes().len() as u64 >= u64::from(want) * PAGE_SIZE => {
                return self.lanes.push(lane, Job::Place { ticket, family, pages, attempts: 0 });
            }
            Ok(pages) => {
                let have = (pages.bytes().len() as u64 / PAGE_SIZE) as u32;
                FaultsError::ShortFrame { pack, frame, have, want }
            }
            Err(FrameFailure { code, reason }) => FaultsError::Frame { pack, frame, code, reason },
        };
        // Who waits for it keeps waiting: no page is invented. The container is to be killed.
        self.fatal(family.group, &error);
        self.placed(self.wanted.forget(ticket));
    }
}
