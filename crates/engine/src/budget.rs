//! Memory for capture, shared by all operations of the node.
//!
//! A reservation is made before the pod is frozen and given back when dropped. Waiters are served in order, so that a large
//! checkpoint is not starved by small ones.

use std::sync::Arc;

use godwit_types::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the accounting.
const UNIT: u64 = 1 << 20;

/// The node's memory for capture.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u64,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: Bytes,
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes
    }

    /// Takes a part of it out, which may be held for longer; `None` if it is less than that.
    #[must_use]
    pub fn split(&mut self, part: Bytes) -> Option<Self> {
        let units = usize::try_from(part.0.div_ceil(UNIT)).ok()?;
        let permit = self.permit.split(units)?;
        self.bytes.0 = self.bytes.0.saturating_sub(part.0);
        Some(Self { bytes: part, permit })
    }
}

/// More than the whole budget was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "TooBigForBudget: capturing this pod needs up to {need}, the agent may use {have}: raise memory_budget in agent.toml"
)]
pub struct TooBig {
    /// What was asked for.
    pub need: Bytes,
    /// The whole budget.
    pub have: Bytes,
}

impl Budget {
    /// A budget of this many bytes, rounded down to MiB.
    #[must_use]
    pub fn new(total: Bytes) -> Self {
        let units = (total.0 / UNIT).min(Semaphore::MAX_PERMITS as u64);
        Self { units: Arc::new(Semaphore::new(units as usize)), total: units }
    }

    /// The whole budget.
    #[must_use]
    pub fn total(&self) -> Bytes {
        Bytes(self.total * UNIT)
    }

    /// What is reserved now.
    #[must_use]
    pub fn used(&self) -> Bytes {
        Bytes((self.total - self.units.available_permits() as u64) * UNIT)
    }

    /// Whether a reservation of this size can ever be given.
    #[must_use]
    pub fn fits(&self, bytes: Bytes) -> bool {
        bytes.0.div_ceil(UNIT) <= self.total
    }

    /// Waits for its turn and reserves. Dropping the future gives the turn up.
    ///
    /// # Errors
    /// [`TooBig`] at once if it can never fit.
    pub async fn reserve(&self, bytes: Bytes) -> Result<Reservation, TooBig> {
        let too_big = TooBig { need: bytes, have: self.total() };
        let units = bytes.0.div_ceil(UNIT);
        if units > self.total {
            return Err(too_big);
        }
        let units = u32::try_from(units).map_err(|_| too_big)?;
        let permit =
            Arc::clone(&self.units).acquire_many_owned(units).await.map_err(|_| too_big)?;
        Ok(Reservation { bytes, permit })
    }

    /// Reserves all of this if it is free, without waiting.
    #[must_use]
    pub fn reserve_now(&self, bytes: Bytes) -> Option<Reservation> {
        let units = u32::try_from(bytes.0.div_ceil(UNIT)).ok()?;
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(Reservation { bytes, permit })
    }

    /// Reserves what is free, at most this much, without waiting: for what may be needed and is not expected.
    #[must_use]
    pub fn spare(&self, most: Bytes) -> Option<Reservation> {
        let free = self.units.available_permits().min((most.0 / UNIT) as usize);
        let units = u32::try_from(free).ok().filter(|units| *units > 0)?;
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(Reservation { bytes: Bytes(u64::from(units) * UNIT), permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_can_never_fit_is_refused_at_once_and_the_rest_waits_its_turn() {
        let budget = Budget::new(Bytes(10 << 20));
        assert!(budget.reserve(Bytes(11 << 20)).await.is_err());
        let first = budget.reserve(Bytes(8 << 20)).await.unwrap();
        assert_eq!(budget.used(), Bytes(8 << 20));
        let second = budget.reserve(Bytes(4 << 20));
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(second.bytes(), Bytes(4 << 20));
        assert!(budget.reserve_now(Bytes(7 << 20)).is_none());
        assert_eq!(budget.reserve_now(Bytes(6 << 20)).unwrap().bytes(), Bytes(6 << 20));
        let spare = budget.spare(Bytes(2 << 20)).unwrap();
        assert_eq!(spare.bytes(), Bytes(2 << 20));
        assert_eq!(budget.spare(Bytes(99 << 20)).map(|rest| rest.bytes()), Some(Bytes(4 << 20)));
        let _all = budget.spare(Bytes(99 << 20)).unwrap();
        assert!(budget.spare(Bytes(1 << 20)).is_none());
    }

    #[tokio::test]
    async fn a_part_of_a_reservation_is_held_for_longer_than_the_rest() {
        let budget = Budget::new(Bytes(10 << 20));
        let mut whole = budget.reserve(Bytes(8 << 20)).await.unwrap();
        let part = whole.split(Bytes(3 << 20)).unwrap();
        assert_eq!((whole.bytes(), part.bytes()), (Bytes(5 << 20), Bytes(3 << 20)));
        assert!(whole.split(Bytes(6 << 20)).is_none());
        drop(whole);
        assert_eq!(budget.used(), Bytes(3 << 20));
        drop(part);
        assert_eq!(budget.used(), Bytes(0));
    }
}
