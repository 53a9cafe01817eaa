//! What a pack is called: in the store by checkpoint, kind and number; within a checkpoint by a slot.

use std::fmt;

use godwit_types::{CheckpointId, PackIndex};

/// Index into the pack table of a head. A child's table begins as a copy of its parent's, so references that are shared
/// keep their slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackSlot(pub u32);

/// What the frames of a pack hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Pages and contents of files.
    Data,
    /// Blocks of page digests.
    Digests,
}

impl PackKind {
    /// The folder of the checkpoint that holds packs of this kind.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Data => "packs",
            Self::Digests => "digests",
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Digests => 1,
        }
    }

    pub(crate) fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Data),
            1 => Some(Self::Digests),
            _ => None,
        }
    }
}

/// Names a pack for ever: the checkpoint that wrote it, its kind, its number among those of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// The checkpoint that wrote it.
    pub checkpoint: CheckpointId,
    /// What it holds.
    pub kind: PackKind,
    /// Its number.
    pub index: PackIndex,
}

impl PackName {
    /// Its key below the checkpoint's prefix: `packs/0007`, `digests/0000`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{:04}", self.kind.folder(), self.index.0)
    }

    /// The inverse of [`PackName::key`]; `None` for any other text.
    #[must_use]
    pub fn from_key(checkpoint: CheckpointId, key: &str) -> Option<Self> {
        let (folder, number) = key.split_once('/')?;
        let kind =
            [PackKind::Data, PackKind::Digests].into_iter().find(|k| k.folder() == folder)?;
        let name = Self { checkpoint, kind, index: PackIndex(number.parse().ok()?) };
        (name.key() == key).then_some(name)
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.checkpoint, self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_no_other_text_is_a_key() {
        let checkpoint = CheckpointId::from(7);
        for (kind, n, key) in
            [(PackKind::Data, 7, "packs/0007"), (PackKind::Digests, 12_345, "digests/12345")]
        {
            let name = PackName { checkpoint, kind, index: PackIndex(n) };
            assert_eq!(name.key(), key);
            assert_eq!(PackName::from_key(checkpoint, key), Some(name));
        }
        for bad in ["packs/7", "packs/+0007", "packs/00007", "head", "x/0001", "packs/0001/2"] {
            assert_eq!(PackName::from_key(checkpoint, bad), None, "{bad}");
        }
    }
}
