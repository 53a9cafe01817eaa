//! The store: create-only slots, PUTs that are late or lost, time.

use godwit_types::{Generation, Seq};

use super::super::ids;
use super::super::place::Place;
use super::{
    Answer, Budget, Explorer, Label, Manifest, NONE, Point, Step, World, affordable, spent,
};
use crate::machine::{self, Presence, Put};
use crate::state::{Kind, State, Word};

/// What an entry does when it gets its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Appended {
    /// The entry as the newest one.
    newest: u32,
    /// By force, by this node.
    forced_by: Option<char>,
    /// Its writer gives up whatever the owner has.
    gives_up: bool,
    /// The point that it commits.
    commits: Option<u8>,
}

impl Explorer {
    /// What a place waits for.
    pub(super) fn questions(
        &mut self,
        world: &World,
        n: usize,
        place: &Place,
        steps: &mut Vec<Step>,
    ) {
        if let Some(link) = &place.link
            && link.agent_open
            && place.agent
            && (!link.to_agent.is_empty() || !link.shim_open)
        {
            let nonce = if place.task.is_none() { self.free_nonce(world, n as u8) } else { 0 };
            self.answered(world, n, Answer::Receives(nonce), true, Budget::Free, steps);
        }
        let Some(ask) = place.task.as_ref().and_then(|task| task.ask.as_ref()) else { return };
        let point = |point| world.points[ids::index(point) as usize];
        let answer = match ask {
            machine::Action::ReadNewest => {
                if affordable(world, Budget::Away) {
                    self.answered(world, n, Answer::Newest(NONE), false, Budget::Away, steps);
                }
                Answer::Newest(world.newest)
            }
            machine::Action::ReadSlot(seq) => Answer::Slot(found(world, *seq)),
            machine::Action::Check(checkpoint) => Answer::Presence(presence(point(*checkpoint))),
            machine::Action::Prepare(checkpoint) => {
                let there = presence(point(*checkpoint)) != Presence::Gone;
                let given = match self.newest(world).state {
                    State::Offered { checkpoint: given, .. }
                    | State::Stopped { checkpoint: given, .. } => given == *checkpoint,
                    _ => false,
                };
                Answer::Prepared { there, given }
            }
            machine::Action::Put(_) => return self.put(world, n, steps),
            _ => unreachable!("not a question"),
        };
        self.answered(world, n, answer, true, Budget::Free, steps);
    }

    /// The entry that a place PUTs.
    pub(super) fn asked(&mut self, place: u32) -> Option<u32> {
        if let Some(id) = self.asked.get(&place) {
            return *id;
        }
        let put = self.places.get(place).put_in_progress().cloned();
        let id = put.map(|put| self.entries.id(put));
        self.asked.insert(place, id);
        id
    }

    fn put(&mut self, world: &World, n: usize, steps: &mut Vec<Step>) {
        let Some(id) = self.asked(world.places[n]) else { return };
        let seq = self.entries.get(id).seq.0;
        assert!(seq <= ids::NEWEST + 1, "a PUT beyond the next slot");
        if affordable(world, Budget::Refuse) {
            let refused = spent(world, Budget::Refuse);
            self.put_gives(&refused, n, id, Put::NotWritten, steps);
        }
        if seq <= ids::NEWEST {
            return self.put_gives(world, n, id, Put::Exists, steps);
        }
        let applied = self.append(world, id);
        self.put_gives(&applied, n, id, Put::Created, steps);
        // "Applied, reply lost" is in flight, then landed at once.
        if let Some(flying) = self.flies(world, id) {
            self.put_gives(&flying, n, id, Put::Unknown, steps);
        }
    }

    fn put_gives(&mut self, world: &World, n: usize, entry: u32, put: Put, steps: &mut Vec<Step>) {
        let (place, effect) = self.answer(world.places[n], Answer::Put(put));
        let mut to = *world;
        to.places[n] = place;
        let label = Label::Put(n as u8, entry, put);
        let fair = !matches!(put, Put::Unknown | Put::NotWritten);
        self.arrive(world, n, label, fair, to, effect, steps);
    }

    /// The PUT is still on its way to the store.
    pub(super) fn flies(&self, world: &World, entry: u32) -> Option<World> {
        let full = !world.flight.contains(&NONE);
        let next = self.entries.get(entry).seq.0 == ids::NEWEST + 1;
        if full || !next || world.flight.contains(&entry) {
            return None;
        }
        let mut to = *world;
        // Sorted, and NONE is the largest: the last place is free as long as one is.
        to.flight[1] = entry;
        to.flight.sort_unstable();
        Some(to)
    }

