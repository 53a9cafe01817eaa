//! Whether the agent answers, and what only it can see: shims, stores, API server, failures; and whether it has the room that it asks
//! for.

use std::path::Path;
use std::process::Command;

use godwit_types::{Bytes, names};
use godwit_wire::api::{
    AgentStatus, ClusterAnswer, ClusterDiagnosis, Diagnosis, PastFailure, StoreDiagnosis,
};

use crate::check::{Finding, Verdict};
use crate::process::{output, runs};
use crate::programs::BIN;
use crate::settings::{InitKind, Settings};
use crate::{agent, error_chain, host};
use Verdict::{Bad, Good, Limited, Unknown};

/// Beyond it, times that people compare are wrong; S3 refuses requests at fifteen minutes.
const CLOCKS: i64 = 5_000;
/// For fences and records.
const SPARE: Bytes = Bytes(64 << 20);
/// So many failures are shown.
const SHOWN: usize = 3;

pub(super) fn examine(socket: &Path, settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![Finding { subject: "agent.toml", verdict: configuration() }];
    let is_installed =
        agent::pid(socket).is_some_and(|pid| runs(pid, &Path::new(BIN).join("godwit-agent")));
    let status = agent::status(socket).map_err(|why| error_chain(&why));
    let verdict = answers(&status, is_installed, settings.init());
    findings.push(Finding { subject: "agent", verdict });
    findings.push(Finding {
        subject: "disk",
        verdict: state_disk(host::free(names::STATE_DIR.as_ref())),
    });
    let Ok(status) = status else {
        findings.extend(unseen("the agent does not answer"));
        return findings;
    };
    findings.push(Finding { subject: "shims", verdict: shims(&status) });
    findings.push(Finding { subject: "memory", verdict: memory(available(), status.budget) });
    match agent::diagnosis(socket) {
        Ok(diagnosis) => {
            findings.extend(told(&diagnosis, Bytes(status.budget.1)));
            let verdict = shutdown(diagnosis.logind.as_deref(), settings.init());
            findings.push(Finding { subject: "node shutdown", verdict });
        }
        Err(why) => findings.extend(unseen(&error_chain(&why))),
    }
    findings
}

/// What the agent would have told.
fn unseen(why: &str) -> Vec<Finding> {
    let one = |subject| Finding { subject, verdict: Unknown(why.to_owned()) };
    ["store", "Kubernetes", "last failures", "node shutdown"].map(one).into()
}

fn told(diagnosis: &Diagnosis, budget: Bytes) -> Vec<Finding> {
    let store = |one: &StoreDiagnosis| {
        let free = one.url.strip_prefix("file://").map(|dir| host::free(dir.as_ref()));
        Finding { subject: "store", verdict: store(one, free.map(Bytes), budget) }
    };
    let mut findings: Vec<Finding> = diagnosis.stores.iter().map(store).collect();
    findings
        .push(Finding { subject: "Kubernetes", verdict: cluster(diagnosis.kubernetes.as_ref()) });
    findings.push(Finding { subject: "last failures", verdict: failures(&diagnosis.failures) });
    findings
}

/// Whether an agent could start with it.
fn configuration() -> Verdict {
    let program = Path::new(BIN).join("godwit-agent");
    if !program.exists() {
        return Unknown(format!("{} is not there to read it", program.display()));
    }
    match output(Command::new(program).args(["--check", "--config", names::AGENT_CONFIG])) {
        Ok(_) => Good(names::AGENT_CONFIG.to_owned()),
        Err(why) => Bad(format!(
            "{}. The agent does not start with it: mend {}",
            error_chain(&why),
            names::AGENT_CONFIG
        )),
    }
}

fn answers(status: &Result<AgentStatus, String>, is_installed: bool, init: InitKind) -> Verdict {
    let ours = env!("CARGO_PKG_VERSION");
    let (start, restart) = match init {
        InitKind::Systemd => (
            "`systemctl start godwit-agent`; `journalctl --unit godwit-agent` says why it ended",
            "`systemctl restart godwit-agent`",
        ),
        InitKind::None => (
            "start it: `godwit-agent --config /etc/godwit/agent.toml`",
            "end it and start `godwit-agent --config /etc/godwit/agent.toml`",
        ),
    };
    match status {
        Err(why) => Bad(format!(
            "{why}. Containers run on; nothing is checkpointed or continued without it: {start}"
        )),
        Ok(status) if status.version != ours => Bad(format!(
            "the agent is of version {}, this program of {ours}: bring the node to one release by `godwit-install node`",
            status.version
        )),
        Ok(_) if !is_installed => Limited(format!(
            "the agent that runs was started from another file than {BIN}/godwit-agent, as of an earlier release: {restart}"
        )),
        Ok(status) => Good(format!("{} answers on {}", status.version, status.node)),
    }
}

/// A shim that does not answer cannot be asked to checkpoint, nor to kill.
fn shims(status: &AgentStatus) -> Verdict {
    let silent = status.pods.iter().filter(|pod| pod.fence == "unknown");
    let silent: Vec<String> = silent.map(|pod| format!("{} ({})", pod.pod, pod.shim)).collect();
    match silent.is_empty() {
        true => Good(format!("{} answer", status.pods.len())),
        false => Limited(format!(
            "{} of {} do not answer: {}. Delete those pods or containers, if they do not go by themselves",
            silent.len(),
            status.pods.len(),
            silent.join(", ")
        )),
    }
}

