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
    table: Vec<u32>,
}

impl<S: Eq + Hash + Copy> Found<S> {
    pub(super) fn new() -> Self {
        Self { states: Vec::new(), table: vec![u32::MAX; 1 << 12] }
    }

    /// Its number, and whether it is new.
    pub(super) fn insert(&mut self, state: S) -> (u32, bool) {
        if self.states.len() * 2 > self.table.len() {
            self.grow();
        }
        let at = self.place(&state);
        if self.table[at] != u32::MAX {
            return (self.table[at], false);
        }
        let id = self.states.len() as u32;
        self.table[at] = id;
        self.states.push(state);
        (id, true)
    }

    fn place(&self, state: &S) -> usize {
        let mut hasher = Fast::default();
        state.hash(&mut hasher);
        let mask = self.table.len() - 1;
        let mut at = hasher.finish() as usize & mask;
        while self.table[at] != u32::MAX && self.states[self.table[at] as usize] != *state {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        self.table = vec![u32::MAX; self.table.len() * 2];
        for id in 0..self.states.len() {
            let at = self.place(&self.states[id]);
            self.table[at] = id as u32;
        }
    }
}
