//! Time as the store's rules use it: injected, so that a test can let a day pass.
//!
//! Two clocks on purpose. The *wall clock* only stamps what people read. Ages of objects are measured by the store's
//! own clock (`last modified`), ages of our operations by the *boot clock*, which counts suspend and never jumps.

use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A source of time.
pub trait Clock: Send + Sync + Debug + 'static {
    /// The time of day; may jump.
    fn now(&self) -> SystemTime;

    /// Time since boot, suspend included (`CLOCK_BOOTTIME`); never jumps.
    fn since_boot(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn since_boot(&self) -> Duration {
        let t = clock_gettime(ClockId::Boottime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    }
}

/// A clock that moves only when told, for tests of everything that waits for hours.
#[derive(Debug)]
pub struct ManualClock(Mutex<Duration>);

impl ManualClock {
    /// A clock that stands at an arbitrary moment.
    #[must_use]
    pub fn new() -> Self {
        // Well after the epoch, so that ages can be subtracted from it.
        Self(Mutex::new(Duration::from_secs(1_000_000_000)))
    }

    /// Lets `by` pass.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    fn read(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.read()
    }

    fn since_boot(&self) -> Duration {
        self.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_runs_forward() {
        let (a, b) = (SystemClock.since_boot(), SystemClock.since_boot());
        assert!(b >= a && a > Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new();
        let before = clock.now();
        assert_eq!(clock.now(), before);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now(), before + Duration::from_secs(5));
    }
}
