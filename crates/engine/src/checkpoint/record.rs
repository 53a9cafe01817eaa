//! The end of the bytes: head, manifest, report.

use std::sync::Arc;

use godwit_capture::Assembled;
use godwit_criu::mounts::{MountPlan, PLAN_FILE};
use godwit_files::FileIndex;
use godwit_image::manifest::{
    ByteRange, Container, FORMAT, Network, Object, Source as Origin, TcpMode, Volume,
};
use godwit_image::{
    ContainerHead, Digest, EncodedHead, FrameUsage, Head, Manifest, PackRegistry, SECTION_FILES,
    SECTION_SPEC, Sections,
};
use godwit_ownership::SourceSpec;
use godwit_store::TenantStore;
use godwit_store::wrap::Counts;
use godwit_store::{CommitStage, PackStage};
use godwit_types::{Bytes, CheckpointReport, Generation, Reads, Sizes};
use jiff::Timestamp;

use super::dump::Dumped;
use super::work::{Captured, Made, Source, Work};
use super::{CheckpointError, Step};
use crate::blocking::blocking;
use crate::journal::Journal;
use crate::volumes;

/// Writes head and manifest after all packs.
///
/// # Errors
/// [`CheckpointError`].
pub(super) async fn write(
    work: &Work<'_>,
    stage: PackStage,
    packs: &Arc<PackRegistry>,
    source: Source,
    dumped: Dumped,
    captured: Captured,
    journal: &Journal,
) -> Result<(CommitStage, Manifest), CheckpointError> {
    let sizes = sizes(&captured, stage.accepted_bytes());
    let parent = stage.parent().map(|parent| parent.id);
    let stage = stage.close().await?;
    let Captured { image, assembled, files, .. } = captured;
    let files = files.map(|files| files.index);
    let volumes = volumes(work, &source, &dumped)?;
    let Dumped { images, processes, addresses, .. } = dumped;
    let container = container_head(&source, images, assembled, files.as_ref());
    let pages = container.spaces.values().map(|s| s.map.pages()).sum();
    let mut head = Head { packs: packs.table(), containers: vec![container], ..Head::default() };
    let mut objects = settle(&mut head, files.as_ref());
    let sizes = Sizes { reads: Some(reads(&head)), ..sizes };
    let encoded: EncodedHead = blocking(move || Ok(head.encode()?)).await?;
    let range = encoded.containers.first().cloned().unwrap_or_default();
    let stage = stage.head(encoded.bytes).await?;
    objects.push(stage.head_object().clone());
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let generation = generation(work).await?;
    let uploaded = Bytes(sizes.stored.0 + stage.head_object().size);
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        id: work.spec.checkpoint,
        tenant: work.spec.at.tenant.clone(),
        lineage: work.spec.at.lineage.clone(),
        generation,
        parent,
        op: work.spec.op,
        created: created(work.spec),
        outcome: work.spec.outcome,
        source: origin(work),
        containers: vec![Container {
            name: source.container.id.clone(),
            image: image.name,
            image_digest: image.chain_id,
            spec_digest: Digest::of(&source.spec_bytes),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
            pages,
            head: ByteRange { offset: range.start, length: range.end - range.start },
        }],
        init_done: Vec::new(),
        objects,
        compat: work.node.compat.clone(),
        network: Network { tcp: TcpMode::Close, ips: addresses },
        volumes,
        encryption: None,
        signature: None,
        sizes: Sizes { uploaded, ..sizes },
        timings: journal.timings(),
    };
    let stage = stage.manifest(&manifest).await?;
    Ok((stage, manifest))
}

fn volumes(
    work: &Work<'_>,
    source: &Source,
    dumped: &Dumped,
) -> Result<Vec<Volume>, CheckpointError> {
    let plan = dumped.images.get(PLAN_FILE).ok_or(CheckpointError::Order(Step::Dump))?;
    Ok(volumes::of(&MountPlan::decode(plan)?, &source.spec, work.spec.outcome))
}

