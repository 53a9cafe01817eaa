//! Which of some ordered changes a child has in its address space.
//!
//! A child is a picture of its parent at one moment. So on each page it has seen the deeds up to some point, a *gap*, and no more; and
//! each change was seen on all its pages or on none.

/// What is known of it.
pub(super) struct Birth {
    seen: Vec<Option<bool>>,
    pages: Vec<Page>,
}

/// One page: which changes touched it, in their order, and the gaps that are possible.
struct Page {
    changes: Vec<usize>,
    gaps: Vec<bool>,
}

impl Birth {
    /// For each change what is known already.
    pub(super) fn new(seen: Vec<Option<bool>>) -> Self {
        Self { seen, pages: Vec::new() }
    }

    /// Adds what a page tells. One that contradicts itself tells nothing.
    pub(super) fn add(&mut self, changes: Vec<usize>, gaps: Vec<bool>) {
        let told = gaps.iter().any(|possible| *possible);
        let gaps = if told { gaps } else { vec![true; gaps.len()] };
        self.pages.push(Page { changes, gaps });
    }

    /// Decides for all changes: what the pages tell, else the guess.
    pub(super) fn decide(mut self, guess: impl Fn(usize) -> bool) -> Vec<bool> {
        self.conclude();
        while let Some(at) = self.seen.iter().position(Option::is_none) {
            self.seen[at] = Some(guess(at));
            self.conclude();
        }
        self.seen.into_iter().map(|seen| seen == Some(true)).collect()
    }

    /// Follows what is known from page to page, as far as it leads.
    fn conclude(&mut self) {
        let mut news = true;
        while std::mem::take(&mut news) {
            for page in &self.pages {
                let possible: Vec<usize> =
                    (0..page.gaps.len()).filter(|g| page.is_possible(*g, &self.seen)).collect();
                let (Some(least), Some(most)) = (possible.first(), possible.last()) else {
                    continue;
                };
                for (at, change) in page.changes.iter().enumerate() {
                    if self.seen[*change].is_none() && (at < *least || at >= *most) {
                        self.seen[*change] = Some(at < *least);
                        news = true;
                    }
                }
            }
        }
    }
}

impl Page {
    fn is_possible(&self, gap: usize, seen: &[Option<bool>]) -> bool {
        let agrees = |(at, change): (usize, &usize)| seen[*change].is_none_or(|s| s == (at < gap));
        self.gaps[gap] && self.changes.iter().enumerate().all(agrees)
    }
}
