//! One block of page digests.

use godwit_types::PageNumber;

use crate::cursor::Cursor;
use crate::header::{self, Kind};
use crate::{ImageError, PageDigest};

/// Pages in a block: 1 MiB of addresses.
pub const BLOCK_PAGES: u64 = 256;

/// Number of a block: page number divided by [`BLOCK_PAGES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNumber(pub u64);

impl BlockNumber {
    /// The block that holds this page.
    #[must_use]
    pub fn of(page: PageNumber) -> Self {
        Self(page.0 / BLOCK_PAGES)
    }
}

/// The digests of the pages of one block: at most 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestBlock {
    digests: Box<[Option<PageDigest>; BLOCK_PAGES as usize]>,
}

impl Default for DigestBlock {
    fn default() -> Self {
        Self { digests: Box::new([None; BLOCK_PAGES as usize]) }
    }
}

fn place(page: PageNumber) -> usize {
    (page.0 % BLOCK_PAGES) as usize
}

impl DigestBlock {
    /// The digest of this page, which must lie in the block.
    #[must_use]
    pub fn get(&self, page: PageNumber) -> Option<PageDigest> {
        self.digests[place(page)]
    }

    /// Sets or forgets the digest of this page, which must lie in the block.
    pub fn set(&mut self, page: PageNumber, digest: Option<PageDigest>) {
        self.digests[place(page)] = digest;
    }

    /// Whether no page has a digest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.digests.iter().all(Option::is_none)
    }

    /// The pages that have a digest, ascending; `number` is the block's.
    pub fn pages(
        &self,
        number: BlockNumber,
    ) -> impl Iterator<Item = (PageNumber, PageDigest)> + '_ {
        let first = number.0 * BLOCK_PAGES;
        (first..).zip(self.digests.iter()).filter_map(|(p, d)| Some((PageNumber(p), (*d)?)))
    }

    /// Its bytes: header, 256 bits of presence (bit n of byte n/8 is page n), the digests of the pages that are present.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![0u8; BLOCK_PAGES as usize / 8];
        for (n, digest) in self.digests.iter().enumerate() {
            if let Some(digest) = digest {
                body[n / 8] |= 1 << (n % 8);
                body.extend_from_slice(&digest.0);
            }
        }
        header::wrap(Kind::DigestBlock, &body)
    }

    /// Reads a block of which nothing is believed.
    ///
    /// # Errors
    /// Damaged or of a wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut c = Cursor::new("digest block", header::unwrap(Kind::DigestBlock, bytes)?);
        let present: [u8; BLOCK_PAGES as usize / 8] = c.array()?;
        let mut block = Self::default();
        for (n, digest) in block.digests.iter_mut().enumerate() {
            if present[n / 8] & 1 << (n % 8) != 0 {
                *digest = Some(PageDigest(c.array()?));
            }
        }
        c.end()?;
        Ok(block)
    }
}
