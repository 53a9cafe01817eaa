//! Everything around a hydrator: where frames come from, who keeps descriptors, who waits for news.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "for tests only")]

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use godwit_faults::{
    Delivery, FaultsError, Finished, FrameFailure, FrameSource, GroupId, Handed, Hydrator, Lane,
    Layout, MemoryLimit, Observer, Process, Settings, Totals, Want,
};
use godwit_image::{FrameRef, PackSlot, PageMap, PageRun};
use godwit_testkit::subject::{Spec, Subject};
use godwit_types::{Code, PageNumber, PageRange};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Nothing here takes longer, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(100);

/// How frames come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// At once, in order.
    Prompt,
    /// In any order, some of them later.
    Slow,
    /// Not at all.
    Never,
    /// At once, but this one never.
    Missing(u32),
}

/// When prefetch begins.
#[derive(Clone, Copy)]
pub(crate) enum Begin {
    AtOnce,
    AfterFaults(u64),
    Never,
}

impl Begin {
    pub(crate) fn after(seed: u64) -> Self {
        Self::AfterFaults(seed % 40)
    }
}

/// What the hydrator says.
pub(crate) enum News {
    Finished(u64, Finished),
    Hydrated(Totals),
    Fatal(String),
    Ended(String),
}

pub(crate) struct Outcome {
    pub(crate) verdict: String,
    pub(crate) totals: Totals,
    pub(crate) finished: Vec<(u64, Finished)>,
}

/// The pages of each frame, by source number.
type Frames = HashMap<(u32, FrameRef), (Spec, Vec<u64>)>;
type Request = (Vec<Want>, Lane);

struct Store {
    kind: Source,
    frames: Arc<Mutex<Frames>>,
    requests: Sender<Request>,
    receiver: Mutex<Option<Receiver<Request>>>,
    counts: [AtomicUsize; 2],
    /// Requests, of however many frames.
    calls: [AtomicUsize; 2],
    /// What was asked for, in this order.
    asked: Mutex<Vec<(Lane, FrameRef)>>,
}

impl FrameSource for Store {
    fn start(&self, delivery: Delivery) {
        let clerk = Clerk {
            kind: self.kind,
            frames: Arc::clone(&self.frames),
            requests: self.receiver.lock().unwrap().take().unwrap(),
            delivery,
            rng: SmallRng::seed_from_u64(9),
            waiting: Vec::new(),
        };
        std::thread::spawn(move || clerk.work());
    }

    fn request(&self, wants: &[Want], lane: Lane) {
        self.counts[lane as usize].fetch_add(wants.len(), Ordering::SeqCst);
        self.calls[lane as usize].fetch_add(1, Ordering::SeqCst);
        self.asked.lock().unwrap().extend(wants.iter().map(|want| (lane, want.frame)));
        let _ = self.requests.send((wants.to_vec(), lane));
    }
}

/// Answers requests, one after the other.
struct Clerk {
    kind: Source,
    frames: Arc<Mutex<Frames>>,
    requests: Receiver<Request>,
    delivery: Delivery,
    rng: SmallRng,
    waiting: Vec<(Lane, Want)>,
}

