//! How much one prefetching GET asks for: as much as comes within a short time. More would keep those waiting who wait already: urgent
//! frames, and everything else that this agent reads and writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use godwit_image::limits::MAX_FRAME_BYTES;

/// What a GET may take.
const SHORT: Duration = Duration::from_millis(100);
/// One frame, the smallest that is worth a request.
const LEAST: u64 = MAX_FRAME_BYTES as u64;
/// Long enough that its bytes and not its round trip cost.
pub(super) const MOST: u64 = 4 << 20;

/// See the module. Begins with one frame and grows.
#[derive(Debug)]
pub(super) struct Pace(AtomicU64);

impl Default for Pace {
    fn default() -> Self {
        Self(AtomicU64::new(LEAST))
    }
}

impl Pace {
    /// Bytes of the next GET, at most.
    pub(super) fn most(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A GET of so many bytes took so long.
    pub(super) fn note(&self, bytes: u64, took: Duration) {
        let in_time = bytes as f64 * SHORT.as_secs_f64() / took.as_secs_f64().max(1e-6);
        // One that was lucky says little.
        let grown = (in_time as u64).min(self.most().saturating_mul(2));
        self.0.store(grown.clamp(LEAST, MOST), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rate: u64, latency: Duration, gets: usize) -> u64 {
        let pace = Pace::default();
        for _ in 0..gets {
            let bytes = pace.most();
            pace.note(bytes, latency + Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
        pace.most()
    }

    #[test]
    fn a_slow_wire_is_asked_for_frames_and_a_fast_or_distant_one_for_runs() {
        let millis = Duration::from_millis;
        assert_eq!(after(1 << 20, millis(0), 9), LEAST);
        assert_eq!(after(1 << 30, millis(0), 9), MOST);
        assert_eq!(after(200 << 20, millis(30), 9), MOST);
        assert_eq!(after(1 << 30, millis(0), 2), 4 * LEAST, "it grows step by step");
        let pace = Pace::default();
        pace.note(MOST, millis(1));
        pace.note(MOST, Duration::from_secs(9));
        assert_eq!(pace.most(), LEAST, "and falls at once");
    }
}