fn container_head(
    source: &Source,
    images: Sections,
    assembled: Assembled,
    files: Option<&FileIndex>,
) -> ContainerHead {
    let mut sections = Sections::from([(SECTION_SPEC.to_owned(), source.spec_bytes.clone())]);
    if let Some(files) = files {
        sections.insert(SECTION_FILES.to_owned(), files.encode());
    }
    ContainerHead { name: source.container.id.clone(), images, spaces: assembled.spaces, sections }
}

fn sizes(captured: &Captured, accepted: u64) -> Sizes {
    let stats = captured.assembled.stats;
    let files = captured.files.as_ref().map(|files| files.stats).unwrap_or_default();
    let stored = stats.stored + captured.pre_read.stored + files.stored.0;
    Sizes {
        memory: stats.memory(),
        zero: stats.zero_bytes(),
        changed: stats.changed_bytes(),
        stored: Bytes(stored).max(Bytes(accepted)),
        uploaded: Bytes(accepted),
        files: files.contents,
        reads: None,
    }
}

/// Leaves in the head what is referred to; gives the packs that are: all others may be collected with their checkpoints.
pub(super) fn settle(head: &mut Head, files: Option<&FileIndex>) -> Vec<Object> {
    let mut usage = FrameUsage::default();
    head.count_usage(&mut usage);
    if let Some(files) = files {
        files.count_usage(&mut usage);
    }
    head.packs.retain(&usage);
    head.packs.iter().map(|(_, record)| Object::pack(record)).collect()
}

/// What a restore of all memory reads.
fn reads(head: &Head) -> Reads {
    let mut pages = FrameUsage::default();
    let spaces = head.containers.iter().flat_map(|c| c.spaces.values());
    spaces.for_each(|space| space.map.count_usage(&mut pages));
    head.packs.reads(&pages)
}

/// The generation that the lineage is in: the newest entry's.
async fn generation(work: &Work<'_>) -> Result<Generation, CheckpointError> {
    let newest = work.tenant.lineage(&work.spec.at.lineage).newest().await?;
    Ok(newest.map(|entry| entry.generation).unwrap_or_default())
}

fn origin(work: &Work<'_>) -> Origin {
    let me = &work.spec.pen.me;
    Origin {
        cluster: me.cluster.clone(),
        node: me.node.clone(),
        pod: work.request.container.clone(),
        uid: me.pod_uid.clone(),
    }
}

fn created(spec: &SourceSpec) -> Timestamp {
    let ms = i64::try_from(spec.pen.at_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The entry is settled: removes the intent, stores the report. What fails here changes nothing about the checkpoint.
pub(super) async fn finish(
    spec: &SourceSpec,
    tenant: &TenantStore,
    counts: &Counts,
    made: Made,
    journal: &mut Journal,
) -> CheckpointReport {
    let durable_ms = journal.elapsed_ms();
    if let Err(error) = made.commit.committed().await {
        tracing::info!(error = %error, "an intent is left to the sweep");
    }
    let report = CheckpointReport {
        op: spec.op,
        checkpoint: spec.checkpoint,
        lineage: spec.at.lineage.clone(),
        tenant: spec.at.tenant.clone(),
        parent: made.manifest.parent,
        store: spec.at.store.clone(),
        containers: made.manifest.containers.iter().map(|c| c.name.clone()).collect(),
        outcome: spec.outcome,
        frozen_ms: made.frozen_ms,
        criu_frozen_ms: made.criu_frozen_ms,
        durable_ms,
        sizes: made.manifest.sizes,
        requests: counts.all().requests,
        phases: journal.times(),
    };
    let stored = match serde_json::to_vec_pretty(&report) {
        Ok(json) => tenant.put_report(spec.checkpoint, json).await,
        Err(_) => Ok(()),
    };
    if let Err(error) = stored {
        tracing::info!(error = %error, "the report was not stored");
    }
    report
}
