//! What a starting container asks for, in the words of `godwit-ownership`.

use godwit_image::Manifest;
use godwit_ownership::Asked as Asks;
use godwit_ownership::TargetSpec;
use godwit_ownership::message::{Ask, Before, Force, OnFailure, OnLost, Request, Start};
use godwit_ownership::state::{ColdReason, Fork};
use godwit_ownership::{Fence, LineageRef, Pen};
use godwit_types::{CheckpointId, Incarnation, LineageName, Nonce, OpId, annotations, names};
use godwit_wire::agent_op::{AskStart, BeginRestore};
use godwit_wire::{Annotation, parse, shim_op};

use super::RestoreError;
use super::wanted::{Point, Wanted};
use crate::checkpoint::peer::unix_ms;
use crate::node::Node;

/// The annotations of a restore.
pub(super) struct Asked {
    pub(super) from: From,
    pub(super) store: Option<String>,
}

/// What is to be continued or copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// This point.
    Point(CheckpointId),
    /// A copy of this point.
    Copy(CheckpointId),
    /// The pod's own lineage, whatever it has.
    Latest,
    /// The same, but from the image.
    Never,
}

impl From {
    /// Reads it from annotations.
    ///
    /// # Errors
    /// Both or neither of restore and fork, or an id that is none.
    pub(super) fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, RestoreError> {
        let goes_on = get(names::CHECKPOINT_ON_STOP) == Some("true");
        let never = get(names::RESTORE).is_some();
        Ok(match (get(names::RESTORE_FROM), get(names::FORK_FROM)) {
            (Some(names::LATEST), None) if never => Self::Never,
            (Some(names::LATEST), None) => Self::Latest,
            (Some(_), None) | (None, Some(_)) if never => return Err(RestoreError::Annotations),
            (Some(id), None) => Self::Point(id.parse()?),
            (None, Some(id)) => Self::Copy(id.parse()?),
            (None, None) if goes_on && never => Self::Never,
            (None, None) if goes_on => Self::Latest,
            _ => return Err(RestoreError::Annotations),
        })
    }

    /// The same as a fence remembers it.
    pub(super) fn asks(self) -> Asks {
        match self {
            Self::Point(checkpoint) => Asks::RestoreFrom(Some(checkpoint)),
            Self::Copy(checkpoint) => Asks::ForkFrom(checkpoint),
            Self::Latest | Self::Never => Asks::RestoreFrom(None),
        }
    }

    /// The point that is asked for by name.
    pub(super) fn checkpoint(self) -> Option<CheckpointId> {
        match self {
            Self::Point(checkpoint) | Self::Copy(checkpoint) => Some(checkpoint),
            Self::Latest | Self::Never => None,
        }
    }
}

impl Asked {
    /// Reads them.
    ///
    /// # Errors
    /// Both or neither of restore and fork, an id that is none, or an annotation that cannot be obeyed.
    pub(super) fn read(begin: &BeginRestore) -> Result<Self, RestoreError> {
        annotations::check(begin.annotations.iter().map(|a| (a.name.as_str(), a.value.as_str())))?;
        let get = |name: &str| annotation(&begin.annotations, name);
        Ok(Self { from: From::read(get)?, store: get(names::STORE).map(str::to_owned) })
    }
}

pub(super) fn annotation<'a>(all: &'a [Annotation], name: &str) -> Option<&'a str> {
    all.iter().find(|a| a.name == name).map(|a| a.value.as_str())
}

/// Whether its request stands in a pod object that outlives its sandbox.
pub(super) fn is_standing(begin: &BeginRestore) -> bool {
    annotation(&begin.annotations, names::SANDBOX_UID).is_some()
}

/// What becomes of a pod whose sandbox or node is lost. Who wants the last point whatever was before wants it then, too; but a life that
/// was stopped does not take itself back.
fn on_lost(begin: &BeginRestore, is_another_life: bool) -> OnLost {
    let wants = annotation(&begin.annotations, names::RESTORE_FROM) == Some(names::LATEST);
    let never = annotation(&begin.annotations, names::RESTORE).is_some();
    match is_another_life && wants && !never && is_standing(begin) {
        true => OnLost::Latest,
        false => OnLost::default(),
    }
}

/// Whether all of its memory must be there before it runs.
pub(super) fn is_whole(all: &[Annotation]) -> bool {
    annotation(all, names::HYDRATE) == Some(names::BEFORE_START)
}

/// A person's word about who owns the lineage. A pod that has owned it says nothing by it any more: whoever owns it now has taken it
/// since.
fn force(begin: &BeginRestore, fence: Option<&Fence>, node: &str) -> Option<Force> {
    if is_standing(begin) && fence.is_some_and(|fence| fence.seen.is_some()) {
        return None;
    }
    let why = annotation(&begin.annotations, names::FORCE)?.to_owned();
    Some(Force { who: format!("{node}/{}", begin.namespace), why })
}