impl Clerk {
    fn work(mut self) {
        loop {
            let patience = match self.waiting.is_empty() {
                true => Duration::from_millis(100),
                // A store that takes its time.
                false if self.kind == Source::Slow => {
                    Duration::from_micros(self.rng.random_range(0..400))
                }
                false => Duration::ZERO,
            };
            match self.requests.recv_timeout(patience) {
                Ok((wants, lane)) => self.take(wants, lane),
                Err(RecvTimeoutError::Timeout) if self.kind != Source::Never => self.answer(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, wants: Vec<Want>, lane: Lane) {
        for want in wants {
            match self.waiting.iter_mut().find(|(_, w)| w.ticket == want.ticket) {
                Some((old, _)) => *old = lane.min(*old),
                None => self.waiting.push((lane, want)),
            }
        }
    }

    fn answer(&mut self) {
        let Some(best) = self.waiting.iter().map(|(lane, _)| *lane).min() else { return };
        let candidates: Vec<usize> =
            (0..self.waiting.len()).filter(|i| self.waiting[*i].0 == best).collect();
        let pick = match self.kind {
            Source::Slow => candidates[self.rng.random_range(0..candidates.len())],
            _ => candidates[0],
        };
        let (_, want) = self.waiting.remove(pick);
        let frames = self.frames.lock().unwrap();
        let (spec, pages) = &frames[&(want.source, want.frame)];
        let bytes: Vec<u8> = pages.iter().flat_map(|p| spec.content(*p)).collect();
        drop(frames);
        let lost = self.kind == Source::Missing(want.frame.frame);
        let failure = FrameFailure { code: Code::Corrupt, reason: "gone for good".to_owned() };
        self.delivery.deliver(want.ticket, if lost { Err(failure) } else { Ok(Box::new(bytes)) });
    }
}

struct Keeper {
    kept: Mutex<HashMap<u64, OwnedFd>>,
    asked: AtomicUsize,
    news: Sender<News>,
}

impl Observer for Keeper {
    fn forked(&self, _parent: u64, child: u64, uffd: BorrowedFd<'_>) -> Handed {
        // Every third time the keeper is busy.
        if self.asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) {
            return Handed::Busy;
        }
        self.kept.lock().unwrap().insert(child, uffd.try_clone_to_owned().unwrap());
        Handed::Kept
    }

    fn finished(&self, descriptor: u64, why: Finished) {
        self.kept.lock().unwrap().remove(&descriptor);
        let _ = self.news.send(News::Finished(descriptor, why));
    }

    fn hydrated(&self, _group: GroupId, totals: Totals) {
        let _ = self.news.send(News::Hydrated(totals));
    }

    fn fatal(&self, _group: Option<GroupId>, error: &FaultsError) {
        let _ = self.news.send(News::Fatal(error.to_string()));
    }
}

pub(crate) struct World {
    pub(crate) hydrator: Hydrator,
    store: Arc<Store>,
    keeper: Arc<Keeper>,
    news: Receiver<News>,
}

impl World {
    pub(crate) fn start(settings: Settings, kind: Source) -> Self {
        let (requests, receiver) = channel();
        let store = Arc::new(Store {
            kind,
            frames: Arc::default(),
            requests,
            receiver: Mutex::new(Some(receiver)),
            counts: Default::default(),
            calls: Default::default(),
            asked: Mutex::default(),
        });
        let (sender, news) = channel();
        let kept = Mutex::default();
        let keeper = Arc::new(Keeper { kept, asked: AtomicUsize::new(0), news: sender });
        let hydrator = Hydrator::start(settings, store.clone(), keeper.clone()).unwrap();
        Self { hydrator, store, keeper, news }
    }

    /// Serves a subject under number 0.
    pub(crate) fn add(
        &self,
        spec: &Spec,
        subject: &Subject,
        limit: Option<MemoryLimit>,
    ) -> GroupId {
        let (map, frames) = captured(spec, &subject.regions);
        let named = frames.into_iter().map(|(frame, pages)| ((0, frame), (*spec, pages)));
        self.store.frames.lock().unwrap().extend(named);
        let group = self.hydrator.add_group(limit);
        let hot = vec![hot(spec, subject)];
        let process = Process { layout: Layout::new(&map).unwrap(), source: 0, hot };
        let process = self.hydrator.add_process(group, process).unwrap();
        let uffd = subject.take_uffd();
        self.keeper.kept.lock().unwrap().insert(0, uffd.try_clone().unwrap());
        self.hydrator.serve(0, process, uffd).unwrap();
        group
    }

    pub(crate) fn calls(&self, lane: Lane) -> usize {
        self.store.calls[lane as usize].load(Ordering::SeqCst)
    }

    /// The frames that were asked for in this lane, in this order.
    pub(crate) fn asked(&self, lane: Lane) -> Vec<FrameRef> {
        let asked = self.store.asked.lock().unwrap();
        asked.iter().filter(|(of, _)| *of == lane).map(|(_, frame)| *frame).collect()
    }

    pub(crate) fn requests(&self, lane: Lane) -> usize {
        self.store.counts[lane as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn wait_until(&self, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition() {
            assert!(Instant::now() < deadline, "it never came true");
            std::thread::yield_now();
        }
    }

    /// The first news that `wanted` takes; what is finished meanwhile is released.
    pub(crate) fn news<T>(&self, wanted: impl Fn(&News) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let news = self.news.recv_timeout(deadline - Instant::now()).expect("news in time");
            let found = wanted(&news);
            if let News::Finished(descriptor, _) = news {
                self.hydrator.release(descriptor);
            }
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// What the subject says within this time.
    pub(crate) fn end_of(&self, subject: Subject, within: Duration) -> Option<String> {
        let (sender, receiver) = channel();
        let pid = subject.pidfd();
        let waiter = std::thread::spawn(move || sender.send(subject.verdict()));
        let verdict = receiver.recv_timeout(within).ok();
        let _ = rustix::process::pidfd_send_signal(pid, rustix::process::Signal::KILL);
        let _ = waiter.join();
        verdict
    }

    /// Waits for the subject's end and for that of its hydration.
    pub(crate) fn finish(self, group: GroupId, subject: Subject, begin: Begin) -> Outcome {
        let pid = subject.pidfd();
        let sender = self.keeper.news.clone();
        let waiter = std::thread::spawn(move || sender.send(News::Ended(subject.verdict())));
        match begin {
            Begin::AtOnce => self.hydrator.begin(group).unwrap(),
            Begin::AfterFaults(n) => {
                let gone = || {
                    rustix::process::pidfd_send_signal(&pid, rustix::process::Signal::URG).is_err()
                };
                self.wait_until(|| gone() || self.hydrator.totals(group).faults >= n);
                self.hydrator.begin(group).unwrap();
            }
            Begin::Never => {}
        }
        let (mut verdict, mut totals, mut finished) = (None, None, Vec::new());
        let deadline = Instant::now() + DEADLINE;
        while verdict.is_none()
            || totals.is_none() && !matches!(begin, Begin::Never)
            || finished.is_empty()
        {
            match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Finished(id, why)) => {
                    finished.push((id, why));
                    self.hydrator.release(id);
                }
                Ok(News::Hydrated(t)) => totals = Some(t),
                Ok(News::Ended(text)) => verdict = Some(text),
                Ok(News::Fatal(why)) => verdict = Some(format!("fatal: {why}")),
                Err(_) => {
                    let _ = rustix::process::pidfd_send_signal(&pid, rustix::process::Signal::KILL);
                    let totals = self.hydrator.totals(group);
                    panic!("it hangs: verdict {verdict:?}, finished {finished:?}, {totals:?}");
                }
            }
        }
        let _ = waiter.join();
        let totals = totals.unwrap_or_else(|| self.hydrator.totals(group));
        Outcome { verdict: verdict.unwrap_or_default(), totals, finished }
    }
}

/// What is served as written last: the end of the first region, whose frames come last in the store.
fn hot(spec: &Spec, subject: &Subject) -> PageRange {
    let first = PageNumber::of_address(subject.regions[0]).0;
    PageRange::new(PageNumber(first + spec.pages - 40), 40)
}

/// The frames of the pages that were written last, in the order of the store, and those of all pages.
pub(crate) fn frames(spec: &Spec, subject: &Subject) -> [Vec<FrameRef>; 2] {
    let (map, all) = captured(spec, &subject.regions);
    let of_run = |run: PageRun| run.source.frame_offset().map(|(frame, _)| frame);
    let hot: BTreeSet<_> = map.runs_within(hot(spec, subject)).filter_map(of_run).collect();
    [hot.into_iter().collect(), all.into_keys().collect::<BTreeSet<_>>().into_iter().collect()]
}

/// A page map of what the subject's regions shall hold, in frames of which some are scattered.
fn captured(spec: &Spec, regions: &[u64]) -> (PageMap, HashMap<FrameRef, Vec<u64>>) {
    let mut rng = SmallRng::seed_from_u64(spec.seed);
    let (mut map, mut frames) = (PageMap::new(), HashMap::new());
    let mut stored: Vec<u64> =
        (0..spec.pages * spec.threads).filter(|page| !spec.is_zero(*page)).collect();
    // A later round of a pre-copy wrote some pages again: out of their order.
    for _ in 0..stored.len() / 64 {
        let (a, b) = (rng.random_range(0..stored.len()), rng.random_range(0..stored.len()));
        stored.swap(a, b);
    }
    let mut rest = stored.as_slice();
    while !rest.is_empty() {
        let number = frames.len() as u32;
        let frame = FrameRef { pack: PackSlot(number / 50), frame: number % 50 };
        let (pages, after) = rest.split_at(rng.random_range(1..=32).min(rest.len()));
        rest = after;
        for (offset, page) in pages.iter().enumerate() {
            let at = regions[(page / spec.pages) as usize] / 4096 + page % spec.pages;
            let range = PageRange::new(PageNumber(at), 1);
            map.insert(PageRun::stored(range, frame, offset as u8));
        }
        frames.insert(frame, pages.to_vec());
    }
    (map, frames)
}
