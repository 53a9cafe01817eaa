//! `godwit doctor`: what the installer's library finds on this node.

use std::path::Path;
use std::process::ExitCode;

use godwit_install::check::{Finding, Verdict};
use godwit_types::{CheckpointId, Code};
use godwit_wire::api::Failure;
use serde_json::{Value, json};

use crate::session::Session;
use crate::{failure, table};

/// Looks at the node.
///
/// # Errors
/// Who asks is not root.
pub(crate) async fn examine(agent: &Path) -> Result<Vec<Finding>, Failure> {
    let agent = agent.to_owned();
    // It waits on threads of its own.
    let looked = tokio::task::spawn_blocking(move || godwit_install::doctor::examine(&agent));
    let findings = looked.await.map_err(failure::internal)?;
    findings.map_err(|error| failure::of(error.code(), &error))
}

/// Whether this node could continue a checkpoint. A store or an agent that is away is a finding.
///
/// # Errors
/// There is no such checkpoint, or the command line is wrong.
pub(crate) async fn fits(
    session: &mut Session<'_>,
    checkpoint: CheckpointId,
) -> Result<Finding, Failure> {
    let verdict = match session.agent_shows(checkpoint).await {
        Err(failure) if [Code::NotFound, Code::Refused].contains(&failure.code) => {
            return Err(failure);
        }
        Err(failure) => Verdict::Unknown(failure.message),
        Ok(shown) => match &shown.here {
            Some(compared) if compared.fault.is_some() => Verdict::Bad(table::here(compared)),
            Some(compared) => Verdict::Good(table::here(compared)),
            None => {
                Verdict::Unknown("the agent is of another release, and does not say".to_owned())
            }
        },
    };
    Ok(Finding { subject: "checkpoint", verdict })
}

/// For programs.
pub(crate) fn document(checks: &[Finding]) -> Value {
    let one = |check: &Finding| json!({"check": check.subject, "verdict": check.verdict.word(), "told": check.verdict.told()});
    json!({ "checks": checks.iter().map(one).collect::<Vec<_>>() })
}

/// Whether anything is bad.
pub(crate) fn exit_code(checks: &[Finding]) -> ExitCode {
    let is_bad = |check: &Finding| matches!(check.verdict, Verdict::Bad(_));
    if checks.iter().any(is_bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
