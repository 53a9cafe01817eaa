//! The kernel as a model: threads change mappings, their events arrive when the scheduler likes, and the space must still know every
//! page.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::layout::tests::layout;

/// Content of a mapped page: the page of the checkpoint that belongs there and is not there yet, or anything else.
type Page = Option<u64>;

/// An address space and its counter of changes.
#[derive(Clone, Default)]
struct Mm {
    pages: BTreeMap<u64, Page>,
    changing: u32,
    /// Freed since it was seen to be quiet.
    freed: BTreeSet<u64>,
}

impl Mm {
    fn free(&mut self, page: u64) -> Option<Page> {
        self.freed.insert(page);
        self.pages.remove(&page)
    }
}

#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Mm>>);

impl Memory for Kernel {
    fn probe(&self, page: u64) -> Probed {
        let mm = self.0.lock().unwrap();
        match mm.changing {
            0 if mm.pages.contains_key(&page) => Probed::Registered,
            0 => Probed::Absent,
            _ => Probed::Changing,
        }
    }
}

/// What a thread of the process is at.
enum Thread {
    Idle,
    /// Done under the lock of the address space, event not queued yet.
    Did(Event),
    /// Queued, not read.
    Waits,
    /// Read; the thread has not run since.
    Read(Event),
}

#[derive(Clone)]
enum Event {
    Remove(Range<u64>),
    Unmap(Range<u64>),
    /// From, to, how many pages; and how many more appear behind the target, of which the kernel tells nothing.
    Remap(u64, u64, u64, u64),
    /// The second event of a move.
    Echo(Range<u64>),
    Fork(Kernel),
}

struct Child {
    kernel: Kernel,
    space: Option<Space>,
    either: Vec<Range<u64>>,
}

impl Event {
    /// Pages that no other thread can know, or may touch, before the call has returned.
    fn in_use(&self) -> Range<u64> {
        match self {
            Self::Remove(range) => range.clone(),
            Self::Remap(_, to, len, more) => *to..to + len + more,
            Self::Unmap(_) | Self::Echo(_) | Self::Fork(_) => 0..0,
        }
    }

    fn discards(&self) -> Option<Range<u64>> {
        if let Self::Remove(range) = self { Some(range.clone()) } else { None }
    }
}

const PAGES: u64 = 96;

/// Onto which pages mappings grow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grows {
    Never,
    /// Not onto those that were freed since it was last seen to be quiet.
    Calmly,
    Anywhere,
}

struct World {
    rng: SmallRng,
    grows: Grows,
    kernel: Kernel,
    threads: Vec<Thread>,
    queue: VecDeque<(usize, Event)>,
    space: Space,
    children: Vec<Child>,
    /// Forks of which the event was not read, and what was discarded meanwhile: in the child it may be there or not.
    forking: Vec<(Kernel, Vec<Range<u64>>)>,
}

impl World {
    fn new(seed: u64, threads: usize, grows: Grows) -> Self {
        let pages = (0..PAGES).map(|p| (p, Some(p))).collect();
        let kernel = Kernel(Arc::new(Mutex::new(Mm { pages, ..Mm::default() })));
        let runs: Vec<_> = (0..PAGES / 8).map(|f| (f * 8, 8, 0, f as u32, 0)).collect();
        Self {
            rng: SmallRng::seed_from_u64(seed),
            grows,
            kernel,
            threads: (0..threads).map(|_| Thread::Idle).collect(),
            queue: VecDeque::new(),
            space: Space::new(Arc::new(layout(&runs))),
            children: Vec::new(),
            forking: Vec::new(),
        }
    }

    /// A run of mapped pages that no other thread is busy with, as long as asked for at most.
    fn mapped(&mut self) -> Option<Range<u64>> {
        let mm = self.kernel.0.lock().unwrap();
        let keys: Vec<u64> = mm.pages.keys().copied().collect();
        let start = *keys.get(self.rng.random_range(0..keys.len().max(1)))?;
        let want = self.rng.random_range(1..12);
        let mut end = start;
        while end - start < want && mm.pages.contains_key(&end) {
            end += 1;
        }
        let overlaps = |r: &Range<u64>| r.start < end && start < r.end;
        let busy = self.threads.iter().any(|t| match t {
            Thread::Did(event) => overlaps(&event.in_use()),
            Thread::Read(event) => overlaps(&event.in_use()),
            Thread::Idle | Thread::Waits => false,
        }) || self.queue.iter().any(|(_, event)| overlaps(&event.in_use()));
        (!busy).then_some(start..end)
    }

    /// Free addresses, as the kernel would choose them: often those that were freed just now.
    fn free(&mut self, len: u64) -> Option<u64> {
        let mm = self.kernel.0.lock().unwrap();
        let fits = |at: &u64| (*at..at + len).all(|p| !mm.pages.contains_key(&p));
        let all: Vec<u64> = (0..PAGES + 64).filter(fits).collect();
        (!all.is_empty()).then(|| all[self.rng.random_range(0..all.len().min(12))])
    }

