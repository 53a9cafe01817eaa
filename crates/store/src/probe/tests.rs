use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use godwit_types::Code;

use super::*;
use crate::blob::memory::MemoryStore;
use crate::blob::{Listed, SharedStore};
use crate::wrap::{Fault, Faulty, Operation, Rule};

/// The lies that real backends tell.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// `If-None-Match` is not known and ignored.
    CreateReplaces,
    /// Of racing creates, the last one wins and all are told that they did.
    RacesInCreate,
    /// A directory bucket: LIST in the order in which it likes.
    ListUnordered,
    /// A LIST that lags behind.
    ListMisses,
    /// `Range` is not known and ignored.
    RangeIgnored,
    /// Deletes are done some day.
    DeleteLater,
    /// Reads lag behind.
    ReadMisses,
}

#[derive(Debug)]
struct Liar {
    inner: MemoryStore,
    lie: Lie,
}

#[async_trait]
impl BlobStore for Liar {
    fn name(&self) -> &str {
        "liar://"
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        match self.lie {
            Lie::CreateReplaces => {}
            Lie::RacesInCreate => {
                let exists = self.inner.head(key).await?.is_some();
                tokio::task::yield_now().await;
                if exists {
                    return Ok(Creation::Exists);
                }
            }
            _ => return self.inner.create(key, body).await,
        }
        self.inner.put(key, body).await?;
        Ok(Creation::Created)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let key = if self.lie == Lie::ReadMisses { &Key::new("not-yet").unwrap() } else { key };
        self.inner.get(key, limit).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        if self.lie == Lie::RangeIgnored {
            return self.inner.get(key, u64::MAX).await;
        }
        self.inner.get_range(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let mut found = self.inner.list(prefix, after, limit).await?;
        match self.lie {
            Lie::ListUnordered => found.reverse(),
            Lie::ListMisses if found.len() > 1 => drop(found.pop()),
            _ => {}
        }
        Ok(found)
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        if self.lie == Lie::DeleteLater {
            return Ok(());
        }
        self.inner.delete(key).await
    }
}

#[tokio::test]
async fn every_lie_is_found_and_the_store_refused_by_name() {
    for lie in [
        Lie::CreateReplaces,
        Lie::RacesInCreate,
        Lie::ListUnordered,
        Lie::ListMisses,
        Lie::RangeIgnored,
        Lie::DeleteLater,
        Lie::ReadMisses,
    ] {
        let error = run(&Liar { inner: MemoryStore::new(), lie }).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsound { .. }), "{lie:?}: {error:?}");
        assert!(error.to_string().starts_with("liar:// cannot be used as a store: "), "{error}");
        assert_eq!(error.code(), Code::Refused);
    }
}

#[tokio::test]
async fn an_honest_store_passes_and_nothing_is_left_in_it() {
    let store = MemoryStore::new();
    run(&store).await.unwrap();
    assert_eq!(store.list("", None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_not_called_a_liar() {
    for operation in [Operation::Create, Operation::List, Operation::GetRange, Operation::Delete] {
        let faulty = Faulty::new(Arc::new(MemoryStore::new()) as SharedStore);
        faulty.add(Rule::new(Fault::Fail).on(operation).always());
        let error = run(&faulty).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{operation:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_clock_is_compared_and_nothing_is_left_behind() {
    let store = MemoryStore::new();
    let ours = crate::clock::SystemClock;
    assert_eq!(ahead(&store, &ours).await.unwrap(), SignedDuration::ZERO);
    // This one stands long ago.
    let behind = crate::clock::ManualClock::new();
    assert!(ahead(&store, &behind).await.unwrap() > SignedDuration::from_hours(24));
    assert!(store.list("", None, 10).await.unwrap().is_empty());
}

#[test]
fn whole_seconds_are_no_difference() {
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    assert_eq!(outside(at(5_000), at(5_900), at(5_950)), SignedDuration::ZERO);
    assert_eq!(outside(at(6_000), at(5_100), at(5_150)), SignedDuration::ZERO);
    assert_eq!(outside(at(9_000), at(5_900), at(6_000)), SignedDuration::from_secs(2));
    assert_eq!(outside(at(1_000), at(5_000), at(6_000)), SignedDuration::from_secs(-3));
}
