//! Retention: which checkpoints of a lineage are worth keeping. A pure plan; carrying it out only writes tombstones.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_types::{Bytes, CheckpointId, LineageName};
use jiff::Timestamp;
use serde::Deserialize;

use crate::checkpoint::{CheckpointRow, DeleteOptions};
use crate::error::StoreError;
use crate::store::TenantStore;

/// Limits for each lineage; a checkpoint beyond any of them goes. Whatever they say: what is held or being read stays, and so
/// does the point that the pod would be continued from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How many stay, the newest ones.
    pub keep_last: Option<usize>,
    /// How old the oldest may be, in seconds.
    pub max_age_seconds: Option<u64>,
    /// How many bytes their own objects may have together, the newest first.
    pub max_bytes: Option<u64>,
}

/// What carrying out a plan gave.
#[derive(Debug, Default)]
pub struct Retired {
    /// Deleted.
    pub deleted: Vec<CheckpointId>,
    /// Meant to be deleted, and refused.
    pub refused: Vec<(CheckpointId, StoreError)>,
}

impl Retention {
    /// The checkpoints that go, each with the reason for its tombstone.
    #[must_use]
    pub fn plan(&self, rows: &[CheckpointRow], now: Timestamp) -> Vec<(CheckpointId, String)> {
        let mut lineages: BTreeMap<&LineageName, Vec<&CheckpointRow>> = BTreeMap::new();
        for row in rows {
            lineages.entry(&row.manifest.lineage).or_default().push(row);
        }
        lineages.into_values().flat_map(|rows| self.plan_one(rows, now)).collect()
    }

    fn plan_one(
        &self,
        mut rows: Vec<&CheckpointRow>,
        now: Timestamp,
    ) -> Vec<(CheckpointId, String)> {
        rows.sort_by_key(|row| std::cmp::Reverse((row.manifest.created, row.manifest.id)));
        // The log's word: clocks of its nodes may differ.
        let good = rows.iter().filter_map(|row| Some((row.place?, row.manifest.id)));
        let goes_on = good.min().map(|(_, id)| id);
        let mut bytes = Bytes(0);
        let mut plan = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            bytes.0 += row.own.0;
            let spared = row.held || row.pins > 0 || Some(row.manifest.id) == goes_on;
            if let (Some(why), false) = (self.verdict(n, row, bytes, now), spared) {
                plan.push((row.manifest.id, why));
            }
        }
        plan
    }

    fn verdict(
        &self,
        n: usize,
        row: &CheckpointRow,
        bytes: Bytes,
        now: Timestamp,
    ) -> Option<String> {
        if let Some(keep) = self.keep_last.filter(|keep| n >= *keep) {
            return Some(format!("retention: the last {keep} are kept"));
        }
        let age = Duration::try_from(now.duration_since(row.manifest.created)).unwrap_or_default();
        if self.max_age_seconds.is_some_and(|max| age > Duration::from_secs(max)) {
            return Some("retention: too old".to_owned());
        }
        let max = self.max_bytes.filter(|max| bytes.0 > *max)?;
        Some(format!("retention: newer ones have {} together", Bytes(max)))
    }
}

impl TenantStore {
    /// Deletes what the limits say, one after the other. Without any limit it reads nothing.
    ///
    /// # Errors
    /// The store does not answer. A deletion that is refused is in the answer.
    pub async fn retire(&self, retention: &Retention) -> Result<Retired, StoreError> {
        let mut retired = Retired::default();
        if *retention == Retention::default() {
            return Ok(retired);
        }
        let (rows, _) = self.list().await?;
        for (id, why) in retention.plan(&rows, self.store.timestamp()) {
            let options = DeleteOptions { force: false, why };
            match self.delete_checkpoint(id, &options).await {
                Ok(()) => retired.deleted.push(id),
                Err(e @ (StoreError::DeleteRefused { .. } | StoreError::Absent { .. })) => {
                    retired.refused.push((id, e));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(retired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, committed, manifest, new_checkpoint};
    use crate::wrap::{Fault, Rule};

    fn row(hour: i64, place: Option<usize>) -> CheckpointRow {
        let mut manifest = manifest(&new_checkpoint(&[]), None, Vec::new());
        manifest.id = CheckpointId::from(hour as u128);
        manifest.created = Timestamp::from_second(hour * 3600).unwrap();
        let (shared, exclusive) = (Bytes(0), Bytes(100));
        CheckpointRow { manifest, place, held: false, pins: 0, own: Bytes(100), shared, exclusive }
    }

    fn planned(retention: &Retention, rows: &[CheckpointRow]) -> Vec<CheckpointId> {
        let now = Timestamp::from_second(10 * 3600).unwrap();
        let mut ids: Vec<_> = retention.plan(rows, now).into_iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    fn ids(hours: &[u128]) -> Vec<CheckpointId> {
        hours.iter().map(|h| CheckpointId::from(*h)).collect()
    }

    #[test]
    fn each_limit_takes_the_oldest() {
        let rows: Vec<_> = (1..=9).map(|h| row(h, Some(9 - h as usize))).collect();
        let none = Retention::default();
        assert_eq!(planned(&none, &rows), []);
        let last = Retention { keep_last: Some(7), ..none.clone() };
        assert_eq!(planned(&last, &rows), ids(&[1, 2]));
        let age = Retention { max_age_seconds: Some(7 * 3600), ..none.clone() };
        assert_eq!(planned(&age, &rows), ids(&[1, 2]));
        let bytes = Retention { max_bytes: Some(650), ..none };
        assert_eq!(planned(&bytes, &rows), ids(&[1, 2, 3]));
    }

    #[test]
    fn what_is_held_read_or_gone_on_from_stays() {
        let place = |h| (h <= 2).then(|| 2 - h as usize);
        let mut rows: Vec<_> = (1..=5).map(|h| row(h, place(h))).collect();
        rows[0].held = true;
        rows[2].pins = 1;
        let nothing = Retention { keep_last: Some(0), ..Retention::default() };
        assert_eq!(planned(&nothing, &rows), ids(&[4, 5]));
    }

    #[test]
    fn what_the_log_goes_on_from_stays_whatever_a_nodes_clock_has_said() {
        let rows = [row(7, Some(1)), row(2, Some(0)), row(1, Some(2))];
        let one = Retention { keep_last: Some(1), ..Retention::default() };
        assert_eq!(planned(&one, &rows), ids(&[1]));
        let young = Retention { max_age_seconds: Some(3600), ..Retention::default() };
        assert_eq!(planned(&young, &rows), ids(&[1, 7]));
    }

    #[tokio::test]
    async fn retiring_writes_tombstones_and_keeps_one_good() {
        let world = World::new().await;
        for _ in 0..3 {
            committed(&world.tenant, &[]).await;
        }
        world.faulty.add(Rule::new(Fault::Refuse));
        let unlimited = world.tenant.retire(&Retention::default()).await.unwrap();
        assert_eq!((unlimited.deleted.len(), unlimited.refused.len()), (0, 0), "it asks nothing");
        world.faulty.heal();
        let nothing = Retention { keep_last: Some(0), ..Retention::default() };
        let retired = world.tenant.retire(&nothing).await.unwrap();
        assert_eq!((retired.deleted.len(), retired.refused.len()), (2, 0));
        assert_eq!(world.tenant.list().await.unwrap().0.len(), 1);
    }
}
