//! What a person does with a store: list, show, verify, delete, collect garbage. The same for the agent's API and for a CLI that goes to the
//! store straight.

use godwit_image::Manifest;
use godwit_store::{CheckpointRow, DeleteOptions, Depth, Retention, SweepOptions};
use godwit_store::{Store, StoreError, TenantStore};
use godwit_types::{Bytes, CheckpointId, LineageName, Outcome, Tenant};
use godwit_wire::api::{Gc, StoreCommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a command gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Answer {
    /// Of [`StoreCommand::List`].
    List(Listing),
    /// Of [`StoreCommand::Show`].
    Show(Box<Shown>),
    /// Of [`StoreCommand::Verify`].
    Verify(Verified),
    /// Of [`StoreCommand::Delete`].
    Deleted {
        /// What was deleted.
        checkpoint: CheckpointId,
    },
    /// Of [`StoreCommand::Gc`].
    Gc(Collected),
}

/// All checkpoints of all tenants, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// Those that can be read.
    pub checkpoints: Vec<Row>,
    /// Those that cannot, with the reason.
    pub unreadable: Vec<(CheckpointId, String)>,
}

/// One checkpoint in a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its id.
    pub id: CheckpointId,
    /// When it was begun, by the source's clock.
    pub created: Timestamp,
    /// The tenant.
    pub tenant: Tenant,
    /// Whose it is.
    pub lineage: LineageName,
    /// Name of the pod or container.
    pub pod: String,
    /// Where it was taken.
    pub node: String,
    /// What became of the source.
    pub outcome: Outcome,
    /// The checkpoint that it shares pages with.
    pub parent: Option<CheckpointId>,
    /// Memory that a restore gives back.
    pub memory: Bytes,
    /// Bytes of its own objects.
    pub own: Bytes,
    /// Bytes that other checkpoints name too.
    pub shared: Bytes,
    /// Bytes that go with it in the end.
    pub exclusive: Bytes,
    /// Whether its lineage could be continued from it.
    pub good: bool,
    /// Whether somebody holds it.
    pub held: bool,
    /// Operations that read it now.
    pub pins: usize,
}

/// One checkpoint in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// What it is.
    pub manifest: Manifest,
    /// Who may run the lineage now: `owned`, `offered`, `stopped`, `ended`.
    pub state: String,
    /// The node of the owner, or of the last one.
    pub owner: Option<String>,
    /// Stored bytes that a restore reaches into for each byte that it uses.
    pub read_amplification: f64,
    /// Entries of the lineage's log, oldest first: position, kind, node, when.
    pub log: Vec<LogLine>,
}

/// One entry of a log, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its position.
    pub seq: u64,
    /// What it records.
    pub kind: String,
    /// Who wrote it.
    pub node: String,
    /// When its operation began.
    pub at: Timestamp,
    /// The checkpoint that it commits.
    pub checkpoint: Option<CheckpointId>,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Objects looked at.
    pub objects: u64,
    /// Frames read and compared.
    pub frames: u64,
    /// Bytes read.
    pub read: Bytes,
    /// What is wrong; empty for a sound checkpoint.
    pub faults: Vec<String>,
}

/// What a collection of garbage did, over all tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Whether it only looked.
    pub dry_run: bool,
    /// Checkpoints that went because of the limits.
    pub deleted: Vec<CheckpointId>,
    /// Checkpoints that are beyond the limits and stay, with the reason.
    pub refused: Vec<(CheckpointId, String)>,
    /// Checkpoints that are needed.
    pub kept: usize,
    /// Checkpoints that were begun and never committed, and are given up.
    pub orphans: usize,
    /// Objects found unneeded for the first time, or not long enough ago: a later collection removes them.
    pub waiting: usize,
    /// Objects removed.
    pub removed: usize,
    /// Their bytes.
    pub freed: Bytes,
}

/// Carries a command out.
///
/// # Errors
/// The store does not answer, or refuses with a sentence.
pub async fn execute(store: &Store, command: StoreCommand) -> Result<Answer, StoreError> {
    match command {
        StoreCommand::List => list(store).await.map(Answer::List),
        StoreCommand::Show { checkpoint } => {
            let tenant = tenant_of(store, checkpoint).await?;
            show(&tenant, checkpoint).await.map(|s| Answer::Show(Box::new(s)))
        }
        StoreCommand::Verify { checkpoint } => {
            let tenant = tenant_of(store, checkpoint).await?;
            verify(&tenant, checkpoint).await.map(Answer::Verify)
        }
        StoreCommand::Delete { checkpoint, force } => {
            let tenant = tenant_of(store, checkpoint).await?;
            let options = DeleteOptions { force, why: "deleted by a person".to_owned() };
            tenant.delete_checkpoint(checkpoint, &options).await?;
            Ok(Answer::Deleted { checkpoint })
        }
        StoreCommand::Gc(gc) => collect(store, &gc).await.map(Answer::Gc),
    }
}

