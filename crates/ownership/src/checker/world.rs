//! The whole: places, store, collector, budgets; and every step from a state to the next ones.
//!
//! A state is a few small numbers: places and entries are interned, and what a place does with an event is computed once by the real
//! machines and remembered. Positions in the log are relative to the newest entry, and numbers that nothing refers to any more are
//! used again, so that a search ends.

mod label;
mod moves;
mod store;
mod sweeps;
mod tidy;

use std::cell::RefCell;
use std::rc::Rc;

use godwit_types::{Generation, Outcome, Seq};

use super::ids::{self, Refs};
use super::intern::{FastMap, Interned};
use super::place::{Connections, Effect, Place, Setting, Truth};
use super::properties::latest_is_there;
use super::scenario::Scenario;
use crate::machine::{self, Presence, Put};
use crate::message::OnLost;
use crate::rules::Rules;
use crate::shim::Phase;
use crate::state::{Kind, Points};
use crate::sweep;
use crate::{Entry, State};

pub(super) use label::Label;
use moves::Move;
use store::Appended;
use sweeps::Sweeping;

pub(super) const PLACES: usize = 3;
pub(super) const POINTS: usize = 4;
/// How far back somebody may read the log.
const TAIL: usize = 6;
/// No such entry, place or sweep.
const NONE: u32 = u32::MAX;

/// What may still be asked for, or go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub(super) enum Budget {
    AgentCrash,
    Hard,
    Run,
    Stop,
    Offer,
    Delete,
    Tick,
    Bad,
    Look,
    Cancel,
    Deadline,
    /// The store refuses a PUT.
    Refuse,
    /// An empty directory stands where the store was, for one look at the log.
    Away,
    Free,
}

pub(super) type Budgets = [u8; 14];

/// One checkpoint in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Point {
    pub manifest: Manifest,
    /// 0 young, 1 at least T/2, 2 at least T.
    pub age: u8,
    /// An entry names it.
    pub entry: bool,
    /// Every restore of it fails.
    pub bad: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum Manifest {
    /// Nobody makes it.
    #[default]
    No,
    /// Being made.
    Coming,
    Yes,
    Tombstone,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub places: [u32; PLACES],
    pub newest: u32,
    /// Entries at `NEWEST − 1`, `NEWEST − 2`, … as far as somebody may read them.
    tail: [u32; TAIL],
    flight: [u32; 2],
    pub points: [Point; POINTS],
    /// Collectors at work: machine and what it asked.
    sweeps: [u32; 2],
    budgets: Budgets,
    /// The checkpoint for which a stop has killed the tasks.
    pub acked: Option<u8>,
    /// A fault, or a person, ended the tasks that counted.
    pub lost_ok: bool,
    /// A person has started over by force, and nothing was committed since.
    pub given_up: bool,
}

/// A world as the search keeps it: places, newest entry, log, all else.
pub(super) type Packed = [u32; PLACES + 3];

/// The log below the newest entry, and what flies to it.
type Below = ([u32; TAIL], [u32; 2]);

/// One step.
pub(super) struct Step {
    pub label: Label,
    /// The protocol may rely on it: not a fault, a person, a late landing, or time.
    pub fair: bool,
    pub to: World,
    /// A property that the step itself breaks.
    pub breaks: Option<&'static str>,
}

/// What a place gets from the rest of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Start(OnLost, u8),
    Newest(u32),
    Slot(u32),
    Put(Put),
    Presence(Presence),
    Prepared {
        there: bool,
        /// The newest entry gives the pod away.
        given: bool,
    },
    Restored {
        fails: bool,
    },
    Receives(u8),
    Checkpoint(Outcome, u8, u8),
    Look {
        old: bool,
    },
    Sandbox(u8),
    Shift,
    Forced,
    Excused,
    /// Another copy has begun to run.
    Outrun,
    TooOld,
}

/// Finds the steps.
pub(super) struct Explorer {
    pub setting: Setting,
    pub nodes: usize,
    pub sweepers: usize,
    places: Interned<Place>,
    entries: Interned<Entry>,
    sweepings: Interned<Sweeping>,
    labels: Interned<String>,
    moves: Vec<Option<Rc<[Move]>>>,
    answers: FastMap<(u32, Answer), (u32, Effect)>,
    refs: Vec<Option<Refs>>,
    entry_refs: Vec<Option<Refs>>,
    plain: FastMap<(u32, bool), u32>,
    named: RefCell<FastMap<(u32, u8, u8), bool>>,
    vain: FastMap<(u32, u32, OnLost), bool>,
    /// What a place PUTs.
    asked: FastMap<u32, Option<u32>>,
    appended: FastMap<u32, Appended>,
    /// Entries one position further back.
    older: FastMap<u32, u32>,
    /// What a collector does with an answer, and what that is called.
    belows: Interned<Below>,
    /// Worlds without places and log.
    rests: Interned<World>,
    swept: FastMap<(u32, sweep::Event), (u32, u32)>,
}

