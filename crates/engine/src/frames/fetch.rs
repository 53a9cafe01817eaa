//! From wants to bytes: neighbours become one ranged GET, every frame is checked before it is written.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use godwit_image::{FrameDecoder, FrameRecord, FrameRef, PackName, PackSlot, PackTable};
use godwit_types::Code;
use godwit_wire::Refusal;
use godwit_wire::pager::frames::{Failed, Ready};

use super::lanes::{Lanes, Turns};
use super::slots::{Claim, SharedSlots};
use super::{Answer, FrameCounts, FrameError, OpenedSource};

/// Unwanted bytes that are read rather than paying for another request: about what 1 GB/s moves in a round trip of 64 µs.
const MAX_GAP: u64 = 64 << 10;

/// A checkpoint that a pager has named, and where its reads take turns.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) source: Arc<dyn OpenedSource>,
    pub(super) lanes: Arc<Lanes>,
}

/// Wants of one source and pack that one GET answers.
pub(super) struct Run {
    named: Option<Named>,
    frames: Vec<(Claim, Option<FrameRecord>)>,
    pack: Option<PackName>,
    range: Range<u64>,
}

/// Groups claims into runs of as many bytes as their store may be asked for at once. Wants that name nothing known become runs that fail.
pub(super) fn runs(sources: &HashMap<u32, Named>, claims: Vec<Claim>, urgent: bool) -> Vec<Run> {
    let mut by_pack: BTreeMap<(u32, u32), Vec<Claim>> = BTreeMap::new();
    for claim in claims {
        by_pack.entry((claim.want.source, claim.want.pack)).or_default().push(claim);
    }
    by_pack
        .into_iter()
        .flat_map(|((source, pack), claims)| of_pack(sources.get(&source), pack, claims, urgent))
        .collect()
}

fn of_pack(named: Option<&Named>, pack: u32, claims: Vec<Claim>, urgent: bool) -> Vec<Run> {
    let most = named.map_or(0, |named| named.lanes.most(urgent));
    let packs = named.map(|named| named.source.packs());
    let record = packs.and_then(|packs| packs.get(PackSlot(pack)));
    let mut found: Vec<(Claim, Option<FrameRecord>)> = claims
        .into_iter()
        .map(|claim| {
            let frame = FrameRef { pack: PackSlot(pack), frame: claim.want.frame };
            let located = packs.and_then(|packs| packs.locate(frame).ok()).map(|l| *l.frame);
            (claim, located)
        })
        .collect();
    found.sort_by_key(|(_, record)| record.map_or(0, |r| r.offset));
    let mut runs: Vec<Run> = Vec::new();
    for (claim, located) in found {
        let range = located.map_or(0..0, |r| r.byte_range());
        match runs.last_mut() {
            Some(run) if joins(&run.range, &range, most) => {
                run.range.end = run.range.end.max(range.end);
                run.frames.push((claim, located));
            }
            _ => runs.push(Run {
                named: named.cloned(),
                frames: vec![(claim, located)],
                pack: record.map(|r| r.name),
                range,
            }),
        }
    }
    runs
}

fn joins(run: &Range<u64>, next: &Range<u64>, most: u64) -> bool {
    next.start <= run.end + MAX_GAP && next.end.max(run.end) - run.start <= most
}

/// Reads a run when it is its turn, and writes its frames to their slots.
pub(super) async fn in_turn(
    run: Run,
    own: &Turns,
    urgent: bool,
    slots: &Arc<SharedSlots>,
    counts: &Arc<FrameCounts>,
) -> Vec<Answer> {
    let lanes = run.named.as_ref().map(|named| Arc::clone(&named.lanes));
    let _turn = match &lanes {
        Some(lanes) => Some(lanes.turn(own, urgent).await),
        None => None,
    };
    carry_out(run, slots, counts).await
}

