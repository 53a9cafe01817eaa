//! What a person does with a store: list, show, verify, delete, hold, collect garbage. The same for the agent's API and for a CLI
//! that goes to the store straight.

use godwit_image::Manifest;
use godwit_store::{CheckpointRow, DeleteOptions, Depth, Hold, Retention, SweepOptions};
use godwit_store::{Store, StoreError, TenantStore};
use godwit_types::{Bytes, CheckpointId, Code, LineageName, Outcome, Phase, Tenant};
use godwit_wire::api::{Gc, StoreCommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::compat::Comparison;
use crate::error::EngineError;
use crate::journal::{Gauge, Journal};

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
    /// Of [`StoreCommand::Hold`].
    Held {
        /// What is held.
        checkpoint: CheckpointId,
    },
    /// Of [`StoreCommand::Unhold`].
    Released {
        /// What nobody holds any more.
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
    /// See [`Reads::amplification`]; `None`: an earlier version of Godwit made it.
    ///
    /// [`Reads::amplification`]: godwit_types::Reads::amplification
    pub read_amplification: Option<f64>,
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
    /// Who keeps it from being deleted, and why.
    pub held: Option<Hold>,
    /// As in [`Row`].
    pub read_amplification: Option<f64>,
    /// Entries of the lineage's log, oldest first: position, kind, node, when.
    pub log: Vec<LogLine>,
    /// How the node differs whose agent was asked; `None`: none was.
    #[serde(default)]
    pub here: Option<Comparison>,
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
    /// Whether it was cancelled before it was through: what it did is done, a later one goes on.
    #[serde(default)]
    pub cancelled: bool,
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
    /// Tenants that could not be collected, with the reason: nothing that a damaged object may name was removed.
    #[serde(default)]
    pub failed: Vec<(Tenant, String)>,
}

/// Carries a command out. `journal` is told how far it is.
///
/// # Cancellation
/// What only reads ends at once, as an error. A deletion or a hold is carried through. A collection ends where a later one goes on,
/// and its answer says so.
///
/// # Errors
/// The store does not answer, or refuses with a sentence; [`EngineError::Cancelled`].
pub async fn execute(
    store: &Store,
    command: StoreCommand,
    journal: &mut Journal,
    cancel: &CancellationToken,
) -> Result<Answer, EngineError> {
    use StoreCommand::{List, Show, Verify};
    let reads = matches!(command, List | Show { .. } | Verify { .. });
    let work = carry_out(store, command, journal, cancel);
    if !reads {
        return Ok(work.await?);
    }
    Ok(cancel.run_until_cancelled(work).await.ok_or(EngineError::Cancelled)??)
}

async fn carry_out(
    store: &Store,
    command: StoreCommand,
    journal: &mut Journal,
    cancel: &CancellationToken,
) -> Result<Answer, StoreError> {
    match command {
        StoreCommand::List => list(store).await.map(Answer::List),
        StoreCommand::Show { checkpoint } => {
            let tenant = tenant_of(store, checkpoint).await?;
            show(&tenant, checkpoint).await.map(|s| Answer::Show(Box::new(s)))
        }
        StoreCommand::Verify { checkpoint } => {
            journal.enter(Phase::Verify);
            let tenant = tenant_of(store, checkpoint).await?;
            verify(&tenant, checkpoint, &journal.gauge()).await.map(Answer::Verify)
        }
        StoreCommand::Hold { checkpoint, who, why } => {
            tenant_of(store, checkpoint).await?.hold(checkpoint, &who, &why).await?;
            Ok(Answer::Held { checkpoint })
        }
        StoreCommand::Unhold { checkpoint } => {
            tenant_of(store, checkpoint).await?.unhold(checkpoint).await?;
            Ok(Answer::Released { checkpoint })
        }
        StoreCommand::Delete { checkpoint, force } => {
            let tenant = tenant_of(store, checkpoint).await?;
            let options = DeleteOptions { force, why: "deleted by a person".to_owned() };
            tenant.delete_checkpoint(checkpoint, &options).await?;
            Ok(Answer::Deleted { checkpoint })
        }
        StoreCommand::Gc(gc) => {
            journal.enter(Phase::Collect);
            collect(store, &gc, cancel).await.map(Answer::Gc)
        }
    }
}

/// Removes what the limits say and what nobody needs, tenant by tenant. A tenant that cannot be collected, because something
/// that names objects is damaged or may not be read, is noted and does not keep the others' garbage.
///
/// When cancelled, checkpoints of one tenant that go are deleted to the end; a sweep is left where it is, as any crash would leave it
/// (`crates/store/src/gc.rs`).
///
/// # Errors
/// The store does not answer.
pub async fn collect(
    store: &Store,
    gc: &Gc,
    cancel: &CancellationToken,
) -> Result<Collected, StoreError> {
    let mut collected = Collected { dry_run: gc.dry_run, ..Collected::default() };
    for name in store.tenants().await? {
        if cancel.is_cancelled() {
            collected.cancelled = true;
            break;
        }
        match collect_tenant(&store.tenant(&name), gc, &mut collected, cancel).await {
            Err(error) if error.code() != Code::Unavailable => {
                collected.failed.push((name, told(&error)));
            }
            other => other?,
        }
    }
    Ok(collected)
}

/// An error with what is below it, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        out = format!("{out}: {cause}");
        below = cause.source();
    }
    out
}

