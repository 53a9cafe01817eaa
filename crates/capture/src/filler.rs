//! Gathers pages into frames of 32, in the order in which they come: pages that changed together lie together.

use godwit_image::limits::{MAX_FRAME_BYTES, PAGES_PER_FRAME};
use godwit_image::{PackWriter, PageRun, WriteError};
use godwit_types::{PageNumber, PageRange};

/// One open frame.
pub(crate) struct Filler {
    bytes: Vec<u8>,
    pages: Vec<PageNumber>,
}

impl Filler {
    pub(crate) fn new() -> Self {
        let pages = Vec::with_capacity(PAGES_PER_FRAME as usize);
        Self { bytes: Vec::with_capacity(MAX_FRAME_BYTES), pages }
    }

    /// Adds a page; writes the frame when it is full and appends its runs to `out`.
    pub(crate) fn add(
        &mut self,
        page: PageNumber,
        bytes: &[u8],
        writer: &mut PackWriter,
        out: &mut Vec<PageRun>,
    ) -> Result<(), WriteError> {
        self.pages.push(page);
        self.bytes.extend_from_slice(bytes);
        if self.pages.len() == PAGES_PER_FRAME as usize { self.flush(writer, out) } else { Ok(()) }
    }

    /// Bytes that are not written yet.
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the frame as it is, if it has a page.
    pub(crate) fn flush(
        &mut self,
        writer: &mut PackWriter,
        out: &mut Vec<PageRun>,
    ) -> Result<(), WriteError> {
        if self.pages.is_empty() {
            return Ok(());
        }
        let frame = writer.write(&self.bytes)?;
        let mut at = 0u8;
        for run in self.pages.chunk_by(|a, b| a.0 + 1 == b.0) {
            out.push(PageRun::stored(PageRange::new(run[0], run.len() as u64), frame, at));
            at += run.len() as u8;
        }
        self.bytes.clear();
        self.pages.clear();
        Ok(())
    }
}
