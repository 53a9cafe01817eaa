//! Memory that is there before the freeze: no page fault, no allocation while tasks are frozen.

use godwit_types::{Bytes, PAGE_SIZE};

use crate::sys::{Mapping, Part, Splitter};
use crate::{CaptureError, Reservation};

/// Prefaulted memory of a reservation, handed out in spans. Freed, and given back to the budget, when it and its last span
/// are gone.
#[derive(Debug)]
pub struct Arena {
    splitter: Splitter,
    reservation: std::sync::Arc<Reservation>,
}

/// A part of an arena that nobody else has.
#[derive(Debug)]
pub struct Span {
    // Dropped first: the budget hears of it when the memory is free.
    part: Part,
    _reservation: std::sync::Arc<Reservation>,
}

impl Arena {
    /// Maps and prefaults the whole reservation; takes up to a second per GiB, so it belongs before the freeze.
    ///
    /// # Errors
    /// The kernel has not so much memory.
    pub fn new(reservation: Reservation) -> Result<Self, CaptureError> {
        let all = reservation.bytes();
        Self::expecting(reservation, all)
    }

    /// Maps the whole reservation and prefaults what is expected to be used; the rest costs page faults if it is.
    ///
    /// # Errors
    /// The kernel has not so much memory.
    pub fn expecting(reservation: Reservation, expected: Bytes) -> Result<Self, CaptureError> {
        let need = reservation.bytes();
        let length = |bytes: Bytes| bytes.0.max(1).next_multiple_of(PAGE_SIZE) as usize;
        let mapping = Mapping::prefaulted(length(need), length(expected))
            .map_err(|source| CaptureError::Map { need, source })?;
        Ok(Self { splitter: Splitter::new(mapping), reservation: reservation.into() })
    }

    /// The next bytes.
    ///
    /// # Errors
    /// [`CaptureError::TooBigForBudget`]: so many are not left.
    pub fn take(&self, bytes: usize) -> Result<Span, CaptureError> {
        let part = self.splitter.take(bytes).ok_or_else(|| self.exhausted(bytes as u64))?;
        Ok(Span { part, _reservation: self.reservation.clone() })
    }

    /// The error that says that this many more bytes are needed.
    pub(crate) fn exhausted(&self, more: u64) -> CaptureError {
        let all = self.splitter.len() as u64;
        let used = all - self.splitter.left() as u64;
        CaptureError::TooBigForBudget { need: Bytes(used + more), have: Bytes(all) }
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.splitter.left()
    }
}

impl Span {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.part.bytes()
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.part.bytes_mut()
    }
}