    /// The entry gets the next slot: every other PUT for it is dead.
    fn append(&mut self, world: &World, id: u32) -> World {
        let Appended { newest, forced_by, gives_up, commits } = self.appended(id);
        let mut to = *world;
        to.given_up = gives_up || to.given_up && commits.is_none();
        to.flight = [NONE; 2];
        if let Some(point) = commits {
            to.points[point as usize].entry = true;
        }
        to.tail.rotate_right(1);
        to.tail[0] = world.newest;
        to.tail = to.tail.map(|old| self.moved_down(old));
        to.newest = newest;
        for n in 0..self.nodes {
            let shifted = self.answer(to.places[n], Answer::Shift).0;
            let away = forced_by.is_some_and(|winner| winner != ids::letter(n as u8));
            to.places[n] = if away { self.answer(shifted, Answer::Forced).0 } else { shifted };
        }
        to
    }

    fn appended(&mut self, id: u32) -> Appended {
        if let Some(known) = self.appended.get(&id) {
            return *known;
        }
        let mut entry = (**self.entries.get(id)).clone();
        assert_eq!(entry.seq.0, ids::NEWEST + 1);
        let by_force = |word: &Word| matches!(word, Word::Force { .. });
        let gives_up = matches!(entry.kind, Kind::StartOver { .. });
        let forced = match &entry.kind {
            Kind::TakeOver { word, .. } => by_force(word),
            _ => gives_up,
        };
        let forced_by = entry.by.node.chars().next().filter(|_| forced);
        let commits = entry.commits().map(ids::index);
        entry.seq.0 -= 1;
        entry.generation = Generation(0);
        let newest = self.entries.id(entry);
        let appended = Appended { newest, forced_by, gives_up, commits };
        self.appended.insert(id, appended);
        appended
    }

    fn moved_down(&mut self, id: u32) -> u32 {
        if id == NONE {
            return NONE;
        }
        if let Some(older) = self.older.get(&id) {
            return *older;
        }
        let mut entry = (**self.entries.get(id)).clone();
        entry.seq.0 -= 1;
        let older = self.entries.id(entry);
        self.older.insert(id, older);
        older
    }

    pub(super) fn store_steps(&mut self, world: &World, steps: &mut Vec<Step>) {
        for flying in world.flight.into_iter().filter(|id| *id != NONE) {
            let to = self.append(world, flying);
            self.unfair(Label::Lands(flying), to, steps);
        }
        if affordable(world, Budget::Tick) {
            self.tick(world, steps);
        }
        for slot in 0..self.sweepers {
            self.sweep(world, slot, steps);
        }
    }

    fn tick(&mut self, world: &World, steps: &mut Vec<Step>) {
        let ages = |point: &Point| point.manifest == Manifest::Yes && point.age < 2;
        if !world.points.iter().any(ages) {
            return;
        }
        let mut to = spent(world, Budget::Tick);
        for point in to.points.iter_mut().filter(|point| ages(point)) {
            point.age += 1;
        }
        for n in 0..self.nodes {
            to.places[n] = self.answer(to.places[n], Answer::TooOld).0;
        }
        self.unfair(Label::Tick, to, steps);
    }

    pub(super) fn unfair(&mut self, label: Label, to: World, steps: &mut Vec<Step>) {
        let to = self.tidy(to);
        steps.push(Step { label, fair: false, to, breaks: None });
    }
}

/// What the slot holds.
fn found(world: &World, seq: Seq) -> u32 {
    match ids::NEWEST.checked_sub(seq.0) {
        None => NONE,
        Some(0) => world.newest,
        // An entry from long ago, and of nobody who asks.
        Some(back) if back > super::TAIL as u64 => world.newest,
        Some(back) => {
            let found = world.tail[back as usize - 1];
            assert!(found != NONE, "an old slot was dropped too early");
            found
        }
    }
}

fn presence(point: Point) -> Presence {
    match point.manifest {
        Manifest::Yes => Presence::Exists,
        Manifest::Tombstone => Presence::Doubted,
        Manifest::No | Manifest::Coming | Manifest::Gone => Presence::Gone,
    }
}
