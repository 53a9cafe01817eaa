//! The end of the bytes: head, manifest, report.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use godwit_criu::mounts::{MountPlan, PLAN_FILE};
use godwit_files::{FileIndex, FileStats};
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
use godwit_types::{Bytes, CheckpointReport, Generation, Outcome, Reads, Sizes, names};
use jiff::Timestamp;
use oci_spec::runtime::Spec;

use super::shared::SharedCaptured;
use super::source::annotation;
use super::work::{Captured, Made, Work};
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
    (captured, shared): (Vec<Captured>, Vec<SharedCaptured>),
    journal: &Journal,
) -> Result<(CommitStage, Manifest), CheckpointError> {
    let sizes = sizes(&captured, &shared, stage.accepted_bytes());
    let parent = stage.parent().map(|parent| parent.id);
    let stage = stage.close().await?;
    let mut volumes = volumes(work, &captured)?;
    volumes.extend(shared.iter().map(SharedCaptured::volume));
    let addresses = addresses(&captured);
    let specs = captured.iter().map(|one| &one.source.spec);
    let tcp = connections(work.spec.outcome, specs);
    let pod = captured.first().and_then(|one| annotation(&one.source.spec, names::SANDBOX_NAME));
    let pod = pod.map(str::to_owned);
    let (mut containers, mut heads, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
    for one in captured {
        let (container, head, files) = parts(one);
        containers.push(container);
        heads.push(head);
        indexes.extend(files);
    }
    let sections = shared.iter().map(SharedCaptured::section).collect();
    indexes.extend(shared.into_iter().map(|one| one.files.index));
    let mut head = Head { packs: packs.table(), containers: heads, sections };
    let mut objects = settle(&mut head, &indexes);
    let sizes = Sizes { reads: Some(reads(&head)), ..sizes };
    let encoded: EncodedHead = blocking(move || Ok(head.encode()?)).await?;
    for (container, range) in containers.iter_mut().zip(&encoded.containers) {
        container.head = ByteRange { offset: range.start, length: range.end - range.start };
    }
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
        source: origin(work, pod),
        containers,
        init_done: work.done.clone(),
        objects,
        compat: work.node.compat.clone(),
        network: Network { tcp, ips: addresses },
        volumes,
        encryption: None,
        signature: None,
        sizes: Sizes { uploaded, ..sizes },
        timings: journal.timings(),
    };
    let stage = stage.manifest(&manifest).await?;
    Ok((stage, manifest))
}

/// What the manifest and the head say of a container, and the index of its files.
fn parts(captured: Captured) -> (Container, ContainerHead, Option<FileIndex>) {
    let Captured { source, image, dumped, assembled, files, .. } = captured;
    let files = files.map(|files| files.index);
    let container = Container {
        name: source.name.clone(),
        image: image.name,
        image_digest: image.chain_id,
        spec_digest: Digest::of(&source.spec_bytes),
        processes: u32::try_from(dumped.processes).unwrap_or(u32::MAX),
        pages: assembled.spaces.values().map(|s| s.map.pages()).sum(),
        head: ByteRange { offset: 0, length: 0 },
    };
    let mut sections = Sections::from([(SECTION_SPEC.to_owned(), source.spec_bytes)]);
    if let Some(files) = &files {
        sections.insert(SECTION_FILES.to_owned(), files.encode());
    }
    let (name, images, spaces) = (source.name, dumped.images, assembled.spaces);
    (container, ContainerHead { name, images, spaces, sections }, files)
}

fn volumes(work: &Work<'_>, captured: &[Captured]) -> Result<Vec<Volume>, CheckpointError> {
    let mut all = Vec::new();
    for one in captured {
        let plan = one.dumped.images.get(PLAN_FILE).ok_or(CheckpointError::Order(Step::Dump))?;
        let plan = MountPlan::decode(plan)?;
        all.extend(volumes::of(&plan, &one.source.name, &one.source.spec, work.spec.outcome));
    }
    Ok(all)
}

/// They are kept for whoever takes the pod over: one that runs on uses them itself. Where every container asks for it, as the shim
/// reads it: else the pod was not silent.
fn connections<'a>(outcome: Outcome, mut specs: impl Iterator<Item = &'a Spec>) -> TcpMode {
    let keeps = |spec: &Spec| annotation(spec, names::TCP) == Some(names::KEEP);
    match outcome.gives_away() && specs.all(keeps) {
        true => TcpMode::Keep,
        false => TcpMode::Close,
    }
}

/// Those of the network that containers of a pod share, and of each that has one of its own.
fn addresses(captured: &[Captured]) -> Vec<IpAddr> {
    let all = captured.iter().flat_map(|one| &one.dumped.addresses);
    all.copied().collect::<BTreeSet<_>>().into_iter().collect()
}

fn sizes(captured: &[Captured], shared: &[SharedCaptured], accepted: u64) -> Sizes {
    let volumes = |of: fn(&FileStats) -> Bytes| -> u64 {
        shared.iter().map(|one| of(&one.files.stats).0).sum()
    };
    let sum = |of: &dyn Fn(&Captured) -> u64| Bytes(captured.iter().map(of).sum());
    let files = |one: &Captured| one.files.as_ref().map(|files| files.stats).unwrap_or_default();
    let stored =
        |one: &Captured| one.assembled.stats.stored + one.pre_read.stored + files(one).stored.0;
    Sizes {
        memory: sum(&|one| one.assembled.stats.memory().0),
        zero: sum(&|one| one.assembled.stats.zero_bytes().0),
        changed: sum(&|one| one.assembled.stats.changed_bytes().0),
        stored: Bytes(sum(&stored).0 + volumes(|stats| stats.stored)).max(Bytes(accepted)),
        uploaded: Bytes(accepted),
        files: Bytes(sum(&|one| files(one).contents.0).0 + volumes(|stats| stats.contents)),
        reads: None,
    }
}

/// Leaves in the head what is referred to; gives the packs that are: all others may be collected with their checkpoints.
pub(super) fn settle(head: &mut Head, files: &[FileIndex]) -> Vec<Object> {
    let mut usage = FrameUsage::default();
    head.count_usage(&mut usage);
    files.iter().for_each(|files| files.count_usage(&mut usage));
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

fn origin(work: &Work<'_>, pod: Option<String>) -> Origin {
    let me = &work.spec.pen.me;
    Origin {
        cluster: me.cluster.clone(),
        node: me.node.clone(),
        pod: pod.unwrap_or_else(|| work.request.container.clone()),
        uid: me.pod_uid.clone(),
        template: work.template.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_kept_of_a_pod_that_is_given_away_and_of_which_all_ask() {
        let with = |value: &str| {
            let mut spec = Spec::default();
            let annotations = [(names::TCP.to_owned(), value.to_owned())];
            spec.set_annotations(Some(annotations.into_iter().collect()));
            spec
        };
        let (keep, close, says_nothing) = (with(names::KEEP), with("close"), Spec::default());
        let of = |outcome, specs: &[&Spec]| connections(outcome, specs.iter().copied());
        for outcome in [Outcome::Stop, Outcome::Offer] {
            assert_eq!(of(outcome, &[&keep, &keep]), TcpMode::Keep);
            assert_eq!(of(outcome, &[&keep, &close]), TcpMode::Close);
            assert_eq!(of(outcome, &[&says_nothing, &keep]), TcpMode::Close);
        }
        assert_eq!(of(Outcome::Run, &[&keep]), TcpMode::Close);
    }
}
