//! Breadth first, so each counterexample is a shortest one; then P3 backwards over the fair steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::intern::Found;
use super::properties::{broken, good};
use super::world::{Explorer, Label, Packed, World};

/// What a search found.
pub(super) struct Report {
    pub states: usize,
    pub took: Duration,
    /// Everything was seen.
    pub complete: bool,
    /// Broken property → shortest way there.
    pub found: BTreeMap<&'static str, Vec<String>>,
    /// Distinct places and entries, for the curious.
    pub sizes: (usize, usize),
}

/// How far to look.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub states: usize,
    /// Stop at the first broken property that begins with one of these.
    pub until: &'static [&'static str],
    /// Look for P3 as well.
    pub liveness: bool,
    /// Also see what comes after a broken P4: the harm behind it.
    pub through_p4: bool,
}

struct Search<'a> {
    explorer: &'a mut Explorer,
    found: Found<Packed>,
    parent: Vec<(u32, Label)>,
    goal: Vec<bool>,
    fair: Vec<(u32, u32)>,
    broken: BTreeMap<&'static str, Vec<String>>,
    /// Broken states: nothing is asked behind them.
    dead: BTreeSet<u32>,
}

pub(super) fn explore(explorer: &mut Explorer, start: World, limits: Limits) -> Report {
    let begun = Instant::now();
    let goal = vec![good(explorer, &start)];
    let mut found = Found::new();
    found.insert(explorer.pack(&start));
    let parent = vec![(u32::MAX, Label::Tick)];
    let (fair, broken) = (Vec::new(), BTreeMap::new());
    let mut search = Search { explorer, found, parent, goal, fair, broken, dead: BTreeSet::new() };
    let complete = search.forward(limits);
    if limits.liveness && complete {
        search.backward();
    }
    Report {
        states: search.found.states.len(),
        took: begun.elapsed(),
        complete,
        sizes: search.explorer.sizes(),
        found: search.broken,
    }
}

impl Search<'_> {
    fn forward(&mut self, limits: Limits) -> bool {
        let mut complete = true;
        let mut at = 0;
        while at < self.found.states.len() {
            let world = self.explorer.unpack(self.found.states[at]);
            for step in self.explorer.steps(&world) {
                if let Some(what) = step.breaks {
                    self.note(what, at, step.label);
                    if stops(limits, what) {
                        return false;
                    }
                    if !limits.through_p4 {
                        continue;
                    }
                }
                if self.found.states.len() >= limits.states {
                    complete = false;
                    continue;
                }
                let (to, new) = self.found.insert(self.explorer.pack(&step.to));
                if new {
                    self.parent.push((at as u32, step.label));
                    self.goal.push(good(self.explorer, &step.to));
                    if let Some(what) = broken(self.explorer, &step.to) {
                        self.note(what, at, step.label);
                        if stops(limits, what) {
                            return false;
                        }
                        // What comes after a broken state says nothing: a dead end that counts as good.
                        self.goal[to as usize] = true;
                        self.dead.insert(to);
                    }
                }
                if step.fair && limits.liveness {
                    self.fair.push((at as u32, to));
                }
            }
            at += 1;
            if at % 200_000 == 0 {
                let (seen, (places, entries)) = (self.found.states.len(), self.explorer.sizes());
                eprintln!("  {at} of {seen} states, {places} places, {entries} entries");
            }
            while self.dead.contains(&(at as u32)) {
                at += 1;
            }
        }
        complete
    }

    fn note(&mut self, what: &'static str, at: usize, label: Label) {
        if !self.broken.contains_key(what) {
            let mut way = self.way(at);
            way.push(self.explorer.label(label));
            self.broken.insert(what, way);
        }
    }

    fn way(&self, mut at: usize) -> Vec<String> {
        let mut way = Vec::new();
        while self.parent[at].0 != u32::MAX {
            way.push(self.explorer.label(self.parent[at].1));
            at = self.parent[at].0 as usize;
        }
        way.reverse();
        way
    }

    /// Can every state reach a good one by fair steps alone?
    fn backward(&mut self) {
        let count = self.found.states.len();
        let mut head = vec![0_u32; count + 1];
        for (_, to) in &self.fair {
            head[*to as usize + 1] += 1;
        }
        for at in 0..count {
            head[at + 1] += head[at];
        }
        let mut next = head.clone();
        let mut back = vec![0_u32; self.fair.len()];
        for (from, to) in &self.fair {
            back[next[*to as usize] as usize] = *from;
            next[*to as usize] += 1;
        }
        let mut well = self.goal.clone();
        let mut todo: Vec<usize> = (0..count).filter(|at| well[*at]).collect();
        while let Some(at) = todo.pop() {
            for from in &back[head[at] as usize..head[at + 1] as usize] {
                if !well[*from as usize] {
                    well[*from as usize] = true;
                    todo.push(*from as usize);
                }
            }
        }
        if let Some(stuck) = well.iter().position(|well| !well) {
            let way = self.way(stuck);
            self.broken.insert("P3 stuck: no fair way to a running owner or an end", way);
        }
    }
}

fn stops(limits: Limits, what: &str) -> bool {
    limits.until.iter().any(|until| what.starts_with(until))
}
