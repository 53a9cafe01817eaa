//! `godwit doctor`: what the installer's library finds on this node.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use godwit_install::check::{Finding, Verdict};
use godwit_types::{CheckpointId, Code};
use godwit_wire::api::Failure;
use serde_json::{Value, json};

use crate::session::Session;
use crate::{failure, table};

/// For the agent's word on a checkpoint: it reads a few objects.
const PATIENCE: Duration = Duration::from_secs(15);

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

/// Whether this node could continue a checkpoint. A store or an agent that is away, or hangs, is a finding.
///
/// # Errors
/// There is no such checkpoint, the command line is wrong, or it was interrupted.
pub(crate) async fn fits(
    session: &mut Session<'_>,
    checkpoint: CheckpointId,
) -> Result<Finding, Failure> {
    let verdict = match tokio::time::timeout(PATIENCE, session.agent_shows(checkpoint)).await {
        Err(_) => Verdict::Unknown(format!(
            "the agent has not answered for {} s; `agent` above says more",
            PATIENCE.as_secs()
        )),
        Ok(Err(failure)) => fault(failure)?,
        Ok(Ok(shown)) => match &shown.here {
            Some(compared) if compared.fault.is_some() => Verdict::Bad(table::here(compared)),
            Some(compared) => Verdict::Good(table::here(compared)),
            None => {
                Verdict::Unknown("the agent is of another release, and does not say".to_owned())
            }
        },
    };
    Ok(Finding { subject: "checkpoint", verdict })
}

/// What of an answer's failures is a finding.
fn fault(failure: Failure) -> Result<Verdict, Failure> {
    let why = failure.causes.last().unwrap_or(&failure.message);
    match failure.code {
        Code::Unavailable => Ok(Verdict::Unknown(format!(
            "the agent or its store is away ({why}); `agent` above says more"
        ))),
        Code::Corrupt => Ok(Verdict::Bad(format!("it is damaged: {why}"))),
        Code::NotFound | Code::Refused | Code::Cancelled => Err(failure),
        _ => Ok(Verdict::Unknown(format!("the agent cannot say: {why}"))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_bad_and_what_nobody_can_say_is_unknown() {
        let told = |code| fault(failure::new(code, "why")).map(|verdict| verdict.word().to_owned());
        assert_eq!(told(Code::Corrupt).unwrap(), "bad");
        for code in [Code::Unavailable, Code::Internal, Code::Precondition] {
            assert_eq!(told(code).unwrap(), "unknown", "{code:?}");
        }
        for code in [Code::NotFound, Code::Refused, Code::Cancelled] {
            assert_eq!(told(code).unwrap_err().code, code);
        }
    }
}
