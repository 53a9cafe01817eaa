//! Whether a restore goes on with the TCP connections that its pod had to somebody outside.
//!
//! Only where nobody can have spoken for the pod since: peers know what they were sent, and what they have acknowledged. So: the pod was
//! given away for that (its network has been silent from before the images were made), nobody has taken it over since, this is no
//! copy, and whoever starts asks for it.

use godwit_criu::images::inet::Outside;
use godwit_image::Manifest;
use godwit_image::manifest::TcpMode;
use godwit_ownership::state::State;
use godwit_store::TenantStore;
use godwit_types::{CheckpointId, OpId, names};
use godwit_wire::Annotation;

use super::{Asking, RestoreError, ask};

/// What becomes of connections to the outside, as the log says now. That it says the same when the tasks are claimed, the machine sees to
/// (`godwit_ownership`, `Rule::SameEntry`).
///
/// # Errors
/// The lineage cannot be read.
pub(super) async fn outside(
    asking: &Asking<'_>,
    tenant: &TenantStore,
    manifest: &Manifest,
) -> Result<Outside, RestoreError> {
    let annotations = &asking.begin.annotations;
    if !asks(annotations, manifest.network.tcp) {
        return Ok(Outside::Close);
    }
    let newest = tenant.lineage(&manifest.lineage).newest().await?;
    let newest = newest.as_ref().map(|entry| (entry.op, &entry.state));
    Ok(match is_given(newest, (manifest.id, manifest.op)) {
        true => Outside::Keep,
        false => Outside::Close,
    })
}

/// Whether both pods want it, and this one is no copy.
fn asks(annotations: &[Annotation], source: TcpMode) -> bool {
    let said = |name| ask::annotation(annotations, name);
    let wanted = said(names::TCP) == Some(names::KEEP) && said(names::FORK_FROM).is_none();
    wanted && source == TcpMode::Keep
}

/// Whether the newest entry is that by which the pod was given away with this point. A pod that went on from it and ended is offered
/// with the same point again, by another operation.
fn is_given(
    newest: Option<(Option<OpId>, &State)>,
    (point, made_by): (CheckpointId, OpId),
) -> bool {
    let Some((by, state)) = newest else { return false };
    let offered = match state {
        State::Offered { checkpoint, .. } | State::Stopped { checkpoint, .. } => Some(*checkpoint),
        _ => None,
    };
    offered == Some(point) && by == Some(made_by)
}

#[cfg(test)]
mod tests {
    use godwit_types::{Incarnation, Owner};

    use super::*;

    #[test]
    fn both_pods_have_to_ask_and_a_copy_asks_in_vain() {
        let asks = |all: &[(&str, &str)], source| {
            let all = all.iter().map(|(name, value)| Annotation {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            });
            super::asks(&all.collect::<Vec<_>>(), source)
        };
        let (keep, from) = ((names::TCP, names::KEEP), (names::RESTORE_FROM, "X"));
        assert!(asks(&[keep, from], TcpMode::Keep));
        assert!(asks(&[keep, (names::CHECKPOINT_ON_STOP, "true")], TcpMode::Keep));
        assert!(!asks(&[keep, from], TcpMode::Close), "the first pod did not, or ran on");
        assert!(!asks(&[from], TcpMode::Keep));
        assert!(!asks(&[(names::TCP, "close"), from], TcpMode::Keep));
        assert!(!asks(&[keep, (names::FORK_FROM, "X")], TcpMode::Keep));
    }

    #[test]
    fn only_who_takes_over_what_was_just_given_away_has_its_connections() {
        let owner = Owner {
            cluster: "c".into(),
            node: "n".into(),
            epoch: 0,
            pod_uid: "u".into(),
            incarnation: Incarnation::mint(),
        };
        let (point, op) = (CheckpointId::mint(), OpId::mint());
        let stopped = |checkpoint| State::Stopped {
            owner: owner.clone(),
            checkpoint,
            good: Default::default(),
        };
        let is_given = |by, state: &State| is_given(Some((by, state)), (point, op));
        assert!(is_given(Some(op), &stopped(point)));
        // It ran elsewhere and ended; it was stopped later once more; it runs.
        assert!(!is_given(Some(OpId::mint()), &stopped(point)));
        assert!(!is_given(None, &stopped(point)));
        assert!(!is_given(Some(op), &stopped(CheckpointId::mint())));
        let runs =
            State::Owned { owner: owner.clone(), restored: Some(point), good: Default::default() };
        assert!(!is_given(Some(op), &runs));
        assert!(!super::is_given(None, (point, op)), "there is no such lineage");
    }
}
