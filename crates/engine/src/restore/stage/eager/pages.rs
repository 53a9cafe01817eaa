//! The bytes of eager pages: every frame is fetched once, in the order of the packs, neighbours together and several runs at the same
//! time, whichever files its pages belong to. In memory there is what is on its way, and no more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use godwit_image::{FrameRef, FrameSource, SpaceHead};

use crate::restore::RestoreError;

/// Runs of frames that are fetched at the same time.
const STREAMS: usize = 4;
/// Frames of one run: 4 MiB, one ranged GET where they lie together. With [`STREAMS`] 16 MiB, and as much stored, are in memory.
const RUN: usize = 32;

/// The pages images that are to be filled.
#[derive(Debug, Default)]
pub(in super::super) struct Pages {
    files: Vec<PathBuf>,
    pieces: Vec<Piece>,
}

/// Neighbouring pages of one frame, and where they go.
#[derive(Debug)]
struct Piece {
    frame: FrameRef,
    from: usize,
    bytes: usize,
    /// Index of the file.
    file: usize,
    at: u64,
}

impl Pages {
    /// A pages image: the bytes of all eager pages of an address space, one after another. It is made with zeros, which are holes: they
    /// take no room.
    ///
    /// # Errors
    /// [`RestoreError::Write`].
    pub(in super::super) fn add(
        &mut self,
        path: PathBuf,
        head: &SpaceHead,
    ) -> Result<(), RestoreError> {
        let (file, mut at) = (self.files.len(), 0_u64);
        for run in head.eager_runs() {
            let bytes = run.range.bytes().0;
            if let Some((frame, from)) = run.source.frame_offset() {
                // A run of stored pages is never longer than a frame.
                self.pieces.push(Piece { frame, from, bytes: bytes as usize, file, at });
            }
            at = at.saturating_add(bytes);
        }
        let made = File::create(&path).and_then(|file| file.set_len(at));
        made.map_err(|source| RestoreError::Write { path: path.clone(), source })?;
        self.files.push(path);
        Ok(())
    }

    /// Fills them all.
    ///
    /// # Errors
    /// [`RestoreError::Write`], [`RestoreError::Frames`], [`RestoreError::ShortFrame`].
    pub(in super::super) fn write(mut self, frames: &dyn FrameSource) -> Result<(), RestoreError> {
        self.pieces.sort_unstable_by_key(|piece| piece.frame);
        let (files, queue) = (&self.files, Mutex::new(&self.pieces[..]));
        thread::scope(|scope| {
            let work = || fill_all(files, &queue, frames);
            // Without a thread there is one stream less.
            let helpers: Vec<_> = (1..STREAMS)
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let own = work();
            let ends =
                helpers.into_iter().map(|h| h.join().unwrap_or(Err(RestoreError::Interrupted)));
            ends.fold(own, Result::and)
        })
    }
}

/// Fills what is in the queue, until it is empty or somebody fails.
fn fill_all(
    files: &[PathBuf],
    queue: &Mutex<&[Piece]>,
    frames: &dyn FrameSource,
) -> Result<(), RestoreError> {
    loop {
        let run = take_run(&mut locked(queue));
        if run.is_empty() {
            return Ok(());
        }
        if let Err(error) = fill(files, run, frames) {
            *locked(queue) = &[];
            return Err(error);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the pieces of at most [`RUN`] frames of one pack.
fn take_run<'p>(pieces: &mut &'p [Piece]) -> &'p [Piece] {
    let (mut frames, mut last) = (0, None);
    let is_behind = |piece: &Piece| {
        let other_pack = last.is_some_and(|last: FrameRef| last.pack != piece.frame.pack);
        frames += usize::from(last.replace(piece.frame) != Some(piece.frame));
        other_pack || frames > RUN
    };
    let (run, left) = pieces.split_at(pieces.iter().position(is_behind).unwrap_or(pieces.len()));
    *pieces = left;
    run
}

fn fill(files: &[PathBuf], run: &[Piece], frames: &dyn FrameSource) -> Result<(), RestoreError> {
    let same = |one: &Piece, other: &Piece| one.frame == other.frame;
    let wanted: Vec<FrameRef> = run.chunk_by(same).map(|pieces| pieces[0].frame).collect();
    let mut open = None;
    for (pieces, raw) in run.chunk_by(same).zip(frames.frames(&wanted)?) {
        for piece in pieces {
            let bytes = raw.get(piece.from..piece.from.saturating_add(piece.bytes));
            let bytes = bytes.ok_or(RestoreError::ShortFrame { frame: piece.frame.frame })?;
            let path = &files[piece.file];
            let failed = |source| RestoreError::Write { path: path.clone(), source };
            let file = opened(&mut open, files, piece.file).map_err(failed)?;
            file.write_all_at(bytes, piece.at).map_err(failed)?;
        }
    }
    Ok(())
}

/// A file of the list; it stays open until another one is wanted.
fn opened<'f>(
    last: &'f mut Option<(usize, File)>,
    files: &[PathBuf],
    index: usize,
) -> io::Result<&'f File> {
    let file = match last.take().filter(|(is, _)| *is == index) {
        Some((_, file)) => file,
        None => OpenOptions::new().write(true).open(&files[index])?,
    };
    Ok(&last.insert((index, file)).1)
}