    /// An idle thread does something.
    fn act(&mut self, thread: usize) {
        let Some(range) = self.mapped() else { return };
        let len = range.end - range.start;
        let event = match self.rng.random_range(0..11) {
            0..3 => Event::Unmap(range.clone()),
            3..7 => {
                let Some(to) = self.free(len) else { return };
                let more = if self.rng.random_bool(0.5) { self.room(to + len).count() } else { 0 };
                Event::Remap(range.start, to, len, more as u64)
            }
            7..9 => Event::Remove(range.clone()),
            9 => return self.grow(range.end),
            _ if self.children.len() < 6 => Event::Fork(Kernel::default()),
            _ => return,
        };
        let mut mm = self.kernel.0.lock().unwrap();
        mm.changing += if matches!(event, Event::Remap(..)) { 2 } else { 1 };
        match &event {
            Event::Echo(_) => {}
            Event::Unmap(r) => r.clone().for_each(|page| {
                mm.free(page);
            }),
            Event::Remap(from, to, len, more) => {
                let moved = (0..*len).map(|i| mm.free(from + i).unwrap());
                let moved: Vec<Page> = moved.chain((0..*more).map(|_| None)).collect();
                mm.pages.extend(moved.into_iter().enumerate().map(|(i, p)| (to + i as u64, p)));
            }
            Event::Remove(r) => {
                self.forking.iter_mut().for_each(|(_, either)| either.push(r.clone()))
            }
            Event::Fork(child) => {
                let busy = self.threads.iter().filter_map(|t| match t {
                    Thread::Did(event) | Thread::Read(event) => event.discards(),
                    Thread::Idle | Thread::Waits => None,
                });
                let queued = self.queue.iter().filter_map(|(_, event)| event.discards());
                self.forking.push((child.clone(), busy.chain(queued).collect()));
                *child.0.lock().unwrap() = Mm { pages: mm.pages.clone(), ..Mm::default() };
            }
        }
        drop(mm);
        self.threads[thread] = Thread::Did(event);
    }

    /// Pages from here on that a mapping may grow onto.
    fn room(&self, at: u64) -> std::vec::IntoIter<u64> {
        let mm = self.kernel.0.lock().unwrap();
        let may = |page: &u64| match self.grows {
            Grows::Never => false,
            Grows::Calmly => !mm.pages.contains_key(page) && !mm.freed.contains(page),
            Grows::Anywhere => !mm.pages.contains_key(page),
        };
        let room: Vec<u64> = (at..at + 3).take_while(may).collect();
        room.into_iter()
    }

    /// A mapping becomes longer where it is: nobody is told.
    fn grow(&mut self, at: u64) {
        let room = self.room(at).map(|page| (page, None));
        self.kernel.0.lock().unwrap().pages.extend(room);
    }

    fn step_thread(&mut self, thread: usize) {
        match std::mem::replace(&mut self.threads[thread], Thread::Waits) {
            Thread::Idle => {
                self.threads[thread] = Thread::Idle;
                self.act(thread);
            }
            Thread::Did(event) => self.queue.push_back((thread, event)),
            Thread::Waits => {}
            Thread::Read(Event::Remap(from, _, len, _)) => {
                self.threads[thread] = Thread::Did(Event::Echo(from..from + len));
                self.kernel.0.lock().unwrap().changing -= 1;
            }
            Thread::Read(event) => {
                let mut mm = self.kernel.0.lock().unwrap();
                mm.changing -= 1;
                for page in event.discards().into_iter().flatten() {
                    mm.pages.entry(page).and_modify(|p| *p = None);
                }
                drop(mm);
                self.threads[thread] = Thread::Idle;
            }
        }
    }

    /// The event loop reads one event.
    fn read(&mut self) {
        if self.queue.len() > 1 {
            self.space.many_at_once();
        }
        let Some((thread, event)) = self.queue.pop_front() else { return };
        self.threads[thread] = Thread::Read(event.clone());
        let change = match event {
            Event::Remove(r) => Change::Remove(r),
            Event::Unmap(r) | Event::Echo(r) => Change::Unmap(r),
            Event::Remap(from, to, len, _) => Change::Remap { from, to, len },
            Event::Fork(child) => {
                let at =
                    self.forking.iter().position(|(k, _)| Arc::ptr_eq(&k.0, &child.0)).unwrap();
                let either = self.forking.swap_remove(at).1;
                self.children.push(Child { kernel: child.clone(), space: None, either });
                Change::Fork(Unborn { id: self.children.len() as u64 - 1, memory: Arc::new(child) })
            }
        };
        self.space.change(change);
    }

    fn settle(&mut self) {
        let mut born = Vec::new();
        let settled = self.space.try_settle(&self.kernel.clone(), &mut born) == Settled::Yes;
        let mut mm = self.kernel.0.lock().unwrap();
        if settled && mm.changing == 0 {
            mm.freed.clear();
        }
        drop(mm);
        for b in born {
            self.children[b.id as usize].space = Some(b.space);
        }
    }

