//! What a subject does: everything that a program may do to its memory while it is being filled.

use std::io;
use std::ops::Range;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Spec;
use super::block::{Block, Expect, Wrong};
use crate::sys;

/// Numbers of written pages start here: no region has so many.
const WRITTEN: u64 = 1 << 40;

/// Works until all deeds are done and everything was checked.
pub(super) fn run(spec: &Spec, regions: &[u64]) -> Result<(), String> {
    let thread = |(index, at): (usize, &u64)| {
        let mut storm = Storm::new(*spec, index as u64, *at);
        std::thread::spawn(move || storm.run())
    };
    let threads: Vec<_> = regions.iter().enumerate().map(thread).collect();
    let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("panic".to_owned())));
    ended.collect::<Vec<_>>().into_iter().collect()
}

struct Storm {
    spec: Spec,
    rng: SmallRng,
    blocks: Vec<Block>,
    next_number: u64,
}

fn said(wrong: Wrong) -> String {
    let Wrong { address, expect, found } = wrong;
    format!("WRONG at {address:#x}: expected {expect:?}, found {found:#x}")
}

fn failed(call: &'static str) -> impl FnOnce(io::Error) -> String {
    move |error| format!("FAILED {call}: {error}")
}

impl Storm {
    fn new(spec: Spec, index: u64, at: u64) -> Self {
        let first = index * spec.pages;
        let expect = |page| if spec.is_zero(page) { Expect::Zero } else { Expect::Page(page) };
        let pages = (first..first + spec.pages).map(expect).collect();
        Self {
            spec,
            rng: SmallRng::seed_from_u64(spec.seed ^ (index + 1) << 32),
            blocks: vec![Block { at, pages }],
            next_number: WRITTEN + (index << 32),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.spec.deeds {
            let Some(block) = self.pick() else { break };
            if self.rng.random_range(0..100) < self.spec.changes {
                self.change(block)?;
            } else {
                self.touch(block)?;
            }
        }
        self.check_all()
    }

    fn check_all(&self) -> Result<(), String> {
        let seed = self.spec.seed;
        let mut all = self.blocks.iter().flat_map(|b| (0..b.len()).map(move |page| (b, page)));
        all.try_for_each(|(block, page)| block.check(seed, page, 0)).map_err(said)
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.blocks.is_empty()).then(|| self.rng.random_range(0..self.blocks.len()))
    }

    fn page_of(&mut self, block: usize) -> u64 {
        self.rng.random_range(0..self.blocks[block].len())
    }

    /// Some pages of a block, rarely all.
    fn range_of(&mut self, block: usize) -> Range<u64> {
        let len = self.blocks[block].len();
        let start = self.rng.random_range(0..len);
        let most = self.rng.random_range(1..=48);
        start..(start + most).min(len)
    }

    fn touch(&mut self, block: usize) -> Result<(), String> {
        let (seed, page) = (self.spec.seed, self.page_of(block));
        let kind = self.rng.random_range(0..4);
        if kind == 0 {
            // Blindly into the middle: what is around it must still come.
            sys::store(self.blocks[block].address(page), 7);
            self.blocks[block].check(seed, page, 1).map_err(said)?;
        } else {
            self.blocks[block].check(seed, page, 0).map_err(said)?;
        }
        if kind < 2 {
            self.next_number += 1;
            let number = self.next_number;
            self.blocks[block].write(seed, page, number);
        }
        Ok(())
    }

    fn change(&mut self, block: usize) -> Result<(), String> {
        let range = self.range_of(block);
        match self.rng.random_range(0..16) {
            0..6 => self.discard(block, range).map_err(failed("madvise")),
            6..8 => self.unmap(block, range).map_err(failed("munmap")),
            8..11 => self.move_to_reserved(block, range).map_err(failed("mremap")),
            11..15 if self.spec.grows => self.grow(block, range).map_err(failed("mremap")),
            15 => self.fork(),
            _ => self.move_to_reserved(block, range).map_err(failed("mremap")),
        }
    }

    fn discard(&mut self, block: usize, range: Range<u64>) -> io::Result<()> {
        let block = &mut self.blocks[block];
        sys::discard(block.address(range.start), range.end - range.start)?;
        block.pages[range.start as usize..range.end as usize].fill(Expect::Zero);
        Ok(())
    }

    /// Takes a range out of its block, as a block of its own that is not in the list.
    fn take(&mut self, block: usize, range: Range<u64>) -> Block {
        let mut whole = self.blocks.swap_remove(block);
        let after = whole.split(range.end);
        let taken = whole.split(range.start);
        self.blocks.extend([whole, after].into_iter().filter(|b| b.len() > 0));
        taken
    }

    fn unmap(&mut self, block: usize, range: Range<u64>) -> io::Result<()> {
        let taken = self.take(block, range);
        sys::unmap(taken.at, taken.len())
    }

    fn move_to_reserved(&mut self, block: usize, range: Range<u64>) -> io::Result<()> {
        let mut taken = self.take(block, range);
        let target = sys::map(taken.len(), true)?;
        taken.at = sys::remap(taken.at, taken.len(), taken.len(), Some(target))?;
        self.blocks.push(taken);
        Ok(())
    }

    /// Makes a piece longer: the kernel moves it to where there is room, often to what another thread has just given back.
    fn grow(&mut self, block: usize, range: Range<u64>) -> io::Result<()> {
        let mut taken = self.take(block, range);
        let more = self.rng.random_range(1..4);
        taken.at = sys::remap(taken.at, taken.len(), taken.len() + more, None)?;
        taken.pages.extend((0..more).map(|_| Expect::Zero));
        self.blocks.push(taken);
        Ok(())
    }

    /// Another process with the same memory checks it and changes its copy, and so does its child.
    fn fork(&mut self) -> Result<(), String> {
        match sys::fork().map_err(failed("fork"))? {
            None => self.child(2),
            Some(pid) => match sys::wait(pid).map_err(failed("waitpid"))? {
                0 => Ok(()),
                code => Err(format!("WRONG in a child: {code}")),
            },
        }
    }

    /// No allocation from here on: the locks of other threads are as they were. Ends with the number of what went wrong.
    fn child(&mut self, generations: u32) -> ! {
        let seed = self.spec.seed;
        for _ in 0..24 {
            let Some(block) = self.pick() else { break };
            let page = self.page_of(block);
            if self.blocks[block].check(seed, page, 0).is_err() {
                sys::exit_now(3);
            }
            match self.rng.random_range(0..6) {
                0 => {
                    let range = self.range_of(block);
                    if self.discard(block, range.clone()).is_err() {
                        sys::exit_now(4);
                    }
                    if range.into_iter().any(|p| self.blocks[block].check(seed, p, 0).is_err()) {
                        sys::exit_now(5);
                    }
                }
                1 => self.blocks[block].write(seed, page, WRITTEN - 1),
                _ => {}
            }
        }
        let forked = if generations > 0 { sys::fork() } else { Ok(Some(0)) };
        let code = match forked {
            Ok(None) => self.child(generations - 1),
            Ok(Some(0)) => 0,
            Ok(Some(pid)) => sys::wait(pid).unwrap_or(6),
            Err(_) => 7,
        };
        if self.blocks.iter().any(|b| (0..b.len().min(64)).any(|p| b.check(seed, p, 0).is_err())) {
            sys::exit_now(8);
        }
        sys::exit_now(code)
    }
}
