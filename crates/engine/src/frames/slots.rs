//! The shared memory of one pager, and who may write which slot.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use godwit_wire::WireError;
use godwit_wire::pager::frames::{MAX_SLOTS, Need, SLOT_BYTES, Want};
use rustix::fs::SealFlags;

/// The slots of one connection.
#[derive(Debug)]
pub(super) struct SharedSlots {
    memory: OwnedFd,
    count: u32,
    /// By slot: the turn that it is in, and whether that was answered.
    turns: Mutex<HashMap<u32, (u64, bool)>>,
}

/// The right to answer one want. Of two claims to one turn of a slot (a prefetch, then an urgent one) the first that
/// has the bytes writes.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) want: Want,
}

impl SharedSlots {
    /// Takes the memory after checking that it is as large as it says and cannot shrink under us.
    pub(super) fn new(memory: OwnedFd, count: u32) -> Result<Self, WireError> {
        let invalid = |value: String| WireError::Field { field: "slots", value };
        if count == 0 || count > MAX_SLOTS {
            return Err(invalid(count.to_string()));
        }
        let seals = rustix::fs::fcntl_get_seals(&memory).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(invalid("memory that can shrink".to_owned()));
        }
        let size = rustix::fs::fstat(&memory)
            .map_err(|e| WireError::Io { action: "looking at slots", source: e.into() })?
            .st_size;
        if u64::try_from(size).unwrap_or(0) < u64::from(count) * SLOT_BYTES {
            return Err(invalid(format!("{size} bytes of memory for {count} slots")));
        }
        Ok(Self { memory, count, turns: Mutex::default() })
    }

    /// Claims the slots of a message. Wants whose turn was answered already are left out.
    pub(super) fn claim(&self, need: &Need) -> Result<Vec<Claim>, WireError> {
        let mut turns = self.turns();
        let mut claims = Vec::with_capacity(need.wants.len());
        for want in &need.wants {
            if want.slot >= self.count {
                return Err(WireError::Field { field: "slot", value: want.slot.to_string() });
            }
            let (turn, answered) = turns.entry(want.slot).or_insert((want.turn, false));
            match want.turn.cmp(turn) {
                // Its slot may hold another frame by now.
                Less => continue,
                Equal if *answered => continue,
                Equal => {}
                Greater if !*answered => {
                    return Err(WireError::Field { field: "turn", value: want.turn.to_string() });
                }
                Greater => (*turn, *answered) = (want.turn, false),
            }
            claims.push(Claim { want: *want });
        }
        Ok(claims)
    }

    /// Gives a slot up; `false` if another claim has answered it already: then it is not ours any more.
    ///
    /// Whoever gets `true` writes before the answer is sent, and the pager begins no new turn before that.
    pub(super) fn settle(&self, claim: &Claim) -> bool {
        let mut turns = self.turns();
        match turns.get_mut(&claim.want.slot) {
            Some((turn, answered)) if *turn == claim.want.turn && !*answered => {
                *answered = true;
                true
            }
            _ => false,
        }
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<u32, (u64, bool)>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a frame to the claimed slot. Only after [`SharedSlots::settle`] said `true`.
    pub(super) fn write(&self, claim: &Claim, bytes: &[u8]) -> std::io::Result<()> {
        let mut offset = u64::from(claim.want.slot) * SLOT_BYTES;
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = rustix::io::pwrite(&self.memory, rest, offset)?;
            offset += n as u64;
            rest = &rest[n..];
        }
        Ok(())
    }
}
