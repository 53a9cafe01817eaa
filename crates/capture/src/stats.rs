//! What a capture counted.

use godwit_types::{Bytes, PAGE_SIZE};

/// Counts of pages and bytes. Sums with `+=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Pages that a restore gives back, zero pages included.
    pub pages: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Pages that an earlier checkpoint has already.
    pub shared: u64,
    /// Pages that this checkpoint stores (pre-read pages that are part of the result included).
    pub changed: u64,
    /// Bytes of frames that were written for them, after compression; pre-read frames that turned out stale and page
    /// digests included.
    pub stored: u64,
}

impl MemoryStats {
    /// Bytes that a restore gives back.
    #[must_use]
    pub fn memory(&self) -> Bytes {
        Bytes(self.pages * PAGE_SIZE)
    }

    /// Bytes of zeros.
    #[must_use]
    pub fn zero_bytes(&self) -> Bytes {
        Bytes(self.zero * PAGE_SIZE)
    }

    /// Bytes that differ from the parent's.
    #[must_use]
    pub fn changed_bytes(&self) -> Bytes {
        Bytes(self.changed * PAGE_SIZE)
    }
}

impl std::ops::AddAssign for MemoryStats {
    fn add_assign(&mut self, o: Self) {
        self.pages += o.pages;
        self.zero += o.zero;
        self.shared += o.shared;
        self.changed += o.changed;
        self.stored += o.stored;
    }
}
