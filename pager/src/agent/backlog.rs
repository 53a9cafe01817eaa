//! What is wanted: queued, on its way, or to be asked for again later. Plain data under the agent's lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_faults::{Lane, Ticket, Want};
use godwit_wire::Socket;
use godwit_wire::pager::frames::{FromFrames, MAX_WANTS, ToFrames};

use crate::slots::Slots;

pub(super) type FramesSocket = Socket<ToFrames, FromFrames>;

/// A connection and what is on its way on it.
pub(super) struct Link {
    pub(super) socket: Arc<FramesSocket>,
    pub(super) slots: Arc<Slots>,
    /// Sources that the agent was told of.
    pub(super) announced: usize,
    in_flight: HashMap<u32, Flying>,
    turns: u64,
    slot_of: HashMap<Ticket, u32>,
}

/// What a slot is waiting for.
#[derive(Clone, Copy)]
struct Flying {
    want: Want,
    lane: Lane,
    turn: u64,
}

/// One line of a message.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) slot: u32,
    /// See [`godwit_wire::pager::frames::Want::turn`].
    pub(super) turn: u64,
    pub(super) want: Want,
}

impl Link {
    pub(super) fn new(socket: Arc<FramesSocket>, slots: Arc<Slots>) -> Self {
        let (in_flight, slot_of) = (HashMap::new(), HashMap::new());
        Self { socket, slots, announced: 0, in_flight, turns: 0, slot_of }
    }

    /// Whether this is that connection.
    pub(super) fn is(&self, socket: &Arc<FramesSocket>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) sources: Vec<Vec<u8>>,
    /// One of them has come that no agent knows yet. It is told at once, so that the checkpoint is open when the first frame is wanted.
    pub(super) is_new: bool,
    /// What plans say about the deadline.
    pub(super) deadline: Option<Duration>,
    urgent: VecDeque<Want>,
    prefetch: VecDeque<Want>,
    later: Vec<(Instant, Want, Lane)>,
    /// In flight, and became urgent.
    urged: Vec<Line>,
    pub(super) link: Option<Link>,
    /// Since when something is wanted and nothing has come.
    stalled: Option<Instant>,
    /// The last thing that went wrong.
    pub(super) trouble: String,
}

/// Wants to be sent, and where their frames go.
pub(super) struct Batch {
    pub(super) lane: Lane,
    pub(super) wants: Vec<Line>,
}