async fn carry_out(run: Run, slots: &Arc<SharedSlots>, counts: &Arc<FrameCounts>) -> Vec<Answer> {
    let bytes = match read(&run).await {
        Ok(bytes) => bytes,
        Err(error) => return fail_all(run, slots, &error),
    };
    FrameCounts::add(&counts.requests, 1);
    FrameCounts::add(&counts.fetched, bytes.len() as u64);
    let (slots, counts) = (Arc::clone(slots), Arc::clone(counts));
    // Decompression and digests are CPU work.
    let placed = tokio::task::spawn_blocking(move || place(run, &bytes, &slots, &counts)).await;
    placed.unwrap_or_default()
}

async fn read(run: &Run) -> Result<Bytes, FrameError> {
    let Named { source, lanes } = run.named.as_ref().ok_or_else(unknown)?;
    let Some(pack) = &run.pack else { return Err(source.unopened().unwrap_or_else(unknown)) };
    let begun = Instant::now();
    let bytes = source.read(pack, run.range.clone()).await?;
    lanes.pace.note(bytes.len() as u64, begun.elapsed());
    Ok(bytes)
}

fn place(run: Run, bytes: &Bytes, slots: &SharedSlots, counts: &FrameCounts) -> Vec<Answer> {
    let Ok(mut decoder) = FrameDecoder::new() else {
        return fail_all(run, slots, &error(Code::Unavailable, "no memory for a decoder"));
    };
    let mut answers = Vec::with_capacity(run.frames.len());
    for (claim, record) in &run.frames {
        let raw = record
            .ok_or_else(unknown)
            .and_then(|record| decode(&mut decoder, &record, bytes, run.range.start));
        if !slots.settle(claim) {
            continue;
        }
        FrameCounts::add(&counts.frames, 1);
        answers.push(raw.and_then(|raw| write(slots, claim, &raw)).map_err(|e| failed(claim, e)));
    }
    answers
}

fn write(slots: &SharedSlots, claim: &Claim, raw: &[u8]) -> Result<Ready, FrameError> {
    slots.write(claim, raw).map_err(|_| error(Code::Unavailable, "a slot cannot be written"))?;
    Ok(Ready { slot: claim.want.slot, bytes: u32::try_from(raw.len()).unwrap_or(0) })
}

fn decode(
    decoder: &mut FrameDecoder,
    record: &FrameRecord,
    bytes: &Bytes,
    start: u64,
) -> Result<Vec<u8>, FrameError> {
    let range = record.byte_range();
    let (from, to) = ((range.start - start) as usize, (range.end - start) as usize);
    let stored =
        bytes.get(from..to).ok_or_else(|| error(Code::Corrupt, "a pack is shorter than it was"))?;
    decoder.decode(record, stored).map_err(|e| error(Code::Corrupt, &e.to_string()))
}

fn fail_all(run: Run, slots: &SharedSlots, error: &FrameError) -> Vec<Answer> {
    let claims = run.frames.into_iter().map(|(claim, _)| claim);
    claims.filter(|c| slots.settle(c)).map(|c| Err(failed(&c, error.clone()))).collect()
}

fn failed(claim: &Claim, error: FrameError) -> Failed {
    Failed { slot: claim.want.slot, why: Some(Refusal::from(error)) }
}

fn error(code: Code, reason: &str) -> FrameError {
    FrameError { code, reason: reason.to_owned() }
}

fn unknown() -> FrameError {
    error(Code::Corrupt, "a frame is wanted that its checkpoint does not name")
}

/// A source that could not be opened: it has no packs, and every read tells why.
pub(super) struct Unopened {
    why: FrameError,
    none: PackTable,
}

impl Unopened {
    pub(super) fn new(why: FrameError) -> Self {
        Self { why, none: PackTable::default() }
    }
}

#[async_trait]
impl OpenedSource for Unopened {
    /// Of none: it is read from nowhere.
    fn store(&self) -> &str {
        ""
    }

    fn packs(&self) -> &PackTable {
        &self.none
    }

    async fn read(&self, _: &PackName, _: Range<u64>) -> Result<Bytes, FrameError> {
        Err(self.why.clone())
    }

    fn unopened(&self) -> Option<FrameError> {
        Some(self.why.clone())
    }
}
