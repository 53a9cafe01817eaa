//! Bytes and pages.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Size of a page in bytes on the architectures that Godwit supports today (x86-64).
pub const PAGE_SIZE: u64 = 4096;

/// A number of bytes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut scaled = self.0 as f64;
        let mut unit = 0;
        while scaled >= 1024.0 && unit + 1 < UNITS.len() {
            scaled /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(unit > 0 && scaled < 100.0);
        write!(f, "{scaled:.decimals$} {}", UNITS[unit])
    }
}

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size: write for example \"512 MiB\" or \"2 GiB\"")]
pub struct InvalidSize(String);

impl std::str::FromStr for Bytes {
    type Err = InvalidSize;

    /// A whole number of bytes, or of KiB, MiB, GiB, TiB.
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.to_owned());
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
        let shift = match text[digits..].trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(invalid()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(invalid)
    }
}

/// A virtual address divided by [`PAGE_SIZE`].
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PageNumber(pub u64);

impl PageNumber {
    /// The page that holds this address.
    #[must_use]
    pub fn of_address(address: u64) -> Self {
        Self(address / PAGE_SIZE)
    }

    /// The first address of the page.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0 * PAGE_SIZE
    }
}

/// `count` pages from `first` on.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PageRange {
    /// The first page.
    pub first: PageNumber,
    /// How many pages.
    pub count: u64,
}

impl PageRange {
    /// `count` pages from `first` on.
    #[must_use]
    pub fn new(first: PageNumber, count: u64) -> Self {
        Self { first, count }
    }

    /// The page after the last one.
    #[must_use]
    pub fn end(self) -> PageNumber {
        PageNumber(self.first.0 + self.count)
    }

    /// How many bytes; the largest number for more than can be counted, as only a hostile range has.
    #[must_use]
    pub fn bytes(self) -> Bytes {
        Bytes(self.count.saturating_mul(PAGE_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Bytes>().ok();
        assert_eq!(read("512 MiB"), Some(Bytes(512 << 20)));
        assert_eq!((read("7"), read("2GiB")), (Some(Bytes(7)), Some(Bytes(2 << 30))));
        assert_eq!((read("2 GB"), read("-1"), read("99999999 TiB")), (None, None, None));
    }

    #[test]
    fn a_range_of_absurdly_many_pages_does_not_wrap() {
        let range = |count| PageRange::new(PageNumber(0), count);
        assert_eq!(range(2).bytes(), Bytes(8192));
        assert_eq!(range(1 << 52).bytes(), Bytes(u64::MAX));
    }

    #[test]
    fn bytes_are_shown_in_the_largest_fitting_unit() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (300 << 20, "300 MiB"),
            (1 << 30, "1.0 GiB"),
        ] {
            assert_eq!(Bytes(n).to_string(), text);
        }
    }
}
