//! How much memory captures may hold at once, over all operations of the agent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_types::Bytes;

use crate::CaptureError;
use crate::server::COMPARE_FIXED_BYTES;

/// The agent's budget. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    total: Bytes,
    used: Arc<Mutex<u64>>,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(total: Bytes) -> Self {
        Self { total, used: Arc::default() }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> Bytes {
        self.total
    }

    /// What is free now.
    #[must_use]
    pub fn available(&self) -> Bytes {
        Bytes(self.total.0 - *lock(&self.used))
    }

    /// Sets `need` aside until the reservation, and the arena made of it, are dropped.
    ///
    /// # Errors
    /// [`CaptureError::TooBigForBudget`]: so much is not free now.
    pub fn reserve(&self, need: Bytes) -> Result<Reservation, CaptureError> {
        let mut used = lock(&self.used);
        let have = Bytes(self.total.0 - *used);
        if need > have {
            return Err(CaptureError::TooBigForBudget { need, have });
        }
        *used += need.0;
        Ok(Reservation { bytes: need, used: Arc::clone(&self.used) })
    }
}

fn lock(used: &Mutex<u64>) -> MutexGuard<'_, u64> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: Bytes,
    used: Arc<Mutex<u64>>,
}

impl Reservation {
    /// How much.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *lock(&self.used) -= self.bytes.0;
    }
}

/// How a container's memory is to be captured, and what to reserve for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Keep everything that CRIU sends.
    Keep {
        /// To be reserved.
        need: Bytes,
    },
    /// Pre-read, then keep only what changed.
    Compare {
        /// To be reserved.
        need: Bytes,
    },
}

/// Chooses. `private` and `shared` are the resident bytes of its processes and of its shared memory ([`crate::resident`]).
///
/// Keep needs room for growth until the freeze: an eighth more, and 16 MiB. Compare needs all shared memory (it is not
/// pre-read), a fourth of the private memory, as the most that may change between pre-read and freeze, and a fixed part;
/// it takes up to all of it where the budget allows, because what does not fit rolls the checkpoint back.
///
/// # Errors
/// [`CaptureError::TooBigForBudget`]: not even comparing fits.
pub fn choose(
    private: Bytes,
    shared: Bytes,
    have: Bytes,
    gives_away: bool,
) -> Result<Choice, CaptureError> {
    let keep = to_keep(private, shared);
    if !gives_away && keep <= have {
        return Ok(Choice::Keep { need: keep });
    }
    let fixed = to_compare_none(shared);
    let least = Bytes(fixed.saturating_add(private.0 / 4));
    let most = Bytes(fixed.saturating_add(private.0 + private.0 / 8));
    if least > have {
        return Err(CaptureError::TooBigForBudget { need: least, have });
    }
    Ok(Choice::Compare { need: most.min(have) })
}

/// The least with which [`choose`] refuses nothing.
#[must_use]
pub fn least(private: Bytes, shared: Bytes, gives_away: bool) -> Bytes {
    let compare = Bytes(to_compare_none(shared).saturating_add(private.0 / 4));
    if gives_away { compare } else { compare.min(to_keep(private, shared)) }
}

/// Room for growth, however small it is.
const SLACK: u64 = 16 << 20;

fn to_keep(private: Bytes, shared: Bytes) -> Bytes {
    let all = private.0.saturating_add(shared.0);
    Bytes(all.saturating_add(all / 8 + SLACK))
}

fn to_compare_none(shared: Bytes) -> u64 {
    shared.0.saturating_add(shared.0 / 8 + SLACK + COMPARE_FIXED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_reservation_is_given_back_when_it_is_dropped() {
        let budget = Budget::new(Bytes(100));
        let a = budget.reserve(Bytes(60)).unwrap();
        assert!(matches!(
            budget.reserve(Bytes(41)),
            Err(CaptureError::TooBigForBudget { need: Bytes(41), have: Bytes(40) })
        ));
        drop(a);
        assert_eq!(budget.available(), budget.total());
    }

    #[test]
    fn a_pod_that_stays_and_fits_is_kept_and_any_other_is_compared_or_refused() {
        let private = Bytes(GIB);
        let keep = choose(private, Bytes(0), Bytes(2 * GIB), false).unwrap();
        assert!(matches!(keep, Choice::Keep { need } if need.0 > GIB));
        for (have, gives_away) in [(2 * GIB, true), (GIB, false), (GIB / 2, true)] {
            let choice = choose(private, Bytes(0), Bytes(have), gives_away).unwrap();
            assert!(matches!(choice, Choice::Compare { need } if need.0 <= have));
        }
        for (private, shared) in [(0, 0), (GIB, 0), (1 << 20, 1 << 20), (GIB, GIB)] {
            let (private, shared) = (Bytes(private), Bytes(shared));
            for gives_away in [true, false] {
                let least = least(private, shared, gives_away);
                assert!(choose(private, shared, least, gives_away).is_ok());
                assert!(choose(private, shared, Bytes(least.0 - 1), gives_away).is_err());
            }
        }
        let shared = choose(Bytes(0), Bytes(GIB), Bytes(GIB), true);
        assert!(matches!(shared, Err(CaptureError::TooBigForBudget { .. })));
    }
}
