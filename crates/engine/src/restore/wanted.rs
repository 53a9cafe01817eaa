//! What a starting container wants: a point by its id, or what its own lineage has.

use std::time::Duration;

use godwit_image::Manifest;
use godwit_ownership::Asked as Asks;
use godwit_ownership::Read;
use godwit_ownership::state::{State, same_place};
use godwit_store::{CheckpointReader, Pin, TenantStore};
use godwit_types::{CheckpointId, LineageName, OpId, Owner, Tenant, names};
use godwit_wire::parse;
use tokio::time::{Instant, sleep};

use super::ask::{self, Asked, From};
use super::{Asking, RestoreError, release};
use crate::driver::Log;
use crate::identity::Identity;
use crate::news::Why;
use crate::node::NO_CLUSTER;

/// For whoever had the lineage before to let go of it: the pod object of a set's earlier pod is gone before its agent has said so.
const OTHERS_LEAVE: Duration = Duration::from_secs(20);
/// Between two looks at who has it.
const EVERY: Duration = Duration::from_millis(250);

/// Found in a store.
pub(super) struct Wanted {
    /// Name of the store.
    pub(super) store_name: String,
    pub(super) tenant: TenantStore,
    pub(super) point: Point,
}

/// Of what it is a continuation or a copy.
pub(super) enum Point {
    /// This one. It was pinned when it was opened; that it exists is for the machine to check.
    Named(Box<CheckpointReader>),
    /// What this lineage has.
    Latest(Latest),
    /// The pod has had this request, and asks for nothing new: its lineage.
    Had(LineageName, Asks),
}

/// A lineage as the pod that goes on with it sees it.
pub(super) struct Latest {
    pub(super) lineage: LineageName,
    /// What the pod was made from.
    template: Option<String>,
    /// Whether it is to start from its image all the same.
    never: bool,
    /// It did not ask for its memory but only to have it kept: it may do without.
    may_begin_anew: bool,
}

impl Wanted {
    pub(super) async fn find(
        asking: &Asking<'_>,
        pinned: &mut Option<Pin>,
    ) -> Result<Self, RestoreError> {
        let asked = Asked::read(asking.begin)?;
        if let Some(had) = Self::had(asking, &asked)? {
            return Ok(had);
        }
        let (store_name, store) = asking.node.store(asked.store.as_deref())?;
        let store_name = store_name.to_owned();
        let named = match &asking.begin.joins {
            Some(join) => Some(parse("checkpoint", &join.checkpoint)?),
            None => asked.from.checkpoint(),
        };
        let Some(checkpoint) = named else {
            let identity = identity(asking).await?;
            if asking.node.identity.cluster == NO_CLUSTER {
                return Err(RestoreError::NoCluster { container: asking.begin.container.clone() });
            }
            let never = asked.from == From::Never;
            let Identity { tenant, stable, own, template } = identity;
            let asks = said(asking, names::RESTORE_FROM).is_some();
            // Nobody comes after a replica; what it keeps, somebody may name.
            let lineage = match stable {
                None if asks => {
                    let container = asking.begin.container.clone();
                    return Err(RestoreError::Ambiguous { container });
                }
                found => found.unwrap_or(own),
            };
            let latest = Latest { lineage, template, never, may_begin_anew: !asks };
            let point = Point::Latest(latest);
            return Ok(Self { store_name, tenant: store.tenant(&tenant), point });
        };
        let tenant = store.tenant(&tenant_of(asking)?);
        let (pin, reader) = tenant.pin_and_open(checkpoint, asking.op, &asking.me).await?;
        *pinned = Some(pin);
        Ok(Self { store_name, tenant, point: Point::Named(Box::new(reader)) })
    }