/// Removes what the limits say and what nobody needs, tenant by tenant.
///
/// # Errors
/// The store does not answer, or something that names objects is damaged: nothing of that tenant was removed then.
pub async fn collect(store: &Store, gc: &Gc) -> Result<Collected, StoreError> {
    let mut collected = Collected { dry_run: gc.dry_run, ..Collected::default() };
    let limits = Retention {
        keep_last: gc.keep_last,
        max_age_seconds: gc.max_age_seconds,
        max_bytes: gc.max_bytes,
    };
    for name in store.tenants().await? {
        let tenant = store.tenant(&name);
        if gc.dry_run {
            let (rows, _) = tenant.list().await?;
            let planned = limits.plan(&rows, Timestamp::now());
            collected.deleted.extend(planned.into_iter().map(|(id, _)| id));
        } else {
            let retired = tenant.retire(&limits).await?;
            collected.deleted.extend(retired.deleted);
            let refused = retired.refused.into_iter().map(|(id, why)| (id, why.to_string()));
            collected.refused.extend(refused);
        }
        let swept = tenant.sweep(SweepOptions { dry_run: gc.dry_run }).await?;
        collected.kept += swept.kept;
        collected.orphans += swept.orphans;
        collected.waiting += swept.listed + swept.waiting;
        collected.removed += swept.deleted;
        collected.freed.0 += swept.freed.0;
    }
    Ok(collected)
}

async fn list(store: &Store) -> Result<Listing, StoreError> {
    let mut listing = Listing::default();
    for name in store.tenants().await? {
        let (rows, unreadable) = store.tenant(&name).list().await?;
        listing.checkpoints.extend(rows.into_iter().map(row));
        listing.unreadable.extend(unreadable.into_iter().map(|u| (u.id, u.error.to_string())));
    }
    listing.checkpoints.sort_by_key(|row| std::cmp::Reverse(row.id));
    Ok(listing)
}

fn row(row: CheckpointRow) -> Row {
    let CheckpointRow { manifest, good, held, pins, own, shared, exclusive } = row;
    Row {
        id: manifest.id,
        created: manifest.created,
        tenant: manifest.tenant,
        lineage: manifest.lineage,
        pod: manifest.source.pod,
        node: manifest.source.node,
        outcome: manifest.outcome,
        parent: manifest.parent,
        memory: manifest.sizes.memory,
        own,
        shared,
        exclusive,
        good,
        held,
        pins,
    }
}

/// The tenant that has a checkpoint: ids are unique over all of them.
async fn tenant_of(store: &Store, id: CheckpointId) -> Result<TenantStore, StoreError> {
    let mut absent = None;
    for name in store.tenants().await? {
        let tenant = store.tenant(&name);
        match tenant.manifest(id).await {
            Ok(_) => return Ok(tenant),
            Err(error @ StoreError::Absent { .. }) => {
                absent.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let nothing = StoreError::Absent { id, absence: godwit_store::Absence::NoManifest };
    Err(absent.unwrap_or(nothing))
}

async fn show(tenant: &TenantStore, id: CheckpointId) -> Result<Shown, StoreError> {
    let manifest = tenant.manifest(id).await?;
    let entries = tenant.lineage(&manifest.lineage).read_all().await?;
    let newest = entries.last();
    let state = newest.map_or("empty", |entry| entry.state.word()).to_owned();
    let owner = newest.and_then(|entry| entry.state.owner()).map(|owner| owner.node.clone());
    let log = entries
        .iter()
        .map(|entry| LogLine {
            seq: entry.seq.0,
            kind: entry.kind.word().to_owned(),
            node: entry.by.node.clone(),
            at: time(entry.at_ms),
            checkpoint: entry.commits(),
        })
        .collect();
    let read_amplification = tenant.read_amplification(id).await?;
    Ok(Shown { manifest, state, owner, read_amplification, log })
}

async fn verify(tenant: &TenantStore, id: CheckpointId) -> Result<Verified, StoreError> {
    let report = tenant.verify(id, Depth::Frames, |_, _| ()).await?;
    let faults = report.faults.iter().map(|f| format!("{}: {}", f.object, f.error)).collect();
    Ok(Verified {
        checkpoint: id,
        objects: report.objects,
        frames: report.frames,
        read: report.read,
        faults,
    })
}

fn time(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}