impl Backlog {
    fn queue(&mut self, lane: Lane) -> &mut VecDeque<Want> {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Prefetch => &mut self.prefetch,
        }
    }

    fn is_empty(&self) -> bool {
        let flying = self.link.as_ref().is_some_and(|l| !l.in_flight.is_empty());
        !flying && self.urgent.is_empty() && self.prefetch.is_empty() && self.later.is_empty()
    }

    /// Wants more; what is wanted already becomes urgent if it is now.
    pub(super) fn add(&mut self, wants: &[Want], lane: Lane) {
        if self.is_empty() {
            self.stalled = Some(Instant::now());
        }
        for want in wants {
            let known = lane == Lane::Urgent && self.urge(want);
            if !known {
                self.queue(lane).push_back(*want);
            }
        }
    }

    /// Makes something urgent that is wanted already; `false` if it is not.
    fn urge(&mut self, want: &Want) -> bool {
        if let Some(link) = &mut self.link
            && let Some(slot) = link.slot_of.get(&want.ticket)
        {
            if let Some(flying) = link.in_flight.get_mut(slot)
                && flying.lane == Lane::Prefetch
            {
                flying.lane = Lane::Urgent;
                self.urged.push(Line { slot: *slot, turn: flying.turn, want: *want });
            }
            return true;
        }
        if let Some((_, _, lane)) = self.later.iter_mut().find(|(_, w, _)| w.ticket == want.ticket)
        {
            *lane = Lane::Urgent;
            return true;
        }
        let queued = self.prefetch.iter().position(|w| w.ticket == want.ticket);
        queued.and_then(|at| self.prefetch.remove(at)).map(|w| self.urgent.push_back(w)).is_some()
    }

    /// What is to be sent now, if there is a connection and a slot for it. Nothing wanted: only what an agent must be told.
    pub(super) fn next(&mut self) -> Option<Batch> {
        let link = self.link.as_mut()?;
        if std::mem::take(&mut self.is_new) {
            return Some(Batch { lane: Lane::Urgent, wants: Vec::new() });
        }
        if !self.urged.is_empty() {
            let most = self.urged.len().min(MAX_WANTS);
            let wants = self.urged.drain(..most);
            // One that has arrived meanwhile is in flight no more.
            let still = |line: &Line| link.slot_of.get(&line.want.ticket) == Some(&line.slot);
            let wants: Vec<_> = wants.filter(still).collect();
            return Some(Batch { lane: Lane::Urgent, wants });
        }
        for (lane, queue) in
            [(Lane::Urgent, &mut self.urgent), (Lane::Prefetch, &mut self.prefetch)]
        {
            let mut wants = Vec::new();
            while wants.len() < MAX_WANTS && !queue.is_empty() {
                let Some(slot) = link.slots.take() else { break };
                let Some(want) = queue.pop_front() else { break };
                link.turns += 1;
                let turn = link.turns;
                link.in_flight.insert(slot, Flying { want, lane, turn });
                link.slot_of.insert(want.ticket, slot);
                wants.push(Line { slot, turn, want });
            }
            if !wants.is_empty() {
                return Some(Batch { lane, wants });
            }
        }
        None
    }

    /// The agent has filled a slot: what was wanted. `None` if nothing was.
    pub(super) fn arrived(&mut self, slot: u32) -> Option<Want> {
        let (want, _) = self.landed(slot)?;
        self.stalled = (!self.is_empty()).then(Instant::now);
        Some(want)
    }

    /// The agent could not fill a slot: what was wanted, which is asked for `again` after a while if that may help. At no moment between
    /// is it unknown: who wants it then does not queue it twice, nor start the deadline anew.
    pub(super) fn failed(&mut self, slot: u32, again: Option<Duration>, why: &str) -> Option<Want> {
        let (want, lane) = self.landed(slot)?;
        if let Some(wait) = again {
            why.clone_into(&mut self.trouble);
            self.later.push((Instant::now() + wait, want, lane));
        }
        Some(want)
    }

    fn landed(&mut self, slot: u32) -> Option<(Want, Lane)> {
        let link = self.link.as_mut()?;
        let Flying { want, lane, .. } = link.in_flight.remove(&slot)?;
        link.slot_of.remove(&want.ticket);
        Some((want, lane))
    }

    /// Moves what is due back to the queues; when the next one will be.
    pub(super) fn ripen(&mut self, now: Instant) -> Option<Instant> {
        for (_, want, lane) in self.later.extract_if(.., |l| l.0 <= now).collect::<Vec<_>>() {
            self.queue(lane).push_back(want);
        }
        self.later.iter().map(|l| l.0).min()
    }

    /// The connection is gone: what was on its way is wanted again, first.
    pub(super) fn unlink(&mut self, why: String) {
        self.trouble = why;
        self.urged.clear();
        let Some(link) = self.link.take() else { return };
        for (_, Flying { want, lane, .. }) in link.in_flight {
            self.queue(lane).push_front(want);
        }
    }

    /// Everything that is wanted, if nothing has come for too long. The connection is given up with it.
    pub(super) fn give_up(&mut self, deadline: Duration) -> Vec<Want> {
        if self.stalled.is_none_or(|since| since.elapsed() < deadline) {
            return Vec::new();
        }
        let why = std::mem::take(&mut self.trouble);
        self.unlink(why);
        self.stalled = None;
        let later = self.later.drain(..).map(|(_, want, _)| want);
        self.urgent.drain(..).chain(self.prefetch.drain(..)).chain(later).collect()
    }
}
