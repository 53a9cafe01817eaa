//! Results for people.

use comfy_table::{ContentArrangement, Table, presets};
use godwit_engine::catalog::{Collected, Listing, Row, Shown, Verified};
use godwit_types::{Bytes, CheckpointReport, Outcome};
use godwit_wire::api::AgentStatus;
use jiff::Timestamp;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    table
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Run => "running",
        Outcome::Stop => "stopped",
        Outcome::Offer => "offered",
    }
}

/// What a checkpoint did. The id comes alone on the first line, for scripts that cut it out.
pub(crate) fn checkpoint(report: &CheckpointReport) {
    let sizes = &report.sizes;
    println!("{}", report.checkpoint);
    println!("  container  {} ({})", report.containers.join(", "), outcome(report.outcome));
    println!("  lineage    {} in store {}", report.lineage, report.store);
    println!("  frozen     {:.1} ms (CRIU: {:.1} ms)", report.frozen_ms, report.criu_frozen_ms);
    println!("  durable    after {:.0} ms", report.durable_ms);
    println!("  memory     {} (zero {}, changed {})", sizes.memory, sizes.zero, sizes.changed);
    println!("  stored     {} in {} requests", sizes.stored, report.requests);
    if let Some(parent) = report.parent {
        println!("  parent     {parent}");
    }
}

/// All checkpoints.
pub(crate) fn listing(listing: &Listing) {
    let mut table = table(&[
        "CHECKPOINT",
        "AGE",
        "POD",
        "NODE",
        "SOURCE",
        "MEMORY",
        "OWN",
        "SHARED",
        "PARENT",
        "",
    ]);
    for row in &listing.checkpoints {
        table.add_row([
            row.id.to_string(),
            age(row.created),
            row.pod.clone(),
            row.node.clone(),
            outcome(row.outcome).to_owned(),
            row.memory.to_string(),
            row.own.to_string(),
            row.shared.to_string(),
            row.parent.map(|p| p.to_string()).unwrap_or_else(|| "-".to_owned()),
            notes(row),
        ]);
    }
    println!("{table}");
    for (id, why) in &listing.unreadable {
        eprintln!("{id} cannot be read: {why}");
    }
}

fn notes(row: &Row) -> String {
    let mut notes = Vec::new();
    if !row.good {
        notes.push("not to continue from".to_owned());
    }
    if row.held {
        notes.push("held".to_owned());
    }
    if row.pins > 0 {
        notes.push(format!("read by {}", row.pins));
    }
    notes.join(", ")
}

fn age(created: Timestamp) -> String {
    let seconds = Timestamp::now().as_second().saturating_sub(created.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// One checkpoint.
pub(crate) fn shown(shown: &Shown) {
    let m = &shown.manifest;
    println!("checkpoint  {}", m.id);
    println!("created     {}", m.created);
    println!("source      {} on {} ({})", m.source.pod, m.source.node, outcome(m.outcome));
    println!("lineage     {} (tenant {}, generation {})", m.lineage, m.tenant, m.generation.0);
    let owner = shown.owner.as_deref().unwrap_or("-");
    println!("now         {} (owner or last owner: {owner})", shown.state);
    println!("memory      {} (zero {}, changed {})", m.sizes.memory, m.sizes.zero, m.sizes.changed);
    println!("stored      {} by this checkpoint", m.sizes.stored);
    let all: u64 = m.objects.iter().map(|o| o.size).sum();
    println!(
        "objects     {} with {}, read amplification {:.2}",
        m.objects.len(),
        Bytes(all),
        shown.read_amplification
    );
    println!(
        "made on     {} Linux {}, CRIU {}, cgroup v{}",
        m.compat.arch, m.compat.kernel, m.compat.criu, m.compat.cgroup_version
    );
    for c in &m.containers {
        println!("container   {} ({} processes, {})", c.name, c.processes, Bytes(c.pages * 4096));
    }
    let mut table = table(&["SEQ", "ENTRY", "NODE", "AT", "CHECKPOINT"]);
    for line in &shown.log {
        let checkpoint = line.checkpoint.map(|c| c.to_string()).unwrap_or_else(|| "-".to_owned());
        table.add_row([
            line.seq.to_string(),
            line.kind.clone(),
            line.node.clone(),
            line.at.to_string(),
            checkpoint,
        ]);
    }
    println!("\n{table}");
}

/// What a verification found.
pub(crate) fn verified(verified: &Verified) {
    for fault in &verified.faults {
        println!("{fault}");
    }
    let verdict = if verified.faults.is_empty() { "sound" } else { "NOT SOUND" };
    println!(
        "{}: {verdict} ({} objects, {} frames, {} read)",
        verified.checkpoint, verified.objects, verified.frames, verified.read
    );
}

/// What a collection of garbage did.
pub(crate) fn collected(collected: &Collected) {
    let done = if collected.dry_run { "would delete" } else { "deleted" };
    for id in &collected.deleted {
        println!("{done} {id}");
    }
    for (id, why) in &collected.refused {
        println!("kept {id}: {why}");
    }
    let Collected { kept, orphans, waiting, removed, freed, .. } = collected;
    println!("{kept} checkpoints are needed, {orphans} were never committed and are given up");
    println!("{removed} objects removed ({freed}), {waiting} wait for a later collection");
}

/// The agent.
pub(crate) fn status(status: &AgentStatus) {
    println!("agent   {} on {}", status.version, status.node);
    println!("criu    {}", status.criu);
    let (used, total) = status.budget;
    println!("budget  {} of {} reserved", Bytes(used), Bytes(total));
    let mut stores = table(&["STORE", "URL", "STATE"]);
    for s in &status.stores {
        stores.add_row([&s.name, &s.url, &s.state]);
    }
    println!("\n{stores}");
    let mut pods = table(&["POD", "SHIM", "FENCE", "LINEAGE"]);
    for p in &status.pods {
        pods.add_row([&p.pod, &p.shim, &p.fence, &p.lineage]);
    }
    println!("\n{pods}");
    if status.operations.is_empty() {
        return;
    }
    let mut operations = table(&["OPERATION", "KIND", "POD", "PHASE", "BYTES"]);
    for o in &status.operations {
        let (phase, bytes) = match o.progress {
            Some(p) => (p.phase.to_string(), format!("{} of {}", Bytes(p.done), Bytes(p.total))),
            None => ("-".to_owned(), "-".to_owned()),
        };
        operations.add_row([o.op.to_string(), o.kind.clone(), o.pod.clone(), phase, bytes]);
    }
    println!("\n{operations}");
}