    /// A worker places some frame, if the kernel lets it.
    fn place(&mut self) -> Result<(), String> {
        if !self.space.is_settled() || self.kernel.probe(0) == Probed::Changing {
            return Ok(());
        }
        let frame = self.rng.random_range(0..PAGES as u32 / 8);
        for place in self.space.places(frame) {
            for i in 0..place.count {
                let mut mm = self.kernel.0.lock().unwrap();
                if let Some(page) = mm.pages.get_mut(&(place.here + i)) {
                    let origin = u64::from(frame) * 8 + place.offset + i;
                    if *page != Some(origin) {
                        return Err(format!("page {} gets a wrong page", place.here + i));
                    }
                    *page = None;
                }
                drop(mm);
                self.space.settle(&place, place.here + i, 1);
            }
        }
        Ok(())
    }

    fn run(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            match self.rng.random_range(0..10) {
                0..5 => {
                    let thread = self.rng.random_range(0..self.threads.len());
                    self.step_thread(thread);
                }
                5..7 => self.read(),
                7..9 => self.settle(),
                _ => self.place()?,
            }
        }
        // Everybody finishes what they began.
        while self.threads.iter().any(|t| !matches!(t, Thread::Idle)) {
            for thread in 0..self.threads.len() {
                if !matches!(self.threads[thread], Thread::Idle) {
                    self.step_thread(thread);
                }
            }
            self.read();
        }
        self.settle();
        assert!(self.space.is_settled());
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        agrees("the process", &self.space, &self.kernel, &[])?;
        self.children.iter().enumerate().try_for_each(|(i, child)| {
            let space = child.space.as_ref().unwrap();
            agrees(&format!("child {i}"), space, &child.kernel, &child.either)
        })
    }
}

/// Every mapped page is known for what it is.
fn agrees(who: &str, space: &Space, kernel: &Kernel, either: &[Range<u64>]) -> Result<(), String> {
    for (here, page) in &kernel.0.lock().unwrap().pages {
        let known = space.lookup(*here).map(|r| r.first);
        let discarded = known.is_none() && either.iter().any(|r| r.contains(here));
        if known != *page && !discarded {
            return Err(format!("{who}, page {here}: {known:?}, not {page:?}"));
        }
    }
    Ok(())
}

/// Runs many worlds; whatever went wrong in any of them.
fn wrongs(threads: usize, grows: Grows) -> Vec<String> {
    let wrong = |seed| {
        let mut world = World::new(seed, threads, grows);
        let ended = world.run(150).and_then(|()| world.check());
        ended.err().map(|wrong| format!("seed {seed}, {wrong}"))
    };
    (0..3000).filter_map(wrong).collect()
}

#[test]
fn one_thread_is_always_followed_whatever_the_timing() {
    assert_eq!(wrongs(1, Grows::Anywhere), [""; 0]);
}

#[test]
fn two_threads_whose_events_arrive_in_the_wrong_order_lose_no_page() {
    assert_eq!(wrongs(2, Grows::Never), [""; 0]);
}

#[test]
fn two_threads_whose_mappings_grow_lose_no_page() {
    assert_eq!(wrongs(2, Grows::Calmly), [""; 0]);
}

/// A process whose threads never pause.
struct Restless;

impl Memory for Restless {
    fn probe(&self, _: u64) -> Probed {
        Probed::Changing
    }
}

/// More changes than may wait, in a process that never pauses.
fn restless(threads: usize, changes: impl Fn(u64) -> Change) -> (Space, Settled) {
    let runs: Vec<_> = (0..128).map(|f| (f * 8, 8, 0, f as u32, 0)).collect();
    let mut space = Space::new(Arc::new(layout(&runs)));
    if threads > 1 {
        space.many_at_once();
    }
    let mut settled = Settled::NotYet;
    for n in 0..600 {
        space.change(changes(n));
        settled = space.try_settle(&Restless, &mut Vec::new());
        if settled != Settled::NotYet {
            break;
        }
    }
    (space, settled)
}

#[test]
fn the_order_of_events_is_believed_without_a_pause_only_if_no_other_is_possible() {
    let unmap = |n| Change::Unmap(n..n + 1);
    let (space, settled) = restless(2, unmap);
    assert_eq!((settled, space.missing()), (Settled::Yes, 1024 - 513));

    // Back and forth.
    let remap = |n: u64| match n % 2 {
        0 => Change::Remap { from: 0, to: 2000, len: 1 },
        _ => Change::Remap { from: 2000, to: 0, len: 1 },
    };
    let (space, settled) = restless(1, remap);
    assert_eq!((settled, space.lookup(2000).unwrap().first), (Settled::Yes, 0), "one thread");
    let (_, settled) = restless(2, remap);
    assert_eq!(settled, Settled::Never);
}
