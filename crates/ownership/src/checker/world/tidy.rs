//! One form for equal situations: positions relative to the newest entry, numbers used again, what nobody compares left out.

use godwit_types::{Generation, Seq};

use super::super::ids::{self, Refs};
use super::super::place::Place;
use super::{Answer, Explorer, NONE, World};
use crate::state::Kind;
use crate::{Entry, State};

impl Explorer {
    pub(super) fn tidy(&mut self, mut to: World) -> World {
        self.make_sandboxes(&mut to);
        let refs = self.referred(&to);
        for (back, old) in to.tail.iter_mut().enumerate() {
            let seq = Seq(ids::NEWEST - 1 - back as u64);
            if *old != NONE && !refs.reads(seq) {
                *old = NONE;
            }
        }
        if self.entry_refs(to.newest).nonces & refs.nonces == 0 {
            to.newest = self.plain(to.newest, false);
        }
        for old in to.tail.iter_mut().filter(|old| **old != NONE) {
            if self.entry_refs(*old).nonces & refs.nonces == 0 {
                *old = self.plain(*old, true);
            }
        }
        to
    }

    /// kubelet makes the next sandbox when it likes: nothing can tell when it did.
    fn make_sandboxes(&mut self, to: &mut World) {
        for n in 0..self.nodes {
            let place = self.places.get(to.places[n]).clone();
            if place.up && place.pod && place.shim.is_none() && place.link.is_none() {
                let life = self.free_life(to, &place);
                to.places[n] = self.answer(to.places[n], Answer::Sandbox(life)).0;
            }
        }
    }

    /// The entry without what nobody compares any more; of an old one nobody reads even the state.
    fn plain(&mut self, id: u32, old: bool) -> u32 {
        if let Some(plain) = self.plain.get(&(id, old)) {
            return *plain;
        }
        let entry = (**self.entries.get(id)).clone();
        let state = if old { State::Empty } else { entry.state.clone() };
        let by = state.owner().cloned().unwrap_or_else(|| ids::owner(0, 0));
        let (nonce, kind, generation) = (0.into(), Kind::Reclaim, Generation(0));
        let plain =
            self.entries.id(Entry { nonce, op: None, kind, state, by, generation, ..entry });
        self.plain.insert((id, old), plain);
        plain
    }

    fn referred(&mut self, world: &World) -> Refs {
        (0..self.nodes).fold(Refs::default(), |refs, n| refs.and(self.place_refs(world.places[n])))
    }

    fn place_refs(&mut self, id: u32) -> Refs {
        let index = id as usize;
        if self.refs.len() <= index {
            self.refs.resize(index + 1, None);
        }
        if let Some(refs) = self.refs[index] {
            return refs;
        }
        let value = serde_json::to_value(&**self.places.get(id)).expect("a place is JSON");
        let refs = Refs::of(&value);
        self.refs[index] = Some(refs);
        refs
    }

    fn entry_refs(&mut self, id: u32) -> Refs {
        let index = id as usize;
        if self.entry_refs.len() <= index {
            self.entry_refs.resize(index + 1, None);
        }
        if let Some(refs) = self.entry_refs[index] {
            return refs;
        }
        let value = serde_json::to_value(&**self.entries.get(id)).expect("an entry is JSON");
        let refs = Refs::of(&value);
        self.entry_refs[index] = Some(refs);
        refs
    }

    fn all_refs(&mut self, world: &World) -> Refs {
        let mut refs = self.referred(world);
        let entries = [world.newest].into_iter().chain(world.tail).chain(world.flight);
        for id in entries.filter(|id| *id != NONE) {
            refs = refs.and(self.entry_refs(id));
        }
        refs
    }

    pub(super) fn free_nonce(&mut self, world: &World, place: u8) -> u8 {
        let refs = self.all_refs(world);
        (0..ids::KEEPER_NONCE).find(|k| !refs.has_nonce(place, *k)).expect("too few nonces")
    }

    fn free_life(&mut self, world: &World, place: &Place) -> u8 {
        if let (false, Some(fence)) = (self.setting.fresh_lives, &place.fence) {
            let same = |life: &u8| ids::incarnation(place.n, *life) == fence.incarnation;
            return (0..ids::LIVES).find(same).expect("a life of this place");
        }
        let refs = self.all_refs(world);
        let orphan = place.orphan.map(|orphan| orphan.life);
        let free = |life: &u8| !refs.has_life(place.n, *life) && orphan != Some(*life);
        (0..ids::LIVES).find(free).expect("too few lives")
    }
}

/// The same after a new entry has become the newest: every position is one further back.
pub(super) fn shifted(place: &Place) -> Place {
    let mut value = serde_json::to_value(place).expect("a place is JSON");
    ids::shift(&mut value);
    serde_json::from_value(value).expect("it was a place")
}
