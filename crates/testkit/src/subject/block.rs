//! Memory of which every byte is known.

use crate::sys::{self, PAGE};

/// Scrambles a number (splitmix64's finish).
pub(super) fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A word of a page as it was captured, or as somebody wrote it later (`page` is then a number that no page has).
pub(super) fn word(seed: u64, page: u64, index: u64) -> u64 {
    mix(mix(seed).wrapping_add(page << 10 | index)) | 1
}

/// What a page must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Zero,
    /// The words of this page.
    Page(u64),
}

impl Expect {
    fn word(self, seed: u64, index: u64) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Page(page) => word(seed, page, index),
        }
    }
}

/// Mapped pages that lie together and belong to one thread.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) at: u64,
    pub(super) pages: Vec<Expect>,
}

/// A page that is not what it must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wrong {
    pub(super) address: u64,
    pub(super) expect: Expect,
    pub(super) found: u64,
}

impl Block {
    pub(super) fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(super) fn address(&self, page: u64) -> u64 {
        self.at + page * PAGE
    }

    /// Compares a page from word `from` on. Allocates nothing.
    pub(super) fn check(&self, seed: u64, page: u64, from: u64) -> Result<(), Wrong> {
        let (address, expect) = (self.address(page), self.pages[page as usize]);
        for index in from..512 {
            let found = sys::load(address + index * 8);
            if found != expect.word(seed, index) {
                return Err(Wrong { address, expect, found });
            }
        }
        Ok(())
    }

    /// Writes a whole page.
    pub(super) fn write(&mut self, seed: u64, page: u64, number: u64) {
        let address = self.address(page);
        (0..512).for_each(|index| sys::store(address + index * 8, word(seed, number, index)));
        self.pages[page as usize] = Expect::Page(number);
    }

    /// Splits off what lies from `page` on.
    pub(super) fn split(&mut self, page: u64) -> Self {
        Self { at: self.address(page), pages: self.pages.split_off(page as usize) }
    }
}