async fn collect_tenant(
    tenant: &TenantStore,
    gc: &Gc,
    collected: &mut Collected,
    cancel: &CancellationToken,
) -> Result<(), StoreError> {
    let limits = Retention {
        keep_last: gc.keep_last,
        max_age_seconds: gc.max_age_seconds,
        max_bytes: gc.max_bytes,
    };
    if gc.dry_run && limits != Retention::default() {
        let (rows, _) = tenant.list().await?;
        let planned = limits.plan(&rows, Timestamp::now());
        collected.deleted.extend(planned.into_iter().map(|(id, _)| id));
    } else if !gc.dry_run {
        let retired = tenant.retire(&limits).await?;
        collected.deleted.extend(retired.deleted);
        let refused = retired.refused.into_iter().map(|(id, why)| (id, why.to_string()));
        collected.refused.extend(refused);
    }
    let sweep = tenant.sweep(SweepOptions { dry_run: gc.dry_run });
    let Some(swept) = cancel.run_until_cancelled(sweep).await else {
        collected.cancelled = true;
        return Ok(());
    };
    let swept = swept?;
    collected.kept += swept.kept;
    collected.orphans += swept.orphans;
    collected.waiting += swept.listed + swept.waiting;
    collected.removed += swept.deleted;
    collected.freed.0 += swept.freed.0;
    Ok(())
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
    let CheckpointRow { manifest, place, held, pins, own, shared, exclusive } = row;
    let read_amplification = amplification(&manifest);
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
        read_amplification,
        good: place.is_some(),
        held,
        pins,
    }
}

fn amplification(manifest: &Manifest) -> Option<f64> {
    manifest.sizes.reads.map(|reads| reads.amplification())
}

/// The tenant that has a checkpoint, sound or not, deleted or not: ids are unique over all of them.
async fn tenant_of(store: &Store, id: CheckpointId) -> Result<TenantStore, StoreError> {
    for name in store.tenants().await? {
        let tenant = store.tenant(&name);
        if tenant.knows(id).await? {
            return Ok(tenant);
        }
    }
    Err(StoreError::Absent { id, absence: godwit_store::Absence::NoManifest })
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
    let read_amplification = amplification(&manifest);
    let held = tenant.held(id).await?;
    Ok(Shown { manifest, state, owner, held, read_amplification, log, here: None })
}

async fn verify(
    tenant: &TenantStore,
    id: CheckpointId,
    gauge: &Gauge,
) -> Result<Verified, StoreError> {
    let report = tenant.verify(id, Depth::Frames, |done, all| gauge.set(done, all)).await?;
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

#[cfg(test)]
mod tests;
