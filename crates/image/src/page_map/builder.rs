//! Building a map in ascending order, without look-ups.

use super::{PageMap, PageRun, Value};
use crate::ImageError;

/// Takes runs in ascending order and joins those that continue each other.
#[derive(Debug, Default)]
pub struct PageMapBuilder {
    done: Vec<(u64, Value)>,
    last: Option<PageRun>,
}

impl PageMapBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run that lies behind all earlier ones.
    ///
    /// # Errors
    /// It is empty, overlaps or precedes an earlier one, or is longer than its frame.
    pub fn push(&mut self, run: PageRun) -> Result<(), ImageError> {
        let ordered = self.last.is_none_or(|l| l.range.end() <= run.range.first);
        if !ordered || !run.is_valid() {
            let why = "its runs overlap, descend or leave their frame";
            return Err(ImageError::Invalid { what: "page map", why });
        }
        match &mut self.last {
            Some(last) if last.is_continued_by(&run) => last.range.count += run.range.count,
            last => {
                if let Some(done) = last.replace(run) {
                    self.done.push(pair(done));
                }
            }
        }
        Ok(())
    }

    /// The map.
    #[must_use]
    pub fn finish(mut self) -> PageMap {
        self.done.extend(self.last.map(pair));
        PageMap { runs: self.done.into_iter().collect() }
    }
}

fn pair(run: PageRun) -> (u64, Value) {
    (run.range.first.0, Value { count: run.range.count, source: run.source })
}