/// `MemAvailable` of the kernel.
fn available() -> Option<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib << 10))
}

fn memory(available: Option<Bytes>, (used, budget): (u64, u64)) -> Verdict {
    let Some(available) = available else {
        return Unknown("/proc/meminfo does not say what is available".to_owned());
    };
    let wanted = Bytes(budget.saturating_sub(used));
    match available >= wanted {
        true => Good(format!("{available} available, the agent takes up to {wanted} more")),
        false => Limited(format!(
            "{available} are available, and a large checkpoint may take {wanted}: lower `memory_budget` in {}, or make room",
            names::AGENT_CONFIG
        )),
    }
}

fn state_disk(free: u64) -> Verdict {
    let (free, dir) = (Bytes(free), names::STATE_DIR);
    match free >= SPARE {
        true => Good(format!("{free} free in {dir}")),
        false => Bad(format!(
            "{free} are free in {dir}, and fences must be written there before containers start: make room for {SPARE}"
        )),
    }
}

/// `free`: of a directory.
fn store(one: &StoreDiagnosis, free: Option<Bytes>, budget: Bytes) -> Verdict {
    let StoreDiagnosis { name, url, .. } = one;
    if let Some(fault) = &one.fault {
        return Bad(format!(
            "{name} at {url} cannot be used: {fault}. Pods run on, and none is checkpointed or continued there until it can: mend the \
             store, or its section in {}",
            names::AGENT_CONFIG
        ));
    }
    match (one.ahead_ms, free) {
        (Some(ms), _) if ms.abs() > CLOCKS => Limited(format!(
            "{name} at {url} works; its clock is {:.0} s {} this node's: synchronise the clocks (`timedatectl`, `chronyc tracking`)",
            ms.abs() as f64 / 1e3,
            if ms > 0 { "ahead of" } else { "behind" }
        )),
        (_, Some(free)) if free < budget => Limited(format!(
            "{name} at {url} works; {free} are free there, less than one large checkpoint ({budget}): make room, or delete checkpoints \
             (`godwit gc`)"
        )),
        _ => {
            let speed = one.speed.map(|speed| {
                let (written, read) = (Bytes(speed.written), Bytes(speed.read));
                format!("; one stream writes {written}/s and reads {read}/s")
            });
            let speed = speed.unwrap_or_default();
            Good(format!("{name} at {url} takes, keeps and refuses what it has to{speed}"))
        }
    }
}

fn cluster(cluster: Option<&ClusterDiagnosis>) -> Verdict {
    let Some(ClusterDiagnosis { node, answer, away_since }) = cluster else {
        return Unknown(format!(
            "{} has no section [kubernetes]: pods' annotations are not read here",
            names::AGENT_CONFIG
        ));
    };
    match answer {
        ClusterAnswer::Away { why } => Limited(format!(
            "the API server does not answer{} ({why}). Pods run on; what their users ask by annotations waits: see whether it serves and \
             `kubeconfig` in {} names it",
            away_since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default(),
            names::AGENT_CONFIG
        )),
        ClusterAnswer::Refuses { why } => Bad(format!(
            "the API server refuses the agent of {node} ({why}): `node` in {} must be the node's name in Kubernetes, and its token a \
             valid one that is bound to that node (docs/kubernetes.md)",
            names::AGENT_CONFIG
        )),
        ClusterAnswer::Knows { denied, .. } if !denied.is_empty() => Bad(format!(
            "the agent may not {}: `kubectl apply -f godwit.yaml` of this release",
            denied.join(", ")
        )),
        ClusterAnswer::Knows { labelled: false, .. } => Limited(format!(
            "node {node} has no label {}=true, so that no pod comes: wait half a minute; the agent's log says why it cannot be written",
            names::READY
        )),
        ClusterAnswer::Knows { ready, .. } if ready.as_deref() != Some("True") => Limited(format!(
            "node {node} has {} {}: its stores must be open, which the agent looks at every 20 s",
            names::CONDITION,
            ready.as_deref().unwrap_or("not yet")
        )),
        ClusterAnswer::Knows { .. } => Good(format!("node {node} is labelled and ready")),
    }
}

/// Whether pods can be stopped at a checkpoint when their node is shut down.
fn shutdown(fault: Option<&str>, init: InitKind) -> Verdict {
    let ends = "pods that ask for checkpoint-on-stop end without one when the node is shut down";
    match (fault, init) {
        (None, _) => Good("logind tells of it".to_owned()),
        (Some(why), InitKind::Systemd) => Limited(format!(
            "logind does not tell of it ({why}): {ends}. `systemctl status systemd-logind dbus` says why, or drain the node first"
        )),
        (Some(why), InitKind::None) => {
            Unknown(format!("there is no logind to tell of it ({why}): {ends}; drain it first"))
        }
    }
}

fn failures(failures: &[PastFailure]) -> Verdict {
    let one = |f: &PastFailure| format!("{} {} of {}: {}", f.at, f.kind, f.pod, f.told);
    let last: Vec<String> = failures.iter().take(SHOWN).map(one).collect();
    match last.is_empty() {
        true => Good("none since the agent started".to_owned()),
        false => Limited(format!(
            "{} since the agent started (at most the last 16 are kept), the newest: {}",
            failures.len(),
            last.join("; ")
        )),
    }
}

#[cfg(test)]
mod tests;
