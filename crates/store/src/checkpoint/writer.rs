//! Writing a checkpoint, in the only order that is safe: each stage is a type, and the next one comes out of it.
//!
//! | Stage | What exists in the store | Next |
//! |---|---|---|
//! | [`PackStage`] | intent | packs through [`PackStage::sink`], then [`PackStage::close`] |
//! | [`HeadStage`] | and all packs | [`HeadStage::head`] |
//! | [`ManifestStage`] | and the head | [`ManifestStage::manifest`] |
//! | [`CommitStage`] | and the manifest | the entry, by the owner's machine; then [`CommitStage::committed`] |
//!
//! Every stage fails with [`StoreError::TooOld`] once the operation is older than T/2. Whatever fails: drop the stage, then
//! [`TenantStore::abandon`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use godwit_image::manifest::Object;
use godwit_image::{Head, Manifest, PackName, PackSink};
use godwit_types::{CheckpointId, LineageName, OpId, Owner};

use super::packs::{PackUploads, Sink, StoredPack};
use super::{Absence, Age, CheckpointReader};
use crate::error::StoreError;
use crate::record::{self, Intent};
use crate::store::TenantStore;

/// What is going to be written.
#[derive(Debug, Clone)]
pub struct NewCheckpoint {
    /// Its id, freshly minted.
    pub id: CheckpointId,
    /// The operation.
    pub op: OpId,
    /// Whose pod it is.
    pub owner: Owner,
    /// Whose checkpoint it is.
    pub lineage: LineageName,
    /// Checkpoints whose packs it may share, the best one first. Those that do not exist (any more) or are damaged are
    /// passed over.
    pub parents: Vec<CheckpointId>,
}

/// The checkpoint whose packs may be shared, opened.
#[derive(Debug)]
pub struct Parent {
    /// Reads what it names.
    pub reader: CheckpointReader,
    /// Its head.
    pub head: Head,
}

#[derive(Debug)]
struct Work {
    tenant: TenantStore,
    new: NewCheckpoint,
    age: Age,
    parent: Option<Manifest>,
}

impl TenantStore {
    /// Begins a checkpoint: intent first, *then* the look at the parent's tombstone. So either the sweep sees the intent
    /// and keeps what the parent names, or we see the tombstone and take the next parent, or none. The same for a parent
    /// whose manifest or head is damaged or missing: one bad checkpoint must not keep a pod from making good ones.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn begin(&self, new: NewCheckpoint) -> Result<PackStage, StoreError> {
        let age = Age::begin(self);
        let opened = self.choose_parent(&new).await?;
        let parent = opened.as_ref().map(|parent| parent.reader.manifest().clone());
        let uploads = PackUploads::new(self.clone(), new.id, age.clone());
        let work = Work { tenant: self.clone(), new, age, parent };
        Ok(PackStage { work, opened, uploads: Stopper(Arc::new(uploads)) })
    }

    async fn choose_parent(&self, new: &NewCheckpoint) -> Result<Option<Parent>, StoreError> {
        for parent in &new.parents {
            self.write_intent(new, Some(*parent)).await?;
            match self.open_parent(*parent).await {
                Ok(opened) => return Ok(Some(opened)),
                Err(StoreError::Absent { absence, .. }) => {
                    tracing::info!(%parent, %absence, "the parent cannot be used");
                }
                Err(error) if error.is_of_the_object() => {
                    tracing::warn!(%parent, %error, "the parent is damaged: nothing of it is shared");
                }
                Err(e) => return Err(e),
            }
        }
        self.write_intent(new, None).await?;
        Ok(None)
    }

    async fn open_parent(&self, id: CheckpointId) -> Result<Parent, StoreError> {
        let reader = self.open_checkpoint(id).await?;
        let head = reader.head().await?;
        Ok(Parent { reader, head })
    }

    async fn write_intent(
        &self,
        new: &NewCheckpoint,
        parent: Option<CheckpointId>,
    ) -> Result<(), StoreError> {
        let intent = Intent {
            op: new.op,
            owner: new.owner.clone(),
            lineage: new.lineage.clone(),
            parent,
            at: self.store.timestamp(),
        };
        record::write(self.blobs(), &self.keys.intent(new.id), &intent).await
    }
}

