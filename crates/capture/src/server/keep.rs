//! Keeps everything: bytes go from the socket straight to their place, nothing is looked at in the freeze.

use godwit_image::Space;
use godwit_types::{Bytes, PageRange};

use super::{Stream, Taken, Taker};
use crate::page::PAGE;
use crate::{Arena, CaptureError, FrozenRun, FrozenState, Span};

/// Runs before the list must grow: CRIU sends one for each pipe (256 or 1024 pages), more where memory is sparse.
const RUNS: usize = 1 << 14;

pub(super) struct Keep {
    span: Span,
    used: usize,
    runs: Vec<(Space, FrozenRun)>,
}

impl Keep {
    /// Takes all that is left of the arena.
    pub(super) fn new(arena: &Arena) -> Result<Self, CaptureError> {
        let span = arena.take(arena.left())?;
        Ok(Self { span, used: 0, runs: Vec::with_capacity(RUNS) })
    }

    fn room(&mut self, range: PageRange) -> Result<&mut [u8], CaptureError> {
        let have = Bytes(self.span.bytes().len() as u64);
        let need = Bytes((self.used as u64).saturating_add(range.bytes().0));
        if need > have {
            return Err(CaptureError::TooBigForBudget { need, have });
        }
        let start = self.used;
        self.used = need.0 as usize;
        Ok(&mut self.span.bytes_mut()[start..need.0 as usize])
    }
}

impl Taker for Keep {
    fn take(
        &mut self,
        stream: &mut Stream<'_>,
        space: Space,
        range: PageRange,
        lazy: bool,
    ) -> Result<(), CaptureError> {
        let page = (self.used / PAGE) as u32;
        stream.pages(self.room(range)?)?;
        self.runs
            .push((space, FrozenRun { range, lazy, state: FrozenState::Bytes { span: 0, page } }));
        Ok(())
    }

    fn settle(self: Box<Self>) -> Result<Taken, CaptureError> {
        Ok(Taken { runs: self.runs, spans: vec![self.span] })
    }
}