impl Explorer {
    pub(super) fn new(setting: Setting, nodes: usize) -> Self {
        Self {
            setting,
            nodes,
            sweepers: 1,
            places: Interned::default(),
            entries: Interned::default(),
            sweepings: Interned::default(),
            labels: Interned::default(),
            moves: Vec::new(),
            answers: FastMap::default(),
            refs: Vec::new(),
            entry_refs: Vec::new(),
            named: RefCell::default(),
            plain: FastMap::default(),
            vain: FastMap::default(),
            asked: FastMap::default(),
            appended: FastMap::default(),
            older: FastMap::default(),
            swept: FastMap::default(),
            belows: Interned::default(),
            rests: Interned::default(),
        }
    }

    /// A runs; its lineage names it, or has not begun.
    pub(super) fn start(&mut self, budgets: Budgets, begun: bool) -> World {
        let me = ids::owner(0, 0);
        let owned = State::Owned { owner: me.clone(), restored: None, good: Points::default() };
        let newest = Entry {
            seq: Seq(ids::NEWEST),
            nonce: 0.into(),
            op: None,
            kind: Kind::Reclaim,
            state: if begun { owned } else { State::Empty },
            generation: Generation(0),
            by: me,
            at_ms: 0,
        };
        let mut places = [NONE; PLACES];
        for (n, place) in places.iter_mut().enumerate().take(self.nodes) {
            *place = self.places.id(match n {
                0 => Place::source(&self.setting, begun),
                n => Place::target(n as u8),
            });
        }
        let world = World {
            places,
            newest: self.entries.id(newest),
            tail: [NONE; TAIL],
            flight: [NONE; 2],
            points: [Point::default(); POINTS],
            sweeps: [NONE; 2],
            budgets,
            acked: None,
            lost_ok: false,
            given_up: false,
        };
        self.tidy(world)
    }

    pub(super) fn pack(&mut self, world: &World) -> Packed {
        let World { places: [a, b, c], newest, tail, flight, .. } = *world;
        let below = self.belows.id((tail, flight));
        let (tail, flight) = ([NONE; TAIL], [NONE; 2]);
        let rest = World { places: [NONE; PLACES], newest: NONE, tail, flight, ..*world };
        [a, b, c, newest, below, self.rests.id(rest)]
    }

    pub(super) fn unpack(&self, packed: Packed) -> World {
        let [a, b, c, newest, below, rest] = packed;
        let (tail, flight) = **self.belows.get(below);
        World { places: [a, b, c], newest, tail, flight, ..**self.rests.get(rest) }
    }

    pub(super) fn place(&self, id: u32) -> &Rc<Place> {
        self.places.get(id)
    }

    pub(super) fn newest(&self, world: &World) -> &Rc<Entry> {
        self.entries.get(world.newest)
    }

