//! Between the messages of `godwit_wire` and the words of `godwit_ownership`. Pure.

use godwit_ownership::fence::LineageRef;
use godwit_ownership::message::{Before, Holds, OnFailure, OnLost, Request, Start, Status};
use godwit_ownership::state::ColdReason;
use godwit_ownership::{Asked, Entry, Refusal, ToShim};
use godwit_types::Code;
use godwit_wire::agent_op::FromAgentBody;
use godwit_wire::shim_op::{self, ToShimBody, WireOutcome};
use godwit_wire::{LineageAt, WireError, parse};

use crate::container::{Origin, RestoreKind};

/// What a message of an agent on the shim's socket means for ownership; `None` if it is about something else.
///
/// # Errors
/// A field that cannot be read: nothing may follow from the message.
pub(super) fn of_agent(body: &ToShimBody) -> Result<Option<ToShim>, WireError> {
    Ok(Some(match body {
        ToShimBody::Attach(_) => ToShim::Attach,
        ToShimBody::BeginCheckpoint(begin) => ToShim::Begin {
            op: parse("op", &begin.op)?,
            outcome: begin.outcome().outcome().ok_or_else(|| field("outcome", "none"))?,
            at: lineage(begin.at.as_ref())?,
        },
        ToShimBody::Freeze(_) => ToShim::Freeze,
        ToShimBody::Thaw(_) => ToShim::Thaw,
        ToShimBody::Cancel(cancel) => ToShim::Cancel { unfence: cancel.unfence },
        ToShimBody::Seal(seal) => {
            ToShim::Seal { entry: entry(&seal.entry)?, reclaim_after_s: seal.reclaim_after_s }
        }
        ToShimBody::WriteFence(write) if write.stands => {
            ToShim::Stands { entry: entry(&write.entry)? }
        }
        ToShimBody::WriteFence(write) => ToShim::Hold { entry: entry(&write.entry)? },
        ToShimBody::Unseal(unseal) => {
            ToShim::Unseal { entry: entry(&unseal.entry)?, unwritten: unseal.unwritten }
        }
        ToShimBody::Stopped(stopped) => ToShim::Stopped { entry: entry(&stopped.entry)? },
        ToShimBody::Moved(moved) => ToShim::Moved { entry: entry(&moved.entry)? },
        ToShimBody::ResumeHeld(resume) => ToShim::Resume { entry: entry(&resume.entry)? },
        ToShimBody::AbortHeld(abort) => ToShim::Abort { why: reason(abort.why.as_ref()) },
        ToShimBody::CriuStarted(_) => return Ok(None),
    }))
}

/// What an agent's answer to a start means for ownership; `None` if nothing.
///
/// # Errors
/// As [`of_agent`].
pub(super) fn of_answer(body: &FromAgentBody) -> Result<Option<ToShim>, WireError> {
    Ok(Some(match body {
        FromAgentBody::Plan(plan) => {
            ToShim::Plan { checkpoint: parse("checkpoint", &plan.checkpoint)? }
        }
        FromAgentBody::Committing(commit) => {
            ToShim::Commit { at: lineage(commit.at.as_ref())?, entry: entry(&commit.entry)? }
        }
        FromAgentBody::Resume(resume) => ToShim::Resume { entry: entry(&resume.entry)? },
        FromAgentBody::ColdStart(cold) => ToShim::Resume { entry: entry(&cold.entry)? },
        FromAgentBody::May(may) => ToShim::Resume { entry: entry(&may.entry)? },
        FromAgentBody::Abort(abort) => ToShim::Abort { why: reason(abort.why.as_ref()) },
        FromAgentBody::Refusal(refusal) => ToShim::Abort { why: reason(Some(refusal)) },
        FromAgentBody::Noted(_) | FromAgentBody::Settled(_) | FromAgentBody::Finished(_) => {
            return Ok(None);
        }
    }))
}

/// A refusal of the machine as the agent reads it.
pub(super) fn refusal(why: &Refusal, pod: &str) -> godwit_wire::Refusal {
    let store_away = *why == Refusal::StoreAway;
    godwit_wire::Refusal { store_away, ..godwit_wire::Refusal::new(why.code(), why.told(pod)) }
}

/// A lineage that an agent names.
///
/// # Errors
/// A name that is not valid.
pub(super) fn lineage(at: Option<&LineageAt>) -> Result<LineageRef, WireError> {
    let at = at.ok_or_else(|| field("at", "none"))?;
    Ok(LineageRef {
        store: at.store.clone(),
        tenant: parse("tenant", &at.tenant)?,
        lineage: parse("lineage", &at.lineage)?,
    })
}

/// What there was before a start, on the wire.
pub(super) fn before(before: &Before) -> shim_op::Before {
    shim_op::Before {
        container: before.container.clone(),
        reason: cold_reason(before.reason),
        lived_s: before.lived_s,
    }
}

