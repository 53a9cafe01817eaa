//! For tests: memory with known contents, a CRIU that is played, a store of packs in memory.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use godwit_image::{
    FinishedPack, FrameDecoder, FrameRef, FrameSource, PackName, PackRegistry, PackSink, PackTable,
    PageSource, SinkError, Space, SpaceHead,
};
use godwit_types::{Bytes, CheckpointId, Code, PageNumber, PageRange};

use crate::page::PAGE;
use crate::protocol::{Layout, sender};
use crate::ranges::normalized;
use crate::{Arena, Budget};

/// Contents of a page: 0 is zeros, any other seed gives bytes of its own, half of them compressible.
pub(crate) fn page(seed: u32) -> Vec<u8> {
    if seed == 0 {
        return vec![0; PAGE];
    }
    let mut out = vec![0; PAGE];
    let (noise, text) = out.split_at_mut(PAGE / 2);
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(noise);
    for (i, b) in text.iter_mut().enumerate() {
        *b = (seed as usize + i / 64) as u8;
    }
    out
}

/// Pages of address spaces: seed and whether it is sent as lazy.
pub(crate) type Memory = BTreeMap<Space, BTreeMap<u64, (u32, bool)>>;

/// An arena of so many MiB.
pub(crate) fn arena(mib: u64) -> Arena {
    let bytes = Bytes(mib << 20);
    Arena::new(Budget::new(bytes).reserve(bytes).unwrap()).unwrap()
}

/// Sends memory as CRIU does, runs cut after `cut` pages, and waits for the final answer. Gives what it got: `None` if
/// the stream was closed instead.
pub(crate) fn play(socket: OwnedFd, memory: &Memory, layout: Layout, cut: usize) -> Option<i32> {
    let mut socket = UnixStream::from(socket);
    for (space, pages) in memory {
        socket.write_all(&sender::open(layout, *space)).ok()?;
        let mut has_parent = [9];
        socket.read_exact(&mut has_parent).ok()?;
        assert_eq!(has_parent, [0]);
        let all: Vec<(u64, u32, bool)> = pages.iter().map(|(p, (s, l))| (*p, *s, *l)).collect();
        for run in all.chunk_by(|a, b| a.0 + 1 == b.0 && a.2 == b.2) {
            for part in run.chunks(cut) {
                let range = PageRange::new(PageNumber(part[0].0), part.len() as u64);
                socket.write_all(&sender::add(layout, *space, range, part[0].2)).ok()?;
                let bytes: Vec<u8> = part.iter().flat_map(|(_, seed, _)| page(*seed)).collect();
                socket.write_all(&bytes).ok()?;
            }
        }
    }
    socket.write_all(&sender::close(layout)).ok()?;
    let mut status = [0xff; 4];
    socket.read_exact(&mut status).ok()?;
    Some(i32::from_ne_bytes(status))
}

/// Packs in memory: a sink for writers, a source of frames with a pack table.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) packs: Mutex<BTreeMap<PackName, Vec<u8>>>,
    /// Refuse packs from this number on.
    pub(crate) full_at: Option<usize>,
}

impl PackSink for Shelf {
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError> {
        let mut packs = self.packs.lock().unwrap();
        if self.full_at.is_some_and(|n| packs.len() >= n) {
            return Err(SinkError::new(Code::Unavailable, "storing a pack"));
        }
        assert!(packs.insert(pack.name, pack.bytes).is_none(), "a pack is written once");
        Ok(())
    }
}

/// Reads frames from a shelf; counts them.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) table: PackTable,
    pub(crate) reads: Mutex<usize>,
}

impl Reader {
    pub(crate) fn new(shelf: &Arc<Shelf>, registry: &PackRegistry) -> Self {
        Self { shelf: Arc::clone(shelf), table: registry.table(), reads: Mutex::new(0) }
    }
}

impl FrameSource for Reader {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        *self.reads.lock().unwrap() += 1;
        let at = self.table.locate(frame).unwrap();
        let packs = self.shelf.packs.lock().unwrap();
        let range = at.frame.byte_range();
        let stored = &packs[&at.pack.name][range.start as usize..range.end as usize];
        Ok(FrameDecoder::new().unwrap().decode(at.frame, stored).unwrap())
    }
}

/// The registry of the checkpoint `id` on top of the packs of another.
pub(crate) fn registry(id: u128, parent: Option<&PackRegistry>) -> Arc<PackRegistry> {
    PackRegistry::new(CheckpointId::from(id), parent.map(PackRegistry::table).unwrap_or_default())
}

/// The bytes of every page of a space, read back through map and packs.
pub(crate) fn read_back(head: &SpaceHead, frames: &Reader) -> BTreeMap<u64, Vec<u8>> {
    let mut out = BTreeMap::new();
    for run in head.map.runs() {
        for i in 0..run.range.count {
            let bytes = match run.source.advanced(i) {
                PageSource::Zero => vec![0; PAGE],
                source => {
                    let (frame, offset) = source.frame_offset().unwrap();
                    frames.frame(frame).unwrap()[offset..offset + PAGE].to_vec()
                }
            };
            out.insert(run.range.first.0 + i, bytes);
        }
    }
    out
}

/// What [`read_back`] must give.
pub(crate) fn expected(pages: &BTreeMap<u64, (u32, bool)>) -> BTreeMap<u64, Vec<u8>> {
    pages.iter().map(|(p, (seed, _))| (*p, page(*seed))).collect()
}

/// The pages that were not sent as lazy.
pub(crate) fn eager(pages: &BTreeMap<u64, (u32, bool)>) -> Vec<PageRange> {
    let single = |p: &u64| PageRange::new(PageNumber(*p), 1);
    normalized(pages.iter().filter(|(_, (_, lazy))| !lazy).map(|(p, _)| single(p)).collect())
}