    /// Distinct places and entries so far.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.places.len(), self.entries.len())
    }

    /// Whether the newest entry names this life.
    pub(super) fn names(&self, world: &World, n: usize, life: u8) -> bool {
        let key = (world.newest, n as u8, life);
        *self
            .named
            .borrow_mut()
            .entry(key)
            .or_insert_with(|| self.newest(world).state.lets_run(&ids::owner(n as u8, life)))
    }

    pub(super) fn steps(&mut self, world: &World) -> Vec<Step> {
        let mut steps = Vec::with_capacity(24);
        // Sound as messages that arrive at once are: it touches only its own place, whose shim hears nothing else meanwhile.
        let releases = |n: &usize| self.places.get(world.places[*n]).is_releasing();
        if let Some(n) = (0..self.nodes).find(releases) {
            self.by_itself(world, n, &mut steps);
            return steps;
        }
        for n in 0..self.nodes {
            self.by_itself(world, n, &mut steps);
            let place = self.places.get(world.places[n]).clone();
            if place.up {
                self.wishes(world, n, &place, &mut steps);
                self.starts(world, n, &place, &mut steps);
                self.questions(world, n, &place, &mut steps);
            }
        }
        self.store_steps(world, &mut steps);
        steps
    }

    /// What a place may do whatever the rest of the world is like.
    fn by_itself(&mut self, world: &World, n: usize, steps: &mut Vec<Step>) {
        let moves = self.moves_of(world.places[n]);
        for step in moves.iter().filter(|step| affordable(world, step.cost)) {
            let mut to = spent(world, step.cost);
            to.places[n] = step.to;
            let label = Label::Text(step.label);
            self.arrive(world, n, label, step.fair, to, step.effect, steps);
        }
    }

    /// What people ask for, and what the agent does by itself.
    fn wishes(&mut self, world: &World, n: usize, place: &Place, steps: &mut Vec<Step>) {
        if !place.agent || place.task.is_some() || place.link.is_some() {
            return;
        }
        let running = place.truth() == Truth::Running && place.phase() == Phase::Idle;
        let named = self.names(world, n, place.life());
        let empty = matches!(self.newest(world).state, State::Empty);
        if running && (named || empty) && place.pod {
            self.wish(world, n, Outcome::Run, Budget::Run, steps);
            self.wish(world, n, Outcome::Stop, Budget::Stop, steps);
            self.wish(world, n, Outcome::Offer, Budget::Offer, steps);
        }
        let zombie = running && !named && !empty && place.fence.is_some();
        let stuck = matches!(place.phase(), Phase::Sealed | Phase::Committing);
        let needed = stuck || zombie || place.owes_cold();
        let cost = if needed { Budget::Free } else { Budget::Look };
        if place.shim.is_some() && affordable(world, cost) {
            let old = world.points.iter().any(|point| point.age > 0);
            self.answered(world, n, Answer::Look { old }, needed, cost, steps);
        }
    }

    fn wish(
        &mut self,
        world: &World,
        n: usize,
        outcome: Outcome,
        cost: Budget,
        steps: &mut Vec<Step>,
    ) {
        let free = world.points.iter().position(|point| point.manifest == Manifest::No);
        let (Some(point), true) = (free, affordable(world, cost)) else { return };
        let nonce = self.free_nonce(world, n as u8);
        let mut asked = *world;
        asked.points[point].manifest = Manifest::Coming;
        let answer = Answer::Checkpoint(outcome, point as u8, nonce);
        self.answered(&asked, n, answer, false, cost, steps);
    }

    /// What kubelet and CRIU do at a place.
    fn starts(&mut self, world: &World, n: usize, place: &Place, steps: &mut Vec<Step>) {
        let Some(shim) = &place.shim else { return };
        if let Some(point) = shim.restoring {
            let fails = world.points[point as usize].bad;
            self.answered(world, n, Answer::Restored { fails }, true, Budget::Free, steps);
        }
        let idle = place.phase() == Phase::Idle && place.truth() == Truth::Dead;
        if !idle || !place.pod || place.link.is_some() || place.task.is_some() {
            return;
        }
        for on_lost in [OnLost::Image, OnLost::Latest] {
            if !self.start_is_vain(world, n, on_lost) {
                let answer = Answer::Start(on_lost, self.free_nonce(world, n as u8));
                self.answered(world, n, answer, true, Budget::Free, steps);
            }
        }
    }

    fn start_is_vain(&mut self, world: &World, n: usize, on_lost: OnLost) -> bool {
        let key = (world.places[n], world.newest, on_lost);
        if let Some(vain) = self.vain.get(&key) {
            return *vain;
        }
        let (place, newest) = (self.places.get(key.0), self.entries.get(key.1));
        let vain = place.start_is_vain(&self.setting, on_lost, newest);
        self.vain.insert(key, vain);
        vain
    }

    /// A place gets an answer.
    fn answered(
        &mut self,
        world: &World,
        n: usize,
        answer: Answer,
        fair: bool,
        cost: Budget,
        steps: &mut Vec<Step>,
    ) {
        let (place, effect) = self.answer(world.places[n], answer);
        let mut to = spent(world, cost);
        to.places[n] = place;
        self.arrive(world, n, Label::Answer(n as u8, answer), fair, to, effect, steps);
    }

    /// Applies what a step did beyond its place.
    #[allow(clippy::too_many_arguments)] // a step and where it goes
    fn arrive(
        &mut self,
        from: &World,
        n: usize,
        label: Label,
        fair: bool,
        mut to: World,
        effect: Effect,
        steps: &mut Vec<Step>,
    ) {
        to.lost_ok |= effect.lost;
        to.acked = effect.acked.or(to.acked);
        let breaks = effect.ran.and_then(|offline| self.began_to_run(&mut to, n, offline));
        let breaks = breaks.or_else(|| effect.ran.and_then(|_| self.speaks(from, &mut to, n)));
        let ignored = effect.ignored && latest_is_there(&to, &self.newest(&to).state);
        let breaks = breaks.or(ignored.then_some("P6 who asks for the memory gets the image"));
        if let Some(point) = effect.manifest {
            to.points[point as usize].manifest = Manifest::Yes;
            to.points[point as usize].bad = effect.bad;
        }
        if effect.forgotten
            && let Some(put) = self.asked(from.places[n])
            && let Some(flying) = self.flies(&to, put)
        {
            let to = self.tidy(flying);
            steps.push(Step { label: label.flying(), fair: false, to, breaks });
        }
        let to = self.tidy(to);
        steps.push(Step { label, fair, to, breaks });
    }

    /// P7: from now on the peers of the pod's connections hear this copy, and whoever was made ready before knows less than they do.
    fn speaks(&mut self, from: &World, to: &mut World, n: usize) -> Option<&'static str> {
        if self.places.get(to.places[n]).ex {
            // A copy that force has left behind has connections of its own.
            return None;
        }
        for other in (0..self.nodes).filter(|other| *other != n) {
            to.places[other] = self.answer(to.places[other], Answer::Outrun).0;
        }
        let stale = self.places.get(from.places[n]).connections() == Connections::Stale;
        stale.then_some("P7 connections go on from before another copy used them")
    }

    /// P4, and the ghosts that a running copy clears.
    fn began_to_run(&mut self, to: &mut World, n: usize, offline: bool) -> Option<&'static str> {
        to.lost_ok = false;
        to.acked = None;
        let place = self.places.get(to.places[n]).clone();
        // A pod that was never checkpointed needs no lineage; nobody can continue it.
        let free = self.newest(to).state == State::Empty;
        if free || place.ex || self.names(to, n, place.life()) {
            return None;
        }
        if offline && self.setting.force {
            to.places[n] = self.answer(to.places[n], Answer::Excused).0;
            return None;
        }
        Some("P4 tasks begin to run although the newest entry does not name them")
    }

    fn answer(&mut self, id: u32, answer: Answer) -> (u32, Effect) {
        if let Some(known) = self.answers.get(&(id, answer)) {
            return *known;
        }
        let mut place = (**self.places.get(id)).clone();
        let mut effect = Effect::default();
        self.respond(&mut place, answer, &mut effect);
        place.settle(&self.setting, &mut effect);
        let result = (self.places.id(place), effect);
        self.answers.insert((id, answer), result);
        result
    }

    fn respond(&self, place: &mut Place, answer: Answer, effect: &mut Effect) {
        use machine::{Event, Read};
        let setting = &self.setting;
        let read = |id: u32| {
            let entry = (id != NONE).then(|| Box::new((**self.entries.get(id)).clone()));
            Read::Known(entry)
        };
        match answer {
            Answer::Start(on_lost, nonce) => place.start(setting, on_lost, nonce, effect),
            Answer::Newest(id) => place.answered(Event::Newest(read(id)), effect),
            Answer::Slot(id) => place.answered(Event::Slot(read(id)), effect),
            Answer::Put(put) => place.answered(Event::Put(put), effect),
            Answer::Presence(there) => {
                place.answered(Event::Presence(Read::Known(there)), effect);
            }
            Answer::Prepared { there: true, given } => {
                place.keeps(given);
                place.answered(Event::Prepared, effect);
            }
            Answer::Prepared { there: false, .. } => {
                place.answered(Event::CannotRestore { never: false }, effect);
            }
            Answer::Restored { fails } => place.restored(fails, effect),
            Answer::Receives(nonce) => place.agent_receives(setting, nonce, effect),
            Answer::Checkpoint(outcome, point, nonce) => {
                place.checkpoint(setting, outcome, point, nonce, effect);
            }
            Answer::Look { old } => place.look(setting, old, effect),
            Answer::Sandbox(life) => place.sandbox(setting, life),
            Answer::Shift => *place = tidy::shifted(place),
            Answer::Forced => place.forced_away(),
            Answer::Excused => place.ex = true,
            Answer::Outrun => place.outrun(),
            Answer::TooOld => place.too_old(effect),
        }
    }
}

fn affordable(world: &World, cost: Budget) -> bool {
    cost == Budget::Free || world.budgets[cost as usize] > 0
}

fn spent(world: &World, cost: Budget) -> World {
    let mut to = *world;
    if cost != Budget::Free {
        to.budgets[cost as usize] -= 1;
    }
    to
}

/// All rules hold.
pub(super) fn sound(scenario: &Scenario) -> Setting {
    let Scenario { force, asks_anew, eager, begun, .. } = *scenario;
    let (fence_on_disk, fresh_lives, own_request) = (true, true, true);
    // Nobody can ask by name for a lineage of which nothing was said before it began.
    let begins = begun;
    Setting {
        rules: Rules::ALL,
        fence_on_disk,
        fresh_lives,
        force,
        asks_anew,
        begins,
        own_request,
        eager,
    }
}
