//! Big values once, small numbers for them: what makes millions of states fit.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;

/// A fast hash for small keys; nothing here is hostile.
#[derive(Default, Clone, Copy)]
pub(super) struct Fast(u64);

impl Hasher for Fast {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Fast>>;

/// Values by number.
pub(super) struct Interned<T: Eq + Hash> {
    ids: FastMap<Rc<T>, u32>,
    values: Vec<Rc<T>>,
}

impl<T: Eq + Hash> Default for Interned<T> {
    fn default() -> Self {
        Self { ids: FastMap::default(), values: Vec::new() }
    }
}

impl<T: Eq + Hash> Interned<T> {
    pub(super) fn id(&mut self, value: T) -> u32 {
        if let Some(id) = self.ids.get(&value) {
            return *id;
        }
        let (id, value) = (self.values.len() as u32, Rc::new(value));
        self.ids.insert(value.clone(), id);
        self.values.push(value);
        id
    }

    pub(super) fn get(&self, id: u32) -> &Rc<T> {
        &self.values[id as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

/// A set of states in the order in which they were found; each state is kept once.
pub(super) struct Found<S> {
    pub(super) states: Vec<S>,
    /// A part of the hash, and the number; so that few states are looked at.
    table: Vec<(u32, u32)>,
}

const FREE: (u32, u32) = (0, u32::MAX);

impl<S: Eq + Hash + Copy> Found<S> {
    pub(super) fn new() -> Self {
        Self { states: Vec::new(), table: vec![FREE; 1 << 12] }
    }

    /// Its number, and whether it is new.
    pub(super) fn insert(&mut self, state: S) -> (u32, bool) {
        if self.states.len() * 2 > self.table.len() {
            self.grow();
        }
        let hash = hash(&state);
        let mut at = self.home(hash);
        while self.table[at] != FREE {
            let (tag, id) = self.table[at];
            if tag == hash as u32 && self.states[id as usize] == state {
                return (id, false);
            }
            at = self.after(at);
        }
        let id = self.states.len() as u32;
        self.table[at] = (hash as u32, id);
        self.states.push(state);
        (id, true)
    }

    fn home(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.table.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.table.len() - 1)
    }

    fn grow(&mut self) {
        self.table = vec![FREE; self.table.len() * 2];
        for id in 0..self.states.len() {
            let hash = hash(&self.states[id]);
            let mut at = self.home(hash);
            while self.table[at] != FREE {
                at = self.after(at);
            }
            self.table[at] = (hash as u32, id as u32);
        }
    }
}

fn hash(state: &impl Hash) -> u64 {
    let mut hasher = Fast::default();
    state.hash(&mut hasher);
    // Its best bits are the upper ones, and there are fewer of them than states.
    let hash = hasher.finish();
    (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
