//! Lists of candidates: written now, believed after T, and only as far as a second mark agrees.

use std::collections::{BTreeMap, BTreeSet};

use godwit_ownership::sweep::doomed;
use godwit_types::CheckpointId;

use super::marks::Marks;
use super::{Sweep, SweepReport};
use crate::blob::{Key, Listed, list_all};
use crate::error::StoreError;
use crate::layout::Part;
use crate::record::{self, Candidates};

/// Objects deleted between two looks at the sweep's age.
const BATCH: usize = 100;
/// Keys in one list: it stays far below what is read at once.
const MAX_KEYS: usize = 100_000;

/// The lists of earlier sweeps.
#[derive(Debug, Default)]
struct Lists {
    /// Older than T, with what is on them.
    ripe: Vec<(Key, BTreeSet<Key>)>,
    /// On a list that is not.
    waiting: BTreeSet<Key>,
}

impl Sweep<'_> {
    /// Deletes what is doomed and lists what is new.
    pub(super) async fn collect(
        &self,
        marks: &Marks,
        report: &mut SweepReport,
    ) -> Result<(), StoreError> {
        let (unneeded, lists) = (marks.unneeded(), self.lists().await?);
        let deletable = marks.deletable();
        let mut gone = BTreeSet::new();
        for (_, listed) in &lists.ripe {
            gone.append(&mut doomed(listed, &deletable));
        }
        self.delete(marks, &mut gone, report).await?;
        let mut new: BTreeSet<Key> = unneeded.difference(&gone).cloned().collect();
        report.waiting = new.intersection(&lists.waiting).count();
        new.retain(|key| !lists.waiting.contains(key));
        report.listed = new.len();
        if self.options.dry_run {
            return Ok(());
        }
        self.write_list(new.into_iter().collect()).await?;
        for (list, _) in &lists.ripe {
            self.tenant.blobs().delete(list).await?;
        }
        Ok(())
    }

    async fn lists(&self) -> Result<Lists, StoreError> {
        let mut lists = Lists::default();
        let clock = self.tenant.keys.gc_clock();
        for listed in list_all(self.tenant.blobs(), &self.tenant.keys.gc()).await? {
            if listed.key == clock {
                continue;
            }
            let keys = self.read_list(&listed).await?;
            if self.tenant.is_young(&listed, self.now) {
                lists.waiting.extend(keys);
            } else {
                lists.ripe.push((listed.key, keys));
            }
        }
        Ok(lists)
    }

    /// What is on a list. One that is damaged says nothing: what was on it is listed again.
    async fn read_list(&self, listed: &Listed) -> Result<BTreeSet<Key>, StoreError> {
        match record::read::<Candidates>(self.tenant.blobs(), &listed.key).await {
            Ok(list) => Ok(list.map(|l| l.keys.into_iter().collect()).unwrap_or_default()),
            Err(error) if error.code() == godwit_types::Code::Corrupt => {
                tracing::warn!(%error, "a candidate list is passed over");
                Ok(BTreeSet::new())
            }
            Err(e) => Err(e),
        }
    }

    async fn write_list(&self, keys: Vec<Key>) -> Result<(), StoreError> {
        for (n, part) in keys.chunks(MAX_KEYS).enumerate() {
            let id = if n == 0 { self.id } else { ulid::Ulid::generate() };
            let list = Candidates { sweep: self.id, keys: part.to_vec() };
            record::write(self.tenant.blobs(), &self.tenant.keys.gc_list(id), &list).await?;
        }
        Ok(())
    }

    /// Deletes: of each checkpoint the manifest first and the tombstone last, and that only if nothing else stays. Removes
    /// the tombstones that have to stay from `gone`.
    async fn delete(
        &self,
        marks: &Marks,
        gone: &mut BTreeSet<Key>,
        report: &mut SweepReport,
    ) -> Result<(), StoreError> {
        for (id, found) in &marks.found {
            let tombstone = self.tenant.keys.tombstone(*id);
            let stays = |key: &Key| *key != tombstone && !gone.contains(key);
            if found.objects.iter().any(|(_, listed)| stays(&listed.key)) {
                gone.remove(&tombstone);
            }
        }
        let mut done = 0;
        for (_, objects) in self.in_order(marks, gone) {
            for listed in objects {
                if done % BATCH == 0 {
                    self.age.check()?;
                }
                done += 1;
                if !self.options.dry_run {
                    self.tenant.blobs().delete(&listed.key).await?;
                }
                report.deleted += 1;
                report.freed.0 += listed.size;
            }
        }
        Ok(())
    }

    fn in_order<'m>(
        &self,
        marks: &'m Marks,
        gone: &BTreeSet<Key>,
    ) -> BTreeMap<CheckpointId, Vec<&'m Listed>> {
        let rank = |part: &Part| match part {
            Part::Manifest => 0,
            Part::Tombstone => 2,
            _ => 1,
        };
        let mut all = BTreeMap::new();
        for (id, found) in &marks.found {
            let mut objects: Vec<_> =
                found.objects.iter().filter(|(_, l)| gone.contains(&l.key)).collect();
            objects.sort_by_key(|(part, _)| rank(part));
            all.insert(*id, objects.into_iter().map(|(_, l)| l).collect());
        }
        all
    }
}