/// The machine's specification of a restore.
///
/// # Errors
/// A field of the shim's message that cannot be.
pub(super) fn target(
    node: &Node,
    begin: &BeginRestore,
    wanted: &Wanted,
) -> Result<TargetSpec, RestoreError> {
    let fence = fence(&begin.fence)?;
    let incarnation = parse("incarnation", &begin.incarnation)?;
    let force = || force(begin, fence.as_ref(), &node.identity.node);
    let fork = annotation(&begin.annotations, names::FORK_FROM).is_some();
    let (lineage, request) = match &wanted.point {
        Point::Latest(latest) => {
            let request = Request::Continue { checkpoint: None, force: force(), begins: true };
            (latest.lineage.clone(), request)
        }
        Point::Had(lineage, Asks::RestoreFrom(checkpoint)) => {
            let checkpoint = *checkpoint;
            (lineage.clone(), Request::Continue { checkpoint, force: None, begins: false })
        }
        Point::Had(lineage, Asks::ForkFrom(checkpoint)) => {
            let (own, lineage) = (lineage.clone(), lineage.clone());
            (own, Request::Fork(Fork { lineage, checkpoint: *checkpoint }))
        }
        Point::Named(reader) if fork => {
            let Manifest { lineage, id: checkpoint, .. } = reader.manifest();
            let fork = Fork { lineage: lineage.clone(), checkpoint: *checkpoint };
            (LineageName::mint(), Request::Fork(fork))
        }
        Point::Named(reader) => {
            let Manifest { lineage, id: checkpoint, .. } = reader.manifest();
            let checkpoint = Some(*checkpoint);
            let request = Request::Continue { checkpoint, force: force(), begins: false };
            (lineage.clone(), request)
        }
    };
    let tenant = wanted.tenant.tenant().clone();
    let wanted_at = LineageRef { store: wanted.store_name.clone(), tenant, lineage };
    let at = lineage_of(fence.as_ref(), wanted_at, &begin.container)?;
    let is_latest = matches!(wanted.point, Point::Latest(_));
    let start = Start {
        request: Some(request),
        standing: is_standing(begin),
        before: before(begin.before.as_ref(), &begin.container),
        on_lost: on_lost(begin, fence.as_ref().is_some_and(|f| f.incarnation != incarnation)),
        // Which failures are such that it may, says `RestoreError::never`.
        on_failure: if is_latest { OnFailure::Cold } else { OnFailure::Refuse },
    };
    let op = parse("op", &begin.op)?;
    Ok(spec(node, at, op, &begin.pod_uid, incarnation, fence, start, begin.others_dead))
}

/// The lineage that the log is read of: that of the fence, if there is one.
///
/// # Errors
/// It is in another store than the checkpoint, so that one log cannot name both.
fn lineage_of(
    fence: Option<&Fence>,
    wanted: LineageRef,
    container: &str,
) -> Result<LineageRef, RestoreError> {
    let Some(fence) = fence else { return Ok(wanted) };
    let at = &fence.at;
    if (&at.store, &at.tenant) == (&wanted.store, &wanted.tenant) {
        return Ok(at.clone());
    }
    let (container, lives, asked) = (container.to_owned(), at.store.clone(), wanted.store);
    Err(RestoreError::OtherStore { container, lives, asked })
}

/// The machine's specification of an ordinary start of a pod that has a fence.
///
/// # Errors
/// A field of the shim's message that cannot be; a shim that asks without a fence.
pub(super) fn ordinary(node: &Node, ask: &AskStart) -> Result<TargetSpec, RestoreError> {
    let fence = fence(&ask.fence)?.ok_or(RestoreError::NoFence)?;
    let start = Start {
        request: None,
        standing: false,
        before: before(ask.before.as_ref(), &ask.container),
        on_lost: OnLost::default(),
        on_failure: OnFailure::default(),
    };
    let incarnation = parse("incarnation", &ask.incarnation)?;
    let op = parse("op", &ask.op)?;
    let at = fence.at.clone();
    Ok(spec(node, at, op, &ask.pod_uid, incarnation, Some(fence), start, ask.others_dead))
}

#[expect(clippy::too_many_arguments, reason = "the fields of one message")]
fn spec(
    node: &Node,
    at: LineageRef,
    op: OpId,
    pod_uid: &str,
    incarnation: Incarnation,
    fence: Option<Fence>,
    start: Start,
    others_dead: bool,
) -> TargetSpec {
    let pen = Pen {
        me: node.owner(pod_uid, incarnation),
        op: Some(op),
        nonce: Nonce::mint(),
        at_ms: unix_ms(),
    };
    let pod_uid = pod_uid.to_owned();
    let ask = Ask { op, pod_uid, incarnation, fence, start, others_dead };
    TargetSpec { pen, at, ask }
}

pub(crate) fn fence(bytes: &[u8]) -> Result<Option<Fence>, RestoreError> {
    match bytes {
        [] => Ok(None),
        bytes => Ok(Some(Fence::decode(bytes)?)),
    }
}

