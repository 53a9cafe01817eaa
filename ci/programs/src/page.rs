//! The contents of a page as a function of who wrote it: place, version, seed. Any other content is wrong, and tells how.

use std::fmt;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Machine words of a page.
pub const WORDS: usize = PAGE / 8;
/// A page as words.
pub type Words = [u64; WORDS];

/// Who wrote a page. Version 0 means nobody since it was mapped or discarded: it reads as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Tells regions and runs apart.
    pub seed: u64,
    /// Number of the page in its region.
    pub page: u64,
    /// How often it was written.
    pub version: u32,
}

impl Stamp {
    /// The words of the page, in order. Every fourth version is a page that compresses well.
    pub fn words(self) -> impl Iterator<Item = u64> {
        let start = mix(self.seed ^ mix(self.page) ^ mix(u64::from(self.version) << 32));
        let (step, empty) = (if self.version.is_multiple_of(4) { 0 } else { 1 }, self.version == 0);
        (0..WORDS as u64).map(move |n| if empty { 0 } else { mix(start.wrapping_add(n * step)) })
    }

    /// Writes the page.
    pub fn write(self, page: &mut Words) {
        page.iter_mut().zip(self.words()).for_each(|(place, word)| *place = word);
    }

    /// Whether the page is what it has to be. Allocates nothing: usable after a fork among threads.
    ///
    /// # Errors
    /// What is wrong instead.
    pub fn check(self, page: &Words) -> Result<(), Wrong> {
        let differs = page.iter().zip(self.words()).position(|(&is, word)| is != word);
        let Some(word) = differs else { return Ok(()) };
        Err(Wrong { stamp: self, word, is: page[word], looks: self.looks(page) })
    }

    fn looks(self, page: &Words) -> Looks {
        if page.iter().all(|&word| word == 0) {
            return Looks::Zeros;
        }
        let earlier = (1..=8u32).filter_map(|back| self.version.checked_sub(back));
        let mut stale = earlier.map(|version| Self { version, ..self });
        match stale.find(|stamp| page.iter().copied().eq(stamp.words())) {
            Some(stamp) => Looks::Stale(stamp.version),
            None => Looks::Foreign,
        }
    }
}

/// A page that is not what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    stamp: Stamp,
    word: usize,
    is: u64,
    looks: Looks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Zeros,
    Stale(u32),
    Foreign,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { page, version, .. } = self.stamp;
        let must = self.stamp.words().nth(self.word).unwrap_or_default();
        let (byte, is) = (self.word * 8, self.is);
        write!(
            f,
            "page {page} at byte {byte} is {is:#018x}, must be {must:#018x} of version {version}; "
        )?;
        match self.looks {
            Looks::Zeros => write!(f, "the whole page is zeros"),
            Looks::Stale(old) => write!(f, "it is the page as of version {old}"),
            Looks::Foreign => write!(f, "it is no earlier version of this page"),
        }
    }
}

impl std::error::Error for Wrong {}

/// A well mixed function of 64 bits (the finalizer of splitmix64).
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Numbers for choosing what to do next.
#[derive(Debug, Clone)]
pub struct Chooser(u64);

impl Chooser {
    /// The same seed chooses the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0).checked_rem(end).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { seed: 1, page: 2, version: 3 };

    fn page(stamp: Stamp) -> Words {
        let mut words = [7; WORDS];
        stamp.write(&mut words);
        words
    }

    #[test]
    fn a_page_is_itself_and_nothing_else() {
        assert_eq!(STAMP.check(&page(STAMP)), Ok(()));
        for other in
            [Stamp { seed: 2, ..STAMP }, Stamp { page: 3, ..STAMP }, Stamp { version: 4, ..STAMP }]
        {
            assert!(STAMP.check(&page(other)).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_wrong_page_says_how_it_is_wrong() {
        let told = |words: &Words| STAMP.check(words).unwrap_err().to_string();
        assert!(told(&[0; WORDS]).contains("zeros"));
        assert!(told(&page(Stamp { version: 1, ..STAMP })).contains("as of version 1"));
        let mut torn = page(STAMP);
        torn[100] ^= 1;
        assert!(told(&torn).contains("at byte 800"), "{}", told(&torn));
    }

    #[test]
    fn an_unwritten_page_reads_as_zeros() {
        assert_eq!(Stamp { version: 0, ..STAMP }.check(&[0; WORDS]), Ok(()));
    }
}
