//! Results for people: texts of some lines.

use comfy_table::{ContentArrangement, Table, presets};
use godwit_engine::catalog::{Collected, Listing, Row, Shown, Verified};
use godwit_engine::compat::Comparison;
use godwit_install::check::{Finding, Verdict};
use godwit_types::{Bytes, CheckpointReport, Outcome, Reads};
use godwit_wire::api::{AgentStatus, Eligibility, ListedPod, PodList};
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
pub(crate) fn checkpoint(report: &CheckpointReport) -> String {
    let sizes = &report.sizes;
    let mut lines = vec![
        report.checkpoint.to_string(),
        format!("  container  {} ({})", report.containers.join(", "), outcome(report.outcome)),
        format!("  lineage    {} in store {}", report.lineage, report.store),
        format!("  frozen     {:.1} ms (CRIU: {:.1} ms)", report.frozen_ms, report.criu_frozen_ms),
        format!("  durable    after {:.0} ms", report.durable_ms),
        format!("  memory     {} (zero {}, changed {})", sizes.memory, sizes.zero, sizes.changed),
        format!("  stored     {} in {} requests", sizes.stored, report.requests),
    ];
    lines.extend(report.parent.map(|parent| format!("  parent     {parent}")));
    lines.join("\n")
}

/// All checkpoints.
pub(crate) fn listing(listing: &Listing) -> String {
    let mut table = table(&[
        "CHECKPOINT",
        "AGE",
        "POD",
        "NODE",
        "SOURCE",
        "MEMORY",
        "OWN",
        "SHARED",
        "READS",
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
            amplification(row.read_amplification),
            row.parent.map(|p| p.to_string()).unwrap_or_else(|| "-".to_owned()),
            notes(row),
        ]);
    }
    table.to_string()
}

/// Those that cannot be listed.
pub(crate) fn unreadable(listing: &Listing) -> Vec<String> {
    listing.unreadable.iter().map(|(id, why)| format!("{id} cannot be read: {why}")).collect()
}