fn before(before: Option<&shim_op::Before>, container: &str) -> Before {
    let reason = before
        .and_then(|b| serde_json::from_value(serde_json::Value::String(b.reason.clone())).ok());
    Before {
        container: container.to_owned(),
        reason: reason.unwrap_or(ColdReason::FirstStart),
        lived_s: before.and_then(|b| b.lived_s),
    }
}

#[cfg(test)]
mod tests {
    use godwit_ownership::FenceState;
    use godwit_types::{Seq, Tenant};

    use super::*;

    fn lineage(store: &str, name: &str) -> LineageRef {
        let (store, lineage) = (store.to_owned(), LineageName::new(name).unwrap());
        LineageRef { store, tenant: Tenant::node(), lineage }
    }

    fn fence(store: &str) -> Fence {
        Fence {
            at: lineage(store, "uid/a"),
            incarnation: Incarnation::from(1),
            state: FenceState::Armed,
            op: None,
            lived: false,
            consumed: None,
            slot: None,
            seen: None,
            gone: None,
        }
    }

    #[test]
    fn an_annotation_that_is_none_is_refused() {
        let annotation = |(name, value): (&str, &str)| Annotation {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let asked = |all: &[(&str, &str)]| {
            let annotations = all.iter().copied().map(annotation).collect();
            Asked::read(&BeginRestore { annotations, ..BeginRestore::default() })
        };
        let id = CheckpointId::mint().to_string();
        let from = (names::RESTORE_FROM, id.as_str());
        assert!(asked(&[from]).is_ok());
        let of = |all: &[(&str, &str)]| asked(all).map(|asked| asked.from).ok();
        let latest = (names::RESTORE_FROM, names::LATEST);
        let never = (names::RESTORE, names::NEVER);
        let on_stop = |value| (names::CHECKPOINT_ON_STOP, value);
        assert_eq!(of(&[latest]), Some(From::Latest));
        assert_eq!(of(&[on_stop("true")]), Some(From::Latest));
        assert_eq!(of(&[on_stop("true"), never]), Some(From::Never));
        assert_eq!(of(&[on_stop("false")]), None);
        assert_eq!(of(&[from, never]), None, "one of them is a mistake");
        let refused = asked(&[from, ("godwit.dev/udp", "keep")]).err().unwrap();
        assert_eq!(refused.code(), godwit_types::Code::Refused);
        assert!(refused.sentence().contains("no annotation godwit.dev/udp"), "{refused}");
    }

    #[test]
    fn only_who_asks_for_the_latest_point_goes_on_after_a_loss() {
        let lost = |all: &[(&str, &str)], is_another_life| {
            let own = [(names::SANDBOX_UID, "1-2")];
            let all = all.iter().chain(&own).map(|(name, value)| Annotation {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            });
            let begin = BeginRestore { annotations: all.collect(), ..BeginRestore::default() };
            on_lost(&begin, is_another_life)
        };
        let latest = (names::RESTORE_FROM, names::LATEST);
        assert_eq!(lost(&[latest], true), OnLost::Latest);
        assert_eq!(lost(&[latest], false), OnLost::Image, "a stop is not taken back");
        assert_eq!(lost(&[latest, (names::RESTORE, names::NEVER)], true), OnLost::Image);
        // Its last point may be older than its files, which a pod keeps that has lost nothing but its sandbox.
        assert_eq!(lost(&[(names::CHECKPOINT_ON_STOP, "true")], true), OnLost::Image);
    }

    #[test]
    fn a_word_about_an_owner_is_not_said_again_about_the_next_one() {
        let begin = |own: &[&str]| {
            let all = own.iter().map(|name| (*name, "1-2")).chain([(names::FORCE, "it burns")]);
            let all =
                all.map(|(name, value)| Annotation { name: name.into(), value: value.into() });
            BeginRestore { annotations: all.collect(), ..BeginRestore::default() }
        };
        let (pod, alone) = (begin(&[names::SANDBOX_UID]), begin(&[]));
        let (claimed, won) =
            (Fence { seen: None, ..fence("a") }, Fence { seen: Some(Seq(7)), ..fence("a") });
        for (said, begin, fence) in [
            (true, &pod, None),
            (true, &pod, Some(&claimed)),
            (false, &pod, Some(&won)),
            (true, &alone, Some(&won)),
        ] {
            assert_eq!(force(begin, fence, "n").is_some(), said, "{fence:?}");
        }
    }

    #[test]
    fn a_name_whose_earlier_life_is_in_another_store_is_not_used() {
        let wanted = || lineage("b", "uid/b");
        assert_eq!(lineage_of(None, wanted(), "web").unwrap(), wanted());
        assert_eq!(lineage_of(Some(&fence("b")), wanted(), "web").unwrap(), fence("b").at);
        let refused = lineage_of(Some(&fence("a")), wanted(), "web").unwrap_err();
        assert_eq!(refused.code(), godwit_types::Code::Refused);
        assert!(refused.sentence().contains("store \"a\""), "{}", refused.sentence());
    }
}