/// A start as the machine hears it. What exactly is to be restored is between the spec and the agent: to this machine every
/// request is the same.
pub(super) fn start(restores: bool, before: Before) -> Start {
    let request =
        restores.then_some(Request::Continue { checkpoint: None, force: None, begins: false });
    let (on_lost, on_failure) = (OnLost::default(), OnFailure::default());
    Start { request, standing: false, before, on_lost, on_failure }
}

/// What a container asks for by value; none for what only the agent can read.
pub(super) fn asked(origin: &Origin) -> Option<Asked> {
    let Origin::Restore { kind, from } = origin else { return None };
    let point = from.parse().ok();
    match kind {
        RestoreKind::Continue => Some(Asked::RestoreFrom(point)),
        RestoreKind::Fork => point.map(Asked::ForkFrom),
    }
}

/// The parts of a status that ownership decides.
///
/// # Errors
/// A fence or entry that cannot be encoded.
pub(super) fn status(status: &Status) -> Result<shim_op::Status, godwit_ownership::OwnershipError> {
    let mut told = shim_op::Status {
        pod_uid: status.pod_uid.clone(),
        incarnation: status.incarnation.to_string(),
        fence: status
            .fence
            .as_ref()
            .map(godwit_ownership::Fence::encode)
            .transpose()?
            .unwrap_or_default(),
        ..shim_op::Status::default()
    };
    match &status.holds {
        Holds::Nothing | Holds::Starting => {}
        Holds::Running { owes_cold } => told.owes_cold = owes_cold.as_ref().map(before),
        Holds::Sealed { entry, reclaim_after_s } => {
            told.seal = Some(shim_op::SealRecord {
                op: op_of(entry),
                entry: entry.encode()?,
                reclaim_after_s: *reclaim_after_s,
                outcome: outcome_of(entry) as i32,
            });
        }
        Holds::Committing { entry } => {
            told.committing = Some(shim_op::Committing {
                op: op_of(entry),
                entry: entry.encode()?,
                container: String::new(),
            });
        }
    }
    Ok(told)
}

fn op_of(entry: &Entry) -> String {
    entry.op.map(|op| op.to_string()).unwrap_or_default()
}

fn outcome_of(entry: &Entry) -> WireOutcome {
    match entry.kind {
        godwit_ownership::Kind::Offer { .. } => WireOutcome::Offer,
        _ => WireOutcome::Stop,
    }
}

fn entry(bytes: &[u8]) -> Result<Box<Entry>, WireError> {
    Entry::decode(bytes).map(Box::new).map_err(|why| field("entry", &why.to_string()))
}

/// The agent's reason as far as the machine must know it; the sentence is kept beside it. Only "the store is away" lets a start go
/// on, so nothing else may read as that.
fn reason(why: Option<&godwit_wire::Refusal>) -> Refusal {
    match why {
        Some(why) if why.store_away => Refusal::StoreAway,
        Some(why) => match why.means() {
            Code::Unavailable => Refusal::Settling,
            Code::Cancelled => Refusal::Cancelled,
            _ => Refusal::LostSlot,
        },
        None => Refusal::Cancelled,
    }
}

fn cold_reason(reason: ColdReason) -> String {
    // As the log's JSON spells it: a unit variant is a plain string.
    let json = serde_json::to_value(reason).ok();
    json.and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

fn field(field: &'static str, value: &str) -> WireError {
    WireError::Field { field, value: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use godwit_wire::agent_op::{Abort, Plan};
    use godwit_wire::shim_op::{BeginCheckpoint, Seal};

    use super::*;

    #[test]
    fn fields_that_cannot_be_read_make_no_event() {
        let begin = BeginCheckpoint { op: "x".into(), outcome: 1, ..Default::default() };
        assert!(of_agent(&begin.into()).is_err());
        let seal = Seal { entry: b"{}".to_vec(), reclaim_after_s: None };
        assert!(of_agent(&seal.into()).is_err());
        assert!(of_answer(&Plan::default().into()).is_err());
    }

    #[test]
    fn only_an_absent_store_reads_as_such() {
        for (code, store_away) in
            [(Code::Unavailable, false), (Code::Unavailable, true), (Code::Precondition, false)]
        {
            let why = godwit_wire::Refusal { store_away, ..godwit_wire::Refusal::new(code, "x") };
            let heard = of_answer(&Abort { why: Some(why) }.into()).unwrap();
            let Some(ToShim::Abort { why }) = heard else { panic!("Abort") };
            assert_eq!(why == Refusal::StoreAway, store_away);
        }
    }

    #[test]
    fn reasons_are_spelled_as_in_the_log() {
        assert_eq!(cold_reason(ColdReason::FirstStart), "first-start");
        assert_eq!(cold_reason(ColdReason::SandboxLost), "sandbox-lost");
    }
}
