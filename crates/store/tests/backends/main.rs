//! One suite, every backend: memory (the model), a directory, a real S3 server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)] // A test all through.

mod s3;
mod suite;

use std::sync::Arc;

use godwit_store::blob::SharedStore;
use godwit_store::blob::file::FileStore;
use godwit_store::blob::memory::MemoryStore;
use godwit_store::blob::s3::S3Store;
use godwit_store::{BlobStore as _, Store, StoreConfig, StoreError};

/// A backend, and what has to live as long as it.
struct Backend {
    store: SharedStore,
    _keep: Box<dyn std::any::Any>,
}

async fn memory() -> Backend {
    Backend { store: Arc::new(MemoryStore::new()), _keep: Box::new(()) }
}

async fn directory() -> Backend {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::open(dir.path(), godwit_store::Access::Create).unwrap());
    Backend { store, _keep: Box::new(dir) }
}

async fn bucket() -> Backend {
    let server = s3::Server::start().await;
    let store = Arc::new(S3Store::open(&server.config("suite")).await.unwrap());
    Backend { store, _keep: Box::new(server) }
}

macro_rules! every_backend {
    ($($case:ident,)*) => {
        every_backend!(@ memory $($case)*);
        every_backend!(@ directory $($case)*);
        every_backend!(@ bucket $($case)*);
    };
    (@ $backend:ident $($case:ident)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let backend = super::$backend().await;
                    super::suite::$case(backend.store.clone()).await;
                }
            )*
        }
    };
}

every_backend! {
    what_was_written_can_be_read_at_once,
    an_object_that_exists_is_not_created_again,
    of_many_racing_creates_exactly_one_wins_and_nobody_reads_a_part,
    a_replaced_object_is_never_seen_torn,
    a_range_gives_exactly_the_bytes_asked_for,
    an_object_larger_than_allowed_is_not_read,
    a_list_is_in_the_order_of_bytes_and_can_start_anywhere,
    a_list_of_more_than_a_page_is_complete,
    what_was_deleted_is_gone_and_can_be_created_again,
    creates_and_deletes_next_to_each_other_do_not_disturb,
    empty_and_large_objects_are_kept,
    every_allowed_character_makes_a_key,
    times_are_those_of_writing,
    a_dropped_create_leaves_a_whole_object_or_none,
}

#[tokio::test]
async fn a_store_is_opened_probed_and_recognised_on_every_backend() {
    let dir = tempfile::tempdir().unwrap();
    let server = s3::Server::start().await;
    let file = StoreConfig::from_url(&format!("file://{}", dir.path().display())).unwrap();
    for config in [file, server.config("opened")] {
        let first = Store::open(&config).await.unwrap();
        let second = Store::open(&config).await.unwrap();
        assert_eq!(first.identity(), second.identity());
        let left = godwit_store::blob::list_all(&**first.blobs(), "").await.unwrap();
        assert_eq!(left.len(), 1, "the probe cleans up: {left:?}");
    }
}

/// As a console makes a folder, which sorts before everything in it: `newest` of a log asks for one object.
#[tokio::test]
async fn what_others_put_into_a_bucket_hides_nothing_of_ours() {
    let server = s3::Server::start().await;
    let store = S3Store::open(&server.config("suite")).await.unwrap();
    for name in ["!1", "!2", "0!", "1 copy"] {
        server.plant(&format!("suite/log/{name}"));
    }
    for name in ["log/0", "log/1", "log/2"] {
        store.create(&suite::key(name), "x".into()).await.unwrap();
    }
    for limit in 1..5 {
        let listed = store.list("log/", None, limit).await.unwrap();
        let listed: Vec<&str> = listed.iter().map(|l| l.key.as_str()).collect();
        assert_eq!(listed, ["log/0", "log/1", "log/2"][..limit.min(3)]);
    }
    server.plant("suite/strange/!1");
    assert_eq!(store.list("strange/", None, 1).await.unwrap(), []);
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_bucket_are_refused_and_a_dead_server_is_unavailable() {
    use godwit_types::Code;
    let server = s3::Server::start().await;
    let mut wrong = server.config("x");
    wrong.secret_access_key = Some(godwit_store::Secret::new("wrong"));
    let mut nowhere = server.config("x");
    nowhere.url = "s3://no-such-bucket/x".parse().unwrap();
    for config in [wrong, nowhere] {
        let store = S3Store::open(&config).await.unwrap();
        let error = suite::error_of_create(&store).await;
        assert_eq!(error.map(|e| e.code()), Some(Code::Refused));
    }
    let config = server.config("x");
    drop(server);
    let store = S3Store::open(&config).await.unwrap();
    assert_eq!(suite::error_of_create(&store).await.map(|e| e.code()), None, "it is unknown");
    let read = godwit_store::BlobStore::get(&store, &suite::key("a"), 9).await;
    assert_eq!(read.map_err(|e| e.code()), Err(Code::Unavailable));
}

#[tokio::test]
async fn a_directory_that_is_not_a_store_is_made_one_only_by_who_may() {
    use godwit_store::Access;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let config = StoreConfig::from_url(&format!("file://{}", path.display())).unwrap();
    for access in [Access::Read, Access::Write] {
        let opened = Store::open_for(&config, access).await;
        assert!(matches!(opened, Err(StoreError::NotAStore { .. })));
        assert!(!path.exists(), "nothing is made");
    }
    Store::open_for(&config, Access::Create).await.unwrap();
    Store::open_for(&config, Access::Write).await.unwrap();
}

#[tokio::test]
async fn another_store_in_its_place_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("store"), dir.path().join("away"));
    let config = StoreConfig::from_url(&format!("file://{}", here.display())).unwrap();
    let store = Store::open(&config).await.unwrap();
    assert!(store.is_there().await.unwrap());
    std::fs::rename(&here, &away).unwrap();
    assert!(!store.is_there().await.unwrap());
    let other = Store::open(&config).await.unwrap();
    assert!(other.is_there().await.unwrap());
    assert!(!store.is_there().await.unwrap());
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    assert!(store.is_there().await.unwrap());
}

#[tokio::test]
async fn a_write_to_s3_has_time_by_its_length() {
    let server = s3::Server::start().await;
    let mut config = server.config("patience");
    // No time for anything but a body.
    config.request_timeout_seconds = Some(0);
    let store = S3Store::open(&config).await.unwrap();
    let key = suite::key("large");
    assert!(store.head(&key).await.is_err());
    store.put(&key, vec![7; 4 << 20].into()).await.unwrap();
}
