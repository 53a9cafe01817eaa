//! Collectors at work on checkpoints without an entry.

use super::super::ids;
use super::{Explorer, Label, Manifest, NONE, Point, Step, World};
use crate::machine::Read;
use crate::rules::Rule;
use crate::sweep::{Action, Event, Sweep, Tombstone};

/// A collector between two steps.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Sweeping {
    machine: Sweep,
    asked: Action,
}

impl Explorer {
    pub(super) fn sweep(&mut self, world: &World, slot: usize, steps: &mut Vec<Step>) {
        if world.sweeps[slot] == NONE {
            for (index, point) in world.points.iter().enumerate() {
                self.sweep_begins(world, slot, index, *point, steps);
            }
            return;
        }
        let mut to = *world;
        let asked = self.sweepings.get(world.sweeps[slot]).asked;
        let (event, fair) = carry_out(&mut to, asked);
        let (next, text) = self.swept(world.sweeps[slot], event);
        to.sweeps[slot] = next;
        let to = self.tidy(to);
        steps.push(Step { label: Label::Sweep(slot as u8, text), fair, to, breaks: None });
    }

    fn swept(&mut self, id: u32, event: Event) -> (u32, u32) {
        let key = (id, event);
        if let Some(known) = self.swept.get(&key) {
            return *known;
        }
        let Sweeping { mut machine, asked } = (**self.sweepings.get(id)).clone();
        let text = self.labels.id(format!("{asked:?} → {event:?}"));
        let next = machine.step(event);
        let result = (self.sweeping(machine, next), text);
        self.swept.insert(key, result);
        result
    }

    fn sweep_begins(
        &mut self,
        world: &World,
        slot: usize,
        index: usize,
        point: Point,
        steps: &mut Vec<Step>,
    ) {
        let found = match point.manifest {
            Manifest::Yes => Tombstone::None,
            Manifest::Tombstone if self.sweepers > 1 => Tombstone::Fresh,
            _ => return,
        };
        // A candidate is a manifest without an entry. Without its rule the machine's own look at the log is that look.
        let listed = !point.entry || found == Tombstone::Fresh;
        if point.age < 2 || !listed && self.setting.rules.hold(Rule::TombstoneFirst) {
            return;
        }
        let mut machine = Sweep::under(self.setting.rules, ids::point(index as u8), found);
        let asked = machine.step(Event::Begin);
        let mut to = *world;
        to.sweeps[slot] = self.sweeping(machine, asked);
        if to.sweeps[slot] != NONE {
            let text = self.labels.id(format!("c{index} is a candidate"));
            self.unfair(Label::Sweep(slot as u8, text), to, steps);
        }
    }

    fn sweeping(&mut self, machine: Sweep, mut asked: Vec<Action>) -> u32 {
        match asked.pop() {
            None | Some(Action::Finished(_)) => NONE,
            Some(asked) => self.sweepings.id(Sweeping { machine, asked }),
        }
    }
}

/// Does it; the first steps of a sweep are not fair, its end is.
fn carry_out(to: &mut World, asked: Action) -> (Event, bool) {
    match asked {
        Action::PutTombstone(point) => {
            let point = &mut to.points[ids::index(point) as usize];
            let created = point.manifest == Manifest::Yes;
            if created {
                point.manifest = Manifest::Tombstone;
            }
            (Event::Tombstone(Read::Known(created)), false)
        }
        Action::ReadLog(point) => {
            let named = to.points[ids::index(point) as usize].entry;
            let decided = to.points[ids::index(point) as usize].manifest == Manifest::Tombstone;
            (Event::Named(Read::Known(named)), decided)
        }
        Action::Withdraw(point) => {
            let point = &mut to.points[ids::index(point) as usize];
            if point.manifest == Manifest::Tombstone {
                point.manifest = Manifest::Yes;
            }
            (Event::Done(true), true)
        }
        Action::Delete(point) => {
            to.points[ids::index(point) as usize].manifest = Manifest::Gone;
            (Event::Done(true), true)
        }
        Action::Finished(_) => unreachable!("a finished sweep asks nothing"),
    }
}
