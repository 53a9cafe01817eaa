//! The audit: what a whole log says, entry by entry.

use crate::OwnershipError;
use crate::admit::permitted;
use crate::entry::{Basis, Entry};
use crate::state::State;

/// The state after these entries, given oldest first, recomputed from what each of them records.
///
/// A log may begin later than at 1 (old entries may be compacted): its first entry is then believed. Every later one must follow
/// without a gap, must have been permitted, and must say the state and generation that follow from it.
///
/// # Errors
/// [`OwnershipError::Gap`], [`OwnershipError::NotPermitted`], [`OwnershipError::StateDiffers`].
pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<State, OwnershipError> {
    let mut entries = entries.into_iter().peekable();
    let begun_later = entries.peek().is_some_and(|first| first.seq.0 > 1);
    let first = if begun_later { entries.next() } else { None };
    let basis = entries.try_fold(Basis::of(first), step)?;
    Ok(basis.state)
}

fn step(basis: Basis, entry: &Entry) -> Result<Basis, OwnershipError> {
    if entry.seq != basis.seq.next() {
        return Err(OwnershipError::Gap { after: basis.seq, found: entry.seq });
    }
    let state = permitted(&basis.state, &entry.by, &entry.kind)
        .map_err(|refusal| OwnershipError::NotPermitted { seq: entry.seq, refusal })?;
    let generation = basis.generation_after(&entry.kind);
    if state != entry.state || generation != entry.generation {
        return Err(OwnershipError::StateDiffers { seq: entry.seq });
    }
    Ok(Basis { seq: entry.seq, state, generation })
}

#[cfg(test)]
mod tests;