    /// Of a container that is started again. Its point may be long gone.
    fn had(asking: &Asking<'_>, asked: &Asked) -> Result<Option<Self>, RestoreError> {
        let (begin, incarnation) = (asking.begin, asking.me.incarnation);
        let Some(fence) = ask::fence(&begin.fence)? else { return Ok(None) };
        let asks = asked.from.asks();
        if begin.joins.is_some() || !fence.consumes(asks, incarnation, ask::is_standing(begin)) {
            return Ok(None);
        }
        let store = asking.node.store(Some(&fence.at.store))?.1;
        Ok(Some(Self {
            tenant: store.tenant(&fence.at.tenant),
            store_name: fence.at.store,
            point: Point::Had(fence.at.lineage, asks),
        }))
    }

    /// Whether a pod for which its point can never be restored starts from its image. Who names a point wants that and nothing else.
    pub(super) fn gives_way(&self, to: &RestoreError) -> bool {
        let by_wish = matches!(to, RestoreError::Never { .. } | RestoreError::OtherTemplate { .. });
        matches!(&self.point, Point::Latest(latest) if by_wish || latest.may_begin_anew)
    }

    /// Why a point is not tried any more, by a pod that may do without.
    pub(super) fn given_up(&self, asking: &Asking<'_>, checkpoint: CheckpointId) -> Option<Why> {
        let may = matches!(&self.point, Point::Latest(latest) if latest.may_begin_anew);
        may.then(|| asking.node.unfit.why(&asking.begin.pod_uid, checkpoint)).flatten()
    }

    /// The checkpoint that the log says: the one that was asked for, but for a container whose request is consumed.
    pub(super) async fn reader_of(
        &self,
        (op, me): (OpId, &Owner),
        checkpoint: CheckpointId,
        pinned: &mut Option<Pin>,
    ) -> Result<CheckpointReader, RestoreError> {
        if let Point::Named(reader) = &self.point
            && reader.manifest().id == checkpoint
        {
            return Ok((**reader).clone());
        }
        let (pin, reader) = self.tenant.pin(checkpoint, op, me).await?;
        if let Some(former) = pinned.replace(pin) {
            release(former).await;
        }
        Ok(reader)
    }
}

impl Latest {
    /// Whether a point of the lineage is for this pod at all.
    ///
    /// # Errors
    /// It is not: the pod starts from its image.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), RestoreError> {
        if self.never {
            return Err(RestoreError::Never { checkpoint: manifest.id });
        }
        let (was, is) = (&manifest.source.template, &self.template);
        if was != is {
            let word = |template: &Option<String>| template.clone().unwrap_or_default();
            return Err(RestoreError::OtherTemplate {
                checkpoint: manifest.id,
                was: word(was),
                is: word(is),
            });
        }
        Ok(())
    }

    /// Waits until nobody else owns the lineage, for a while. Who still does then is told by the machine.
    pub(super) async fn wait_for_others(&self, log: &dyn Log, me: &Owner) {
        let deadline = Instant::now() + OTHERS_LEAVE;
        while Instant::now() < deadline && is_anothers(log, me).await {
            sleep(EVERY).await;
        }
    }
}

async fn is_anothers(log: &dyn Log, me: &Owner) -> bool {
    let Read::Known(Some(newest)) = log.newest().await else { return false };
    matches!(&newest.state, State::Owned { owner, .. } if !same_place(owner, me))
}

/// An annotation that says something.
fn said<'a>(asking: &Asking<'a>, name: &str) -> Option<&'a str> {
    ask::annotation(&asking.begin.annotations, name).filter(|value| !value.is_empty())
}

/// Which logical pod starts.
async fn identity(asking: &Asking<'_>) -> Result<Identity, RestoreError> {
    let get = |name: &'static str| said(asking, name);
    let found = Identity::of(&asking.node.containerd, &asking.begin.namespace, get).await?;
    found.ok_or_else(|| RestoreError::NoPod { container: asking.begin.container.clone() })
}

/// Where its checkpoints are: that of its pod's namespace.
fn tenant_of(asking: &Asking<'_>) -> Result<Tenant, RestoreError> {
    match [names::SANDBOX_UID, names::SANDBOX_NAMESPACE].map(|name| said(asking, name)) {
        [Some(_), Some(namespace)] => Ok(parse("namespace", namespace)?),
        _ => Ok(Tenant::node()),
    }
}