/// Read amplification.
fn amplification(of: Option<f64>) -> String {
    of.map_or_else(|| "-".to_owned(), |times| format!("{times:.2}x"))
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
pub(crate) fn shown(shown: &Shown) -> String {
    let m = &shown.manifest;
    let all: u64 = m.objects.iter().map(|o| o.size).sum();
    let mut lines = vec![
        format!("checkpoint  {}", m.id),
        format!("created     {}", m.created),
        format!("source      {} on {} ({})", m.source.pod, m.source.node, outcome(m.outcome)),
        format!("lineage     {} (tenant {}, generation {})", m.lineage, m.tenant, m.generation.0),
        format!(
            "now         {} (owner or last owner: {})",
            shown.state,
            shown.owner.as_deref().unwrap_or("-")
        ),
    ];
    lines.extend(
        shown.held.as_ref().map(|h| format!("held        by {} ({}) since {}", h.who, h.why, h.at)),
    );
    lines.extend([
        format!(
            "memory      {} (zero {}, changed {})",
            m.sizes.memory, m.sizes.zero, m.sizes.changed
        ),
        format!("stored      {} by this checkpoint", m.sizes.stored),
        format!("objects     {} with {}", m.objects.len(), Bytes(all)),
        format!("reads       {}", reads(m.sizes.reads)),
        format!(
            "made on     {} Linux {}, CRIU {}, cgroup v{}",
            m.compat.arch, m.compat.kernel, m.compat.criu, m.compat.cgroup_version
        ),
    ]);
    lines.extend(shown.here.as_ref().map(|compared| format!("here        {}", here(compared))));
    lines.extend(m.containers.iter().map(|c| {
        format!("container   {} ({} processes, {})", c.name, c.processes, Bytes(c.pages * 4096))
    }));
    format!("{}\n\n{}", lines.join("\n"), log(shown))
}

/// Whether a node can continue a checkpoint.
pub(crate) fn here(compared: &Comparison) -> String {
    let others = match compared.others.as_slice() {
        [] => String::new(),
        others => format!(" (different: {})", others.join("; ")),
    };
    match &compared.fault {
        None => format!("this node can continue it{others}"),
        Some(why) => format!("{why}{others}"),
    }
}

fn reads(reads: Option<Reads>) -> String {
    let factor = amplification(reads.map(|reads| reads.amplification()));
    match reads {
        Some(Reads { fetched, needed }) => format!(
            "{factor} (read amplification): {fetched} of frames for {needed} that hold its memory"
        ),
        None => factor,
    }
}

fn log(shown: &Shown) -> Table {
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
    table
}

/// What a verification found.
pub(crate) fn verified(verified: &Verified) -> String {
    let mut lines = verified.faults.clone();
    let verdict = if verified.faults.is_empty() { "sound" } else { "NOT SOUND" };
    lines.push(format!(
        "{}: {verdict} ({} objects, {} frames, {} read)",
        verified.checkpoint, verified.objects, verified.frames, verified.read
    ));
    lines.join("\n")
}

/// What a collection of garbage did.
pub(crate) fn collected(collected: &Collected) -> String {
    let done = if collected.dry_run { "would delete" } else { "deleted" };
    let mut lines: Vec<String> =
        collected.deleted.iter().map(|id| format!("{done} {id}")).collect();
    lines.extend(collected.refused.iter().map(|(id, why)| format!("kept {id}: {why}")));
    let Collected { kept, orphans, waiting, removed, freed, .. } = collected;
    lines.push(format!(
        "{kept} checkpoints are needed, {orphans} were never committed and are given up"
    ));
    lines.push(format!(
        "{removed} objects removed ({freed}), {waiting} wait for a later collection"
    ));
    lines.extend(
        collected
            .failed
            .iter()
            .map(|(tenant, why)| format!("tenant {tenant} was NOT collected: {why}")),
    );
    if collected.cancelled {
        lines.push(
            "cancelled: what was deleted stays deleted, a later collection goes on".to_owned(),
        );
    }
    lines.join("\n")
}

/// The agent.
pub(crate) fn status(status: &AgentStatus) -> String {
    let (used, total) = status.budget;
    let mut stores = table(&["STORE", "URL", "STATE"]);
    for s in &status.stores {
        stores.add_row([&s.name, &s.url, &s.state]);
    }
    let mut pods = table(&["POD", "SHIM", "FENCE", "LINEAGE"]);
    for p in &status.pods {
        pods.add_row([&p.pod, &p.shim, &p.fence, &p.lineage]);
    }
    let mut parts = vec![
        format!("agent   {} on {}", status.version, status.node),
        format!("criu    {}", status.criu),
        format!("budget  {} of {} reserved", Bytes(used), Bytes(total)),
        format!("\n{stores}"),
        format!("\n{pods}"),
    ];
    if !status.operations.is_empty() {
        parts.push(format!("\n{}", operations(status)));
    }
    if !status.restored.is_empty() {
        parts.push(format!("\n{}", restored(status)));
    }
    parts.join("\n")
}

/// The pods of Kubernetes.
pub(crate) fn pods(list: &PodList) -> String {
    let mut table =
        table(&["NAMESPACE", "NAME", "CONTAINERS", "LINEAGE", "CHECKPOINT", "ELIGIBLE"]);
    for pod in &list.pods {
        let ListedPod { namespace, name, containers, lineage, last_checkpoint, .. } = pod;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.add_row([
            namespace.clone(),
            name.clone(),
            or_none(Some(containers.join(",")).filter(|names| !names.is_empty())),
            or_none(lineage.clone()),
            or_none(last_checkpoint.map(|id| id.to_string())),
            eligible(&pod.eligibility),
        ]);
    }
    table.to_string()
}

/// What was looked at; a line for each.
pub(crate) fn checks(checks: &[Finding]) -> String {
    let line = |check: &Finding| {
        let word = match &check.verdict {
            Verdict::Bad(_) => "BAD",
            other => other.word(),
        };
        format!("{word:8}  {:14}  {}", check.subject, check.verdict.told())
    };
    checks.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn eligible(eligibility: &Eligibility) -> String {
    match eligibility {
        Eligibility::Yes => "yes".to_owned(),
        Eligibility::No { reason } => format!("no: {reason}"),
        Eligibility::Unknown { reason } => format!("unknown: {reason}"),
    }
}

fn restored(status: &AgentStatus) -> Table {
    let mut restored = table(&["RESTORED", "CONTAINER", "RAN AFTER", "ALL MEMORY AFTER", "FAULTS"]);
    for r in &status.restored {
        let (whole, faults) = match r.hydrated {
            Some(h) => (format!("{} ms", h.ms), h.faults.to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let ran = format!("{:.0} ms", r.resumed_ms);
        restored.add_row([r.checkpoint.to_string(), r.container.clone(), ran, whole, faults]);
    }
    restored
}

fn operations(status: &AgentStatus) -> Table {
    let mut operations = table(&["OPERATION", "KIND", "POD", "PHASE", "BYTES"]);
    for o in &status.operations {
        let (phase, bytes) = match o.progress {
            Some(p) => (p.phase.to_string(), format!("{} of {}", Bytes(p.done), Bytes(p.total))),
            None => ("-".to_owned(), "-".to_owned()),
        };
        operations.add_row([o.op.to_string(), o.kind.clone(), o.pod.clone(), phase, bytes]);
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_line_and_what_it_lacks_is_a_dash() {
        let why = "its terminal cannot follow".to_owned();
        let web = ListedPod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "1-2".to_owned(),
            containers: vec!["main".to_owned(), "side".to_owned()],
            lineage: None,
            last_checkpoint: None,
            eligibility: Eligibility::No { reason: why },
        };
        let idle =
            ListedPod { containers: Vec::new(), eligibility: Eligibility::Yes, ..web.clone() };
        let shown = pods(&PodList { pods: vec![web, idle] });
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = shown.lines().skip(1).map(words).collect();
        assert_eq!(lines[0], "shop web main,side - - no: its terminal cannot follow");
        assert_eq!(lines[1], "shop web - - - yes");
    }

    #[test]
    fn read_amplification_is_a_factor_or_unknown() {
        let some = Reads { fetched: Bytes(3 << 20), needed: Bytes(2 << 20) };
        assert_eq!(amplification(Some(some.amplification())), "1.50x");
        assert!(reads(Some(some)).starts_with("1.50x (read amplification): 3"));
        assert_eq!((amplification(None).as_str(), reads(None).as_str()), ("-", "-"));
    }
}
