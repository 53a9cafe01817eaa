use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use godwit_types::Code;

use super::*;
use crate::blob::{Creation, Key, Listed};
use crate::clock::ManualClock;
use crate::error::BlobError;
use crate::wrap::{Fault, Faulty, Operation, Rule};

/// A gateway that forgets `If-None-Match` when it is told to.
#[derive(Debug, Default)]
struct Gateway {
    inner: MemoryStore,
    lies: AtomicBool,
}

#[async_trait]
impl BlobStore for Gateway {
    fn name(&self) -> &str {
        "gateway://"
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        if !self.lies.load(Ordering::Relaxed) {
            return self.inner.create(key, body).await;
        }
        self.inner.put(key, body).await.map(|()| Creation::Created)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        self.inner.get(key, limit).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.inner.get_range(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.inner.delete(key).await
    }
}

struct Scene {
    gateway: Arc<Gateway>,
    faulty: Arc<Faulty>,
    counts: Arc<Counts>,
}

impl Scene {
    /// A store that was made, and holds one object.
    async fn new() -> Self {
        let gateway = Arc::new(Gateway::default());
        let faulty = Arc::new(Faulty::new(Arc::clone(&gateway) as SharedStore));
        let scene = Self { gateway, faulty, counts: Arc::default() };
        let made = scene.open(Access::Create).await;
        made.blobs().create(&key(), "first".into()).await.unwrap();
        scene
    }

    async fn open(&self, access: Access) -> Store {
        let metered = Meter::new(Arc::clone(&self.faulty) as SharedStore, Arc::clone(&self.counts));
        let (blobs, clock) = (Arc::new(metered), Arc::new(ManualClock::new()));
        let opened = Store::identified(blobs, access, Arc::default(), clock, DEFAULT_HORIZON);
        opened.await.unwrap()
    }

    fn takes_no_writes(&self) {
        for write in [Operation::Create, Operation::Put] {
            self.faulty.add(Rule::new(Fault::Refuse).on(write).always());
        }
    }

    fn requests(&self) -> u64 {
        self.counts.all().requests
    }
}

fn key() -> Key {
    Key::new("t/_node/key").unwrap()
}

async fn create(store: &Store) -> Result<Creation, BlobError> {
    store.blobs().create(&key(), "second".into()).await
}

#[tokio::test]
async fn a_store_that_could_not_be_probed_is_read_and_probed_before_it_is_written_to() {
    let scene = Scene::new().await;
    scene.takes_no_writes();
    let store = scene.open(Access::Write).await;
    assert_eq!(store.blobs().get(&key(), 99).await.unwrap(), "first");
    assert!(matches!(create(&store).await, Err(BlobError::Denied { .. })));
    // Writes work again, behind a gateway that ignores the condition: it would replace what is there.
    scene.faulty.heal();
    scene.gateway.lies.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = create(&store).await.unwrap_err();
        assert_eq!(refused.code(), Code::Refused);
        assert!(refused.to_string().contains("If-None-Match"), "{refused}");
        let put = store.blobs().put(&key(), "second".into()).await;
        assert!(matches!(put, Err(BlobError::Unsound { .. })), "{put:?}");
        let delete = store.blobs().delete(&key()).await;
        assert!(matches!(delete, Err(BlobError::Unsound { .. })), "{delete:?}");
    }
    assert_eq!(store.blobs().get(&key(), 99).await.unwrap(), "first");
    // All clones are of one store: one probe that passes is enough for them.
    scene.gateway.lies.store(false, Ordering::Relaxed);
    assert_eq!(create(&store.clone()).await.unwrap(), Creation::Exists);
    let before = scene.requests();
    assert_eq!(create(&store).await.unwrap(), Creation::Exists);
    assert_eq!(scene.requests(), before + 1);
}

#[tokio::test]
async fn what_is_deleted_makes_room_in_a_store_that_takes_no_writes() {
    let scene = Scene::new().await;
    scene.takes_no_writes();
    let store = scene.open(Access::Write).await;
    store.blobs().delete(&key()).await.unwrap();
    assert_eq!(store.blobs().head(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_was_probed_is_not_probed_again() {
    let scene = Scene::new().await;
    let store = scene.open(Access::Write).await;
    let before = scene.requests();
    assert_eq!(create(&store).await.unwrap(), Creation::Exists);
    assert_eq!(scene.requests(), before + 1);
}
