//! The keys of the design (docs/design/store.md, section 1). The only place that knows them.

use godwit_types::{CheckpointId, LineageName, OpId, Seq, Tenant};

use crate::blob::{InvalidKey, Key};

/// Who this store is; written once.
pub(crate) const STORE_ID: &str = "godwit.json";
/// Where the start probe plays; no tenant's.
pub(crate) const PROBE: &str = "probe";

/// Which machine bears the name of a node. A directory of its own: leases of the node may come to lie beside it.
pub(crate) fn machine(cluster: &str, node: &str) -> Result<Key, InvalidKey> {
    Key::new(format!("nodes/{cluster}/{node}/machine"))
}

/// Whether this is an entry of a lineage's log.
pub(crate) fn is_entry(key: &Key) -> bool {
    key.as_str().split('/').nth_back(1) == Some("log")
}

/// The keys of one tenant.
#[derive(Debug, Clone)]
pub(crate) struct TenantKeys {
    root: String,
}

impl TenantKeys {
    pub(crate) fn new(tenant: &Tenant) -> Self {
        Self { root: format!("t/{tenant}") }
    }

    /// Prefix of all entries of a lineage.
    pub(crate) fn log(&self, lineage: &LineageName) -> String {
        format!("{}/lineages/{lineage}/log/", self.root)
    }

    pub(crate) fn entry(&self, lineage: &LineageName, seq: Seq) -> Key {
        Key::made_of(format!("{}{}", self.log(lineage), seq.inverted_key()))
    }

    /// Prefix of all lineages.
    pub(crate) fn lineages(&self) -> String {
        format!("{}/lineages/", self.root)
    }

    /// A key behind all entries of a lineage and before any other lineage's: where a LIST skips to.
    pub(crate) fn behind_log(&self, lineage: &LineageName) -> Key {
        // `0` follows `/` in ASCII.
        Key::made_of(format!("{}/lineages/{lineage}/log0", self.root))
    }

    /// Prefix of all checkpoints.
    pub(crate) fn checkpoints(&self) -> String {
        format!("{}/checkpoints/", self.root)
    }

    /// Prefix of everything of one checkpoint.
    pub(crate) fn checkpoint(&self, id: CheckpointId) -> String {
        format!("{}/checkpoints/{id}/", self.root)
    }

    fn part(&self, id: CheckpointId, part: impl std::fmt::Display) -> Key {
        Key::made_of(format!("{}/checkpoints/{id}/{part}", self.root))
    }

    pub(crate) fn intent(&self, id: CheckpointId) -> Key {
        self.part(id, "intent")
    }

    pub(crate) fn manifest(&self, id: CheckpointId) -> Key {
        self.part(id, "manifest.json")
    }

    pub(crate) fn report(&self, id: CheckpointId) -> Key {
        self.part(id, "report.json")
    }

    pub(crate) fn tombstone(&self, id: CheckpointId) -> Key {
        self.part(id, "tombstone")
    }

    pub(crate) fn hold(&self, id: CheckpointId) -> Key {
        self.part(id, "hold")
    }

    pub(crate) fn pins(&self, id: CheckpointId) -> String {
        format!("{}pins/", self.checkpoint(id))
    }

    pub(crate) fn pin(&self, id: CheckpointId, op: OpId) -> Key {
        self.part(id, format_args!("pins/{op}"))
    }

    /// An object that a manifest names: its key is written below `checkpoints/`.
    pub(crate) fn object(&self, key_in_manifest: &str) -> Result<Key, InvalidKey> {
        Key::new(format!("{}{key_in_manifest}", self.checkpoints()))
    }

    /// Prefix of the sweep's own objects.
    pub(crate) fn gc(&self) -> String {
        format!("{}/gc/", self.root)
    }

    /// Written and looked at to learn the store's time; holds nothing.
    pub(crate) fn gc_clock(&self) -> Key {
        Key::made_of(format!("{}/gc/clock", self.root))
    }

    /// A list of candidates.
    pub(crate) fn gc_list(&self, id: ulid::Ulid) -> Key {
        Key::made_of(format!("{}/gc/{id}", self.root))
    }

    /// The checkpoint and the part below it that a key names.
    pub(crate) fn parse(&self, key: &Key) -> Option<(CheckpointId, Part)> {
        let rest = key.as_str().strip_prefix(&self.checkpoints())?;
        let (id, part) = rest.split_once('/')?;
        let parsed: CheckpointId = id.parse().ok()?;
        (parsed.to_string() == id).then(|| (parsed, Part::of(part)))
    }

    /// The lineage that a key of its log belongs to.
    pub(crate) fn parse_lineage(&self, key: &Key) -> Option<LineageName> {
        let rest = key.as_str().strip_prefix(&self.lineages())?;
        let mut parts = rest.splitn(3, '/');
        LineageName::new(format!("{}/{}", parts.next()?, parts.next()?)).ok()
    }
}

/// What an object below a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Intent,
    Manifest,
    Tombstone,
    Hold,
    Pin(OpId),
    /// Packs, digests, the head, the report, and what a later version may add.
    Other,
}

impl Part {
    fn of(text: &str) -> Self {
        match text {
            "intent" => Self::Intent,
            "manifest.json" => Self::Manifest,
            "tombstone" => Self::Tombstone,
            "hold" => Self::Hold,
            other => other
                .strip_prefix("pins/")
                .and_then(|op| op.parse().ok())
                .map_or(Self::Other, Self::Pin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_a_log_shows_the_newest_first_and_can_skip_it_whole() {
        let keys = TenantKeys::new(&Tenant::node());
        let web = LineageName::new("pod/web").unwrap();
        let (newer, older) = (keys.entry(&web, Seq(2)), keys.entry(&web, Seq(1)));
        assert!(newer < older && older < keys.behind_log(&web));
        assert!(newer.as_str().starts_with(&keys.log(&web)));
        assert_eq!(keys.parse_lineage(&newer), Some(web));
        // A lineage whose name continues this one's is not skipped with it.
        let next = LineageName::new("pod/web.1").unwrap();
        assert!(keys.entry(&next, Seq(1)) < newer);
    }

    #[test]
    fn parts_of_a_checkpoint_are_told_apart() {
        let keys = TenantKeys::new(&Tenant::node());
        let (id, op) = (CheckpointId::from(7), OpId::from(8));
        let parsed = |key: Key| keys.parse(&key).unwrap();
        assert_eq!(parsed(keys.intent(id)), (id, Part::Intent));
        assert_eq!(parsed(keys.pin(id, op)), (id, Part::Pin(op)));
        assert_eq!(parsed(keys.object(&format!("{id}/packs/0001")).unwrap()), (id, Part::Other));
        assert_eq!(keys.parse(&keys.gc_clock()), None);
        assert!(keys.object("../x").is_err());
    }
}