/// Stops the uploads when the stage is dropped.
#[derive(Debug)]
struct Stopper(Arc<PackUploads>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The intent is written; packs may come.
#[derive(Debug)]
pub struct PackStage {
    work: Work,
    opened: Option<Parent>,
    uploads: Stopper,
}

impl PackStage {
    /// The checkpoint whose packs may be shared, if there is one: its head and digests may be read for as long as the
    /// operation runs, whoever deletes it meanwhile.
    #[must_use]
    pub fn parent(&self) -> Option<&Manifest> {
        self.work.parent.as_ref()
    }

    /// The same, opened; only once.
    pub fn take_parent(&mut self) -> Option<Parent> {
        self.opened.take()
    }

    /// Where finished packs go. Its `accept` blocks the calling thread while eight packs are under way.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn PackSink> {
        Arc::new(Sink(Arc::clone(&self.uploads.0)))
    }

    /// Stops the uploads: whoever waits for room in the sink is told at once. The stage is good for nothing afterwards.
    pub fn give_up(&self) {
        self.uploads.0.cancel();
    }

    /// Waits until every pack that was accepted so far is durable. More may come.
    ///
    /// # Errors
    /// [`StoreError::Upload`] with the first failure.
    pub async fn settled(&self) -> Result<(), StoreError> {
        self.uploads.0.settled().await
    }

    /// Bytes of packs accepted so far.
    #[must_use]
    pub fn accepted_bytes(&self) -> u64 {
        self.uploads.0.bytes()
    }

    /// Waits until every accepted pack is durable. No more are accepted from now on.
    ///
    /// # Errors
    /// [`StoreError::Upload`] with the first failure.
    pub async fn close(self) -> Result<HeadStage, StoreError> {
        let packs = self.uploads.0.close().await?;
        self.work.age.check()?;
        Ok(HeadStage { work: self.work, packs })
    }
}

/// All packs are durable.
#[derive(Debug)]
pub struct HeadStage {
    work: Work,
    packs: BTreeMap<PackName, StoredPack>,
}

impl HeadStage {
    /// Writes the head.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn head(self, bytes: Vec<u8>) -> Result<ManifestStage, StoreError> {
        self.work.age.check()?;
        let object = Object::head(self.work.new.id, &bytes);
        let key = self.work.tenant.keys.object(&object.key)?;
        self.work.tenant.blobs().put(&key, bytes.into()).await?;
        Ok(ManifestStage { work: self.work, packs: self.packs, head: object })
    }
}

/// Packs and head are durable.
#[derive(Debug)]
pub struct ManifestStage {
    work: Work,
    packs: BTreeMap<PackName, StoredPack>,
    head: Object,
}

impl ManifestStage {
    /// The head as the manifest has to name it.
    #[must_use]
    pub fn head_object(&self) -> &Object {
        &self.head
    }

    /// Writes the manifest. It may name the head, packs of this checkpoint, and what the parent's manifest names;
    /// nothing else is sure to be kept.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if it names anything else or is of another checkpoint; the store does not answer.
    pub async fn manifest(self, manifest: &Manifest) -> Result<CommitStage, StoreError> {
        self.work.age.check()?;
        self.check(manifest)?;
        let key = self.work.tenant.keys.manifest(manifest.id);
        let bytes =
            manifest.encode().map_err(|source| StoreError::Image { key: key.clone(), source })?;
        self.work.tenant.blobs().put(&key, Bytes::from(bytes)).await?;
        Ok(CommitStage { work: self.work })
    }

    fn check(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let invalid = |why: String| StoreError::Invalid { what: "a manifest", why };
        let new = &self.work.new;
        let same = manifest.id == new.id
            && manifest.op == new.op
            && manifest.lineage == new.lineage
            && manifest.tenant == self.work.tenant.tenant;
        if !same {
            return Err(invalid("it is of another operation".to_owned()));
        }
        let parent = self.work.parent.as_ref();
        if manifest.parent.is_some() && manifest.parent != parent.map(|p| p.id) {
            return Err(invalid("its parent is not the one of the intent".to_owned()));
        }
        let inherited: BTreeSet<&str> =
            parent.into_iter().flat_map(|p| &p.objects).map(|o| o.key.as_str()).collect();
        let own: BTreeMap<String, StoredPack> =
            self.packs.iter().map(|(name, pack)| (name.to_string(), *pack)).collect();
        for object in &manifest.objects {
            let known = *object == self.head
                || inherited.contains(object.key.as_str())
                || own.get(&object.key)
                    == Some(&StoredPack { size: object.size, footer: object.digest });
            if !known {
                return Err(invalid(format!("{} is not what was stored", object.key)));
            }
        }
        Ok(())
    }
}

/// Everything but the entry in the log is durable.
#[derive(Debug)]
pub struct CommitStage {
    work: Work,
}

impl CommitStage {
    /// Which checkpoint it is.
    #[must_use]
    pub fn id(&self) -> CheckpointId {
        self.work.new.id
    }

    /// Whether the operation is older than T/2: then it may not append its entry any more.
    #[must_use]
    pub fn is_too_old(&self) -> bool {
        self.work.age.check().is_err()
    }

    /// Removes the intent: the entry is settled and commits the checkpoint.
    ///
    /// # Errors
    /// The store does not answer. The checkpoint is durable all the same; a later sweep removes the intent.
    pub async fn committed(self) -> Result<(), StoreError> {
        let intent = self.work.tenant.keys.intent(self.work.new.id);
        Ok(self.work.tenant.blobs().delete(&intent).await?)
    }
}

impl Absence {
    /// Whether waiting a little may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Doubted)
    }
}
