//! How far an operation is and how long its phases took.
//!
//! One [`Journal`] per operation. It opens a tracing span per phase, tells the watchers, and ends as the `phases` of the
//! report. [`Gauge`] counts bytes within a phase from any thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use godwit_types::{Phase, PhaseTime};
use godwit_wire::api::Progress;
use godwit_wire::failpoint;
use tokio::sync::watch;

/// Bytes done and to be done in the phase that runs.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    total: AtomicU64,
}

impl Gauge {
    /// More bytes are known to be ahead.
    pub fn expect(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes were handled.
    pub fn advance(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes were handled, of so many.
    pub fn set(&self, done: u64, total: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(0, Ordering::Relaxed);
    }

    fn read(&self, phase: Phase) -> Progress {
        let done = self.0.done.load(Ordering::Relaxed);
        Progress { phase, done, total: self.0.total.load(Ordering::Relaxed).max(done) }
    }
}

/// What others can see of an operation in progress.
#[derive(Debug, Clone)]
pub struct Watched {
    phase: watch::Receiver<Option<Phase>>,
    gauge: Gauge,
}

impl Watched {
    /// How far it is; `None` before its first phase.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.phase.borrow().map(|phase| self.gauge.read(phase))
    }

    /// Waits for the next phase; `false` when the operation is over.
    pub async fn changed(&mut self) -> bool {
        self.phase.changed().await.is_ok()
    }
}

/// The phases of one operation.
#[derive(Debug)]
pub struct Journal {
    began: Instant,
    current: Option<(Phase, Instant)>,
    times: Vec<PhaseTime>,
    phase: watch::Sender<Option<Phase>>,
    gauge: Gauge,
}

impl Journal {
    /// An operation begins; the second value is for those who look.
    #[must_use]
    pub fn begin() -> (Self, Watched) {
        let (phase, receiver) = watch::channel(None);
        let gauge = Gauge::default();
        let watched = Watched { phase: receiver, gauge: gauge.clone() };
        let journal =
            Self { began: Instant::now(), current: None, times: Vec::new(), phase, gauge };
        (journal, watched)
    }

    /// The phase that runs ends and this one begins.
    pub fn enter(&mut self, phase: Phase) {
        self.close();
        self.gauge.reset();
        self.current = Some((phase, Instant::now()));
        self.phase.send_replace(Some(phase));
        tracing::info!(phase = phase.name(), "phase begins");
        failpoint::site(&format!("phase-{}", phase.name()));
    }

    /// For one more who looks.
    #[must_use]
    pub fn watched(&self) -> Watched {
        Watched { phase: self.phase.subscribe(), gauge: self.gauge.clone() }
    }

    /// The counter of the phase that runs.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// The phase that runs; `None` before the first.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.current.map(|(phase, _)| phase)
    }

    /// Milliseconds since the operation began.
    #[must_use]
    pub fn elapsed_ms(&self) -> f64 {
        millis(self.began)
    }

    /// Milliseconds by phase so far, the one that runs included, which goes on: for the manifest.
    #[must_use]
    pub fn timings(&self) -> BTreeMap<String, f64> {
        let current = self.current.map(|(phase, since)| PhaseTime { phase, ms: millis(since) });
        let times = self.times.iter().copied().chain(current);
        times.map(|time| (time.phase.name().to_owned(), time.ms)).collect()
    }

    /// Ends the phase that runs and gives all times so far.
    pub fn times(&mut self) -> Vec<PhaseTime> {
        self.close();
        self.times.clone()
    }

    fn close(&mut self) {
        if let Some((phase, since)) = self.current.take() {
            self.times.push(PhaseTime { phase, ms: millis(since) });
        }
    }
}

/// Milliseconds since then.
#[must_use]
pub fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_timed_in_order_and_watchers_see_the_bytes_of_the_current_one() {
        let (mut journal, watched) = Journal::begin();
        assert_eq!(watched.progress(), None);
        journal.enter(Phase::PreCopy);
        journal.gauge().expect(10);
        journal.gauge().advance(4);
        assert_eq!(
            watched.progress(),
            Some(Progress { phase: Phase::PreCopy, done: 4, total: 10 })
        );
        journal.enter(Phase::Freeze);
        assert_eq!(watched.progress(), Some(Progress { phase: Phase::Freeze, done: 0, total: 0 }));
        assert_eq!(journal.watched().progress(), watched.progress());
        journal.gauge().set(3, 7);
        assert_eq!(watched.progress(), Some(Progress { phase: Phase::Freeze, done: 3, total: 7 }));
        let timings: Vec<String> = journal.timings().into_keys().collect();
        assert_eq!(timings, ["freeze", "pre-copy"]);
        assert_eq!(journal.phase(), Some(Phase::Freeze), "it goes on");
        let order: Vec<_> = journal.times().iter().map(|t| t.phase).collect();
        assert_eq!(order, [Phase::PreCopy, Phase::Freeze]);
    }
}
